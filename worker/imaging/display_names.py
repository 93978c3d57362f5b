"""Turns names from archives into names to show. Never use them as paths."""

import re

MAX_NAME = 500
"""Characters of a display name; the end of a longer name is kept, since names differ there."""

_DICOMDIR = "dicomdir"
_IGNORED_FILES = {".ds_store", "thumbs.db", _DICOMDIR}
_IGNORED_FOLDER = "__macosx"
_TWIN = "._"  # macOS keeps the attributes of a file in a second file, also outside of `__MACOSX`
_SEPARATORS = re.compile(r"[/\\]")


def display_name(raw: str) -> str:
    """Return a name in a form that can be shown and stored: at most `MAX_NAME` printable characters.

    Control characters, NUL, unpaired surrogates and invisible formatting (such as the bidirectional overrides that make
    `gnp.exe` look like `exe.png`) become escapes: `<U+0000>`, `<U+202E>`. An escape has no backslash, because a
    backslash separates folders, and Windows allows no file name with `<`. Everything else stays, also `../` and `C:\\`.
    """
    name = raw if raw.isprintable() else "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in raw)
    return name if len(name) <= MAX_NAME else "…" + name[1 - MAX_NAME :]


def decode_name(raw: bytes, *, utf8: bool = True) -> str:
    """Return the bytes of a name as text.

    `utf8`: the name is flagged as UTF-8, or comes from a TAR. Bytes that are not UTF-8 are then kept as surrogates.
    Without the flag, valid UTF-8 is still read as UTF-8, because most tools write it without the flag. Other bytes are
    read as cp437 (APPNOTE 6.3.10, appendix D).
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="surrogateescape") if utf8 else raw.decode("cp437")


def is_ignored(name: str) -> bool:
    """Return whether the file gets no row, because operating systems or DICOM media put such files beside images."""
    parts = _SEPARATORS.split(name.lower())
    return parts[-1] in _IGNORED_FILES or parts[-1].startswith(_TWIN) or _IGNORED_FOLDER in parts


def is_dicomdir(name: str) -> bool:
    """Return whether the file has the name that the DICOM standard requires for the list of a medium's files."""
    return _SEPARATORS.split(name.lower())[-1] == _DICOMDIR
