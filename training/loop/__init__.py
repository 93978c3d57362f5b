"""The training loop: stages, epochs, checkpoints."""
