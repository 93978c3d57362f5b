"""Evaluations on both databases: requested once, claimed by one worker, repeated, compared with those beside them."""

import socket
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import func, select, update

from db.broker import Queue
from db.clock import from_now
from db.database import read_scope, session_scope
from db.evaluation import evaluations
from db.evaluation.evaluations import EvaluationError
from db.evaluation.result import EvaluationResult, GroupMetrics, PairedMetric
from db.findings.rules import default_rule
from db.ledger import leases
from db.ledger.leases import StaleClaim
from db.models import Dataset, Evaluation, ModelVersion, Split, Work
from db.models.documents import FindingRule, Tuning
from db.storage import storage
from tests.builders.datasets import new_split
from tests.builders.leases import let_leases_end
from tests.builders.statements import recorded_statements
from tests.web.actors import load_engines
from worker import reap, sweep

pytestmark = pytest.mark.usefixtures("champion")
NewChampion = Callable[[str], ModelVersion]
BETTER = {"auc": PairedMetric(first=0.9, second=0.8, difference=0.1, low=0.05, high=0.2, p_lower=0.999)}


@pytest.fixture
def dataset() -> Dataset:
    with session_scope() as s:
        found = Dataset(name="site", number=1, sources=[], state=Work.DONE, sha256="5" * 64)
        s.add(found)
    return found


def draw_split(dataset: Dataset, seed: int = 7) -> Split:
    with session_scope() as s:
        split = new_split(dataset.id, {}, seed=seed)
        s.add(split)
    return split


def ask(version: ModelVersion, dataset: Dataset, split: Split | None = None, part: str | None = None) -> Evaluation:
    with session_scope() as s:
        return evaluations.request(s, version=version, dataset=dataset, split=split, part=part)


def seen(evaluation: Evaluation) -> evaluations.EvaluationView:
    with read_scope() as s:
        return evaluations.evaluation_view(s.get_one(Evaluation, evaluation.id))


def finish(result: EvaluationResult | None = None) -> bool:
    with session_scope() as s:
        claimed = evaluations.claim(s, "w")
    assert claimed is not None
    with session_scope() as s:
        return evaluations.finish(s, claimed[1], storage().put(b"scores"), result or EvaluationResult(n=3), {})


def test_same_request_gives_the_same_evaluation(champion: ModelVersion, dataset: Dataset) -> None:
    split = draw_split(dataset)
    whole, part = ask(champion, dataset), ask(champion, dataset, split, "test")
    assert ask(champion, dataset).id == whole.id
    assert ask(champion, dataset, split, "test").id == part.id
    assert len({whole.id, part.id, ask(champion, dataset, split, "validation").id}) == 3


def test_check_is_repeated_only_after_the_rule_of_findings_has_changed(
    champion: ModelVersion, dataset: Dataset
) -> None:
    def check() -> Evaluation:
        with session_scope() as s:
            return evaluations.request_check(s, version=s.get_one(ModelVersion, champion.id), dataset=dataset)

    first, by_default = check(), default_rule(champion.threshold)
    assert finish(EvaluationResult(engine="fake", by_group=GroupMetrics(rule=by_default)))
    assert check().state == Work.DONE
    with session_scope() as s:
        s.get_one(ModelVersion, champion.id).finding_rule = FindingRule(rule="max", version=2, threshold=0.5)
    assert ask(champion, dataset).state == Work.DONE, "only a check needs the metrics of groups"
    assert (check().id, check().state) == (first.id, Work.READY)


def test_check_by_the_rule_of_now_is_found_without_reading_slices(champion: ModelVersion, dataset: Dataset) -> None:
    """Reading them takes seconds for large datasets, and SQLite has no other writer meanwhile."""
    tuned = Tuning(dataset="site/1", dataset_hash=dataset.sha256, engine="fake", seed=7, groups={})
    rule = FindingRule(rule="max", version=2, threshold=0.5, tuned=tuned)
    with session_scope() as s:
        s.get_one(ModelVersion, champion.id).finding_rule = rule
        evaluations.request_check(s, version=champion, dataset=dataset)
    by_group = GroupMetrics(rule=rule.untuned, tuned_slices=3, tuned_on=dataset.sha256)
    assert finish(EvaluationResult(engine="fake", by_group=by_group))
    with recorded_statements() as statements, session_scope() as s:
        version = s.get_one(ModelVersion, champion.id)
        assert evaluations.request_check(s, version=version, dataset=dataset).state == Work.DONE
    assert not any("labelled_slice" in statement for statement in statements)


