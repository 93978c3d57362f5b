"""A TAR that is made while it is sent: its length is exact, and Python's tarfile and our own reader read it alike."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from db.registry.tar_stream import END, tar_member, tar_size
from worker.imaging.archives.archive import Limits, read_entries

NOT_UTF8 = os.fsdecode(b"\xff.png")
NAMES = ["a.png", "d/" * 60 + "y.png", "x" * 300 + ".png", "ä" * 100 + ".png", NOT_UTF8]
SIZES = [0, 1, 512, 513, 1000]


@pytest.fixture
def tar() -> bytes:
    members = zip(NAMES, SIZES, strict=True)
    return b"".join(piece for name, size in members for piece in tar_member(name, size, [b"x" * size])) + END


def test_length_is_known_before(tar: bytes) -> None:
    assert tar_size(zip(NAMES, SIZES, strict=True)) == len(tar)


def test_tarfile_reads_every_name_and_size(tar: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert [(member.name, member.size) for member in archive] == list(zip(NAMES, SIZES, strict=True))


def test_our_reader_reads_every_name(tar: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar)
    entries = list(read_entries(tmp_path / "a.tar", "a.tar", Limits()))
    assert [(entry.name, entry.size) for entry in entries[:4]] == list(zip(NAMES[:4], SIZES[:4], strict=True))
    assert entries[4].name == "<U+DCFF>.png"


def test_short_plain_name_is_ustar() -> None:
    header = next(tar_member("package.json", 3, [b"abc"]))
    info = tarfile.TarInfo("package.json")
    info.size = 3
    assert header == info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
