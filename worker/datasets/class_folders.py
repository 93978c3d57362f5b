"""Recognises words that name a class or a part, and finds the class folder on a file's path."""

import re
import unicodedata
from collections.abc import Sequence

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


def class_of_path(path: str) -> int | None:
    """Return the class that a file's path names, or None. The class folder nearest to the file counts."""
    named = class_folder(folder_of(path).split("/"))
    return None if named is None else named[1]


def class_folder(folders: Sequence[str]) -> tuple[int, int] | None:
    """Return the index and the class of the class folder among the folders of a path, or None.

    A folder with a word as its name is preferred to `0` and `1`, which may number patients inside a class folder.
    """
    places = range(len(folders) - 1, -1, -1)
    labels = [(at, label_of(folders[at])) for label_of in (_class_of_word, _NUMBERS.get) for at in places]
    return next(((at, label) for at, label in labels if label is not None), None)


def names_class(folder: str) -> bool:
    """Return whether a folder's name is a word for a class. `0` and `1` are not words, as they may number patients."""
    return _class_of_word(folder) is not None


def names_part(folder: str) -> bool:
    """Return whether a folder's name names a part of a split: train, validation or test."""
    return folder.lower() in PART_WORDS


def plain(path: str) -> str:
    """Return a path in the form in which paths are compared.

    This form has `/`, composed characters and no unprintable ones. It does not begin with `./` or `/`.
    """
    path = unicodedata.normalize("NFC", display_name(slashed(path)))
    return re.sub(r"^(\.?/)+", "", path)
