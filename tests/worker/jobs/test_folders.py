"""Pictures without a series of their own: a folder is a series, whatever separates the folders of a name."""

import io
from collections import Counter
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select

from db.database import read_scope, session_scope
from db.ledger import jobs
from db.models import Finding, Job, Series, Slice, User
from db.models.slices import folder_of
from db.storage import storage
from tests.builders.files import png
from worker.imaging.display_names import display_name
from worker.jobs import ingest, predict

pytestmark = pytest.mark.usefixtures("champion")


def work() -> None:
    while ingest.unpack_next("w") or predict.predict_next("w"):
        pass


def pages(seed: int, count: int) -> bytes:
    """A TIFF of so many pages."""
    first, *others = [Image.open(io.BytesIO(png(seed + page))) for page in range(count)]
    file = io.BytesIO()
    first.save(file, "TIFF", save_all=True, append_images=others)
    return file.getvalue()


def series_of(job: Job) -> dict[str, list[tuple[str, int]]]:
    """The slices of each series by its name: the file and the rank of each."""
    query = select(Series.label, Slice.name, Slice.series_rank).join(Slice, Slice.series_id == Series.id)
    series: dict[str, list[tuple[str, int]]] = {}
    with read_scope() as s:
        for label, name, rank in s.execute(query.where(Slice.job_id == job.id).order_by(Slice.series_rank)):
            series.setdefault(label, []).append((name, rank))
    return series


def told(job: Job) -> Counter[tuple[Any, ...]]:
    with read_scope() as s:
        rows = s.scalars(select(Finding).where(Finding.job_id == job.id))
        return Counter((row.level, row.verdict, row.reason, row.score, row.used) for row in rows)


def test_backslashes_separate_folders_as_slashes_do(ann: User, submit: Any) -> None:
    slashes = {f"p{patient}/{n}.png": png(10 * patient + n) for patient in range(3) for n in range(3)}
    first = submit(ann, slashes)
    second = submit(ann, {name.replace("/", "\\"): data for name, data in slashes.items()})
    mixed = submit(ann, {name.replace("/", "\\/"[n % 2]): data for n, (name, data) in enumerate(slashes.items())})
    work()
    assert told(first) == told(second) == told(mixed)
    assert told(first).total() == 9
    assert set(series_of(second)) == {"p0", "p1", "p2"}
    assert [name for name, _ in series_of(second)["p1"]] == ["p1\\0.png", "p1\\1.png", "p1\\2.png"]


@pytest.mark.parametrize(
    ("raw", "folder"),
    [
        ("1.png", ""),
        ("a/b/1.png", "a/b"),
        ("a\\b\\1.png", "a/b"),
        ("a\\b/1.png", "a/b"),
        ("p\\x01.png", "p"),
        ("p\\001.png", "p"),
        ("p\\new1.png", "p"),
        ("p1\\u0001.png", "p1"),
        ("p1\\u{0001}.png", "p1"),
        ("p1\\x0a.png", "p1"),
        ("p1\\0001.png", "p1"),
        ("p1\\U0001f600.png", "p1"),
        ("p/1\u3000a.png", "p"),
        ("p/1\xa0a.png", "p"),
        ("p/1\u202ea.png", "p"),
        ("p/1\na.png", "p"),
        ("p/1\x7f\x00\t\x85.png", "p"),
        ("p\ta/1.png", "p<U+0009>a"),
        ("p\\nurse\\1.png", "p/nurse"),
        ("p/1\udce9.png", "p"),  # a byte that is not UTF-8
    ],
)
def test_folder_of_a_name_as_it_is_shown(raw: str, folder: str) -> None:
    assert folder_of(display_name(raw)) == folder


def test_two_patients_of_windows_stay_two_if_their_slices_look_like_escapes(ann: User, submit: Any) -> None:
    job = submit(ann, {f"p{patient}\\u000{n}.png": png(10 * patient + n) for patient in (1, 2) for n in (1, 2, 3)})
    work()
    assert {label: len(slices) for label, slices in series_of(job).items()} == {"p1": 3, "p2": 3}
    assert Counter(level for level, *_ in told(job).elements())["patient"] == 2


def test_each_file_of_several_pages_is_a_series(ann: User, submit: Any) -> None:
    names = [f"scans/patient{n}.tif" for n in range(3)]
    job = submit(ann, {name: pages(10 * n, 5) for n, name in enumerate(names)})
    single = submit(ann, {name: pages(10 * n, 1) for n, name in enumerate(names)})
    work()
    assert series_of(job) == {name: [(name, rank) for rank in range(5)] for name in names}
    assert series_of(single) == {"scans": [(name, rank) for rank, name in enumerate(names)]}


def test_loose_files_of_several_pages_are_a_series_each(ann: User) -> None:
    files = []
    for n, count in enumerate((4, 3, 1, 1)):
        receiver = storage().receive()
        receiver.write(pages(10 * n, count))
        received = receiver.close()
        files.append(jobs.ReceivedFile(f"{n}.tif", received.sha256, received.size, "file", 1))
    with session_scope() as s:
        job = jobs.create_job(s, owner=ann, files=files)[0]
    work()
    assert {label: len(slices) for label, slices in series_of(job).items()} == {
        "0.tif": 4,
        "1.tif": 3,
        "(no folder)": 2,
    }
