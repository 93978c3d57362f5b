"""From paths to the parts that are sent."""
