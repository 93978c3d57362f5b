"""Runs a crowd of slow clients for benchmarks. Some only hold connections open, some upload slowly or read slowly."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

TICK_SECONDS = 0.05
UPLOAD_BYTES = 256 * 1024 * 1024
TICK_BYTES = bytes(int(2_000_000 / 8 * TICK_SECONDS))
LONG_ANSWER = "/static/vendor/swagger-ui/swagger-ui-bundle.js"  # 1.4 MB


@dataclass(frozen=True)
class Target:
    """A server, and the token of a user. TLS certificates are not checked, because the server is on this machine."""

    url: str
    token: str

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        """Return a new connection. Raises OSError."""
        parts = urlsplit(self.url)
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.settimeout(5)
        plain.connect((parts.hostname, parts.port))
        return unchecked().wrap_socket(plain) if parts.scheme == "https" else plain

    def head(self, line: str, *fields: str) -> bytes:
        """Return the head of a request: the request line, the user's token and other header fields."""
        fields = ("Host: localhost", f"Authorization: Bearer {self.token}", *fields)
        return "\r\n".join((f"{line} HTTP/1.1", *fields, "", "")).encode()


@cache
def unchecked() -> ssl.SSLContext:
    """Return a TLS context that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Member:
    """One client. If the server ends the connection, the client connects again."""

    receive_buffer = 0

    def __init__(self, target: Target) -> None:
        """Keep the target. The client connects at its first tick."""
        self.target = target
        self.connection: socket.socket | None = None

    def tick(self) -> None:
        """Do what this client does every 50 ms."""
        try:
            if self.connection is None:
                self.connection = self.target.connect(self.receive_buffer)
                self.connection.sendall(self.greeting())
                self.connection.setblocking(False)
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self.act(self.connection)
        except OSError:
            self.close()

    def greeting(self) -> bytes:
        """Return the bytes to send right after connecting."""
        return b""

    def act(self, connection: socket.socket) -> None:
        """Read one byte. Raises OSError if the server has closed the connection."""
        if not connection.recv(1):
            raise ConnectionError

    def close(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class HalfAHead(Member):
    """A client that sends only the beginning of a request."""

    def greeting(self) -> bytes:
        """Return the beginning of a request's head."""
        return b"GET /jobs HTTP/1.1\r\nHost: local"


class SlowUpload(Member):
    """A client that submits a file at 2 Mbit/s."""

    def greeting(self) -> bytes:
        """Return the head of the request, and the head of its file part."""
        head = self.target.head(
            "POST /api/v1/jobs",
            f"Content-Length: {UPLOAD_BYTES}",
            "Content-Type: multipart/form-data; boundary=x",
        )
        return head + b'--x\r\nContent-Disposition: form-data; name="files"; filename="1.zip"\r\n\r\nPK\3\4'

    def act(self, connection: socket.socket) -> None:
        """Send the bytes of one tick."""
        connection.send(TICK_BYTES)


class SlowReader(Member):
    """A client that asks for a long answer and reads it byte by byte."""

    receive_buffer = 4096

    def greeting(self) -> bytes:
        """Return the request."""
        return self.target.head(f"GET {LONG_ANSWER}")


@contextmanager
def crowd(target: Target, idle: int, uploads: int, readers: int) -> Iterator[None]:
    """Let a crowd of clients use a server during the block.

    Half of the idle clients send nothing. The others send the beginning of a request.
    """
    members: list[Member] = [kind(target) for kind in (Member, HalfAHead) for _ in range(idle // 2)]
    members += [SlowUpload(target) for _ in range(uploads)] + [SlowReader(target) for _ in range(readers)]
    stop, all_there = threading.Event(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            for member in members:
                member.tick()
            all_there.set()
            time.sleep(TICK_SECONDS)
        for member in members:
            member.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        all_there.wait()
        time.sleep(1)  # until the server has accepted all connections
        yield
    finally:
        stop.set()
        thread.join()
