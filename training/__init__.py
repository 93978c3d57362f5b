"""From a labelled dataset to a model version."""
