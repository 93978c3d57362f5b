"""What a user takes away: results and model packages."""
