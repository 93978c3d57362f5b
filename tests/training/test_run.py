"""A training run, from the claimed row to the model version; and what ends one before."""

import errno
from importlib import metadata

import numpy as np
import pytest
from sqlalchemy import update

from db.clock import from_now
from db.database import session_scope
from db.ledger.leases import Claim
from db.models import Dataset, Evaluation, LabelledSlice, ModelVersion, TrainingRun
from db.models.documents import SplitName
from db.registry import versions
from db.storage import FileMissing, storage
from db.training import runs, splits
from tests.builders.datasets import add_dataset, add_split
from training.config import preset, with_settings
from worker.decoding import npy_bytes
from worker.heartbeat import Heartbeat

TINY = [
    "initial=none",
    "hidden=8",
    "stages.head.epochs=2",
    "stages.head.size=32",
    "stages.head.copies=1",
    "stages.last-20.epochs=2",
    "stages.last-20.size=32",
    "stages.last-20.copies=1",
]


@pytest.fixture
def dataset(settings):
    return add_dataset("site", 48)


def launch(dataset, *settings, **values):
    config = with_settings(preset("seed"), [*TINY, *settings]).model_dump(mode="json")
    config["stages"] = config["stages"][:2]
    with session_scope() as s:
        dataset = s.merge(dataset)
        split = values.pop("split", None) or splits.split_of(s, dataset)
        asked = {"user": None, "preset": "seed", "config": config, "seed": 7} | values
        return runs.create_run(s, dataset=dataset, split=split, **asked)


def carry_out():
    from training.tasks import train_next

    assert train_next("test")
    with session_scope() as s:
        run = runs.list_runs(s)[0]
        return runs.run_view(s, run), runs.epochs_of(s, run.id)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_ends_with_a_model_version_that_can_be_trusted(dataset):
    from worker.engines.load import load_engine
    from worker.engines.package import limit_of, read_package

    launch(dataset, name="mine")
    view, epochs = carry_out()
    assert view.state == "finished", view.error
    assert view.model_version == "mine/1"
    assert {(e.stage, e.epoch) for e in epochs} >= {(0, 0), (1, 0)}
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "val_auc"} <= set(epochs[0].metrics)
    assert {"code", "keras", "backend"} <= set(view.environment)
    with session_scope() as s:
        version = versions.find_version(s, "mine/1")
        asked = s.query(Evaluation).filter_by(model_version_id=version.id).one()
        test = splits.split_of(s, s.merge(dataset))
    assert (asked.part, asked.split_id) == ("test", test.id), "the promotion gate is asked at once"
    assert version.facts.split == SplitName(id=test.id, dataset="site/1")
    assert version.metrics["measured_on"].endswith("groups that training never saw")
    assert version.dataset_hash == dataset.sha256
    assert {"accuracy", "auc", "ece", "intervals", "confusion_matrix", "flagged"} <= set(version.metrics)
    folder = versions.package_folder(version)
    package = read_package(folder)
    assert {"model.keras", "model.xml", "model.bin", "report.html", "MODEL_CARD.md"} <= set(package.files)
    for engine in ("openvino", "openvino-f32", "keras"):  # int8 too, where its parity passed
        loaded = load_engine(folder, engine).engine
        scores = loaded.predict(np.zeros((3, 224, 224), np.uint8))
        assert scores.distance is not None
        assert (scores.distance > limit_of(package.ood, loaded.name)).all(), f"{engine}: black squares are no chest"
    measured = {f"openvino-{name}" for name in ("bf16", "int8") if package.parity[name]["passed"]}
    assert set(package.ood) == {"threshold"} | measured
    assert set(package.calibration) == measured
    with session_scope() as s:
        assert s.get_one(TrainingRun, view.id).checkpoint == {}


def test_a_run_tells_its_code_s_version_where_there_is_no_git(monkeypatch):
    from training.run import code_version

    monkeypatch.setenv("PATH", "")
    assert code_version() == metadata.version("ctbatch")


def test_figures_of_a_split_that_leaks_are_not_said_to_be_of_unseen_slices():
    from training.export.package import measured_on

    assert "never saw" in measured_on([])
    assert "never saw" in measured_on(["conflicting-labels"]), "wrong labels were not seen in training"
    nameless = measured_on([], 1200)
    assert "no patient is known of 1,200 slices" in nameless
    leaky = measured_on(["conflicting-labels", "seen-by-parent"])
    assert leaky == "the test part of a split that leaks (seen-by-parent): training has seen some of it"


def test_cancelling_ends_a_run_within_a_step_and_keeps_nothing(dataset, small_network, monkeypatch):
    run = launch(dataset, "stages.head.epochs=1000")
    from training.run_observer import RunWatcher

    def cancelled(self, at):
        with session_scope() as s:
            runs.cancel_run(s, s.get_one(TrainingRun, run.id))
        self.tell(0.5, "training")

    monkeypatch.setattr(RunWatcher, "step", cancelled)
    view, _ = carry_out()
    assert (view.state, view.model_version) == ("cancelled", None)


