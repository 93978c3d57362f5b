"""Benchmarks of training: the speed of a stage, and the quality of whole runs."""
