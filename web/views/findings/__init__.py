"""The findings on a job's page: patients with their series, and the probabilities along each series."""
