"""The Flask front end: API, pages, sign-in."""
