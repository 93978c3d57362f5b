"""Code of the commands that open the database directly."""
