"""Reads the contents of an HDF5 file of weights in a confined process. Refuses a file that refers to other files.

An HDF5 file can name other files, by external and soft links, and by external and virtual datasets. A server that loads
such a file as weights would read the named files too. The library that reads HDF5 is large and written in C. Therefore
files of strangers are opened only in a process that cannot open, send or start anything else
(`worker.imaging.sandbox.seccomp`).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections import Counter
from io import BytesIO, FileIO
from pathlib import Path
from typing import IO, Any, NoReturn

from db.registry.keras_safety import WEIGHTS_MEMBER, HarmfulModel
from worker.imaging.sandbox.protocol import FILTER_REQUIRED
from worker.imaging.sandbox.seccomp import drop_system_calls, grant_cpu, limit_resources
from worker.linux_process import die_with_parent

Shapes = Counter[tuple[int, ...]]

SECONDS, CPU_SECONDS = 120.0, 60
MEMORY_BYTES = 2 << 30
MOST_OBJECTS = 100_000
MOST_BYTES = 8 << 30  # of all arrays together in memory; a small file may state arrays of any size
MOST_DIMENSIONS = 32
MAX_REPLY_BYTES = 8 << 20
REFUSALS = {
    "link": "holds a soft or external link, which may lead to another file",
    "external": "holds an array whose numbers lie in another file",
    "virtual": "holds a virtual array, which is made of other arrays or files",
    "size": "holds more than weights can",
    "unfiltered": "is not read: this machine cannot confine the process that reads it (`ctbatch doctor` says why)",
    "damaged": "is neither HDF5 (.h5) nor a .keras file, or it is damaged",
}
_ROOT = Path(__file__).parents[1]
_LAUNCH = "import sys; sys.path[:0] = sys.argv[1:2]; from worker.hdf5 import main; main(*sys.argv[2:])"
_ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def check_weights(path: Path) -> None:
    """Check that an HDF5 file, or the weights in a `.keras` file, can be read and do not refer to other files.

    Raises HarmfulModel.
    """
    read_shapes(path)


def read_shapes(path: Path) -> Shapes:
    """Return how many arrays of each shape are in an HDF5 file, or in the weights of a `.keras` file.

    Raises HarmfulModel: the file cannot be read, or refers to another file.
    """
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            return _read_confined(file)
        try:
            with zipfile.ZipFile(file) as archive, tempfile.TemporaryFile(dir=path.parent) as copy:
                with archive.open(WEIGHTS_MEMBER) as member:
                    shutil.copyfileobj(member, copy)
                copy.flush()
                return _read_confined(copy)
        except (KeyError, RuntimeError, zipfile.BadZipFile) as error:
            raise HarmfulModel(REFUSALS["damaged"]) from error


def _read_confined(file: IO[bytes]) -> Shapes:
    """Return the shapes that a confined process reads from an open file. The answer of the process is checked too."""
    # imported here, because it loads SQLAlchemy, which the child does not need
    from worker.imaging.sandbox.filter_choice import filter_choice

    process = subprocess.Popen(  # noqa: S603  our own interpreter and module
        [sys.executable, "-I", "-B", "-c", _LAUNCH, str(_ROOT), str(os.getpid()), filter_choice()],
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=_ENVIRONMENT | {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"},
    )
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    with process:
        reply = process.stdout.read(MAX_REPLY_BYTES + 1) if process.stdout else b""
        process.kill()
    timer.cancel()
    return _parse(reply)


def _parse(reply: bytes) -> Shapes:
    try:
        value = json.loads(reply)
        if isinstance(value, str):
            raise HarmfulModel(REFUSALS[value])
        return Counter(tuple(_dimension(size) for size in shape[:MOST_DIMENSIONS]) for shape in value)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise HarmfulModel(REFUSALS["damaged"]) from error


def _dimension(size: object) -> int:
    if not isinstance(size, int) or size < 0:
        raise ValueError("not a dimension")
    return size


class _Refused(Exception):
    """The confined process refuses the file, with a code of `REFUSALS`."""


def main(parent: str, filter_: str) -> NoReturn:
    """Confine this process, read the file at stdin, and write its shapes or a code of `REFUSALS` as JSON.

    If the filter is `required` but cannot be set, the file is not read.
    """
    die_with_parent(int(parent))
    _warm_up()
    limit_resources(MEMORY_BYTES)
    grant_cpu(CPU_SECONDS)
    unfiltered = drop_system_calls()
    answer = "unfiltered" if unfiltered and filter_ == FILTER_REQUIRED else _answer()
    reply = memoryview(json.dumps(answer).encode())
    while reply:
        reply = reply[os.write(1, reply) :]
    os._exit(0)


def _answer() -> object:
    try:
        return list_shapes(FileIO(0, closefd=False))
    except _Refused as refused:
        return str(refused)
    except Exception:  # h5py raises errors of many kinds for a damaged file
        return "damaged"


def _warm_up() -> None:
    """Import the modules that h5py imports late, while files can still be opened."""
    import h5py

    file = BytesIO()
    with h5py.File(file, "w") as written:
        written["group/array"] = [0.0]
    list_shapes(file)


def list_shapes(source: IO[bytes] | FileIO) -> list[list[int]]:
    """List the shapes of all arrays, without reading the arrays. Raises _Refused, and h5py's errors."""
    import h5py

    shapes: list[list[int]] = []
    seen: set[Any] = set()
    size = 0
    with h5py.File(source, "r") as file:
        groups = [file["/"]]
        while groups:
            group = groups.pop()
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise _Refused("link")
                item = group[name]
                if item in seen:  # a file may name an object twice, or a group inside that group
                    continue
                seen.add(item)
                if isinstance(item, h5py.Group):
                    groups.append(item)
                elif isinstance(item, h5py.Dataset):
                    if item.external:
                        raise _Refused("external")
                    if item.is_virtual:
                        raise _Refused("virtual")
                    shapes.append(list(item.shape or ()))
                    size += item.nbytes
                if size > MOST_BYTES or len(seen) > MOST_OBJECTS:
                    raise _Refused("size")
    return shapes
