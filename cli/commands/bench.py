"""`ctbatch bench`: measures the speed of this machine and the quality of models, and compares with a reference."""

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
    "--package", type=FOLDER, help="Serve this model package  [default: the champion of CTBATCH_HOME or the demo model]"
)
TESTED_PACKAGE = click.option("--package", type=FOLDER, required=True, help="Test this model package.")


def count_option(name: str, default: int, purpose: str, least: int = 1) -> Callable[[Callable[..., Any]], Any]:
    """Add an option for a whole number. `least` is the smallest number that it accepts."""
    return click.option(name, type=click.IntRange(least), default=default, show_default=True, help=purpose)


@click.group()
def bench() -> None:
    """Measure the speed of this machine, and the quality of models. Run nothing else meanwhile.

    pipeline, peers, latency, small-jobs, intake, connections and scale start ctbatch in a temporary folder.
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
    --wait` does: send, check, unpack, decode, predict and record. The speed is compared with the speed of the engine
    alone. The engine alone gets the same slices from memory, already prepared. Also prints how many core-milliseconds
    each stage takes for a slice.
    """
    from cli.benchmarks.job_throughput import run

    run(path, slices, package, even_if_disturbed, as_json)


@bench.command()
@click.argument("path", required=False, type=FOLDER)
@count_option("--slices", 300, "Classify this many slices.")
@click.option("--package", type=FOLDER, help="Predict with this model package  [default: .build/demo-package]")
@click.option("--peer", "names", multiple=True, help="Measure this peer. Can be repeated.  [default: all]")
@even_if_disturbed
@json_option
def peers(
    path: Path | None, slices: int, package: Path | None, names: tuple[str, ...], even_if_disturbed: bool, as_json: bool
) -> None:
    """Compare the speed of ctbatch with other systems.

    These systems are called peers. Install them with `make peers` first. PATH is a folder of slices  [default:
    synthetic slices]. Each peer predicts the same slices with the same weights, and writes the same rows into SQLite.
    The time runs from the first byte read to the last row written. Every system except Ray Data has loaded its model
    before this time. ctbatch is measured before and after the peers.
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

    Prints the median and the 95th percentile. The worker has loaded its model before the first measured job.
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

    Stores one slice (512 × 512 pixels, 16 bits) in five files: one uncompressed, and one in each of four lossless
    syntaxes. Then decodes and prepares each file. The speed is compared with the speed of the codec alone. Prints
    the best of five rounds.
    """
    from cli.benchmarks.decoding import run

    run(slices, as_json)


@bench.command()
@click.argument("path", required=False, type=FOLDER)
@count_option("--slices", 500, "Prepare this many slices.")
@count_option("--rounds", 3, "Measure this many rounds, each on other slices. Print the lowest time.")
@json_option
def preparing(path: Path | None, slices: int, rounds: int, as_json: bool) -> None:
    """Measure the processor time to prepare a slice.

    PATH is a folder of slices  [default: synthetic PNG of 400 × 300 and JPEG of 512 × 512 pixels]. Preparing
    begins with the bytes of the archive and ends with prepared chunks and their rows in the database. No engine runs.
    Prints how many core-milliseconds a slice takes in each of three parts: receiving the archive, the ingest process,
    and the decoders.
    """
    from cli.benchmarks.preparing import run

    run(path, slices, rounds, as_json)


@bench.command()
@count_option("--pages", 50, "Ask for this many pages, one by one, each over a new connection.")
@count_option("--idle", 64, "Keep this many connections open. Half send nothing, half only begin a request.", least=0)
@count_option("--uploads", 16, "Upload this many files at once, at 2 Mbit/s each.", least=0)
@count_option("--readers", 16, "Let this many clients ask for a long answer and read it very slowly.", least=0)
@SERVER_PACKAGE
@json_option
def connections(pages: int, idle: int, uploads: int, readers: int, package: Path | None, as_json: bool) -> None:
    """Measure how long a page takes while clients are slow.

    Prints the longest time that a page took, with and without the slow clients. Measures `ctbatch up` and, for
    comparison, the same application in gunicorn's own worker with threads. If nginx is installed, also measures
    `ctbatch up` behind the proxy of docker-compose.yml.
    """
    from cli.benchmarks.connections import run

    run(pages, idle, uploads, readers, package, as_json)


@bench.command()
@count_option("--slices", 192, "Train on this many slices, at 224 × 224 pixels.", least=64)
@count_option("--batch", 32, "Use batches of this many slices.", least=2)
@click.option("--pixels", type=PATH, help="Train on this .npy file of uint8[n, 224, 224]  [default: phantoms]")
@json_option
def training(slices: int, batch: int, pixels: Path | None, as_json: bool) -> None:
    """Measure the slices/s of each training stage.

    The speed is compared with the speed of plain `model.fit`, for the same stage on the same slices. Prints the speed
    of an epoch, and the time to compute the outputs of the frozen layers. ctbatch computes these outputs once for each
    augmented copy of a slice, not in every epoch.
    """
    check_installed()
    from cli.benchmarks.training.stage_speed import run

    run(slices, batch, pixels, as_json)


@bench.command()
@click.option("--database", "url", help="Use this empty database, e.g. postgresql://…  [default: SQLite]")
@count_option("--workers", 8, "Claim and record in this many processes.")
@count_option("--jobs", 200, "Submit this many jobs a round. Each job has two slices. Two users own the jobs in turn.")
@count_option("--seconds", 60, "Submit more jobs until this many seconds have passed.")
@json_option
def claims(url: str | None, workers: int, jobs: int, seconds: int, as_json: bool) -> None:
    """Measure how many slices/s workers claim and record.

    No file is read and no engine runs, so this measures only the database. Also prints how many deadlocks PostgreSQL
    counted, and the errors of the transactions that the database aborted.
    """
    from cli.benchmarks.claims import run

    run(url, workers, jobs, seconds, as_json)


