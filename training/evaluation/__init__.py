"""Metrics, calibration, and evaluations of model versions."""
