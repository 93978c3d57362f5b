"""Schemas of the API. The forms of the pages are checked by the same."""
