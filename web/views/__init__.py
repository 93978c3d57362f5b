"""The pages. Each module with routes is a blueprint. Its views are thin, and use `db`."""
