"""Finds the type of a file by its first bytes, not by its name."""

from typing import Literal

ARCHIVE_MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"PK\x07\x08": "zip",
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}

PACKED = ("gz", "bz2", "xz")
"""Kinds of `archive_kind` that pack one file, often a TAR."""

_TAR_NAMES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_ARCHIVE_NAMES = (b".zip", b".tar", b".gz", b".tgz", b".bz2", b".tbz2", b".xz", b".txz")

HEAD = 1024
"""Bytes that `archive_kind` needs to see."""

IMAGE_HEAD = 348
"""Bytes that `image_kind` needs to see."""

_TAR_BLOCK = 512
_NIFTI_1, _NIFTI_2 = (b"n+1\0", b"ni1\0"), b"n+2\0\r\n\x1a\n"


def archive_kind(head: bytes, name: str = "") -> str | None:
    """Return `zip`, `tar`, `gz`, `bz2` or `xz`, or a kind that cannot be read (`7z`, `rar`, `zstd`, `lz4`), or None.

    `name`: the name of the file, which `is_tar` needs.
    """
    for magic, kind in ARCHIVE_MAGIC.items():
        if head.startswith(magic):
            return kind
    return "tar" if is_tar(head, name) else None


def is_tar_name(name: str) -> bool:
    """Return whether a name is the name of a TAR, packed or not."""
    return name.lower().endswith(_TAR_NAMES)


def is_archive_name(name: bytes) -> bool:
    """Return whether a name, or the end of a name, belongs to an archive or a packed file."""
    return name[-5:].lower().endswith(_ARCHIVE_NAMES)


def is_tar(head: bytes, name: str) -> bool:
    """Return whether a TAR starts here: a header whose checksum is right, or the zero blocks of an empty TAR.

    Broken copies of other files begin with zeros too. So an empty TAR must also have the name of a TAR.
    """
    if len(head) < _TAR_BLOCK:
        return False
    if not any(head[:_TAR_BLOCK]):
        return is_tar_name(name) and len(head) >= 2 * _TAR_BLOCK and not any(head[: 2 * _TAR_BLOCK])
    return head[0] != 0 and checksum_holds(head[:_TAR_BLOCK])


def checksum_holds(header: bytes) -> bool:
    """Return whether the checksum of a 512-byte TAR header is right (POSIX.1-2017, pax, "ustar Interchange Format").

    Old programs summed signed characters. This function accepts both sums, as every tar program does.
    """
    try:
        stated = int(header[148:156].strip(b" \x00") or b"x", 8)
    except ValueError:
        return False
    rest = header[:148] + header[156:]
    unsigned = sum(rest) + 8 * 0x20
    return stated == unsigned or stated == unsigned - 256 * sum(byte >= 0x80 for byte in rest)


def image_kind(data: bytes | memoryview) -> str | None:
    """Return `PNG`, `JPEG`, `TIFF`, `BMP`, `DICOM`, `NIfTI` or None, by the first `IMAGE_HEAD` bytes.

    A DICOM preamble may look like a TIFF or a program (PS3.10 7.1). So `DICM` at byte 128 is checked first.
    """
    head = bytes(data[:IMAGE_HEAD])
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    if head[344:348] in _NIFTI_1 or head[4:12] == _NIFTI_2:
        return "NIfTI"
    return "DICOM" if _is_bare_dicom(head) else None


def _is_bare_dicom(head: bytes) -> bool:
    """Return whether a DICOM data set without preamble starts here: group 0002 or 0008, then a VR or a short length."""
    order: Literal["big", "little"] = "big" if head[:1] == b"\0" else "little"
    group, number = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)
    if len(head) < 16 or group not in (2, 8) or number > 255:
        return False
    if head[4:6] in (b"UL", b"CS", b"UI", b"OB", b"SH", b"DA", b"TM", b"LO"):
        return True
    return order == "little" and int.from_bytes(head[4:8], order) <= 128
