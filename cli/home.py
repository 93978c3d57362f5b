"""Sets the home: the folder that holds all files of ctbatch."""

import os
from pathlib import Path


def use_home(home: Path) -> None:
    """Use `home` in this process and in all processes that it starts. Call this before the settings are read."""
    os.environ["CTBATCH_HOME"] = str(home.expanduser().absolute())
