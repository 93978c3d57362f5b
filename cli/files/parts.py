"""What to send for the paths of a submission: archives as they are, folders and many loose files as TARs."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.errors import UsageError
from cli.files.tar_stream import PackedFile, TarStream, read_exactly

ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
MOST_LOOSE_FILES = 64  # more than these go as one TAR: a request has a limited number of parts
MOST_PARTS = 900  # the server takes 1,000, form fields included
JUNK = {"__MACOSX", "Thumbs.db"}


@dataclass(frozen=True)
class Part:
    """One file of the request: its name, its length in bytes, and its bytes, which can be read again."""

    filename: str
    size: int
    content: Iterable[bytes]
    files: int


@dataclass(frozen=True)
class _File:
    path: Path
    size: int

    def __iter__(self) -> Iterator[bytes]:
        return read_exactly(self.path, self.size)


def gather(paths: Sequence[Path], *, but: Path | None = None) -> tuple[list[Part], int]:
    """Return the parts to send, and how many hidden files were passed over.

    A folder is walked, sorted by name: its archives are sent one by one, all else as one TAR, `but` excepted. Files and
    folders whose name begins with a dot are passed over, links to files are followed, links to folders are not.

    Raises:
        UsageError: a path cannot be read, or there is nothing to send.
    """
    parts: list[Part] = []
    loose: list[PackedFile] = []
    hidden = 0
    for path in paths:
        if path.is_dir():
            found, passed_over = _walk(path)
            found = [member for member in found if not but or not member.path.samefile(but)]
            hidden += passed_over
            parts += _folder_parts(path, found)
        elif _is_archive(path):
            parts.append(_file_part(_member(path, path.name)))
        else:
            loose.append(_member(path, path.name))
    parts += [_tar_part("files.tar", loose)] if len(loose) > MOST_LOOSE_FILES else [_file_part(each) for each in loose]
    if not parts:
        raise UsageError("there is nothing to send in " + ", ".join(map(str, paths)))
    if len(parts) > MOST_PARTS:
        raise UsageError(f"{len(parts)} archives are too many for one job; at most {MOST_PARTS} can be sent at once")
    return parts, hidden


def _folder_parts(folder: Path, members: list[PackedFile]) -> list[Part]:
    archives = [member for member in members if _is_archive(member.path)]
    others = [member for member in members if not _is_archive(member.path)]
    tar = [_tar_part(f"{folder.resolve().name or 'files'}.tar", others)] if others else []
    return [*tar, *map(_file_part, archives)]


def _walk(folder: Path) -> tuple[list[PackedFile], int]:
    """Return the files below `folder`, in an order that depends on their names alone, and the number passed over."""
    found: list[PackedFile] = []
    passed_over = 0
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not _is_junk(name))
        for name in sorted(names):
            path = Path(here) / name
            if _is_junk(name) or not path.is_file():
                passed_over += 1
            else:
                found.append(_member(path, path.relative_to(folder).as_posix()))
    return found, passed_over


def _unreadable(error: OSError) -> None:
    raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name in JUNK


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES)


def _member(path: Path, name: str) -> PackedFile:
    try:
        with path.open("rb") as file:  # a file that cannot be read is found before anything is sent
            return PackedFile(path, name, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _file_part(member: PackedFile) -> Part:
    return Part(member.name, member.size, _File(member.path, member.size), 1)


def _tar_part(filename: str, members: list[PackedFile]) -> Part:
    stream = TarStream(members)
    return Part(filename, len(stream), stream, len(members))
