"""Words that name a class or a part, and the class folder on a file's path."""

import re
import unicodedata
from collections.abc import Sequence

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
    """Return 1 for a word that means COVID, 0 for one that means non-COVID (`CT_NonCOVID`, `healthy`, `0`), or None."""
    label = _class_of_word(word)
    return _NUMBERS.get(word.strip()) if label is None else label


def _class_of_word(word: str) -> int | None:
    plain = re.sub(r"[\s_-]", "", word.lower())
    return 1 if plain in _COVID else 0 if plain in _NON_COVID else None


def class_of_path(path: str) -> int | None:
    """Return the class that the nearest class folder on a file's path names, or None."""
    named = class_folder(path.replace("\\", "/").split("/")[:-1])
    return None if named is None else named[1]


def class_folder(folders: Sequence[str]) -> tuple[int, int] | None:
    """Return the place and the label of the class folder among the folders of a path, or None.

    Words go before `0` and `1`, which may number patients inside of a class folder.
    """
    places = range(len(folders) - 1, -1, -1)
    labels = [(at, label_of(folders[at])) for label_of in (_class_of_word, _NUMBERS.get) for at in places]
    return next(((at, label) for at, label in labels if label is not None), None)


def names_class(folder: str) -> bool:
    """Return whether a folder's name is a word for a class. `0` and `1` are not, since they may number patients."""
    return _class_of_word(folder) is not None


def names_part(folder: str) -> bool:
    """Return whether a folder's name is that of a part of a split: train, validation, test."""
    return folder.lower() in PART_WORDS


def plain(path: str) -> str:
    """Return a path as names are compared: `/`, composed characters, printable, no `./` or `/` in front."""
    path = unicodedata.normalize("NFC", display_name(path.replace("\\", "/")))
    return re.sub(r"^(\.?/)+", "", path)
