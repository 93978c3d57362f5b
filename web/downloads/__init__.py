"""Downloads: results and model packages."""
