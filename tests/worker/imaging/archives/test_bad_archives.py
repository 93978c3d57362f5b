"""Bad inputs 1 to 17: what is wrong with a whole archive, or with the way a file lies in it."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from db.reasons import REASONS
from tests.builders.files import tar_of, zip_of
from tests.worker.imaging.builders import RawEntry, end_record, png, raw_zip, read_all
from worker.imaging.archives.archive import Inspection, Limits, inspect_archive
from worker.imaging.rejections import ArchiveRefused, SliceRejected

MIB = 1024 * 1024


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def inspect(upload: Path, data: bytes, limits: Limits | None = None) -> Inspection:
    upload.write_bytes(data)
    return inspect_archive(upload, "upload.tar", limits or Limits())


def refusal(upload: Path, data: bytes, limits: Limits | None = None) -> ArchiveRefused:
    """How an archive is refused, at submission and by whoever reads it unseen."""
    upload.write_bytes(data)
    with pytest.raises(ArchiveRefused) as inspected:
        inspect_archive(upload, "upload.tar", limits or Limits())
    with pytest.raises(ArchiveRefused) as read:
        read_all(upload, limits, "upload.tar")
    assert read.value.code == inspected.value.code
    assert inspected.value.code in REASONS
    return inspected.value


def outcomes(upload: Path, data: bytes, limits: Limits | None = None) -> list[str]:
    """Of every file of an archive that is accepted: its reason code, or `read`."""
    count = inspect(upload, data, limits).entries
    contents = [content for _, content in read_all(upload, limits, "upload.tar")]
    codes = [content.code if isinstance(content, SliceRejected) else "read" for content in contents]
    assert len(codes) == count
    return codes


def test_row_01_zip_ratio_over_200_is_refused_before_inflating(upload: Path) -> None:
    bomb = bytearray(zip_of({"a.png": bytes(20 * MIB)}))
    bomb[60:100] = b"\xff" * 40  # inflating would fail at once
    assert refusal(upload, bytes(bomb)).code == "too_large_unpacked"


def test_row_01_zip_total_over_the_cap_is_refused(upload: Path) -> None:
    files = zip_of({"a.png": png(), "b.png": png()})
    assert refusal(upload, files, Limits(max_unpacked_bytes=len(png()) + 1)).code == "too_large_unpacked"
    assert outcomes(upload, files, Limits(max_unpacked_bytes=2 * len(png()))) == ["read", "read"]


def test_row_01_one_file_over_its_cap_is_rejected_alone(upload: Path) -> None:
    archive = zip_of({"big.png": png() + bytes(1000), "small.png": png()})
    assert outcomes(upload, archive, Limits(max_entry_bytes=len(png()))) == ["too_large_unpacked", "read"]


def test_row_02_fully_overlapping_entries_are_refused(upload: Path) -> None:
    kernel = RawEntry(b"a", png())
    twice = raw_zip([kernel, kernel], offsets=[0, 0], body=kernel.local())
    assert refusal(upload, twice).code == "overlap"


def test_row_02_entries_that_quote_the_next_header_are_refused(upload: Path) -> None:
    inner = RawEntry(b"b", png(), method=8)
    quoted_header = inner.local()[: -len(inner.stored())]
    quote = b"\x00" + struct.pack("<HH", len(quoted_header), 0xFFFF ^ len(quoted_header)) + quoted_header
    outer = RawEntry(b"a", quoted_header + png(), method=8, packed=quote + inner.stored())
    body = outer.local()
    quoted = raw_zip([outer, inner], offsets=[0, len(body) - len(inner.local())], body=body)
    assert refusal(upload, quoted).code == "overlap"


def test_row_02_an_entry_inside_the_directory_is_refused(upload: Path) -> None:
    entry = RawEntry(b"a", png(), packed_size=len(png()) + 10, size=len(png()) + 10)
    assert refusal(upload, raw_zip([entry])).code == "overlap"


@pytest.mark.parametrize("stated", [10, len(png()) - 1, len(png()) + 1])
@pytest.mark.parametrize("method", [0, 8])
def test_row_03_a_size_unlike_the_real_one_rejects_the_file(upload: Path, method: int, stated: int) -> None:
    archive = raw_zip([RawEntry(b"a", png(), method=method, size=stated), RawEntry(b"b", png())])
    assert outcomes(upload, archive) == ["size_mismatch", "read"]


def test_row_03_inflating_stops_at_the_stated_size(upload: Path) -> None:
    liar = RawEntry(b"a", bytes(50 * MIB), method=8, size=1000)
    assert outcomes(upload, raw_zip([liar, RawEntry(b"b", png())])) == ["size_mismatch", "read"]


def test_row_04_a_wrong_crc_rejects_the_file(upload: Path) -> None:
    archive = raw_zip([RawEntry(b"a", png(), crc=1), RawEntry(b"b", png(), method=8, crc=1), RawEntry(b"c", png())])
    assert outcomes(upload, archive) == ["corrupt", "corrupt", "read"]


def test_row_04_damaged_compressed_data_rejects_the_file(upload: Path) -> None:
    broken = RawEntry(b"a", png(), method=8, packed=b"\xff" * 50)
    short = RawEntry(b"b", png(), method=8, packed=RawEntry(b"", png(), method=8).stored()[:-9])
    assert outcomes(upload, raw_zip([broken, short, RawEntry(b"c", png())])) == ["corrupt", "corrupt", "read"]


@pytest.mark.parametrize("points_at", [0, 10, 1 << 40, (1 << 64) - 1])
def test_row_05_a_forged_zip64_locator_is_refused(upload: Path, points_at: int) -> None:
    honest = zip_of({"a.png": png()})
    end = len(honest) - 22
    forged = honest[:end] + struct.pack("<4sIQI", b"PK\x06\x07", 0, points_at, 1) + honest[end:]
    assert refusal(upload, forged).code == "bad_zip64"


def test_row_05_zip64_values_that_contradict_the_ordinary_ones_are_refused(upload: Path) -> None:
    entry = RawEntry(b"a", png())
    content, directory = entry.local(), entry.central(0)
    at = len(content) + len(directory)
    for count, code in ((1, None), (2, "bad_zip64")):
        end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), len(content))
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
        archive = content + directory + end64 + locator + end_record(1, len(directory), len(content))
        if code:
            assert refusal(upload, archive).code == code
        else:
            assert outcomes(upload, archive) == ["read"]


def test_row_06_more_entries_than_the_cap_are_refused(upload: Path) -> None:
    files = {f"{number}.png": png() for number in range(4)}
    for archive in (zip_of(files), tar_of(files), tar_of(files, "w:gz")):
        assert refusal(upload, archive, Limits(max_entries=3)).code == "too_many_entries"
        assert outcomes(upload, archive, Limits(max_entries=4)) == ["read"] * 4


def test_row_07_names_are_labels_and_nothing_is_written(upload: Path) -> None:
    names = ["../x.png", "/etc/x.png", "C:\\x.png", "nul\x00.png"]
    entries = [RawEntry(name.encode(), png()) for name in names]
    upload.write_bytes(raw_zip(entries))
    assert [entry.name for entry, _ in read_all(upload)] == [*names[:3], "nul<U+0000>.png"]
    upload.write_bytes(tar_of(dict.fromkeys(names[:3], png())))
    assert [entry.name for entry, _ in read_all(upload)] == names[:3]
    assert list(upload.parent.iterdir()) == [upload]


def test_row_08_tar_links_devices_and_fifos_are_not_regular(upload: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"thing-{kind.decode()}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("a.png")
        member.size = len(png())
        archive.addfile(member, io.BytesIO(png()))
    assert outcomes(upload, file.getvalue()) == ["not_regular"] * 5 + ["read"]


def test_row_08_a_symbolic_link_in_a_zip_is_not_regular(upload: Path) -> None:
    link = RawEntry(b"a.png", b"/etc/passwd", external=0o120777 << 16)
    assert outcomes(upload, raw_zip([link, RawEntry(b"b", png(), external=0o100644 << 16)])) == ["not_regular", "read"]


def test_row_09_gnu_and_pax_long_names_are_accepted(upload: Path) -> None:
    name = "deep/" * 60 + "slice.png"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        upload.write_bytes(tar_of({name: png()}, form=form))
        assert [(entry.name, content) for entry, content in read_all(upload)] == [(name, png())]


def test_row_09_a_long_name_longer_than_any_name_is_refused(upload: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 5 * MIB
    archive = header.tobuf(tarfile.GNU_FORMAT) + b"n" * 5 * MIB + tar_of({"a.png": png()})
    assert refusal(upload, archive).code == "malformed_archive"


@pytest.mark.parametrize("pack", [zip_of, tar_of, gzip.compress, bz2.compress, lzma.compress])
def test_row_10_an_archive_in_the_archive_that_is_not_named_as_one_is_nested(upload: Path, pack: object) -> None:
    inner = pack({"x.png": png()}) if pack in (zip_of, tar_of) else pack(png())  # type: ignore[operator]
    for archive in (zip_of({"in.png": inner, "a.png": png()}), tar_of({"in.png": inner, "a.png": png()})):
        assert outcomes(upload, archive) == ["nested", "read"]


def test_row_11_an_encrypted_zip_is_refused(upload: Path) -> None:
    archive = raw_zip([RawEntry(b"a", png()), RawEntry(b"b", png(), flags=1)])
    assert refusal(upload, archive).code == "password_protected"


def test_row_12_a_zip_with_deflate64_is_refused_once(upload: Path) -> None:
    entries = [RawEntry(b"%d" % number, png(), method=9) for number in range(3)]
    assert refusal(upload, raw_zip(entries)).code == "deflate64"


@pytest.mark.parametrize("method", [1, 14, 93, 1234])
def test_row_12_an_unknown_compression_method_rejects_the_file(upload: Path, method: int) -> None:
    assert outcomes(upload, raw_zip([RawEntry(b"a", png(), method=method), RawEntry(b"b", png())])) == [
        "unsupported",
        "read",
    ]


def test_row_13_names_in_any_encoding_are_shown_escaped(upload: Path) -> None:
    raw = {
        b"\x81\x94.png": "üö.png",  # cp437
        "Größe.png".encode(): "Größe.png",  # UTF-8 without its flag
        "a\u202egnp.exe".encode(): "a<U+202E>gnp.exe",
        b"line\nbreak\x1b[31m": "line<U+000A>break<U+001B>[31m",
    }
    upload.write_bytes(raw_zip([RawEntry(name, png()) for name in raw]))
    assert [entry.name for entry, _ in read_all(upload)] == list(raw.values())
    upload.write_bytes(raw_zip([RawEntry(b"bad\xff.png", png(), flags=0x800)]))
    assert [entry.name for entry, _ in read_all(upload)] == ["bad<U+DCFF>.png"]
    upload.write_bytes(raw_zip([RawEntry(b"n" * 5000 + b".png", png())]))
    (entry, _), *_ = read_all(upload)
    assert (len(entry.name), entry.name[0], entry.name[-5:]) == (500, "…", "n.png")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_row_14_duplicate_and_case_colliding_names_are_rows_of_their_own(upload: Path) -> None:
    upload.write_bytes(zip_of([("a.png", png()), ("a.png", png() + b"1"), ("A.PNG", png() + b"2")]))
    assert [(entry.ordinal, entry.name, content) for entry, content in read_all(upload)] == [
        (0, "a.png", png()),
        (1, "a.png", png() + b"1"),
        (2, "A.PNG", png() + b"2"),
    ]


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("packer", PACKERS)
def test_row_15_a_truncated_tar_is_refused_naming_the_last_good_entry(upload: Path, packer: str) -> None:
    noise = [np.random.default_rng(seed).bytes(20_000) for seed in range(3)]
    tar = tar_of({"one.png": noise[0], "two.png": noise[1], "three.png": noise[2]}, form=tarfile.USTAR_FORMAT)
    whole = PACKERS[packer](tar)
    refused = refusal(upload, whole[: int(len(whole) * (0.6 if packer == "bz2" else 0.5))])
    assert refused.code == "truncated_archive"
    assert refused.last_good == (None if packer == "bz2" else "one.png")  # bzip2 gives nothing of half a block


@pytest.mark.parametrize("packer", PACKERS)
def test_row_15_trailing_junk_is_refused_naming_the_last_good_entry(upload: Path, packer: str) -> None:
    tar = tar_of({"one.png": png(), "two.png": png()})
    inside = refusal(upload, PACKERS[packer](tar + b"junk"))
    assert (inside.code, inside.last_good) == ("trailing_data", "two.png")
    if packer:
        outside = refusal(upload, PACKERS[packer](tar) + b"junk")
        assert (outside.code, outside.last_good) == ("trailing_data", "two.png")


def test_row_15_a_tar_cut_anywhere_is_refused(upload: Path) -> None:
    tar = tar_of({"one.png": png(), "two.png": png()}, form=tarfile.USTAR_FORMAT)
    end = tar.rstrip(b"\x00")
    for length in range(600, len(end), 97):
        assert refusal(upload, tar[:length]).code == "truncated_archive"


def test_row_15_a_damaged_header_is_refused_naming_the_last_good_entry(upload: Path) -> None:
    tar = bytearray(tar_of({"one.png": png(), "two.png": png()}, form=tarfile.USTAR_FORMAT))
    second = tar.index(b"two.png")
    tar[second + 130] ^= 1
    refused = refusal(upload, bytes(tar))
    assert (refused.code, refused.last_good) == ("malformed_archive", "one.png")


def test_row_15_a_truncated_or_followed_zip_is_refused(upload: Path) -> None:
    archive = raw_zip([RawEntry(b"one.png", png()), RawEntry(b"two.png", png())])
    cut = refusal(upload, archive[: len(png()) + 200])
    assert (cut.code, cut.last_good) == ("truncated_archive", "one.png")
    assert refusal(upload, archive + b"junk").code == "trailing_data"
    assert refusal(upload, archive + archive).code == "malformed_archive"


def test_row_15_a_zip_directory_that_does_not_add_up_is_refused(upload: Path) -> None:
    entry = RawEntry(b"a", png())
    content, directory = entry.local(), entry.central(0)
    for count in (0, 2):
        forged = content + directory + end_record(count, len(directory), len(content))
        assert refusal(upload, forged).code == "malformed_archive"


IGNORED = {
    "__MACOSX/._a.png": b"x",
    "s/._1.dcm": b"x",
    "scans/.DS_Store": b"x",
    "Thumbs.db": b"x",
    "DICOMDIR": b"x",
    "folder/": b"",
    "patient1\\": b"",
}


@pytest.mark.parametrize("files", [{}, IGNORED])
def test_row_16_nothing_but_what_systems_leave_behind_is_no_images(upload: Path, files: dict[str, bytes]) -> None:
    tar = tar_of({name: data for name, data in files.items() if data})
    for archive in (zip_of(files), tar, gzip.compress(tar)):
        assert refusal(upload, archive).code == "no_images"
    assert outcomes(upload, zip_of(files | {"a.png": png()})) == ["read"]


def test_row_16_an_empty_loose_file_is_a_row_of_its_own(upload: Path) -> None:
    upload.write_bytes(b"")
    assert inspect_archive(upload, "a.png", Limits()).entries == 1
    ((entry, content),) = read_all(upload, filename="a.png")
    assert entry.size == 0
    assert isinstance(content, SliceRejected)
    assert content.code == "empty"


@pytest.mark.parametrize("packer", ["gz", "bz2", "xz"])
def test_row_17_a_bomb_round_a_tar_is_stopped_at_the_byte_cap(upload: Path, packer: str) -> None:
    bomb = PACKERS[packer](tar_of({"a.png": bytes(40 * MIB)}))
    assert len(bomb) < MIB
    assert refusal(upload, bomb).code == "too_large_unpacked"  # by its ratio
    real = PACKERS[packer](tar_of({"one.png": png(), "two.png": png(), "three.png": png() * 600}))
    stopped = refusal(upload, real, Limits(max_unpacked_bytes=100_000))
    assert (stopped.code, stopped.last_good) == ("too_large_unpacked", "two.png")


def test_row_17_xz_that_asks_for_gigabytes_is_refused(upload: Path) -> None:
    packed = bytearray(lzma.compress(tar_of({"a.png": png()})))
    header = packed[12 : 12 + (packed[12] + 1) * 4]
    assert header[2] == 0x21  # LZMA2; its dictionary size follows its length
    header[4] = 40  # 4 GiB
    header[-4:] = struct.pack("<I", zlib.crc32(header[:-4]))
    packed[12 : 12 + len(header)] = header
    assert refusal(upload, bytes(packed)).code == "too_large_unpacked"


@pytest.mark.parametrize("magic", [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07\x00", b"\x28\xb5\x2f\xfd"])
def test_other_archives_are_refused_by_name(upload: Path, magic: bytes) -> None:
    assert refusal(upload, magic + bytes(2000)).code == "unsupported_archive"


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_row_20_zeros_are_an_empty_tar_only_if_the_name_says_so(upload: Path, pack: Callable[[bytes], bytes]) -> None:
    assert refusal(upload, pack(bytes(10_240))).code == "no_images"
    ((entry, content),) = read_all(upload, filename="broken.dcm")
    assert (entry.name, content) == ("broken.dcm", bytes(10_240))
    assert inspect_archive(upload, "broken.dcm", Limits()).entries == 1


@pytest.mark.parametrize(("pack", "length"), [(gzip.compress, 30), (bz2.compress, 30), (lzma.compress, 60)])
def test_row_15_a_damaged_packed_file_is_refused_only_if_its_name_is_of_a_tar(
    upload: Path, pack: Callable[[bytes], bytes], length: int
) -> None:
    assert refusal(upload, pack(png())[:length]).code == "truncated_archive"
    ((_, content),) = read_all(upload, filename="cut.nii.gz")
    assert isinstance(content, SliceRejected)
    assert content.code == "truncated_archive"
    assert inspect_archive(upload, "cut.nii.gz", Limits()).entries == 1