def test_cancelling_the_demo_run_keeps_nothing_either(settings, monkeypatch):
    import training.demo.model

    with session_scope() as s:
        run = runs.create_demo_run(s, None)

    def cancelled(folder, *, seed, progress):
        with session_scope() as s:
            runs.cancel_run(s, s.get_one(TrainingRun, run.id))
        progress(0.5, "learning")

    monkeypatch.setattr(training.demo.model, "make_demo_package", cancelled)
    view, _ = carry_out()
    assert (view.state, view.model_version) == ("cancelled", None)


def test_a_dataset_whose_files_are_gone_ends_a_run_with_that_reason(dataset):
    launch(dataset)
    storage().delete(dataset.arrays[0])
    view, _ = carry_out()
    assert view.state == "failed"
    assert "is gone or damaged" in view.error


def test_weights_that_cannot_be_used_end_a_run_with_the_way_out(dataset, small_network):
    sha256 = storage().put(b"no weights")
    launch(dataset, f"initial=file:{sha256}")
    view, _ = carry_out()
    assert view.state == "failed"
    assert view.error == "the weights file is neither HDF5 (.h5) nor a .keras file"


def test_a_run_that_kills_its_workers_is_given_up(dataset):
    launch(dataset)
    with session_scope() as s:
        s.execute(update(TrainingRun).values(attempts=3))
    view, _ = carry_out()
    assert (view.state, "too little memory" in view.error) == ("failed", True)


@pytest.mark.parametrize("end", ["given up", "cancelled", "without its dataset"])
def test_what_killed_workers_left_goes_however_the_run_ends(end, dataset, settings):
    run = launch(dataset)
    left = settings.home / "training" / f"run-{run.id}-0" / "features"
    left.mkdir(parents=True)
    with session_scope() as s:
        if end == "given up":
            s.execute(update(TrainingRun).values(attempts=3))
        elif end == "cancelled":
            s.execute(update(TrainingRun).values(cancel_requested_at=from_now()))
        else:
            s.execute(update(TrainingRun).values(dataset_id=None))
    view, _ = carry_out()
    assert view.state == ("cancelled" if end == "cancelled" else "failed")
    assert list((settings.home / "training").iterdir()) == []


def test_a_part_without_a_class_ends_a_run(dataset):
    with session_scope() as s:
        s.execute(update(LabelledSlice).values(label=1))
    launch(dataset, split=add_split(dataset))
    view, _ = carry_out()
    assert view.state == "failed"
    assert "lacks slices of a class" in view.error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "lower the batch"),
        (type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor"), "lower the batch"),
        (OSError(errno.ENOSPC, "No space left on device"), "--set stages.NAME.copies=1"),
        (PermissionError(errno.EACCES, "Permission denied", "/home/x"), "Permission denied: /home/x"),
        (FileMissing("c0ffee"), "gone or damaged: c0ffee"),
        (RuntimeError("the run names no dataset"), "the run names no dataset"),
        (KeyError("odd"), "KeyError: 'odd'"),
    ],
)
def test_what_ended_a_run_is_said_in_one_line(error, told):
    from training.errors import why

    assert told in why(error)
    assert "\n" not in why(error)


def test_a_run_can_start_from_a_model_version(settings, small_network, tmp_path):
    from training.network.initial_weights import initial_network
    from training.network.resnet50 import build_network

    trained = build_network(64, hidden=8, seed=5)
    trained.save(tmp_path / "model.keras")
    sha256 = storage().put((tmp_path / "model.keras").read_bytes())
    blank = {"metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1", "threshold": 0.5, "temperature": 1.0}
    with session_scope() as s:
        s.add(ModelVersion(name="mine", number=4, files={"model.keras": sha256}, **blank))
    config = preset("seed").model_copy(update={"initial": "model:mine/4", "hidden": 8})
    network = initial_network(config, 7, lambda: None)
    assert network.input.shape == (None, 224, 224, 1)
    assert all(map(np.array_equal, network.get_weights(), trained.get_weights()))


def test_a_run_cannot_start_from_a_version_that_is_not_there(settings):
    from training.network.initial_weights import initial_weights

    config = preset("seed").model_copy(update={"initial": "model:mine/4"})
    with pytest.raises(RuntimeError, match="no model version mine/4"):
        initial_weights(config, lambda: None)


