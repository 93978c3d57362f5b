"""Schemas of the API. The forms of the pages are checked with the same schemas."""
