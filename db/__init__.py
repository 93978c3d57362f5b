"""The parts that all processes share: settings, the database, stored files, messages, and common words."""

import re
from typing import Final, Literal

RESEARCH_USE_ONLY = "Research use only, not for diagnosis."

FAKE_ENGINE = "fake"
"""The engine for tests and benchmarks. It computes scores from hashes."""
MADE_UP = f"The engine `{FAKE_ENGINE}` made up scores for a test. They mean nothing."

ClassName = Literal["COVID", "non-COVID"]
COVID: Final = "COVID"
NON_COVID: Final = "non-COVID"
CLASSES: dict[int, ClassName] = {1: COVID, 0: NON_COVID}
"""The name of the class by label."""
LABELS: dict[str, int] = {name: label for label, name in CLASSES.items()}

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)
"""The parts of a split, in order."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The name of a dataset or a model. A dataset's name may not consist of digits only, because digits are read as an
id."""
LABEL = re.compile(rf"{NAME.pattern}/[0-9]{{1,9}}")
"""How people and the API name one version of a dataset or a model: `name/number`."""

SHORTCUT_AUC = 0.75
"""The least area under the ROC curve at which a fact of the files, such as their size, counts as a shortcut."""

MAX_INTEGER = 2**31 - 1
"""The largest value of an INTEGER column in PostgreSQL."""
