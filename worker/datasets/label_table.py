"""Reads the labels of a dataset's files from a CSV, and matches its lines to the files."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from db.models.slices import slashed
from worker.datasets.class_folders import PART_WORDS, class_of, plain
from worker.imaging.display_names import display_name

FILES = ("groups.csv", "labels.csv")
"""A submitted file with such a name may be the label file."""
MAX_BYTES = 64 * 1024 * 1024

COLUMNS = ("file", "label", "group", "split", "source")

_LISTED = 5
_ID = r"(_?(id|uid|no|nr|num|number|name|code|key|index|hash|identifier))"
_OF_PATIENT = re.compile(
    r"(patient|participant|subject|person|individual|case|group|subj|pat|pt)s?"
    rf"|.*(patient|participant|subject)s?{_ID}+"
    rf"|(.*_)?(person|individual|case|group|subj|pat|pt)s?{_ID}+"
    rf"|(.*_)?(pid|mrn){_ID}*"
)
"""Names of columns that name patients: a word for a patient alone, or with a word for an identifier at the end."""


class BadLabels(Exception):
    """The labels cannot be used. The message says in one line where and why."""


@dataclass(frozen=True, slots=True)
class FileLabels:
    """The label of a file. `group`, `split` and `source` come from the CSV and may be empty.

    `folder`: the group that the file's folders name.
    """

    label: int
    group: str = ""
    split: str = ""
    source: str = ""
    folder: str = ""


@dataclass(frozen=True, slots=True)
class LabelLine:
    """A line of the CSV."""

    number: int
    file: str
    labels: FileLabels


def is_label_name(path: str) -> bool:
    """Return whether a file with this path may hold labels, because its name is in `FILES`."""
    return slashed(path).rpartition("/")[2].lower() in FILES


def has_label_columns(content: bytes) -> bool:
    """Return whether this is a CSV with the columns of a label file."""
    return {"file", "label"} <= set(_head(content))


def _head(content: bytes) -> list[str]:
    text = content[:4096].decode("utf-8-sig", errors="replace").lstrip()
    # This does not check every line, because `read_csv` reports broken lines.
    return _names(next(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)), []))


def _names(head: Sequence[str]) -> list[str]:
    return [cell.strip().lower() for cell in head]


def read_csv(content: bytes) -> list[LabelLine]:
    """Return the lines of a CSV of labels.

    The CSV has the columns `file` and `label`. The columns `group`, `split` and `source` (the hospital or the scanner)
    are optional, and other columns are ignored. The CSV is in UTF-8, with commas, semicolons or tabs.

    Raises BadLabels, which names the faulty line. A line is also faulty if it has no group or no split, but others have
    one. Also raises BadLabels if two columns have the same name, or if a column seems to name patients but no line has
    a group.
    """
    if len(content) > MAX_BYTES:
        raise BadLabels(f"the labels file has {len(content)} bytes; {MAX_BYTES} are accepted")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadLabels(f"the labels file is not UTF-8 (line {line}); save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        lines = list(_lines(reader))
    except csv.Error as error:
        raise BadLabels(f"line {reader.line_num} of the labels file is broken: {error}") from error
    if not lines:
        raise BadLabels("the labels file names no file")
    for column in ("split", "group"):
        blank = [line.number for line in lines if not getattr(line.labels, column)]
        if 0 < len(blank) < len(lines):
            raise BadLabels(
                f"line {blank[0]} of the labels file has no {column}, others have one; fill in every line, or none"
            )
    return lines


def _delimiter(text: str) -> str:
    head = text.lstrip().partition("\n")[0]
    return max(",;\t", key=head.count)


def _lines(reader: Iterator[list[str]]) -> Iterator[LabelLine]:
    columns: dict[str, int] | None = None
    names: list[str] = []
    has_groups = False
    for line, cells in _numbered(reader):
        if not any(cell.strip() for cell in cells):
            continue
        if columns is None:
            _check_columns(names := _names(cells))
            columns = {name: names.index(name) for name in COLUMNS if name in names}
            width = len(cells)
            continue
        if len(cells) != width:
            raise BadLabels(f"line {line} of the labels file has {len(cells)} columns, the first line has {width}")
        label_line = _label_line(line, {name: cells[place].strip() for name, place in columns.items()})
        has_groups = has_groups or bool(label_line.labels.group)
        yield label_line
    if not has_groups and (of_patients := [name for name in names if name not in COLUMNS and _names_patients(name)]):
        raise BadLabels(
            f"the labels file states no group, but has a column {display_name(of_patients[0])}; if it names patients,"
            " rename it to group, because a split keeps the slices of a group together; otherwise remove it"
        )


def _check_columns(names: list[str]) -> None:
    if missing := {"file", "label"} - set(names):
        raise BadLabels(
            f"the labels file has no column {' and '.join(sorted(missing))}; its first line must name the columns"
            " file and label, and may name group, split and source"
        )
    if repeated := [name for name in COLUMNS if names.count(name) > 1]:
        raise BadLabels(f"the labels file has several columns named {repeated[0]}; keep the right one")


def _names_patients(column: str) -> bool:
    return _OF_PATIENT.fullmatch(re.sub(r"[\W_]+", "_", column).strip("_")) is not None


def _numbered(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    for cells in reader:
        yield reader.line_num, cells  # type: ignore[attr-defined]


def _label_line(line: int, cells: dict[str, str]) -> LabelLine:
    if not cells["file"]:
        raise BadLabels(f"line {line} of the labels file names no file")
    label = class_of(cells["label"])
    if label is None:
        raise BadLabels(
            f"line {line} of the labels file: the label {display_name(cells['label'])!r} is neither COVID (1) nor"
            " non-COVID (0)"
        )
    split = cells.get("split", "").lower()
    if split and split not in PART_WORDS:
        raise BadLabels(
            f"line {line} of the labels file: the split {display_name(split)!r} is not train, validation or test"
        )
    group, source = (display_name(cells.get(name, "")) for name in ("group", "source"))
    return LabelLine(line, plain(cells["file"]), FileLabels(label, group, PART_WORDS.get(split, ""), source))


def match_files(
    lines: Sequence[LabelLine], files: Sequence[str], full_names: Sequence[str] = ()
) -> dict[int, FileLabels]:
    """Return the labels of the files that a CSV names, by the index of the file.

    A line means the first of these files that exists:
    * the file with the line's path;
    * the file whose path ends with the line's path;
    * the file whose full name is the end of the line's path;
    * the file whose name ends the line's path, if no file is in a folder.

    `full_names`: the paths of the files, beginning with the name of their archive or sent folder.

    Raises BadLabels:
    * the CSV names a file that does not exist;
    * a line could mean several files;
    * two lines mean the same file, but have different paths or labels.
    """
    ends: dict[str, list[int]] = defaultdict(list)
    whole: dict[str, list[int]] = defaultdict(list)
    for index, path in enumerate(map(plain, files)):
        whole[path].append(index)
        for end in _ends(path):
            ends[end].append(index)
    full = _by_full_name(full_names)
    by_name = {} if _have_folders(files) else whole
    line_of: dict[int, LabelLine] = {}
    missing: list[LabelLine] = []
    for line in lines:
        name = line.file.rpartition("/")[2]
        indices = whole.get(line.file) or ends.get(line.file) or _of_full_name(line, full) or by_name.get(name)
        if not indices:
            missing.append(line)
            continue
        if len(indices) > 1:
            names = " and ".join(files[index] for index in indices[:2])
            raise BadLabels(
                f"line {line.number} of the labels file: {line.file} may be {names}; write more of its path"
            )
        _check_agree(line_of.setdefault(indices[0], line), line, files[indices[0]])
    if missing:
        names = ", ".join(f"{line.file} (line {line.number})" for line in missing[:_LISTED])
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise BadLabels(f"the labels file names files that are not there: {names}{more}")
    return {index: line.labels for index, line in line_of.items()}


def _ends(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[start:]) for start in range(1, len(parts)))


def _by_full_name(full_names: Sequence[str]) -> dict[str, list[int]]:
    full: dict[str, list[int]] = defaultdict(list)
    for index, path in enumerate(map(plain, full_names)):
        if "/" in path:
            full[path].append(index)
    return full


def _of_full_name(line: LabelLine, full: Mapping[str, list[int]]) -> list[int]:
    return next((full[path] for path in (line.file, *_ends(line.file)) if path in full), [])


def _have_folders(files: Iterable[str]) -> bool:
    return any("/" in plain(path) for path in files)


def warnings_of(
    content: bytes, lines: Sequence[LabelLine], files: Sequence[str], full_names: Sequence[str] = ()
) -> list[str]:
    """Return what a person should check after a CSV was read and matched to the files, one sentence each.

    `content`: the CSV. `lines`: its lines. `files`, `full_names`: see `match_files`.
    """
    warnings = []
    if ignored := [display_name(name) for name in _head(content) if name and name not in COLUMNS]:
        warnings.append(f"these columns of the labels file are ignored: {', '.join(ignored)}")
    full = _by_full_name(full_names)
    by_name = [line for line in lines if "/" in line.file and not _of_full_name(line, full)]
    if by_name and not _have_folders(files):
        count = len(by_name)
        warnings.append(
            f"{count} {'line' if count == 1 else 'lines'} of the labels file state folders, but the files were sent"
            " without folders: only the names were compared, so check that these are the right files"
        )
    return warnings


def _check_agree(first: LabelLine, second: LabelLine, file: str) -> None:
    if first.file != second.file:
        raise BadLabels(
            f"lines {first.number} and {second.number} of the labels file mean the same file, {file}: send all files"
            " that the CSV names, or remove one of the lines"
        )
    for column in ("label", "group", "split", "source"):
        if getattr(first.labels, column) != getattr(second.labels, column):
            raise BadLabels(
                f"lines {first.number} and {second.number} of the labels file give {second.file} another {column} each"
            )
