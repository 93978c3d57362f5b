"""The `ctbatch` command."""
