"""Names found in archives: labels to show, never paths to use."""

import re

MAX_LABEL = 500
"""Characters of a label; the end of a longer name is kept, for that is where names differ."""

_IGNORED_FILES = {".ds_store", "thumbs.db", "dicomdir"}
_IGNORED_FOLDER = "__macosx"
_SEPARATORS = re.compile(r"[/\\]")


def label(raw: str) -> str:
    """A name as it can be shown and stored: at most `MAX_LABEL` printable characters.

    Control characters, NUL, unpaired surrogates and invisible formatting (the bidirectional overrides that make
    `gnp.exe` read `exe.png`) are written as escapes: `\\x00`, `\\u202e`. Everything else stays, `../` and `C:\\` too.
    """
    shown = raw if raw.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in raw)
    return shown if len(shown) <= MAX_LABEL else "…" + shown[1 - MAX_LABEL :]


def decode_name(raw: bytes, *, utf8: bool = True) -> str:
    """Archive bytes → text. Without the UTF-8 flag valid UTF-8 is still taken for it (most tools write it unflagged),
    the rest as cp437 (APPNOTE 6.3.10, appendix D); a flagged or TAR name keeps its odd bytes as surrogates."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="surrogateescape") if utf8 else raw.decode("cp437")


def is_ignored(name: str) -> bool:
    """Whether operating systems and DICOM media put this file there beside the images: it gets no row."""
    parts = _SEPARATORS.split(name.lower())
    return parts[-1] in _IGNORED_FILES or _IGNORED_FOLDER in parts


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
