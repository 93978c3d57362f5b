"""Decoding in child processes that can do nothing else."""
