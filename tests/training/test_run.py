"""A training run, from the claimed row to the model version, and what ends it earlier."""

import errno
from importlib import metadata
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from db import database
from db.clock import from_now
from db.database import read_scope, session_scope
from db.installation import claim_storage
from db.ledger.leases import Claim
from db.models import Dataset, Evaluation, LabelledSlice, ModelVersion, Split, TrainingRun
from db.models.documents import SplitName
from db.registry import versions
from db.registry.manifest import parse_manifest
from db.storage import FileMissing, FileUnreadable, storage
from db.training import runs
from db.training.progress import StoredCheckpoint
from db.training.runs import NewRun
from tests.builders.buckets import bucket_away
from tests.builders.datasets import add_dataset, add_split, delete_dataset, split_of
from tests.builders.leases import asked_to_stop
from tests.builders.statements import locked_at_first
from tests.builders.versions import add_version, fake_package
from training.config import Origin, preset, with_settings
from training.errors import NoRoom, RunFailed, WeightsError, message_for, message_for_waiting
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
        split = values.pop("split", None) or split_of(s, dataset)
        allowed = values.pop("allow_leaks", ())
        leaks = runs.check_split(s, dataset, split, values.get("from_version"), allowed)
        return runs.create_run(s, NewRun(dataset, split, "seed", config, seed=7, leaks=leaks, **values))


def carry_out():
    from training.run import train_next

    assert train_next("test")
    with session_scope() as s:
        run = runs.list_runs(s)[0]
        return runs.run_view(s, run), runs.epochs_of(s, run.id)


def assert_the_gate_would_measure_the_same(version, folder, dataset, split):
    """The metrics that a version carries are those of the engine that the gate takes."""
    from training.data.slices import load_parts
    from training.evaluation.metrics import measure
    from training.evaluation.scoring import score
    from worker.engines.load import load_engine
    from worker.engines.package import probability

    precision = versions.shared_precision([version])
    assert version.metrics["measured_with"].endswith(precision)
    part = load_parts(dataset, split, lambda: None)["test"]
    logit = score(load_engine(folder, precision=precision).engine, part.pixels, lambda share: None).logit
    measured = measure(probability(logit, version.temperature), part.labels, version.threshold)
    for name in ("accuracy", "recall", "specificity", "auc"):
        assert measured[name] == pytest.approx(version.metrics[name]), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_run_ends_with_a_model_version_that_can_be_trusted(dataset):
    from db.registry.calibration import limit_of
    from training.launch.measured_speed import measured_speed
    from worker.engines.load import load_engine
    from worker.engines.package import read_package

    launch(dataset, "stages.last-20.q=0.2", "threshold=youden-1se", name="mine")
    view, epochs = carry_out()
    assert view.state == "finished", view.error
    assert view.model_version == "mine/1"
    assert {(e.stage, e.epoch) for e in epochs} >= {(0, 0), (1, 0)}
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "val_auc"} <= set(epochs[0].metrics)
    assert {"code", "keras", "backend"} <= set(view.environment)
    with session_scope() as s:
        version = versions.find_version(s, "mine/1")
        requested = s.query(Evaluation).filter_by(model_version_id=version.id).one()
        test = split_of(s, s.merge(dataset))
        assert measured_speed(s) is not None, "the next estimate is made by it"
    assert (version.temperature, version.threshold) == (1.25, 0.5), "validation has one group of each class"
    assert (requested.part, requested.split_id) == ("test", test.id), "the comparison is requested at once"
    assert version.facts.split == SplitName(id=test.id, dataset="site/1")
    assert version.metrics["measured_on"].endswith("groups that training never saw")
    assert version.dataset_hash == dataset.sha256
    assert {"accuracy", "auc", "ece", "intervals", "confusion_matrix", "ood_share"} <= set(version.metrics)
    folder = versions.package_folder(version)
    package = read_package(folder)
    assert {"model.keras", "model.xml", "model.bin", "report.html", "MODEL_CARD.md"} <= set(package.files)
    for engine in ("openvino", "openvino-f32", "keras"):  # int8 too, where its parity passed
        loaded = load_engine(folder, engine).engine
        scores = loaded.predict(np.zeros((3, 224, 224), np.uint8))
        assert scores.distance is not None
        assert (scores.distance > limit_of(package.ood, loaded.name)).all(), f"{engine}: black squares are no chest"
    assert_the_gate_would_measure_the_same(version, folder, dataset, test)
    measured = {f"openvino-{name}" for name in ("bf16", "int8") if package.parity[name]["passed"]}
    assert set(package.ood) == {"threshold"} | measured
    assert set(package.calibration) == measured
    with session_scope() as s:
        assert s.get_one(TrainingRun, view.id).checkpoint == {}


