"""An engine proves itself by slices whose answers are known, before it predicts anything."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from db.registry.manifest import INT8_FILE, MANIFEST, ProofFacts
from db.registry.proof_file import BadProof, read_proof_file, write_proof_file
from worker.engines import load
from worker.engines.interface import Scores
from worker.engines.load import EngineUnproven, load_engine
from worker.engines.package import PackageError, sha256_of
from worker.engines.proof import NOT_STATED, Proof, draw_slices, prove, read_proof

Published = tuple[Path, Any, list[Any]]


@pytest.fixture
def folder(published: Published, tmp_path: Path) -> Path:
    """A copy of the published package."""
    return Path(shutil.copytree(published[0], tmp_path / "package"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a package's manifest; the hashes of its files are stated anew."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    manifest["files"] = {name: sha256_of(folder / name) for name in manifest["files"]}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def damage_one_scale(file: Path) -> None:
    """Multiply by 8 the scale of the weights of one layer of an int8 network."""
    import openvino as ov
    from openvino import opset13 as ops

    model = ov.Core().read_model(str(file))
    scales = [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Multiply"
        and node.input_value(1).get_node().get_type_name() == "Constant"
        and node.input_value(0).get_node().get_type_name() in ("Convert", "Subtract")
    ]
    node = scales[len(scales) // 2]
    constant = node.input_value(1).get_node()
    node.input(1).replace_source_output(ops.constant(constant.get_data() * 8).output(0))
    damaged = file.with_name("damaged.xml")
    ov.save_model(model, str(damaged), compress_to_fp16=False)
    del model, node, constant, scales
    for suffix in (".xml", ".bin"):
        damaged.with_suffix(suffix).replace(file.with_suffix(suffix))


@pytest.mark.slow
def test_proof_slices_are_the_same_each_time_and_of_both_classes(published: Published) -> None:
    proof = read_proof(published[0], published[1])
    assert proof is not None
    assert proof.slices.shape == (32, 224, 224)
    assert np.abs(proof.slices.astype(int) - draw_slices()).max() <= 1, "rounding may differ between processors"


def test_int8_as_published_passes(folder: Path) -> None:
    proven = load_engine(folder, "openvino")
    assert proven.engine.name == "openvino-int8"
    assert [result.passed for result in proven.results] == [True]


@pytest.mark.slow
def test_damaged_scale_falls_back_to_the_next_precision(folder: Path) -> None:
    damage_one_scale(folder / INT8_FILE)
    rewrite(folder, lambda manifest: None)
    proven = load_engine(folder, "openvino")
    assert proven.engine.precision in ("bf16", "f32")
    first, last = proven.results[0], proven.results[-1]
    assert (first.engine, first.passed) == ("openvino-int8", False)
    assert (last.engine, last.passed) == (proven.engine.name, True)


def test_no_engine_is_given_out_when_none_passes(folder: Path) -> None:
    damage_one_scale(folder / INT8_FILE)
    rewrite(folder, lambda manifest: None)
    with pytest.raises(EngineUnproven) as refused:
        load_engine(folder, "openvino-int8")
    assert [result.passed for result in refused.value.results] == [False]


def test_an_engine_that_cannot_be_run_falls_back_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.engines.openvino import OpenVinoEngine

    whole = OpenVinoEngine.__init__

    def fails(self: OpenVinoEngine, model: Path, precision: str, threads: int | None) -> None:
        if precision == "int8":
            raise RuntimeError("unsupported")
        whole(self, model, precision, threads)

    monkeypatch.setattr(OpenVinoEngine, "__init__", fails)
    proven = load_engine(folder, "openvino")
    assert proven.engine.precision != "int8"
    assert proven.results[0].largest_difference is None


def without_proof(folder: Path) -> None:
    def drop(manifest: dict[str, Any]) -> None:
        manifest["proof"] = {}
        del manifest["files"]["proof.npz"]

    rewrite(folder, drop)


@pytest.mark.slow
def test_package_without_a_proof_is_compared_with_its_own_float32_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NOT_STATED, "int8", {"logit": 1.2, "distance": 1, "cam": 0.3})  # random weights differ more
    without_proof(folder)
    proven = load_engine(folder, "openvino")
    assert proven.engine.name == "openvino-int8", proven.results[0].text
    assert "own float32 file" in proven.results[0].text
    damage_one_scale(folder / INT8_FILE)
    rewrite(folder, lambda manifest: None)
    assert load_engine(folder, "openvino").engine.precision != "int8"


def test_float32_of_a_package_without_a_proof_is_used_and_says_so(folder: Path) -> None:
    without_proof(folder)
    [result] = load_engine(folder, "openvino-f32").results
    assert (result.passed, result.largest_difference) == (True, None)


class Skewed:
    """An engine whose answers differ from the proof's by what it is given."""

    name, precision, batch_size, proof_sizes = "skewed-f32", "f32", 8, (8, 1)

    def __init__(self, proof: Proof, **skew: Any) -> None:
        self.proof, self.skew, self.sizes = proof, skew, []

    def predict(self, slices: np.ndarray[Any, Any]) -> Scores:
        self.sizes.append(len(slices))
        at = [int(np.flatnonzero((self.proof.slices == each).all((1, 2)))[0]) for each in slices]
        exact = self.proof.answers
        answers = {"logit": exact.logit[at], "cam": exact.cam[at], "distance": exact.distance[at]}  # type: ignore[index]
        return Scores(**answers | {name: change(answers[name]) for name, change in self.skew.items()})


