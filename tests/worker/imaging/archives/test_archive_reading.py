"""Archives as they should be: told by their bytes, read in order, in little memory."""

import bz2
import gzip
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.builders.files import tar_of, zip_of
from tests.worker.imaging.builders import RawEntry, end_record, listed, png, raw_zip, read_all
from worker.imaging.archives import archive as archive_module
from worker.imaging.archives import zip as zip_module
from worker.imaging.archives.archive import Inspection, Limits, PassedOver, inspect_archive, read_entries
from worker.imaging.archives.compressed import PackedSource
from worker.imaging.rejections import ArchiveRefused, SliceRejected

ROOT = Path(__file__).parents[4]
FILES = {"scans/a.png": png(), "scans/b.png": png() + b"b", "c.png": b"c"}

KINDS = {
    "zip": zip_of(FILES),
    "tar": tar_of(FILES),
    "tar.gz": gzip.compress(tar_of(FILES)),
    "tar.bz2": bz2.compress(tar_of(FILES)),
    "tar.xz": lzma.compress(tar_of(FILES)),
}


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return tmp_path / "upload"


@pytest.mark.slow
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_look_at_a_packed_tar_unpacks_only_its_beginning(
    upload: Path, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "LOOKED_BYTES", 2 * 1024 * 1024)
    unpacked: list[int] = []
    real = PackedSource._unpack_input

    def unpack(source: PackedSource) -> bytes:
        part = real(source)
        unpacked.append(len(part))
        return part

    monkeypatch.setattr(PackedSource, "_unpack_input", unpack)
    upload.write_bytes(pack(tar_of({f"{n}.png": os.urandom(500_000) for n in range(12)})))
    assert inspect_archive(upload, "x", Limits(), whole=False).entries is None
    assert sum(unpacked) < 4_000_000
    assert inspect_archive(upload, "x", Limits()).entries == 12
    upload.write_bytes(pack(tar_of(FILES)))
    assert inspect_archive(upload, "x", Limits(), whole=False).entries == 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_recognised_by_its_bytes_and_read_in_order(upload: Path, kind: str) -> None:
    upload.write_bytes(KINDS[kind])
    assert inspect_archive(upload, "misleading.jpg", Limits()) == Inspection(kind, 3)
    expected = [(listed(n, name, len(data)), data) for n, (name, data) in enumerate(FILES.items())]
    assert read_all(upload) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_entries_that_are_not_read_leave_the_others_whole(upload: Path, kind: str) -> None:
    upload.write_bytes(KINDS[kind])
    contents = [entry.read() for entry in read_entries(upload, "x", Limits()) if entry.ordinal != 1]
    assert contents == [png(), b"c"]


