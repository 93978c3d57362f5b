"""Compresses answers that are text with gzip, if the client accepts it.

The size of a compressed page can reveal a secret in it if an attacker can put text into the same page (BREACH). The
only secret that stays on pages is the CSRF token, which `web.security.csrf` masks anew in every answer. A new API token
is shown only once, so an attacker cannot guess it by repeated requests.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from http import HTTPStatus

from flask import Flask, Response, request

TYPES = frozenset(
    {
        "text/html",
        "text/css",
        "text/csv",
        "text/javascript",
        "text/markdown",
        "application/json",
        "application/problem+json",
        "image/svg+xml",
    }
)
SMALLEST = 500  # bytes; a smaller answer fits into one packet anyway
LEVEL = 6  # of 9; level 9 takes twice the time and saves only 1 %
GZIP = 16 + zlib.MAX_WBITS
_packed_files: dict[tuple[str, str | None], bytes] = {}  # at most one entry for each static file
WITHOUT_BODY = frozenset({204, 206, 304})


def install(app: Flask) -> None:
    """Compress the answers of the application. Install this before other handlers. Flask calls the first one last."""
    app.after_request(compress)


def compress(response: Response) -> Response:
    """Compress the answer in place: whole, or piece by piece if it is streamed."""
    if response.mimetype not in TYPES:
        return response
    response.vary.add("Accept-Encoding")
    if not request.accept_encodings["gzip"] or response.status_code in WITHOUT_BODY or response.content_encoding:
        return response
    if response.direct_passthrough:  # a static file
        response.direct_passthrough = False
        response.make_sequence()
    if request.endpoint == "static" and response.status_code == HTTPStatus.OK:
        response.set_data(_packed_file(request.path, response))
    elif response.is_streamed:
        response.response = _pieces(response.iter_encoded())
    elif len(response.get_data()) < SMALLEST:
        return response
    else:
        response.set_data(gzip.compress(response.get_data(), LEVEL, mtime=0))
    response.content_encoding = "gzip"
    etag, _ = response.get_etag()
    if etag is not None:  # the bytes differ but the contents do not, so the tag is weak (RFC 9110, section 8.8.1)
        response.set_etag(etag, weak=True)
    return response


def _packed_file(path: str, response: Response) -> bytes:
    """Return a static file compressed. A process compresses it only once, unless the file changes."""
    key = (path, response.get_etag()[0])
    if key not in _packed_files:
        _packed_files[key] = gzip.compress(response.get_data(), LEVEL, mtime=0)
    return _packed_files[key]


def _pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(LEVEL, wbits=GZIP)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()
