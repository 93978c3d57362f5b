"""What is decided before a run starts; nothing here needs TensorFlow."""
