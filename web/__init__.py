"""The Flask application: the API, the pages and signing in."""
