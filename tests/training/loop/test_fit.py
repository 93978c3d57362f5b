"""Training can be watched, stopped and taken up again, and computes frozen layers once without changing a thing."""

import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from db.training.progress import EpochRecord, StoredCheckpoint
from training.config import Augment, Config, Stage
from training.data.slices import Labelled
from training.loop.observer import Checkpoint, Step, TrainingObserver

SIDE = 32


def labelled(count: int, seed: int) -> Labelled:
    """Noise, brighter for the positive half."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.uint8)
    pixels = (rng.integers(0, 156, (count, SIDE, SIDE)) + 100 * labels[:, None, None]).astype(np.uint8)
    return Labelled(pixels, labels, [f"g{i}" for i in range(count)])


def config(*stages: Stage) -> Config:
    return Config(
        preset="test", augment=Augment(flip=True, shift=0.1, noise=5), stages=stages, hidden=8, precision="float32"
    )


def stage(unfreeze: int, **values: Any) -> Stage:
    return Stage(
        **(
            {
                "name": f"last-{max(unfreeze, 0)}",
                "unfreeze": unfreeze,
                "epochs": 3,
                "batch": 8,
                "size": SIDE,
                "copies": 2,
            }
            | values
        )
    )


@pytest.fixture
def data() -> Any:
    from training.data.slices import Data

    return Data(labelled(24, 1), labelled(12, 2))


@pytest.fixture
def network(small_network: None) -> Any:
    from training.network.resnet50 import build_network

    return build_network(SIDE, hidden=8, seed=3)


@pytest.fixture
def resnet50() -> Any:
    from training.network.resnet50 import build_network

    return build_network(SIDE, hidden=8, seed=3)


class Died(Exception):
    """Ends training as a worker's death would."""


class Recorder(TrainingObserver):
    """Records losses and checkpoints; keeps the checkpoint of epoch number `at`, and raises Died there if `dies`."""

    def __init__(self, at: int = 99, *, dies: bool = True) -> None:
        self.left, self.dies, self.steps = at, dies, 0
        self.losses: list[tuple[float, float]] = []
        self.ends_of_stages: list[bool] = []
        self.is_early = False
        self.last: Checkpoint | None = None

    def step(self, at: Step) -> None:
        self.steps += 1

    def ended_early(self) -> None:
        self.is_early = True

    def epoch(self, record: EpochRecord) -> None:
        self.losses.append((record.metrics["loss"], record.metrics["val_loss"]))

    def checkpoint(self, make: Callable[[], Checkpoint], *, ends_stage: bool = False) -> None:
        self.left -= 1
        self.ends_of_stages.append(ends_stage)
        if self.left == 0:
            self.last = make()
            if self.dies:
                raise Died


