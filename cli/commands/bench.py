"""`ctbatch bench`: how fast this machine is, each figure beside what it is to be held against, in one run."""

from pathlib import Path
from typing import Any

import click

from cli.options import json_option, run_options
from training.launch.installed import check_installed
from training.launch.launch import RunRequest

PACKAGE = click.option(
    "--package",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a model package; else the champion of CTBATCH_HOME, else the demo model.",
)


@click.group()
def bench() -> None:
    """Measure. What takes a running ctbatch runs one in a temporary folder; let nothing else run meanwhile."""


@bench.command()
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--slices", type=click.IntRange(1), default=2000, show_default=True, help="How many, at most.")
@PACKAGE
@json_option
def pipeline(path: Path | None, slices: int, package: Path | None, as_json: bool) -> None:
    """Images a second of a whole job, beside the bare engine's on the same slices.

    PATH is a folder or an archive of slices; without one, synthetic phantoms are made. The whole job is what
    `ctbatch submit --wait` does: sending, checking, unpacking, decoding, predicting, recording. The bare engine has the
    prepared slices in memory.
    """
    from cli.benchmarks.job_throughput import run

    run(path, slices, package, as_json)


@bench.command()
@click.option("--jobs", type=click.IntRange(1), default=30, show_default=True, help="How many jobs of one slice.")
@PACKAGE
@json_option
def latency(jobs: int, package: Path | None, as_json: bool) -> None:
    """Seconds from submitting one slice to its prediction, with a warm worker: median and 95th percentile."""
    from cli.benchmarks.latency import run

    run(jobs, package, as_json)


@bench.command()
@click.option("--slices", type=click.IntRange(1), default=100_000, show_default=True, help="How many tiny slices.")
@PACKAGE
@json_option
def intake(slices: int, package: Path | None, as_json: bool) -> None:
    """Time and memory of taking in one archive of very many tiny slices: the peak of each process.

    The job is cancelled once everything is unpacked; how fast slices are predicted is what `pipeline` measures.
    """
    from cli.benchmarks.ingest import run

    run(slices, package, as_json)


@bench.command()
@click.option("--slices", type=click.IntRange(64), default=192, show_default=True, help="How many, at 224 × 224.")
@click.option("--batch", type=click.IntRange(2), default=32, show_default=True)
@click.option("--pixels", type=click.Path(exists=True, path_type=Path), help="A .npy of slices instead of phantoms.")
@json_option
def training(slices: int, batch: int, pixels: Path | None, as_json: bool) -> None:
    """Images a second of each training stage, beside plain `model.fit` of the same stage on the same slices.

    An epoch's rate, and below it the one-time cost of computing the frozen layers: once for each augmented copy.
    """
    check_installed()
    from cli.benchmarks.stage_speed import run

    run(slices, batch, pixels, as_json)


@bench.command()
@click.argument("dataset", metavar="DATASET")
@run_options("scratch")
@json_option
def fitting(dataset: str, as_json: bool, **asked: Any) -> None:
    """Train on a DATASET of CTBATCH_HOME in this process: images a second, time, and the figures on unseen groups.

    What `ctbatch train` does up to the package, on the device and by the backend that Keras finds: to see what a GPU
    gives. Nothing is kept but the split.
    """
    check_installed()
    from cli.benchmarks.train_in_process import run

    run(RunRequest(dataset=dataset, **asked), as_json)


@bench.command(name="real-training")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@run_options("scratch")
@click.option(
    "--home", type=click.Path(file_okay=False, path_type=Path), help="Keep everything here; else it is thrown away."
)
@json_option
def real_training(path: Path, home: Path | None, as_json: bool, **asked: Any) -> None:
    """Train on labelled slices from beginning to end, and print what comes of it on groups that it never saw.

    PATH is what `ctbatch datasets create --from` takes. With the preset scratch this takes an hour or more.
    """
    check_installed()
    from cli.benchmarks.train_end_to_end import NAME, run

    run(path, RunRequest(dataset=NAME, **asked), home, as_json)


@bench.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--package", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@json_option
def precision(path: Path, package: Path, as_json: bool) -> None:
    """Compare a package's int8 network with its float32 one: verdicts that differ, and by how much a probability does.

    PATH is a folder of slices that the package was not made with.
    """
    from cli.benchmarks.precision import run

    run(path, package, as_json)


@bench.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--package", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@json_option
def ood(path: Path, package: Path, as_json: bool) -> None:
    """Share that a model package flags of slices, and of what is no such slice: photographs, noise, MR and others.

    PATH is a folder of slices like those the model was trained on, best some that it has not seen.
    """
    from cli.benchmarks.ood import run

    run(path, package, as_json)
