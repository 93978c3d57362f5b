"""Benchmarks of training: speed of a stage, and quality of whole runs."""
