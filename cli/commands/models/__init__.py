"""The commands of `ctbatch models`, and `ctbatch tune`."""
