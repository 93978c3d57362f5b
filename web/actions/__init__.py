"""Actions of users, the same for the API and the pages."""
