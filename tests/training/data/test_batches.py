"""A disk that is too small for a stage's features is reported: before they are computed, or when it fills up."""

import shutil
import subprocess
import sys
from collections import namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from db import database
from training.config import Stage
from training.data.slices import Labelled

PROJECT = Path(__file__).parents[3]
MOUNT = "mount -t tmpfs -o size=1m none"
FILLS_UP = """
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
sys.modules["training.data.augment"] = SimpleNamespace(Augmenter=None)  # it would load TensorFlow
from training.data.batches import Copies
from training.config import Stage
from training.data.slices import Labelled

def check(size, made):
    "Find enough room, as if somebody else filled the disk afterwards."

folder, count = Path(sys.argv[1]), 64
data = Labelled(np.ones((count, 224, 224), np.uint8), np.zeros(count, np.uint8), ["g"] * count)
try:
    (folder / "features").mkdir()
    stage = Stage(name="head", unfreeze=0, epochs=2)
    Copies(data, stage, lambda pixels, seed: pixels, 1, lambda part: [part], folder / "features", check)
except OSError as error:
    print(error.errno)
"""


def can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-Urm", "sh", "-c", f"{MOUNT} {folder}"], capture_output=True).returncode == 0


def test_full_disk_raises_instead_of_killing_the_process(tmp_path):
    import errno

    if not can_mount(tmp_path):
        pytest.skip("no small disk can be mounted here")
    inside = f'{MOUNT} "$1" && exec "$2" -c "$3" "$1"'
    words = ["unshare", "-Urm", "sh", "-c", inside, "sh", tmp_path, sys.executable, FILLS_UP]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, [str(errno.ENOSPC)]), done.stderr


@pytest.mark.parametrize(
    ("free", "reserve", "message"),
    [
        (250_000, 0, r"setting stages\.head\.copies=2"),
        (250_000, 120_000, r"0.0 GB are free besides the reserve .*setting stages\.head\.copies=1"),
        (30_000, 0, "need 0.0 GB in .*; make room there, or set CTBATCH_HOME"),
        (420_000, 0, r"setting stages\.head\.copies=3"),  # the validation slices do not fit too
        (420_000, 1_000_000, "where 0.0 GB are free"),
    ],
)
def test_too_small_disk_is_reported_before_features_are_computed(
    free, reserve, message, settings, tmp_path, monkeypatch
):
    from training.data.batches import Copies, check_room
    from training.errors import NoRoom

    count = 100  # 102,400 bytes a copy as float32[1, 256]
    data = Labelled(np.ones((count, 32, 32), np.uint8), np.zeros(count, np.uint8), ["g"] * count)
    database.use(settings.model_copy(update={"reserve_bytes": reserve}))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(free))
    computed = []

    def frozen(pixels):
        computed.append(len(pixels))
        return [np.zeros((len(pixels), 256), np.float32)]

    stage = Stage(name="head", unfreeze=0, epochs=8, size=32, copies=4)
    check = partial(check_room, stage, tmp_path, train=count, validation=20)
    with pytest.raises(NoRoom, match=message):
        Copies(data, stage, lambda pixels, seed: pixels, 1, frozen, tmp_path, check)
    assert len(computed) == 1
