"""Storage keeps bytes under their hash: in a folder, and in a remote store through a cache on this machine."""

import errno
import hashlib
import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import fsspec
import pytest
from botocore.session import Session
from fsspec.implementations.memory import MemoryFileSystem
from s3fs import S3FileSystem

from db import background
from db import database as base
from db.registry.versions import store_package
from db.settings import Settings
from db.storage import FileDamaged, FileMissing, Storage, storage
from db.storage import store as store_module
from tests.builders.buckets import bucket_away
from tests.builders.versions import fake_package


@pytest.fixture(params=["folder", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    url = str(tmp_path / "files") if request.param == "folder" else f"memory://{tmp_path.name}"
    return Storage(url, tmp_path / "cache")


def test_received_bytes_are_found_under_their_hash(store: Storage) -> None:
    receiver = store.receive()
    receiver.write(b"abc")
    receiver.write(b"def")
    received = receiver.close()
    assert received.sha256 == hashlib.sha256(b"abcdef").hexdigest()
    assert received.size == 6
    assert store.read(received.sha256) == b"abcdef"
    assert store.exists(received.sha256)
    assert list(store.incoming.folder.iterdir()) == []


def test_file_that_would_take_the_disks_reserve_is_refused_while_it_arrives(
    store: Storage, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.storage.receiver._ROOM_BYTES", 3)
    receiver = store.receive()
    receiver.write(b"abc")
    base.use(settings.model_copy(update={"reserve_bytes": 1 << 60}))
    with pytest.raises(OSError, match="reserve") as refusal:
        receiver.write(b"def")
    base.use(settings)
    assert refusal.value.errno == errno.ENOSPC
    receiver.abort()
    assert list(store.incoming.folder.iterdir()) == []


def test_aborted_upload_leaves_no_file(store: Storage) -> None:
    receiver = store.receive()
    receiver.write(b"abc")
    receiver.finish()
    receiver.abort()
    assert list(store.incoming.folder.iterdir()) == []
    assert not store.exists(hashlib.sha256(b"abc").hexdigest())


def test_received_file_that_was_removed_is_not_published(store: Storage) -> None:
    receiver = store.receive()
    receiver.write(b"abc")
    receiver.finish()
    receiver.path.unlink()
    with pytest.raises(FileMissing):
        receiver.publish()


def test_first_part_stays_young_while_the_next_arrives(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.storage.incoming.TOUCH_SECONDS", 0.0)
    first, second = store.receive(), store.receive()
    first.write(b"abc")
    first.finish()
    old = time.time() - 1000
    os.utime(first.path, (old, old))
    second.write(b"def")
    assert store.incoming.remove_old(500) == 0
    assert first.publish().size == 3


def test_remote_file_is_fetched_when_the_cache_lacks_it(tmp_path: Path) -> None:
    sha256 = Storage("memory://shared", tmp_path / "one").put(b"pixels")
    other = Storage("memory://shared", tmp_path / "two")
    assert other.local_path(sha256).read_bytes() == b"pixels"


def test_fetching_a_remote_file_calls_the_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = Storage("memory://slow", tmp_path / "one").put(b"pixels")
    other = Storage("memory://slow", tmp_path / "two")
    fetch, told = other.fs.get_file, Event()

    def slow(*where: str) -> None:
        assert told.wait(30)
        fetch(*where)

    monkeypatch.setattr(background, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(other.fs, "get_file", slow)
    assert other.local_path(sha256, told.set).read_bytes() == b"pixels"


def test_heartbeat_is_called_while_a_remote_file_is_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, told = Storage(f"memory://{tmp_path.name}", tmp_path / "cache"), Event()
    send = store.fs.put_file

    def slow(*where: str) -> None:
        assert told.wait(30)
        send(*where)

    monkeypatch.setattr(background, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(store.fs, "put_file", slow, raising=False)
    assert store.read(store.put(b"pixels", alive=told.set)) == b"pixels"


def test_interrupted_fetch_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = Storage("memory://broken", tmp_path / "one").put(b"pixels")
    other = Storage("memory://broken", tmp_path / "two")

    def breaks(remote: str, local: str) -> None:
        Path(local).write_bytes(b"pix")
        raise ConnectionResetError

    monkeypatch.setattr(other.fs, "get_file", breaks)
    with pytest.raises(ConnectionResetError):
        other.local_path(sha256)
    assert list(other.incoming.folder.iterdir()) == []


def test_missing_file_raises(store: Storage) -> None:
    with pytest.raises(FileMissing):
        store.local_path("0" * 64)


def test_damaged_file_raises(tmp_path: Path) -> None:
    store = Storage(str(tmp_path / "files"), tmp_path / "cache")
    sha256 = store.put(b"pixels")
    store.local_path(sha256).write_bytes(b"pixelz")
    with pytest.raises(FileDamaged):
        store.verified_path(sha256)


def damage(path: Path, _: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"pixelz")


def make_unreadable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, errors = Path.open, [OSError(errno.EIO, "Input/output error")]

    def open_(self: Path, *given: Any, **named: Any) -> Any:
        if self == path and errors:
            raise errors.pop()
        return opened(self, *given, **named)

    monkeypatch.setattr(Path, "open", open_)


@pytest.mark.parametrize("harm", [damage, make_unreadable], ids=lambda harm: harm.__name__)
def test_damaged_copy_is_fetched_again(
    harm: Callable[[Path, pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Storage(f"memory://{tmp_path.name}", tmp_path / "cache")
    sha256 = store.put(b"pixels")
    harm(store.local_path(sha256), monkeypatch)
    assert store.verified_path(sha256).read_bytes() == b"pixels"


def test_file_that_cannot_be_read_is_written_anew(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.local_path(store.put(b"pixels"))
    bad, read = path.stat().st_ino, Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self.stat().st_ino == bad:
            raise OSError(errno.EIO, "Input/output error")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert store.read(store.put(b"pixels")) == b"pixels"


def test_damaged_remote_file_is_not_copied(tmp_path: Path) -> None:
    sha256 = Storage(f"memory://{tmp_path.name}", tmp_path / "cache").put(b"pixels")
    other = Storage(f"memory://{tmp_path.name}", tmp_path / "other")
    other.fs.pipe_file(other._remote(sha256), b"pixelz")
    with pytest.raises(FileDamaged):
        other.local_path(sha256)
    assert [path for path in other.folder.rglob("*") if path.is_file()] == []


def test_old_received_file_is_hashed_again(store: Storage) -> None:
    sha256 = store.put(b"pixels")
    path = store.local_path(sha256)
    old = time.time() - 7200
    path.write_bytes(b"pixelz")
    os.utime(path, (old, old))
    if store.is_local:
        with pytest.raises(FileDamaged):
            store.received_path(sha256)


def test_old_received_file_is_hashed_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Storage(str(tmp_path / "files"), tmp_path / "cache")
    sha256 = store.put(b"pixels")
    path = store.local_path(sha256)
    os.utime(path, (old := time.time() - 7200, old))
    hashed: list[Path] = []
    real = store_module.check_hash
    monkeypatch.setattr(store_module, "check_hash", lambda path, sha256: hashed.append(path) or real(path, sha256))
    for _ in range(3):
        assert store.received_path(sha256) == path
    assert hashed == [path]
    path.write_bytes(b"pixelz")
    os.utime(path, (old + 1, old + 1))
    with pytest.raises(FileDamaged):
        store.received_path(sha256)


def test_putting_the_same_bytes_again_keeps_the_file_from_the_reaper(tmp_path: Path) -> None:
    store = Storage(str(tmp_path / "files"), tmp_path / "cache")
    sha256 = store.put(b"pixels")
    old = time.time() - 1000
    os.utime(store.local_path(sha256), (old, old))
    assert list(store.names(0, time.time() - 500)) == [sha256]
    assert store.put(b"pixels", durable=False) == sha256
    assert list(store.names(0, time.time() - 500)) == []


def test_putting_the_same_bytes_again_renews_the_file_in_the_bucket(tmp_path: Path, settings: Settings) -> None:
    store = Storage(f"memory://{tmp_path.name}", tmp_path / "cache")
    sha256 = store.put(b"pixels")
    object_ = store.fs.store[store._remote(sha256)]
    object_.created = datetime.now(UTC) - timedelta(days=1)
    assert list(store.names(0, time.time() - 500)) == [sha256]
    store.put(b"pixels")
    assert list(store.names(0, time.time() - 500)) == []


def test_putting_bytes_again_mends_a_damaged_file(store: Storage) -> None:
    sha256 = store.put(b"pixels")
    store.local_path(sha256).write_bytes(b"pixelz")
    assert store.put(b"pixels") == sha256
    assert store.verified_path(sha256).read_bytes() == b"pixels"


def test_new_folders_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    for module in ("files", "store"):
        monkeypatch.setattr(f"db.storage.{module}.sync_folder", synced.append)
    store = Storage(str(tmp_path / "files"), tmp_path / "cache")
    sha256 = store.put(b"pixels")
    assert synced == [store.folder, store.folder / sha256[:2]]


def test_bytes_are_on_the_disk_before_they_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Storage(str(tmp_path / "files"), tmp_path / "cache")
    synced: list[bytes] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            assert path.parent == store.incoming.folder
            synced.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", fsync)
    store.put(b"pixels")
    with store.receive() as receiver:
        receiver.write(b"slices")
        receiver.publish()
    assert synced == [b"pixels", b"slices"]


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("step", ["write", "name", "send"])
def test_put_that_fails_leaves_no_file(
    store: Storage, step: str, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_some(path: Path, data: bytes, **_: Any) -> None:
        path.write_bytes(data[:3])
        full()

    if step == "write":
        monkeypatch.setattr(store_module, "write_file", write_some)
    elif step == "name" or store.is_local:
        monkeypatch.setattr(Path, "replace", full)
    else:
        monkeypatch.setattr(store.fs, "put_file", full, raising=False)
    with pytest.raises(OSError, match="No space"):
        store.put(b"pixels", durable=durable)
    assert list(store.incoming.folder.iterdir()) == []


def test_package_that_cannot_be_stored_leaves_no_file(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    package = fake_package(settings.home / "package")
    monkeypatch.setattr(storage(), "adopt", full)
    with pytest.raises(OSError, match="No space"):
        store_package(package)
    assert list(storage().incoming.folder.iterdir()) == []


def test_only_old_files_are_reaped(tmp_path: Path) -> None:
    store = Storage(str(tmp_path / "files"), tmp_path / "cache")
    store.receive().write(b"left behind")
    assert store.incoming.remove_old(1000) == 0
    time.sleep(0.02)
    assert store.incoming.remove_old(0.01) == 1


def test_upload_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local copy says that the file is in the bucket, so it may not be there before."""
    store = Storage(f"memory://{tmp_path.name}", tmp_path / "cache")

    def fails(*_: str) -> None:
        raise OSError("503 Slow Down")

    with monkeypatch.context() as patch:
        patch.setattr(store.fs, "put_file", fails)
        with pytest.raises(OSError, match="503"):
            store.put(b"pixels")
    with pytest.raises(FileMissing):
        store.local_path(hashlib.sha256(b"pixels").hexdigest())
    sha256 = store.put(b"pixels")
    assert store.exists(sha256)
    assert Storage(f"memory://{tmp_path.name}", tmp_path / "other").read(sha256) == b"pixels"


def test_copies_used_longest_ago_make_room(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.storage.store.EVICT_SECONDS", 0.0)
    base.use(settings.model_copy(update={"cache_bytes": 25}))
    store = Storage(f"memory://{tmp_path.name}", tmp_path / "cache")
    first, second = store.put(b"first 10 b"), store.put(b"second10 b")
    for hours, sha256 in ((3, second), (2, first)):
        os.utime(store.folder / sha256[:2] / sha256, (time.time() - hours * 3600,) * 2)
    store.put(b"third 10 b")
    copies = {path.name for path in store.folder.glob("??/*")}
    assert second not in copies
    assert first in copies
    assert store.read(second) == b"second10 b"


def test_copy_that_was_read_last_stays_when_another_is_fetched(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.storage.store.EVICT_SECONDS", 0.0)
    base.use(settings.model_copy(update={"cache_bytes": 25}))
    url = f"memory://{tmp_path.name}"
    first, second, third = (Storage(url, tmp_path / "one").put(data * 10) for data in (b"1", b"2", b"3"))
    store = Storage(url, tmp_path / "two")
    for hours, sha256 in ((3, first), (2, second)):
        os.utime(store.local_path(sha256), (time.time() - hours * 3600,) * 2)
    store.local_path(first)
    store.local_path(third)
    assert {path.name for path in store.folder.glob("??/*")} == {first, third}


def test_file_larger_than_the_cache_is_fetched_once(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.storage.store.EVICT_SECONDS", 0.0)
    base.use(settings.model_copy(update={"cache_bytes": 25}))
    url = f"memory://{tmp_path.name}"
    large = Storage(url, tmp_path / "one").put(b"large" * 10)
    other = Storage(url, tmp_path / "one").put(b"other" * 10)
    store = Storage(url, tmp_path / "two")
    assert store.received_path(large).read_bytes() == b"large" * 10
    store.local_path(other)
    monkeypatch.setattr(store.fs, "get_file", lambda *_: pytest.fail("it is fetched again"))
    assert store.received_path(large).read_bytes() == b"large" * 10


def test_full_disk_keeps_only_copies_that_are_in_use_now(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.use(settings.model_copy(update={"cache_bytes": 5}))
    store = Storage(f"memory://{tmp_path.name}", tmp_path / "cache")
    older, newer = store.put(b"older"), store.put(b"newer")
    os.utime(store.folder / older[:2] / older, (time.time() - 600,) * 2)
    base.use(settings.model_copy(update={"cache_bytes": 5, "reserve_bytes": 1 << 60}))
    monkeypatch.setattr(time, "monotonic", lambda: 1e9)  # long after the last time
    assert store.is_short_of_disk()
    assert {path.name for path in store.folder.glob("??/*")} == {newer}


def test_what_a_writer_left_behind_beside_a_bucket_is_removed(tmp_path: Path, settings: Settings) -> None:
    store = Storage(f"memory://{tmp_path.name}", tmp_path / "cache")
    left, fresh = store.incoming.folder / "left", store.incoming.folder / "fresh"
    for path in (left, fresh):
        path.write_bytes(b"pix")
    os.utime(left, (time.time() - settings.orphan_seconds - 1,) * 2)
    store.put(b"pixels")
    assert list(store.incoming.folder.iterdir()) == [fresh]


class Listing(MemoryFileSystem):
    """A store that keeps its listings if it may, as that of S3 does."""

    protocol = "listing"

    def find(self, path: str, **options: object) -> Any:
        listing = self.dircache[path] if path in self.dircache else super().find(path, **options)
        self.dircache[path] = listing
        return listing


def test_files_that_are_gone_from_a_bucket_are_listed_no_more(tmp_path: Path) -> None:
    fsspec.register_implementation("listing", Listing, clobber=True)
    store = Storage(f"listing://{tmp_path.name}", tmp_path / "cache")
    sha256 = store.put(b"pixels")
    assert list(store.names(0, time.time() + 500)) == [sha256]
    store.delete(sha256)
    assert list(store.names(0, time.time() + 500)) == []


def test_trashed_file_comes_back_when_it_is_read(store: Storage) -> None:
    sha256 = store.put(b"pixels")
    store.trash(sha256)
    assert not store.exists(sha256)
    assert [name for name, _ in store.trashed()] == [sha256]
    assert store.read(sha256) == b"pixels"
    assert list(store.trashed()) == []


@pytest.mark.parametrize("quicker", ["before the search", "before the move"])
def test_trashed_file_is_read_though_another_reader_restores_it_first(
    store: Storage, quicker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = store.put(b"pixels")
    assert store.trash(sha256)
    restore = store.restore

    def late(name: str) -> bool:
        if quicker == "before the search":
            restore(name)
            return restore(name)
        listed = store.fs.ls

        def list_then_lose(*given: Any, **named: Any) -> Any:
            days = listed(*given, **named)
            monkeypatch.undo()
            restore(name)
            return days

        monkeypatch.setattr(store.fs, "ls", list_then_lose, raising=False)
        return restore(name)

    monkeypatch.setattr(store, "restore", late)
    assert store.read(sha256) == b"pixels"


@pytest.mark.parametrize("kind", ["folder", "remote"])
def test_trash_works_whatever_characters_the_path_has(kind: str, tmp_path: Path) -> None:
    name = "a [b]*?{c}"
    store = Storage(str(tmp_path / name) if kind == "folder" else f"memory://{tmp_path.name}/{name}", tmp_path)
    kept, lost = store.put(b"kept"), store.put(b"lost")
    assert store.trash(kept)
    assert store.trash(lost)
    days = dict(store.trashed())
    assert set(days) == {kept, lost}
    store.purge(lost, days[lost])
    assert not store.restore(lost)
    assert store.restore(kept)
    assert store.read(kept) == b"kept"
    assert list(store.trashed()) == []


def stored_at_its_place(store: Storage, sha256: str, data: bytes) -> None:
    """Write other bytes over a stored file, as if the disk had damaged them."""
    if store.is_local:
        (store.folder / sha256[:2] / sha256).write_bytes(data)
    else:
        store.fs.pipe_file(f"{store.root}/{sha256[:2]}/{sha256}", data)


def test_damaged_copy_in_the_trash_does_not_replace_the_file_that_was_stored_again(store: Storage) -> None:
    sha256 = store.put(b"pixels")
    stored_at_its_place(store, sha256, b"rotten")
    assert store.trash(sha256)
    assert store.put(b"pixels") == sha256
    assert not store.restore(sha256)
    assert store.read(sha256) == b"pixels"
    assert list(store.trashed()) == []


def test_copies_of_several_days_in_the_trash_leave_it_together(store: Storage) -> None:
    sha256 = store.put(b"pixels")
    assert store.trash(sha256)
    [(_, day)] = store.trashed()
    store.fs.makedirs(f"{store.root}/trash/2020-01-01", exist_ok=True)
    store.fs.cp_file(f"{store.root}/trash/{day}/{sha256}", f"{store.root}/trash/2020-01-01/{sha256}")
    assert store.restore(sha256)
    assert store.read(sha256) == b"pixels"
    assert list(store.trashed()) == []


def test_trash_works_on_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = Storage(str(tmp_path / "files"), tmp_path / "cache")
    sha256 = store.put(b"pixels")
    assert store.trash(sha256)
    assert store.restore(sha256)
    assert store.trash(sha256)
    store.put(b"pixels")
    assert not store.restore(sha256)
    assert store.read(sha256) == b"pixels"
    assert list(store.trashed()) == []


def test_purged_file_is_gone(store: Storage) -> None:
    sha256 = store.put(b"pixels")
    store.trash(sha256)
    [(_, day)] = store.trashed()
    store.purge(sha256, day)
    with pytest.raises(FileMissing):
        store.local_path(sha256)


def test_file_that_is_young_again_is_not_trashed(store: Storage) -> None:
    listed_at = time.time() - 100
    sha256 = store.put(b"pixels")
    assert not store.trash(sha256, before=listed_at)
    assert store.exists(sha256)


def test_file_that_is_put_while_it_moves_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Storage(str(tmp_path / "files"), tmp_path / "cache")
    sha256 = store.put(b"pixels")
    old = time.time() - 1000
    os.utime(store.local_path(sha256), (old, old))
    move = store._move

    def put_first(source: str, target: str) -> None:
        monkeypatch.undo()
        store.put(b"pixels")
        move(source, target)

    monkeypatch.setattr(store, "_move", put_first)
    assert not store.trash(sha256, before=time.time() - 500)
    assert store.exists(sha256)


def test_what_another_sweeper_was_quicker_with_is_passed_over(store: Storage) -> None:
    sha256 = store.put(b"pixels")
    assert store.trash(sha256)
    assert not store.trash(sha256)
    [(_, day)] = store.trashed()
    store.purge(sha256, day)
    store.purge(sha256, day)
    assert not store.restore(sha256)
    (store.incoming.folder / "gone").symlink_to("nowhere")
    assert store.incoming.remove_old(-1) == 0


def test_sync_takes_either_store(store: Storage) -> None:
    sha256 = store.put(b"pixels", durable=False)
    store.sync()
    assert store.read(sha256) == b"pixels"


def test_remote_store_that_refuses_files_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Storage(f"memory://{tmp_path.name}", tmp_path / "cache")
    store.check_writable()

    def refuses(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(store.fs, "pipe_file", refuses)
    with pytest.raises(PermissionError):
        store.check_writable()


def test_looking_whether_a_store_can_be_written_leaves_no_file_of_ours(store: Storage) -> None:
    store.check_writable()
    assert list(store.names(0, time.time() + 500)) == []


def errors_of_all_calls(store: Storage) -> list[type[OSError]]:
    """The kinds of OSError that every method raises that needs the bucket."""
    sha256, day = "0" * 64, datetime.now(UTC).date()
    calls = (
        store.owner,
        store.check_writable,
        lambda: store.mark("me"),
        lambda: store.put(b"pixels"),
        lambda: store.read(sha256),
        lambda: store.exists(sha256),
        lambda: list(store.names(0, 1)),
        lambda: store.delete(sha256),
        lambda: store.trash(sha256),
        lambda: list(store.trashed()),
        lambda: store.restore(sha256),
        lambda: store.purge(sha256, day),
    )
    kinds = []
    for call in calls:
        with pytest.raises(OSError) as caught:
            call()
        kinds.append(caught.type)
    return kinds


def test_bucket_that_cannot_be_reached_is_an_os_error(tmp_path: Path) -> None:
    store = Storage(f"bucket://{tmp_path.name}", tmp_path / "cache")
    with bucket_away():
        assert set(errors_of_all_calls(store)) == {OSError}
        with pytest.raises(OSError, match="EndpointConnectionError") as caught:
            store.owner()
    assert caught.value.errno == errno.EREMOTEIO
    assert store.owner() is None


def test_process_without_a_cache_keeps_no_copy_of_what_it_puts_into_a_bucket(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "current", lambda: settings.model_copy(update={"cache_bytes": 0}))
    store = Storage(f"memory://{tmp_path.name}", tmp_path / "cache")
    with store.receive() as receiver:
        receiver.write(b"an upload")
        received = receiver.publish()
    stored = store.put(b"pixels")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert (store.read(received.sha256), store.read(stored)) == (b"an upload", b"pixels")


@pytest.mark.parametrize(
    "code", ["ExpiredToken", "400", "403", "InvalidAccessKeyId", "NoSuchBucket", "SlowDown", "XMinioStorageFull"]
)
def test_refusal_of_a_bucket_is_an_os_error_with_its_code(tmp_path: Path, code: str) -> None:
    store = Storage(f"bucket://{tmp_path.name}", tmp_path / "cache")
    with bucket_away(code):
        assert set(errors_of_all_calls(store)) == {OSError}
        with pytest.raises(OSError, match=f"{code}$") as caught:
            store.owner()
    assert caught.value.errno == errno.EREMOTEIO
    assert "Meier" not in str(caught.value)


def test_code_with_other_characters_is_not_repeated(tmp_path: Path) -> None:
    store = Storage(f"bucket://{tmp_path.name}", tmp_path / "cache")
    with bucket_away("of Meier"), pytest.raises(OSError, match=r"unknown error$"):
        store.owner()


def test_full_disk_of_this_machine_is_not_taken_for_an_error_of_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Storage(f"bucket://{tmp_path.name}", tmp_path / "cache")
    sha256 = store.put(b"pixels")
    store._place(sha256).unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MemoryFileSystem, "get_file", full)
    with pytest.raises(OSError, match="No space") as caught:
        store.read(sha256)
    assert caught.value.errno == errno.ENOSPC


def test_line_break_at_the_end_of_a_key_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "mine\n")
    Storage("s3://bucket/prefix", tmp_path / "cache")
    keys = Session().get_credentials().get_frozen_credentials()
    assert (keys.access_key, keys.secret_key, keys.token) == ("mine", "mine", "mine")


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "call", [lambda store: store.put(b"pixels"), lambda store: store.read("0" * 64)], ids=["put", "read"]
)
def test_s3_that_does_not_answer_is_an_os_error(
    call: Callable[[Storage], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        values = {"ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        keys = {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "mine", "DEFAULT_REGION": "us-east-1"}
        for name, value in (values | keys).items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setattr(S3FileSystem, "read_timeout", 0.2)
        store = Storage(f"s3://bucket/{tmp_path.name}", tmp_path / "cache")
        with pytest.raises(OSError, match=r"ReadTimeoutError$"):
            call(store)
    assert list(store.incoming.folder.iterdir()) == []


@pytest.mark.slow
def test_s3_that_cannot_be_reached_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        values = {"ENDPOINT_URL": f"http://127.0.0.1:{closed.getsockname()[1]}", "MAX_ATTEMPTS": "1"}
        keys = {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "mine", "DEFAULT_REGION": "us-east-1"}
        for name, value in (values | keys).items():
            monkeypatch.setenv(f"AWS_{name}", value)
        assert errors_of_all_calls(Storage("s3://bucket/prefix", tmp_path / "cache"))
