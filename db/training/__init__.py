"""Training as the database knows it: runs, splits, leaks and lineage."""
