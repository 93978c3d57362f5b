"""Carries out evaluations: scores a model version on labelled slices, and compares it with other versions."""

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from db import TRAIN, VALIDATION
from db.background import wait_for_storage
from db.database import in_transaction, read_scope, session_scope
from db.datasets.slices import DatasetError, doubts_about, lack_of_patient, rows_of, without_patient
from db.evaluation import evaluations
from db.evaluation.evaluations import EvaluationError
from db.evaluation.gate import floors_of
from db.evaluation.result import EvaluationResult, PairedMetrics
from db.findings.rules import rule_of
from db.ledger.leases import Claim
from db.models import Evaluation, ModelVersion
from db.registry.calibration import calibration_of, limit_of
from db.storage import FileDamaged, FileMissing, FileUnreadable, storage
from db.training.caveats import unknown_sources, unknown_tuning
from db.training.lineage import groups_in, tuned_on, tuning_dataset
from training.data.seen_slices import find_seen_in_training, training_slices_of
from training.data.slices import Labelled, load_part
from training.evaluation.group_level import ScoredGroups, measure_groups
from training.evaluation.metrics import Verdicts, compare, with_intervals
from training.evaluation.scoring import score
from training.evaluation.site_check import Evidence, check_site
from training.evaluation.stored_scores import are_ood, pack, unpack
from worker import claimed
from worker.engines.interface import Scores
from worker.engines.load import EngineUnproven, engine_of
from worker.engines.package import PackageError, probability
from worker.heartbeat import Heartbeat

log = logging.getLogger(__name__)

LEARNED_FROM = (TRAIN, VALIDATION)  # the parts for training a version, and for choosing its threshold
Progress = Callable[[float], None]


def evaluate_next(worker: str, evaluation_id: int | None = None, progress: Progress = lambda fraction: None) -> bool:
    """Claim the oldest waiting evaluation, or the one with this id, and carry it out. Return False if none waits."""
    if evaluation_id is None and not claimed.may_claim():
        return False
    taken = in_transaction(lambda s: evaluations.claim(s, worker, evaluation_id))
    if taken is None:
        return False
    evaluation, claim = taken

    def work(heartbeat: Heartbeat) -> None:
        try:
            _carry_out(evaluation, claim, heartbeat, _reporter(claim, heartbeat, progress))
        except KeyboardInterrupt:
            with session_scope() as s:
                evaluations.give_back(s, claim)
            raise

    def fail(error: Exception) -> None:
        log.info("evaluation failed", extra={"evaluation": evaluation.id}, exc_info=error)
        with session_scope() as s:
            evaluations.fail(s, claim, _why(error, evaluation))

    def put_off(error: Exception, is_attempt: bool) -> None:
        with session_scope() as s:
            evaluations.put_off(s, claim, claimed.reason_of(error), is_attempt=is_attempt)

    claimed.carry_out(
        Evaluation,
        [claim],
        work,
        fail=fail,
        put_off=put_off,
        away=claimed.DATA_AWAY,
        tries=evaluations.MAX_CLAIMS,
        is_given_back=True,
    )
    return True


def _why(error: Exception, evaluation: Evaluation) -> str:
    """Return the reason in one line for people. Every user may read the line, so it names no path and no server."""
    if isinstance(error, FileMissing | FileDamaged):
        what = f"a file of the dataset {evaluation.dataset.label} or of {evaluation.model_version.label}"
        return f"{what} is gone or damaged: {error}"
    if isinstance(error, EvaluationError | DatasetError | PackageError | EngineUnproven):
        return str(error)
    return f"{type(error).__name__}; the evaluation worker's log says more"


def _reporter(claim: Claim, heartbeat: Heartbeat, progress: Progress) -> Progress:
    notes = claimed.ProgressNotes(heartbeat)

    def report(fraction: float) -> None:
        def write() -> None:
            with session_scope() as s:
                evaluations.report(s, claim, fraction)

        progress(fraction)
        notes.alive(write)

    return report


