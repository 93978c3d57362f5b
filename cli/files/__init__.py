"""Turns paths into the parts of a request."""
