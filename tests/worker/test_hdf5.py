"""HDF5 files are read in a confined process, and one that names something outside of itself is refused.

Every file here is harmless: what it names is a file that the test makes itself.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from db import database
from db.registry.keras_safety import WEIGHTS_MEMBER, HarmfulModel
from db.settings import Settings
from worker import hdf5

MODEST = np.zeros((2, 3), np.float32)
Write = Callable[[h5py.File, Path], None]


def external_link(file: h5py.File, other: Path) -> None:
    file["linked"] = h5py.ExternalLink(str(other), "/array")


def soft_link(file: h5py.File, other: Path) -> None:
    file["deep/linked"] = h5py.SoftLink("/array")


def external_array(file: h5py.File, other: Path) -> None:
    file.create_dataset("deep/raw", (4,), np.uint8, external=[(str(other), 0, 4)])


def virtual_array(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((2, 3), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "array", (2, 3))
    file.create_virtual_dataset("deep/virtual", layout)


def huge_array(file: h5py.File, other: Path) -> None:
    file.create_dataset("huge", (1 << 40,), np.float32, chunks=(1 << 10,))


OUTSIDE: dict[Write, str] = {
    external_link: "link",
    soft_link: "link",
    external_array: "external",
    virtual_array: "virtual",
    huge_array: "size",
}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another file of the test, with an array."""
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["array"] = MODEST
    return path


def hdf5_of(path: Path, write: Write, other: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["array"] = MODEST
        write(file, other)
    return path


def in_archive(path: Path, weights: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(weights, WEIGHTS_MEMBER)
    return path


@pytest.mark.parametrize(("write", "code"), OUTSIDE.items(), ids=[write.__name__ for write in OUTSIDE])
def test_file_that_names_something_outside_is_refused(tmp_path: Path, other: Path, write: Write, code: str) -> None:
    path = hdf5_of(tmp_path / "weights.h5", write, other)
    with pytest.raises(HarmfulModel, match=hdf5.REFUSALS[code]):
        hdf5.check_weights(path)
    with pytest.raises(HarmfulModel, match=hdf5.REFUSALS[code]):
        hdf5.check_weights(in_archive(tmp_path / "model.keras", path))


@pytest.mark.parametrize(("write", "code"), OUTSIDE.items(), ids=[write.__name__ for write in OUTSIDE])
def test_refusal_does_not_rest_on_the_confinement(tmp_path: Path, other: Path, write: Write, code: str) -> None:
    """In this process everything may be opened."""
    with hdf5_of(tmp_path / "weights.h5", write, other).open("rb") as file, pytest.raises(hdf5._Refused, match=code):
        hdf5.list_shapes(file)


def test_arrays_are_counted_by_shape(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["a/one"], file["a/two"], file["b/three"] = MODEST, MODEST, np.float32(1)
        file["a/again"] = file["a/one"]
        file["a/itself"] = file["a"]
    assert hdf5.read_shapes(path) == {(2, 3): 2, (): 1}
    assert hdf5.read_shapes(in_archive(tmp_path / "model.keras", path)) == {(2, 3): 2, (): 1}


@pytest.mark.parametrize("data", [b"", b"no weights", b"\x89HDF\r\n\x1a\n broken"])
def test_other_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(data)
    with pytest.raises(HarmfulModel, match="neither HDF5"):
        hdf5.check_weights(path)


def test_archive_without_weights_is_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("config.json", "{}")
    path = tmp_path / "model.keras"
    path.write_bytes(packed.getvalue())
    with pytest.raises(HarmfulModel):
        hdf5.check_weights(path)


@pytest.mark.parametrize("reply", [b"", b"[[-1]]", b'[["x"]]', b'"unknown"', b"7", b"[" * 5000])
def test_odd_answer_of_the_confined_process_is_a_refusal(reply: bytes) -> None:
    with pytest.raises(HarmfulModel):
        hdf5._parse(reply)


UNFILTERED = """
import sys
sys.path[:0] = sys.argv[1:2]
from worker.imaging.sandbox import seccomp
seccomp._MACHINES.clear()
from worker.hdf5 import main
main(*sys.argv[2:])
"""


def test_nothing_is_read_where_the_filter_cannot_be_set(
    other: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "_LAUNCH", UNFILTERED)
    with pytest.raises(HarmfulModel, match="cannot confine"):
        hdf5.read_shapes(other)
    database.use(settings.model_copy(update={"allow_unfiltered_decoders": True}))
    assert hdf5.read_shapes(other) == {(2, 3): 1}
