"""Synthetic patients: chest CT slices that belong to nobody, with their truth."""
