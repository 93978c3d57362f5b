"""`ctbatch models` and what belongs to it."""
