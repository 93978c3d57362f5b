"""Reads the entries of archives as a stream, within limits."""
