"""What a dataset is made of: files of archives, labelled by CSV or folder, or the reviewed slices of jobs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from db import CLASSES
from db.database import read_scope
from db.datasets import datasets
from db.models import Series, Slice
from db.storage import storage
from worker.datasets.class_folders import class_of_path
from worker.datasets.collector import Gathered, Item
from worker.datasets.label_table import BadLabels, Known, by_csv, is_label_file, read_csv
from worker.datasets.patient_groups import DicomGroups, folder_groups
from worker.decoding import archive_limits, new_decoders, read_decoded
from worker.imaging.archives.archive import read_entries
from worker.imaging.display_names import label as shown
from worker.imaging.recipe import PreparedSlice, SeriesInfo
from worker.imaging.rejections import ArchiveRefused, SliceRejected

_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz", ".tar", ".zip")

BY_HEADER = "DICOM patient, study or series"  # where a group comes from

Note = Callable[[float], None]  # told the fraction done, 0 to 1


class NotBuildable(Exception):
    """What was sent makes no dataset; one line that says why."""


@dataclass(frozen=True)
class File:
    """A file of a source, by its place in the list. `path`: its name below the archive's own, where folders tell the
    class; `name`: as people see it, with the archive's where there are several. `table`: it holds the labels."""

    source: int
    ordinal: int
    path: str
    name: str
    table: bytes | None


def list_files(sources: Sequence[dict[str, Any]], progress: Callable[[], None]) -> list[File]:
    """The files of all sources, in order; a packed archive is unpacked once for it.

    Raises NotBuildable, FileMissing.
    """
    files: list[File] = []
    for number, source in enumerate(sources):
        filename = source["filename"]
        archive = _stem(filename)
        try:
            entries = read_entries(
                storage().local_path(source["sha256"], progress), filename, archive_limits(), lambda ordinal: False
            )
            for entry, content in entries:
                progress()
                is_loose = entry.name == shown(filename)
                path = entry.name if is_loose else f"{archive}/{entry.name}"
                table = content if isinstance(content, bytes) and is_label_file(entry.name, content) else None
                name = path if len(sources) > 1 else entry.name
                files.append(File(number, entry.ordinal, path, name, table))
        except ArchiveRefused as error:
            raise NotBuildable(f"{shown(filename)} cannot be read: {error}") from error
    return files


def _stem(filename: str) -> str:
    name = shown(filename)
    suffix = next((end for end in _SUFFIXES if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)]


def label_files(files: Sequence[File], labels_sha256: str | None) -> tuple[dict[int, Known], str]:
    """What is known of files by their place in the list, and from where, in words.

    By the CSV that came, for all; else source by source, by the CSV that lies among its files or by class folders.
    Raises BadLabels, NotBuildable (no label is known, or those of one class only), FileMissing.
    """
    if labels_sha256 is not None:
        lines = read_csv(storage().local_path(labels_sha256).read_bytes())
        known, origin = by_csv(lines, [file.name for file in files]), "the CSV that was sent"
    else:
        by_source: dict[int, list[int]] = {}
        for place, file in enumerate(files):
            by_source.setdefault(file.source, []).append(place)
        known, origins = {}, []
        for places in by_source.values():
            found, origin = _label_source([files[place] for place in places])
            known |= {places[at]: one for at, one in found.items()}
            origins.append(origin)
        origin = " and ".join(dict.fromkeys(origins))
    _check_classes({one.label for one in known.values()}, origin, len(files))
    if 0 < (split := sum(bool(one.split) for one in known.values())) < len(known):
        raise BadLabels(
            f"{split} of {len(known)} slices have a split, the others none ({origin}): give all of them one, or none"
        )
    folders = folder_groups([(files[place].source, files[place].path) for place in known])
    return {at: replace(one, folder=folder) for (at, one), folder in zip(known.items(), folders, strict=True)}, origin


def _label_source(files: Sequence[File]) -> tuple[dict[int, Known], str]:
    tables = [file for file in files if file.table is not None]
    if len(tables) > 1:
        those = " and ".join(table.name for table in tables[:2])
        raise BadLabels(f"there are {len(tables)} files of labels ({those}); send the one that counts as labels")
    if not tables:
        found = ((place, class_of_path(file.path)) for place, file in enumerate(files))
        return {place: Known(label) for place, label in found if label is not None}, "class folders"
    [table] = tables
    try:
        return by_csv(read_csv(table.table or b""), [file.name for file in files]), f"{table.name} among the files"
    except BadLabels as error:
        raise BadLabels(f"{table.name}: {error}") from error


def _check_classes(labels: set[int], origin: str, count: int) -> None:
    if not labels:
        raise NotBuildable(
            f"no label is known for any of {count} files: put them in a folder for each class (COVID, non-COVID), or"
            " send a CSV of file, label, group"
        )
    for label, name in CLASSES.items():
        if label not in labels:
            raise NotBuildable(f"the class {name} is empty: no file is labelled so (labels from {origin})")


