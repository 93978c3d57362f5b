"""From archives and reviews to datasets, with the real reader, sandbox, storage and ledger."""

import errno
import hashlib
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select, update

from db import CLASSES, PARTS, database
from db.access.accounts import create_user
from db.clock import from_now
from db.database import read_scope, session_scope
from db.datasets import datasets, slices
from db.datasets.datasets import DatasetView
from db.datasets.slices import EACH_SLICE, about_odd_hu, without_patient
from db.installation import claim_storage
from db.ledger.jobs import ReceivedFile
from db.models import Dataset, Job, LabelledSlice, ModelVersion, Outcome, Review, Slice, User, Work
from db.settings import Settings
from db.storage import storage
from tests.builders.datasets import split_of
from tests.builders.files import png, write_zip
from tests.builders.leases import asked_to_stop, let_leases_end
from tests.builders.statements import locked_at_first
from tests.conftest import the_champion
from tests.worker.conftest import Submit
from tests.worker.imaging.builders import dicom
from worker import reap
from worker.datasets import build, reviewed, sources
from worker.datasets.build import MAX_ATTEMPTS, build_next
from worker.datasets.identity import ONE_FOR_ALL, warning_of
from worker.datasets.report import make_report
from worker.datasets.sources import Source, label_files, list_files
from worker.imaging.archives import zip as zip_module
from worker.imaging.formats.decode import DecodeLimits
from worker.imaging.recipe import PreparedSlice
from worker.imaging.sandbox.pool import DecoderPool
from worker.jobs import ingest

PROJECT = Path(__file__).parents[3]
SLICES = PROJECT / ".." / "shared" / "data" / "sars-cov-2-ct"
HEAD = "file,label,group\n"
Ask = Callable[..., Dataset]
Make = Callable[..., DatasetView]
LabelJobs = Callable[..., DatasetView]


def received(path: Path) -> ReceivedFile:
    receiver = storage().receive()
    receiver.write(path.read_bytes())
    found = receiver.close()
    return ReceivedFile(path.name, found.sha256, found.size, "zip", 1)


def view(dataset: Dataset) -> DatasetView:
    with read_scope() as s:
        return datasets.dataset_view(s, s.get_one(Dataset, dataset.id))


def slices_of(seen: DatasetView, **conditions: Any) -> list[LabelledSlice]:
    query = select(LabelledSlice).where(LabelledSlice.dataset_id == seen.id).filter_by(**conditions)
    with read_scope() as s:
        return list(s.scalars(query.order_by(LabelledSlice.ordinal, LabelledSlice.frame)))


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderPool]:
    """One decoder for all tests: each dataset would start its own."""
    with DecoderPool(1, DecodeLimits()) as pool:
        yield pool


@pytest.fixture(autouse=True)
def one_decoder(decoder: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sources, reviewed):
        monkeypatch.setattr(module, "new_decoders", lambda: nullcontext(decoder))


@pytest.fixture
def ask(settings: Settings, tmp_path: Path) -> Ask:
    """Asks for a dataset of archives, given as `{archive: {name: bytes}}`, and of loose files, or of one archive."""

    def act(
        entries: dict[str, Any], labels: str | bytes | None = None, name: str = "site", folders_first: bool = False
    ) -> Dataset:
        are_files = any(isinstance(each, dict) for each in entries.values())
        files = []
        for sent, content in (entries if are_files else {"set.zip": entries}).items():
            path = tmp_path / sent
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, dict):
                write_zip(path, content)
            else:
                path.write_bytes(content)
            files.append(replace(received(path), filename=sent))
        table = None
        if labels is not None:
            (tmp_path / "l.csv").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
            table = received(tmp_path / "l.csv")
        with session_scope() as s:
            return datasets.create_dataset(
                s, name=name, user=None, files=files, labels=table, folders_first=folders_first
            )

    return act


@pytest.fixture
def make(ask: Ask) -> Make:
    """Asks for a dataset, has it built, and gives what became of it."""

    def act(*arguments: Any, **values: Any) -> DatasetView:
        dataset = ask(*arguments, **values)
        assert build_next("w")
        return view(dataset)

    return act


def make_unreadable_by_hash(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(stored, (0, 0))  # an old file is hashed before it is read
    opened = Path.open

    def open_(path: Path, *given: Any, **named: Any) -> Any:
        if path == stored:
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *given, **named)

    monkeypatch.setattr(Path, "open", open_)


