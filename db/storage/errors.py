"""The errors of stored files, and of the file systems that hold them."""

import errno
from functools import wraps
from typing import Any


class FileMissing(Exception):
    """Storage does not have the file with this SHA-256. It was lost or removed."""


class FileDamaged(Exception):
    """The bytes of a file do not have the SHA-256 in its name."""


class FileUnreadable(FileDamaged):
    """The disk cannot read a block of a file. It may be able to later."""


class RaisingOSError:
    """A file system of fsspec whose calls raise no other errors than OSError.

    s3fs passes on botocore's errors when a server cannot be reached. Most are not OSErrors, so nobody would wait for
    the server, and the others have no number. The new error has only the name of the old one, because the old text may
    name a server. Its number is EREMOTEIO. An error that s3fs does not know has the number EIO.
    """

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._fs, name)
        if not callable(member):
            return member

        @wraps(member)
        def call(*args: Any, **options: Any) -> Any:
            try:
                return member(*args, **options)
            except Exception as error:
                if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno is not None):
                    raise
                raise OSError(errno.EREMOTEIO, type(error).__name__) from error

        return call
