"""Celery workers: archives become slices, slices become predictions."""
