"""Makes the demo model: a real ResNet50, trained on synthetic phantoms. It knows nothing about patients.

It is trained with the same code as any run, and measured on phantoms of patients that it never saw.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from db.evaluation.result import VersionMetrics
from db.registry.manifest import INT8_FILE, Package
from training.config import ALL, STEADY_RULE, Augment, Config, Stage
from training.data.slices import Data, Labelled
from training.demo.draw_in_parallel import draw_on_all_cores
from training.evaluation.calibrate import plain_temperature
from training.evaluation.scoring import score
from training.export.openvino import REFERENCE, Exported, export, write_manifest
from training.export.package import measure_test
from training.export.parity import Calibration
from training.loop.fit import fit
from training.loop.observer import Step, TrainingObserver
from training.network.ood_distance import with_distance
from training.network.resnet50 import build_network, start_residuals_at_zero
from training.report.model_card import CARD
from worker.engines.openvino import OpenVinoEngine
from worker.phantoms.slices import lesion_masks

SEED = 7
NAME = "demo"
NOTE = "demo: synthetic phantoms, knows nothing about patients"
SLICES_A_PATIENT = 2
KNOWN_SLICES = 128  # training slices for the distance; a quarter as many components are stored, so the file is small

Progress = Callable[[float, str], None]


def _stage(name: str, unfreeze: int, epochs: int, **more: Any) -> Stage:
    settings = {"rate": 1e-3, "optimizer": "adamw", "schedule": "cosine", "keep": "last", "weight_decay": 0.02}
    return Stage.model_validate({"name": name, "unfreeze": unfreeze, "epochs": epochs, **settings, **more})


@dataclass(frozen=True)
class Plan:
    """The settings of a demo model's training.

    `pairs`: the number of patient pairs (one ill, one healthy) in each part. No patient is in two parts.
    `last_stage_slices`: the number of training slices in the last stage.
    """

    config: Config
    pairs: dict[str, int]
    last_stage_slices: int


ON_THE_SPOT = Plan(
    Config(
        preset=NAME,
        threshold=STEADY_RULE,
        augment=Augment(flip=True),
        stages=(
            _stage("small", ALL, 2, size=96, warmup=0.3),
            _stage("head", 0, 30, copies=1, warmup=1, weight_decay=0.05, label_smoothing=0.05),
        ),
    ),
    {"train": 480, "validation": 60, "test": 60},
    640,
)
"""Minutes on a processor: everything learns on small slices, then the head on full-size ones."""

SHIPPED = Plan(
    Config(
        preset=NAME,
        threshold=STEADY_RULE,
        augment=Augment(flip=True, rotation=8, shift=0.05, zoom=0.08),
        stages=(
            _stage("small", ALL, 5, size=128, warmup=0.3, average=0.98),
            _stage("full", ALL, 2, rate=3e-4, warmup=0.1, average=0.98),
        ),
    ),
    {"train": 1000, "validation": 100, "test": 150},
    4000,
)
"""Half an hour on a processor: everything learns, at full size too, so that heat maps lie on the lesions."""


class _Reporter(TrainingObserver):
    """Reports the progress of training, as a share from `first` to `last`, and what is trained now."""

    def __init__(self, progress: Progress, first: float, last: float, what: str) -> None:
        self._progress, self._first, self._last, self._what = progress, first, last, what

    def step(self, at: Step) -> None:
        share = (at.epoch + at.step / at.steps) / at.epochs
        self._progress(self._first + (self._last - self._first) * share, self._what)


def make_demo_package(
    folder: Path,
    *,
    plan: Plan = ON_THE_SPOT,
    seed: int = SEED,
    progress: Progress = lambda fraction, message: None,
    weights_file: Path | None = None,
) -> Package:
    """Train the demo model, write its package into `folder`, and return the package.

    Its metrics are measured on unseen phantoms, with the engine that most machines will use. `seed`: for the phantoms,
    the weights and the order of training. `progress` gets the fraction that is done, 0 to 1, and the present step.
    `weights_file` stores the trained weights. If it exists already, nothing is trained.
    """
    progress(0.0, "drawing phantoms")
    parts = draw_parts(plan, seed)
    data = Data(parts["train"], parts["validation"])
    network = _trained(plan, data, seed, lambda share, what: progress(0.05 + 0.75 * share, what), weights_file)
    progress(0.8, "fitting the out-of-distribution distance")
    network = with_distance(network, parts["train"].pixels, most=KNOWN_SLICES)
    progress(0.85, "exporting, and comparing the engines")
    last = plan.config.stages[-1]
    plain = plain_temperature(last.q, last.label_smoothing)
    exported = export(network, folder, parts, plan.config.threshold, seed, plain=plain)
    progress(0.95, "measuring")
    engine, calibration = _served(exported)
    scores = score(engine, parts["test"].pixels, lambda share: None) if engine else exported.exact["test"]
    metrics = measure_test(parts["test"], scores, calibration).model_copy(
        update={
            "measured_on": "phantoms of unseen patients",
            "measured_with": engine.name if engine else REFERENCE,
            "heat": heat_in_lesions(scores.cam, _lesions(plan, seed)),
        }
    )
    write_demo_card(folder, metrics, exported, seed)
    return write_manifest(
        exported,
        name=NAME,
        note=NOTE,
        metrics=metrics,
        dataset_hash=hashlib.sha256(parts["train"].pixels.tobytes()).hexdigest(),
        extra={"seed": seed, "trained_on": "synthetic phantoms", "config": plan.config.model_dump(mode="json")},
    )


def _trained(plan: Plan, data: Data, seed: int, progress: Progress, weights_file: Path | None) -> Any:
    """Return a trained network. Load the weights file if it exists. Otherwise train, and store the weights there."""
    if weights_file is not None and weights_file.exists():
        network = build_network(hidden=plan.config.hidden, dropout=plan.config.dropout)
        network.load_weights(weights_file)
        return network
    network = train_network(plan, data, seed, progress)
    if weights_file is not None:
        half_written = weights_file.with_name(f"new-{weights_file.name}")
        network.save_weights(half_written)
        half_written.replace(weights_file)
    return network


def _served(exported: Exported) -> tuple[OpenVinoEngine | None, Calibration]:
    """Return the engine that most machines will use for the model, or None for Keras in float32."""
    if not exported.parity["int8"].passed:
        return None, exported.calibration
    engine = OpenVinoEngine(exported.folder / INT8_FILE, "int8", None)
    return engine, exported.engines[engine.name]


def _lesions(plan: Plan, seed: int) -> NDArray[np.bool_]:
    """Draw where the lesions are in the test slices, bool[n, 224, 224]."""
    first = plan.pairs["train"] + plan.pairs["validation"]
    return lesion_masks(seed, plan.pairs["test"], SLICES_A_PATIENT, first_pair=first)


def heat_in_lesions(cam: NDArray[np.float32], lesions: NDArray[np.bool_]) -> dict[str, float]:
    """Measure how well heat maps, float32[n, 7, 7], match drawn lesions, bool[n, 224, 224], on slices with lesions.

    `share`: the share of the heat inside the lesions, if the map is enlarged smoothly, as on pages. `at_best`: the
    share that a map of 7 × 7 cells would reach if it were drawn from the lesions. `area`: the share of evenly spread
    heat that would be inside. `peak_inside`: the share of slices whose hottest pixel is inside a lesion.
    """
    ill = lesions.any((1, 2))
    cam, lesions = cam[ill], lesions[ill]
    own = lesions.reshape(-1, 7, 32, 7, 32).mean((2, 4)).astype(np.float32)
    heat, best = np.stack([_enlarged(cells) for cells in cam]), np.stack([_enlarged(cells) for cells in own])
    peaks = heat.reshape(len(heat), -1).argmax(1)
    return {
        "share": float(_share_inside(heat, lesions).mean()),
        "at_best": float(_share_inside(best, lesions).mean()),
        "area": float(lesions.mean()),
        "peak_inside": float(lesions.reshape(len(lesions), -1)[np.arange(len(peaks)), peaks].mean()),
    }


def _enlarged(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(cells).resize((224, 224), Image.Resampling.BILINEAR), np.float32)


def _share_inside(heat: NDArray[np.float32], lesions: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of each slice's heat that is inside its lesions, or 0 for a slice without heat."""
    total = heat.sum((1, 2), dtype=np.float64)
    inside = (heat * lesions).sum((1, 2), dtype=np.float64)
    return np.asarray(np.divide(inside, total, out=np.zeros_like(total), where=total > 0))


