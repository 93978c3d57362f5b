"""What runs the network: one small interface, one module an engine."""
