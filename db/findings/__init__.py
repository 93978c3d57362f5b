"""Findings: verdicts by a named rule on the series, studies and patients of a job."""