class WorkerDied(BaseException):
    """No handler of errors catches this, as with `kill -9`."""


def test_worker_that_dies_after_registering_leaves_the_comparison_requested(dataset, settings, monkeypatch):
    import training.run
    from training.loop.fit import Fitted

    def package(folder, trained, *_):
        known = {"split": {"id": trained.run.split_id, "dataset": "site/1"}}
        return parse_manifest((fake_package(folder, extra=known) / "package.json").read_bytes())

    def die(*_, **__):
        raise WorkerDied

    monkeypatch.setattr(training.run, "initial_network", lambda *_, **__: None)
    monkeypatch.setattr(training.run, "fit", lambda *_, **__: Fitted([], None))
    monkeypatch.setattr(training.run, "make_package", package)
    monkeypatch.setattr(training.run.checkpoints, "drop", die)
    run = launch(dataset)
    with pytest.raises(WorkerDied):
        training.run.train_next("test")
    with session_scope() as s:
        version = s.get_one(TrainingRun, run.id).model_version
        requested = s.query(Evaluation).filter_by(model_version_id=version.id).one()
    assert (requested.part, requested.split_id, requested.state) == ("test", run.split_id, "ready")


def test_resumed_run_keeps_its_precision_and_its_first_environment(monkeypatch):
    import training.run
    from training.run import settle_environment

    def goes_on(run, precision, device):
        monkeypatch.setattr(training.run, "precision_of", lambda config: precision)
        monkeypatch.setattr(training.run, "environment", lambda: {"device": device, "cores": "2"})
        return settle_environment(run, preset("seed")).precision

    run = TrainingRun(environment={}, checkpoint={})
    assert goes_on(run, "float32", "old") == "float32"
    assert goes_on(run, "bfloat16", "new") == "bfloat16", "nothing was learned yet, so the new worker decides"
    run.checkpoint = {"stage": 0, "epoch": 1}
    assert goes_on(run, "float32", "third") == "bfloat16"
    first = {"device": "new", "precision": "bfloat16", "cores": "2"}
    assert run.environment.items() >= first.items()
    assert run.environment["device (resumed)"] == "third"
    assert "cores (resumed)" not in run.environment


def test_code_version_is_the_installed_one_without_git(monkeypatch):
    from training.run import code_version

    monkeypatch.setenv("PATH", "")
    assert code_version() == metadata.version("ctbatch")


@pytest.mark.usefixtures("settings")
def test_text_on_what_was_measured_says_what_training_may_have_seen():
    from training.export.package import measured_on

    def text(*leaks, report=None):
        run = TrainingRun(dataset=Dataset(size=20, report=report or {}), split=Split(), allowed_leaks=list(leaks))
        with read_scope() as s:
            return measured_on(s, run)

    assert text().endswith("groups that training never saw")
    assert text("conflicting-labels").endswith("never saw"), "wrong labels were not seen in training"
    assert text("conflicting-labels", "seen-by-parent") == (
        "the test part of a split that leaks (seen-by-parent): training has seen some of it"
    )
    nameless = text(report={"groups_from": {"near-identical slices": 1200}})
    assert "never saw, but 1,200 slices of the dataset have no known patient, and" in nameless
    files = {"COVID": {"files": 60, "left_out": 54}, "non-COVID": {"files": 60, "left_out": 0}}
    assert "never saw, but 54 of 60 files of COVID and 0 of 60" in text(report={"labelled_files": files})
    reviewed = text(report={"labels_from": "reviews", "blind_labels": 20, "shared_labels": 20, "contested_labels": 19})
    assert reviewed.endswith("never saw, but readers disagree on 19 of the 20 slices that several of them labelled")
    by_slice = text(report={"identity": {"slices": 240, "problem": "each_slice_a_patient"}})
    assert "240 slices of the dataset have no known patient (DICOM headers" in by_slice
    assert text(report={"identity": {"slices": 240, "problem": "one_patient_for_all"}}) == text()


