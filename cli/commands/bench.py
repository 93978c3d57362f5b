"""`ctbatch bench`: measures the speed of this machine and the quality of models, each beside a yardstick."""

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
    """Add an option for a number of at least `least`."""
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
    alone, on the same slices, prepared and in memory. Prints the core-milliseconds a slice by stage, too.
    """
    from cli.benchmarks.job_throughput import run

    run(path, slices, package, even_if_disturbed, as_json)


@bench.command()
@click.argument("path", required=False, type=FOLDER)
@count_option("--slices", 300, "Classify this many slices.")
@click.option("--package", type=FOLDER, help="Predict with this model package  [default: .build/demo-package]")
@click.option("--peer", "names", multiple=True, help="Measure this peer, as bentoml-int8; repeatable  [default: all]")
@even_if_disturbed
@json_option
def peers(
    path: Path | None, slices: int, package: Path | None, names: tuple[str, ...], even_if_disturbed: bool, as_json: bool
) -> None:
    """Compare ctbatch with what people would use instead.

    PATH is a folder of slices  [default: synthetic slices]. `make peers` installs the peers first. Each predicts the
    same slices by the same weights, and writes the same rows into SQLite. The time is that of a warm system, from the
    first byte read to the last row; ctbatch is measured before and after the others.
    """
    from cli.benchmarks.peers.catalogue import PEERS
    from cli.benchmarks.peers.run import run

    if unknown := set(names) - PEERS.keys():
        raise UsageError(f"there is no peer {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
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
@count_option("--slices", 10, "Put this many slices into each.")
@SERVER_PACKAGE
@even_if_disturbed
@json_option
def small_jobs(jobs: int, slices: int, package: Path | None, even_if_disturbed: bool, as_json: bool) -> None:
    """Compare many small jobs with one large job.

    Prints the time to predict all small jobs, and one job with as many slices as all of them together.
    """
    from cli.benchmarks.small_jobs import run

    run(jobs, slices, package, even_if_disturbed, as_json)


@bench.command()
@count_option("--slices", 100_000, "Unpack this many slices, of 16 × 16 pixels.")
@SERVER_PACKAGE
@json_option
def intake(slices: int, package: Path | None, as_json: bool) -> None:
    """Measure time and memory of unpacking a large archive.

    Prints the peak memory of each process in MiB. The job is cancelled once all is unpacked.
    """
    from cli.benchmarks.ingest import run

    run(slices, package, as_json)


@bench.command()
@count_option("--slices", 50, "Read the same slice this many times.")
@json_option
def decoding(slices: int, as_json: bool) -> None:
    """Measure how many DICOM slices/s one core reads.

    A slice of 512 × 512 pixels of 16 bits is decoded and prepared, uncompressed and in each lossless syntax. The speed
    is compared with that of the codec alone. Prints the best of five rounds.
    """
    from cli.benchmarks.decoding import run

    run(slices, as_json)


@bench.command()
@click.argument("path", required=False, type=FOLDER)
@count_option("--slices", 500, "Prepare this many slices.")
@count_option("--rounds", 3, "Prepare them this many times, and print the cheapest.")
@json_option
def preparing(path: Path | None, slices: int, rounds: int, as_json: bool) -> None:
    """Measure the processor time to prepare a slice.

    PATH is a folder of slices  [default: synthetic PNG of 400 × 300 and JPEG of 512 × 512 pixels]. Prints
    core-milliseconds a slice from the archive's bytes to prepared chunks and their rows: of receiving the archive, of
    the ingest process, and of its decoders. No engine runs.
    """
    from cli.benchmarks.preparing import run

    run(path, slices, rounds, as_json)


@bench.command()
@count_option("--pages", 50, "Ask for this many pages, one by one, each over a connection of its own.")
@count_option("--idle", 64, "Hold this many connections open: half send nothing, half begin a request.", least=0)
@count_option("--uploads", 16, "Upload this many files at once, at 2 Mbit/s each.", least=0)
@count_option("--readers", 16, "Let this many clients ask for a long answer and hardly read it.", least=0)
@SERVER_PACKAGE
@json_option
def connections(pages: int, idle: int, uploads: int, readers: int, package: Path | None, as_json: bool) -> None:
    """Measure the time to a page while other clients are slow.

    Prints the worst time, with and without the slow clients: of `ctbatch up`, of it behind the proxy of
    docker-compose.yml if nginx is installed, and of gunicorn's own threads with the same application.
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
@count_option("--jobs", 200, "Submit this many jobs of two slices at a time, of two owners in turn.")
@count_option("--seconds", 60, "Submit again until this many seconds have passed.")
@json_option
def claims(url: str | None, workers: int, jobs: int, seconds: int, as_json: bool) -> None:
    """Measure how many slices/s workers claim and record.

    No file is read and no engine runs: this measures the database alone. Prints the number of deadlocks that PostgreSQL
    has counted, and the errors of transactions that it broke off.
    """
    from cli.benchmarks.claims import run

    run(url, workers, jobs, seconds, as_json)


