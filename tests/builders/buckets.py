"""A bucket in memory whose server can be unreachable, with the errors of s3fs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from botocore.exceptions import EndpointConnectionError
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """A store in memory. While `is_away`, its calls raise what s3fs raises for a server that does not answer."""

    protocol = "bucket"
    is_away = False


def _call(name: str) -> Callable[..., Any]:
    def call(bucket: Bucket, *args: Any, **options: Any) -> Any:
        if Bucket.is_away:
            raise EndpointConnectionError(endpoint_url="http://bucket.invalid")
        return getattr(MemoryFileSystem, name)(bucket, *args, **options)

    return call


for _name in (
    "cat_file", "cp_file", "exists", "find", "get_file", "glob", "info", "ls", "makedirs", "mv", "pipe_file",
    "put_file", "rm_file",
):  # fmt: skip
    setattr(Bucket, _name, _call(_name))
fsspec.register_implementation("bucket", Bucket, clobber=True)


@contextmanager
def bucket_away() -> Iterator[None]:
    """Let no bucket answer meanwhile."""
    Bucket.is_away = True
    try:
        yield
    finally:
        Bucket.is_away = False
