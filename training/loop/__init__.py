"""The training loop, with its stages, epochs and checkpoints."""