def test_text_on_what_was_measured_says_what_the_parent_may_have_seen(dataset, settings):
    from training.export.package import measured_on

    later = add_dataset("later", 48, seed=1)
    own, split = add_split(dataset), add_split(later)
    facts = {"split": {"id": own.id, "dataset": "site/1"}, "dataset": "site/1"}

    def text(facts):
        parent = add_version(settings.home, facts=facts)
        with read_scope() as s:
            now = s.get_one(Split, split.id)
        run = launch(later, split=now, from_version=parent)
        with read_scope() as s:
            return measured_on(s, s.get_one(TrainingRun, run.id))

    assert text(facts).endswith("groups that training never saw")
    assert "fake/2 was trained on slices that this database does not have" in text({"dataset": "clinic/4"})
    with session_scope() as s:
        s.get_one(Dataset, dataset.id).report = {"groups_from": {"DICOM patient, study or series": 48}}
    assert text(facts).endswith("never saw, but slices of site/1 were compared by pixels only, not by patient")
    with session_scope() as s:
        for slice_ in s.scalars(select(LabelledSlice).where(LabelledSlice.dataset_id == later.id)):
            slice_.group = "site-1" if slice_.group == "later-7" else slice_.group
        s.get_one(Split, split.id).assignment = split.assignment | {"site-1": "test"}
    assert "split, but 4 of its slices are in groups with the names of groups that trained fake/4" in text(facts)


@pytest.mark.slow
def test_cancelled_run_ends_within_a_step_and_keeps_nothing(dataset, small_network, monkeypatch):
    run = launch(dataset, "stages.head.epochs=1000")
    from training.run_observer import RunObserver

    def cancelled(self, at):
        with session_scope() as s:
            runs.cancel_run(s, s.get_one(TrainingRun, run.id))
        self.report(0.5, "training")

    monkeypatch.setattr(RunObserver, "step", cancelled)
    view, _ = carry_out()
    assert (view.state, view.model_version) == ("cancelled", None)


@pytest.mark.slow
def test_run_that_was_stopped_and_its_version_say_so(dataset, small_network, monkeypatch):
    import training.run
    from training.export.package import facts_of
    from training.run_observer import RunObserver

    plain = []

    def package(folder, trained, *_):
        plain.append(trained.plain_temperature())
        return parse_manifest((fake_package(folder, extra=facts_of(trained)) / "package.json").read_bytes())

    def stops(self, record):
        epoch(self, record)
        with session_scope() as s:
            runs.stop_run(s, s.get_one(TrainingRun, run.id))
        self.report(0.1, "training")

    epoch = RunObserver.epoch
    monkeypatch.setattr(training.run, "make_package", package)
    monkeypatch.setattr(RunObserver, "epoch", stops)
    run = launch(dataset, "stages.head.epochs=1000", "stages.head.q=0.2")
    view, epochs = carry_out()
    assert plain == [1.25], "by the loss of the stage that trained, not of the last one"
    assert (view.state, view.stopped_early, view.message) == ("finished", True, "done; training was stopped early")
    assert {record.stage for record in epochs} == {0}
    with session_scope() as s:
        assert s.get_one(TrainingRun, run.id).model_version.facts.stopped_early is True


