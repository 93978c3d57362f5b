"""Prepares and launches training runs. Nothing here needs TensorFlow."""
