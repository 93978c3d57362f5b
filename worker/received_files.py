"""Looks into received files before they are queued, for the web and for the command line."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from db.database import current
from db.ledger.jobs import ReceivedFile
from db.storage import StoredFile, storage
from worker.imaging.archives.archive import Limits, inspect_archive
from worker.imaging.display_names import display_name
from worker.imaging.rejections import ArchiveRefused


def inspect_received(path: Path, filename: str, stored: StoredFile, *, whole: bool = True) -> ReceivedFile:
    """Look into the received archive or image at `path`. The file may still be unpublished in storage.

    Unless `whole`, only the beginning of a packed TAR is unpacked, which takes little time.

    Raises:
        ArchiveRefused: the file cannot be accepted.
    """
    name = display_name(filename or "unnamed")
    inspection = inspect_archive(path, name, Limits.of(current()), whole=whole)
    return ReceivedFile(name, stored.sha256, stored.size, inspection.kind, inspection.entries)


def receive_file(filename: str, pieces: Iterable[bytes]) -> ReceivedFile:
    """Write a file into storage, and look into it. A refused file is not kept.

    Raises:
        ArchiveRefused: the file cannot be accepted.
    """
    with storage().receive() as receiver:
        for piece in pieces:
            receiver.write(piece)
        received = inspect_received(receiver.path, filename, receiver.finish())
        receiver.publish()
        return received


def check_for_images(files: Sequence[ReceivedFile]) -> None:
    """Check that at least one of the files could hold an image.

    Raises:
        ArchiveRefused: none of them could.
    """
    if not any(file.entries != 0 and file.size for file in files):
        raise ArchiveRefused("no_images", "There is no file that could be an image.")