def test_listing_a_zip_inflates_nothing(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inflated: list[int] = []
    inflate = zip_module._inflate
    monkeypatch.setattr(zip_module, "_inflate", lambda *given: inflated.append(given[1]) or inflate(*given))
    upload.write_bytes(zip_of(FILES, zipfile.ZIP_DEFLATED))
    assert [entry.name for entry in read_entries(upload, "x", Limits())] == list(FILES)
    assert inflated == []
    assert [entry.read() for entry in read_entries(upload, "x", Limits()) if entry.name == "c.png"] == [b"c"]
    assert inflated == [1]


def test_entry_of_a_tar_cannot_be_read_after_the_next_one_is_asked_for(upload: Path) -> None:
    upload.write_bytes(KINDS["tar.gz"])
    entries = list(read_entries(upload, "x", Limits()))
    with pytest.raises(RuntimeError, match="before the next one"):
        entries[0].read()


def test_ignored_files_have_no_ordinal(upload: Path) -> None:
    upload.write_bytes(zip_of({"d/": b"", "__MACOSX/._a": b"x", "d/a": b"1", "d/dicomdir": b"x", "b": b"2"}))
    assert inspect_archive(upload, "x", Limits()).entries == 2
    assert [(entry.ordinal, entry.name) for entry, _ in read_all(upload)] == [(0, "d/a"), (1, "b")]


CD = {"DICOMDIR": b"x", "d/a.png": png(), "d/dicomdir": b"x", "DICOMDIR/b.png": png()}
MEDIA = {
    "zip": (zip_of(CD), "cd.zip", 2),
    "tar": (tar_of(CD), "cd.tar", 2),
    "tar.gz": (gzip.compress(tar_of(CD)), "cd.tar.gz", 2),
    "zip in a tar": (tar_of({"dicomdir": b"x", "cd.zip": zip_of(CD)}), "all.tar", 3),
    "loose": (b"x", "DICOMDIR", 1),
    "none": (zip_of({"a.png": png()}), "a.zip", 0),
}


@pytest.mark.parametrize(("data", "name", "dicomdirs"), MEDIA.values(), ids=MEDIA)
def test_dicomdirs_are_counted(upload: Path, data: bytes, name: str, dicomdirs: int) -> None:
    upload.write_bytes(data)
    passed_over = PassedOver()
    entries = list(read_entries(upload, name, Limits(), passed_over=passed_over))
    assert passed_over.dicomdirs == dicomdirs
    assert all(not entry.name.lower().endswith("dicomdir") for entry in entries)


def test_a_folder_that_holds_bytes_is_a_file(upload: Path) -> None:
    upload.write_bytes(raw_zip([RawEntry(b"folder/", png())]))
    assert read_all(upload) == [(listed(0, "folder/", len(png())), png())]


def test_a_loose_file_is_the_one_entry(upload: Path) -> None:
    upload.write_bytes(png())
    assert inspect_archive(upload, "scan.zip", Limits()) == Inspection("file", 1)
    assert read_all(upload, filename="my\u202escan.png") == [(listed(0, "my<U+202E>scan.png", len(png())), png())]
    assert list(read_entries(upload, "dicomdir", Limits())) == []
    ((_, content),) = read_all(upload, Limits(max_entry_bytes=10))
    assert isinstance(content, SliceRejected)
    assert content.code == "too_large_unpacked"


def test_an_empty_file_in_an_archive_is_a_row_of_its_own(upload: Path) -> None:
    for archive in (zip_of({"a.png": b"", "b.png": png()}), tar_of({"a.png": b"", "b.png": png()})):
        upload.write_bytes(archive)
        (_, empty), (_, whole) = read_all(upload)
        assert isinstance(empty, SliceRejected)
        assert (empty.code, whole) == ("empty", png())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_zip_is_read_stored_deflated_and_bzipped(upload: Path, method: int) -> None:
    big = np.random.default_rng(1).bytes(3_000_000)
    upload.write_bytes(zip_of({"big": big, "a": png()}, method))
    assert [content for _, content in read_all(upload)] == [big, png()]


def test_zip64_is_read(upload: Path) -> None:
    with zipfile.ZipFile(upload, "w") as archive:
        for name in ("a", "b"):
            with archive.open(name, "w", force_zip64=True) as entry:
                entry.write(png())
    assert [content for _, content in read_all(upload)] == [png(), png()]


def test_a_zip_written_to_a_pipe_is_read(upload: Path) -> None:
    """Such a ZIP states sizes behind the data only, and in its directory."""
    with upload.open("wb") as file:
        piped = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
        assert piped.stdin is not None
        with zipfile.ZipFile(piped.stdin, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", png())
            archive.writestr("b", png())
        piped.stdin.close()
        assert piped.wait() == 0
    assert [content for _, content in read_all(upload)] == [png(), png()]


def test_a_zip_with_a_comment_is_read(upload: Path) -> None:
    upload.write_bytes(KINDS["zip"])
    with zipfile.ZipFile(upload, "a") as archive:
        archive.comment = b"PK\x05\x06 " * 100
    assert len(read_all(upload)) == 3


@pytest.mark.parametrize("packer", [gzip.compress, bz2.compress, lzma.compress])
def test_passing_over_a_file_of_a_packed_tar_reports_progress(upload: Path, packer: Callable[[bytes], bytes]) -> None:
    upload.write_bytes(packer(tar_of({"large.png": os.urandom(3 << 20), "small.png": b"s"})))
    calls: list[int] = []
    entries = read_entries(upload, "x", Limits(), lambda: calls.append(len(calls)))
    next(entries)
    before = len(calls)
    assert next(entries).name == "small.png"
    assert len(calls) - before >= (3 << 20) // (256 * 1024)


@pytest.mark.parametrize("packer", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_streams_one_after_another_are_one_tar(upload: Path, packer: object) -> None:
    tar = tar_of(FILES)
    upload.write_bytes(packer(tar[:700]) + packer(tar[700:]) + bytes(512))  # type: ignore[operator]
    assert [content for _, content in read_all(upload)] == list(FILES.values())


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_is_read(upload: Path, form: int) -> None:
    files = {"x" * 90 + "/" + "y" * 90: png(), "kurz": b"k"}
    if form != tarfile.USTAR_FORMAT:
        files["Größe" * 30] = b"g"
    upload.write_bytes(tar_of(files, form=form))
    assert {entry.name: content for entry, content in read_all(upload)} == files


def test_pax_size_and_base_256_size_are_believed(upload: Path) -> None:
    member = tarfile.TarInfo("a")
    member.size = 5
    header = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\x80" + (5).to_bytes(11, "big")
    header[148:156] = b"%06o\x00 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    upload.write_bytes(bytes(header) + b"12345".ljust(512, b"\x00") + bytes(1024))
    assert read_all(upload) == [(listed(0, "a", 5), b"12345")]
    member.size, member.pax_headers = 0, {"size": "5"}
    upload.write_bytes(member.tobuf(tarfile.PAX_FORMAT) + b"12345".ljust(512, b"\x00") + bytes(1024))
    assert read_all(upload) == [(listed(0, "a", 5), b"12345")]


SPARSE = [["--format=gnu"], *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))]


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar program to make sparse files with")
@pytest.mark.parametrize("options", SPARSE, ids=" ".join)
@pytest.mark.parametrize("pieces", [1, 30])
def test_row_09_sparse_files_are_unsupported_and_their_siblings_are_read(
    upload: Path, tmp_path: Path, options: list[str], pieces: int
) -> None:
    file = tmp_path / "holes"
    with file.open("wb") as target:
        for piece in range(pieces):
            target.seek(100_000 * (piece + 1))
            target.write(png())
        target.truncate(100_000 * (pieces + 2))
    (tmp_path / "plain").write_bytes(png())
    command = ["tar", "-C", str(tmp_path), "-S", *options, "-cf", str(upload), "holes", "plain"]
    subprocess.run(command, check=True)
    assert upload.stat().st_size < file.stat().st_size / 2
    (holes, rejection), plain = read_all(upload)
    assert isinstance(rejection, SliceRejected)
    assert (holes.name, rejection.code) == ("holes", "unsupported")
    assert plain == (listed(1, "plain", len(png())), png())


def long_zip(names: list[str]) -> bytes:
    """Like `raw_zip` for names of one length, in a tenth of the time; above 65,535 entries: ZIP64."""
    first = RawEntry(names[0].encode(), b"slice")
    length = len(first.name)
    local = np.empty(len(names), [("head", "V30"), ("name", f"V{length}"), ("data", "V5")])
    central = np.empty(len(names), [("head", "V42"), ("offset", "<u4"), ("name", f"V{length}")])
    local["head"], local["data"] = np.void(first.local()[:30]), np.void(b"slice")
    central["head"], central["offset"] = np.void(first.central(0)[:42]), np.arange(len(names)) * local.itemsize
    local["name"] = central["name"] = np.frombuffer("".join(names).encode(), f"V{length}")
    counts = (len(names), len(names), central.nbytes, local.nbytes)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *counts)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, local.nbytes + central.nbytes, 1)
    return local.tobytes() + central.tobytes() + end64 + locator + end_record(0xFFFF, central.nbytes, local.nbytes)


