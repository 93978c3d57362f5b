"""The findings part of a job's page: patients with their series, and the probability along each series."""