def test_rate_of_an_epoch_leaves_out_its_first_step(data, network, tmp_path, monkeypatch):
    import keras

    from training.loop.fit import fit

    clock = SimpleNamespace(now=0.0)
    train = keras.Model.train_on_batch

    def timed(self, *args, **options):
        clock.now += 1 if clock.now else 100
        return train(self, *args, **options)

    monkeypatch.setattr(keras.Model, "train_on_batch", timed)
    monkeypatch.setattr("training.loop.stage.time", SimpleNamespace(monotonic=lambda: clock.now))
    plan = config(stage(0, epochs=2, batch=8))
    assert [record.metrics["rate"] for record in fit(network, plan, data, seed=1, folder=tmp_path).history] == [8, 8]


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", [0, 10])
def test_frozen_layers_computed_once_give_the_same_losses(unfreeze, data, network, tmp_path, monkeypatch):
    compare_losses(unfreeze, data, network, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", [0, 20, 40])
def test_frozen_layers_of_resnet50_computed_once_give_the_same_losses(unfreeze, data, resnet50, tmp_path, monkeypatch):
    compare_losses(unfreeze, data, resnet50, tmp_path, monkeypatch)


def compare_losses(unfreeze, data, network, tmp_path, monkeypatch):
    """Train with the cut, and with a cut that leaves all layers to be computed at each step, on the same copies."""
    import keras

    import training.loop.stage
    from training.loop.fit import fit
    from training.network.training_copy import Cut, cut

    def keep_all(network, unfreeze):
        cut(network, unfreeze)
        slices = keras.Input(network.input.shape[1:], dtype="uint8")
        return Cut(keras.Model(slices, slices), keras.Model(network.input, network.output["logit"]))

    monkeypatch.setattr("training.loop.stage_data.AT_ONCE", 5)
    monkeypatch.setattr("training.loop.validation.AT_ONCE", 5)
    weights = network.get_weights()
    losses = {}
    for how in (cut, keep_all):
        monkeypatch.setattr(training.loop.stage, "cut", how)
        network.set_weights(weights)
        recorder = Recorder()
        fit(network, config(stage(unfreeze)), data, seed=1, folder=tmp_path, observer=recorder)
        losses[how] = np.array(recorder.losses)
    assert np.abs(losses[cut] - losses[keep_all]).max() < 1e-4
    assert len(losses[cut]) == 3
    assert np.ptp(losses[cut][:, 0]) > 1e-3, "it learned nothing, so the comparison says nothing"
    assert list(tmp_path.iterdir()) == [], "features are left behind"


def test_nothing_is_trained_if_the_features_of_a_later_stage_do_not_fit(settings, data, network, tmp_path, monkeypatch):
    from training.errors import NoRoom
    from training.loop.fit import fit

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(200_000))
    recorder, stages = Recorder(), config(stage(0), stage(10, copies=64, epochs=64))
    with pytest.raises(NoRoom, match="stage last-10"):
        fit(network, stages, data, seed=1, folder=tmp_path, observer=recorder)
    assert (recorder.steps, recorder.losses) == (0, [])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_size_of_features_is_known_before_the_stage(precision, settings, data, network, tmp_path, monkeypatch):
    import training.loop.stage_data
    from training.loop.fit import fit

    sizes: list[tuple[str, int]] = []

    def check(stage, folder, slice_bytes, **_):
        sizes.append((stage.name, slice_bytes))

    monkeypatch.setattr(training.loop.stage_data, "check_room", check)
    stages = config(stage(0, epochs=1), stage(10, epochs=1)).model_copy(update={"precision": precision})
    fit(network, stages, data, seed=1, folder=tmp_path)
    before, *during = [size for name, size in sizes if name == "last-10"]
    assert during == [before, before], "of the training slices and of the validation slices"


@pytest.mark.slow
def test_step_is_traced_once(data, network, tmp_path, monkeypatch):
    import training.loop.stage
    from training.loop.fit import fit
    from training.network.loss import loss_of

    traced = []

    def counted(*args: Any) -> Callable[..., Any]:
        loss = loss_of(*args)
        return lambda label, logit: traced.append(1) or loss(label, logit)

    monkeypatch.setattr(training.loop.stage, "loss_of", counted)
    fit(network, config(stage(20)), data, seed=1, folder=tmp_path)
    assert len(traced) == 1, "tracing a step of the whole network takes many seconds"


def test_only_kernels_decay(network):
    from training.loop.optimizer import optimizer_of

    variables = network.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape, np.float32))
    optimizer = optimizer_of(stage(-1, optimizer="adamw", weight_decay=0.5, rate=0.1), steps=1)
    optimizer.apply([np.zeros(variable.shape, np.float32) for variable in variables], variables)
    decayed = {variable.name for variable in variables if float(np.max(variable)) < 0.99}
    kept = {variable.name for variable in variables if float(np.min(variable)) > 0.99}
    assert (decayed, kept) == ({"kernel"}, {"gamma", "beta", "bias"})


@pytest.mark.slow
def test_stage_of_few_steps_changes_the_weights(data, network, tmp_path):
    from training.loop.fit import fit

    before = network.get_layer("output").get_weights()[0]
    fit(network, config(stage(0, epochs=1, average=0.9)), data, seed=1, folder=tmp_path)
    assert np.abs(network.get_layer("output").get_weights()[0] - before).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", [20, pytest.param(-1, marks=pytest.mark.slow)])
