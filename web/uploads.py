"""Receiving a submission: parts stream to storage while they arrive, and none stays unless all are good."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from flask import Request as FlaskRequest
from flask import current_app, request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import BadRequest
from werkzeug.formparser import FormDataParser

from db.jobs import PRIORITIES, ReceivedFile
from db.settings import Settings
from db.storage import Received, Receiver, storage
from web.errors import Problem, refused_archive
from worker.imaging.archive import Limits, inspect_archive
from worker.imaging.errors import ArchiveRefused
from worker.imaging.names import label

UPLOAD_ENDPOINTS = frozenset(
    {
        "api_jobs.submit_job",
        "submit.submit",
        "api_datasets.create",
        "datasets.create",
        "api_models.import_model",
        "models.import_model",
        "api_runs.send_weights",
        "runs.send_weights",
    }
)
FIELD = "files"
MAX_PARTS = 1000
MAX_FIELD_BYTES = 500_000
MAX_OTHER_BODY_BYTES = 1024 * 1024
NAME_LENGTH = 200


@dataclass(frozen=True)
class Submission:
    """A submission that was received whole: every file is in storage and none of them is refused."""

    files: list[ReceivedFile]
    name: str
    priority: int


class PartStream:
    """What Werkzeug's parser writes one file part into; `seek(0)` is how it says that the part has ended."""

    def __init__(self) -> None:
        self._receiver: Receiver = storage().receive()
        self.received: Received | None = None

    @property
    def path(self) -> Path:
        """The temporary file that holds the part, on this machine."""
        return self._receiver.path

    def write(self, data: bytes) -> int:
        """Hash and write. Raises OSError (ENOSPC) when the disk is full."""
        return self._receiver.write(data)

    def seek(self, offset: int) -> int:
        """Make the part durable and close its descriptor: a thousand parts must not hold a thousand of them."""
        if self.received is None:
            self.received = self._receiver.finish()
        return offset

    def publish(self) -> None:
        """Keep the file: from now on it is found by its SHA-256."""
        self._receiver.publish()

    def close(self) -> None:
        """Nothing: the request decides at its end whether the file stays."""

    def abort(self) -> None:
        """Remove what is not published; does nothing to what is."""
        try:
            self._receiver.abort()
        except OSError:  # closing writes what was buffered, and on a full disk that fails again
            self.path.unlink(missing_ok=True)


class Request(FlaskRequest):
    """A request whose file parts go to storage, at the addresses that take files, and are refused at all others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parts: list[PartStream] = []

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        if self.endpoint not in UPLOAD_ENDPOINTS:
            raise BadRequest("This address takes no files.")
        part = PartStream()
        self.parts.append(part)
        return cast(IO[bytes], part)  # the parser writes and seeks; nobody reads

    @property
    def max_content_length(self) -> int | None:
        """Bytes of a body: the upload cap where files are taken, a small one elsewhere."""
        if self.endpoint in UPLOAD_ENDPOINTS:
            return int(current_app.config["MAX_UPLOAD_BYTES"])
        return MAX_OTHER_BODY_BYTES

    @max_content_length.setter
    def max_content_length(self, value: int | None) -> None:
        raise AttributeError("the body cap follows from the address")

    def make_form_data_parser(self) -> FormDataParser:
        parser = super().make_form_data_parser()
        parser.silent = False  # a malformed body must not look like an empty form
        return parser

    def _load_form_data(self) -> None:
        try:
            super()._load_form_data()
        except ValueError as error:
            raise BadRequest("The body is not a well-formed multipart/form-data body.") from error

    def close(self) -> None:
        """At the end of the request, whichever way it ended: remove what was not published."""
        for part in self.parts:
            part.abort()
        super().close()


def receive(settings: Settings) -> Submission:
    """Read the request's body into storage, look into each file, and keep all of them or none.

    Raises `Problem` 415, 413, 422 (no files, a refused archive, a bad field) and OSError when the disk is full.
    """
    check_multipart()
    parts = file_parts(FIELD)
    if not parts:
        raise Problem(422, "no-files", "There is no file in this submission; send at least one part named 'files'.")
    name, priority = _name(request.form.get("name", ""), parts), _priority(request.form.get("priority", ""))
    files = inspect_parts(parts, settings)
    publish(parts)
    return Submission(files, name, priority)


def check_multipart() -> None:
    """Raise Problem 415 unless the body can hold files."""
    if request.mimetype != "multipart/form-data":
        raise Problem(415, "unsupported-media-type", "Send the files as multipart/form-data, in parts named 'files'.")


def file_parts(field: str) -> list[FileStorage]:
    """The file parts of this name; a form's empty choice is none."""
    return [part for part in request.files.getlist(field) if part.filename or _received(part).size]


def inspect_parts(parts: list[FileStorage], settings: Settings) -> list[ReceivedFile]:
    """Look into each archive or image. Raises Problem 422: one is refused, or none could hold an image."""
    limits = Limits(settings.max_entries, settings.max_unpacked_bytes, settings.max_ratio, settings.max_entry_bytes)
    files = [_inspect(part, limits) for part in parts]
    if not any(file.entries and file.size for file in files):
        raise refused_archive(
            files[0].filename, ArchiveRefused("no_images", "There is no file that could be an image.")
        )
    return files


def plain_part(part: FileStorage) -> ReceivedFile:
    """A part that is no archive and no image, but one file of text."""
    received = _received(part)
    return ReceivedFile(label(part.filename or "unnamed"), received.sha256, received.size, "file", 1)


def part_path(part: FileStorage) -> Path:
    """The finished temporary file that holds a part; it is removed when the request ends."""
    _received(part)
    return _stream(part).path


def publish(parts: list[FileStorage]) -> None:
    """Keep the files of these parts."""
    for part in parts:
        _stream(part).publish()


def _stream(part: FileStorage) -> PartStream:
    return cast(PartStream, part.stream)


def _received(part: FileStorage) -> Received:
    received = _stream(part).received
    if received is None:
        raise TypeError("a file part that did not end")
    return received


def _inspect(part: FileStorage, limits: Limits) -> ReceivedFile:
    received, filename = _received(part), label(part.filename or "unnamed")
    try:
        inspection = inspect_archive(_stream(part).path, filename, limits)
    except ArchiveRefused as refused:
        raise refused_archive(filename, refused) from refused
    return ReceivedFile(filename, received.sha256, received.size, inspection.kind, inspection.entries)


def _name(given: str, parts: list[FileStorage]) -> str:
    name = label(" ".join(given.split()))
    if not name:
        first = PurePosixPath(label(parts[0].filename or "unnamed")).name
        name = first if len(parts) == 1 else f"{first} and {len(parts) - 1} more"
    return name[:NAME_LENGTH]


def _priority(given: str) -> int:
    try:
        priority = int(given or 0)
    except ValueError:
        priority = PRIORITIES.stop
    if priority not in PRIORITIES:
        raise Problem(
            422,
            "invalid",
            f"priority is a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}.",
            errors={"form": {"priority": [f"Not a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}."]}},
        )
    return priority
