"""The sources of a dataset: files of archives, labelled by CSV or folder, or the reviewed slices of jobs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from db import CLASSES
from db.database import read_scope
from db.datasets import datasets
from db.datasets.datasets import ReviewedSlice
from db.series.images import slice_pixels
from db.storage import storage
from worker.datasets.class_folders import class_of_path
from worker.datasets.collector import Collector, Item
from worker.datasets.label_table import BadLabels, FileLabels, has_label_columns, is_label_name, match_files, read_csv
from worker.datasets.patient_groups import DicomGroups, folder_groups
from worker.decoding import new_decoders, read_decoded, stored_entries
from worker.imaging.archives.archive import Entry
from worker.imaging.display_names import display_name
from worker.imaging.recipe import PreparedSlice, SeriesInfo
from worker.imaging.rejections import ArchiveRefused, SliceRejected

_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz", ".tar", ".zip")

PICTURE = ("format", "mode", "width", "height")  # what a slice and an item state of the picture
BY_HEADER = "DICOM patient, study or series"  # where a group comes from

Note = Callable[[float], None]  # takes the fraction done, 0 to 1
Header = SeriesInfo | SliceRejected | None


class NotBuildable(Exception):
    """A dataset cannot be built of its sources; one line that says why."""


@dataclass(frozen=True)
class Source:
    """A stored archive or loose file, by the name that it was sent under."""

    sha256: str
    filename: str

    @property
    def stem(self) -> str:
        """The name to show, without the suffix of an archive."""
        name = display_name(self.filename)
        suffix = next((end for end in _SUFFIXES if name.lower().endswith(end)), "")
        return name[: len(name) - len(suffix)]


@dataclass(frozen=True)
class File:
    """A file of a source. `source`: the number of the source; `ordinal`: the place of the file in it.

    `path`: its path in the source, in which class folders are looked for. `name`: the path for people, with the
    archive's name in front if there are several sources. `table`: its bytes if it is a label file, or None.
    """

    source: int
    ordinal: int
    path: str
    name: str
    table: bytes | None


def list_files(sources: Sequence[Source], progress: Callable[[], None]) -> list[File]:
    """Return the files of all sources, in order; only label files are read.

    Raises NotBuildable, FileMissing, FileDamaged.
    """
    files: list[File] = []
    for number, source in enumerate(sources):
        try:
            for entry in stored_entries(source.sha256, source.filename, progress):
                is_loose = entry.name == display_name(source.filename)
                path = entry.name if is_loose else f"{source.stem}/{entry.name}"
                name = path if len(sources) > 1 else entry.name
                files.append(File(number, entry.ordinal, path, name, _label_table(entry)))
        except ArchiveRefused as error:
            raise NotBuildable(f"{display_name(source.filename)} cannot be read: {error}") from error
    return files


def _label_table(entry: Entry) -> bytes | None:
    """Return the bytes of a label file, or None for any other file, which is not read."""
    content = entry.read() if is_label_name(entry.name) else None
    return content if isinstance(content, bytes) and has_label_columns(content) else None


def label_files(files: Sequence[File], labels_sha256: str | None) -> tuple[dict[int, FileLabels], str]:
    """Return the labels of files by their index, and in words where the labels come from.

    The CSV that was sent labels all files. Without one, each source is labelled by the CSV among its files or by its
    class folders. Raises BadLabels, NotBuildable (no label, or labels of one class only), FileMissing,
    FileDamaged.
    """
    if labels_sha256 is not None:
        lines = read_csv(storage().read(labels_sha256))
        labels, origin = match_files(lines, [file.name for file in files]), "the CSV that was sent"
    else:
        by_source: dict[int, list[int]] = {}
        for index, file in enumerate(files):
            by_source.setdefault(file.source, []).append(index)
        labels, origins = {}, []
        for indices in by_source.values():
            of_source, origin = _label_source([files[index] for index in indices])
            labels |= {indices[at]: label for at, label in of_source.items()}
            origins.append(origin)
        origin = " and ".join(dict.fromkeys(origins))
    _check_classes({label.label for label in labels.values()}, origin, len(files))
    if 0 < (split := sum(bool(label.split) for label in labels.values())) < len(labels):
        raise BadLabels(
            f"{split} of {len(labels)} slices have a split, the others have none ({origin}): give all of them one, or"
            " none"
        )
    folders = folder_groups([(files[index].source, files[index].path) for index in labels])
    with_folders = zip(labels.items(), folders, strict=True)
    return {index: replace(label, folder=folder) for (index, label), folder in with_folders}, origin


def _label_source(files: Sequence[File]) -> tuple[dict[int, FileLabels], str]:
    tables = [file for file in files if file.table is not None]
    if len(tables) > 1:
        names = " and ".join(table.name for table in tables[:2])
        raise BadLabels(f"there are {len(tables)} files of labels ({names}); send the one that counts as labels")
    if not tables:
        classes = ((index, class_of_path(file.path)) for index, file in enumerate(files))
        return {index: FileLabels(label) for index, label in classes if label is not None}, "class folders"
    [table] = tables
    try:
        labels = match_files(read_csv(table.table or b""), [file.name for file in files])
    except BadLabels as error:
        raise BadLabels(f"{table.name}: {error}") from error
    return labels, f"{table.name} among the files"


def _check_classes(labels: set[int], origin: str, count: int) -> None:
    if not labels:
        raise NotBuildable(
            f"none of {count} files has a label: put them in a folder for each class (COVID, non-COVID), or send a CSV"
            " of file, label, group"
        )
    for label, name in CLASSES.items():
        if label not in labels:
            raise NotBuildable(f"the class {name} is empty: no file has this label (labels from {origin})")


def read_files(
    sources: Sequence[Source], files: Sequence[File], labels: dict[int, FileLabels], collector: Collector, note: Note
) -> None:
    """Decode the labelled files in the sandbox and collect them. The others are left out as `no_label`, unread.

    Raises NotBuildable, FileMissing, FileDamaged, OSError, DecoderUnavailable, StaleClaim.
    """
    by_source: dict[int, dict[int, int]] = {}
    for index, file in enumerate(files):
        if index in labels:
            by_source.setdefault(file.source, {})[file.ordinal] = index
        elif file.table is None:
            collector.leave_out(Item(index, file.name), "no_label")
    done, groups = 0, DicomGroups()

    def alive() -> None:
        note(done / len(labels))

    with new_decoders() as pool:
        for number, index_of in by_source.items():
            entries = stored_entries(sources[number].sha256, sources[number].filename, alive)
            labelled = filter(lambda entry: entry.ordinal in index_of, entries)
            for entry, sha256, result in read_decoded(pool, labelled, alive):
                index = index_of[entry.ordinal]
                file_item = Item(index, files[index].name, label=labels[index].label, sha256=sha256, bytes=entry.size)
                _collect(collector, file_item, labels[index], result, groups)
                done += 1
                note(done / len(labels))
    collector.flush()


def _collect(
    collector: Collector,
    file_item: Item,
    labels: FileLabels,
    result: list[PreparedSlice] | SliceRejected,
    groups: DicomGroups,
) -> None:
    if isinstance(result, SliceRejected):
        collector.leave_out(file_item, result.code, result.detail)
    elif any(prepared.series and prepared.series.burned_in for prepared in result):
        collector.leave_out(file_item, "burned_in")
    else:
        for prepared in result:
            pages = file_item.name if len(result) > 1 else ""
            group, origin = _group_of(labels, groups.of(prepared.series), pages)
            item = replace(
                file_item,
                frame=prepared.frame,
                group=group,
                given_part=labels.split or None,
                source=labels.source or None,
                pixels_sha256=prepared.sha256_pixels,
                **{name: getattr(prepared, name) for name in PICTURE},
            )
            collector.take(item, prepared.pixels, origin)


def _group_of(labels: FileLabels, dicom: str, pages: str) -> tuple[str, str]:
    """Return the group of a slice and where it comes from, both empty if it has none. `pages`: its file's name, if the
    file has several."""
    candidates = (("CSV", labels.group), (BY_HEADER, dicom), ("folders", labels.folder), ("pages of a file", pages))
    return next(((group, origin) for origin, group in candidates if group), ("", ""))


def read_reviews(job_ids: Sequence[str], collector: Collector, note: Note) -> None:
    """Collect the reviewed slices of jobs, as they were prepared for predicting.

    DICOM slices have the groups of any dataset. The group of other slices is their series in the job, its folder.
    Raises NotBuildable, FileMissing, FileDamaged, OSError, DecoderUnavailable, StaleClaim.
    """
    collector.labels_from = "reviews"
    with read_scope() as s:
        reviewed = list(datasets.reviewed_slices(s, job_ids))
    if not reviewed:
        raise NotBuildable("no slice of these jobs was labelled by the job's owner or by an admin")
    _check_classes({review.label for review in reviewed}, "reviews", len(reviewed))
    headers, groups = _read_headers(reviewed, note), DicomGroups()
    for ordinal, review in enumerate(reviewed):
        header = headers.get(review.slice.id)
        group = groups.of(header if isinstance(header, SeriesInfo) else None)
        item = _reviewed_item(ordinal, review, group)
        if isinstance(header, SliceRejected):
            collector.leave_out(item, header.code, header.detail)
        elif header and header.burned_in:
            collector.leave_out(item, "burned_in")
        else:
            pixels = slice_pixels(review.array_sha256, review.slice.array_row or 0, review.slice.pixels_sha256 or "")
            collector.take(item, pixels, BY_HEADER if group else "series of jobs")
        note(0.5 + (ordinal + 1) / len(reviewed) / 2)
    collector.flush()


def _reviewed_item(ordinal: int, review: ReviewedSlice, dicom_group: str) -> Item:
    slice_, series = review.slice, review.series
    job_group = f"job-{slice_.job_id}" if series is None else f"job-{slice_.job_id}: {series.label}"
    return Item(
        ordinal,
        slice_.name,
        slice_.frame,
        label=review.label,
        group=dicom_group or job_group,
        sha256=slice_.sha256,
        pixels_sha256=slice_.pixels_sha256,
        **{name: getattr(slice_, name) for name in PICTURE},
    )


def _read_headers(reviewed: Sequence[ReviewedSlice], note: Note) -> dict[int, Header]:
    """Read the headers of the DICOM slices again in the sandbox, and return them by the slice's id.

    A job keeps neither the patient nor whether text is burned in.
    """
    slices = [review.slice for review in reviewed]
    originals = [(slice_.id, slice_.sha256) for slice_ in slices if slice_.format == "DICOM" and slice_.sha256]
    headers: dict[int, Header] = {}
    with new_decoders() as pool:
        for id_, result in pool.map((id_, storage().read(sha256)) for id_, sha256 in originals):
            headers[id_] = result if isinstance(result, SliceRejected) else result[0].series
            note(len(headers) / len(originals) / 2)
    return headers