@pytest.fixture
def hang(monkeypatch):
    """A call that hangs until the test ends."""
    monkeypatch.setattr("db.background.HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr("worker.claimed.NOTE_SECONDS", 0.0)
    end = Event()
    yield lambda *_: end.wait(60)
    end.set()


def test_cancel_is_heard_while_storage_hangs(settings, monkeypatch, hang):
    import training.demo.model

    with session_scope() as s:
        run = runs.create_demo_run(s, None)
    stored = []

    def store(*_):
        with session_scope() as s:
            assert runs.cancel_run(s, s.merge(run))
        stored.append(hang())

    monkeypatch.setattr(training.demo.model, "make_demo_package", lambda *_, **__: None)
    monkeypatch.setattr(versions, "store_package", store)
    carry_out()
    with read_scope() as s:
        assert s.get_one(TrainingRun, run.id).state == "cancelled"
    assert not stored


def test_cancel_is_heard_while_a_checkpoint_hangs(dataset, monkeypatch, hang):
    from training.errors import Cancelled
    from training.loop import checkpoints
    from training.run_observer import RunObserver

    run = launch(dataset)
    with session_scope() as s:
        run, claim = runs.claim_run(s, "w")
        runs.cancel_run(s, run)
    monkeypatch.setattr(checkpoints, "write", hang)
    with pytest.raises(Cancelled):
        RunObserver(run, claim, Heartbeat(TrainingRun, [claim]), ()).checkpoint(lambda: None, ends_stage=True)


def test_run_waits_if_storage_hangs_for_long(settings, monkeypatch, hang):
    import training.demo.model

    with session_scope() as s:
        run = runs.create_demo_run(s, None)
    monkeypatch.setattr("db.background.STORAGE_SECONDS", 0.05)
    monkeypatch.setattr(training.demo.model, "make_demo_package", lambda *_, **__: None)
    monkeypatch.setattr(versions, "store_package", hang)
    carry_out()
    with read_scope() as s:
        run = s.get_one(TrainingRun, run.id)
        assert (run.state, run.attempts, run.put_offs) == ("ready", 0, 1)


def test_cancelled_demo_run_keeps_nothing(settings, monkeypatch):
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
    assert {"code", "keras"} <= set(view.environment)


def test_trained_version_is_kept_until_the_database_is_back(settings, monkeypatch):
    import training.demo.model

    def package(folder, *, seed, progress):
        return parse_manifest((fake_package(folder) / "package.json").read_bytes())

    monkeypatch.setattr("worker.claimed.WAIT_SECONDS", 0.0)
    monkeypatch.setattr(training.demo.model, "make_demo_package", package)
    monkeypatch.setattr(runs, "finish_run", locked_at_first(runs.finish_run))
    with session_scope() as s:
        runs.create_demo_run(s, None)
    view, _ = carry_out()
    assert (view.state, view.model_version) == ("finished", "fake/1")


@pytest.mark.slow
def test_run_says_what_it_starts_from(dataset, small_network, monkeypatch):
    from training.run import STARTING
    from training.run_observer import RunObserver

    messages = []
    report = RunObserver.report

    def heard(self, progress, message, **columns):
        messages.append(message)
        report(self, progress, message, **columns)

    monkeypatch.setattr(RunObserver, "report", heard)
    launch(dataset)
    carry_out()
    assert STARTING["none"] in messages
    assert not any("fetching" in message for message in messages), "it starts from random weights"
    assert STARTING.keys() == {"none", "imagenet", "file", "model"}


def test_lost_dataset_files_fail_a_run_with_the_reason(dataset):
    launch(dataset)
    with session_scope() as s:
        claim_storage(s)
    storage().delete(dataset.arrays[0])
    view, _ = carry_out()
    assert view.state == "failed"
    assert "is gone or damaged" in view.error


def test_unusable_weights_fail_a_run_with_the_reason(dataset, small_network):
    sha256 = storage().put(b"no weights")
    launch(dataset, f"initial=file:{sha256}")
    view, _ = carry_out()
    assert view.state == "failed"
    assert str(view.error).startswith("the weights file is neither HDF5")


@pytest.mark.slow
def test_weights_for_pixels_on_another_scale_fail_a_run_with_the_right_one(dataset, small_network, tmp_path):
    import keras

    from training.network.resnet50 import build_network

    trained = build_network(32, pixels="unit", hidden=8, seed=3)
    first = keras.Model(trained.input, trained.get_layer("conv1_conv").output)
    pixels = np.load(storage().local_path(dataset.arrays[0]))[:, ::7, ::7]
    answers = np.asarray(first(pixels[..., None]))
    normal = trained.get_layer("conv1_bn")
    normal.set_weights([*normal.get_weights()[:2], answers.mean((0, 1, 2)), answers.var((0, 1, 2))])
    trained.save(tmp_path / "model.keras")
    launch(dataset, f"initial=file:{storage().put((tmp_path / 'model.keras').read_bytes())}")
    view, _ = carry_out()
    assert view.state == "failed"
    assert "choose another scale: the setting pixels=unit" in view.error


def test_run_waits_with_its_checkpoint_if_a_block_cannot_be_read_but_not_for_ever(dataset, monkeypatch):
    from training.run import MAX_CLAIMS

    launch(dataset)
    sha256 = storage().put(b"a checkpoint")
    checkpoint = StoredCheckpoint(stage=0, epoch=40, files=dict.fromkeys(("network.npz", "state.npz"), sha256))
    with session_scope() as s:
        claim_storage(s)
        s.execute(update(TrainingRun).values(checkpoint=checkpoint.as_json()))
    monkeypatch.setattr("db.storage.store.check_hash", unreadable)
    for attempt in range(1, MAX_CLAIMS + 1):
        view, _ = carry_out()
        if attempt < MAX_CLAIMS:
            with session_scope() as s:
                run = s.get_one(TrainingRun, view.id)
                assert (run.state, run.attempts, run.put_offs, run.checkpoint["epoch"]) == (
                    "ready",
                    attempt,
                    attempt,
                    40,
                )
                assert run.message == "put off: the file 0 cannot be read"
                run.lease_until = None
    assert (view.state, "cannot be read" in view.error) == ("failed", True)


def unreadable(*_):
    raise FileUnreadable("the file 0 cannot be read")


def test_run_that_kills_its_workers_is_given_up(dataset):
    launch(dataset)
    with session_scope() as s:
        s.execute(update(TrainingRun).values(attempts=3))
    view, _ = carry_out()
    assert (view.state, "has enough memory" in view.error) == ("failed", True)


def test_run_whose_worker_is_stopped_before_each_epoch_stays_open(dataset, monkeypatch):
    import training.run

    def begin(run, claim, heartbeat):
        assert run.attempts == 1
        with asked_to_stop():
            assert not training.run.train_next("test"), "a worker that stops claims nothing"
            heartbeat.progress()

    launch(dataset)
    monkeypatch.setattr(training.run, "carry_out", begin)
    for _ in range(training.run.MAX_CLAIMS + 1):
        view, _ = carry_out()
        assert (view.state, view.error) == ("queued", None)


def test_run_whose_claim_meets_a_locked_database_is_claimed_again(dataset, monkeypatch):
    launch(dataset)
    with session_scope() as s:
        s.execute(update(TrainingRun).values(dataset_id=None))  # so that it ends at once
    monkeypatch.setattr(runs, "claim_run", locked_at_first(runs.claim_run))
    view, _ = carry_out()
    assert view.state == "failed"


def test_no_run_is_claimed_while_the_disk_is_at_its_reserve(dataset, settings):
    import training.run

    run = launch(dataset)
    with session_scope() as s:
        s.execute(update(TrainingRun).values(dataset_id=None))  # so that it would end at once
    database.use(settings.model_copy(update={"reserve_bytes": 1 << 60}))
    assert not training.run.train_next("w")
    with session_scope() as s:
        assert s.get_one(TrainingRun, run.id).attempts == 0


@pytest.mark.parametrize("end", ["given up", "cancelled", "without its dataset"])
def test_leftovers_of_killed_workers_are_removed_however_the_run_ends(end, dataset, settings):
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


def test_part_without_a_class_fails_a_run(dataset):
    with session_scope() as s:
        s.execute(update(LabelledSlice).values(label=1))
    launch(dataset, split=add_split(dataset))
    view, _ = carry_out()
    assert view.state == "failed"
    assert "lacks slices of a class" in view.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "lower the batch"),
        (OSError(errno.ENOSPC, "No space left on device"), "setting stages.NAME.copies=1"),
        (PermissionError(errno.EACCES, "Permission denied", "/home/x"), "Permission denied: /home/x"),
        (FileMissing("c0ffee"), "gone or damaged: c0ffee"),
        (RunFailed("the run names no dataset"), "the run names no dataset"),
        (WeightsError(Path("/files/c0ffee"), "is not a .keras file"), "the weights file is not a .keras file"),
        (KeyError("odd"), "KeyError: 'odd'"),
    ],
)
def test_message_for_an_error_is_one_line_with_advice(error, message):
    assert message in message_for(error)
    assert "\n" not in message_for(error)


