"""From a dataset's slices to batches."""
