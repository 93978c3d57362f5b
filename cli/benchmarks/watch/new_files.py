"""Waits until the disk makes new files quickly.

After many files were removed on an ext4 disk, creating a file takes five to ten times as long. This lasts for about a
minute. A benchmark removes its home when it ends. Without this wait, that would slow down the next benchmark.
"""

import time
from collections.abc import Callable
from pathlib import Path

from cli.output import say

QUICK = 0.00015  # seconds of processor time for a new file; 0.00006 is usual, and up to 0.0007 after a removal
FILES = 32
PAUSE, LONGEST = 5.0, 120.0  # seconds


def wait_until_quick(
    folder: Path,
    cost: Callable[[Path], float] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until making files in `folder` is quick, for at most `LONGEST` seconds. Return whether it is.

    `cost`: makes files in a folder, and returns the processor time of one, in seconds.
    """
    cost = cost or _cost_of_a_file
    waited = 0.0
    while cost(folder) > QUICK:
        if waited >= LONGEST:
            say("making files stays slow on this disk")
            return False
        if not waited:
            say("waiting, because making files is slow just after many were removed")
        pause(PAUSE)
        waited += PAUSE
    return True


def _cost_of_a_file(folder: Path) -> float:
    place = folder / "new-files" / str(time.monotonic_ns())  # not removed, because that would slow down new files
    place.mkdir(parents=True)
    began = time.process_time()
    for number in range(FILES):
        (place / str(number)).touch()
    return (time.process_time() - began) / FILES
