"""What the API takes and gives; the pages' forms take the same."""
