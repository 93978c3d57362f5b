"""What a user does, the same for the API and the pages."""
