"""Builds labelled datasets from files or reviews. This is where the second journey starts."""
