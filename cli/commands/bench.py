"""`ctbatch bench`: measures the speed of this machine and the quality of models, each compared with a reference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.benchmarks.watch.others import even_if_disturbed
from cli.errors import UsageError
from cli.options import FOLDER, NEW_FOLDER, PATH, json_option
from cli.training_options import run_options
from training.launch.installed import check_installed
from training.launch.launch import RunRequest

SERVER_PACKAGE = click.option(
    "--package", type=FOLDER, help="Serve this model package  [default: the champion of CTBATCH_HOME, else the demo]"
)
TESTED_PACKAGE = click.option("--package", type=FOLDER, required=True, help="Test this model package.")


def count_option(name: str, default: int, purpose: str, least: int = 1) -> Callable[[Callable[..., Any]], Any]:
    """Add an option for a whole number. `least` is the smallest number that it accepts."""
    return click.option(name, type=click.IntRange(least), default=default, show_default=True, help=purpose)


@click.group()
def bench() -> None:
    """Measure the speed of this machine, and the quality of models. Run nothing else meanwhile.

    pipeline, latency, intake, connections and scale start a ctbatch in a temporary folder.
    """


@bench.command()
@click.argument("path", required=False, type=PATH)
@count_option("--slices", 2000, "Classify at most this many slices.")
@SERVER_PACKAGE
@even_if_disturbed
@json_option
def pipeline(path: Path | None, slices: int, package: Path | None, even_if_disturbed: bool, as_json: bool) -> None:
    """Measure the slices/s of a whole job.

    PATH is a folder or an archive of slices  [default: synthetic slices]. The whole job is all that `ctbatch submit
    --wait` does: send, check, unpack, decode, predict and record. The speed is compared with that of the engine
    alone on the same slices, which are prepared and in memory. Also prints the core-milliseconds that each stage takes
    for a slice.
    """
    from cli.benchmarks.job_throughput import run

    run(path, slices, package, even_if_disturbed, as_json)


@bench.command()
@click.argument("path", required=False, type=FOLDER)
@count_option("--slices", 300, "Classify this many slices.")
@click.option("--package", type=FOLDER, help="Predict with this model package  [default: .build/demo-package]")
@click.option("--peer", "names", multiple=True, help="Measure this peer. Repeat it for more.  [default: all]")
@even_if_disturbed
@json_option
def peers(
    path: Path | None, slices: int, package: Path | None, names: tuple[str, ...], even_if_disturbed: bool, as_json: bool
) -> None:
    """Compare ctbatch with other systems that do the same, its peers.

    PATH is a folder of slices  [default: synthetic slices]. Install the peers with `make peers` first. Each peer
    predicts the same slices with the same weights, and writes the same rows into SQLite. Each system loads its model
    before its time starts. The time runs from the first byte read to the last row written. ctbatch is measured before
    and after the others.
    """
    from cli.benchmarks.peers.catalogue import PEERS
    from cli.benchmarks.peers.run import run

    if unknown := set(names) - PEERS.keys():
        raise UsageError(f"unknown peer: {', '.join(sorted(unknown))}; choose from {', '.join(PEERS)}")
    run(path, slices, package, [PEERS[name] for name in names or PEERS], even_if_disturbed, as_json)


@bench.command()
@count_option("--jobs", 30, "Submit this many jobs of one slice, one by one.")
@SERVER_PACKAGE
@even_if_disturbed
@json_option
def latency(jobs: int, package: Path | None, even_if_disturbed: bool, as_json: bool) -> None:
    """Measure the seconds from submission to prediction.

    Prints the median and the 95th percentile, measured with a worker that has loaded its model.
    """
    from cli.benchmarks.latency import run

    run(jobs, package, even_if_disturbed, as_json)


@bench.command(name="small-jobs")
@count_option("--jobs", 200, "Submit this many jobs, one by one.")
@count_option("--slices", 10, "Put this many slices into each small job.")
@SERVER_PACKAGE
@even_if_disturbed
@json_option
def small_jobs(jobs: int, slices: int, package: Path | None, even_if_disturbed: bool, as_json: bool) -> None:
    """Compare many small jobs with one large job.

    Prints the time to predict all small jobs, and the time to predict one job with the same number of slices.
    """
    from cli.benchmarks.small_jobs import run

    run(jobs, slices, package, even_if_disturbed, as_json)


@bench.command()
@count_option("--slices", 100_000, "Unpack this many slices, of 16 × 16 pixels.")
@SERVER_PACKAGE
@json_option
def intake(slices: int, package: Path | None, as_json: bool) -> None:
    """Measure time and memory of unpacking a large archive.

    Prints the peak memory of each process in MiB. The job is cancelled when everything is unpacked.
    """
    from cli.benchmarks.ingest import run

    run(slices, package, as_json)


@bench.command()
@count_option("--slices", 50, "Read the same slice this many times.")
@json_option
def decoding(slices: int, as_json: bool) -> None:
    """Measure how many DICOM slices/s one core reads.

    A slice of 512 × 512 pixels of 16 bits is stored uncompressed and in each lossless syntax. Each of these files is
    decoded and prepared. The speed is compared with that of the codec alone. Prints the best of five rounds.
    """
    from cli.benchmarks.decoding import run

    run(slices, as_json)


@bench.command()
@click.argument("path", required=False, type=FOLDER)
@count_option("--slices", 500, "Prepare this many slices.")
@count_option("--rounds", 3, "Prepare them this many times, and print the lowest time.")
@json_option
def preparing(path: Path | None, slices: int, rounds: int, as_json: bool) -> None:
    """Measure the processor time to prepare a slice.

    PATH is a folder of slices  [default: synthetic PNG of 400 × 300 and JPEG of 512 × 512 pixels]. Preparing
    begins with the bytes of the archive and ends with prepared chunks and their rows. Prints the core-milliseconds that
    a slice takes in each of three parts: receiving the archive, the ingest process, and its decoders. No engine runs.
    """
    from cli.benchmarks.preparing import run

    run(path, slices, rounds, as_json)


@bench.command()
@count_option("--pages", 50, "Ask for this many pages, one by one, each over its own connection.")
@count_option("--idle", 64, "Hold this many connections open: half send nothing, half begin a request.", least=0)
@count_option("--uploads", 16, "Upload this many files at once, at 2 Mbit/s each.", least=0)
@count_option("--readers", 16, "Let this many clients ask for a long answer and read it very slowly.", least=0)
@SERVER_PACKAGE
@json_option
def connections(pages: int, idle: int, uploads: int, readers: int, package: Path | None, as_json: bool) -> None:
    """Measure the time to a page while other clients are slow.

    Prints the longest time, with and without the slow clients. Measures `ctbatch up`. For comparison, measures the same
    application served by gunicorn's own worker with threads. If nginx is installed, also measures `ctbatch up` behind
    the proxy of docker-compose.yml.
    """
    from cli.benchmarks.connections import run

    run(pages, idle, uploads, readers, package, as_json)


@bench.command()
@count_option("--slices", 192, "Train on this many slices, at 224 × 224 pixels.", least=64)
@count_option("--batch", 32, "Use batches of this many slices.", least=2)
@click.option("--pixels", type=PATH, help="Train on this .npy of uint8[n, 224, 224]  [default: phantoms]")
@json_option
def training(slices: int, batch: int, pixels: Path | None, as_json: bool) -> None:
    """Measure the slices/s of each training stage.

    The speed is compared with that of plain `model.fit`, for the same stage on the same slices. Prints the speed of an
    epoch, and the time to compute the frozen layers. They are computed once for each augmented copy.
    """
    check_installed()
    from cli.benchmarks.training.stage_speed import run

    run(slices, batch, pixels, as_json)


@bench.command()
@click.option("--database", "url", help="Use this empty database, e.g. postgresql://…  [default: SQLite]")
@count_option("--workers", 8, "Claim and record in this many processes.")
@count_option("--jobs", 200, "Submit this many jobs at a time. Each has two slices; two owners alternate.")
@count_option("--seconds", 60, "Submit again until this many seconds have passed.")
@json_option
def claims(url: str | None, workers: int, jobs: int, seconds: int, as_json: bool) -> None:
    """Measure how many slices/s workers claim and record.

    No file is read and no engine runs: this measures the database alone. Prints the number of deadlocks that PostgreSQL
    has counted, and the errors of transactions that it aborted.
    """
    from cli.benchmarks.claims import run

    run(url, workers, jobs, seconds, as_json)


@bench.command()
@click.argument("dataset", metavar="DATASET")
@run_options("scratch")
@json_option
def fitting(dataset: str, as_json: bool, **options: Any) -> None:
    """Train on a DATASET of CTBATCH_HOME in this process.

    Prints slices/s, the time, and the metrics on unseen groups. Trains as `ctbatch train` does, but does not make a
    package: only the split is kept. Uses the device and the backend that Keras is set to, so it can measure a GPU.
    """
    check_installed()
    from cli.benchmarks.training.in_process import run

    run(RunRequest(dataset=dataset, **options), as_json)


@bench.command(name="real-training")
@click.argument("path", type=PATH)
@run_options("scratch")
@click.option("--home", type=NEW_FOLDER, help="Keep everything in this folder  [default: a temporary one]")
@json_option
def real_training(path: Path, home: Path | None, as_json: bool, **options: Any) -> None:
    """Train on labelled slices from beginning to end.

    Prints the metrics on unseen groups. PATH is what `ctbatch datasets create --from` accepts. With the preset scratch
    this takes an hour or more.
    """
    check_installed()
    from cli.benchmarks.training.end_to_end import NAME, run

    run(path, RunRequest(dataset=NAME, **options), home, as_json)


@bench.command()
@click.argument("path", type=FOLDER)
@TESTED_PACKAGE
@json_option
def precision(path: Path, package: Path, as_json: bool) -> None:
    """Compare a package's int8 network with its float32 one.

    Prints the number of verdicts that differ, and the differences of the probabilities. PATH is a folder of slices that
    the package was not made with.
    """
    from cli.benchmarks.precision import run

    run(path, package, as_json)


@bench.command()
@click.argument("path", type=FOLDER)
@TESTED_PACKAGE
@json_option
def ood(path: Path, package: Path, as_json: bool) -> None:
    """Measure the share of pictures flagged as out of distribution.

    PATH is a folder of slices like those that the model was trained on. If possible, use slices that it has not seen.
    They are compared with other pictures. Some of these are made from the slices (other windows, inverted, upside
    down), and the others are photographs, noise and MR.
    """
    from cli.benchmarks.ood import run

    run(path, package, as_json)


@bench.command()
@click.option(
    "--devices",
    default="1,2,4,8",
    show_default=True,
    help="Repeat the measurement with these numbers of devices. Each device is a host.",
)
@click.option(
    "--rate", type=click.FloatRange(1), default=500, show_default=True, help="Slices/s that a device predicts."
)
@count_option("--seconds", 15, "Measure each number of devices for about this many seconds.")
@even_if_disturbed
@json_option
def hosts(devices: str, rate: float, seconds: int, even_if_disturbed: bool, as_json: bool) -> None:
    """Measure the slices/s of many machines, which are simulated.

    PostgreSQL, Redis, an S3 server, ingest and each inference worker run in a network namespace of their own, so this
    needs root. A simulated device only waits, and computes nothing. Slices are not decoded, because their chunks are
    prepared before the time starts. All hosts share the cores of this machine, so the core-milliseconds that each kind
    of host takes for a slice are printed too. Needs `pip install 'ctbatch[bench]'`.
    """
    from cli.benchmarks.many.devices import run

    run([int(count) for count in devices.split(",")], rate, seconds, even_if_disturbed, as_json)


@bench.command()
@click.option("--database", "url", help="Use this empty database, e.g. postgresql://…  [default: SQLite]")
@click.option("--postgres", is_flag=True, help="Start a PostgreSQL server for this. It must be installed.")
@count_option("--slices", 50_000, "Record this many slices in all.")
@count_option("--processes", 2, "Record in this many processes, one job in each.")
@even_if_disturbed
@json_option
def ledger(
    url: str | None, postgres: bool, slices: int, processes: int, even_if_disturbed: bool, as_json: bool
) -> None:
    """Measure how many slices/s the database records.

    Slices are recorded in chunks of 128, as ingest and inference workers do. No file is read and no engine runs. Prints
    the speed of each part. `read`: recording slices. `closed`: closing an upload that was read, which includes
    checking its patients and series. `predicted`: recording predictions. `whole`: all three together.
    """
    from cli.benchmarks.many.ledger import run

    run(url, postgres, slices, processes, even_if_disturbed, as_json)


@bench.command()
@click.option(
    "--sizes", default="1000,10000,100000", show_default=True, help="Classify one job of each size, in slices."
)
@count_option("--rows", 1_000_000, "Copy the results into this many rows, and query these; 0 skips this.", least=0)
@click.option("--tiny", is_flag=True, help="Use tiny slices (16 × 16 pixels) and no network: measure all else.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Plot into this PNG; needs training.")
@even_if_disturbed
@json_option
def scale(sizes: str, rows: int, tiny: bool, plot: Path | None, even_if_disturbed: bool, as_json: bool) -> None:
    """Measure what grows with the number of slices.

    Prints three things: the milliseconds for a slice from submission to the end; the largest memory of a process of
    each role (PSS and RSS, measured once a second); and the median time of each query of the API.
    """
    if plot is not None:
        check_installed()
    from cli.benchmarks.many.growth import run

    run([int(size) for size in sizes.split(",")], rows, tiny, plot, even_if_disturbed, as_json)
