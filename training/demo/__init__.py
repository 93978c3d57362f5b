"""Makes the demo model and the demo archive from phantoms."""
