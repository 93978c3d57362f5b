"""Words that name a class or a part, and the class folder on a file's path."""

import re
import unicodedata
from collections.abc import Sequence

from worker.imaging.display_names import label as shown

_COVID = {"covid", "covid19", "ctcovid", "positive"}
_NON_COVID = {"noncovid", "noncovid19", "ctnoncovid", "normal", "negative", "healthy"}
_NUMBERS = {"1": 1, "1.0": 1, "0": 0, "0.0": 0}
PART_WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def class_of(word: str) -> int | None:
    """1 for a word that means COVID, 0 for one that means non-COVID (`CT_NonCOVID`, `healthy`, `0`), else None."""
    found = _class_of_word(word)
    return _NUMBERS.get(word.strip()) if found is None else found


def _class_of_word(word: str) -> int | None:
    plain = re.sub(r"[\s_-]", "", word.lower())
    return 1 if plain in _COVID else 0 if plain in _NON_COVID else None


def class_of_path(path: str) -> int | None:
    """The class that the nearest class folder on a file's path names."""
    found = class_folder(path.replace("\\", "/").split("/")[:-1])
    return None if found is None else found[1]


def class_folder(folders: Sequence[str]) -> tuple[int, int] | None:
    """The place and the label of the class folder among the folders of a path. `0` and `1` are asked last: in the
    folder of a class they may number patients."""
    places = range(len(folders) - 1, -1, -1)
    found = [(at, label(folders[at])) for label in (_class_of_word, _NUMBERS.get) for at in places]
    return next(((at, known) for at, known in found if known is not None), None)


def names_class(folder: str) -> bool:
    """Whether a folder's name is a word for a class; `0` and `1`, which may number patients, are none."""
    return _class_of_word(folder) is not None


def names_part(folder: str) -> bool:
    """Whether a folder's name is that of a part of a split: train, validation, test."""
    return folder.lower() in PART_WORDS


def plain(path: str) -> str:
    """A path as names are compared: `/`, composed characters, as it is shown, no `./` or `/` in front."""
    path = unicodedata.normalize("NFC", shown(path.replace("\\", "/")))
    return re.sub(r"^(\.?/)+", "", path)
