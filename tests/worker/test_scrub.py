"""Stored files are read again, bit by bit, and those that are damaged are reported until they are mended."""

import os
import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from cli.commands import doctor
from db.database import read_scope
from db.models import DamagedFile, Installation
from db.settings import Settings
from db.storage import storage
from worker import scrub

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