def test_memory_that_tensorflow_lacks_is_a_memory_error():
    from tensorflow.errors import ResourceExhaustedError

    from training.network.backend import memory_errors

    with pytest.raises(MemoryError), memory_errors():
        raise ResourceExhaustedError(None, None, "OOM when allocating tensor")


def test_run_can_start_from_a_model_version(settings, small_network, tmp_path):
    from training.network.initial_weights import initial_network
    from training.network.resnet50 import build_network

    trained = build_network(64, hidden=8, seed=5)
    trained.save(tmp_path / "model.keras")
    sha256 = storage().put((tmp_path / "model.keras").read_bytes())
    blank = {"metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1", "threshold": 0.5, "temperature": 1.0}
    with session_scope() as s:
        s.add(ModelVersion(name="mine", number=4, files={"model.keras": sha256}, **blank))
    config = preset("seed").model_copy(update={"initial": Origin(kind="model", value="mine/4"), "hidden": 8})
    network = initial_network(config, 7, lambda: None)
    assert network.input.shape == (None, 224, 224, 1)
    assert all(map(np.array_equal, network.get_weights(), trained.get_weights()))


def test_damaged_copy_of_initial_weights_is_copied_again(settings):
    from training.network.initial_weights import initial_weights

    blank = {"metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1", "threshold": 0.5, "temperature": 1.0}
    with session_scope() as s:
        version = ModelVersion(name="mine", number=4, files={"model.keras": storage().put(b"weights")}, **blank)
        s.add(version)
    (versions.package_folder(version) / "model.keras").write_bytes(b"damaged")
    config = preset("seed").model_copy(update={"initial": Origin(kind="model", value="mine/4")})
    assert initial_weights(config, lambda: None).read_bytes() == b"weights"