def test_interrupted_run_ends_like_an_uninterrupted_one(unfreeze, data, network, tmp_path):
    """Some layers of the second stage learn, or the whole network, with averaged weights."""
    from training.loop.fit import fit

    weights = network.get_weights()
    plan = config(stage(0, epochs=2), stage(unfreeze, epochs=4, optimizer="adamw", schedule="cosine", average=0.5))
    whole = Recorder(4, dies=False)  # its checkpoint is what a worker that died there would leave
    fit(network, plan, data, seed=1, folder=tmp_path, observer=whole)
    expected = network.get_weights()

    network.set_weights(weights)  # another process, with nothing but the checkpoint
    second = Recorder()
    outcome = fit(network, plan, data, seed=1, folder=tmp_path, observer=second, resume=whole.last).history

    assert len(second.losses) == 2
    assert np.abs(np.array(second.losses) - np.array(whole.losses[4:])).max() < 1e-5
    assert len(outcome) == 6
    assert whole.ends_of_stages == [False, True, False, False, False, True], "a stage's end is always kept"
    assert max(np.abs(a - b).max() for a, b in zip(network.get_weights(), expected, strict=True)) < 1e-4


@pytest.mark.slow
def test_checkpoint_round_trips_through_storage(settings, data, network, tmp_path):
    from training.loop import checkpoints
    from training.loop.fit import fit

    recorder = Recorder(2)
    with pytest.raises(Died):
        fit(network, config(stage(0, average=0.5)), data, seed=1, folder=tmp_path, observer=recorder)
    kept = checkpoints.write(recorder.last, None, 1)
    found = checkpoints.read(StoredCheckpoint(**kept.as_json()))
    expected = recorder.last
    assert (found.stage, found.epoch, found.best_epoch) == (expected.stage, expected.epoch, expected.best_epoch)
    assert found.history == expected.history
    third = checkpoints.write(replace(recorder.last, network_stage=0), None, 3)
    assert (found.network_stage, checkpoints.read(third).network_stage) == (None, 0)
    for name, arrays in recorder.last.arrays.items():
        assert all(np.array_equal(a, b) for a, b in zip(arrays, found.arrays[name], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(found.network, recorder.last.network, strict=True))
    another_run = checkpoints.write(recorder.last, None, 2)
    assert set(another_run.files.values()).isdisjoint(kept.files.values()), "one run would drop the other's"
    again = checkpoints.write(replace(recorder.last, epoch=2), kept, 1)
    assert again.files["network.npz"] == kept.files["network.npz"]


@pytest.mark.slow
def test_nan_loss_raises_diverged_with_advice(data, network, tmp_path):
    from training.errors import Diverged
    from training.loop.fit import fit

    wild = config(stage(20, rate=1.0, optimizer="adam", epochs=30))
    kernel = network.get_layer("output").kernel
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    with pytest.raises(Diverged, match=r"setting stages\.last-20\.rate=0\.1"):
        fit(network, wild, data, seed=1, folder=tmp_path)


@pytest.mark.slow
def test_nan_weights_after_the_last_step_raise_diverged(data, network, tmp_path):
    from training.errors import Diverged
    from training.loop.fit import fit

    gamma = network.get_layer("conv5_block1_3_bn").gamma
    gamma.assign(np.full(gamma.shape, 1e12, np.float32))
    hidden, output = network.get_layer("hidden"), network.get_layer("output")
    hidden.set_weights([np.zeros(hidden.kernel.shape, np.float32), np.full(8, 1e-29, np.float32)])
    output.kernel.assign(np.full((8, 1), 1e30, np.float32))  # logits are about 80, and gradients infinite
    ruinous = config(stage(0, batch=24, rate=1.0))  # one step an epoch
    with pytest.raises(Diverged, match=r"validation.*setting stages\.last-0\.rate=0\.1"):
        fit(network, ruinous, data, seed=1, folder=tmp_path)


@pytest.mark.slow
def test_stage_ends_after_patience_without_improvement(data, network, tmp_path):
    from training.loop.fit import fit

    recorder = Recorder()
    still = config(stage(0, rate=1e-30, epochs=50, patience=3))
    history = fit(network, still, data, seed=1, folder=tmp_path, observer=recorder).history
    assert len(history) == 4, "the first epoch is the best, and three that are no better follow it"


@pytest.mark.slow
def test_best_epoch_is_kept(data, network, tmp_path):
    from training.loop.fit import fit

    history = fit(network, config(stage(0, rate=0.5, epochs=6)), data, seed=1, folder=tmp_path).history
    logit = np.asarray(network(data.validation.pixels[..., None])["logit"], np.float64)
    loss = np.logaddexp(0, -np.where(data.validation.labels == 1, logit, -logit)).mean()
    assert loss == pytest.approx(min(record.metrics["val_loss"] for record in history), abs=1e-4)


@pytest.mark.slow
def test_stopping_keeps_what_was_learned(data, network, tmp_path):
    from training.loop.fit import fit

    observer = StopsAfter(1)
    before = network.get_layer("hidden").get_weights()[0].copy()
    plan = config(stage(0, epochs=50), stage(20, epochs=50))
    assert fit(network, plan, data, seed=1, folder=tmp_path, observer=observer).stage == 0
    assert (len(observer.losses), observer.is_early) == (1, True)
    assert not np.array_equal(before, network.get_layer("hidden").get_weights()[0])


@pytest.mark.slow
@pytest.mark.parametrize(("stages", "is_early"), [(1, False), (2, True)])
def test_stop_after_the_last_epoch_ends_nothing_early(stages, is_early, data, network, tmp_path):
    from training.loop.fit import fit

    observer = StopsAfter(1)
    plan = config(*[stage(0, epochs=1)] * stages)
    fit(network, plan, data, seed=1, folder=tmp_path, observer=observer)
    assert (len(observer.losses), observer.is_early) == (1, is_early)


class StopsAfter(Recorder):
    """Asks for a stop after so many epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def stopped(self) -> bool:
        return len(self.losses) >= self.epochs


@pytest.mark.slow
@pytest.mark.parametrize(
    "at", ["in its first epoch", pytest.param("after an epoch that is worse", marks=pytest.mark.slow)]
)
def test_stop_before_improvement_keeps_the_weights_before_the_stage(at, data, network, tmp_path):
    from training.loop.fit import fit

    class Stops(TrainingObserver):
        done = begun = False

        def step(self, reached):
            self.begun = self.begun or (reached.stage == 1 and reached.step == 1)

        def epoch(self, record):
            self.done = record.stage == 1

        def stopped(self):
            return self.begun if at == "in its first epoch" else self.done

    before = network.get_weights()
    ruinous = stage(20, epochs=9, optimizer="adam", rate=0.9)
    plan = config(stage(0, epochs=1, rate=1e-30), ruinous)
    fitted = fit(network, plan, data, seed=1, folder=tmp_path, observer=Stops())
    assert fitted.stage in (0, None), "the first stage changed almost nothing"
    assert len(fitted.history) == (1 if at == "in its first epoch" else 2)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(network.get_weights(), before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("resumes", [pytest.param(False, marks=pytest.mark.slow), True])
def test_stage_that_is_never_better_than_its_beginning_is_dropped(resumes, data, network, tmp_path):
    """Also if its worker dies at the end of its last epoch."""
    from training.loop.fit import fit

    plan = config(stage(0, epochs=4, rate=0.01), stage(20, epochs=2, optimizer="adam", rate=0.9))
    first = config(plan.stages[0])
    start = network.get_weights()
    fit(network, first, data, seed=1, folder=tmp_path)
    expected = network.get_weights()
    assert not all(map(np.array_equal, expected, start)), "the first stage learned"

    network.set_weights(start)
    recorder = Recorder(6, dies=resumes)
    if resumes:
        with pytest.raises(Died):
            fit(network, plan, data, seed=1, folder=tmp_path, observer=recorder)
    fitted = fit(network, plan, data, seed=1, folder=tmp_path, resume=recorder.last if resumes else None)
    assert fitted.stage == 0, "the network has the weights of the first stage"
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(network.get_weights(), expected, strict=True))


@pytest.mark.slow
def test_first_stage_that_is_never_better_than_the_initial_weights_is_dropped(data, network, tmp_path):
    from training.loop.fit import fit

    fit(network, config(stage(0, epochs=4, rate=0.01)), data, seed=1, folder=tmp_path)
    initial = network.get_weights()
    ruinous = stage(20, epochs=1, optimizer="adam", rate=0.9)
    fitted = fit(network, config(ruinous), data, seed=1, folder=tmp_path)
    assert (len(fitted.history), fitted.stage) == (1, None)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(network.get_weights(), initial, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("balanced", "expected"), [pytest.param(False, 1 / 6, marks=pytest.mark.slow), (True, 0.5)])
def test_classes_weigh_the_same_in_a_balanced_run(balanced, expected, network, tmp_path):
    """Slices that show nothing: the network learns the share of each class, as far as it counts."""
    from training.data.slices import Data
    from training.loop.fit import fit

    def blank(count):
        labels = (np.arange(count) % 6 == 0).astype(np.uint8)
        return Labelled(np.full((count, SIDE, SIDE), 90, np.uint8), labels, [f"g{i}" for i in range(count)])

    plan = config(stage(0, epochs=60, rate=0.02, batch=24, copies=1, keep="last")).model_copy(
        update={"balanced": balanced, "augment": Augment(), "dropout": 0.0}
    )
    history = fit(network, plan, Data(blank(48), blank(24)), seed=1, folder=tmp_path).history
    logit = float(np.asarray(network(blank(1).pixels[..., None])["logit"])[0])
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(expected, abs=0.05)
    least = -(np.log(0.5) if balanced else np.log(5 / 6) * 5 / 6 + np.log(1 / 6) / 6)
    assert min(record.metrics["val_loss"] for record in history) == pytest.approx(least, abs=0.02)


@pytest.mark.slow
def test_stop_takes_effect_while_frozen_layers_are_computed(data, network, tmp_path):
    from training.loop.fit import fit

    class Stops(TrainingObserver):
        copies = 0

        def step(self, reached):
            self.copies += reached.stage == 1

        def stopped(self):
            return self.copies > 0

    before = network.get_weights()
    plan = config(stage(0, epochs=1, copies=1, rate=1e-30), stage(20, epochs=9, copies=9))
    observer = Stops()
    history = fit(network, plan, data, seed=1, folder=tmp_path, observer=observer).history
    assert (observer.copies, len(history)) == (1, 1)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(network.get_weights(), before, strict=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unfreeze", [173, 174, 175])
def test_unfreezing_can_reach_the_first_layer_of_the_base(unfreeze, data, resnet50):
    """Of its 174 layers the first has no weights."""
    from training.network.training_copy import cut

    network = resnet50

    pixels = data.validation.pixels[..., None]
    expected = network(pixels)["logit"]  # at once: `predict` would trace all layers first
    parts = cut(network, unfreeze)
    kernels = {layer.name for layer in parts.learning.layers if layer.trainable_weights}
    assert kernels >= {"conv1_conv", "conv3_block2_2_conv", "conv5_block3_3_conv", "output"}
    assert not any(name.endswith("_bn") for name in kernels)
    assert (parts.frozen is None) == (unfreeze > 173)
    given = pixels if parts.frozen is None else parts.frozen(pixels)
    np.testing.assert_allclose(parts.learning(given), expected, atol=1e-4)


@pytest.mark.slow
def test_everything_learns_at_another_size(data, small_network, tmp_path: Path):
    """The whole network, with fused normalisation, from 32² up to its own 64²; it settles at the size of the data."""
    from training.loop.fit import fit
    from training.network.resnet50 import build_network
    from training.network.training_copy import settle_normalisation

    network = build_network(64, hidden=8, seed=3)
    before = network.get_layer("conv1_conv").get_weights()[0].copy()
    recorder = Recorder()
    fit(
        network, config(stage(-1, epochs=2, average=0.5, keep="last")), data, seed=1, folder=tmp_path, observer=recorder
    )
    assert np.isfinite(recorder.losses).all()
    assert recorder.steps == 6
    assert not np.array_equal(before, network.get_layer("conv1_conv").get_weights()[0])
    left = network.get_weights()
    settle_normalisation(network, data.train.pixels, config(stage(-1)))
    assert all(map(np.array_equal, left, network.get_weights()))


@pytest.mark.slow
def test_keep_last_keeps_the_last_average(data, network, tmp_path):
    from training.loop.fit import fit

    observer = Recorder(4, dies=False)
    plan = config(stage(0, rate=0.5, epochs=4, average=0.5, keep="last"))
    fit(network, plan, data, seed=1, folder=tmp_path, observer=observer)
    kept = observer.last.arrays["average"]
    assert np.array_equal(network.get_layer("hidden").get_weights()[0], kept[0])
    assert not np.array_equal(kept[0], observer.last.arrays["weights"][0])


def test_settled_normalisation_has_the_statistics_of_the_slices(network, monkeypatch):
    """The statistics of the first layer can be computed here: those of all slices together, however small a batch."""
    import keras

    from training.network.training_copy import settle_normalisation

    monkeypatch.setattr("training.network.training_copy.SETTLING_BATCH", 8)
    pixels = of_patients(150, SIDE)
    first = keras.Model(network.input, network.get_layer("conv1_conv").output)
    answers = np.asarray(first(pixels[..., None])).reshape(-1, 64)
    settle_normalisation(network, pixels, config(stage(-1)))
    mean, variance = network.get_layer("conv1_bn").get_weights()[2:]
    np.testing.assert_allclose(mean, answers.mean(0), atol=0.001 * float(answers.std()))
    np.testing.assert_allclose(variance, answers.var(0), rtol=0.01)


@pytest.mark.slow
def test_order_of_slices_does_not_change_settled_normalisation(small_network):
    """A dataset lists class after class, and patient after patient."""
    from training.network.resnet50 import build_network
    from training.network.training_copy import settle_normalisation

    pixels = of_patients(384, 64)
    network = build_network(64, hidden=8, seed=3)
    weights = network.get_weights()
    logits = []
    for order in (np.arange(384), np.random.default_rng(1).permutation(384)):
        network.set_weights(weights)
        settle_normalisation(network, pixels[order], config(stage(-1)))
        logits.append(np.asarray(network(pixels[..., None])["logit"], np.float64))
    slope, shift = np.polyfit(*logits, 1)
    assert slope == pytest.approx(1, abs=0.02)
    assert abs(shift) < 0.02 * np.std(logits)


def of_patients(count: int, side: int) -> np.ndarray:
    """Slices in the order of a dataset: 16 of each patient, each of a brightness and a contrast of its own, the first
    half brighter, as another class may be."""
    rng = np.random.default_rng(0)
    patient = np.arange(count) // 16
    bright, contrast = rng.normal(0, 30, count)[patient], rng.uniform(20, 90, count)[patient]
    bright += np.where(np.arange(count) < count // 2, 60, 0)
    noise = rng.normal(size=(count, side, side))
    return np.clip(100 + bright[:, None, None] + contrast[:, None, None] * noise, 0, 255).astype(np.uint8)


def test_some_slices_are_spread_over_all():
    some = labelled(24, 1).some(4)
    assert some.groups == ["g0", "g7", "g15", "g23"]
    assert len(labelled(24, 1).some(99)) == 24


REPEATED = """
import sys
from pathlib import Path
import numpy as np
from training.network.backend import compute_repeatably
compute_repeatably()
from tests.training.loop import test_fit
from training.data.slices import Data
from training.loop.fit import fit
from training.loop.observer import TrainingObserver
from training.network.resnet50 import build_network

test_fit.SIDE = 64
network = build_network(64, hidden=8, seed=3)
config = test_fit.config(test_fit.stage(-1, epochs=1, size=64))
data = Data(test_fit.labelled(24, 1), test_fit.labelled(12, 2))
fit(network, config, data, seed=7, folder=Path(sys.argv[1]), observer=TrainingObserver())
np.savez(sys.argv[2], *network.get_weights())
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_repeatable_run_of_resnet50_gives_the_same_weights_in_another_process(tmp_path: Path) -> None:
    weights = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        argv = [sys.executable, "-c", REPEATED, tmp_path / name, tmp_path / f"{name}.npz"]
        subprocess.run(argv, check=True, timeout=400)
        weights.append(np.load(tmp_path / f"{name}.npz"))
    first, second = weights
    assert all(np.array_equal(first[key], second[key]) for key in first.files)


def test_process_that_has_computed_with_several_threads_is_not_repeatable() -> None:
    import keras

    from training.errors import NotRepeatable
    from training.network.backend import compute_repeatably

    keras.ops.sum(keras.ops.ones(2))
    with pytest.raises(NotRepeatable):
        compute_repeatably()
