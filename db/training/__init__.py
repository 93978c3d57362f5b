"""The part of training that depends only on the database: runs, splits, leaks and lineage."""
