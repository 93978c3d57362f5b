"""Receives a submission. Parts stream to storage, and are kept only if every part is accepted."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from flask import request
from werkzeug.datastructures import FileStorage

from db.ledger.jobs import PRIORITIES, ReceivedFile
from db.storage import StoredFile
from web.actions.request import PartStream
from web.errors import Problem, refused_archive
from web.security.auth import require_user
from worker.imaging.display_names import display_name
from worker.imaging.rejections import ArchiveRefused
from worker.received_files import check_for_images, inspect_received

FIELD = "files"
MAX_PARTS = 1000
MAX_FIELD_BYTES = 500_000
NAME_LENGTH = 200

_DICOM_HEAD = 1 << 18  # bytes; the elements before the pixels are shorter
_PATIENT = re.compile(rb"\x10\x00\x20\x00(?:LO(..)|(..)\0\0)", re.DOTALL)
_SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI(..)|(..)\0\0)", re.DOTALL)
_PIXEL_DATA, _UID = b"\xe0\x7f\x10\x00", re.compile(rb"[0-9.]+")
"""PatientID and SeriesInstanceUID up to the length of the value, with and without the VR (PS3.5 7.1)."""


@dataclass(frozen=True)
class Submission:
    """A complete submission. Every file is in storage, and none is refused."""

    files: list[ReceivedFile]
    name: str
    priority: int


def receive() -> Submission:
    """Read the request's body into storage, inspect each file, and keep all of them or none.

    Only the beginning of a long compressed TAR is inspected. Ingest finds errors in the rest.

    Raises Problem 415, 413, 422 (no files, a refused archive, two files of one name, a bad field or part), and OSError
    when the disk is full.
    """
    check_multipart()
    check_parts("name", "priority")
    parts = file_parts(FIELD)
    if not parts:
        raise Problem(422, "no-files", "There is no file in this submission. Send at least one part named 'files'.")
    name, priority = _name(request.form.get("name", ""), parts), _priority(request.form.get("priority", ""))
    files = inspect_parts(parts)
    names = Counter(file.filename for file in files)
    both = zip(files, parts, strict=True)
    check_names([file for file, part in both if names[file.filename] > 1 and not _states_patient(part)])
    publish(parts)
    return Submission(files, name, priority)


def check_multipart() -> None:
    """Raise Problem 415 if the body cannot hold files."""
    if request.mimetype != "multipart/form-data":
        raise Problem(415, "unsupported-media-type", "The body must be multipart/form-data with parts named 'files'.")


def check_parts(*fields: str, files: tuple[str, ...] = (FIELD,), lists: tuple[str, ...] = ()) -> None:
    """Raise Problem 422 if a request to the API has a part with any other name, or one of `fields` twice.

    `lists`: fields that may be repeated. Requests from pages are not checked, because their forms have further fields.
    """
    if not request.path.startswith("/api/"):
        return
    unknown = [name for name in request.form if name not in (*fields, *lists)]
    unknown += [name for name in request.files if name not in files]
    if unknown:
        kinds = (("files", files), ("text", (*fields, *lists)))
        advice = f"Send {', and '.join(f'{kind} in {_quoted(names)}' for kind, names in kinds if names)}."
        detail = f"There is a part named {unknown[0][:100]!r}, which this address does not take. {advice}"
        raise Problem(422, "invalid", detail, errors={"form": {name: [advice] for name in unknown}})
    repeated = [name for name, values in request.form.lists() if len(values) > 1 and name not in lists]
    if repeated:
        advice = "Send this part only once."
        detail = f"There is more than one part named {repeated[0]!r}. {advice}"
        raise Problem(422, "invalid", detail, errors={"form": {name: [advice] for name in repeated}})


def _quoted(names: tuple[str, ...]) -> str:
    return " or ".join(f"'{name}'" for name in names)


def file_parts(field: str) -> list[FileStorage]:
    """Return the file parts of this name. Leave out the empty part that a form sends if no file was chosen."""
    return [part for part in request.files.getlist(field) if part.filename or _received(part).size]


def only_part(what: str) -> FileStorage:
    """Return the only file part. Raises Problem 415, or 422 if there is not exactly one part."""
    check_multipart()
    check_parts()
    parts = file_parts(FIELD)
    if len(parts) != 1:
        raise Problem(422, "no-files", f"Exactly one file is needed. Send {what}, in a part named 'files'.")
    return parts[0]


def inspect_parts(parts: list[FileStorage]) -> list[ReceivedFile]:
    """Inspect each archive or image. Raises Problem 422: a file is refused, or no file can hold an image."""
    files = [_inspect(part) for part in parts]
    try:
        check_for_images(files)
    except ArchiveRefused as refused:
        raise refused_archive(files[0].filename, refused) from refused
    return files


def check_names(files: list[ReceivedFile]) -> None:
    """Raise Problem 422 if two loose files differ but have the same name, because they come from different folders.

    Many programs send only the last part of a path, or one name for all that they send from memory. Without its folder,
    a file may join the slices of another patient.
    """
    hashes: dict[str, str] = {}
    for file in files:
        if file.kind == "file" and hashes.setdefault(file.filename, file.sha256) != file.sha256:
            advice = "Give each part a name with its folder, such as filename='p1/1.png', or send an archive."
            detail = f"Two different files are named {file.filename!r}. {advice}"
            raise Problem(422, "invalid", detail, errors={"form": {FIELD: [advice]}})


def _states_patient(part: FileStorage) -> bool:
    """Return whether a part is a DICOM file whose beginning states its patient and series, so it needs no folder."""
    with part_path(part).open("rb") as file:
        head = file.read(_DICOM_HEAD)
    head = head.partition(_PIXEL_DATA)[0]
    return head[128:132] == b"DICM" and bool(_UID.fullmatch(_last_value(head, _SERIES)) and _last_value(head, _PATIENT))


def _last_value(head: bytes, element: re.Pattern[bytes]) -> bytes:
    """Return the last value of an element in a little-endian header, or b"" if it is blank or missing.

    Series that the file only refers to stand before its own. pydicom is not used, because it may read files of
    strangers only in the sandbox.
    """
    value = b""
    for found in element.finditer(head):
        length = int.from_bytes(found[1] or found[2], "little")
        value = head[found.end() :][:length].strip(b" \0")
    return value


def plain_part(part: FileStorage) -> ReceivedFile:
    """Return a part that is a text file, and not an archive or an image."""
    received = _received(part)
    return ReceivedFile(display_name(part.filename or "unnamed"), received.sha256, received.size, "file", 1)


def part_path(part: FileStorage) -> Path:
    """Return the finished temporary file that holds a part. It is removed when the request ends."""
    _received(part)
    return _stream(part).path


def publish(parts: list[FileStorage]) -> None:
    """Move the temporary files of these parts into storage."""
    for part in parts:
        _stream(part).publish()


def _stream(part: FileStorage) -> PartStream:
    return cast(PartStream, part.stream)


def _received(part: FileStorage) -> StoredFile:
    received = _stream(part).received
    if received is None:
        raise TypeError("a file part that did not end")
    return received


def _inspect(part: FileStorage) -> ReceivedFile:
    try:
        return inspect_received(_stream(part).path, part.filename or "", _received(part), whole=False)
    except ArchiveRefused as refused:
        raise refused_archive(display_name(part.filename or "unnamed"), refused) from refused


def _name(given: str, parts: list[FileStorage]) -> str:
    name = display_name(" ".join(given.split()))
    if not name:
        names = [display_name(part.filename or "unnamed") for part in parts]
        first = PurePosixPath(names[0]).name
        folder = _common_folder(names)
        name = first if len(parts) == 1 else folder or f"{first} and {len(parts) - 1} more"
    return name[:NAME_LENGTH]


def _common_folder(names: list[str]) -> str:
    """Return the folder that holds all files, or "" if there is none."""
    top = names[0].partition("/")[0]
    return top if all(name.startswith(f"{top}/") for name in names) and top.strip(".") else ""


def _priority(given: str) -> int:
    try:
        priority = int(given or 0)
    except ValueError:
        priority = PRIORITIES.stop
    if priority not in PRIORITIES:
        advice = f"Use a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}."
        raise Problem(422, "invalid", f"The priority is not valid. {advice}", errors={"form": {"priority": [advice]}})
    if priority > 0 and not require_user().is_admin:
        advice = "Use 0 or less, or ask an admin: only admins raise a job above the jobs of others."
        raise Problem(422, "invalid", f"The priority is not allowed. {advice}", errors={"form": {"priority": [advice]}})
    return priority
