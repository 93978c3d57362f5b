"""Decodes files in child processes that cannot do anything else."""
