"""The patients, studies and series of a job: their rows, the order of their slices, notes and conflicts."""