def make_blocks_unreadable(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(*_: Any) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", pread)


HARMS = pytest.mark.parametrize(
    "harm", [make_unreadable_by_hash, make_blocks_unreadable], ids=lambda harm: harm.__name__
)
Harm = Callable[[Path, pytest.MonkeyPatch], None]


@HARMS
def test_dataset_waits_if_a_block_cannot_be_read_once(harm: Harm, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ask(two_classes())
    with session_scope() as s:
        claim_storage(s)
    with monkeypatch.context() as patch:
        harm(storage().local_path(dataset.sources[0]["sha256"]), patch)
        assert build_next("w")
    assert view(dataset).state == "queued"
    let_time_pass()
    assert build_next("w")
    assert view(dataset).state == "ready"


@HARMS
def test_dataset_fails_if_a_block_cannot_be_read_in_any_try(
    harm: Harm, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ask(two_classes())
    with session_scope() as s:
        claim_storage(s)
    harm(storage().local_path(dataset.sources[0]["sha256"]), monkeypatch)
    for _ in range(MAX_ATTEMPTS):
        assert view(dataset).state == "queued"
        assert build_next("w")
        let_time_pass()
    assert (view(dataset).state, "create it again" in view(dataset).error) == ("failed", True)


def test_dataset_waits_while_the_whole_disk_cannot_be_read(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ask(two_classes())
    make_unreadable_by_hash(storage().local_path(dataset.sources[0]["sha256"]), monkeypatch)
    for _ in range(MAX_ATTEMPTS + 1):
        assert build_next("w")
        let_time_pass()
    assert view(dataset).state == "queued"


def let_time_pass() -> None:
    """As if the minute were over for which building was put off."""
    with session_scope() as s:
        s.execute(update(Dataset).values(lease_until=from_now(-1)))


def two_classes(each: int = 3) -> dict[str, bytes]:
    """Slices in class folders, each of its own pixels."""
    folders = ("set/COVID", "set/non-COVID")
    return {f"{folder}/{n}.png": png(n + 100 * at) for at, folder in enumerate(folders) for n in range(each)}


def test_a_folder_for_each_class_makes_a_dataset(make: Make) -> None:
    entries = two_classes() | {"set/readme.txt": b"hello", "set/COVID/cut.png": png(9)[:50]}
    found = make(entries)
    assert (found.state, found.size, found.groups) == ("ready", 6, 6)
    assert found.counts == {"COVID": 3, "non-COVID": 3, "rejected": 2}
    assert found.report.as_json()["labels_from"] == "class folders"
    assert found.report.as_json()["left_out"] == {
        "no_label": {"count": 1, "examples": ["set/readme.txt"]},
        "truncated": {"count": 1, "examples": ["set/COVID/cut.png"]},
    }
    assert found.report.as_json()["modes"] == {"L": {"COVID": 3, "non-COVID": 3}}
    assert found.report.as_json()["sizes"] == {"32 × 32": {"COVID": 3, "non-COVID": 3}}
    with read_scope() as s:
        dataset = s.get_one(Dataset, found.id)
    array = np.load(storage().local_path(dataset.arrays[0]))
    rows = [each for each in slices_of(found) if each.row is not None]
    assert array.shape == (6, 224, 224)
    for each in rows:
        prepared = PreparedSlice(array[each.row], 0, "PNG", "L", 32, 32)
        assert prepared.sha256_pixels == each.pixels_sha256
        assert storage().read(str(each.sha256)) == entries[each.name]
        assert each.bytes == len(entries[each.name])
        assert each.label == int("non" not in each.name)
    assert [each.group for each in rows] == [f"near-{n}" for n in range(6)]


def test_archives_named_for_their_class_need_no_folders(make: Make) -> None:
    found = make({"COVID.zip": {"1.png": png(1), "2.png": png(2)}, "CT_NonCOVID.zip": {"1.png": png(3)}})
    assert found.counts == {"COVID": 2, "non-COVID": 1, "rejected": 0}
    assert [each.name for each in slices_of(found)] == ["COVID/1.png", "COVID/2.png", "CT_NonCOVID/1.png"]


def test_name_of_an_archive_with_class_folders_labels_nothing(make: Make) -> None:
    folders = ("COVID", "Normal", "Pneumonia", "Masks")
    entries = {f"{folder}/{n}.png": png(n + 10 * at) for at, folder in enumerate(folders) for n in range(2)}
    for archive in ("scans.zip", "COVID-19.zip"):
        found = make({archive: entries})
        assert found.counts == {"COVID": 2, "non-COVID": 2, "rejected": 4}
        assert found.report.as_json()["left_out"]["no_label"]["count"] == 4


def test_name_of_a_sent_folder_labels_nothing_if_folders_in_it_name_both_classes(make: Make) -> None:
    sources = {"covid19/p9.zip": {"1.png": png(1)}, "normal/p9.zip": {"1.png": png(2), "2.png": png(3)}}
    found = make(sources)
    assert found.counts == {"COVID": 1, "non-COVID": 2, "rejected": 0}
    sources |= {"covid19/p8.zip": {"COVID/1.png": png(4), "2.png": png(5)}}
    found = make(sources)
    assert found.counts == {"COVID": 3, "non-COVID": 2, "rejected": 0}
    found = make(sources | {"covid19/p7.zip": {"healthy/1.png": png(6), "2.png": png(7)}})
    assert found.counts == {"COVID": 1, "non-COVID": 3, "rejected": 3}


@pytest.mark.parametrize("both", [False, True])
def test_loose_files_beside_archives_in_a_sent_folder_have_its_class_unless_it_has_both(both: bool, make: Make) -> None:
    sources: dict[str, Any] = {f"COVID/{n}.png": png(n) for n in range(3)}
    sources |= {"COVID/p9.zip": {"1.png": png(4)}, "non-COVID/5.png": png(5), "non-COVID/p9.zip": {"1.png": png(6)}}
    if both:
        sources |= {"COVID/normal/7.png": png(7), "COVID/covid19/8.png": png(8)}
    found = make(sources)
    assert found.counts == {"COVID": 1 if both else 4, "non-COVID": 2 + both, "rejected": 4 * both}


def test_csv_gives_label_group_part_and_source(make: Make) -> None:
    lines = ["a/0.png,1,p1,train,north", "a/1.png,0,p2,test,", "2.png,0,p3,validation,CT 2"]
    entries = {f"a/{n}.png": png(n) for n in range(4)}
    found = make(entries, "file,label,group,split,source\n" + "\n".join(lines))
    assert [each.source for each in slices_of(found, reason=None)] == ["north", None, "CT 2"]
    assert found.report.as_json()["labels_from"] == "the CSV that was sent"
    assert found.report.as_json()["groups_from"] == {"CSV": 3}
    rows = [(each.name, each.label, each.group, each.given_part) for each in slices_of(found, reason=None)]
    assert rows == [("a/0.png", 1, "p1", "train"), ("a/1.png", 0, "p2", "test"), ("a/2.png", 0, "p3", "validation")]
    assert found.report.as_json()["left_out"]["no_label"]["examples"] == ["a/3.png"]


def test_doubts_about_a_csv_are_warnings_of_the_report(make: Make) -> None:
    table = "file,label,group,age\np/0.png,0,p,40\nq/1.png,1,q,50\n"
    loose = {"0.png": png(0), "1.png": png(1)}
    for found in (make(loose, table), make(loose | {"labels.csv": table.encode()})):
        assert found.counts == {"COVID": 1, "non-COVID": 1, "rejected": 0}
        ignored, folders, *_ = found.report.warnings
        assert ignored == "these columns of the labels file are ignored: age"
        assert folders.startswith("2 lines of the labels file state folders, but the files were sent without folders")


@pytest.mark.parametrize("above", ["scans/", "/home/me/scans/"])
def test_lines_of_a_csv_may_begin_further_up_if_they_name_the_archive(make: Make, above: str) -> None:
    table = HEAD + f"{above}p/1.png,0,p\n{above}q/1.png,1,q\n"
    for more in ({}, {"more.zip": {"r/1.png": png(2)}}):
        found = make({"scans.zip": {"p/1.png": png(0), "q/1.png": png(1)}} | more, table)
        assert (found.error, found.groups) == (None, 2)
    assert "scans/p/1.png (line 2)" in make({"other.zip": {"p/1.png": png(0), "q/1.png": png(1)}}, table).error


def test_folder_of_the_labels_is_not_a_folder_of_the_files(make: Make) -> None:
    table = b"file,label\nimages/0.png,0\nimages/1.png,1\n"
    found = make({"0.png": png(0), "1.png": png(1), "meta/labels.csv": table})
    assert found.error is None
    assert any("2 lines of the labels file state folders" in warning for warning in found.report.warnings)


BESIDE = b"file,label,group\n0.png,0,p\n1.png,1,q\n"
TWO = {"0.png": png(0), "1.png": png(1)}


@pytest.mark.parametrize(
    "sent",
    [
        {"scans.zip": TWO, "labels.csv": BESIDE},
        {**TWO, "labels.csv": BESIDE, "more.zip": {"unlabelled.png": png(2)}},
        {"scans/0.png": png(0), "scans/1.png": png(1), "labels.csv": BESIDE, "more.zip": {"unlabelled.png": png(2)}},
        {"scans/p.zip": TWO, "scans/labels.csv": BESIDE},
        {"scans/0.png": png(0), "scans/p.zip": {"1.png": png(1)}, "scans/labels.csv": BESIDE},
    ],
    ids=["archive", "files", "folder below", "archive in a folder", "folder"],
)
def test_csv_labels_the_files_that_were_sent_beside_it(make: Make, sent: dict[str, Any]) -> None:
    found = make(sent)
    assert (found.error, found.groups, found.report.groups_from) == (None, 2, {"CSV": 2})
    assert (found.counts["COVID"], found.counts["non-COVID"]) == (1, 1)
    assert found.report.labels_from.endswith("labels.csv among the files")


@pytest.mark.parametrize(
    "path", ["scans/{patient}/{n}.png", "scans/{patient}/{label}/{n}.png", "scans/{label}/{patient}/{n}.png"]
)
def test_patient_folders_of_loose_files_are_groups_as_in_an_archive(make: Make, path: str) -> None:
    slices_at = [(n % 2, path.format(patient=f"p{n % 4}", label=("normal", "COVID")[n % 2], n=n)) for n in range(8)]
    sent = {name: png(n) for n, (_, name) in enumerate(slices_at)}
    if "{label}" not in path:
        sent["scans/labels.csv"] = ("file,label\n" + "".join(f"{name},{label}\n" for label, name in slices_at)).encode()
    more = {"more.zip": {"unlabelled.png": png(9)}}
    loose, packed = make(sent | more), make({"all.zip": sent} | more)
    assert (loose.error, loose.groups, loose.report.groups_from) == (None, 4, {"folders": 8})
    assert groups_of(loose) == {name.removeprefix("all/"): group for name, group in groups_of(packed).items()}


def test_numbered_folder_of_loose_files_is_not_a_class_beside_words_as_in_an_archive(make: Make) -> None:
    sent = {f"scans/{folder}/{n}.png": png(n) for n, folder in enumerate(("0", "COVID", "normal"))}
    more = {"more.zip": {"unlabelled.png": png(9)}}
    counts = {"COVID": 1, "non-COVID": 1, "rejected": 2}
    assert (make(sent | more).counts, make({"all.zip": sent} | more).counts) == (counts, counts)


def test_csv_in_a_folder_labels_only_this_folder(make: Make) -> None:
    classes = {"COVID/2.png": png(2), "normal/3.png": png(3)}
    found = make({"scans/0.png": png(0), "scans/1.png": png(1), "scans/labels.csv": BESIDE, "more.zip": classes})
    assert found.report.labels_from == "scans/labels.csv among the files and class folders"
    assert found.counts == {"COVID": 2, "non-COVID": 2, "rejected": 0}


def test_two_csvs_of_the_same_files_are_refused(make: Make) -> None:
    found = make({"scans.zip": TWO | {"labels.csv": BESIDE}, "labels.csv": BESIDE})
    assert found.error == "there are 2 files of labels (scans/labels.csv and labels.csv); send only one, as the labels"


def test_csv_in_a_given_folder_labels_the_archives_in_it(settings: Settings, tmp_path: Path) -> None:
    """The command line packs the loose files of a folder into a TAR with the folder's name."""
    write_zip(tmp_path / "packed", {"0.png": png(0), "labels.csv": BESIDE})
    write_zip(tmp_path / "inner", {"1.png": png(1)})
    packed, inner = (received(tmp_path / name).sha256 for name in ("packed", "inner"))
    files = list_files([Source(packed, "scans.tar", 0), Source(inner, "scans/p.zip", 0)], lambda: None)
    labels = label_files(files, None)
    assert {files[index].name: label.label for index, label in labels.of_files.items()} == {
        "scans/0.png": 0,
        "scans/p/1.png": 1,
    }


def test_slice_without_a_group_gets_the_group_of_its_near_identical_slice(make: Make) -> None:
    entries = {"normal/p/0.png": png(0), "COVID/q/1.png": png(1)}
    found = make(entries | {"COVID/again.jpg": again(png(1)), "COVID/2.png": png(2)})
    assert [each.group for each in slices_of(found)] == ["p", "q", "q", "near-3"]
    assert found.report.as_json()["groups_from"] == {"folders": 2, "near-identical slices": 2}


def of_patients(each: int = 8) -> dict[str, bytes]:
    """Slices of four patients a class, each patient's in a folder of its own."""
    folders = (f"set/{name}/{name[0]}{patient}" for name in ("COVID", "non-COVID") for patient in range(4))
    return {f"{folder}/{n}.png": png(n + 100 * at) for at, folder in enumerate(folders) for n in range(each)}


def test_patient_folder_is_a_group_that_stays_in_one_part(make: Make) -> None:
    found = make(of_patients())
    assert found.report.as_json()["groups_from"] == {"folders": 64}
    assert not any("no patient" in warning for warning in found.report.as_json()["warnings"])
    with session_scope() as s:
        split = split_of(s, s.get_one(Dataset, found.id))
        rows = {part: slices.rows_of(s, found.id, split, part) for part in PARTS}
    folders = {part: {row.name.split("/")[2] for row in those} for part, those in rows.items()}
    assert sum(map(len, folders.values())) == len(set().union(*folders.values())) == 8


def test_split_in_some_archives_only_is_refused(make: Make) -> None:
    table = "file,label,split\n1.png,1,train\n2.png,0,test\n"
    told = {"1.png": png(1), "2.png": png(2), "labels.csv": table.encode()}
    found = make({"a.zip": told, "b.zip": two_classes()})
    assert found.state == "failed"
    assert found.error.startswith("2 of 8 slices have a split, the others have none (a/labels.csv among the files and")


def test_group_of_csv_or_dicom_goes_before_folder(make: Make) -> None:
    entries = {"COVID/p1/1.png": png(1), "COVID/p2/2": ct(0, StudyInstanceUID="1.2.3"), "normal/p3/3.png": png(3)}
    by_header = [each.group for each in slices_of(make(entries))]
    assert by_header[0] == "p1"
    assert by_header[1].startswith("patient-")
    found = make(entries, HEAD + "COVID/p1/1.png,1,first\nCOVID/p2/2,1,second\nnormal/p3/3.png,0,third\n")
    assert [each.group for each in slices_of(found)] == ["first", "second", "third"]
    assert found.report.as_json()["groups_from"] == {"CSV": 3}


def test_groups_of_a_csv_that_differ_only_in_letter_case_are_one(make: Make) -> None:
    table = HEAD + "0.png,0,Pat3\n1.png,1,pat3\n2.png,1,PAT3\n3.png,1,p4\n"
    found = make({f"{n}.png": png(n) for n in range(4)}, table)
    assert [each.group for each in slices_of(found)] == ["Pat3", "Pat3", "Pat3", "p4"]


@pytest.mark.parametrize(("patients", "expected"), [(2, 2), (3, 0)])
def test_class_of_too_few_groups_to_split_is_a_warning(make: Make, patients: int, expected: int) -> None:
    folders = [f"set/{name}/{name[0]}{patient}" for name in ("COVID", "non-COVID") for patient in range(patients)]
    warnings = make({f"{folder}/1.png": png(at) for at, folder in enumerate(folders)}).report.as_json()["warnings"]
    assert sum("training, validation and test need 3" in warning for warning in warnings) == expected


@pytest.mark.parametrize(("last", "expected"), [("test", 1), ("validation", 0)])
def test_parts_of_a_csv_that_no_run_can_use_are_a_warning(make: Make, last: str, expected: int) -> None:
    parts = ["train", "test", last]
    lines = [f"{n}.png,{n % 2},p{n},{parts[n // 2]}\n" for n in range(6)]
    found = make({f"{n}.png": png(n) for n in range(6)}, "file,label,group,split\n" + "".join(lines))
    start = "the split that the CSV gives cannot be used: validation has no COVID, validation has no non-COVID slices"
    assert sum(line.startswith(start) for line in found.report.warnings) == expected


@pytest.mark.parametrize(("groups", "warning"), [("aabb", "2 groups have slices"), ("aabc", "1 group has slices")])
def test_groups_of_both_classes_are_counted_in_a_warning(make: Make, groups: str, warning: str) -> None:
    table = "".join(f"{n}.png,{n % 2},{group}\n" for n, group in enumerate(groups))
    warnings = make({f"{n}.png": png(n) for n in range(4)}, HEAD + table).report.as_json()["warnings"]
    assert f"{warning} of both classes" in warnings


@pytest.mark.slow
def test_slices_without_a_known_patient_are_counted_in_a_warning(make: Make) -> None:
    entries = of_patients(2) | {"set/COVID/loose.png": png(1000), "set/non-COVID/loose.png": png(1001)}
    warnings = make(entries).report.as_json()["warnings"]
    assert any("2 of 18 slices have no known patient or series" in warning for warning in warnings)
    assert any(warning.startswith("6 of 6 slices") for warning in make(two_classes()).report.as_json()["warnings"])


def test_the_pages_of_a_file_are_one_group(make: Make) -> None:
    found = make({"COVID/1.tif": pages(1, 2), "COVID/2.png": png(3), "normal/3.tif": pages(4, 5)})
    assert [each.group for each in slices_of(found)] == ["COVID/1.tif"] * 2 + ["near-2"] + ["normal/3.tif"] * 2


def test_slices_keep_what_distinguishes_their_series(make: Make) -> None:
    files = {f"COVID/p/{n}.dcm": ct(n, StudyInstanceUID="1.2", SeriesInstanceUID=f"1.2.{n % 2}") for n in range(4)}
    files |= {"normal/q/1.tif": pages(1, 2), "normal/q/2.tif": pages(4, 5), "normal/q/3.png": png(6)}
    files |= {"normal/q/4.png": png(7)}
    *scans, one, same, other, _, picture, last = [each.series for each in slices_of(make(files))]
    assert scans[:2] == scans[2:]
    assert len({*scans, one, other}) == 4
    assert (one, picture, last) == (same, None, None)
    assert "1.2" not in scans
    by_folder = [each.series for each in slices_of(make(files, folders_first=True))]
    assert by_folder == [None] * 4 + [one, one, other, other, None, None]


def pages(*seeds: int) -> bytes:
    """A TIFF of a page for each seed."""
    first, *rest = (Image.open(io.BytesIO(png(seed))) for seed in seeds)
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=rest)
    return buffer.getvalue()


def test_csv_among_the_files_is_used_and_is_not_a_slice(make: Make) -> None:
    entries = two_classes(2) | {"set/groups.csv": (HEAD + "COVID/0.png,1,p\nnon-COVID/0.png,0,q\n").encode()}
    found = make(entries)
    assert found.report.as_json()["labels_from"] == "set/groups.csv among the files"
    assert found.counts == {"COVID": 1, "non-COVID": 1, "rejected": 2}
    assert (
        make(two_classes(2) | {"set/labels.csv": b"id,age\n1,2\n"}).report.as_json()["labels_from"] == "class folders"
    )


def test_each_archive_is_labelled_by_its_own_csv_or_its_folders(make: Make) -> None:
    one = {"x/0.png": png(1), "x/1.png": png(2), "labels.csv": b"file,label\n0.png,1\n1.png,0\n"}
    found = make({"one.zip": one, "two.zip": {"COVID/0.png": png(3), "normal/1.png": png(4)}})
    assert found.report.as_json()["labels_from"] == "one/labels.csv among the files and class folders"
    assert found.counts == {"COVID": 2, "non-COVID": 2, "rejected": 0}
    broken = make({"one.zip": one | {"x/labels.csv": b"", "labels.csv": b"file,label\n9.png,1\n"}})
    assert broken.error == "labels.csv: the labels file names files that are not there: 9.png (line 2)"


STORED = np.random.default_rng(1).integers(0, 2000, (64, 64)).astype(np.uint16)


def ct(shift: int, **changes: object) -> bytes:
    return dicom(np.roll(STORED, shift), **changes)


def test_the_studies_of_a_dicom_patient_are_a_group_that_does_not_name_the_patient(make: Make) -> None:
    found = make(
        {
            "COVID/1": ct(0, PatientID="P1", StudyInstanceUID="1.2.3"),
            "COVID/2": ct(20, PatientID="P1", StudyInstanceUID="1.2.4"),
            "normal/3": ct(40, PatientID="P2", StudyInstanceUID="1.2.5"),
            "normal/4": ct(8, PatientID="P2", IssuerOfPatientID="another hospital", StudyInstanceUID="1.2.6"),
        }
    )
    assert found.report.as_json()["groups_from"] == {"DICOM patient, study or series": 4}
    groups = [each.group for each in slices_of(found)]
    assert groups[0] == groups[1]
    assert groups[2] == groups[3]  # slices of one study may lack the issuer
    assert len(set(groups)) == 2
    assert all(group.startswith("patient-") and "1.2.3" not in group for group in groups)
    digest = hashlib.blake2b(b"P1", digest_size=16).hexdigest()
    told = repr([vars(each) for each in slices_of(found)])
    assert "SECRET" not in told
    assert digest not in told


def test_patients_without_an_id_are_grouped_by_study(make: Make) -> None:
    found = make(
        {
            "COVID/1": ct(0, PatientID="", StudyInstanceUID="1.2.3"),
            "COVID/2": ct(20, PatientID=" ", StudyInstanceUID="1.2.3"),
            "normal/3": ct(40, PatientID=None, StudyInstanceUID="1.2.4"),
        }
    )
    groups = [each.group for each in slices_of(found)]
    assert groups[0] == groups[1] != groups[2]
    assert all(group.startswith("study-") for group in groups)


def of_anonymiser(uids: Callable[[int], dict[str, object]], folders: int = 3) -> dict[str, bytes]:
    """DICOM slices, two of each patient's folder and three folders a class; `uids` by the number of the slice."""
    names = [(name, folder) for name in ("COVID", "normal") for folder in range(folders) for _ in range(2)]
    return {
        f"{name}/{name[0]}{folder}/{number}.dcm": ct(5 * number, **uids(number))
        for number, (name, folder) in enumerate(names)
    }


def test_uids_made_anew_for_each_file_are_reported_and_folders_can_be_taken(make: Make) -> None:
    files = of_anonymiser(lambda n: {"PatientID": "", "StudyInstanceUID": f"1.{n}", "SeriesInstanceUID": f"1.{n}.1"})
    found = make(files)
    identity = found.report.identity
    assert (identity.slices, identity.groups, identity.folders) == (12, 12, 6)
    assert identity.problem == EACH_SLICE
    assert found.report.warnings[0] == warning_of(identity)
    with read_scope() as s:
        assert without_patient(s.get_one(Dataset, found.id)) == 12
    by_folder = make(files, folders_first=True)
    assert (by_folder.groups, by_folder.report.groups_from) == (6, {"folders": 12})
    assert by_folder.report.identity.problem is None


def test_one_id_for_all_patients_is_reported_and_folders_can_be_taken(make: Make) -> None:
    files = of_anonymiser(lambda n: {"PatientID": "ANONYMOUS", "StudyInstanceUID": f"1.{n // 2}"})
    failed = make(files)
    assert (failed.state, failed.report.identity.problem) == ("failed", ONE_FOR_ALL)
    assert make(files, folders_first=True).groups == 6
    other = ct(90, PatientID="P2", StudyInstanceUID="2.1")
    found = make(files | {"normal/other/1.dcm": other})
    assert found.report.identity.problem == ONE_FOR_ALL
    assert (found.report.identity.largest, found.report.identity.largest_studies) == (12, 6)


def test_id_with_several_birth_dates_is_reported(make: Make) -> None:
    def stated(n: int) -> dict[str, str]:
        born = "19600101" if n // 2 == 1 else "19500101"
        return {"PatientID": f"P{max(n // 2, 1)}", "StudyInstanceUID": f"1.{n // 2}", "PatientBirthDate": born}

    found = make(of_anonymiser(stated))
    assert (found.report.identity.groups, found.report.identity.several_births) == (5, 1)
    assert found.report.identity.problem is None
    assert found.report.warnings[0].startswith("1 patient ID has several birth dates: different patients may count as")


def test_patients_whose_headers_keep_them_apart_are_not_reported(make: Make) -> None:
    found = make(of_anonymiser(lambda n: {"PatientID": f"P{n // 2}", "StudyInstanceUID": f"1.{n // 2}"}))
    assert (found.report.identity.groups, found.report.identity.problem) == (6, None)


@pytest.mark.parametrize(("ids", "torn"), [(6, 6), (1, 0)], ids=["patients", "one ID for all"])
@pytest.mark.parametrize("by", ["CSV", "folders"])
def test_groups_that_tear_the_patients_of_headers_apart_are_a_warning(by: str, ids: int, torn: int, make: Make) -> None:
    def stated(n: int) -> dict[str, str]:
        return {"PatientID": f"P{n // 2 % ids}", "StudyInstanceUID": f"1.{n // 2}"}

    files = {
        f"{'COVID' if n % 4 < 2 else 'normal'}/scan{n}/1.dcm": content
        for n, content in enumerate(of_anonymiser(stated).values())
    }
    table = HEAD + "".join(f"{path},{int(path.startswith('COVID'))},scan{n}\n" for n, path in enumerate(files))
    found = make(files, table) if by == "CSV" else make(files, folders_first=True)
    assert found.groups == 12
    warned = [line for line in found.report.warnings if "slices in several groups" in line]
    assert len(warned) == (torn > 0)
    assert all(line.startswith(f"by their headers, {torn} patients have") for line in warned)


def test_single_pictures_mixed_with_volumes_are_not_reported(make: Make) -> None:
    def stated(n: int) -> dict[str, str]:
        patient = n if n < 10 else 10
        return {"PatientID": f"P{patient}", "StudyInstanceUID": f"1.{patient}"}

    identity = make(of_anonymiser(stated)).report.identity
    assert (identity.slices, identity.groups, identity.problem) == (12, 11, None)


@pytest.mark.parametrize(("broken", "warned"), [(1, False), (3, True)])
def test_class_with_many_files_left_out_is_a_warning(make: Make, broken: int, warned: bool) -> None:
    files = {f"COVID/{n}.png": b"no picture" if n < broken else png(n) for n in range(20)}
    found = make(files | {f"normal/{n}.png": png(n + 20) for n in range(20)} | {"readme.txt": b"", "notes.txt": b""})
    counts = {"COVID": {"files": 20, "left_out": broken}, "non-COVID": {"files": 20, "left_out": 0}}
    assert found.report.labelled_files == counts
    expected = f"{broken} of 20 files of COVID and 0 of 20 files of non-COVID were left out"
    assert any(line.startswith(expected) for line in found.report.warnings) == warned


@pytest.mark.parametrize("name", ["info.txt", "Header.XML", "notes.md", "README", "report.pdf", "empty.csv"])
def test_document_beside_the_scans_is_not_counted_as_a_scan(make: Make, name: str) -> None:
    files = {f"{folder}/p{n}/{n}.png": png(n + at) for at, folder in ((0, "COVID"), (20, "normal")) for n in range(4)}
    document = b"" if name.startswith("empty") else b"age: 61"
    found = make(files | {f"COVID/p{n}/{name}": document for n in range(4)})
    assert found.counts == {"COVID": 4, "non-COVID": 4, "rejected": 4}
    assert found.report.labelled_files["COVID"] == {"files": 4, "left_out": 0}
    assert not [line for line in found.report.warnings if "left out" in line]


@pytest.mark.parametrize("name", ["1.png", "volume.nrrd", "IM0001"])
def test_file_that_may_be_a_scan_is_counted_if_it_cannot_be_read(make: Make, name: str) -> None:
    files = {f"{folder}/p{n}/{n}.png": png(n + at) for at, folder in ((0, "COVID"), (20, "normal")) for n in range(4)}
    found = make(files | {f"COVID/q/{name}": b"no picture"})
    assert found.report.labelled_files["COVID"] == {"files": 5, "left_out": 1}
    assert [line for line in found.report.warnings if line.startswith("1 of 5 files of COVID")]


@pytest.mark.parametrize("odd", [["COVID"], ["COVID", "normal"], []], ids=["one class", "both", "none"])
def test_report_counts_slices_whose_values_may_not_be_hu(make: Make, odd: list[str]) -> None:
    files = {
        f"{folder}/{n}": ct(n + at, PatientID=f"{folder}{n}", **({"RescaleIntercept": 0} if folder in odd else {}))
        for folder, at in (("COVID", 0), ("normal", 40))
        for n in range(3)
    }
    report = make(files).report
    assert report.odd_hu == {"COVID": 3 * ("COVID" in odd), "non-COVID": 3 * ("normal" in odd)}
    assert sum("may not be HU" in line for line in report.warnings) == bool(odd)


@pytest.mark.parametrize(("odd", "warns"), [((0, 0), 0), ((1, 0), 0), ((50, 50), 0), ((51, 0), 1), ((0, 51), 1)])
def test_report_warns_only_of_many_slices_whose_values_may_not_be_hu(odd: tuple[int, int], warns: int) -> None:
    by_class = dict(zip(CLASSES.values(), odd, strict=True))
    assert len(about_odd_hu(by_class, dict.fromkeys(by_class, 5000))) == warns


def test_row_34_slice_with_text_burned_in_is_left_out(make: Make) -> None:
    files = {
        "COVID/1": ct(0),
        "COVID/2": ct(20, BurnedInAnnotation="YES"),
    }
    files["normal/3"] = ct(40, BurnedInAnnotation="NO", PatientID="another")
    found = make(files)
    assert found.error is None
    assert found.counts == {"COVID": 1, "non-COVID": 1, "rejected": 1}
    (left_out,) = (each for each in slices_of(found) if each.row is None)
    assert (left_out.name, left_out.reason) == ("COVID/2", "burned_in")


def again(data: bytes) -> bytes:
    """The picture of a PNG, saved as JPEG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def test_identical_and_near_identical_slices_are_counted_within_and_across_classes(make: Make) -> None:
    entries = two_classes(4)
    entries["set/COVID/copy.png"] = png(0)
    entries["set/COVID/wrong.png"] = png(100)  # the same as non-COVID/0.png
    entries["set/COVID/jpeg.jpg"] = again(png(1))
    entries["set/COVID/other.jpg"] = again(png(101))
    found = make(entries)
    identical, near = found.report.as_json()["identical"], found.report.as_json()["near_identical"]
    assert (identical["within"], identical["across"], near["within"], near["across"]) == (2, 2, 1, 1)
    assert identical["examples_within"] == [["set/COVID/0.png", "set/COVID/copy.png"]]
    assert identical["examples_across"] == [["set/non-COVID/0.png", "set/COVID/wrong.png"]]
    assert near["examples_across"] == [["set/non-COVID/1.png", "set/COVID/other.jpg"]]
    assert found.groups == 8
    by_name = {each.name: each for each in slices_of(found)}
    assert by_name["set/COVID/jpeg.jpg"].group == by_name["set/COVID/1.png"].group == "near-1"
    warnings = " ".join(found.report.as_json()["warnings"])
    assert "2 slices have the same pixels as one of the other class" in warnings
    assert "1 pair of near-identical slices is of different classes" in warnings


def test_largest_cluster_of_groups_is_reported(make: Make) -> None:
    """Slices of p0, p1 and p2 hang together: a near-identical one each, and an identical one."""
    rows = ["file,label,group"]
    entries: dict[str, bytes] = {}
    for number in range(6):
        entries[f"{number}.png"] = png(number)
        rows.append(f"{number}.png,{number % 2},p{number}")
    entries |= {"again.jpg": again(png(0)), "copy.png": png(1)}
    rows += ["again.jpg,0,p1", "copy.png,1,p2"]
    report = make(entries | {"labels.csv": "\n".join(rows).encode()}).report.as_json()
    assert report["largest_cluster"] == {"groups": 3, "slices": 5}
    assert any("connect 3 of 6 groups" in warning for warning in report["warnings"])
    apart = make(two_classes(4)).report.as_json()
    assert apart.get("largest_cluster", {}) == {}
    assert not any("connect" in warning for warning in apart["warnings"])


@pytest.mark.slow
def test_the_same_files_make_the_same_dataset_and_other_labels_another(make: Make) -> None:
    first, second = make(two_classes()), make(two_classes())
    assert first.sha256 == second.sha256
    assert second.report.as_json()["identical_to"] == "site/1"
    assert "it is the same as site/1, slice by slice" in second.report.as_json()["warnings"]
    assert make(two_classes(), name="other").report.as_json()["identical_to"] is None
    named = make(two_classes(), HEAD + "".join(f"{name},1,g{n}\n" if n else f"{name},0,x\n"
                                               for n, name in enumerate(two_classes())))  # fmt: skip
    assert named.sha256 != first.sha256


def pictures(count: int, start: int = 0) -> dict[str, bytes]:
    return {f"{n}.png": png(n) for n in range(start, start + count)}


@pytest.mark.parametrize(
    ("entries", "labels", "why"),
    [
        (pictures(2), None, "none of 2 files has a label: put them in a folder for each class"),
        (pictures(2) | {"x/labels.csv": b"name,class\n0.png,1\n"}, None,
         "none of 3 files has a label: .* x/labels.csv was not taken as the labels: "),
        (pictures(2) | {"a.csv": b"", "Groups.csv": HEAD.encode("utf-16")}, None, "Groups.csv was not taken"),
        (pictures(2) | {"my-labels.CSV": HEAD.encode()}, None, "my-labels.CSV was not taken"),
        ({f"COVID/{n}": png(n) for n in range(2)}, None, "the class non-COVID is empty: no file has this label"),
        (two_classes(1) | {"set/COVID/0.png": b"text"}, None,
         r"the class COVID is empty: none of its files could be read \(format: 1\)"),
        ({"COVID/1": png(1), "normal/1": png(1)}, None, r"all 2 slices belong to one group \(near-0\)"),
        (pictures(2), HEAD + "0.png,1,p\n1.png,0,p\n", r"all 2 slices belong to one group \(p\)"),
        (pictures(2), HEAD + "0.png,1,p\n7.png,0,q\n", r"names files that are not there: 7.png \(line 3\)"),
        (pictures(2), HEAD + "0.png,1,p\n0.png,0,p\n", "lines 2 and 3 of the labels file give 0.png another label"),
        (pictures(2), HEAD + "0.png,ill,p\n", "line 2 of the labels file: the label 'ill' is neither COVID"),
        (pictures(2), HEAD.encode() + b"\xff.png,1,p\n", r"the labels file is not UTF-8 \(line 2\)"),
        (two_classes(1) | {"labels.csv": HEAD.encode(), "x/groups.csv": HEAD.encode()}, None,
         r"there are 2 files of labels \(labels.csv and x/groups.csv\)"),
        ({"set.zip": two_classes(1), "more.zip": pictures(1)}, HEAD + "0.png,1,p\n", "write more of its path"),
    ],
)  # fmt: skip
def test_dataset_that_cannot_be_built_fails_with_one_line(
    make: Make, entries: dict[str, Any], labels: str | bytes | None, why: str
) -> None:
    found = make(entries, labels)
    assert found.state == "failed"
    assert found.error is not None
    assert "\n" not in found.error
    assert re.search(why, found.error)
    assert slices_of(found) == []
    assert not build_next("w")


def test_looking_for_labels_reads_only_the_label_file(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    table = HEAD + "".join(f"{name},{int('non' not in name)},{name}\n" for name in two_classes())
    dataset = ask(two_classes() | {"labels.csv": table.encode()})
    read: list[bytes] = []
    monkeypatch.setattr(zip_module, "check_content", lambda data: read.append(data) or data)
    files = list_files([Source(source["sha256"], source["filename"]) for source in dataset.sources], lambda: None)
    assert [file.name for file in files if file.table] == ["labels.csv"]
    assert read == [table.encode()]


def test_an_archive_that_is_damaged_fails_by_its_name(ask: Ask, tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "cut.zip", two_classes())
    whole.write_bytes(whole.read_bytes()[:-40])
    with session_scope() as s:
        dataset = datasets.create_dataset(s, name="site", user=None, files=[received(whole)])
    build_next("w")
    assert view(dataset).state == "failed"
    assert str(view(dataset).error).startswith("cut.zip cannot be read: ")


def test_a_dataset_whose_files_are_gone_fails_and_says_so(ask: Ask) -> None:
    dataset = ask(two_classes())
    storage().delete(dataset.sources[0]["sha256"])
    build_next("w")
    waiting = view(dataset)
    assert waiting.state == "queued", "the storage has no mark yet"
    assert "storage is not available" in str(waiting.error)
    with session_scope() as s:
        claim_storage(s)
        s.execute(update(Dataset).values(lease_until=None))
    build_next("w")
    assert "gone or damaged" in str(view(dataset).error)


def test_a_dataset_whose_file_is_damaged_fails_and_says_so(ask: Ask) -> None:
    with session_scope() as s:
        claim_storage(s)
    dataset = ask(two_classes())
    path = storage().local_path(dataset.sources[0]["sha256"])
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    long_ago = time.time() - 7200
    os.utime(path, (long_ago, long_ago))
    build_next("w")
    assert "gone or damaged" in str(view(dataset).error)


def test_dataset_whose_worker_is_stopped_again_and_again_is_built_later(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ask(two_classes())

    def stopped(*arguments: Any) -> Any:
        with asked_to_stop():
            return list_files(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(build, "list_files", stopped)
        for _ in range(MAX_ATTEMPTS + 1):
            assert build_next("w")
            assert (view(dataset).state, view(dataset).error) == ("queued", None)
    assert build_next("w")
    assert (view(dataset).state, view(dataset).error) == ("ready", None)


def test_dataset_that_kills_its_workers_fails_after_all_attempts(ask: Ask) -> None:
    dataset = ask(two_classes())
    with session_scope() as s:
        s.execute(update(Dataset).values(attempts=MAX_ATTEMPTS))
    build_next("w")
    assert view(dataset).state == "failed"
    assert str(MAX_ATTEMPTS) in (view(dataset).error or "")


def test_a_full_disk_puts_the_building_off(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ask(two_classes())

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage(), "put", full)
    assert build_next("w")
    assert (view(dataset).state, view(dataset).error) == ("queued", "No space left on device")
    monkeypatch.undo()
    assert not build_next("w"), "not before the sweeper asks again"
    let_time_pass()
    assert build_next("w")
    assert (view(dataset).state, view(dataset).error) == ("ready", None)


def test_unexpected_error_fails_the_build_with_a_reason(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ask(two_classes())

    def odd(*_: Any) -> None:
        raise ValueError("mmap length is greater than file size")

    monkeypatch.setattr("worker.datasets.build.make_report", odd)
    assert build_next("w")
    found = view(dataset)
    assert (found.state, found.error) == ("failed", "ValueError; see the evaluation worker's log")


def test_dataset_waits_for_disk_however_long(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ask(two_classes())

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage(), "put", full)
        for _ in range(MAX_ATTEMPTS + 1):
            assert build_next("w")
            let_time_pass()
    assert (view(dataset).state, view(dataset).error) == ("queued", "No space left on device")
    assert build_next("w")
    assert (view(dataset).state, view(dataset).error) == ("ready", None)


def test_dataset_whose_claim_meets_a_locked_database_is_claimed_again(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ask(two_classes())
    monkeypatch.setattr(datasets, "claim_dataset", locked_at_first(datasets.claim_dataset))
    assert build_next("w")
    assert view(dataset).state == "ready"


@pytest.mark.parametrize("call", ["twin_of", "finish_dataset"])
def test_built_dataset_is_kept_until_the_database_is_back(call: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.claimed.WAIT_SECONDS", 0.0)
    dataset = ask(two_classes())
    monkeypatch.setattr(datasets, call, locked_at_first(getattr(datasets, call)))
    assert build_next("w")
    assert view(dataset).state == "ready"


def test_no_dataset_is_claimed_while_the_disk_is_at_its_reserve(ask: Ask, settings: Settings) -> None:
    dataset = ask(two_classes())
    database.use(settings.model_copy(update={"reserve_bytes": 1 << 60}))
    assert not build_next("w")
    assert view(dataset).state == "queued"


@pytest.mark.slow
def test_a_worker_killed_before_the_end_leaves_a_dataset_that_another_builds(ask: Ask, settings: Settings) -> None:
    dataset = ask(two_classes())
    environment = os.environ | {
        "CTBATCH_CRASH_AT": "before-dataset-commit",
        "CTBATCH_DECODERS": "1",
        "CTBATCH_HOME": str(settings.home),
        "DATABASE_URL": settings.database_url,
        "CELERY_BROKER_URL": settings.broker_url,
        "PYTHONPATH": str(PROJECT),
    }
    code = "from worker.datasets.build import build_next; build_next('w')"
    crashed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert crashed.returncode == -9, crashed.stderr
    assert (view(dataset).state, slices_of(view(dataset))) == ("building", [])
    assert not build_next("w")  # its lease still holds
    let_leases_end(Dataset)
    assert build_next("w")
    assert (view(dataset).state, len(slices_of(view(dataset)))) == ("ready", 6)


def test_files_of_a_dataset_are_not_reaped(make: Make, settings: Settings) -> None:
    make(two_classes(), HEAD + "".join(f"{name},{int('non' not in name)},{name}\n" for name in two_classes()))
    stored = [path.name for path in storage().folder.glob("??/*")]
    assert len(stored) == 9  # the archive, the CSV, six originals, one array
    assert reap.unnamed(stored) == []


@pytest.fixture
def champion(settings: Settings) -> ModelVersion:
    return the_champion(settings.home)


@pytest.fixture
def owner(settings: Settings) -> User:
    with session_scope() as s:
        return create_user(s, "ann", None)


@pytest.mark.slow
@pytest.mark.usefixtures("champion")
def test_long_build_does_not_delay_a_job(
    ask: Ask, owner: User, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ask(two_classes())
    is_building, may_end = threading.Event(), threading.Event()

    def long_report(*given: Any) -> dict[str, Any]:
        is_building.set()
        assert may_end.wait(60)
        return make_report(*given)

    monkeypatch.setattr(build, "make_report", long_report)
    builder = threading.Thread(target=build_next, args=("builder",))
    builder.start()
    assert is_building.wait(60)
    job = submit(owner, {"a.png": png(1)})
    assert ingest.unpack_next("w")
    with read_scope() as s:
        assert s.get_one(Job, job.id).unpacked_at is not None
    assert view(dataset).state == "building"
    may_end.set()
    builder.join(60)
    assert view(dataset).state == "ready"


@pytest.mark.usefixtures("champion")
def test_reviewed_slices_of_jobs_make_a_dataset(owner: User, submit: Submit) -> None:
    job = submit(owner, {f"{folder}/{n}.png": png(n + 10 * at) for at, folder in enumerate("ab") for n in range(4)})
    ingest.unpack_next("w")
    with session_scope() as s:
        for slice_ in s.scalars(select(Slice)):
            if not slice_.name.endswith("3.png"):
                s.add(Review(slice_id=slice_.id, user_id=owner.id, label=int(slice_.name.startswith("a"))))
    with session_scope() as s:
        dataset = datasets.create_from_reviews(s, name="reviewed", user=owner, job_ids=[job.id])
    build_next("w")
    found = view(dataset)
    assert (found.state, found.created_by) == ("ready", "ann")
    assert found.counts == {"COVID": 3, "non-COVID": 3, "rejected": 0}
    assert found.report.as_json()["labels_from"] == "reviews"
    assert {each.group for each in slices_of(found)} == {"a", "b"}
    assert found.report.groups_from == {"folders": 6}
    with read_scope() as s:
        array = np.load(storage().local_path(s.get_one(Dataset, found.id).arrays[0]))
    for each in slices_of(found):
        assert PreparedSlice(array[each.row], 0, "PNG", "L", 32, 32).sha256_pixels == each.pixels_sha256


@pytest.fixture
def label_jobs(owner: User, submit: Submit) -> LabelJobs:
    """Submits a job for each archive, labels its slices by the digits of their names, and makes a dataset of them."""

    def act(*archives: dict[str, bytes], skip: str = "no slice", folders_first: bool = False) -> DatasetView:
        jobs = [submit(owner, entries) for entries in archives]
        for _ in jobs:
            ingest.unpack_next("w")
        with session_scope() as s:
            of_jobs = Slice.job_id.in_([job.id for job in jobs])
            for slice_ in s.scalars(select(Slice).where(Slice.array_row.is_not(None), of_jobs)):
                if skip not in f"{slice_.name} page {slice_.frame}":
                    label = int(re.findall(r"\d+", slice_.name)[0]) % 2
                    s.add(Review(slice_id=slice_.id, user_id=owner.id, label=label))
        with session_scope() as s:
            job_ids = [job.id for job in jobs]
            datasets.create_from_reviews(s, name="rev", user=owner, job_ids=job_ids, folders_first=folders_first)
        assert build_next("w")
        with read_scope() as s:
            return datasets.dataset_view(s, s.scalars(select(Dataset).order_by(Dataset.id.desc())).first())

    return act


def scans(patients: Iterable[int], start: int = 0, path: str = "patient{}/scan{}") -> dict[str, bytes]:
    places = [(patient, scan) for patient in patients for scan in range(2)]
    return {f"{path.format(*place)}/1.png": png(start + at) for at, place in enumerate(places)}


def groups_of(found: DatasetView) -> dict[str, str]:
    """The group of each slice, by name, and in several groups if slices of a name are."""
    groups: dict[str, set[str]] = {}
    for each in slices_of(found, reason=None):
        groups.setdefault(each.name, set()).add(each.group)
    return {name: " ".join(sorted(of)) for name, of in groups.items()}


def unknown_patients(found: DatasetView) -> int:
    with read_scope() as s:
        return without_patient(s.get_one(Dataset, found.id))


@pytest.mark.usefixtures("champion")
def test_folders_of_one_archive_are_known_patients_with_all_their_scans(label_jobs: LabelJobs) -> None:
    found = label_jobs(scans(range(4), path="mine/patient{}/scan{}"), skip="patient2")
    assert set(groups_of(found).values()) == {"patient0", "patient1", "patient3"}
    assert (unknown_patients(found), found.report.groups_from) == (0, {"folders": 6})
    found = label_jobs(scans(range(2), 20), skip="patient1/scan0")
    assert set(groups_of(found).values()) == {"patient0", "patient1"}


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize(
    ("archives", "groups"),
    [
        # an archive for each patient: the folders are series with the same numbers, or studies with other dates
        ([scans([1, 2], 9 * patient, "series{}/" + f"{patient}-" + "{}") for patient in range(3)], 2),
        ([scans([1, 2], 9 * patient, "{}-0" + f"{patient}-2020/" + "{}") for patient in range(3)], 6),
        ([scans([patient], 9 * patient) for patient in range(3)], 3),
        # an archive for each batch of patients
        ([scans(range(4)), scans(range(3, 6), 20)], 6),
        ([scans(range(3), 0, "week1/{}/scan{}"), scans(range(2, 5), 20, "week2/{}/scan{}")], 2),
    ],
    ids=["series", "studies", "patient", "patients", "batch"],
)
def test_folders_of_several_archives_are_groups_but_not_known_patients(
    label_jobs: LabelJobs, archives: list[dict[str, bytes]], groups: int
) -> None:
    found = label_jobs(*archives)
    assert (found.state, found.groups, unknown_patients(found)) == ("ready", groups, found.size)
    [warning] = [line for line in found.report.warnings if "no known patient" in line]
    assert warning.endswith("in one folder or archive that has a folder for each patient, and label them there")


def test_dataset_of_jobs_that_was_grouped_by_series_has_no_known_patients(make: Make) -> None:
    """A dataset of reviewed slices, made before groups of jobs came from folders."""
    found = make(of_patients(1))
    with session_scope() as s:
        dataset = s.get_one(Dataset, found.id)
        dataset.report = dataset.report.model_copy(update={"groups_from": {"series of jobs": 6, "folders": 2}})
    assert unknown_patients(found) == 6


@pytest.mark.usefixtures("champion")
def test_reviewed_slices_without_a_folder_are_a_group_of_their_job_without_a_known_patient(
    label_jobs: LabelJobs,
) -> None:
    loose = {f"{n}.png": png(n) for n in range(4)}
    found = label_jobs(
        loose, {f"{n}.png": png(n + 20) for n in range(4)}, {"p9/1.png": png(40), "7.tif": pages(50, 51)}
    )
    groups = groups_of(found)
    assert len(set(groups["1.png"].split())) == 2
    assert all(group.startswith("job-") for group in groups["1.png"].split())
    assert groups["p9/1.png"] == "p9"
    assert groups["7.tif"].startswith("file-")
    assert unknown_patients(found) == 9, "only the file with pages is a series"
    alone = label_jobs({f"{n}.png": png(n + 60) for n in range(4)})
    assert (alone.error or "").endswith("a folder for each patient, and label them there")


@pytest.mark.usefixtures("champion")
def test_volumes_with_the_same_name_in_several_jobs_are_several_groups(label_jobs: LabelJobs) -> None:
    found = label_jobs({"1.tif": pages(1, 2), "2.tif": pages(3, 4)}, {"1.tif": pages(5, 6), "2.tif": pages(1, 2)})
    assert (found.state, found.groups, unknown_patients(found)) == ("ready", 3, 0)
    pages_of = Counter((each.sha256, each.group) for each in slices_of(found))
    assert sorted(pages_of.values()) == [2, 2, 4], "the same volume in two jobs is one group"


@pytest.mark.usefixtures("champion")
def test_volume_is_a_group_if_only_its_first_page_is_labelled(label_jobs: LabelJobs) -> None:
    found = label_jobs({"1.tif": pages(1, 2), "2.tif": pages(3, 4)}, skip="page 1")
    assert (found.state, found.size, found.groups) == ("ready", 2, 2)
    assert found.report.groups_from == {"pages of a file": 2}


@pytest.mark.usefixtures("champion")
def test_reviewed_dicom_is_grouped_by_folder_if_asked_and_the_report_names_this_choice(label_jobs: LabelJobs) -> None:
    def file(patient: int, series: int) -> bytes:
        uids = {"StudyInstanceUID": f"1.2.{patient}", "SeriesInstanceUID": f"1.2.{patient}.{series}"}
        shift = 61 * (3 * patient + series)
        return ct(shift, **uids, SOPInstanceUID=f"1.2.{patient}.{series}.1", SeriesNumber=series, PatientID="ANON")

    files = {f"p{patient}/IM{series}": file(patient, series) for patient in range(3) for series in (1, 2)}
    found = label_jobs(files)
    assert (found.state, "with groups by folder" in (found.error or "")) == ("failed", True)
    found = label_jobs(files, folders_first=True)
    assert groups_of(found) == {name: name.partition("/")[0] for name in files}


@pytest.mark.usefixtures("champion")
def test_report_counts_blind_labels_and_labels_of_readers_who_disagree(owner: User, submit: Submit) -> None:
    job = submit(owner, {f"p{n}/1.png": png(n) for n in range(6)})
    ingest.unpack_next("w")
    with session_scope() as s:
        s.add(admin := User(name="carl", is_admin=True))
        s.flush()
        for at, slice_ in enumerate(s.scalars(select(Slice))):
            s.add(Review(slice_id=slice_.id, user_id=owner.id, label=at % 2, blind=True))
            if at < 3:
                label = at % 2 if at == 2 else 1 - at % 2  # agrees on the third slice only
                s.add(Review(slice_id=slice_.id, user_id=admin.id, label=label, blind=at == 2))
    with session_scope() as s:
        dataset = datasets.create_from_reviews(s, name="reviewed", user=owner, job_ids=[job.id])
    build_next("w")
    found = view(dataset)
    counted = found.report.blind_labels, found.report.shared_labels, found.report.contested_labels
    assert counted == (4, 3, 2)
    assert any(line.startswith("readers disagree on 2 of the 3 slices") for line in found.report.warnings)


@pytest.mark.usefixtures("champion")
def test_reviewed_slice_that_its_job_rejected_is_left_out_under_its_reason(owner: User, submit: Submit) -> None:
    job = submit(owner, {f"{folder}/{n}.png": png(n + 10 * at) for at, folder in enumerate("ab") for n in range(4)})
    ingest.unpack_next("w")
    with session_scope() as s:
        for slice_ in s.scalars(select(Slice)):
            s.add(Review(slice_id=slice_.id, user_id=owner.id, label=int(slice_.name.startswith("a"))))
            if slice_.name == "a/3.png":
                slice_.state, slice_.reason = Outcome.REJECTED, "patient_conflict"
    with session_scope() as s:
        dataset = datasets.create_from_reviews(s, name="reviewed", user=owner, job_ids=[job.id])
    build_next("w")
    found = view(dataset)
    assert found.counts == {"COVID": 3, "non-COVID": 4, "rejected": 1}
    assert found.report.as_json()["left_out"] == {"patient_conflict": {"count": 1, "examples": ["a/3.png"]}}


@pytest.mark.usefixtures("champion")
def test_reviewed_dicom_is_read_again_for_its_patient_and_for_burned_in_text(owner: User, submit: Submit) -> None:
    burned_in = ct(8, BurnedInAnnotation="YES", PatientID="P3", StudyInstanceUID="1.2.5", SOPInstanceUID="1.2.5.2")
    first = {"1": ct(0, StudyInstanceUID="1.2.3"), "2": burned_in}
    second = {
        "3": ct(20, StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1"),
        "4": ct(40, PatientID="P2", StudyInstanceUID="1.2.6", SOPInstanceUID="1.2.6.4"),
    }
    jobs = [submit(owner, files) for files in (first, second)]
    for _ in jobs:
        ingest.unpack_next("w")
    with session_scope() as s:
        for slice_ in s.scalars(select(Slice)):
            s.add(Review(slice_id=slice_.id, user_id=owner.id, label=int(slice_.name != "4")))
    with session_scope() as s:
        dataset = datasets.create_from_reviews(s, name="reviewed", user=owner, job_ids=[job.id for job in jobs])
    build_next("w")
    found = view(dataset)
    assert found.error is None
    assert found.report.as_json()["left_out"] == {"burned_in": {"count": 1, "examples": ["2"]}}
    group = {each.name: each.group for each in slices_of(found, reason=None)}
    assert group["1"] == group["3"] != group["4"]
    assert found.report.as_json()["groups_from"] == {"DICOM patient, study or series": 3}


@pytest.mark.usefixtures("champion")
def test_reviewed_frames_of_a_file_are_read_with_one_decoding(
    owner: User, submit: Submit, decoder: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.stack([np.roll(STORED, 9 * number) for number in range(3)])
    volume = ct(0, NumberOfFrames=3, PixelData=frames.tobytes(), PatientID="P1")
    other = ct(40, PatientID="P2", StudyInstanceUID="1.2.9", SOPInstanceUID="1.2.9.1")
    job = submit(owner, {"volume": volume, "other": other})
    ingest.unpack_next("w")
    with session_scope() as s:
        for slice_ in s.scalars(select(Slice)):
            s.add(Review(slice_id=slice_.id, user_id=owner.id, label=int(slice_.name != "other")))
    decoded: list[str] = []

    def noting(items: Any) -> Iterator[Any]:
        files = list(items)
        decoded.extend(sha256 for sha256, _ in files)
        return DecoderPool.map(decoder, files)

    monkeypatch.setattr(decoder, "map", noting)
    with session_scope() as s:
        dataset = datasets.create_from_reviews(s, name="reviewed", user=owner, job_ids=[job.id])
    build_next("w")
    found = view(dataset)
    assert (found.state, found.size, found.groups) == ("ready", 4, 2)
    assert len(decoded) == len(set(decoded)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("champion")
def test_reviewed_dicom_of_two_owners_is_not_read_by_one_decoder(
    owner: User, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders: list[int] = []

    class Watched(DecoderPool):
        def map(self, items: Any) -> Iterator[Any]:
            for answer in super().map(items):
                decoders.extend(self.process_ids)
                yield answer

    monkeypatch.setattr(reviewed, "new_decoders", lambda: Watched(1, DecodeLimits()))
    with session_scope() as s:
        owners = owner, create_user(s, "bob", None)
    jobs = [submit(user, {f"{label}": ct(9 * label, PatientID=user.name)}) for label, user in enumerate(owners)]
    for _ in jobs:
        ingest.unpack_next("w")
    with session_scope() as s:
        for slice_ in s.scalars(select(Slice)):
            s.add(Review(slice_id=slice_.id, user_id=s.get_one(Job, slice_.job_id).owner_id, label=int(slice_.name)))
    with session_scope() as s:
        dataset = datasets.create_from_reviews(s, name="reviewed", user=owner, job_ids=[job.id for job in jobs])
    build_next("w")
    assert view(dataset).state == "ready"
    assert len(decoders) == len(set(decoders)) == 2


def test_shortcuts_reach_the_report_and_its_warnings(make: Make) -> None:
    entries = {f"COVID/{n}.png": png(n) for n in range(30)} | {f"normal/{n}.png": png(n + 50, 60) for n in range(30)}
    found = make(entries)
    assert found.report.as_json()["shortcuts"]["facts"]["width × height"]["auc"] == 1.0
    assert any(warning.startswith("a shortcut") for warning in found.report.as_json()["warnings"])


@pytest.mark.slow
@pytest.mark.skipif(not SLICES.is_dir(), reason="the shared data set is not beside the project")
def test_the_real_slices_make_a_dataset_whose_split_is_clean(settings: Settings, tmp_path: Path) -> None:
    entries = {f"s/{path.relative_to(SLICES)}": path.read_bytes() for path in sorted(SLICES.rglob("*.*"))}
    archive = received(write_zip(tmp_path / "s.zip", entries))
    with session_scope() as s:
        dataset = datasets.create_dataset(s, name="real", user=None, files=[archive])
    build_next("w")
    found = view(dataset)
    assert found.state == "ready", found.error
    assert found.size == len(entries) - 1
    assert found.counts["rejected"] == 0
    assert found.report.as_json()["near_identical"]["across"] == found.report.as_json()["identical"]["across"] == 0
    assert found.report.as_json()["near_identical"]["within"] > 100
    assert not found.report.as_json()["shortcuts"]["found"]
    with session_scope() as s:
        split = split_of(s, s.get_one(Dataset, dataset.id))
        sizes = {part: len(slices.rows_of(s, dataset.id, split, part)) for part in PARTS}
        assert s.scalar(select(func.count()).where(Dataset.state == Work.DONE)) == 1
    assert split.leaks == {}
    assert sizes["train"] / found.size == pytest.approx(0.7, abs=0.02)
    assert sizes["test"] / found.size == pytest.approx(0.2, abs=0.02)
