"""Training runs: launched once the split is clean, claimed by one worker, asked to end, and shown."""

from datetime import timedelta

import pytest
from sqlalchemy import inspect, select, update

from db.access.audit import Action
from db.database import session_scope
from db.ledger import leases
from db.models import AuditEvent, Dataset, TrainingRun, Work
from db.training import runs
from db.training.progress import EpochRecord, StoredCheckpoint
from db.training.runs import BadName, NewRun, RunError
from tests.builders.datasets import add_dataset, add_split
from tests.builders.leases import let_leases_end


@pytest.fixture
def dataset(database):
    return add_dataset()


@pytest.fixture
def split(dataset):
    return add_split(dataset)


def launch(dataset, split, **values):
    with session_scope() as s:
        return runs.create_run(s, NewRun(dataset, split, "seed", {"stages": []}, seed=7, **values))


def claim(worker="w"):
    with session_scope() as s:
        return runs.claim_run(s, worker)


def view(run):
    with session_scope() as s:
        return runs.run_view(s, s.get_one(TrainingRun, run.id))


def test_one_worker_gets_a_run(dataset, split):
    run = launch(dataset, split)
    claimed, _ = claim()
    assert claimed.id == run.id
    assert claimed.started_at is not None
    assert claim("other") is None
    assert (view(run).state, view(run).dataset, view(run).preset) == ("running", "site/1", "seed")


def test_another_worker_resumes_from_the_checkpoint(dataset, split):
    launch(dataset, split)
    run, first = claim()
    with session_scope() as s:
        runs.record_epoch(s, first, EpochRecord(0, 0, {"loss": 0.5}, 1.0))
        runs.record_epoch(s, first, EpochRecord(0, 1, {"loss": 0.4}, 1.0))
        runs.record_checkpoint(s, first, StoredCheckpoint(stage=0, epoch=0))
    with session_scope() as s:
        gone = s.get_one(TrainingRun, run.id).lease_until - timedelta(hours=1)
        s.execute(update(TrainingRun).values(lease_until=gone))
        leases.free_expired(s, TrainingRun)
    again, second = claim("other")
    assert again.checkpoint == {"stage": 0, "epoch": 0}
    with session_scope() as s, pytest.raises(leases.StaleClaim):
        runs.record_epoch(s, first, EpochRecord(0, 2, {"loss": 0.3}, 1.0))
    with session_scope() as s:
        runs.record_epoch(s, second, EpochRecord(0, 1, {"loss": 0.41}, 1.0))
    with session_scope() as s:
        assert [(e.epoch, e.metrics["loss"]) for e in runs.epochs_of(s, run.id)] == [(0, 0.5), (1, 0.41)]


@pytest.mark.parametrize("checkpoint", [None, StoredCheckpoint(stage=0, epoch=1)], ids=["none", "epoch 1"])
def test_resumed_run_has_only_the_epochs_up_to_its_checkpoint(dataset, split, checkpoint):
    launch(dataset, split)
    run, first = claim()
    with session_scope() as s:
        for place in ((0, 0), (0, 1), (0, 2), (1, 0)):
            runs.record_epoch(s, first, EpochRecord(*place, {"loss": 0.5}, 1.0))
        if checkpoint:
            runs.record_checkpoint(s, first, checkpoint)
        s.execute(update(TrainingRun).values(live={"step": 3}))
    with session_scope() as s:
        gone = s.get_one(TrainingRun, run.id).lease_until - timedelta(hours=1)
        s.execute(update(TrainingRun).values(lease_until=gone))
        leases.free_expired(s, TrainingRun)
    claim("other")
    with session_scope() as s:
        assert [(e.stage, e.epoch) for e in runs.epochs_of(s, run.id)] == ([(0, 0), (0, 1)] if checkpoint else [])
    assert view(run).live == {}


def test_checkpoint_resets_the_attempts(dataset, split):
    launch(dataset, split)
    run, held = claim()
    with session_scope() as s:
        s.execute(update(TrainingRun).values(attempts=3))
        runs.record_checkpoint(s, held, StoredCheckpoint(stage=0, epoch=0))
    with session_scope() as s:
        assert s.get_one(TrainingRun, run.id).attempts == 1


