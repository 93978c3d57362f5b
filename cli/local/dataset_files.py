"""Copies the files of a new dataset into storage. Refuses the same files as a submission does."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cli.errors import UsageError
from cli.files.parts import gather_below
from cli.output import progress_bar, say
from db.ledger.jobs import ReceivedFile
from db.storage import storage
from worker.datasets.label_table import BadLabels, read_csv
from worker.imaging.rejections import ArchiveRefused
from worker.received_files import check_for_images, receive_file


def store_labels(path: Path) -> ReceivedFile:
    """Copy a CSV of labels into storage.

    Raises:
        UsageError: the file is not a CSV of labels.
    """
    content = path.read_bytes()
    try:
        read_csv(content)
    except BadLabels as error:
        raise UsageError(f"{path}: {error}") from error
    return ReceivedFile(path.name, storage().put(content), len(content), "file", 1)


def store_files(paths: Sequence[Path], labels: Path | None) -> tuple[list[ReceivedFile], list[int | None]]:
    """Copy files, archives and folders into storage, with a progress bar. Leave out the file `labels`.

    Return the files. Also return for each file the index in `paths` of the folder that holds it, or None if `paths`
    names the file itself.

    Raises:
        UsageError: there is nothing to copy, or an archive is refused.
    """
    parts, left_out = gather_below(paths, leave_out=labels)
    if note := str(left_out):
        say(note)
    files: list[ReceivedFile] = []
    with progress_bar("copying", sum(part.size for part in parts), unit="bytes") as update:

        def counted(pieces: Iterable[bytes]) -> Iterator[bytes]:
            done = sum(file.size for file in files)
            for piece in pieces:
                yield piece
                done += len(piece)
                update(done, "")

        name = parts[0].filename
        try:
            for part in parts:
                name = part.filename
                files.append(receive_file(name, counted(part)))
            check_for_images(files)
        except ArchiveRefused as error:
            raise UsageError(f"{name} is refused: {error}") from error
    return files, [part.given for part in parts]
