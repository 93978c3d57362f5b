"""The folder that holds everything, as the command line names it."""

import os
from pathlib import Path


def use_home(home: Path) -> None:
    """Make `home` the folder of this process and of all it starts. Call it before settings are read."""
    os.environ["CTBATCH_HOME"] = str(home.expanduser().absolute())
