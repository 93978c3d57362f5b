"""The errors of stored files."""


class FileMissing(Exception):
    """Storage does not have the file with this SHA-256. It was lost or removed."""


class FileDamaged(Exception):
    """The bytes of a file do not have the SHA-256 in its name."""
