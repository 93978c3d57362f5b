"""Recognises words that name a class or a part, and finds the class folders of a source."""

import re
import unicodedata
from collections.abc import Callable, Sequence

from db.models.slices import folder_of, slashed
from worker.imaging.display_names import display_name

_COVID = {"covid", "covid19", "ctcovid", "positive"}
_NON_COVID = {"noncovid", "noncovid19", "ctnoncovid", "normal", "negative", "healthy"}
_NUMBERS = {"1": 1, "1.0": 1, "0": 0, "0.0": 0}
PART_WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def class_of(word: str) -> int | None:
    """Return 1 if the word means COVID, 0 if it means non-COVID (`CT_NonCOVID`, `healthy`, `0`), or else None."""
    label = _class_of_word(word)
    return _NUMBERS.get(word.strip()) if label is None else label


def _class_of_word(word: str) -> int | None:
    plain = re.sub(r"[\s_-]", "", word.lower())
    return 1 if plain in _COVID else 0 if plain in _NON_COVID else None


def classes_of_paths(paths: Sequence[str]) -> list[int | None]:
    """Return the class that each path of a source names, or None."""
    folders = class_folders([folder_of(path).split("/") for path in paths])
    return [None if named is None else named[1] for named in folders]


def class_folders(all_folders: Sequence[Sequence[str]]) -> list[tuple[int, int] | None]:
    """Return for each path of a source the index and the class of its class folder, or None.

    Each path is given as its folders. The class folder nearest to the file counts. If any path has a word for a class,
    the folders `0` and `1` are not classes anywhere in the source, because they may number patients, scans or anything
    else.
    """
    words = [_nearest(folders, _class_of_word) for folders in all_folders]
    return words if any(words) else [_nearest(folders, _NUMBERS.get) for folders in all_folders]


def paths_in_archive(archive: str, names: Sequence[str]) -> list[str]:
    """Return the paths of an archive's files. If the archive's name states their class, they begin with it."""
    return [f"{archive}/{name}" for name in names] if names_class_of(archive, names) else list(names)


def names_class_of(archive: str, names: Sequence[str]) -> bool:
    """Return whether the name of an archive or of a sent folder names the class of its files.

    The name does not count if folders inside name both classes, because a folder with class folders may have any name.
    The numbers `0` and `1` count only if no name contains a word for a class.
    """
    inside, outside = [folder_of(name).split("/") for name in names], slashed(archive).split("/")
    for label_of in (_class_of_word, _NUMBERS.get):
        classes = {named[1] for folders in inside if (named := _nearest(folders, label_of))}
        if classes or _nearest(outside, label_of):
            return len(classes) < 2 and _nearest(outside, label_of) is not None
    return False


def _nearest(folders: Sequence[str], label_of: Callable[[str], int | None]) -> tuple[int, int] | None:
    labels = ((at, label_of(folders[at])) for at in range(len(folders) - 1, -1, -1))
    return next(((at, label) for at, label in labels if label is not None), None)


def names_class(folder: str) -> bool:
    """Return whether a folder's name is a word for a class. `0` and `1` are not words, as they may number patients."""
    return _class_of_word(folder) is not None


def names_part(folder: str) -> bool:
    """Return whether a folder's name names a part of a split: train, validation or test."""
    return folder.lower() in PART_WORDS


def plain(path: str) -> str:
    """Return a path in the form in which paths are compared.

    The returned path has `/` as separator, composed characters and no unprintable characters. It does not begin with
    `./` or `/`.
    """
    path = unicodedata.normalize("NFC", display_name(slashed(path)))
    return re.sub(r"^(\.?/)+", "", path)
