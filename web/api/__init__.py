"""The JSON API, version 1, under `/api/v1`. Its description is at `/api/v1/openapi.json`."""

PREFIX = "/api/v1"
