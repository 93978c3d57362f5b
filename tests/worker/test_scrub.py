"""Stored files are read again, bit by bit, and those that are damaged are reported until they are mended."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from cli.commands import doctor
from db.database import read_scope, session_scope
from db.installation import StorageAway
from db.models import DamagedFile, Dataset, Installation, ModelVersion, Slice, User, Work
from db.settings import Settings
from db.storage import storage
from db.storage.store import MARKER
from tests.worker.conftest import Submit
from worker import scrub
from worker.jobs.ingest import unpack_next

ENOUGH = 1 << 20


def damaged() -> list[str]:
    with read_scope() as s:
        return list(s.scalars(select(DamagedFile.sha256)))


def damage(sha256: str) -> Path:
    """Change the file's bytes, but not its length."""
    path = storage().local_path(sha256)
    path.write_bytes(bytes(len(path.read_bytes())))
    return path


def test_damaged_file_is_reported_until_it_is_whole_again(database: Settings) -> None:
    data = [f"file {number}".encode() for number in range(5)]
    names = [storage().put(one) for one in data]
    damage(names[3])
    reader = scrub.begin()
    assert sorted(scrub.scrub(reader, ENOUGH).whole) == sorted(set(names) - {names[3]})
    assert damaged() == [names[3]]
    scrub.scrub(reader, ENOUGH)
    assert damaged() == [names[3]]
    [report] = [one for one in doctor.database(database) if one.check == "stored files"]
    assert report.state == "fail"
    assert names[3] in report.detail
    storage().put(data[3])
    scrub.scrub(reader, ENOUGH)
    assert damaged() == []


def test_damaged_file_that_is_gone_is_not_reported_any_more(database: Settings) -> None:
    path = damage(storage().put(b"lost"))
    scrub.scrub(scrub.begin(), ENOUGH)
    assert len(damaged()) == 1
    path.unlink()
    scrub.scrub(scrub.begin(), ENOUGH)
    assert damaged() == []


@pytest.mark.parametrize("was_damaged", [False, True])
def test_missing_file_is_reported_until_it_is_there_again(
    was_damaged: bool, database: Settings, champion: ModelVersion
) -> None:
    data = b"weights"
    sha256 = storage().put(data)
    with session_scope() as s:
        s.get_one(ModelVersion, champion.id).files = {**champion.files, "weights.h5": sha256}
    scrub.scrub(scrub.begin(), ENOUGH)
    assert damaged() == []
    if was_damaged:
        damage(sha256)
        scrub.scrub(scrub.begin(), ENOUGH)
    storage().local_path(sha256).unlink()
    for _ in range(2):
        scrub.scrub(scrub.begin(), ENOUGH)
        assert damaged() == [sha256]
    [report] = [one for one in doctor.database(database) if one.check == "stored files"]
    assert (report.state, sha256 in report.detail) == ("fail", True)
    storage().put(data)
    scrub.scrub(scrub.begin(), ENOUGH)
    assert damaged() == []


def test_hash_in_the_name_of_an_archive_is_no_file(database: Settings) -> None:
    sources = [{"filename": f"{'5' * 64}.zip", "sha256": storage().put(b"an archive")}]
    with session_scope() as s:
        s.add(Dataset(name="site", number=1, sources=sources, state=Work.DONE))
    scrub.scrub(scrub.begin(), ENOUGH)
    assert damaged() == []


def test_file_that_nothing_refers_to_any_more_is_not_missing(
    database: Settings, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub, "_find_missing", lambda _: ["5" * 64])  # the search began before it was removed
    scrub.scrub(scrub.begin(), ENOUGH)
    assert damaged() == []


def test_file_in_the_trash_is_not_missing(database: Settings, champion: ModelVersion) -> None:
    sha256 = next(iter(champion.files.values()))
    assert storage().trash(sha256)
    scrub.scrub(scrub.begin(), ENOUGH)
    assert damaged() == []


def test_only_the_lost_file_of_a_job_is_missing(
    champion: ModelVersion, ann: User, submit: Submit, slices: Callable[[int], dict[str, bytes]]
) -> None:
    submit(ann, slices(3))
    unpack_next("a worker")
    scrub.scrub(scrub.begin(), ENOUGH)
    assert damaged() == []
    with read_scope() as s:
        sha256 = s.scalars(select(Slice.sha256)).all()[1]
    assert sha256 is not None
    storage().local_path(sha256).unlink()
    scrub.scrub(scrub.begin(), ENOUGH)
    assert damaged() == [sha256]


def test_nothing_is_reported_missing_while_the_storage_is_away(database: Settings, champion: ModelVersion) -> None:
    (storage().folder / MARKER).unlink()
    with pytest.raises(StorageAway):
        scrub.scrub(scrub.begin(), ENOUGH)
    assert damaged() == []


def test_turn_reads_no_more_than_it_may_and_the_next_goes_on(database: Settings) -> None:
    large = storage().put(os.urandom(50_000))
    reader = scrub.begin()
    turns = [scrub.scrub(reader, 20_000) for _ in range(3)]
    assert [turn.whole for turn in turns] == [[], [], [large]]


def test_new_reader_goes_on_where_the_last_one_stopped(database: Settings) -> None:
    names = sorted(storage().put(f"file {number}".encode()) for number in range(4))
    found = scrub.scrub(scrub.begin(), 1).whole + scrub.scrub(scrub.begin(), 5000).whole
    assert found == names[:2]
    rest = scrub.scrub(scrub.begin(), ENOUGH)
    assert (rest.whole, rest.last) == (names[2:], "")
    with read_scope() as s:
        assert s.scalars(select(Installation)).one().reread_at is not None


def test_sweeper_finds_it_by_itself(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "TURN_SECONDS", 0.01)
    sha256, stop = damage(storage().put(b"a file")).name, threading.Event()
    before = set(threading.enumerate())
    scrub.start(stop)
    [thread] = set(threading.enumerate()) - before
    while damaged() != [sha256]:
        assert thread.is_alive()
    stop.set()
    thread.join()
