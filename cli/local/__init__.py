"""What acts on the database of this machine's settings."""
