"""Reads the slices of a dataset from archives and files. A CSV or folders give the labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from db import CLASSES
from db.datasets.slices import BY_CSV, BY_FOLDERS
from db.models.slices import slashed
from db.storage import storage
from worker.datasets.class_folders import classes_of_paths, names_class_of, paths_in_archive
from worker.datasets.collector import BY_HEADER, Collector, Item
from worker.datasets.label_table import (
    BadLabels,
    FileLabels,
    has_label_columns,
    is_label_name,
    match_files,
    read_csv,
    warnings_of,
)
from worker.datasets.patient_groups import DicomGroups, folder_groups, in_first_spelling, series_key
from worker.decoding import new_decoders, read_decoded, stored_entries
from worker.imaging.archives.archive import Entry
from worker.imaging.display_names import display_name
from worker.imaging.recipe import PreparedSlice
from worker.imaging.rejections import ArchiveRefused, SliceRejected

_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz", ".tar", ".zip")

PICTURE = ("format", "mode", "width", "height")  # facts of the picture, with the same names in a slice and in an Item

Listing = list[tuple[int, str, bytes | None]]
"""The files of a source: the place, the path, and the bytes if it is a label file."""
Note = Callable[[float], None]  # gets the fraction that is done, 0 to 1


class NotBuildable(Exception):
    """A dataset cannot be built from its sources. The message says why, in one line."""


@dataclass(frozen=True)
class Source:
    """A stored archive or loose file, with the name that it was sent under.

    `given`: the number of the given folder that holds the source. It is None if no folder was given. A request never
    gives a folder.
    """

    sha256: str
    filename: str
    given: int | None = None

    @property
    def stem(self) -> str:
        """Return the name for people, without the suffix of an archive."""
        name = display_name(self.filename)
        suffix = next((end for end in _SUFFIXES if name.lower().endswith(end)), "")
        return name[: len(name) - len(suffix)]


@dataclass(frozen=True)
class File:
    """A file of a source. `source`: the number of the source. `ordinal`: the place of the file in the source.

    `path`: its path in the source, which may name a class folder (see `paths_in_archive`). `name`: the path for people,
    which begins with the archive's name if there are several sources. `full_name`: the path that always begins with the
    archive's name. `table`: the bytes of a label file, or None for other files. `scope`: the number of the first of the
    sources that are labelled together. `archive`: the number of its archive (see `_archives`).
    """

    source: int
    ordinal: int
    path: str
    name: str
    full_name: str
    table: bytes | None
    scope: int
    archive: int


def list_files(sources: Sequence[Source], progress: Callable[[], None]) -> list[File]:
    """Return the files of all sources, in order. Read only label files.

    Raises NotBuildable, FileMissing, FileDamaged.
    """
    files: list[File] = []
    listings = [_list_source(source, progress) for source in sources]
    of_both_classes, archives = _of_both_classes(sources, listings), _archives(sources, listings)
    scopes = _label_scopes(sources, listings, archives)
    for number, (source, listed) in enumerate(zip(sources, listings, strict=True)):
        stem, names = slashed(source.stem), [name for _, name, _ in listed]
        is_loose = _is_loose(source, listed)
        if _sent(number, source) in of_both_classes:
            stem = stem.partition("/")[2]
        paths = [stem or names[0]] if is_loose else paths_in_archive(stem, names)
        for (ordinal, name, table), path in zip(listed, paths, strict=True):
            full_name = name if is_loose else f"{source.stem}/{name}"
            shown = name if len(sources) == 1 else full_name
            files.append(File(number, ordinal, path, shown, full_name, table, scopes[number], archives[number]))
    return files


def _list_source(source: Source, progress: Callable[[], None]) -> Listing:
    try:
        entries = stored_entries(source.sha256, source.filename, progress)
        return [(entry.ordinal, entry.name, _label_table(entry)) for entry in entries]
    except ArchiveRefused as error:
        raise NotBuildable(f"{display_name(source.filename)} cannot be read: {error}") from error


Sent = tuple[str, int | None, int | None]
"""The name of a folder, archive or file that was sent, and two numbers that distinguish several with the same name."""


def _sent(number: int, source: Source) -> Sent:
    """Return the folder, archive or file in which the source with this number was sent.

    In a request, sources whose names begin with the same folder were sent in one folder.
    """
    name, slash, _ = slashed(source.stem).partition("/")
    return name, source.given, None if slash or source.given is not None else number


def _is_loose(source: Source, listed: Listing) -> bool:
    return [name for _, name, _ in listed] == [display_name(source.filename)]


def _archives(sources: Sequence[Source], listings: Sequence[Listing]) -> list[int]:
    """Return for each source the number of its archive. The loose files of a sent folder count as one archive."""
    first_loose: dict[Sent, int] = {}
    return [
        first_loose.setdefault(_sent(number, source), number) if _is_loose(source, listed) else number
        for number, (source, listed) in enumerate(zip(sources, listings, strict=True))
    ]


def _of_both_classes(sources: Sequence[Source], listings: Sequence[Listing]) -> set[Sent]:
    """Return the folders and archives whose own name is a class, but whose inner folders name both classes.

    Their own name then does not state the class of their files.
    """
    inside: dict[Sent, list[str]] = {}
    for number, (source, listed) in enumerate(zip(sources, listings, strict=True)):
        below = slashed(source.stem).partition("/")[2]
        names = [below] if _is_loose(source, listed) else [f"{below}/{name}" for _, name, _ in listed]
        inside.setdefault(_sent(number, source), []).extend(names)
    return {
        sent for sent, names in inside.items() if names_class_of(sent[0], []) and not names_class_of(sent[0], names)
    }


def _label_scopes(sources: Sequence[Source], listings: Sequence[Listing], archives: Sequence[int]) -> list[int]:
    """Return for each source the number of the first source that is labelled together with it.

    Each archive is labelled alone, unless a label file was sent beside it: in the same folder, or in no folder of a
    request. A label file in no folder labels the whole request.
    """
    sent = [_sent(number, source) for number, source in enumerate(sources)]
    with_table = {
        sent[number]
        for number, (source, listed) in enumerate(zip(sources, listings, strict=True))
        if _is_beside_others(source, listed) and any(table is not None for _, _, table in listed)
    }
    if any(number is not None for _, _, number in with_table):
        return [0] * len(sources)
    return [sent.index(place) if place in with_table else archives[number] for number, place in enumerate(sent)]


def _is_beside_others(source: Source, listed: Listing) -> bool:
    """Return whether the files of a source lie beside other sources: a loose file, or those of a given folder."""
    return _is_loose(source, listed) or (source.given is not None and "/" not in slashed(source.stem))


def _label_table(entry: Entry) -> bytes | None:
    """Return the bytes of a label file. Return None for any other file, without reading it."""
    content = entry.read() if is_label_name(entry.name) else None
    return content if isinstance(content, bytes) and has_label_columns(content) else None


@dataclass(frozen=True)
class Labels:
    """The labels of files, by the index of the file. `origin`: a text that says where they come from.

    `warnings`: what a person should check, one sentence each.
    """

    of_files: dict[int, FileLabels]
    origin: str
    warnings: Sequence[str] = ()


def label_files(files: Sequence[File], labels_sha256: str | None) -> Labels:
    """Return the labels of files.

    A CSV that was sent by itself labels all files. Otherwise, each archive is labelled by the CSV among its files or
    beside it, or by its class folders.

    Raises BadLabels, NotBuildable (there are no labels, or labels of only one class), FileMissing, FileDamaged.
    """
    if labels_sha256 is not None:
        labels = _by_table(storage().read(labels_sha256), files, "the CSV that was sent")
    else:
        labels = _by_scope(files)
    of_files, origin = labels.of_files, labels.origin
    check_classes({label.label for label in of_files.values()}, origin, len(files), _unused_table(files))
    if 0 < (split := sum(bool(label.split) for label in of_files.values())) < len(of_files):
        raise BadLabels(
            f"{split} of {len(of_files)} slices have a split, the others have none ({origin}): give all of them one, or"
            " none"
        )
    folders = folder_groups([(files[index].archive, files[index].path) for index in of_files])
    names = in_first_spelling([*(label.group for label in of_files.values()), *folders], {})
    groups, folders = names[: len(of_files)], names[len(of_files) :]
    grouped = {
        index: replace(label, group=group, folder=folder)
        for (index, label), group, folder in zip(of_files.items(), groups, folders, strict=True)
    }
    return replace(labels, of_files=grouped)


def _by_table(table: bytes, files: Sequence[File], origin: str) -> Labels:
    lines, indices = read_csv(table), [index for index, file in enumerate(files) if file.table is None]
    names, full_names = [files[index].name for index in indices], [files[index].full_name for index in indices]
    labels = {indices[at]: label for at, label in match_files(lines, names, full_names).items()}
    return Labels(labels, origin, warnings_of(table, lines, names, full_names))


def _by_scope(files: Sequence[File]) -> Labels:
    by_scope: dict[int, list[int]] = {}
    for index, file in enumerate(files):
        by_scope.setdefault(file.scope, []).append(index)
    of_files: dict[int, FileLabels] = {}
    origins: list[str] = []
    warnings: list[str] = []
    for indices in by_scope.values():
        labels = _label_together([files[index] for index in indices])
        of_files |= {indices[at]: label for at, label in labels.of_files.items()}
        origins.append(labels.origin)
        warnings += labels.warnings
    return Labels(of_files, " and ".join(dict.fromkeys(origins)), warnings)


def _label_together(files: Sequence[File]) -> Labels:
    tables = [file for file in files if file.table is not None]
    if len(tables) > 1:
        names = " and ".join(table.name for table in tables[:2])
        raise BadLabels(f"there are {len(tables)} files of labels ({names}); send only one, as the labels")
    if not tables:
        classes = enumerate(classes_of_paths([file.path for file in files]))
        return Labels({index: FileLabels(label) for index, label in classes if label is not None}, "class folders")
    [table] = tables
    try:
        return _by_table(table.table or b"", files, f"{table.name} among the files")
    except BadLabels as error:
        raise BadLabels(f"{table.name}: {error}") from error


def _unused_table(files: Sequence[File]) -> str:
    """Return the name of a CSV that was not taken as the labels, or "". Prefer one with the name of a label file."""
    unused = [file.name for file in files if file.table is None and file.name.lower().endswith(".csv")]
    return min(unused, key=lambda name: not is_label_name(name), default="")


def check_classes(labels: set[int], origin: str, count: int, unused_table: str = "") -> None:
    """Raise NotBuildable unless both classes have labels.

    `origin`: where the labels come from. `count`: the number of files. `unused_table`: a CSV among the files that was
    not taken as the labels.
    """
    if not labels:
        advice = (
            f". {unused_table} was not taken as the labels: name it labels.csv, save it as UTF-8, and name the columns"
            " file and label in its first line"
        )
        raise NotBuildable(
            f"none of {count} files has a label: put them in a folder for each class (COVID, non-COVID), or send a CSV"
            f" of file, label, group{advice if unused_table else ''}"
        )
    for label, name in CLASSES.items():
        if label not in labels:
            raise NotBuildable(f"the class {name} is empty: no file has this label (labels from {origin})")


def read_files(
    sources: Sequence[Source],
    files: Sequence[File],
    labels: dict[int, FileLabels],
    collector: Collector,
    note: Note,
    *,
    folders_first: bool,
) -> None:
    """Decode the labelled files in the sandbox, and collect them.

    Files without a label are not read. They are left out as `no_label`.

    `folders_first`: folders name the groups. Headers name a group only if no folder does.

    Raises NotBuildable, FileMissing, FileDamaged, OSError, DecoderUnavailable, StaleClaim.
    """
    by_source: dict[int, dict[int, int]] = {}
    for index, file in enumerate(files):
        if index in labels:
            by_source.setdefault(file.source, {})[file.ordinal] = index
        elif file.table is None:
            collector.leave_out(Item(index, file.name), "no_label")
    done, groups = 0, DicomGroups()
    collect = partial(_collect, collector, groups, folders_first)

    def alive() -> None:
        note(done / len(labels))

    with new_decoders() as pool:
        for number, index_of in by_source.items():
            entries = stored_entries(sources[number].sha256, sources[number].filename, alive)
            labelled = filter(lambda entry: entry.ordinal in index_of, entries)
            for entry, sha256, result in read_decoded(pool, labelled, alive):
                index = index_of[entry.ordinal]
                file_item = Item(index, files[index].name, label=labels[index].label, sha256=sha256, bytes=entry.size)
                collect(file_item, labels[index], result)
                done += 1
                note(done / len(labels))
    collector.flush()


def _collect(
    collector: Collector,
    groups: DicomGroups,
    folders_first: bool,
    file_item: Item,
    labels: FileLabels,
    result: list[PreparedSlice] | SliceRejected,
) -> None:
    if isinstance(result, SliceRejected):
        collector.leave_out(file_item, result.code, result.detail)
    elif any(prepared.series and prepared.series.burned_in for prepared in result):
        collector.leave_out(file_item, "burned_in")
    else:
        for prepared in result:
            pages = file_item.name if len(result) > 1 else ""
            by_header = groups.of(prepared.series)
            group, origin = group_of(labels, by_header, pages, folders_first=folders_first)
            collector.note_header(prepared.series, by_header, group, origin, labels.folder)
            stated = None if folders_first else series_key(prepared.series)
            item = replace(
                file_item,
                frame=prepared.frame,
                group=group,
                given_part=labels.split or None,
                source=labels.source or None,
                series=stated or (file_item.sha256 if pages else None),
                pixels_sha256=prepared.sha256_pixels,
                **{name: getattr(prepared, name) for name in PICTURE},
            )
            collector.take(item, prepared.pixels, origin, prepared.notes)


def group_of(labels: FileLabels, dicom: str, pages: str, *, folders_first: bool) -> tuple[str, str]:
    """Return the group of a slice, and the origin of the group. Both are empty if the slice has no group.

    `dicom`: the group that the slice's header states, or "". `pages`: a name for the slice's file if the file has
    several pages, or else "".
    """
    by_file = [(BY_HEADER, dicom), (BY_FOLDERS, labels.folder)]
    candidates = ((BY_CSV, labels.group), *(by_file[::-1] if folders_first else by_file), ("pages of a file", pages))
    return next(((group, origin) for origin, group in candidates if group), ("", ""))
