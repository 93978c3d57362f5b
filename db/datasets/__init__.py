"""Datasets: labelled slices, and the reviews they may come from."""
