"""Health, readiness and metrics for monitoring. They name hosts, engines and model versions, never people or files."""