def save_anew(dataset, name):
    """A dataset of the same slices at half the contrast: other pixels, and no hash that tells."""
    again = add_dataset(name, 48)
    arrays = [np.load(storage().verified_path(sha256)) for sha256 in dataset.arrays]
    with session_scope() as s:
        rows = LabelledSlice.dataset_id == again.id
        s.execute(update(LabelledSlice).where(rows).values(pixels_sha256="b" + LabelledSlice.pixels_sha256))
        s.get_one(Dataset, again.id).arrays = [storage().put(npy_bytes(each // 2 + 9)) for each in arrays]
    return again


@pytest.fixture
def parent(dataset):
    """A model version that was trained on the train part of the dataset."""
    with session_scope() as s:
        split = splits.split_of(s, s.merge(dataset))
        blank = {"files": {}, "metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1"}
        known = {"split": {"id": split.id, "dataset": "site/1"}, "dataset": "site/1"}
        version = ModelVersion(name="lungs", number=1, threshold=0.5, temperature=1.0, facts=known, **blank)
        s.add(version)
    return version


@pytest.fixture
def run_from(parent, monkeypatch):
    """Carries out a run from that version up to its first weights; what ended it, and the leaks that are left."""
    monkeypatch.setattr("training.run.initial_network", end_here)

    def run(dataset, *allowed):
        with session_scope() as s:
            split = splits.split_of(s, s.merge(dataset), seed=8)
        launch(dataset, split=split, from_version=parent, allowed_leaks=allowed)
        view, _ = carry_out()
        return view.error, view.allowed_leaks

    return run


def end_here(*args, **values):
    raise RuntimeError("it got as far as the weights")


def test_slices_saved_anew_that_trained_the_version_are_not_measured_on_unless_that_is_allowed(dataset, run_from):
    again = save_anew(dataset, "again")
    error, _ = run_from(again)
    assert error.startswith("the split of again/1 leaks (seen-by-parent: ")
    assert "near-identical to some that trained lungs/1 or one that it comes from: rows " in error
    assert run_from(again, "seen-by-parent") == ("it got as far as the weights", ["seen-by-parent"])


def test_a_leak_that_was_allowed_and_is_not_there_is_not_held_against_a_run(run_from):
    other = add_dataset("other", 48, seed=1)
    assert run_from(other, "seen-by-parent") == ("it got as far as the weights", [])
    assert run_from(other) == ("it got as far as the weights", [])


def test_the_reaper_leaves_what_a_run_needs(dataset):
    from worker import reap

    weights, checkpoint, other = (storage().put(name) for name in (b"weights", b"checkpoint", b"other"))
    launch(dataset, f"initial=file:{weights}")
    with session_scope() as s:
        s.execute(update(TrainingRun).values(checkpoint={"files": {"state.npz": checkpoint}}))
    assert reap.unnamed([weights, checkpoint, other]) == [other]


def test_what_killed_workers_left_goes_and_what_others_work_in_stays(dataset, settings):
    from training.run import work_folder

    with session_scope() as s:
        split = splits.split_of(s, s.merge(dataset))
    goes_on = launch(dataset, split=split)
    with session_scope() as s:
        assert runs.claim_run(s, "another")
    names = ("run-3-1", f"run-{goes_on.id}-0", f"run-{goes_on.id}-1")
    left, before, other = (settings.home / "training" / name / "features" for name in names)
    for each in (left, before, other):
        each.mkdir(parents=True)
    with work_folder(Claim(3, 2)) as folder:
        assert list(folder.iterdir()) == []
        assert not left.parent.exists()
    assert not folder.exists()
    assert [before.exists(), other.exists()] == [False, True]


def test_a_database_that_is_away_for_a_moment_puts_a_run_off(dataset, monkeypatch):
    from sqlalchemy.exc import OperationalError

    import training.run
    import training.run_observer

    launch(dataset)
    with session_scope() as s:
        s.execute(update(TrainingRun).values(checkpoint={"files": {}, "epoch": 3}))

    def away(*_):
        raise OperationalError("UPDATE training_run", {}, Exception("database is locked"))

    monkeypatch.setattr(training.run, "carry_out", away)
    view, _ = carry_out()
    assert view.state == "queued"
    with session_scope() as s:
        run = s.get_one(TrainingRun, view.id)
        assert (run.checkpoint["epoch"], run.attempts) == (3, 0)


def test_a_database_that_is_away_for_a_moment_costs_a_note_and_no_epoch(dataset, monkeypatch):
    from sqlalchemy.exc import OperationalError

    import training.run
    import training.run_observer
    from training.loop.watcher import EpochRecord

    monkeypatch.setattr(training.run_observer, "PAUSES", (0.0,))
    monkeypatch.setattr("worker.claimed.NOTE_SECONDS", 0.0)
    run = launch(dataset)
    with session_scope() as s:
        run, claim = runs.claim_run(s, "w")
    watcher = training.run_observer.RunWatcher(
        run, claim, Heartbeat(TrainingRun, [claim]), training.run.checked(run.config)
    )
    once = iter([True])

    def away(call):
        def act(*values, **named):
            if next(once, False):
                raise OperationalError("UPDATE training_run", {}, Exception("database is locked"))
            return call(*values, **named)

        return act

    monkeypatch.setattr(runs, "report", away(runs.report))
    watcher.alive()
    assert next(once, True), "it was away"
    once = iter([True])
    monkeypatch.setattr(runs, "record_epoch", away(runs.record_epoch))
    watcher.epoch(EpochRecord(0, 0, {"loss": 1.0}, 2.0))
    with session_scope() as s:
        assert [each.metrics for each in runs.epochs_of(s, run.id)] == [{"loss": 1.0}]
