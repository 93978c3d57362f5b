"""Health, readiness and metrics for monitoring. They name hosts, engines and model versions, not people or files."""
