"""The first journey: from an upload to a prediction of every slice."""
