"""The groups of plain images by the folders they lie in, where no CSV and no DICOM header tells one."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile

from worker.labels import class_folder, names_class, names_part, plain

Folders = list[str]


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
