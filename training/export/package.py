"""Makes the package of a trained network: calibrates, measures and exports it, and writes its report and card."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db import TEST
from db.database import read_scope
from db.datasets.slices import LabelledRow, doubts_about, lack_of_patient, without_patient
from db.evaluation.result import Metrics, VersionMetrics
from db.findings.rules import default_rule
from db.models import SplitRule, TrainingRun
from db.registry import champions
from db.registry.manifest import Package
from db.training import runs
from db.training.caveats import compared_by_pixels, unknown_sources
from db.training.leaks import CONFLICTING
from db.training.lineage import known_in
from db.training.progress import EpochRecord
from training.config import Config
from training.data.augment import Augmenter
from training.data.slices import Labelled
from training.evaluation.calibrate import plain_temperature
from training.evaluation.group_level import ScoredGroups, measure_groups
from training.evaluation.metrics import with_intervals
from training.evaluation.stored_scores import are_ood
from training.export.openvino import REFERENCE, Exported, export, write_manifest
from training.export.parity import Calibration
from training.network.backend import exact_float32, memory_errors
from training.network.ood_distance import with_distance
from training.report.content import PartSize, ReportContent, RunFacts, TestScores
from training.report.figures.slice_grids import Mistake
from training.report.html import write_report
from training.report.model_card import write_card
from worker.engines.interface import Scores

MISTAKES_SHOWN = 12
AUGMENTED_SHOWN = 32

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Trained:
    """A run with a trained network.

    `parts`: train, validation, test. `seconds`: how long the epochs took. `stage`: the stage whose weights the network
    has, or None if it has its initial weights. `stopped_early`: somebody stopped the training before its last epoch.
    """

    run: TrainingRun
    config: Config
    network: Any
    parts: dict[str, Labelled]
    history: Sequence[EpochRecord]
    seconds: float
    stage: int | None
    stopped_early: bool = False

    def plain_temperature(self) -> float:
        """Return the temperature that suits the loss with which the network's weights were trained."""
        if self.stage is not None:
            stage = self.config.stages[self.stage]
            return plain_temperature(stage.q, stage.label_smoothing)
        return self.run.from_version.temperature if self.run.from_version else 1.0


@memory_errors()
@exact_float32()
def make_package(folder: Path, trained: Trained, progress: Progress, alive: Callable[[], None]) -> Package:
    """Write the package of a trained network, with its report and model card, into `folder`.

    `progress` gets the fraction that is done and the present step. `alive` is called in between.

    Raises ValueError (a class is missing from the validation slices).
    """
    run, config, parts = trained.run, trained.config, trained.parts
    progress(0.0, "fitting the out-of-distribution distance")
    network = with_distance(trained.network, parts["train"].pixels, alive=alive)
    progress(0.2, "measuring on unseen groups, exporting, and comparing the engines")
    exported = export(network, folder, parts, config.threshold, run.seed, alive, plain=trained.plain_temperature())
    metrics = measure_test(parts["test"], exported.exact["test"], exported.calibration)
    with read_scope() as s:
        metrics = metrics.model_copy(update={"measured_on": measured_on(s, run), "measured_with": REFERENCE})
    progress(0.9, "reporting")
    content = _report(trained, exported, metrics)
    write_report(folder, content)
    write_card(folder, content)
    return write_manifest(
        exported,
        name=run.name,
        note=_note(trained),
        metrics=metrics,
        dataset_hash=run.dataset.sha256 if run.dataset else None,
        extra=facts_of(trained),
    )


def measured_on(s: Session, run: TrainingRun) -> str:
    """Return in words on which slices a run was measured, and why training may have seen some of them."""
    if seen := [leak for leak in run.allowed_leaks if leak != CONFLICTING]:
        return f"the test part of a split that leaks ({', '.join(seen)}): training has seen some of it"
    dataset, split, start = run.dataset, run.split, run.from_version
    if dataset is None or split is None:
        return "no dataset"
    named = known_in(s, start, dataset.id, split, (TEST,)).named if start else []
    doubts = []
    if start and named:
        doubts.append(
            f"{len(named):,} of its slices are in groups with the names of groups that trained {start.label} or a"
            " version that it comes from, and may be of the same patients"
        )
    if count := without_patient(dataset):
        doubts.append(
            f"{count:,} slices of the dataset {lack_of_patient(dataset)}, and training may have seen other slices of"
            " the same patients"
        )
    doubts += doubts_about(dataset)
    if start:
        doubts += unknown_sources(s, start)
        if labels := compared_by_pixels(s, start, dataset):
            doubts.append(f"slices of {', '.join(labels)} were compared by pixels only, not by patient")
    whole = f"the test part of the split{'' if named else ': groups that training never saw'}"
    return f"{whole}, but {'; '.join(doubts)}" if doubts else whole


