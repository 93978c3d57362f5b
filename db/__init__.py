"""What all processes share: settings, the database, stored files and messages."""

MAX_INTEGER = 2**31 - 1
"""The largest value of an INTEGER column in PostgreSQL."""
