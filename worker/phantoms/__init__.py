"""Draws synthetic patients: chest CT slices that belong to nobody, with their true labels."""
