"""`ctbatch users` and `ctbatch tokens`."""
