"""The reaper removes what no row names, and nothing where the database may be the wrong one."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db import database as base
from db.clock import from_now
from db.database import read_scope, session_scope
from db.datasets.datasets import create_dataset
from db.datasets.job_deletion import delete_job
from db.installation import ForeignStorage, adopt_storage, check_storage, this_installation
from db.ledger.jobs import ReceivedFile, create_job
from db.models import (
    Dataset,
    Evaluation,
    Installation,
    Job,
    JobState,
    LabelledSlice,
    ModelVersion,
    ReleasedFile,
    Upload,
    User,
    Work,
)
from db.settings import Settings
from db.storage import FileMissing, storage
from db.training.dataset_deletion import delete_dataset
from worker import reap, sweep

DAY = 24 * 3600.0
Store = Callable[..., str]


@pytest.fixture
def database(database: Settings) -> Settings:
    """A database that was made ten days ago."""
    made(10)
    return database


def made(days_ago: float) -> None:
    """Say that the database was made so long ago."""
    with session_scope() as s:
        s.execute(update(Installation).values(created_at=from_now(-days_ago * DAY)))


@pytest.fixture
def store(database: Settings) -> Store:
    """Stores bytes as if some days ago."""

    def act(data: bytes, days_ago: float = 2) -> str:
        sha256 = storage().put(data)
        then = time.time() - days_ago * DAY
        os.utime(storage().local_path(sha256), (then, then))
        return sha256

    return act


def test_old_file_without_a_row_goes_to_the_trash_and_comes_back(store: Store) -> None:
    old, young = store(b"old"), store(b"young", 0.5)
    assert reap.reap() == reap.Reaped(trashed=1, restored=0, deleted=0)
    assert (storage().exists(old), storage().exists(young)) == (False, True)
    assert reap.restore_all() == 1
    assert storage().exists(old)


def test_file_that_was_stored_again_is_not_replaced_from_the_trash(store: Store, champion: ModelVersion) -> None:
    sha256 = store(b"weights")
    place = storage().local_path(sha256)
    place.write_bytes(b"rotten")
    assert storage().trash(sha256)
    storage().put(b"weights")
    with session_scope() as s:
        s.execute(update(ModelVersion).values(files={"weights": sha256}))
    assert reap.reap() == reap.Reaped(trashed=0, restored=0, deleted=0)
    assert place.read_bytes() == b"weights"
    assert list(storage().trashed()) == []


def test_file_that_is_named_after_all_leaves_the_trash(store: Store, champion: ModelVersion) -> None:
    sha256 = store(b"weights")
    reap.reap()
    with session_scope() as s:
        s.get_one(ModelVersion, champion.id).files = {**champion.files, "weights.h5": sha256}
    assert reap.reap() == reap.Reaped(trashed=0, restored=1, deleted=0)
    assert storage().exists(sha256)


def test_file_that_is_named_while_it_is_trashed_comes_back(
    store: Store, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256, trash = store(b"weights"), storage().trash

    def name_it_after(name: str, before: float) -> bool:
        moved = trash(name, before)
        with session_scope() as s:
            s.get_one(ModelVersion, champion.id).files = {**champion.files, "weights.h5": sha256}
        return moved

    monkeypatch.setattr(storage(), "trash", name_it_after)
    assert reap.reap() == reap.Reaped(trashed=0, restored=1, deleted=0)
    assert storage().exists(sha256)


def test_file_that_is_put_again_during_a_round_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256, unnamed = store(b"old"), reap.unnamed

    def put_again(names: Sequence[str]) -> list[str]:
        storage().put(b"old")
        return unnamed(names)

    monkeypatch.setattr(reap, "unnamed", put_again)
    assert reap.reap().trashed == 0
    assert storage().exists(sha256)


def test_trash_is_deleted_after_its_days(store: Store, database: Settings) -> None:
    sha256 = store(b"old")
    reap.reap()
    assert reap.reap().deleted == 0
    base.use(database.model_copy(update={"trash_days": -1}))
    assert reap.reap().deleted == 1
    with pytest.raises(FileMissing):
        storage().local_path(sha256)


def test_empty_database_beside_an_old_storage_reaps_nothing(store: Store) -> None:
    made(0)
    sha256 = store(b"somebody's", 3)
    with pytest.raises(ForeignStorage, match="older than this database"):
        reap.reap()
    assert storage().exists(sha256)
    assert storage().owner() is None


def test_storage_of_another_database_is_left_alone_until_adopted(store: Store) -> None:
    sha256 = store(b"somebody's")
    storage().mark("another")
    with pytest.raises(ForeignStorage, match="another database"):
        reap.reap()
    with session_scope() as s, pytest.raises(ForeignStorage):
        check_storage(s)
    assert storage().exists(sha256)
    with session_scope() as s:
        adopt_storage(s)
    assert reap.reap().trashed == 1


def test_file_that_is_older_than_the_database_is_left_alone(store: Store) -> None:
    reap.reap()  # the storage is this database's from now on
    sha256 = store(b"old", 11)
    assert reap.reap().trashed == 0
    assert storage().exists(sha256)


@pytest.mark.parametrize("limit", ["FEW", "MANY"])
def test_round_that_finds_very_many_files_moves_none(limit: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reap, limit, 3)
    stored = [store(bytes([number])) for number in range(5)]
    with pytest.raises(reap.TooManyOrphans, match="5 of 5"):
        reap.reap()
    assert all(storage().exists(sha256) for sha256 in stored)
    assert reap.reap(confirmed=True).trashed == 5


def test_round_moves_a_twentieth_of_all_files_and_no_more(
    store: Store, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reap, "FEW", 1)
    named = {f"{number}": store(bytes([number])) for number in range(38)}
    with session_scope() as s:
        s.get_one(ModelVersion, champion.id).files = {**champion.files, **named}
    *_, third = (store(data) for data in (b"a", b"b", b"c"))
    with pytest.raises(reap.TooManyOrphans, match="3 of 41"):
        reap.reap()
    storage().delete(third)
    assert reap.reap().trashed == 2


def test_sweeper_goes_on_beside_the_wrong_storage(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    storage().mark("another")
    with caplog.at_level(logging.WARNING):
        sweep.reap_and_log()
    assert "no file is reaped" in caplog.text


def test_files_in_a_bucket_go_to_its_trash(database: Settings, tmp_path: Path) -> None:
    base.use(database.model_copy(update={"storage_url": f"memory://{tmp_path.name}", "orphan_seconds": -1.0}))
    sha256 = storage().put(b"nobody's")
    assert reap.reap().trashed == 1
    assert not storage().exists(sha256)
    assert storage().read(sha256) == b"nobody's"


def release(*names: str) -> None:
    with session_scope() as s:
        s.add_all(ReleasedFile(sha256=name) for name in names)


def released() -> set[str]:
    with session_scope() as s:
        return set(s.scalars(select(ReleasedFile.sha256)))


def test_files_of_deleted_jobs_do_not_count_as_too_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("FEW", "MANY"):
        monkeypatch.setattr(reap, limit, 1)
    files = [store(bytes([number])) for number in range(5)]
    release(*files)
    unexpected = [store(b"a"), store(b"b")]
    with pytest.raises(reap.TooManyOrphans, match="2 of 7"):
        reap.reap()
    assert not any(storage().exists(sha256) for sha256 in files), "whatever else is unused"
    assert all(storage().exists(sha256) for sha256 in unexpected)
    with read_scope() as s:
        assert this_installation(s).unexpected_files == 2
    storage().delete(unexpected[0])
    assert reap.reap().trashed == 1
    with read_scope() as s:
        assert this_installation(s).unexpected_files == 0
    assert reap.restore_all() == 6


def test_purge_deletes_what_nothing_refers_to(store: Store, champion: ModelVersion) -> None:
    unused, used = store(b"nobody's"), store(b"weights")
    assert reap.reap().trashed == 2
    trash = storage().folder / "trash"
    [today] = trash.iterdir()
    shutil.copytree(today, trash / "2020-01-01")  # the files came there twice
    (trash / "2020-01-01" / used).unlink()
    with session_scope() as s:
        s.get_one(ModelVersion, champion.id).files = {**champion.files, "weights.h5": used}
    assert reap.purge() == 2
    assert [storage().exists(sha256) for sha256 in (unused, used)] == [False, True]
    assert reap.restore_all() == 0


def test_files_of_other_programs_in_the_storage_are_passed_over(store: Store, database: Settings) -> None:
    sha256 = store(b"nobody's")
    assert reap.reap().trashed == 1
    folder = storage().folder
    (folder / "trash" / ".DS_Store").touch()
    (folder / "trash" / "2020-01-01").mkdir()
    (folder / "trash" / "2020-01-01" / ".DS_Store").touch()
    stored = store(b"another")
    (folder / stored[:2] / f".{stored}.x7Yz").touch()
    assert reap.reap(confirmed=True).trashed == 1
    assert reap.restore_all() == 2
    assert storage().exists(sha256)


def test_file_of_a_deleted_job_that_something_else_uses_stays(store: Store, champion: ModelVersion) -> None:
    shared = store(b"shared")
    with session_scope() as s:
        s.get_one(ModelVersion, champion.id).files = {**champion.files, "weights.h5": shared}
    release(shared)
    assert reap.reap().trashed == 0
    assert storage().exists(shared)


def job_of(owner: User, *files: str) -> Job:
    """A cancelled job of these stored files."""
    received = [ReceivedFile("a.png", sha256, 1, "loose", 1) for sha256 in files]
    with session_scope() as s:
        job, _ = create_job(s, owner=owner, files=received)
        s.execute(update(Upload).values(state=Work.CANCELLED))
        s.execute(update(Job).values(state=JobState.CANCELLED))
    return job


def test_files_of_a_deleted_job_go_to_the_trash_unless_others_use_them(
    store: Store, champion: ModelVersion, ann: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("FEW", "MANY"):
        monkeypatch.setattr(reap, limit, 0)
    shared, of_dataset, *own = (store(bytes([number])) for number in range(5))
    deleted, other = job_of(ann, shared, of_dataset, *own), job_of(bob, shared)
    with session_scope() as s:
        create_dataset(s, name="site", user=None, files=[ReceivedFile("a.zip", of_dataset, 1, "zip", 1)])
        delete_job(s, deleted, ann)
    assert reap.reap().trashed == 0, "its rows are still there"
    sweep.sweep()
    assert reap.reap().trashed == 3
    assert [storage().exists(sha256) for sha256 in (shared, of_dataset, *own)] == [True, True, False, False, False]
    with session_scope() as s:
        delete_job(s, other, bob)
    sweep.sweep()
    assert reap.reap().trashed == 1


def test_files_of_a_deleted_dataset_go_to_the_trash_unless_others_use_them(
    store: Store, champion: ModelVersion, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("FEW", "MANY"):
        monkeypatch.setattr(reap, limit, 0)
    names = ("archive", "labels", "array", "slice", "scores", "report.html", "of a job", "of another dataset")
    files = {name: store(name.encode()) for name in names}
    job_of(bob, files["of a job"])
    sources = [{"filename": "a.zip", "sha256": files[name]} for name in ("archive", "of a job", "of another dataset")]
    with session_scope() as s:
        dataset = Dataset(name="site", number=1, sources=sources, state=Work.DONE, sha256="site")
        dataset.labels_sha256, dataset.arrays = files["labels"], [files["array"]]
        s.add_all([dataset, Dataset(name="ward", number=1, sources=[sources[2]], state=Work.DONE)])
        s.flush()
        s.add(LabelledSlice(dataset_id=dataset.id, ordinal=0, row=0, name="a.png", sha256=files["slice"]))
        version = s.get_one(ModelVersion, champion.id)
        version.dataset_hash, version.files = "site", {**version.files, "report.html": files["report.html"]}
        done = {"state": Work.DONE, "scores_sha256": files["scores"]}
        s.add(Evaluation(model_version_id=champion.id, dataset_id=dataset.id, **done))
    assert reap.reap().trashed == 0
    with session_scope() as s:
        delete_dataset(s, dataset, "ann")
    sweep.sweep()
    assert reap.reap().trashed == 6
    assert [name for name in names if storage().exists(files[name])] == ["of a job", "of another dataset"]


def test_released_files_are_remembered_until_all_are_old_enough_to_go(store: Store, database: Settings) -> None:
    release("5" * 64)
    reap.reap()
    assert released() == {"5" * 64}
    with session_scope() as s:
        s.execute(update(ReleasedFile).values(released_at=from_now(-2 * database.orphan_seconds - 60)))
    reap.reap()
    assert released() == set()
