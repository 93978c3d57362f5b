"""Makes batches from the slices of a dataset."""
