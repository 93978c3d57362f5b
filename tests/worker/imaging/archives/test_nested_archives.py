"""Archives in an archive: read one level deep, under the limits of the whole."""

import bz2
import gzip
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders.files import tar_of, zip_of
from tests.worker.imaging.builders import RawEntry, png, raw_zip, read_all
from worker.imaging.archives.archive import Limits, inspect_archive, read_entries
from worker.imaging.rejections import ArchiveRefused, SliceRejected

PATIENTS = {f"p{n}.zip": {f"s/{k}.png": png() + b"%d%d" % (n, k) for k in range(3)} for n in range(2)}
FLAT = {f"{zip_}/{name}": data for zip_, files in PATIENTS.items() for name, data in files.items()}

Files = dict[str, bytes]
Pack = Callable[[Files], bytes]

OUTER: dict[str, Pack] = {
    "zip deflated": zip_of,
    "zip stored": lambda files: zip_of(files, zipfile.ZIP_STORED),
    "zip bzipped": lambda files: zip_of(files, zipfile.ZIP_BZIP2),
    "tar": tar_of,
    "tar.gz": lambda files: gzip.compress(tar_of(files)),
    "tar.xz": lambda files: lzma.compress(tar_of(files)),
}
INNER: dict[str, Pack] = {
    "zip": zip_of,
    "tar": tar_of,
    "tar.gz": lambda files: gzip.compress(tar_of(files)),
    "tar.bz2": lambda files: bz2.compress(tar_of(files)),
}


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def named(upload: Path, limits: Limits | None = None) -> dict[str, bytes | str]:
    """The content of each entry, or its reason code, by name; the inspection counts as many."""
    read = read_all(upload, limits)
    assert [entry.ordinal for entry, _ in read] == list(range(len(read)))
    assert inspect_archive(upload, "x", limits or Limits()).entries == len(read)
    return {entry.name: content.code if isinstance(content, SliceRejected) else content for entry, content in read}


def refusal(upload: Path, limits: Limits) -> str:
    with pytest.raises(ArchiveRefused) as inspected:
        inspect_archive(upload, "x", limits)
    with pytest.raises(ArchiveRefused) as read:
        read_all(upload, limits)
    assert inspected.value.code == read.value.code
    return read.value.code


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
def test_files_of_inner_archives_take_their_place(upload: Path, outer: str, inner: str) -> None:
    files = {"a.png": png(), **{name: INNER[inner](inside) for name, inside in PATIENTS.items()}, "b.png": png() + b"b"}
    upload.write_bytes(OUTER[outer](files))
    assert named(upload) == {"a.png": png(), **FLAT, "b.png": png() + b"b"}
    assert list(upload.parent.iterdir()) == [upload], "nothing is left behind"


@pytest.mark.parametrize("outer", OUTER)
def test_listing_gives_the_same_ordinals_and_any_entry_can_be_read_alone(upload: Path, outer: str) -> None:
    upload.write_bytes(OUTER[outer]({name: zip_of(inside) for name, inside in PATIENTS.items()}))
    names = [entry.name for entry in read_entries(upload, "x", Limits())]
    assert names == list(FLAT)
    for ordinal, data in enumerate(FLAT.values()):
        assert [e.read() for e in read_entries(upload, "x", Limits()) if e.ordinal == ordinal] == [data]


