"""A multipart/form-data body (RFC 7578) of known length that is read from disk as it is sent, and can be sent again.

Not httpx's own `files=`: httpx 0.28.1 encodes file names strictly, so that it fails on a name that is not UTF-8
(`b"\\xff.png"`, on a Linux disk), and it doubles the backslashes in a name.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence

from cli.files.parts import Part

PIECE = 256 * 1024


class MultipartBody:
    """The body of a submission; iterating it again sends the same bytes again."""

    def __init__(self, fields: Mapping[str, str], parts: Sequence[Part]) -> None:
        """Keep the form fields, sent first, and the `files` parts."""
        self.boundary = secrets.token_hex(16)
        self._fields = dict(fields)
        self._parts = list(parts)
        self.sent: Callable[[int], None] = lambda _count: None  # told how many bytes have gone so far

    @property
    def headers(self) -> dict[str, str]:
        """The headers that describe the body."""
        return {
            "Content-Type": f"multipart/form-data; boundary={self.boundary}",
            "Content-Length": str(len(self)),
        }

    def __len__(self) -> int:
        """Return the length in bytes."""
        heads = sum(len(self._field(name, value)) for name, value in self._fields.items())
        files = sum(len(self._head(part)) + part.size + 2 for part in self._parts)
        return heads + files + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body, telling `sent` of each piece."""
        done = 0
        for piece in _in_larger_pieces(self._pieces()):
            yield piece
            done += len(piece)
            self.sent(done)

    def _pieces(self) -> Iterator[bytes]:
        for name, value in self._fields.items():
            yield self._field(name, value)
        for part in self._parts:
            yield self._head(part)
            yield from part
            yield b"\r\n"
        yield self._end

    @property
    def _end(self) -> bytes:
        return f"--{self.boundary}--\r\n".encode()

    def _field(self, name: str, value: str) -> bytes:
        head = f'--{self.boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        return head.encode() + _text(value) + b"\r\n"

    def _head(self, part: Part) -> bytes:
        head = f'--{self.boundary}\r\nContent-Disposition: form-data; name="files"; filename="'.encode()
        return head + _quoted(part.filename) + b'"\r\nContent-Type: application/octet-stream\r\n\r\n'


def _in_larger_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join what comes to pieces of `PIECE` bytes or more: a TAR of tiny files would be sent in tiny packets."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= PIECE:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _text(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def _quoted(filename: str) -> bytes:
    """Return a file name for a header, its quotes and line breaks percent-encoded as the HTML standard says."""
    return _text(filename).replace(b'"', b"%22").replace(b"\r", b"%0D").replace(b"\n", b"%0A")