def read_files(
    sources: Sequence[dict[str, Any]], files: Sequence[File], known: dict[int, Known], gathered: Gathered, note: Note
) -> None:
    """Decode the labelled files in the sandbox and gather them; the others are left out as `no_label`, unread.

    Raises NotBuildable, FileMissing, OSError, DecoderUnavailable, StaleClaim.
    """
    by_source: dict[int, dict[int, int]] = {}
    for place, file in enumerate(files):
        if place in known:
            by_source.setdefault(file.source, {})[file.ordinal] = place
        elif file.table is None:
            gathered.leave_out(Item(place, file.name), "no_label")
    done, groups = 0, DicomGroups()

    def alive() -> None:
        note(done / len(known))

    with new_decoders() as pool:
        for number, places in by_source.items():
            source = sources[number]

            def unlabelled(ordinal: int, places: dict[int, int] = places) -> bool:
                return ordinal not in places

            read = read_decoded(pool, source["sha256"], source["filename"], unlabelled, alive)
            for entry, sha256, result in read:
                place = places[entry.ordinal]
                _gather(
                    gathered,
                    Item(place, files[place].name, sha256=sha256, bytes=entry.size),
                    known[place],
                    result,
                    groups,
                )
                done += 1
                note(done / len(known))
    gathered.flush()


def _gather(
    gathered: Gathered, item: Item, known: Known, result: list[PreparedSlice] | SliceRejected, groups: DicomGroups
) -> None:
    item.label = known.label
    if isinstance(result, SliceRejected):
        gathered.leave_out(item, result.code, result.detail)
        return
    for prepared in result:
        if prepared.series and prepared.series.burned_in:
            gathered.leave_out(item, "burned_in")
            return
        taken = Item(item.ordinal, item.name, prepared.frame, label=known.label, given_part=known.split or None)
        taken.sha256, taken.bytes, taken.source = item.sha256, item.bytes, known.source or None
        taken.pixels_sha256 = prepared.sha256_pixels
        taken.format, taken.mode = prepared.format, prepared.mode
        taken.width, taken.height = prepared.width, prepared.height
        pages = item.name if len(result) > 1 else ""
        taken.group, origin = _group_of(known, groups.of(prepared.series), pages)
        gathered.take(taken, prepared.pixels, origin)


def _group_of(known: Known, dicom: str, pages: str) -> tuple[str, str]:
    """The group that counts, and what tells it; empty where nothing does. `pages`: the name of a file of several."""
    told = {
        "CSV": known.group,
        BY_HEADER: dicom,
        "folders": known.folder,
        "pages of a file": pages,
    }
    return next(((group, origin) for origin, group in told.items() if group), ("", ""))


def read_reviews(job_ids: Sequence[str], gathered: Gathered, note: Note) -> None:
    """Gather the reviewed slices of jobs, as they were prepared for predicting. Those of DICOM have the groups of any
    dataset; of others a job's series, its folder, is a group.

    Raises NotBuildable, FileMissing, OSError, DecoderUnavailable, StaleClaim.
    """
    gathered.labels_from = "reviews"
    with read_scope() as s:
        reviewed = list(datasets.reviewed_slices(s, job_ids))
    if not reviewed:
        raise NotBuildable("no slice that was read is labelled by its job's owner or by an admin")
    _check_classes({each.label for each in reviewed}, "reviews", len(reviewed))
    headers, groups = _read_headers([each.slice for each in reviewed], note), DicomGroups()
    for ordinal, each in enumerate(reviewed):
        found, header = each.slice, headers.get(each.slice.id)
        array = np.load(storage().local_path(each.array_sha256), mmap_mode="r", allow_pickle=False)
        item = Item(ordinal, found.name, found.frame, label=each.label, sha256=found.sha256)
        item.pixels_sha256 = found.pixels_sha256
        item.format, item.mode, item.width, item.height = found.format, found.mode, found.width, found.height
        told = groups.of(header if isinstance(header, SeriesInfo) else None)
        item.group = told or _group_of_series(found.job_id, each.series)
        if isinstance(header, SliceRejected):
            gathered.leave_out(item, header.code, header.detail)
        elif header and header.burned_in:
            gathered.leave_out(item, "burned_in")
        else:
            gathered.take(item, np.array(array[found.array_row]), BY_HEADER if told else "series of jobs")
        note(0.5 + (ordinal + 1) / len(reviewed) / 2)
    gathered.flush()


def _read_headers(slices: Sequence[Slice], note: Note) -> dict[int, SeriesInfo | SliceRejected | None]:
    """What the headers of the DICOM slices say, by the slice's id, read again in the sandbox: a job keeps neither the
    patient nor whether text is burned in."""
    originals = [(slice_.id, slice_.sha256) for slice_ in slices if slice_.format == "DICOM" and slice_.sha256]
    found: dict[int, SeriesInfo | SliceRejected | None] = {}
    with new_decoders() as pool:
        for id_, result in pool.map((id_, storage().open(sha256).read()) for id_, sha256 in originals):
            found[id_] = result if isinstance(result, SliceRejected) else result[0].series
            note(len(found) / len(originals) / 2)
    return found


def _group_of_series(job_id: str, series: Series | None) -> str:
    """The group of a slice whose header tells none."""
    return f"job-{job_id}" if series is None else f"job-{job_id}: {series.label}"
