"""Celery workers. They turn archives into slices, and slices into predictions."""
