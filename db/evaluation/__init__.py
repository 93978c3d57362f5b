"""Evaluations of model versions, comparisons, and the gate before a promotion."""
