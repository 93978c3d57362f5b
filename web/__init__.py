"""The Flask application: API, pages, sign-in."""