def write_demo_card(folder: Path, metrics: VersionMetrics, exported: Exported, seed: int) -> None:
    """Write the demo model's card, MODEL_CARD.md."""
    parity = exported.parity_as_dict
    heat, int8 = metrics.heat, parity["int8"]
    (folder / CARD).write_text(
        f"""# The demo model

**Research use only. Not for diagnosis.** It learned from synthetic phantoms and knows nothing about patients.

## What it is

- A ResNet50 that gives an axial chest CT slice (8 bits, 224 × 224) a probability of COVID and a heat map.
- It shows how ctbatch works. Its answers on slices of patients mean nothing.
- Made by `make demo-model`, seed {seed}, on {parity["processor"]}.

## How it does on unseen phantoms

Measured with the engine {metrics.measured_with}, on {metrics.n} slices of {metrics.groups} synthetic patients.

| metric | value |
|---|---|
| accuracy | {metrics.accuracy:.4f} |
| AUC | {metrics.auc:.4f} |
| sensitivity | {metrics.recall:.4f} |
| specificity | {metrics.specificity:.4f} |
| expected calibration error | {metrics.ece:.4f} |
| heat inside the drawn lesions | {heat["share"]:.1%} |
| the same for a perfect map of 7 × 7 cells | {heat["at_best"]:.1%} |
| area of the lesions | {heat["area"]:.1%} |
| slices whose hottest point lies in a lesion | {heat["peak_inside"]:.1%} |

## int8 beside float32, on the same slices

| difference | value |
|---|---|
| labels that became COVID | {int8.get("to_covid", "not measured")} |
| labels that became non-COVID | {int8.get("to_non_covid", "not measured")} |
| 99th percentile of the differences | {int8.get("p99_difference", "not measured")} |
| largest difference | {int8.get("largest_difference", "not measured")} |

Differences are of a calibrated probability. Chosen of the candidates: {int8.get("chosen", "none")}.
""",
        encoding="utf-8",
    )


