"""Tunes the rule of findings of a model version on a labelled dataset that was not used to make the version."""

from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from db import PARTS
from db.database import read_scope
from db.datasets.datasets import check_kept
from db.datasets.slices import rows_of
from db.evaluation.evaluations import result_of
from db.evaluation.rule import TOLERATED
from db.models import Dataset, Evaluation, ModelVersion
from db.models.documents import FindingRule
from db.registry.calibration import calibration_of, limit_of
from db.storage import storage
from db.training.caveats import optimism_notes
from db.training.lineage import used_in_making
from training.data.seen_slices import find_seen_in_training, gone_note, training_slices_of
from training.data.slices import load_part
from training.evaluation.group_level import ScoredGroups
from training.evaluation.stored_scores import are_ood, unpack
from training.evaluation.tune_findings import CannotTune, tune
from worker.engines.package import probability

Alive = Callable[[], None]


def check_dataset(s: Session, version: ModelVersion, dataset: Dataset) -> None:
    """Raise CannotTune if slices of the dataset were used to make the version, as far as their hashes show."""
    if count := len(used_in_making(s, version, dataset.id)):
        raise CannotTune(_seen(count, version, dataset))


def tune_version(evaluation: Evaluation, tried: Sequence[FindingRule], seed: int, alive: Alive) -> FindingRule:
    """Choose the rule of findings, by an evaluation of a version on a whole dataset, and return the rule.

    `tried`: the candidates, plainest first. `alive` is called now and then. Raises CannotTune, DatasetGone,
    and storage's FileMissing and FileDamaged.
    """
    version, dataset, result = evaluation.model_version, evaluation.dataset, result_of(evaluation)
    if result is None or evaluation.scores_sha256 is None:
        raise CannotTune(f"{dataset.label} is not evaluated: {evaluation.error or 'the scores are gone; try again'}")
    with read_scope() as s:
        rows = rows_of(s, dataset.id)
        learned_from = training_slices_of(s, version, PARTS)
        notes = optimism_notes(s, [version], dataset.id)
        check_kept(s, dataset.id)
    logit, distance = unpack(storage().verified_path(evaluation.scores_sha256))
    data = load_part(dataset, rows, alive)
    seen = int(find_seen_in_training(data.pixels, learned_from, alive).sum())
    if seen > TOLERATED * len(data):
        raise CannotTune(_seen(seen, version, dataset))
    if learned_from.gone:
        notes.append(gone_note(learned_from.gone))
    temperature, threshold = calibration_of(version, result.engine)
    groups = ScoredGroups.of(
        probability(logit, temperature),
        data.labels,
        data.groups,
        data.pixels,
        data.series,
        data.files,
        are_ood(distance, limit_of(version.ood, result.engine)),
    )
    number_of = {unit: number for number, unit in enumerate(dict.fromkeys(data.unit_of.values()))}
    return tune(
        groups,
        [number_of[data.unit_of[name]] for name in groups.names],
        tried,
        dataset=dataset.label,
        dataset_hash=dataset.sha256,
        engine=result.engine,
        threshold=threshold,
        seed=seed,
        notes=notes,
    )


def _seen(count: int, version: ModelVersion, dataset: Dataset) -> str:
    return (
        f"{count} of {dataset.size} slices of {dataset.label} were used to train, calibrate or test {version.label}, or"
        " look like such slices: a rule that is tuned on them looks better than it is. Use a dataset of other patients"
    )