@bench.command()
@click.argument("dataset", metavar="DATASET")
@run_options("scratch")
@json_option
def fitting(dataset: str, as_json: bool, **options: Any) -> None:
    """Train on DATASET in this process.

    Prints slices/s, the time, and the metrics on unseen groups. Trains like `ctbatch train`, but stores only the split
    and makes no model version. Trains with Keras' backend, on the device that Keras chooses, which may be a GPU.
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
    """Measure a whole training run on labelled slices.

    Makes a dataset of PATH, trains on it, and prints the metrics on unseen groups. PATH is what `ctbatch datasets
    create --from` accepts. With the preset scratch this takes an hour or more.
    """
    check_installed()
    from cli.benchmarks.training.end_to_end import NAME, run

    run(path, RunRequest(dataset=NAME, **options), home, as_json)


@bench.command()
@click.argument("path", type=FOLDER)
@TESTED_PACKAGE
@json_option
def precision(path: Path, package: Path, as_json: bool) -> None:
    """Compare a package's int8 and float32 networks.

    Prints how many slices change their label, and by how much the probabilities differ. PATH is a folder of slices that
    were not used to train, calibrate or quantise the model.
    """
    from cli.benchmarks.precision import run

    run(path, package, as_json)


@bench.command()
@click.argument("path", type=FOLDER)
@TESTED_PACKAGE
@json_option
def ood(path: Path, package: Path, as_json: bool) -> None:
    """Measure how many pictures are flagged as ood.

    A picture is ood (out of distribution) if it is unlike the slices that the model was trained on. PATH is a folder of
    slices that resemble the training slices. If possible, use slices that the model has not seen. Prints the share of
    these slices that is flagged, and the share of other pictures that is flagged. Some of the other pictures are made
    from the slices (other windows, inverted, upside down). The rest are photographs, MR, noise and black pictures.
    """
    from cli.benchmarks.ood import run

    run(path, package, as_json)


@bench.command()
@click.option(
    "--devices",
    default="1,2,4,8",
    show_default=True,
    help="Measure with each of these numbers of devices. Each device is a simulated host.",
)
@click.option(
    "--rate",
    type=click.FloatRange(1),
    default=500,
    show_default=True,
    help="Let each device predict this many slices/s.",
)
@count_option("--seconds", 15, "Measure each number of devices for about this many seconds.")
@even_if_disturbed
@json_option
def hosts(devices: str, rate: float, seconds: int, even_if_disturbed: bool, as_json: bool) -> None:
    """Measure the slices/s of many simulated machines.

    PostgreSQL, Redis, an S3 server, ingest and each inference worker run on simulated hosts. A host is a network
    namespace, which only root can make. A device is an inference worker whose engine (`fake`) waits instead of
    computing. No slices are decoded, because the chunks are prepared before the time starts. All hosts share the cores
    of this machine, which may limit the speed. So the command also prints how many core-milliseconds a slice takes on
    each kind of host. Needs `pip install 'ctbatch[bench]'`.
    """
    from cli.benchmarks.many.devices import run

    run([int(count) for count in devices.split(",")], rate, seconds, even_if_disturbed, as_json)


@bench.command()
@click.option("--database", "url", help="Use this empty database, e.g. postgresql://…  [default: SQLite]")
@click.option("--postgres", is_flag=True, help="Start a PostgreSQL server, which must be installed.")
@count_option("--slices", 50_000, "Record this many slices in all.")
@count_option("--processes", 2, "Record in this many processes, one job in each.")
@even_if_disturbed
@json_option
def ledger(
    url: str | None, postgres: bool, slices: int, processes: int, even_if_disturbed: bool, as_json: bool
) -> None:
    """Measure how many slices/s the database records.

    Records slices in chunks of 128, as ingest and inference workers do. No file is read and no engine runs.

    \b
    Prints the speed of each part:
      read: recording the slices that ingest has prepared
      closed: closing an upload that was read, and checking its patients
        and series
      predicted: recording predictions
      whole: all three together
    """
    from cli.benchmarks.many.ledger import run

    run(url, postgres, slices, processes, even_if_disturbed, as_json)


@bench.command()
@click.option(
    "--sizes", default="1000,10000,100000", show_default=True, help="Classify a job of each of these sizes, in slices."
)
@count_option(
    "--rows",
    1_000_000,
    "Also query a job of this many slices, copied from the largest job. With 0, no such job is made.",
    least=0,
)
@click.option("--tiny", is_flag=True, help="Use slices of 16 × 16 pixels and no neural network (engine `fake`).")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw a PNG. Needs `make training`.")
@even_if_disturbed
@json_option
def scale(sizes: str, rows: int, tiny: bool, plot: Path | None, even_if_disturbed: bool, as_json: bool) -> None:
    """Measure how time and memory grow with the slices.

    \b
    Prints for each size:
      the milliseconds from submission to the job's end, divided by the
        number of slices
      the memory of the largest process of each role (PSS and RSS,
        measured once a second)
      the median time of each API query
    """
    if plot is not None:
        check_installed()
    from cli.benchmarks.many.growth import run

    run([int(size) for size in sizes.split(",")], rows, tiny, plot, even_if_disturbed, as_json)
