"""The patients, studies and series of a job: their rows, the order of their slices, and what is odd or in conflict."""