def test_run_cannot_start_from_a_missing_version(settings):
    from training.network.initial_weights import initial_weights

    config = preset("seed").model_copy(update={"initial": Origin(kind="model", value="mine/4")})
    with pytest.raises(RunFailed, match="mine/4"):
        initial_weights(config, lambda: None)


def save_anew(dataset, name):
    """Add a dataset of the same slices at half the contrast: other pixels, and other hashes."""
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
        split = split_of(s, s.merge(dataset))
        blank = {"files": {}, "metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1"}
        known = {"split": {"id": split.id, "dataset": "site/1"}, "dataset": "site/1"}
        version = ModelVersion(name="lungs", number=1, threshold=0.5, temperature=1.0, facts=known, **blank)
        s.add(version)
    return version


@pytest.fixture
def run_from(parent, monkeypatch):
    """Carries out a run from that version up to its first weights; returns its error and the leaks that are left."""
    monkeypatch.setattr("training.run.initial_network", end_here)

    def run(dataset, *allowed):
        with session_scope() as s:
            split = split_of(s, s.merge(dataset), seed=8)
        launch(dataset, split=split, from_version=parent, allow_leaks=allowed)
        view, _ = carry_out()
        return view.error, view.allowed_leaks

    return run


def end_here(*args, **values):
    raise RunFailed("it got as far as the weights")


def test_resaved_training_slices_are_a_leak_unless_allowed(dataset, run_from):
    again = save_anew(dataset, "again")
    error, _ = run_from(again)
    assert error.startswith("the split of again/1 leaks (seen-by-parent: ")
    assert "near-identical to some that trained lungs/1 or one that it comes from: rows " in error
    assert run_from(again, "seen-by-parent") == ("it got as far as the weights", ["seen-by-parent"])


