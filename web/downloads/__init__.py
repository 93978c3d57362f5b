"""Makes downloads: results and model packages."""