def test_waiting_run_is_cancelled_at_once(dataset, split):
    run = launch(dataset, split)
    with session_scope() as s:
        assert runs.cancel_run(s, run)
    assert view(run).state == "cancelled"
    assert claim() is None
    with session_scope() as s:
        assert not runs.cancel_run(s, run)


def test_cancelled_run_that_was_put_off_loses_its_checkpoint(dataset, split):
    run = launch(dataset, split)
    _, held = claim()
    with session_scope() as s:
        runs.record_checkpoint(s, held, StoredCheckpoint(stage=0, epoch=0, files={"state.npz": "0" * 64}))
    with session_scope() as s:
        leases.put_off(s, TrainingRun, held)
    with session_scope() as s:
        assert runs.cancel_run(s, run)
        assert s.get_one(TrainingRun, run.id).checkpoint == {}


def test_cancel_reaches_a_running_run_with_its_next_report(dataset, split):
    run = launch(dataset, split)
    _, held = claim()
    with session_scope() as s:
        assert not any(vars(runs.report(s, held, 0.1, "training")).values())
        assert runs.stop_run(s, run)
        assert runs.report(s, held, 0.2, "training").stop
        assert runs.cancel_run(s, run)
        assert runs.report(s, held, 0.3, "training").cancel
    assert (view(run).stopping, view(run).cancelling, view(run).progress) == (True, True, 0.3)
    with session_scope() as s:
        runs.end_cancelled(s, held)
    assert (view(run).state, view(run).cancelling) == ("cancelled", False)


@pytest.mark.parametrize("is_early", [False, True])
def test_finished_run_says_whether_it_was_stopped_early(is_early, dataset, split, champion):
    run = launch(dataset, split)
    _, held = claim()
    with session_scope() as s:
        runs.stop_run(s, run)
        if is_early:
            runs.report(s, held, 0.5, "training", stopped_early=True)
        runs.finish_run(s, held, champion.id)
    assert (view(run).state, view(run).stopped_early) == ("finished", is_early)
    assert ("stopped early" in view(run).message) == is_early


def test_waiting_run_without_a_checkpoint_cannot_be_stopped(dataset, split):
    run = launch(dataset, split)
    assert not runs.can_be_stopped(run)
    with session_scope() as s:
        assert not runs.stop_run(s, run)


def test_run_with_a_checkpoint_that_was_put_off_is_stopped_at_its_next_claim(dataset, split):
    run = launch(dataset, split)
    _, held = claim()
    with session_scope() as s:
        runs.record_checkpoint(s, held, StoredCheckpoint(stage=0, epoch=0))
        runs.put_off(s, held, "the disk is full")
    assert claim() is None
    with session_scope() as s:
        waiting = s.get_one(TrainingRun, run.id)
        assert runs.can_be_stopped(waiting)
        assert runs.stop_run(s, waiting)
    assert (view(run).state, view(run).stopping) == ("queued", True)
    again, held = claim()
    assert again.checkpoint
    with session_scope() as s:
        assert runs.report(s, held, 0.1, "reading the dataset").stop


@pytest.mark.parametrize("is_running", [False, True])
def test_stopped_run_may_be_claimed_again_to_export_however_many_workers_died(is_running, dataset, split):
    run = launch(dataset, split)
    _, held = claim()
    with session_scope() as s:
        runs.record_checkpoint(s, held, StoredCheckpoint(stage=0, epoch=0))
        if not is_running:
            runs.put_off(s, held, "the disk is full")
        s.execute(update(TrainingRun).values(attempts=3))
    with session_scope() as s:
        assert runs.stop_run(s, s.get_one(TrainingRun, run.id))
    if is_running:
        let_leases_end(TrainingRun)
        with session_scope() as s:
            leases.free_expired(s, TrainingRun)
    assert claim()[0].attempts <= 2


def test_failed_run_states_its_error(dataset, split):
    run = launch(dataset, split)
    _, held = claim()
    with session_scope() as s:
        runs.fail_run(s, held, "the memory was not enough")
    assert (view(run).state, view(run).error) == ("failed", "the memory was not enough")


