"""Opens the file system of a storage. Calls to an S3 server that does not answer end with an error."""

import os
from typing import Any

import fsspec

TRIES = 2  # by s3fs; each of them is BOTO_TRIES requests, and each request waits 15 seconds for an answer
BOTO_TRIES = 3
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def open_fs(url: str) -> tuple[Any, str]:
    """Return the file system of a path or a URL of fsspec, and the path in it.

    A call to S3 without an answer raises an error after about a minute and a half. By default, reading would take six
    minutes, and writing would wait for ever: it first asks if the server accepts the bytes (`Expect: 100-continue`),
    and no time limit applies to this.
    """
    is_s3 = fsspec.core.split_protocol(url)[0] in ("s3", "s3a")
    # No cache of listings, because another machine may store or remove a file at any time.
    fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **(_s3_options() if is_s3 else {}))
    if is_s3:
        fs.retries = TRIES
    return fs, root


def _s3_options() -> dict[str, Any]:
    from aiobotocore.session import AioSession  # takes half a second
    from botocore.handlers import add_expect_header

    for name in SECRETS:  # a key from a file often ends with a line break, which no header of HTTP may hold
        if name in os.environ:
            os.environ[name] = os.environ[name].strip()
    session = AioSession()
    session.unregister("before-call.s3", add_expect_header)
    return {"session": session, "config_kwargs": {"retries": {"total_max_attempts": BOTO_TRIES}}}