@pytest.mark.slow
def test_zip_of_finder_whose_count_wraps_around_is_read_to_its_end(upload: Path) -> None:
    names = [f"{number:06}.png" for number in range(65_540)]
    whole = long_zip(names)
    count, size, start = struct.unpack_from("<Q2Q", whole, whole.rindex(b"PK\x06\x06") + 32)
    entries = whole[: start + size]
    upload.write_bytes(entries + end_record(count % 65_536, size, start))
    assert inspect_archive(upload, "x", Limits()).entries == count
    assert [entry.name for entry in read_entries(upload, "x", Limits())] == names
    upload.write_bytes(entries + end_record(5, size, start))
    with pytest.raises(ArchiveRefused, match="malformed_archive"):
        inspect_archive(upload, "x", Limits())


def test_zip_of_finder_above_4_gib_is_read(upload: Path) -> None:
    """Its offsets wrap around. The file is sparse: it takes no room."""
    gap = 3 << 30
    entries = [RawEntry(b"%d.png" % number, png() + b"%d" % number) for number in range(4)]
    offsets = [number * gap for number in range(4)]
    with upload.open("wb") as file:
        for entry, offset in zip(entries, offsets, strict=True):
            file.seek(offset)
            file.write(entry.local())
        start = file.tell()
        directory = b"".join(e.central(at % 2**32) for e, at in zip(entries, offsets, strict=True))
        file.write(directory + end_record(len(entries), len(directory), start % 2**32))
    assert read_all(upload) == [(listed(n, f"{n}.png", len(e.data)), e.data) for n, e in enumerate(entries)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("zip", 100_000), ("tar", 20_000)])
def test_many_entries_take_little_memory(upload: Path, kind: str, count: int) -> None:
    names = [f"study/series-{number // 500:03}/slice-{number:06}.png" for number in range(count)]
    if kind == "zip":
        upload.write_bytes(long_zip(names))
    else:
        header = bytearray(tarfile.TarInfo("x" * 100).tobuf(tarfile.USTAR_FORMAT))
        upload.write_bytes(bytes(header) * count + bytes(1024))
    program = (
        "import sys; from pathlib import Path; from worker.imaging.archives.archive import *;"
        "path = Path(sys.argv[1]); print(inspect_archive(path, 'x', Limits()).entries,"
        "sum(1 for entry in read_entries(path, 'x', Limits()) if entry.read()),"
        "next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    command = [sys.executable, "-c", program, str(upload)]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    inspected, read, kibibytes = (int(word) for word in output.split())
    assert (inspected, read) == (count, count)
    assert kibibytes < 100 * 1024