def test_allowed_leak_that_does_not_occur_is_dropped(run_from):
    other = add_dataset("other", 48, seed=1)
    assert run_from(other, "seen-by-parent") == ("it got as far as the weights", [])
    assert run_from(other) == ("it got as far as the weights", [])


@pytest.mark.parametrize("allowed", [(), ("seen-by-parent",)])
def test_run_says_if_slices_of_its_parent_are_gone_and_keeps_the_leak(allowed, dataset, run_from):
    other = add_dataset("other", 48, seed=1)
    storage().delete(dataset.arrays[0])
    assert run_from(other, *allowed) == ("it got as far as the weights", [*allowed])
    with session_scope() as s:
        assert "slices that the model learned from are gone" in runs.list_runs(s)[0].environment["not compared"]


@pytest.mark.parametrize("allowed", [(), ("seen-by-parent",)])
def test_run_says_if_slices_of_its_parent_are_deleted_and_keeps_the_leak(allowed, dataset, run_from):
    from training.export.package import measured_on

    other = add_dataset("other", 48, seed=1)
    delete_dataset(dataset)
    assert run_from(other, *allowed) == ("it got as far as the weights", [*allowed])
    with session_scope() as s:
        [run] = runs.list_runs(s)
        assert run.environment["not compared"].startswith(f"{dataset.size} slices that the model learned from are gone")
        run.allowed_leaks = []
        assert measured_on(s, run).endswith(
            "never saw, but lungs/1 was trained on site/1, which is deleted; its slices may include these"
        )


def test_reaper_keeps_weights_and_checkpoint_of_a_run(dataset):
    from worker import reap

    weights, checkpoint, other = (storage().put(name) for name in (b"weights", b"checkpoint", b"other"))
    launch(dataset, f"initial=file:{weights}")
    with session_scope() as s:
        s.execute(update(TrainingRun).values(checkpoint={"files": {"state.npz": checkpoint}}))
    assert reap.unnamed([weights, checkpoint, other]) == [other]


def test_leftovers_are_removed_but_not_folders_in_use(dataset, settings):
    from training.run import work_folder

    with session_scope() as s:
        split = split_of(s, s.merge(dataset))
    goes_on = launch(dataset, split=split)
    with session_scope() as s:
        assert runs.claim_run(s, "another")
    names = ("run-3-1", f"run-{goes_on.id}-0", f"run-{goes_on.id}-1")
    left, before, other = (settings.home / "training" / name / "features" for name in names)
    for folder in (left, before, other):
        folder.mkdir(parents=True)
    with work_folder(Claim(3, 2, "token")) as folder:
        assert list(folder.iterdir()) == []
        assert not left.parent.exists()
    assert not folder.exists()
    assert [before.exists(), other.exists()] == [False, True]


def test_folder_of_a_claim_that_is_made_meanwhile_stays(settings, monkeypatch):
    import training.run

    other = settings.home / "training" / "run-9-1"
    running = training.run.runs.running

    def another_worker_claims_after(s):
        rows = running(s)
        other.mkdir(parents=True)
        return rows

    monkeypatch.setattr(training.run.runs, "running", another_worker_claims_after)
    with training.run.work_folder(Claim(3, 2, "token")):
        assert other.exists()


AWAY = [OperationalError("UPDATE training_run", {}, Exception("database is locked")), OSError(5, "Input/output error")]


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_run_waits_for_what_is_away(error, dataset, monkeypatch):
    import training.run
    import training.run_observer

    launch(dataset)
    with session_scope() as s:
        s.execute(update(TrainingRun).values(checkpoint={"stage": 0, "files": {}, "epoch": 3}))

    def away(*_):
        raise error

    monkeypatch.setattr(training.run, "carry_out", away)
    view, _ = carry_out()
    assert view.state == "queued"
    with session_scope() as s:
        run = s.get_one(TrainingRun, view.id)
        assert (run.checkpoint["epoch"], run.attempts) == (3, 0)


