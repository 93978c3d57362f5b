"""Engines give the same answers, whatever runs them and however slices are grouped; a touched package is refused."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from db.evaluation.result import VersionMetrics
from db.registry.calibration import calibration_of
from db.registry.manifest import FLOAT_FILE, INT8_FILE, Package
from tests.worker.engines.conftest import labelled_parts
from worker.engines.devices import has_bfloat16
from worker.engines.fake import FakeEngine, expected_logit
from worker.engines.interface import Engine, Scores
from worker.engines.load import EngineAbsent, load_engine
from worker.engines.package import PackageError, probability, read_package
from worker.engines.processor import usable_cores
from worker.jobs.loaded_engines import Loaded
from worker.jobs.scoring import _scored

Published = tuple[Path, Package, list[Any]]
Slices = np.ndarray[Any, Any]
PROJECT = Path(__file__).parents[3]


def engine_of(folder: Path, choice: str = "auto") -> Engine:
    return load_engine(folder, choice).engine


def test_openvino_and_keras_agree_in_float32(published: Published, slices: Slices) -> None:
    folder, package, _ = published
    one = engine_of(folder, "openvino-f32").predict(slices)
    two = engine_of(folder, "keras").predict(slices)
    p, q = probability(one.logit, package.temperature), probability(two.logit, package.temperature)
    assert p.std() > 0.1, "scores that are all alike would agree by chance"
    assert np.abs(p - q).max() <= 0.01
    sides_differ = (p >= package.threshold) != (q >= package.threshold)
    assert np.abs(p - package.threshold)[sides_differ].max(initial=0) <= 0.02
    assert one.cam.shape == two.cam.shape == (len(slices), 7, 7)
    assert np.abs(one.cam - two.cam).max() <= 1e-3 * max(float(two.cam.max()), 1)


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["openvino-f32", "openvino", "keras"])
def test_a_score_does_not_depend_on_its_neighbours(choice: str, published: Published, slices: Slices) -> None:
    engine = engine_of(published[0], choice)
    together = engine.predict(slices).logit
    alone = np.concatenate([engine.predict(each[None]).logit for each in slices[:5]])
    tolerance = 1e-3 if choice != "openvino" else 0.15  # int8 and bfloat16 sum in another order
    assert np.abs(together[:5] - alone).max() <= tolerance
    assert len(engine.predict(slices[:7]).logit) == 7


@pytest.mark.slow
def test_mixed_precision_as_on_a_gpu_keeps_the_answers(published: Published, slices: Slices) -> None:
    from worker.engines.keras import KerasEngine, in_mixed_precision

    engine = KerasEngine(published[0])
    exact = probability(engine.predict(slices).logit, 1.5)
    half = in_mixed_precision(engine.model)
    assert half.get_layer("conv2_block1_1_conv").compute_dtype == "bfloat16"
    found = half.predict_on_batch(slices[..., None])
    assert np.asarray(found["cam"]).shape == (len(slices), 7, 7)
    rough = probability(np.asarray(found["logit"], np.float32), 1.5)
    assert np.abs(rough - exact).mean() <= 0.05


@pytest.mark.slow
def test_the_distance_stays_in_float32_in_mixed_precision(slices: Slices) -> None:
    """It is what the layers of the exact network say of the same activations."""
    import keras

    from training.network.ood_distance import DEPTHS, with_distance
    from training.network.resnet50 import build_network
    from worker.engines.keras import in_mixed_precision

    small = slices[:, :64, :64]
    exact = with_distance(build_network(64, hidden=8, seed=3), small)
    half = in_mixed_precision(exact)
    depths = [half.get_layer(name).output for name in DEPTHS]
    *activations, found = keras.Model(half.input, [*depths, half.output["distance"]])(small[..., None])
    tail = keras.Model([exact.get_layer(name).output for name in DEPTHS], exact.output["distance"])
    expected = tail([np.asarray(each, np.float32) for each in activations])
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=1e-4)
    assert half.get_layer("conv2_block1_1_conv").compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("parity", "precision"),
    [
        ({"bf16": {"accuracy_change": -0.02, "auc_change": 0.0, "passed": False}}, "f32"),
        ({"bf16": {"accuracy_change": 0.0, "auc_change": 0.0, "passed": True}}, "bf16"),
        ({"bf16": {"passed": False, "reason": "not measured here"}}, "bf16"),
        ({}, "bf16"),
    ],
)
def test_a_gpu_computes_in_bfloat16_unless_that_was_measured_and_failed(
    parity: dict[str, Any], precision: str, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    import worker.engines.keras as engine
    from worker.engines.load import _keras_builds

    monkeypatch.setattr(engine, "on_gpu", lambda: True)
    names = [name for name, _ in _keras_builds(published[0], published[1].model_copy(update={"parity": parity}))]
    half = ["keras-tensorflow-bf16"] if precision == "bf16" else []
    assert names == [*half, "keras-tensorflow-f32"]


PRINT_PINNED_CORES = """
import os, sys, threading
from pathlib import Path
import numpy as np
from worker.engines.openvino import OpenVinoEngine