def test_stored_inner_zip_is_read_where_it_lies(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = {name: zip_of(inside) for name, inside in PATIENTS.items()}
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    for pack in (OUTER["zip stored"], tar_of):
        upload.write_bytes(pack(inner))
        assert named(upload) == FLAT


def test_deeper_archives_are_nested(upload: Path) -> None:
    deep = {"deep.zip": zip_of({"x.png": png()}), "y.png.gz": gzip.compress(png()), "z.png": png()}
    upload.write_bytes(zip_of({"p.zip": zip_of(deep)}))
    assert named(upload) == {"p.zip/deep.zip": "nested", "p.zip/y.png.gz": "nested", "p.zip/z.png": png()}


def test_name_of_an_archive_says_only_where_to_look(upload: Path) -> None:
    for pack in (zip_of, tar_of, OUTER["tar.gz"]):
        upload.write_bytes(pack({"a.zip": png(), "b.png": zip_of(PATIENTS["p0.zip"]), "c.7z": b"7z\xbc\xaf\x27\x1c"}))
        assert named(upload) == {"a.zip": png(), "b.png": "nested", "c.7z": "nested"}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_file_is_unpacked_alone_or_in_an_archive(upload: Path, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(png())
    upload.write_bytes(packed)
    ((entry, content),) = read_all(upload, filename="1.dcm.gz")
    assert (entry.name, content) == ("1.dcm.gz", png())
    assert inspect_archive(upload, "1.dcm.gz", Limits()).kind == "file"
    ((_, content),) = read_all(upload, Limits(max_entry_bytes=100))
    assert isinstance(content, SliceRejected)
    assert content.code == "too_large_unpacked"
    for outer in (zip_of, tar_of):
        upload.write_bytes(outer({"s/1.dcm.gz": packed, "2.dcm.gz": packed[:-9], "3.png": png()}))
        assert named(upload) == {"s/1.dcm.gz": png(), "2.dcm.gz": "truncated_archive", "3.png": png()}


BAD = {
    "truncated_archive": zip_of(PATIENTS["p0.zip"])[:-30],
    "password_protected": raw_zip([RawEntry(b"a", png(), flags=1)]),
    "deflate64": raw_zip([RawEntry(b"a", png(), method=9)]),
    "no_images": zip_of({"DICOMDIR": b"x"}),
    "unsupported_archive": b"Rar!\x1a\x07\x00" + bytes(2000),
}


@pytest.mark.parametrize("code", BAD)
def test_bad_inner_archive_is_one_row_and_its_siblings_are_read(upload: Path, code: str) -> None:
    for pack in (zip_of, tar_of):
        upload.write_bytes(pack({"bad.zip": BAD[code], "good.zip": zip_of({"1.png": png()})}))
        assert named(upload) == {"bad.zip": code, "good.zip/1.png": png()}


def test_damage_within_an_inner_tar_keeps_what_was_read_and_ends_it_with_a_row(upload: Path) -> None:
    noise = {f"{n}.png": os.urandom(20_000) for n in range(3)}
    whole = gzip.compress(tar_of(noise))
    upload.write_bytes(zip_of({"p.tgz": whole[: len(whole) // 2], "z.png": png()}))
    found = named(upload)
    assert found.pop("p.tgz/0.png") == noise["0.png"]
    assert found == {"p.tgz/1.png": "truncated_archive", "p.tgz": "truncated_archive", "z.png": png()}
    assert [entry.name for entry in read_entries(upload, "x", Limits())][-2:] == ["p.tgz", "z.png"]


def test_inner_tar_whose_inflated_bytes_are_damaged_is_corrupt(upload: Path) -> None:
    inner = tar_of({"1.png": png(), "2.png": png()})
    upload.write_bytes(raw_zip([RawEntry(b"p.tar", inner, method=8, crc=1), RawEntry(b"z.png", png())]))
    assert named(upload) == {"p.tar": "corrupt", "z.png": png()}


def test_damaged_file_of_a_stored_inner_tar_costs_no_other_file(upload: Path) -> None:
    """A TAR has no checksums of its files. Their decoder has to find the damage."""
    whole = zip_of({"p.tar": tar_of({"1.png": png(), "2.png": png()}), "z.png": png()}, zipfile.ZIP_STORED)
    at = whole.index(png()) + len(png()) // 2
    upload.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    files = named(upload)
    assert list(files) == ["p.tar/1.png", "p.tar/2.png", "z.png"]
    assert [name for name, data in files.items() if data != png()] == ["p.tar/1.png"]


@pytest.mark.parametrize("outer", [zip_of, tar_of])
def test_limits_count_through_both_levels(upload: Path, outer: Pack) -> None:
    upload.write_bytes(outer({name: zip_of(inside) for name, inside in PATIENTS.items()}))
    assert refusal(upload, Limits(max_entries=7)) == "too_many_entries"
    assert len(named(upload, Limits(max_entries=8))) == 6
    size = sum(len(zip_of(inside)) + sum(map(len, inside.values())) for inside in PATIENTS.values())
    assert refusal(upload, Limits(max_unpacked_bytes=size - 1)) == "too_large_unpacked"
    assert len(named(upload, Limits(max_unpacked_bytes=size))) == 6


def test_ratio_counts_through_both_levels(upload: Path) -> None:
    inner = zip_of({"a.png": bytes(19 << 20)})
    assert (19 << 20) / len(inner) > 200
    for pack in (OUTER["zip stored"], OUTER["tar"]):
        upload.write_bytes(pack({"bomb.zip": inner, "noise": os.urandom(50_000)}))
        assert refusal(upload, Limits()) == "too_large_unpacked"


def test_full_disk_is_no_fault_of_the_archive(upload: Path) -> None:
    upload.write_bytes(zip_of({"p.zip": zip_of(PATIENTS["p0.zip"])}))
    with pytest.raises(OSError, match="No space"):
        inspect_archive(upload, "x", Limits(reserve_bytes=1 << 62))


def test_look_at_the_beginning_unpacks_little(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.imaging.archives.archive.LOOKED_BYTES", 1 << 20)
    inner = zip_of({f"{n}.png": os.urandom(500_000) for n in range(4)}, zipfile.ZIP_STORED)
    upload.write_bytes(zip_of({"p.zip": inner}))
    assert inspect_archive(upload, "x", Limits(), whole=False).entries is None


@pytest.mark.parametrize("inner", ["zip", "tar"])
def test_look_at_the_beginning_reads_the_whole_list_of_a_stored_archive(
    upload: Path, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.imaging.archives.archive.LOOKED_BYTES", 1 << 20)
    files = {f"{n}.png": os.urandom(500_000) for n in range(4)}
    upload.write_bytes(zip_of({f"p.{inner}": INNER[inner](files)}, zipfile.ZIP_STORED))
    assert inspect_archive(upload, "x", Limits(), whole=False).entries == 4
    with pytest.raises(ArchiveRefused) as refused:
        inspect_archive(upload, "x", Limits(max_entries=3), whole=False)
    assert refused.value.code == "too_many_entries"
