"""Groups slices: by DICOM headers, or by folders for plain images. A split keeps each group together."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from worker.datasets.class_folders import class_folders, names_class, names_part, plain
from worker.imaging.recipe import SeriesInfo

Folders = list[str]


class DicomGroups:
    """Gives DICOM slices their groups: one for each patient.

    If a file states no patient, its study or series is the group.

    A patient is recognised by the ID alone, because some files of a study may lack the ID's issuer. It is better to
    take two patients for one than to have one patient in two parts of a split. The group of a patient is named after
    the study, or else the series, of the patient's first slice. It is not named after the patient's ID, because nothing
    that is derived from the ID may be kept.
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


def in_first_spelling(names: Iterable[str], spellings: dict[str, str]) -> list[str]:
    """Return the names. Spell names that differ only in letter case like the first of them.

    `spellings`: the first spelling of each name so far. New names are added to it.
    """
    return [spellings.setdefault(name.casefold(), name) for name in names]


def folder_groups(paths: Sequence[tuple[int, str]]) -> list[str]:
    """Return the group of each file, or "" if its folders do not name one.

    A file is given as the number of its archive and its path in the archive. The group is the name of
    * the first folder below the class folder: `COVID/patient1/scan2/7.png`;
    * or else the first folder above the class folder: `patient1/COVID/7.png`;
    * or else, without a class folder (a CSV states the class), the first folder of all.

    Folders with the same name are the same group, in both classes and in every archive. Letter case does not matter. It
    is better to take two patients for one than to have one patient in two parts of a split. Folders that all files
    share are ignored. A folder is also ignored if it is the only folder in the class folders of both classes. Any other
    folder may be a patient's, even a single folder with files next to it. Folders that name a class or a part of a
    split (train, val, test) are always ignored.
    """
    spellings: dict[str, str] = {}
    by_archive: dict[int, list[int]] = defaultdict(list)
    for place, (archive, _) in enumerate(paths):
        by_archive[archive].append(place)
    labels: dict[int, int] = {}
    below: dict[int, Folders] = {}
    above: dict[int, Folders] = {}
    for places in by_archive.values():
        folders = [_folders(paths[place][1], spellings) for place in places]
        around = dict(zip(places, _around_class(folders), strict=True))
        labels |= {place: label for place, (label, _, _) in around.items() if label is not None}
        below |= {place: inner for place, (label, inner, _) in around.items() if label is not None}
        above |= _beyond_common({place: outer for place, (_, _, outer) in around.items()})
    below = _beyond_common(_beyond_only(below, labels))
    return [(below.get(place) or above[place] or [""])[0] for place in range(len(paths))]


def _folders(path: str, spellings: dict[str, str]) -> Folders:
    folders = [folder for folder in plain(path).split("/")[:-1] if folder not in ("", ".")]
    return in_first_spelling(folders, spellings)


def _around_class(all_folders: Sequence[Folders]) -> list[tuple[int | None, Folders, Folders]]:
    """Return, for each file of an archive, its class, the folders below its class folder and the folders above it.

    Leave out folders that cannot name a patient. If a file is outside of every class folder, its class is None, and all
    its folders are above. If one file or more are outside, folders `0` and `1` are not class folders, because they may
    number patients.
    """
    named_folders = class_folders(all_folders)
    numbers_are_classes = None not in named_folders
    around: list[tuple[int | None, Folders, Folders]] = []
    for folders, named in zip(all_folders, named_folders, strict=True):
        if named and (numbers_are_classes or names_class(folders[named[0]])):
            at, label = named
            around.append((label, _patient_folders(folders[at + 1 :]), _patient_folders(folders[:at])))
        else:
            around.append((None, [], _patient_folders(folders)))
    return around


def _patient_folders(folders: Iterable[str]) -> Folders:
    return [folder for folder in folders if not names_class(folder) and not names_part(folder)]


def _beyond_only(chains: Mapping[int, Folders], labels: Mapping[int, int]) -> Mapping[int, Folders]:
    """Remove the first folder of the chains as long as it is the only first folder in both classes.

    `labels`: the class of each chain.
    """
    firsts = {(labels[place], chain[0]) for place, chain in chains.items() if chain}
    if len(firsts) == 2 and len({folder for _, folder in firsts}) == 1:
        return _beyond_only({place: chain[1:] for place, chain in chains.items()}, labels)
    return chains


def _beyond_common(chains: Mapping[int, Folders]) -> dict[int, Folders]:
    """Remove from each chain of folders the first folders that all chains share."""
    first, last = min(chains.values(), default=[]), max(chains.values(), default=[])
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return {place: chain[shared:] for place, chain in chains.items()}