@pytest.mark.parametrize(
    ("skew", "passed"),
    [
        ({}, True),
        ({"logit": lambda logit: logit + 0.01}, True),
        ({"logit": lambda logit: logit + 2}, False),
        ({"logit": lambda logit: logit * np.nan}, False),
        ({"cam": lambda cam: cam * 2}, False),
        ({"distance": lambda distance: distance * 2}, False),
        ({"distance": lambda distance: None}, False),
    ],
)
def test_each_answer_has_a_tolerance_of_its_own(skew: dict[str, Any], passed: bool, published: Published) -> None:
    proof = read_proof(published[0], published[1])
    assert proof is not None
    rng = np.random.default_rng(1)
    distance = rng.uniform(0.5, 2, len(proof.slices)).astype(np.float32)
    whole = Proof(proof.slices, replace(proof.answers, distance=distance), proof.source)
    engine = Skewed(whole, **skew)
    assert prove(engine, whole, published[1]).passed is passed
    assert engine.sizes == [8, 8, 8, 8, 1], "it is proven with the numbers of slices that it will get"


def test_package_cannot_switch_its_proof_off(published: Published) -> None:
    proof = read_proof(published[0], published[1])
    assert proof is not None
    lax = {precision: dict.fromkeys(("logit", "distance", "cam"), 1e9) for precision in NOT_STATED}
    package = published[1].model_copy(update={"proof": ProofFacts(tolerance=lax)})
    whole = Proof(proof.slices, replace(proof.answers, distance=np.ones(len(proof.slices), np.float32)), proof.source)
    assert prove(Skewed(whole), whole, package).passed
    assert not prove(Skewed(whole, logit=lambda logit: logit + 2), whole, package).passed


def arrays(count: int = 2, **changed: Any) -> dict[str, Any]:
    good = {
        "slices": np.zeros((count, 224, 224), np.uint8),
        "logit": np.zeros(count, np.float32),
        "cam": np.zeros((count, 7, 7), np.float32),
        "distance": np.ones(count, np.float32),
    }
    return {name: array for name, array in (good | changed).items() if array is not None}


def test_proof_file_comes_back_as_written(tmp_path: Path) -> None:
    for written in (arrays(), arrays(distance=None)):
        write_proof_file(tmp_path / "proof.npz", written)
        found = read_proof_file(tmp_path / "proof.npz")
        assert found.keys() == written.keys()
        assert all(np.array_equal(found[name], written[name]) for name in written)


@pytest.mark.parametrize(
    "changed",
    [
        {"slices": np.zeros((2, 100, 100), np.uint8)},
        {"slices": np.zeros((2, 224, 224), np.float32)},
        {"logit": np.zeros((2, 1), np.float32)},
        {"logit": np.array([0, np.nan], np.float32)},
        {"cam": np.zeros((3, 7, 7), np.float32)},
        {"cam": None},
        {"other": np.zeros(2, np.float32)},
        {name: array[:0] for name, array in arrays().items()},
        arrays(300),
    ],
)
def test_proof_of_other_shapes_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    write_proof_file(tmp_path / "proof.npz", arrays(**changed))
    with pytest.raises(BadProof):
        read_proof_file(tmp_path / "proof.npz")


def test_damaged_proof_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "proof.npz"
    write_proof_file(file, arrays())
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(BadProof):
        read_proof_file(file)


def test_gpu_machine_falls_back_to_openvino_for_a_package_without_keras(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(folder, lambda manifest: manifest["files"].pop("model.keras"))
    monkeypatch.setattr(load, "has_gpu", lambda: True)
    assert load_engine(folder).engine.name == "openvino-int8"


def test_gpu_machine_without_keras_takes_openvino(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    monkeypatch.setattr(load, "has_gpu", lambda: True)
    assert load_engine(folder).engine.name == "openvino-int8"


def test_package_for_keras_alone_says_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    rewrite(folder, lambda manifest: manifest.update(files={"model.keras": ""}, proof={}))
    with pytest.raises(PackageError, match="Keras"):
        load_engine(folder)


def npz(members: list[tuple[str, bytes]]) -> bytes:
    """A ZIP of these members, whatever their names."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return packed.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    packed = io.BytesIO()
    np.save(packed, array)
    return packed.getvalue()


@pytest.mark.parametrize(
    "added",
    [
        ("slices", npy(np.zeros((2, 224, 224), np.uint8))),  # beside slices.npy
        ("slices.npy", b"no array"),
        ("other.npy", npy(np.zeros(2))),
    ],
)
def test_members_that_are_not_what_they_are_named_are_refused(added: tuple[str, bytes], tmp_path: Path) -> None:
    members = {f"{name}.npy": npy(array) for name, array in arrays().items()}
    file = tmp_path / "proof.npz"
    file.write_bytes(npz(list(members.items())))
    assert read_proof_file(file).keys() == arrays().keys()
    file.write_bytes(npz(list((members | dict([added])).items())))
    with pytest.raises(BadProof):
        read_proof_file(file)
