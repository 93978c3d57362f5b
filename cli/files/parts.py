"""Turns the paths of a submission into parts to send. Archives stay as they are, folders become TARs.

Many loose files are sent as one TAR too.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from cli.errors import UsageError
from cli.output import safe
from db.registry.tar_stream import END, tar_member, tar_size

ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
MOST_LOOSE_FILES = 64  # more files are sent as one TAR, because the server limits the parts of a request
MOST_PARTS = 900  # the server accepts 1,000, form fields included
PIECE = 1024 * 1024
JUNK = {"__MACOSX", "Thumbs.db"}
LISTED = 3  # the most names of things that were left out


@dataclass(frozen=True)
class FilePart:
    """A file on disk: its path, the name to send it under, and its size at the first look.

    `given`: the index of the submitted folder that holds the file, among the submitted paths. It is None if the file
    itself was submitted.
    """

    path: Path
    filename: str
    size: int
    given: int | None = None

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
    """A TAR of the files `members`, in this order. It is made while it is read. Every reading gives the same bytes.

    `given`: as in `FilePart`.
    """

    filename: str
    members: Sequence[FilePart]
    given: int | None = None

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


@dataclass
class LeftOut:
    """The names of what is not sent: links to folders, hidden folders, and hidden or unusable files."""

    links: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return one line for people. It is empty if nothing was left out."""
        kinds = (
            ("did not follow", "link to a folder", "links to folders", self.links),
            ("left out", "hidden folder", "hidden folders", self.folders),
            ("left out", "hidden or unusable file", "hidden or unusable files", self.files),
        )
        return ", ".join(
            f"{verb} {len(names)} {one if len(names) == 1 else many} ({_listed(names)})"
            for verb, one, many, names in kinds
            if names
        )


def _listed(names: list[str]) -> str:
    return ", ".join([*map(safe, names[:LISTED]), *(["…"] if len(names) > LISTED else [])])


def gather(paths: Sequence[Path]) -> tuple[list[Part], LeftOut]:
    """Return the parts of a submission, and what was left out. See `gather_below` for what is sent.

    The name of each file begins with the name of its path in `paths`. If two paths have the same name, or loose files
    lie in several folders, each name also gets folders above its path: as many as make the names differ.

    Raises:
        UsageError: a path cannot be read, or there is nothing to send.
    """
    paths = _without_repeats(paths)
    return _gather(paths, _names(paths), None)


def gather_below(paths: Sequence[Path], *, leave_out: Path | None = None) -> tuple[list[Part], LeftOut]:
    """Return the parts to send, and what was left out.

    The name of an archive in a folder is the folder's name and the archive's path below the folder. The name of any
    other file in the folder is its path below the folder.

    Walk each folder in the order of names. Each archive in the folder becomes a part. All other files of the folder
    become one TAR. Leave out the file `leave_out`, files and folders whose name begins with a dot or is in `JUNK`, and
    everything that is not a regular file. Follow links to files, but not links to folders.

    Raises:
        UsageError: a path cannot be read, or there is nothing to send.
    """
    return _gather(_without_repeats(paths), None, leave_out)


def _without_repeats(paths: Sequence[Path]) -> list[Path]:
    return list({(_absolute(path), path.resolve()): path for path in paths}.values())


def _gather(paths: Sequence[Path], names: Sequence[str] | None, leave_out: Path | None) -> tuple[list[Part], LeftOut]:
    parts: list[Part] = []
    loose: list[FilePart] = []
    left_out = LeftOut()
    for place, path in enumerate(paths):
        name = names[place] if names else _absolute(path).name or "files"
        if path.is_dir():
            members = _walk(path, f"{name}/" if names else "", left_out)
            members = [member for member in members if not leave_out or not member.path.samefile(leave_out)]
            parts += [replace(part, given=place) for part in _folder_parts(name, members, "" if names else f"{name}/")]
        else:
            (parts if _is_archive(path) else loose).append(_file_part(path, name))
    parts += [TarPart("files.tar", loose)] if len(loose) > MOST_LOOSE_FILES else loose
    if not parts:
        raise UsageError("there is nothing to send in " + ", ".join(map(str, paths)))
    if len(parts) > MOST_PARTS:
        raise UsageError(f"{len(parts)} archives are too many for one job; send at most {MOST_PARTS} at once")
    return _with_different_names(parts), left_out


def _with_different_names(parts: Sequence[Part]) -> list[Part]:
    """Rename each TAR that was made here if another part has its name.

    Example: the folder `scans` lies beside the archive `scans.tar`.
    """
    names = {part.filename for part in parts if isinstance(part, FilePart)}
    renamed: list[Part] = []
    for part in parts:
        if isinstance(part, TarPart):
            stem = part.filename.removesuffix(".tar")
            while f"{stem}.tar" in names:
                stem += "-packed"
            part = replace(part, filename=f"{stem}.tar")
            names.add(part.filename)
        renamed.append(part)
    return renamed


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of each path, joined: the same number of parts for each path.

    Take as few parts as possible. Different paths must get different names, and loose files of different folders must
    get names in different folders.
    """
    parts = [_absolute(path).parts for path in paths]
    loose = {p for path, p in zip(paths, parts, strict=True) if not path.is_dir() and not _is_archive(path)}

    def tells_apart(count: int) -> bool:
        names, folders = {p[-count:] for p in parts}, {p[-count:-1] for p in loose}
        return len(names) == len(set(parts)) and len(folders) == len({p[:-1] for p in loose})

    count = next(filter(tells_apart, range(1, max(map(len, parts)) + 1)))
    return [Path(*p[-count:]).as_posix().strip("/") or "files" for p in parts]


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  `resolve` would give a link the name of its target


def _folder_parts(name: str, members: list[FilePart], prefix: str) -> list[Part]:
    archives = [replace(member, filename=prefix + member.filename) for member in members if _is_archive(member.path)]
    others = [member for member in members if not _is_archive(member.path)]
    tar = [TarPart(f"{name}.tar", others)] if others else []
    return [*tar, *archives]


def _walk(folder: Path, prefix: str, left_out: LeftOut) -> list[FilePart]:
    """Return the files below `folder`, and add the others to `left_out`. The order depends only on the files' names."""
    members: list[FilePart] = []
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        below = Path(here).relative_to(folder)
        hidden = sorted(filter(_is_hidden, folders))
        links = sorted(name for name in folders if name not in hidden and (Path(here) / name).is_symlink())
        left_out.folders += [prefix + (below / name).as_posix() for name in hidden]
        left_out.links += [prefix + (below / name).as_posix() for name in links]
        folders[:] = sorted({*folders}.difference(hidden, links))
        for name in sorted(names):
            path, member = Path(here) / name, prefix + (below / name).as_posix()
            if _is_hidden(name) or not path.is_file():
                left_out.files.append(member)
            else:
                members.append(_file_part(path, member))
    return members


def _unreadable(error: OSError) -> None:
    raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in JUNK


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES)


def _file_part(path: Path, name: str) -> FilePart:
    if path.exists() and not path.is_file():  # a pipe has no size, and can be read only once
        raise UsageError(f"{path} is not a file; save its content as a file, and send the file")
    try:
        with path.open("rb") as file:  # notice a file that cannot be read before anything is sent
            return FilePart(path, name, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
