"""Datasets: labelled slices, and the reviews from which they may be made. Jobs are deleted here too."""
