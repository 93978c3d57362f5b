"""The errors of stored files."""


class FileMissing(Exception):
    """Storage does not hold a file of this SHA-256: it was lost or removed."""


class FileDamaged(Exception):
    """The bytes of a file do not have the SHA-256 that is its name."""
