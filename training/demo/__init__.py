"""The demo model and the demo archive, made of phantoms."""
