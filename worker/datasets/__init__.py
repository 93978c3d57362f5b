"""The second journey's start: from files or reviews to a labelled dataset."""
