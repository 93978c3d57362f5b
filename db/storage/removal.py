"""Lists the files of a storage, and removes unused files, which stay in the trash for days before they are deleted."""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from math import inf
from pathlib import Path
from typing import Any

from db.storage.errors import FileMissing
from db.storage.files import check_hash, each_file, move_if_free, stored_at

TRASH = "trash"
_NAME, _DAY = re.compile(r"[0-9a-f]{64}"), re.compile(r"\d{4}-\d\d-\d\d$")
"""Names of stored files and of folders in the trash. Other programs may leave files with other names beside them."""


class Removal:
    """The part of `db.storage.store.Storage` with the paths of files, their listing and the trash."""

    fs: Any
    root: str
    is_local: bool
    folder: Path

    def _place(self, sha256: str) -> Path:
        # With more than 256 folders, most files would need a new folder, which costs more than the file.
        return Path(f"{self.folder}/{sha256[:2]}/{sha256}")

    def _remote(self, sha256: str) -> str:
        return f"{self.root}/{sha256[:2]}/{sha256}"

    def names(self, since: float, until: float) -> Iterator[str]:
        """Yield the SHA-256 of every file that was stored in [since, until), in seconds since 1970."""
        for start in (f"{number:02x}" for number in range(256)):  # in parts, because the listing of a bucket is large
            for name, at in self._listing(start):
                if since <= at < until and _NAME.fullmatch(name):
                    yield name

    def _listing(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield the name of each file in a folder, and when it was stored."""
        if self.is_local:
            for path, status in each_file((self.folder / folder).glob("*")):
                yield path.name, status.st_mtime
            return
        for path, info in self.fs.find(f"{self.root}/{folder}", detail=True).items():
            yield path.rsplit("/", 1)[-1], stored_at(info)

    def delete(self, sha256: str) -> None:
        """Delete a file permanently, with its copy on this machine."""
        self._place(sha256).unlink(missing_ok=True)
        if not self.is_local:
            with suppress(FileNotFoundError):
                self.fs.rm_file(self._remote(sha256))

    def trash(self, sha256: str, before: float = inf) -> bool:
        """Move a file to today's trash if it was stored before this time. If it is read later, it is restored.

        Return False if it was not moved, because it was stored again meanwhile, or another sweeper was quicker.
        """
        place, target = self._remote(sha256), f"{self.root}/{TRASH}/{datetime.now(UTC).date()}/{sha256}"
        try:
            if stored_at(self.fs.info(place)) >= before:
                return False
            self._move(place, target)
            # Moving a file keeps its time, so a newer time shows a `put` between the check and the move.
            if self.is_local and stored_at(self.fs.info(target)) >= before:
                self._put_back(target, sha256)
                return False
        except FileNotFoundError:
            return False
        if not self.is_local:
            self._place(sha256).unlink(missing_ok=True)
        return True

    def trashed(self) -> Iterator[tuple[str, date]]:
        """Yield the SHA-256 of each file in the trash, and the day on which it was put there."""
        for path in self.fs.find(f"{self.root}/{TRASH}"):  # not a pattern, because the root may hold `*`, `?` or `[`
            day, sha256 = path.split("/")[-2:]
            if _NAME.fullmatch(sha256) and _DAY.fullmatch(day):
                yield sha256, date.fromisoformat(day)

    def restore(self, sha256: str) -> bool:
        """Restore a file from the trash. Return False if it is not there, or if the file was stored again meanwhile.

        A stored file is never replaced, because the copy in the trash may be damaged. Such a copy is deleted.
        """
        days: list[str] = []
        with suppress(FileNotFoundError):  # nothing was ever put into the trash
            days = self.fs.ls(f"{self.root}/{TRASH}", detail=False)
        is_restored = False
        for day in filter(_DAY.search, days):
            with suppress(FileNotFoundError):  # not of this day, or another process was quicker
                is_restored |= self._put_back(f"{day}/{sha256}", sha256)
        return is_restored

    def _put_back(self, trashed: str, sha256: str) -> bool:
        """Move a file out of the trash. If it is stored, delete the copy and return False. Raises FileNotFoundError."""
        place = self._remote(sha256)
        self.fs.makedirs(place.rpartition("/")[0], exist_ok=True)
        if self.is_local:
            return move_if_free(Path(trashed), Path(place))
        is_stored = self.fs.exists(place)
        if not is_stored:
            self.fs.cp_file(trashed, place)
        self.fs.rm_file(trashed)
        return not is_stored

    def _fetch(self, sha256: str, target: Path) -> None:
        """Copy a remote file to `target`. Restore it from the trash if it is there. Raises FileMissing, FileDamaged."""
        try:
            self.fs.get_file(self._remote(sha256), str(target))
        except FileNotFoundError:
            self.restore(sha256)
            try:  # even if nothing was restored, because another reader may have done it
                self.fs.get_file(self._remote(sha256), str(target))
            except FileNotFoundError:
                raise FileMissing(sha256) from None
        check_hash(target, sha256)

    def purge(self, sha256: str, day: date) -> None:
        """Permanently delete a file that was put into the trash on this day."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{TRASH}/{day}/{sha256}")

    def _move(self, source: str, target: str) -> None:
        self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        if self.is_local:
            self.fs.mv(source, target)
        else:  # `mv` would take the paths for patterns
            self.fs.cp_file(source, target)
            self.fs.rm_file(source)
