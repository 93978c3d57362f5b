"""A bucket in memory whose server can be unreachable, with the errors of s3fs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from botocore.exceptions import ClientError, EndpointConnectionError
from fsspec.implementations.memory import MemoryFileSystem
from s3fs.errors import translate_boto_error


class Bucket(MemoryFileSystem):
    """A store in memory. While `refusal` is an error of botocore, its calls raise what s3fs makes of it.

    `refused`: the calls that raise it.
    """

    protocol = "bucket"
    refusal: Exception | None = None
    refused: tuple[str, ...] = ()


def _call(name: str) -> Callable[..., Any]:
    def call(bucket: Bucket, *args: Any, **options: Any) -> Any:
        if Bucket.refusal is not None and name in Bucket.refused:
            raise translate_boto_error(Bucket.refusal)
        return getattr(MemoryFileSystem, name)(bucket, *args, **options)

    return call


CALLS = (
    "cat_file", "cp_file", "exists", "find", "get_file", "glob", "info", "ls", "makedirs", "mv", "pipe_file",
    "put_file", "rm_file",
)  # fmt: skip
for _name in CALLS:
    setattr(Bucket, _name, _call(_name))
fsspec.register_implementation("bucket", Bucket, clobber=True)


@contextmanager
def bucket_away(code: str | None = None, calls: tuple[str, ...] = CALLS) -> Iterator[None]:
    """Let no bucket answer meanwhile, or let it refuse calls with this code of S3."""
    away = EndpointConnectionError(endpoint_url="http://bucket.invalid")
    refused = ClientError({"Error": {"Code": code, "Message": "of Meier's bucket"}}, "HeadObject") if code else None
    Bucket.refusal, Bucket.refused = refused or away, calls
    try:
        yield
    finally:
        Bucket.refusal = None
