"""Collects the slices of a dataset one by one, compares them, groups them, and turns them into rows."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from db import CLASSES
from db.datasets.slices import BY_PIXELS
from db.findings.rules import ODD_HU
from db.models.datasets import ARRAY_SLICES
from db.reasons import REASONS
from db.storage import storage
from worker.datasets.identity import HeaderGroups
from worker.decoding import npy_bytes
from worker.imaging.near_duplicates import Pictures, Similar, find_similar
from worker.imaging.recipe import SeriesInfo

EXAMPLES = 20
BY_HEADER = "DICOM patient, study or series"  # the origin of a group

DOCUMENTS = {
    *("csv", "tsv", "txt", "md", "rst", "rtf", "log", "json", "xml", "html", "htm", "yaml", "yml", "ini"),
    *("pdf", "doc", "docx", "odt", "xls", "xlsx", "ods", "readme", "license"),
}
"""Endings of files that describe scans. A file without an ending counts by its name. Other endings may be scans."""


class LeftOut(TypedDict):
    """How many files were left out for one reason, and the names of some of these files."""

    count: int
    examples: list[str]


@dataclass(slots=True)
class Item:
    """A slice of the dataset, or a file that is left out for a `reason`. The fields are the columns of LabelledSlice.

    The collector sets `row`, `perceptual_hash` and `cluster`. If a slice has no group, the collector sets the group
    too.
    """

    ordinal: int
    name: str
    frame: int = 0
    row: int | None = None
    label: int | None = None
    group: str = ""
    given_part: str | None = None
    source: str | None = None
    series: str | None = None
    sha256: str | None = None
    pixels_sha256: str | None = None
    perceptual_hash: str | None = None
    cluster: int | None = None
    format: str | None = None
    mode: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    reason: str | None = None
    detail: str | None = None


class Collector:
    """Keeps items in the order in which they come. Stores prepared pixels in files of ARRAY_SLICES slices.

    `slices`: the items that have a row, by row. `arrays`: the SHA-256 of the files with prepared pixels. `groups_from`:
    how many slices got their group from each origin. `headers`: the slices whose group comes from their DICOM header.
    `patients`: the slices whose header states a patient, with the group that each of them got.
    `blind_labels`, `shared_labels`, `contested_labels`: how many slices have a blind label, labels of several readers,
    and labels of readers who disagree. `odd_hu`: slices with the note `odd_hu`, by label. `label_warnings`: what a
    person should check about the labels.
    """

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.slices: list[Item] = []
        self.arrays: list[str] = []
        self.groups_from: Counter[str] = Counter()
        self.headers = HeaderGroups()
        self.patients = HeaderGroups()
        self.labels_from = ""
        self.blind_labels = self.shared_labels = self.contested_labels = 0
        self.odd_hu: Counter[int | None] = Counter()
        self.label_warnings: Sequence[str] = ()
        self._waiting: list[NDArray[np.uint8]] = []
        self._pictures = Pictures()  # keyed by the SHA-256 of their pixels

    @property
    def size(self) -> int:
        """The number of slices so far."""
        return len(self.slices)

    def leave_out(self, item: Item, reason: str, detail: str = "") -> None:
        """Note a file that is left out, with a reason code. `detail`: a sentence with more about it, or ""."""
        item.reason, item.detail = reason, detail or REASONS[reason]
        self.items.append(item)

    def note_header(self, series: SeriesInfo | None, stated: str, group: str, origin: str, folder: str) -> None:
        """Count a slice by its DICOM header. `stated`: the group that the header states. `group`: the slice's group.

        `origin`: the origin of the slice's group. `folder`: the group that the slice's folders name, or "".
        """
        if series and origin == BY_HEADER:
            self.headers.add(group, series, folder)
        if series and series.patient:
            self.patients.add(stated, series, group)

    def take(self, item: Item, pixels: NDArray[np.uint8], group_from: str, notes: Collection[str]) -> None:
        """Add a labelled slice, and give it a row. `pixels`: uint8[224, 224]. `item` has the SHA-256 of the pixels.

        `group_from`: the origin of the slice's group. `notes`: the codes of the slice's notes.
        """
        self.odd_hu[item.label] += ODD_HU in notes
        place = self._pictures.place(item.pixels_sha256 or "", pixels)
        item.row, item.perceptual_hash = self.size, f"{self._pictures.hashes[place]:016x}"
        self.items.append(item)
        self.slices.append(item)
        self.groups_from[group_from if item.group else BY_PIXELS] += 1
        self._waiting.append(pixels)
        if len(self._waiting) >= ARRAY_SLICES:
            self.flush()

    def flush(self) -> None:
        """Store the slices that are not in a file yet."""
        if self._waiting:
            self.arrays.append(storage().put(npy_bytes(self._waiting)))
            self._waiting = []

    def compare(self, progress: Callable[[], None]) -> Similar:
        """Find near-identical slices, and number the clusters. A slice without a group gets the group of its cluster.

        The indices in the result number the slices that `first_of_pixels` returns.
        """
        firsts = self.first_of_pixels()
        labels = np.array([item.label for item in firsts], np.int64)
        similar = find_similar(self._pictures.arrays(), labels, progress)
        group_of: dict[int | None, str] = {}
        for item in self.slices:
            item.cluster = firsts[int(similar.cluster[self._pictures.places[item.pixels_sha256 or ""]])].row
            if item.group:
                group_of.setdefault(item.cluster, item.group)
        for item in self.slices:
            item.group = item.group or group_of.get(item.cluster, f"near-{item.cluster}")
        return similar

    def first_of_pixels(self) -> list[Item]:
        """Return one slice for each different picture: the first one with these pixels."""
        firsts: dict[str | None, Item] = {}
        for item in self.slices:
            firsts.setdefault(item.pixels_sha256, item)
        return list(firsts.values())

    def sha256(self) -> str:
        """Return the SHA-256 of all slices, labels, groups and given parts, in order. It identifies the dataset."""
        whole = hashlib.sha256()
        for item in self.slices:
            line = [item.sha256, str(item.frame), str(item.label), item.given_part or "", item.group]
            whole.update("\t".join(map(str, line)).encode("utf-8", "surrogateescape") + b"\n")
        return whole.hexdigest()

    def left_out(self) -> dict[str, LeftOut]:
        """Return the files that were left out, by reason."""
        names: dict[str, list[str]] = {}
        for item in self.items:
            if item.reason is not None:
                names.setdefault(item.reason, []).append(item.name)
        return {reason: LeftOut(count=len(of), examples=of[:EXAMPLES]) for reason, of in sorted(names.items())}

    def labelled_files(self) -> dict[str, dict[str, int]]:
        """Return by class how many files have a label, and how many of them were left out. Ignore documents.

        Class folders label every file in them, but a document beside the scans does not hold one.
        """
        scans = [item for item in self.items if not _is_document(item)]
        files = {name: {item.ordinal for item in scans if item.label == label} for label, name in CLASSES.items()}
        read = {item.ordinal for item in self.slices}
        return {name: {"files": len(of), "left_out": len(of - read)} for name, of in files.items()}

    def count(self) -> dict[str, int]:
        """Return how many slices each class has, and how many files were left out."""
        labels = Counter(item.label for item in self.slices)
        return {name: labels[label] for label, name in CLASSES.items()} | {"rejected": len(self.items) - self.size}

    def columns(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of LabelledSlice, without the dataset's id."""
        yield from map(asdict, self.items)


def _is_document(item: Item) -> bool:
    """Return whether a file was left out because it is not an image, and has the name of a document."""
    name = item.name.rpartition("/")[2].lower()
    return item.reason in ("format", "empty") and name.rpartition(".")[2] in DOCUMENTS
