"""Decodes the bytes of a file to pixels."""