def test_list_of_runs_does_not_read_their_splits(dataset, split):
    """A split of 100,000 groups takes megabytes."""
    launch(dataset, split)
    with session_scope() as s:
        [listed] = runs.list_runs(s)
        assert "split" in inspect(listed).unloaded
    claimed, _ = claim()
    assert claimed.split.id == split.id


def test_leak_blocks_unless_it_is_allowed_by_name(dataset, split):
    with session_scope() as s:
        split = s.merge(split)
        split.leaks = {"identical-slices": {"count": 4, "examples": []}}
    with session_scope() as s:
        with pytest.raises(RunError, match="identical-slices: 4"):
            runs.check_split(s, dataset, split, None, [])
        with pytest.raises(RunError, match="identical-slices"):
            runs.check_split(s, dataset, split, None, ["near-identical-slices"])
        leaks = runs.check_split(s, dataset, split, None, ["identical-slices", "shared-groups"])
    assert leaks == ["identical-slices"]
    assert view(launch(dataset, split, leaks=leaks)).allowed_leaks == ["identical-slices"]


@pytest.mark.parametrize(("other", "is_split_at_fault"), [({}, False), ({"shared-groups": 2}, True)])
def test_refusal_of_conflicting_labels_says_to_correct_the_labels(other, is_split_at_fault, dataset, split):
    examples = ["1.png (COVID); 2.png (non-COVID)"]
    with session_scope() as s:
        split = s.merge(split)
        split.leaks = {name: {"count": count, "examples": []} for name, count in other.items()}
        split.leaks |= {"conflicting-labels": {"count": 1, "examples": examples}}
    with session_scope() as s, pytest.raises(RunError, match="conflicting-labels: 1") as refused:
        runs.check_split(s, dataset, split, None, [])
    message = str(refused.value)
    assert "1.png (COVID); 2.png (non-COVID)): relabel or remove them, and make the dataset again" in message
    assert ("correct the split" in message) == is_split_at_fault


@pytest.mark.parametrize("name", ["ward 3", ".hidden", "a/b", "x" * 65, "é", "a\n"])
def test_name_that_no_package_may_have_is_refused(name):
    with pytest.raises(BadName, match="1 to 64 letters"):
        runs.check_name(name)


def test_dataset_that_is_not_built_is_refused(dataset, split):
    with session_scope() as s:
        s.execute(update(Dataset).values(state=Work.FAILED, error="an empty class"))
    with session_scope() as s:
        dataset = s.get_one(Dataset, dataset.id)
        with pytest.raises(RunError, match="an empty class"):
            runs.check_split(s, dataset, split, None, [])


def requests_recorded(run):
    with session_scope() as s:
        query = select(AuditEvent.action).where(AuditEvent.object == f"run {run.id}").order_by(AuditEvent.id)
        return [action for action in s.scalars(query) if action != Action.RUN_LAUNCH]


def test_each_request_to_end_a_run_is_recorded_once(dataset, split):
    run = launch(dataset, split)
    _, held = claim()
    for _ in range(2):
        with session_scope() as s:
            assert runs.stop_run(s, s.get_one(TrainingRun, run.id))
    for _ in range(2):
        with session_scope() as s:
            assert runs.cancel_run(s, s.get_one(TrainingRun, run.id))
    with session_scope() as s:
        leases.put_off(s, TrainingRun, held)
    with session_scope() as s:
        [waiting] = runs.waiting_although_cancelled(s)
        assert runs.cancel_run(s, waiting)
    assert view(run).state == "cancelled"
    assert requests_recorded(run) == [Action.RUN_STOP, Action.RUN_CANCEL]


def test_stop_of_a_waiting_run_is_recorded_once(dataset, split):
    run = launch(dataset, split)
    _, held = claim()
    with session_scope() as s:
        runs.record_checkpoint(s, held, StoredCheckpoint(stage=0, epoch=0))
    with session_scope() as s:
        leases.put_off(s, TrainingRun, held)
    for _ in range(2):
        with session_scope() as s:
            assert runs.stop_run(s, s.get_one(TrainingRun, run.id))
    assert requests_recorded(run) == [Action.RUN_STOP]