def measure_test(data: Labelled, scores: Scores, calibration: Calibration) -> VersionMetrics:
    """Return all metrics with intervals, also by group and by source, and the share of slices out of distribution."""
    chances, threshold = calibration.probability(scores), calibration.threshold
    fields = dict(with_intervals(chances, data.labels, data.groups, threshold, unit_of=data.unit_of))
    ood = are_ood(scores.distance, calibration.ood)
    by_group = ScoredGroups.of(chances, data.labels, data.groups, data.pixels, data.series, data.files, ood)
    fields["by_group"] = measure_groups(by_group, default_rule(threshold), data.unit_of)
    if ood is not None:
        fields["ood_share"] = float(ood.mean())
    sources = np.array(_sources(data.rows))
    if len(names := np.unique(sources)) > 1:
        groups = np.array(data.groups)

        def alone(name: str) -> Metrics:
            here = sources == name
            of_source = list(groups[here])
            return with_intervals(chances[here], data.labels[here], of_source, threshold, unit_of=data.unit_of)

        fields["by_source"] = {str(name): alone(name) for name in names}
    return VersionMetrics(**fields)


def _sources(rows: Sequence[LabelledRow]) -> list[str]:
    """Return the source of each slice by the CSV. If the CSV names no source, return the kind of the slice's file."""
    if any(row.source for row in rows):
        return [row.source or "not stated" for row in rows]
    return [f"{row.format} {row.mode}" for row in rows]


def facts_of(trained: Trained) -> dict[str, Any]:
    """Return the facts about how a model version was made."""
    run, config = trained.run, trained.config
    return {
        "run": run.id,
        "seed": run.seed,
        "preset": run.preset,
        "config": config.model_dump(mode="json"),
        "dataset": run.dataset.label if run.dataset else None,
        "split": {"id": run.split.id, "dataset": run.dataset.label} if run.split and run.dataset else None,
        "lineage": _lineage(run),
        "floor": config.floor,
        "threshold_rule": config.threshold,
        "environment": run.environment,
        "training_seconds": round(trained.seconds, 1),
        "stopped_early": trained.stopped_early,
        "allowed_leaks": run.allowed_leaks,
        "report": "report.html",
    }


def _lineage(run: TrainingRun) -> list[str]:
    """Return the versions from which this one comes, oldest first."""
    if run.from_version is None:
        return []
    return [*run.from_version.facts.lineage, run.from_version.label]


def _note(trained: Trained) -> str:
    run = trained.run
    dataset = run.dataset.label if run.dataset else "no dataset"
    return f"trained on {dataset} by the preset {run.preset}; research use only, not for diagnosis"


def _report(trained: Trained, exported: Exported, metrics: VersionMetrics) -> ReportContent:
    data, test, calibration = trained.parts["test"], exported.exact["test"], exported.calibration
    chances = calibration.probability(test)
    return ReportContent(
        title=f"{trained.run.name}: training run {trained.run.id}",
        note=_note(trained),
        facts=_run_facts(trained),
        metrics=metrics,
        threshold=calibration.threshold,
        threshold_rule=trained.config.threshold,
        temperature=calibration.temperature,
        test=TestScores(chances, data.labels, data.groups, test.distance),
        history=trained.history,
        champion=_champions_history(),
        augmented=_augmented(trained),
        mistakes=worst_mistakes(data, chances, test.cam, calibration.threshold),
        by_group=metrics.by_group,
        by_source=metrics.by_source,
        parity=exported.parity_as_dict,
        ood_threshold=calibration.ood,
        measured_on=metrics.measured_on,
    )


def _run_facts(trained: Trained) -> RunFacts:
    run = trained.run
    sizes = [
        PartSize(
            name,
            len(part),
            len(set(part.groups)),
            int(part.labels.sum()),
            int((part.labels == 0).sum()),
            max(Counter(part.groups).values(), default=0),
        )
        for name, part in trained.parts.items()
    ]
    return RunFacts(
        preset=run.preset,
        seed=run.seed,
        dataset=run.dataset.label if run.dataset else "",
        dataset_hash=(run.dataset.sha256 or "") if run.dataset else "",
        split="given by the CSV" if run.split and run.split.rule == SplitRule.GIVEN else "by group",
        parts=sizes,
        config=trained.config.model_dump(mode="json"),
        environment=run.environment,
        lineage=_lineage(run),
        seconds=trained.seconds,
        stopped_early=trained.stopped_early,
        allowed_leaks=run.allowed_leaks,
    )


def _champions_history() -> list[EpochRecord] | None:
    """Return the champion's epochs, or None if no run of this database made the champion."""
    with read_scope() as s:
        champion = champions.champion(s)
        run_id = champion.facts.run if champion else None
        epochs = [] if run_id is None else runs.epochs_of(s, run_id)
        return [EpochRecord(e.stage, e.epoch, e.metrics, e.seconds) for e in epochs] or None


def _augmented(trained: Trained) -> NDArray[np.uint8]:
    shown = trained.parts["train"].some(AUGMENTED_SHOWN)
    return Augmenter(trained.config.augment)(shown.pixels, trained.run.seed)


def worst_mistakes(
    data: Labelled, chances: NDArray[np.float64], cam: NDArray[np.float32], threshold: float
) -> list[Mistake]:
    """Return slices on the wrong side of the threshold, those furthest from it first.

    Slices are named by their row in the dataset, because a file's name may contain a patient's name, and packages go to
    other sites.
    """
    wrong = np.flatnonzero((chances >= threshold) != (data.labels == 1))
    worst = wrong[np.argsort(-np.abs(chances[wrong] - threshold))][:MISTAKES_SHOWN]
    return [
        Mistake(f"slice {data.rows[i].row}", data.pixels[i], cam[i], float(chances[i]), int(data.labels[i]))
        for i in worst
    ]
