"""The commands of `ctbatch users` and `ctbatch tokens`."""
