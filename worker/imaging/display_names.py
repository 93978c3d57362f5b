"""Names from archives, as they are shown: never paths to use."""

import re

MAX_NAME = 500
"""Characters of a display name; the end of a longer name is kept, since names differ there."""

_DICOMDIR = "dicomdir"
_IGNORED_FILES = {".ds_store", "thumbs.db", _DICOMDIR}
_IGNORED_FOLDER = "__macosx"
_TWIN = "._"  # macOS keeps attributes of a file in a second one, outside of `__MACOSX` too
_SEPARATORS = re.compile(r"[/\\]")


def display_name(raw: str) -> str:
    """Return a name as it can be shown and stored: at most `MAX_NAME` printable characters.

    Control characters, NUL, unpaired surrogates and invisible formatting (the bidirectional overrides that make
    `gnp.exe` read `exe.png`) are written as escapes: `\\x00`, `\\u202e`. Everything else stays, `../` and `C:\\` too.
    """
    name = raw if raw.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in raw)
    return name if len(name) <= MAX_NAME else "…" + name[1 - MAX_NAME :]


def decode_name(raw: bytes, *, utf8: bool = True) -> str:
    """Return the bytes of a name as text.

    Without the UTF-8 flag, valid UTF-8 is still taken as such, because most tools write it unflagged. Other bytes are
    cp437 (APPNOTE 6.3.10, appendix D). A flagged or TAR name keeps its odd bytes as surrogates.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="surrogateescape") if utf8 else raw.decode("cp437")


def is_ignored(name: str) -> bool:
    """Return whether operating systems or DICOM media put this file beside the images: it gets no row."""
    parts = _SEPARATORS.split(name.lower())
    return parts[-1] in _IGNORED_FILES or parts[-1].startswith(_TWIN) or _IGNORED_FOLDER in parts


def is_dicomdir(name: str) -> bool:
    """Return whether this file lists the files of DICOM media, by the name that the standard demands for it."""
    return _SEPARATORS.split(name.lower())[-1] == _DICOMDIR


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
