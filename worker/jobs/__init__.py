"""The first journey: turns an upload into predictions of its slices."""
