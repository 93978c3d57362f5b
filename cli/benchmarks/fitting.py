"""Training alone, on a dataset that is there: images/s, time, and what the network then says of unseen groups."""

import tempfile
from pathlib import Path

from cli.operator import writing
from cli.output import print_json, print_table, say
from cli.training import refusals
from training.launch import Asked, prepare

FIGURES = ("accuracy", "auc", "recall", "specificity", "ece")


def run(asked: Asked, as_json: bool) -> None:
    """Train as a run does, in this process, on whatever Keras computes with; print each stage, the time, the figures.

    Nothing is kept: there is no worker, no evaluation with intervals, no package. Probabilities are as the network
    gives them, positive from 0.5 on.
    """
    with refusals():
        prepared = prepare(asked, writing)
    import numpy as np

    from training.calibrate import probability
    from training.dataset import Data, load_parts
    from training.evaluate import measure
    from training.fit import fit
    from training.initial import initial_network
    from training.trainable import environment, predict
    from training.watching import EpochRecord, Watcher

    stages = prepared.config.stages
    with refusals():
        parts = load_parts(prepared.dataset, prepared.split)

    class Told(Watcher):
        def epoch(self, record: EpochRecord) -> None:
            stage, m = stages[record.stage], record.metrics
            told = f"{stage.name}: epoch {record.epoch + 1} of {stage.epochs}, {m['rate']:.0f} images/s"
            say(f"{told}, loss {m['loss']:.3f}, validation {m['val_loss']:.3f}, AUC {m['val_auc']:.3f}")

    network = initial_network(prepared.config, asked.seed, lambda: None)
    data = Data(parts["train"], parts["validation"])
    with tempfile.TemporaryDirectory(prefix="ctbatch-") as folder:
        history = fit(network, prepared.config, data, seed=asked.seed, folder=Path(folder), watcher=Told()).history
    logit = predict(network, parts["test"].pixels[..., None], lambda: None)["logit"]
    figures = measure(probability(logit, 1.0), parts["test"].labels, 0.5)
    timed = []
    for index, stage in enumerate(stages):
        records = [record for record in history if record.stage == index]
        rate = float(np.median([record.metrics["rate"] for record in records]))
        timed.append((stage.name, stage.size, len(records), round(rate, 1), round(sum(r.seconds for r in records), 1)))
    device = environment()
    facts = {
        "dataset": prepared.dataset.title,
        "preset": asked.preset,
        "seed": asked.seed,
        "split": prepared.split.rule,
        "environment": device,
        "stages": [dict(zip(("name", "size", "epochs", "rate", "seconds"), each, strict=True)) for each in timed],
        "seconds": round(sum(record.seconds for record in history), 1),
        "n": len(parts["test"]),
        "metrics": {name: figures[name] for name in FIGURES},
    }
    if as_json:
        print_json(facts)
        return
    say(", ".join(f"{name} {value}" for name, value in device.items()))
    print_table(("stage", "side", "epochs", "images/s (median)", "seconds"), timed)
    say(f"{facts['seconds']} s of epochs in all")
    print_table((f"on {facts['n']} unseen slices", "figure"), [(name, f"{figures[name]:.4f}") for name in FIGURES])
