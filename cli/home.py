"""Sets the folder that holds everything."""

import os
from pathlib import Path


def use_home(home: Path) -> None:
    """Make `home` the folder of this process and of all that it starts. Call it before settings are read."""
    os.environ["CTBATCH_HOME"] = str(home.expanduser().absolute())
