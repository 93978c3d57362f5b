"""Makes the report and the model card of a version."""