engine = OpenVinoEngine(Path(sys.argv[1]), "f32", threads=1)
everywhere, pinned = os.sched_getaffinity(0), set()
predicting = threading.Thread(target=lambda: [engine.predict(np.zeros((32, 224, 224), np.uint8)) for _ in range(3)])
predicting.start()
while predicting.is_alive():
    for thread in Path("/proc/self/task").iterdir():
        try:
            cores = os.sched_getaffinity(int(thread.name))
        except OSError:  # it has ended
            continue
        if cores != everywhere:
            pinned |= cores
print(sorted(pinned))
"""


@pytest.mark.slow
@pytest.mark.skipif(usable_cores() < 2, reason="this machine has one core")
def test_two_workers_of_one_thread_each_are_not_pinned_to_the_same_core(published: Published) -> None:
    """In processes of their own: threads that an earlier engine pinned stay pinned."""
    command = [sys.executable, "-c", PRINT_PINNED_CORES, published[0] / FLOAT_FILE]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) for _ in range(2)]
    assert [worker.communicate(timeout=300)[0].strip() for worker in workers] == ["[]", "[]"]


def test_more_slices_than_a_batch(published: Published, slices: Slices) -> None:
    engine = engine_of(published[0], "openvino-f32")
    many = np.concatenate([slices] * (engine.batch_size // len(slices) + 2))
    found = engine.predict(many)
    assert len(found.logit) == len(many) > engine.batch_size
    first, last = found.logit[: len(slices)], found.logit[-len(slices) :]
    assert np.allclose(first, last, atol=1e-4)


def test_two_threads_share_an_engine(published: Published, slices: Slices) -> None:
    engine = load_engine(published[0], "openvino-f32", threads=2).engine
    many = [slices, slices[::-1]] * 4
    alone = [engine.predict(part).logit for part in many]
    with ThreadPoolExecutor(2) as lanes:
        together = list(lanes.map(lambda part: engine.predict(part).logit, many))
    for logit, expected in zip(together, alone, strict=True):
        assert logit == pytest.approx(expected, abs=1e-5)


def test_auto_takes_int8_where_its_parity_passed(published: Published) -> None:
    folder, package, _ = published
    if package.parity["int8"]["passed"]:
        assert "model-int8.xml" in package.files
        expected = "openvino-int8"
    else:
        assert "model-int8.xml" not in package.files
        expected = "openvino-bf16" if package.parity["bf16"]["passed"] and has_bfloat16() else "openvino-f32"
    assert engine_of(folder, "openvino").name == expected


@pytest.mark.slow
def test_asked_precision_is_loaded_whatever_serves(published: Published) -> None:
    folder, package, _ = published
    assert load_engine(folder, precision="f32").engine.precision == "f32"
    if INT8_FILE in package.files:
        assert load_engine(folder, precision="int8").engine.precision == "int8"
    with pytest.raises(EngineAbsent, match="computes in f64"):
        load_engine(folder, precision="f64")


@pytest.mark.slow
def test_openvino_s_files_are_left_out_where_float32_differs_from_keras(
    slices: Slices, small_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.export import openvino
    from training.network.resnet50 import build_network

    monkeypatch.setattr(openvino, "F32_TOLERANCE", -1.0)
    model = build_network(224, seed=3)
    exported = openvino.export(model, tmp_path / "package", labelled_parts(model, slices[:8]), "youden", seed=1)
    package = openvino.write_manifest(exported, name="odd", note="random weights", metrics=VersionMetrics())
    assert set(package.files) == {"model.keras", "proof.npz"}
    assert not any(package.parity[name]["passed"] for name in ("f32", "bf16", "int8"))
    assert package.calibration == {}
    assert engine_of(tmp_path / "package").name.startswith("keras-")


def test_slices_are_scored_in_batches_with_progress_after_each() -> None:
    """All at once may take longer than a worker may be silent."""
    from training.evaluation.scoring import score

    class Counted(FakeEngine):
        batch_size = 64

        def predict(self, slices: Slices) -> Scores:
            sizes.append(len(slices))
            return super().predict(slices)

    sizes: list[int] = []
    shares: list[float] = []
    scores = score(Counted(), np.zeros((130, 224, 224), np.uint8), shares.append)
    assert sizes == [64, 64, 2]
    assert shares == [64 / 130, 128 / 130, 1.0]
    assert scores.logit.shape == (130,)


def test_every_precision_that_serves_has_its_own_calibration(published: Published) -> None:
    package = published[1]
    kept = {f"openvino-{name}" for name in ("bf16", "int8") if package.parity[name]["passed"]}
    assert "openvino-int8" in kept
    assert package.calibration.keys() == kept
    temperature, threshold = calibration_of(package, "openvino-int8")
    assert (temperature, threshold) == tuple(package.calibration["openvino-int8"].values())
    assert calibration_of(package, "keras-jax-f32") == (package.temperature, package.threshold)


def test_parity_states_both_candidates_of_int8_and_the_processor(published: Published) -> None:
    parity = published[1].parity
    assert parity["processor"]
    candidates = parity["int8"]["candidates"]
    assert candidates.keys() == {"fast bias correction", "accurate bias correction"}
    order = ("flipped", "p99_difference")
    chosen = candidates[parity["int8"]["chosen"]]
    assert all([chosen[name] for name in order] <= [other[name] for name in order] for other in candidates.values())
    assert not list(published[0].glob("candidate*"))


def test_without_int8_the_best_that_passed_is_taken(published: Published, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(published[0], folder)
    manifest = json.loads((folder / "package.json").read_text())
    manifest["files"] = {k: v for k, v in manifest["files"].items() if "int8" not in k}
    manifest["parity"]["bf16"]["passed"] = False
    (folder / "package.json").write_text(json.dumps(manifest))
    assert engine_of(folder, "openvino").name == "openvino-f32"
    with pytest.raises(PackageError):
        load_engine(folder, "openvino-int8")


@pytest.mark.parametrize("name", ["model.keras", "model.xml", "model.bin"])
def test_one_changed_byte_is_refused(name: str, published: Published, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(published[0], folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(PackageError, match="other bytes"):
        load_engine(folder, "openvino-f32")


def test_manifest_that_names_a_path_is_refused(published: Published, tmp_path: Path) -> None:
    manifest = json.loads((published[0] / "package.json").read_text())
    manifest["files"] = {"../model.xml": "0" * 64}
    (tmp_path / "package.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match="not a file name"):
        read_package(tmp_path)


def test_missing_or_broken_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError):
        read_package(tmp_path)
    (tmp_path / "package.json").write_text("{")
    with pytest.raises(PackageError):
        read_package(tmp_path)


def test_export_opens_no_connection(published: Published) -> None:
    assert published[2] == []


@pytest.mark.slow
def test_openvino_loads_no_tensorflow(published: Published) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from worker.engines.load import load_engine\n"
        "load_engine(Path(sys.argv[1]), 'openvino').engine.predict(np.zeros((1, 224, 224), np.uint8))\n"
        "print(sorted({'tensorflow', 'keras', 'torch', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(published[0])], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_probability_is_calibrated_and_bounded() -> None:
    logit = np.linspace(-1000, 1000, 4001, dtype=np.float32)
    for temperature in (0.25, 1.0, 8.0):
        exact = expit(logit.astype(np.float64) / temperature)
        assert np.abs(probability(logit, temperature) - exact).max() <= 1e-12


@pytest.mark.parametrize(
    ("ood", "flagged"),
    [
        ({"threshold": 1.0, "fake": 2.0}, [False, False, True]),
        ({"threshold": 1.0, "keras": 2.0}, [False, True, True]),
        ({}, [None, None, None]),
    ],
)
def test_each_engine_flags_slices_by_its_own_threshold(
    ood: dict[str, float], flagged: list[bool | None], published: Published, slices: Slices
) -> None:
    loaded = Loaded(published[1].model_copy(update={"ood": ood}), FakeEngine())
    found = replace(loaded.engine.predict(slices[:3]), distance=np.array([0.5, 1.5, 2.5], np.float32))
    assert [scored.ood for scored in _scored(loaded, found)] == flagged


def test_fake_scores_are_a_function_of_the_pixels(slices: Slices) -> None:
    found = FakeEngine().predict(slices)
    assert found.logit.tolist() == [expected_logit(each) for each in slices]
    assert len(set(found.logit.tolist())) == len(slices)


def test_unknown_engine_is_refused(published: Published) -> None:
    with pytest.raises(ValueError, match="there is no engine"):
        load_engine(published[0], "abacus")