def test_run_waits_for_a_bucket_that_cannot_be_reached(dataset, settings, tmp_path):
    launch(dataset)
    database.use(settings.model_copy(update={"storage_url": f"bucket://{tmp_path.name}"}))
    with session_scope() as s:
        s.execute(update(TrainingRun).values(checkpoint={"stage": 0, "epoch": 3}))
    with bucket_away():
        view, _ = carry_out()
    assert (view.state, view.message) == ("queued", "put off: EndpointConnectionError")
    with session_scope() as s:
        run = s.get_one(TrainingRun, view.id)
        assert (run.checkpoint["epoch"], run.attempts) == (3, 0)


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    NoRoom("last-20", Path("/disk"), needed=9_000_000_000, free=1_000_000_000, copies=2),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_run_that_has_learned_something_waits_for_room_on_the_disk(error, dataset, monkeypatch):
    import training.run

    def full(run, *_):
        with session_scope() as s:
            s.execute(update(TrainingRun).values(checkpoint={"stage": 0, "files": {}, "epoch": 3}))
        raise error

    launch(dataset)
    monkeypatch.setattr(training.run, "carry_out", full)
    view, _ = carry_out()
    assert (view.state, view.error) == ("queued", None)
    assert view.message == f"put off: {message_for_waiting(error)}"
    assert "make room on it, and the run goes on from its checkpoint" in view.message
    with session_scope() as s:
        run = s.get_one(TrainingRun, view.id)
        assert (run.checkpoint["epoch"], run.attempts) == (3, 0)


@pytest.mark.slow
def test_run_that_waits_for_room_can_be_stopped_and_makes_its_version(dataset, small_network, monkeypatch):
    import training.loop.stage
    import training.run

    def cache(data, stage, *arguments, **values):
        if stage.name == "last-20":
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(data, stage, *arguments, **values)

    def package(folder, *_):
        return parse_manifest((fake_package(folder) / "package.json").read_bytes())

    whole = training.loop.stage.StageData
    monkeypatch.setattr(training.loop.stage, "StageData", cache)
    monkeypatch.setattr(training.run, "make_package", package)
    launch(dataset)
    view, _ = carry_out()
    assert view.state == "queued"
    with session_scope() as s:
        assert runs.stop_run(s, s.get_one(TrainingRun, view.id))
    view, epochs = carry_out()
    assert (view.state, view.stopped_early, view.error) == ("finished", True, None)
    assert {record.stage for record in epochs} == {0}


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_run_that_fills_the_disk_before_its_first_checkpoint_fails_with_advice(error, dataset, monkeypatch):
    import training.run

    def full(*_):
        raise error

    launch(dataset)
    monkeypatch.setattr(training.run, "carry_out", full)
    view, _ = carry_out()
    assert (view.state, view.error) == ("failed", message_for(error))
    assert "setting stages." in view.error


def test_unreachable_database_costs_a_progress_report_but_no_epoch(dataset, monkeypatch):
    from sqlalchemy.exc import OperationalError

    import training.run
    import training.run_observer
    from db.training.progress import EpochRecord

    monkeypatch.setattr("worker.claimed.WAIT_SECONDS", 0.0)
    monkeypatch.setattr("worker.claimed.NOTE_SECONDS", 0.0)
    run = launch(dataset)
    with session_scope() as s:
        run, claim = runs.claim_run(s, "w")
    observer = training.run_observer.RunObserver(
        run, claim, Heartbeat(TrainingRun, [claim]), training.run.checked(run.config).stages
    )
    once = iter([True])

    def away(call):
        def act(*values, **named):
            if next(once, False):
                raise OperationalError("UPDATE training_run", {}, Exception("database is locked"))
            return call(*values, **named)

        return act

    monkeypatch.setattr(runs, "report", away(runs.report))
    observer.alive()
    assert next(once, True), "it was away"
    once = iter([True])
    monkeypatch.setattr(runs, "record_epoch", away(runs.record_epoch))
    observer.epoch(EpochRecord(0, 0, {"loss": 1.0}, 2.0))
    with session_scope() as s:
        assert [each.metrics for each in runs.epochs_of(s, run.id)] == [{"loss": 1.0}]
