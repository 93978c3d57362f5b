"""Groups slices: by DICOM headers, or by folders for plain images. A split keeps each group together."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile

from worker.datasets.class_folders import class_folders, names_class, names_part, plain
from worker.imaging.recipe import SeriesInfo

Folders = list[str]


class DicomGroups:
    """Gives DICOM slices their groups: one for each patient, or for each study or series if the patient is not stated.

    A patient is recognised by the ID alone, because some files of a study may lack its issuer. It is better to take two
    patients for one than to have one patient in two parts of a split. The group of a patient is named after the study,
    or else the series, of the patient's first slice. It is not named after the patient's ID, because nothing that is
    derived from the ID may be kept.
    """

    def __init__(self) -> None:
        self._of_patient: dict[str, str] = {}
        self._named: Counter[str] = Counter()

    def of(self, series: SeriesInfo | None) -> str:
        """Return the group of a slice, or "" if its file does not state one."""
        if series is None:
            return ""
        group = _uid_group(series.study_uid, series.series_uid)
        if not series.patient:
            return group
        if series.patient not in self._of_patient:
            name = f"patient-{group.partition('-')[2]}"
            self._named[name] += 1  # two patients with the same study get two groups
            self._of_patient[series.patient] = name if self._named[name] == 1 else f"{name}-{self._named[name]}"
        return self._of_patient[series.patient]


def _uid_group(study_uid: str | None, series_uid: str | None) -> str:
    """Return a group named by a hash of the study UID, or else of the series UID. Return "" without either."""
    for kind, uid in (("study", study_uid), ("series", series_uid)):
        if uid:
            return f"{kind}-{hashlib.sha256(uid.encode()).hexdigest()[:16]}"
    return ""


def series_key(series: SeriesInfo | None) -> str | None:
    """Return a hash that is equal for the slices of a series, or None if the file does not state its series."""
    if series is None or not series.series_uid:
        return None
    return hashlib.sha256(f"{series.study_uid}\t{series.series_uid}".encode()).hexdigest()[:16]


def folder_groups(paths: Sequence[tuple[int, str]]) -> list[str]:
    """Return the group of each file, or "" if its folders do not name one.

    A file is given as the number of its archive and its path, which begins with the archive's name. The group is the
    name of
    * the first folder below the class folder: `COVID/patient1/scan2/7.png`;
    * or else the first folder above the class folder: `patient1/COVID/7.png`;
    * or else, without a class folder (a CSV states the class), the first folder of all.

    Folders with the same name are the same group, in both classes and in every archive. It is better to take two
    patients for one than to have one patient in two parts of a split. Folders that all files share, such as an
    archive's own folder, are ignored. So are folders that name a class or a part of a split (train, val, test).
    """
    by_archive: dict[int, list[int]] = defaultdict(list)
    for place, (archive, _) in enumerate(paths):
        by_archive[archive].append(place)
    below: list[Folders] = [[] for _ in paths]
    above: list[Folders] = [[] for _ in paths]
    for places in by_archive.values():
        around = _around_class([_folders(paths[place][1]) for place in places])
        outers = _beyond_common([outer for _, outer in around])
        for place, (inner, _), outer in zip(places, around, outers, strict=True):
            below[place], above[place] = inner, outer
    return [(inner or outer or [""])[0] for inner, outer in zip(_beyond_common(below), above, strict=True)]


def _folders(path: str) -> Folders:
    return [folder for folder in plain(path).split("/")[:-1] if folder not in ("", ".")]


def _around_class(all_folders: Sequence[Folders]) -> list[tuple[Folders, Folders]]:
    """Return, for each file of an archive, the folders below its class folder and those above it.

    Leave out folders that cannot name a patient. If some files are outside of every class folder, the folders `0` and
    `1` number patients and are not classes.
    """
    named_folders = class_folders(all_folders)
    numbers_are_classes = None not in named_folders
    around = []
    for folders, named in zip(all_folders, named_folders, strict=True):
        is_class = named is not None and (numbers_are_classes or names_class(folders[named[0]]))
        at = named[0] if named and is_class else len(folders)
        around.append((_patient_folders(folders[at + 1 :]), _patient_folders(folders[:at])))
    return around


def _patient_folders(folders: Iterable[str]) -> Folders:
    return [folder for folder in folders if not names_class(folder) and not names_part(folder)]


def _beyond_common(chains: Sequence[Folders]) -> list[Folders]:
    """Remove from each chain of folders the first folders that all chains share. Ignore empty chains."""
    filled = [chain for chain in chains if chain] or [[]]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(filled), max(filled), strict=False)))
    return [chain[shared:] for chain in chains]
