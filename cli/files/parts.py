"""Turns the paths of a submission into parts to send. Archives stay as they are, folders become TARs.

Many loose files are sent as one TAR too.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cli.errors import UsageError
from db.registry.tar_stream import END, tar_member, tar_size

ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
MOST_LOOSE_FILES = 64  # more are sent as one TAR, because the server limits the parts of a request
MOST_PARTS = 900  # the server accepts 1,000, with form fields
PIECE = 1024 * 1024
JUNK = {"__MACOSX", "Thumbs.db"}


@dataclass(frozen=True)
class FilePart:
    """A file on disk: its path, the name to send it under, and its size at the first look."""

    path: Path
    filename: str
    size: int

    def __iter__(self) -> Iterator[bytes]:
        """Yield the first `size` bytes of the file. Every iteration begins at the start of the file.

        Raises:
            UsageError: the file is shorter now, or cannot be read.
        """
        left = self.size
        try:
            with self.path.open("rb") as file:
                while left and (piece := file.read(min(PIECE, left))):
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}") from error
        if left:
            raise UsageError(f"{self.path} became shorter while it was sent; nothing was submitted")


@dataclass(frozen=True)
class TarPart:
    """A TAR of these files in this order. It is made while it is read. Every reading gives the same bytes."""

    filename: str
    members: Sequence[FilePart]

    @cached_property
    def size(self) -> int:
        """The length of the TAR in bytes."""
        return tar_size((member.filename, member.size) for member in self.members)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes. Raises UsageError as `FilePart` does."""
        for member in self.members:
            yield from tar_member(member.filename, member.size, member)
        yield END


Part = FilePart | TarPart


def gather(paths: Sequence[Path], *, leave_out: Path | None = None) -> tuple[list[Part], int]:
    """Return the parts to send, and the number of files that were left out.

    Walk each folder in the order of names. Each archive in the folder becomes a part. All other files of the folder
    become one TAR. Leave out the file `leave_out`, files and folders whose name begins with a dot or is in `JUNK`, and
    everything that is not a regular file. Follow links to files, but not links to folders.

    Raises:
        UsageError: a path cannot be read, or there is nothing to send.
    """
    parts: list[Part] = []
    loose: list[FilePart] = []
    hidden = 0
    for path in paths:
        if path.is_dir():
            members, hidden_here = _walk(path)
            hidden += hidden_here
            parts += _folder_parts(path, [m for m in members if not leave_out or not m.path.samefile(leave_out)])
        else:
            (parts if _is_archive(path) else loose).append(_file_part(path, path.name))
    parts += [TarPart("files.tar", loose)] if len(loose) > MOST_LOOSE_FILES else loose
    if not parts:
        raise UsageError("there is nothing to send in " + ", ".join(map(str, paths)))
    if len(parts) > MOST_PARTS:
        raise UsageError(f"{len(parts)} archives are too many for one job; send at most {MOST_PARTS} at once")
    return parts, hidden


def _folder_parts(folder: Path, members: list[FilePart]) -> list[Part]:
    archives = [member for member in members if _is_archive(member.path)]
    others = [member for member in members if not _is_archive(member.path)]
    tar = [TarPart(f"{folder.resolve().name or 'files'}.tar", others)] if others else []
    return [*tar, *archives]


def _walk(folder: Path) -> tuple[list[FilePart], int]:
    """Return the files below `folder`, and how many were left out. The order depends only on the files' names."""
    members: list[FilePart] = []
    hidden = 0
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(names):
            path = Path(here) / name
            if _is_hidden(name) or not path.is_file():
                hidden += 1
            else:
                members.append(_file_part(path, path.relative_to(folder).as_posix()))
    return members, hidden


def _unreadable(error: OSError) -> None:
    raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in JUNK


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES)


def _file_part(path: Path, name: str) -> FilePart:
    try:
        with path.open("rb") as file:  # notice a file that cannot be read before anything is sent
            return FilePart(path, name, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
