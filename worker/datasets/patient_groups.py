"""The groups of slices, which a split keeps together: told by DICOM headers, or by the folders of plain images."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile

from worker.datasets.class_folders import class_folder, names_class, names_part, plain
from worker.imaging.recipe import SeriesInfo

Folders = list[str]


class DicomGroups:
    """The groups of DICOM slices: one for each patient; where the patient is not told, for each study or series.

    A patient's group is named by the first study that is met, since nothing made of the patient's ID may be kept.
    """

    def __init__(self) -> None:
        self._of_patient: dict[str, str] = {}
        self._named: Counter[str] = Counter()

    def of(self, series: SeriesInfo | None) -> str:
        """The group of a slice; empty where its file tells none."""
        if series is None:
            return ""
        group = _uid_group(series.study_uid, series.series_uid)
        if not series.patient:
            return group
        if series.patient not in self._of_patient:
            name = f"patient-{group.partition('-')[2]}"
            self._named[name] += 1  # two patients of one study are two groups
            self._of_patient[series.patient] = name if self._named[name] == 1 else f"{name}-{self._named[name]}"
        return self._of_patient[series.patient]


def _uid_group(study_uid: str | None, series_uid: str | None) -> str:
    """A group by the study, which has one patient, else by the series; the UID itself is not kept. Empty: neither."""
    for kind, uid in (("study", study_uid), ("series", series_uid)):
        if uid:
            return f"{kind}-{hashlib.sha256(uid.encode()).hexdigest()[:16]}"
    return ""


def folder_groups(paths: Sequence[tuple[int, str]]) -> list[str]:
    """The group of each file, given as its archive's number and its path with the archive's name in front; empty where
    its folders tell none.

    It is the name of the first folder below that of its class (`COVID/patient1/scan2/7.png`); where there is none, of
    the first above it (`patient1/COVID/7.png`); without a folder of a class, as where a CSV tells it, of the first of
    all. The same name is the same group, in both classes and in every archive: rather two patients as one than one in
    two parts of a split. No group is told by a folder that all files share, as an archive's own is by its files, nor by
    one that names a class or a part of a split (train, val, test).
    """
    by_archive: dict[int, list[int]] = defaultdict(list)
    for place, (archive, _) in enumerate(paths):
        by_archive[archive].append(place)
    below: list[Folders] = [[] for _ in paths]
    above: list[Folders] = [[] for _ in paths]
    for places in by_archive.values():
        found = _around_class([_folders(paths[place][1]) for place in places])
        beyond = _beyond_common([chain for _, chain in found])
        for place, (inner, _), outer in zip(places, found, beyond, strict=True):
            below[place], above[place] = inner, outer
    return [(inner or outer or [""])[0] for inner, outer in zip(_beyond_common(below), above, strict=True)]


def _folders(path: str) -> Folders:
    return [folder for folder in plain(path).split("/")[:-1] if folder not in ("", ".")]


def _around_class(all_folders: Sequence[Folders]) -> list[tuple[Folders, Folders]]:
    """For each file of an archive the folders below that of its class, and above it, but for those that are never a
    patient's. Where some files lie in no class's folder, `0` and `1` are no classes among others, but patients."""
    found = [class_folder(folders) for folders in all_folders]
    numbers = None not in found
    around = []
    for folders, one in zip(all_folders, found, strict=True):
        at = one[0] if one and (numbers or names_class(folders[one[0]])) else len(folders)
        around.append((_telling(folders[at + 1 :]), _telling(folders[:at])))
    return around


def _telling(folders: Iterable[str]) -> Folders:
    return [folder for folder in folders if not names_class(folder) and not names_part(folder)]


def _beyond_common(chains: Sequence[Folders]) -> list[Folders]:
    """The chains without the folders in front that all of them share; those without a folder are not asked."""
    asked = [chain for chain in chains if chain] or [[]]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(asked), max(asked), strict=False)))
    return [chain[shared:] for chain in chains]
