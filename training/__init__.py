"""Training: makes a model version from a labelled dataset."""