def test_check_is_repeated_if_the_rule_was_tuned_elsewhere(champion: ModelVersion, dataset: Dataset) -> None:
    tuned = Tuning(dataset="site/1", dataset_hash="9" * 64, engine="fake", seed=7, groups={})
    rule = FindingRule(rule="max", version=2, threshold=0.5, tuned=tuned)

    def check() -> Work:
        with session_scope() as s:
            version = s.get_one(ModelVersion, champion.id)
            version.finding_rule = rule
            return Work(evaluations.request_check(s, version=version, dataset=dataset).state)

    assert check() == Work.READY
    assert finish(EvaluationResult(engine="fake", by_group=GroupMetrics(rule=rule.untuned)))
    assert check() == Work.DONE, "the dataset of the tuning is not in this database"
    rule = rule.model_copy(update={"tuned": tuned.model_copy(update={"dataset_hash": dataset.sha256})})
    assert check() == Work.READY


def test_check_is_repeated_if_another_engine_serves_on_this_machine(champion: ModelVersion, dataset: Dataset) -> None:
    here = socket.gethostname()

    def check(engine: str) -> Work:
        """Request a check. Then let the evaluation of this engine end, if there is one to carry out."""
        with session_scope() as s:
            version = s.get_one(ModelVersion, champion.id)
            state = Work(evaluations.request_check(s, version=version, dataset=dataset).state)
        if state == Work.READY:
            assert finish(EvaluationResult(engine=engine))
        return state

    assert check("openvino-f32") == Work.READY
    assert check("") == Work.DONE, "it is not known which engine serves"
    load_engines(champion.id, "another", int8=True)
    load_engines(champion.id, here, f32=True)
    assert check("") == Work.DONE, "what serves here decides"
    load_engines(champion.id, here, int8=False)
    assert check("openvino-int8") == Work.READY, "no engine serves here, so those elsewhere decide"
    assert check("") == Work.DONE
    load_engines(champion.id, here, int8=False, f32=True)
    assert check("openvino-int8") == Work.READY
    assert check("") == Work.DONE, "the check ran after the engine began to serve, so another run would not help"


def test_evaluations_of_different_precision_are_not_compared(
    champion: ModelVersion, new_champion: NewChampion, dataset: Dataset
) -> None:
    with session_scope() as s:
        exact = evaluations.request(s, version=champion, dataset=dataset, precision="f32")
    assert ask(champion, dataset).id != exact.id
    with session_scope() as s:
        other = evaluations.request(s, version=new_champion("newer"), dataset=dataset, precision="f32")
        assert evaluations.find(s, version=champion, dataset=dataset, precision="f32").id == exact.id
    assert finish()
    assert finish()
    with read_scope() as s:
        assert [one.id for one in evaluations.done_beside(s, s.merge(other))] == [exact.id]