def _carry_out(evaluation: Evaluation, claim: Claim, heartbeat: Heartbeat, progress: Progress) -> None:
    if evaluation.attempts > evaluations.MAX_CLAIMS:
        raise EvaluationError(
            f"{evaluations.MAX_CLAIMS} workers died during this evaluation; check whether the machine has enough memory"
        )
    progress(0.0)
    with read_scope() as s:
        rows = rows_of(s, evaluation.dataset_id, evaluation.split, evaluation.part)
        learned_from = training_slices_of(s, evaluation.model_version, LEARNED_FROM)
        known_groups = groups_in(s, evaluation.model_version, LEARNED_FROM)
        unknown = unknown_sources(s, evaluation.model_version)
        rule = rule_of(evaluation.model_version)
        tuned, tuning_hash = tuned_on(s, rule, evaluation.dataset_id), tuning_dataset(s, rule)
        unknown += unknown_tuning(s, rule)
    if not rows:
        raise EvaluationError(f"there are no slices in {evaluation.part or 'all'} of {evaluation.dataset.label}")
    data = load_part(evaluation.dataset, rows, lambda: progress(0.0))
    version = evaluation.model_version
    engine = engine_of(version, evaluation.precision)[1]
    scores = score(engine, data.pixels, progress)
    if not np.isfinite(scores.logit).all():
        raise EvaluationError(f"{engine.name} gave a score that is not a number")
    tuned_slices = len({row.row for row in rows} & {one.row for one in tuned})
    result = _result(evaluation, engine.name, data, scores, tuned_slices, tuning_hash)
    if evaluation.part is None and evaluation.precision is None:
        named = np.isin([group.casefold() for group in data.groups], list(known_groups))
        seen = find_seen_in_training(data.pixels, learned_from, lambda: progress(1.0))
        evidence = Evidence(
            seen=float(seen.mean()),
            named=float((named & ~seen).mean()),
            without_patient=without_patient(evaluation.dataset) / len(rows),
            lack=lack_of_patient(evaluation.dataset),
            ood=result.ood_share,
            by_group=result.by_group,
            doubts=doubts_about(evaluation.dataset),
            gone=learned_from.gone,
            deleted=bool(learned_from.deleted),
            unknown=unknown,
        )
        check = check_site(result, floors_of(version), evidence)
        result = result.model_copy(update={"site_check": check})
    _finish(claim, evaluation, scores, data, result, heartbeat)


def _result(
    evaluation: Evaluation, engine: str, data: Labelled, scores: Scores, tuned_slices: int, tuning_hash: str | None
) -> EvaluationResult:
    """Return the metrics on slices and on groups, and the share of slices that are out of distribution.

    Use the threshold and the temperature of the engine. `tuned_slices`: how many of the slices the rule of findings was
    tuned on. `tuning_hash`: the hash of the dataset on which it was tuned.
    """
    version = evaluation.model_version
    temperature, threshold = calibration_of(version, engine)
    chances = probability(scores.logit, temperature)
    metrics = with_intervals(chances, data.labels, data.groups, threshold, unit_of=data.unit_of)
    ood = are_ood(scores.distance, limit_of(version.ood, engine))
    groups = ScoredGroups.of(chances, data.labels, data.groups, data.pixels, data.series, data.files, ood)
    by_group = measure_groups(groups, rule_of(version, engine), data.unit_of, tuned_slices, tuning_hash)
    ood_share = None if ood is None else float(ood.mean())
    fields = {**dict(metrics), "engine": engine, "threshold": threshold, "ood_share": ood_share, "by_group": by_group}
    return EvaluationResult(**fields)


def _finish(
    claim: Claim,
    evaluation: Evaluation,
    scores: Scores,
    data: Labelled,
    result: EvaluationResult,
    heartbeat: Heartbeat,
) -> None:
    """Record the result, with comparisons to all finished evaluations on the same slices.

    If other evaluations finish meanwhile, compare with these evaluations too before recording. Wait while the database
    is unreachable.
    """
    packed = pack(scores)
    sha256 = wait_for_storage(lambda: storage().put(packed), heartbeat.progress)
    ours = _verdicts(evaluation.model_version, result.engine, scores.logit)
    against: dict[int, PairedMetrics] = {}
    is_last_try = evaluation.attempts >= evaluations.MAX_CLAIMS

    def others() -> list[Evaluation]:
        with read_scope() as s:
            return evaluations.done_beside(s, evaluation)

    def finish() -> bool:
        with session_scope() as s:
            return evaluations.finish(s, claim, sha256, result, against)

    while True:
        for other in claimed.patiently(heartbeat, others):
            if other.id not in against:
                heartbeat.progress()  # a comparison takes half a minute for 100,000 slices
                theirs = claimed.patiently(heartbeat, partial(_verdicts_of, other, heartbeat, is_last_try))
                against[other.id] = compare(ours, theirs, data.labels, data.units) if theirs else {}
        if claimed.patiently(heartbeat, finish):
            return


def _verdicts(version: ModelVersion, engine: str, logit: NDArray[np.float32]) -> Verdicts:
    temperature, threshold = calibration_of(version, engine)
    return Verdicts(probability(logit, temperature), threshold)


def _verdicts_of(evaluation: Evaluation, heartbeat: Heartbeat, is_last_try: bool) -> Verdicts | None:
    """Return the answers of another version on the slices, or None if its scores are gone.

    Raises FileUnreadable if the scores cannot be read now. In the last try, returns None instead.
    """
    sha256 = evaluation.scores_sha256 or ""
    try:
        logit, _ = unpack(storage().verified_path(sha256, heartbeat.progress))
    except (FileMissing, FileDamaged) as error:
        if isinstance(error, FileUnreadable) and not is_last_try:
            raise
        log.warning("scores are gone or damaged", extra={"evaluation": evaluation.id})
        if isinstance(error, FileDamaged):
            storage().delete(sha256)
        with session_scope() as s:
            evaluations.forget_scores(s, evaluation)
        return None
    return _verdicts(evaluation.model_version, EvaluationResult(**evaluation.result).engine, logit)
