"""Requests whose file parts stream to storage while they arrive."""

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar, cast

from flask import Request as FlaskRequest
from flask import current_app
from werkzeug.exceptions import BadRequest, UnsupportedMediaType
from werkzeug.formparser import FormDataParser

from db.database import read_scope
from db.installation import check_storage
from db.storage import Receiver, StoredFile, storage
from web.security.auth import check_again

MAX_OTHER_BODY_BYTES = 1024 * 1024
_TAKES_FILES, _SENDS_FILES = "_takes_files", "_sends_files"

View = TypeVar("View", bound=Callable[..., Any])


def takes_files(view: View) -> View:
    """Let the requests of a view carry files, up to the limit of uploads. Other views do not accept files."""
    setattr(view, _TAKES_FILES, None)
    return view


def takes_files_of(most: int) -> Callable[[View], View]:
    """Let the requests of a view carry files of at most `most` bytes."""

    def decorate(view: View) -> View:
        setattr(view, _TAKES_FILES, most)
        return view

    return decorate


def sends_files(view: View) -> View:
    """Mark a view whose answers may be as long as a file.

    Such a view may wait for slow clients. So it runs on the threads for transfers, not on the threads for pages.
    """
    setattr(view, _SENDS_FILES, True)
    return view


def carries_files(view: Callable[..., Any]) -> bool:
    """Return whether the requests or the answers of a view may carry files."""
    return hasattr(view, _TAKES_FILES) or hasattr(view, _SENDS_FILES)


class PartStream:
    """The stream that Werkzeug's parser writes a file part into. The parser calls `seek(0)` when the part has ended."""

    def __init__(self) -> None:
        self._receiver: Receiver = storage().receive()
        self.received: StoredFile | None = None

    @property
    def path(self) -> Path:
        """Return the temporary file on this machine that holds the part."""
        return self._receiver.path

    def write(self, data: bytes) -> int:
        """Hash the data and write it. Raises OSError (ENOSPC) when the disk is full."""
        return self._receiver.write(data)

    def seek(self, offset: int) -> int:
        """Make the part durable and close its file, so that a thousand parts do not need a thousand open files."""
        if self.received is None:
            self.received = self._receiver.finish()
        return offset

    def publish(self) -> None:
        """Keep the file. From now on, storage finds it by its SHA-256."""
        self._receiver.publish()

    def close(self) -> None:
        """Do nothing. The request decides at its end whether the file is kept."""

    def abort(self) -> None:
        """Remove the part unless it was published."""
        try:
            self._receiver.abort()
        except OSError:  # closing flushes the buffer, which fails again on a full disk
            self.path.unlink(missing_ok=True)


class Request(FlaskRequest):
    """A request whose file parts stream to storage if its view takes files, and are refused otherwise."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parts: list[PartStream] = []

    @property
    def _takes_files(self) -> bool:
        return hasattr(self._view, _TAKES_FILES)

    @property
    def _view(self) -> object:
        return current_app.view_functions.get(self.endpoint or "")

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        if not self._takes_files:
            raise BadRequest("This address does not take files. Send the request without them.")
        if not self.parts:
            with read_scope() as s:
                check_storage(s)  # if a volume is not mounted, its empty folder must not receive files
        part = PartStream()
        self.parts.append(part)
        return cast(IO[bytes], part)  # the parser only writes and seeks, so the part need not be readable

    @property
    def max_content_length(self) -> int | None:
        """Return the largest body in bytes: the limit for files if the view takes files, or else a small limit."""
        if not self._takes_files:
            return MAX_OTHER_BODY_BYTES
        upload_cap: int = current_app.config["MAX_UPLOAD_BYTES"]
        most: int | None = getattr(self._view, _TAKES_FILES)
        return upload_cap if most is None else min(upload_cap, most + MAX_OTHER_BODY_BYTES)

    @max_content_length.setter
    def max_content_length(self, value: int | None) -> None:
        raise AttributeError("the body cap follows from the address")

    def make_form_data_parser(self) -> FormDataParser:
        parser = super().make_form_data_parser()
        parser.silent = False  # a malformed body must not look like an empty form
        return parser

    def _load_form_data(self) -> None:
        if self._takes_files:
            storage().check_disk(self.content_length or 0)
        try:
            super()._load_form_data()
        except ValueError as error:
            raise BadRequest("The body is not a well-formed multipart/form-data body.") from error
        if self._takes_files:
            with read_scope() as s:
                check_again(s)

    def on_json_loading_failed(self, e: ValueError | None) -> NoReturn:
        """Refuse a body that is not JSON. Raises werkzeug's UnsupportedMediaType and BadRequest."""
        if not self.is_json:
            raise UnsupportedMediaType("The body must be JSON. Send it with Content-Type: application/json.")
        raise BadRequest("The body is not well-formed JSON.") from e

    def close(self) -> None:
        """Remove the parts that were not published, however the request ended."""
        for part in self.parts:
            part.abort()
        super().close()