def test_simultaneous_requests_give_one_evaluation(champion: ModelVersion, dataset: Dataset) -> None:
    threads = [threading.Thread(target=lambda: ask(champion, dataset)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with read_scope() as s:
        assert s.scalar(select(func.count()).select_from(Evaluation)) == 1


def test_evaluation_is_claimed_once_reported_on_and_finished(champion: ModelVersion, dataset: Dataset) -> None:
    evaluation = ask(champion, dataset)
    assert seen(evaluation).state == "queued"
    with session_scope() as s:
        _, claim = evaluations.claim(s, "w")
        assert evaluations.claim(s, "v") is None
    with session_scope() as s:
        evaluations.report(s, claim, 0.5)
    assert (seen(evaluation).state, seen(evaluation).progress) == ("running", 0.5)
    with session_scope() as s:
        assert evaluations.finish(s, claim, storage().put(b"scores"), EvaluationResult(accuracy=0.9), {})
    done = seen(evaluation).as_dict()
    assert (done["state"], done["dataset"], done["model_version"]) == ("finished", "site/1", "fake/1")
    assert done["result"] == {"accuracy": 0.9, "against": {}}
    assert ask(champion, dataset).state == Work.DONE


def test_lost_evaluation_is_claimed_again_and_the_first_worker_records_nothing(
    champion: ModelVersion, dataset: Dataset
) -> None:
    evaluation = ask(champion, dataset)
    with session_scope() as s:
        _, stale = evaluations.claim(s, "w")
    let_leases_end(Evaluation)
    with session_scope() as s:
        again, _ = evaluations.claim(s, "v")
        assert (again.id, again.attempts) == (evaluation.id, 2)
    for act in (
        lambda s: evaluations.finish(s, stale, storage().put(b"scores"), EvaluationResult(), {}),
        lambda s: evaluations.report(s, stale, 1),
    ):
        with pytest.raises(StaleClaim), session_scope() as s:
            act(s)
    assert seen(evaluation).result == {}


def test_evaluation_can_be_claimed_out_of_turn(champion: ModelVersion, dataset: Dataset) -> None:
    ask(champion, dataset)
    second = ask(champion, dataset, draw_split(dataset), "test")
    with session_scope() as s:
        assert evaluations.claim(s, "w", second.id)[0].id == second.id
        assert evaluations.claim(s, "w", second.id) is None


def test_claim_out_of_turn_takes_no_other_evaluation_from_its_worker(champion: ModelVersion, dataset: Dataset) -> None:
    """Its lease may have run out in a pause, and only the sweeper knows of pauses."""
    ask(champion, dataset)
    second = ask(champion, dataset, draw_split(dataset), "test")
    with session_scope() as s:
        _, own = evaluations.claim(s, "w")
        s.execute(update(Evaluation).where(Evaluation.id == own.id).values(lease_until=from_now(-1200)))
    with session_scope() as s:
        assert evaluations.claim(s, "v", second.id)
    with session_scope() as s:
        assert leases.keep(s, Evaluation, own)


def test_failed_evaluation_is_repeated_on_request(champion: ModelVersion, dataset: Dataset) -> None:
    evaluation = ask(champion, dataset)
    with session_scope() as s:
        evaluations.fail(s, evaluations.claim(s, "w")[1], "a file is gone")
    assert (seen(evaluation).state, seen(evaluation).error) == ("failed", "a file is gone")
    again = ask(champion, dataset)
    assert (again.id, again.state, again.attempts) == (evaluation.id, Work.READY, 0)
    assert finish()
    assert seen(evaluation).error is None


def test_storage_is_not_asked_for_while_the_database_is_locked(
    champion: ModelVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = ask(champion, dataset)
    assert finish()
    monkeypatch.setattr("db.storage.Storage.exists", None)
    assert ask(champion, dataset).state == Work.DONE
    with session_scope() as s:
        evaluations.forget_scores(s, s.get_one(Evaluation, evaluation.id))
    again = ask(champion, dataset)
    assert (again.id, again.state) == (evaluation.id, Work.READY)


def test_comparison_is_in_both_results_whoever_ends_last(
    champion: ModelVersion, new_champion: NewChampion, dataset: Dataset
) -> None:
    first = ask(champion, dataset)
    second = ask(new_champion("newer"), dataset)
    elsewhere = ask(champion, dataset, draw_split(dataset), "test")
    assert finish()
    with session_scope() as s:
        _, claim = evaluations.claim(s, "w", second.id)
        assert [one.id for one in evaluations.done_beside(s, s.get_one(Evaluation, second.id))] == [first.id]
    with session_scope() as s:
        assert not evaluations.finish(
            s, claim, "", EvaluationResult(), {}
        )  # it does not know the first one's scores yet
    with session_scope() as s:
        assert evaluations.finish(s, claim, storage().put(b"scores"), EvaluationResult(), {first.id: BETTER})
    assert seen(second).result["against"] == {"fake/1": {"auc": BETTER["auc"].as_json()}}
    assert seen(first).result == {
        "n": 3,
        "against": {
            "newer/1": {
                "auc": {
                    "candidate": 0.8,
                    "champion": 0.9,
                    "difference": -0.1,
                    "low": -0.2,
                    "high": -0.05,
                    "p_lower": pytest.approx(0.001),
                }
            }
        },
    }
    assert seen(elsewhere).state == "queued"


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [(Work.RUNNING, None, "site/1 cannot be used: it is still being built"), (Work.FAILED, "no slices", "no slices")],
)
def test_dataset_that_is_not_ready_is_refused(
    champion: ModelVersion, dataset: Dataset, state: Work, error: str | None, message: str
) -> None:
    dataset.state, dataset.error = state, error
    with pytest.raises(EvaluationError, match=message):
        ask(champion, dataset)


def test_part_that_does_not_exist_is_refused(champion: ModelVersion, dataset: Dataset) -> None:
    split = draw_split(dataset)
    for part in ("rest", None):
        with pytest.raises(EvaluationError, match="not a part of a split; choose one of train, validation, test"):
            ask(champion, dataset, split, part)
    with session_scope() as s:
        other = Dataset(name="other", number=1, sources=[], state=Work.DONE)
        s.add(other)
    with pytest.raises(EvaluationError, match="does not belong to the dataset"):
        ask(champion, other, split, "test")


def test_sweeper_keeps_scores_and_sends_lost_messages_again(
    champion: ModelVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(champion, dataset)
    with session_scope() as s:
        s.execute(update(Evaluation).values(published_at=from_now(-3600)))
    woken: list[Queue] = []
    monkeypatch.setattr(sweep.broker, "waiting", lambda queue: 0)
    monkeypatch.setattr(sweep.broker, "wake", lambda queue: woken.append(queue) or True)
    sweep.sweep()
    assert woken == [Queue.EVALUATION]
    with read_scope() as s:
        assert leases.unsent(s, Evaluation) == []
    assert finish()
    assert reap.unnamed([storage().put(b"scores")]) == []