@bench.command()
@click.argument("dataset", metavar="DATASET")
@run_options("scratch")
@json_option
def fitting(dataset: str, as_json: bool, **options: Any) -> None:
    """Train on a DATASET of CTBATCH_HOME in this process.

    Prints slices/s, the time, and the metrics on unseen groups. Trains as `ctbatch train` does, but makes no
    package. Uses the device and the backend that Keras is set to, so it can measure a GPU. Keeps only the split.
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

    Prints the metrics on unseen groups. PATH is as for `ctbatch datasets create --from`. With the preset scratch this
    takes an hour or more.
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

    PATH is a folder of slices like those that the model was trained on. Use slices that it has not seen, if
    possible. The other pictures are made from them (other windows, inverted, upside down) or are photographs, noise and
    MR.
    """
    from cli.benchmarks.ood import run

    run(path, package, as_json)


@bench.command()
@click.option(
    "--devices",
    default="1,2,4,8",
    show_default=True,
    help="Measure these numbers of devices, each a host.",
)
@click.option(
    "--rate", type=click.FloatRange(1), default=500, show_default=True, help="Slices/s that a device predicts."
)
@count_option("--seconds", 15, "Give each number of devices the work of about so many seconds.")
@even_if_disturbed
@json_option
def hosts(devices: str, rate: float, seconds: int, even_if_disturbed: bool, as_json: bool) -> None:
    """Measure the slices/s of many machines, which are simulated.

    PostgreSQL, Redis, an S3 server, ingest and each inference worker run in a network namespace of their own, so this
    needs root. A device takes its time for a slice, and computes nothing. Slices are not decoded: their chunks are
    prepared before the clock starts. Prints core-milliseconds a slice of each kind of host, because all hosts share the
    cores of this machine. Needs `pip install 'ctbatch[bench]'`.
    """
    from cli.benchmarks.many.devices import run

    run([int(count) for count in devices.split(",")], rate, seconds, even_if_disturbed, as_json)


@bench.command()
@click.option("--database", "url", help="Use this empty database, e.g. postgresql://…  [default: SQLite]")
@click.option("--postgres", is_flag=True, help="Start a PostgreSQL for this; its programs must be installed.")
@count_option("--slices", 50_000, "Record this many slices in all.")
@count_option("--processes", 2, "Record in this many processes, a job in each.")
@even_if_disturbed
@json_option
def ledger(
    url: str | None, postgres: bool, slices: int, processes: int, even_if_disturbed: bool, as_json: bool
) -> None:
    """Measure how many slices/s the database records.

    Slices are recorded in chunks of 128 as they are by ingest and inference workers. No file is read and no engine
    runs. `read` and `predicted` are the two recordings, `closed` the settling of patients and series, and `whole` all
    three one after the other.
    """
    from cli.benchmarks.many.ledger import run

    run(url, postgres, slices, processes, even_if_disturbed, as_json)


@bench.command()
@click.option("--sizes", default="1000,10000,100000", show_default=True, help="Classify jobs of so many slices.")
@count_option("--rows", 1_000_000, "Copy results to so many rows, and ask for these; 0: do not.", least=0)
@click.option("--tiny", is_flag=True, help="Use slices of 16 × 16 pixels and no network, so that the rest shows.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this PNG; needs training.")
@even_if_disturbed
@json_option
def scale(sizes: str, rows: int, tiny: bool, plot: Path | None, even_if_disturbed: bool, as_json: bool) -> None:
    """Measure what grows with the number of slices.

    Prints milliseconds a slice from submission to the end, the largest memory of a process of each role (PSS and RSS,
    looked at once a second), and the median time of each query of the API.
    """
    if plot is not None:
        check_installed()
    from cli.benchmarks.many.growth import run

    run([int(size) for size in sizes.split(",")], rows, tiny, plot, even_if_disturbed, as_json)
