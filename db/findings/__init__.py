"""Findings: the verdicts on the series, studies and patients of a job, by a named rule."""