def train_network(plan: Plan, data: Data, seed: int, progress: Progress) -> Any:
    """Return a network that was trained by the plan."""
    keras.utils.set_random_seed(seed)
    network = build_network(hidden=plan.config.hidden, dropout=plan.config.dropout, seed=seed)
    start_residuals_at_zero(network)
    shares = np.cumsum([0.0, *(stage.epochs * stage.size**2 for stage in plan.config.stages)])
    with tempfile.TemporaryDirectory(prefix="ctbatch-") as folder:
        for index, stage in enumerate(plan.config.stages):
            is_last = index == len(plan.config.stages) - 1
            train = data.train.some(plan.last_stage_slices) if is_last else data.train
            alone = plan.config.model_copy(update={"stages": (stage,)})
            first, last = shares[index : index + 2] / shares[-1]
            reporter = _Reporter(progress, first, last, f"training {stage.name} at {stage.size} × {stage.size}")
            fit(network, alone, Data(train, data.validation), seed=seed, folder=Path(folder), observer=reporter)
    return network


def draw_parts(plan: Plan, seed: int) -> dict[str, Labelled]:
    """Draw the disjoint parts of phantoms on all cores. Each patient is a group."""
    parts, first = {}, 0
    for name, pairs in plan.pairs.items():
        drawn = draw_on_all_cores(seed, pairs, SLICES_A_PATIENT, first_pair=first, size=224)
        parts[name] = Labelled(drawn.pixels, drawn.labels, [str(patient) for patient in drawn.patients])
        first += pairs
    return parts
