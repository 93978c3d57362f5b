"""Counts the processor time of each stage in each process, and sums it in the database."""
