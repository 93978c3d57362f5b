"""Makes a model package from a trained network."""
