"""The errors of stored files, and of the file systems that hold them."""

import errno
import re
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
    the server, and the others have no number. For a refusal of the server, s3fs raises OSErrors with many numbers, also
    with those of a fault in the program. The new error has the number EREMOTEIO. Its text is the server's code, such as
    ExpiredToken, or the name of the old error, because the old text may name a server or a file. Errors of this
    machine's disk do not change. A FileNotFoundError changes only if the bucket does not exist.
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
                code = _code_of(error)
                is_local = isinstance(error, OSError) and error.errno is not None and code is None
                if is_local or (isinstance(error, FileNotFoundError) and code != "NoSuchBucket"):
                    raise
                text = type(error).__name__ if code is None else f"the object store answers {code}"
                raise OSError(errno.EREMOTEIO, text) from error

        return call


def _code_of(error: Exception) -> str | None:
    """Return the code of S3 in the cause of an error of s3fs, or None if S3 did not answer."""
    response = getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return None
    code = str(response.get("Error", {}).get("Code", ""))
    return code if re.fullmatch("[A-Za-z0-9]{1,50}", code) else "with an unknown error"
