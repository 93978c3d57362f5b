"""Measures ctbatch and its peers, one after the other, on the same slices and with the same weights."""

import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import select

from cli.benchmarks.peers.catalogue import Peer
from cli.benchmarks.peers.compare import COLUMNS, Row, Verdict, read_rows, table
from cli.benchmarks.peers.package import KERAS_FILES, package_for_peers
from cli.benchmarks.peers.process import run_peer
from cli.benchmarks.server import last_view, send_archive, serve, warm_up
from cli.benchmarks.slices import pack, slice_files, write_scans
from cli.benchmarks.watch.others import Disturbance, raise_if_spoilt, watched
from cli.errors import Unavailable
from cli.output import print_json, print_table, say
from db.database import read_scope
from db.models import Prediction, Slice
from db.registry.manifest import INT8_FILE
from worker.engines.package import read_package
from worker.engines.processor import read_processor

SIZE, SEED = (400, 300), 21  # of synthetic slices: width and height in pixels, and random seed


def run(
    path: Path | None, slices: int, package: Path | None, peers: Sequence[Peer], shown: bool, as_json: bool
) -> None:
    """Measure ctbatch, each peer, and ctbatch again. Print the table.

    Raise Unavailable if other processes disturbed a run. If `shown`, print the values and mark them as disturbed
    instead. Also raise Unavailable if a peer is not installed or fails.
    """
    for peer in peers:
        if not peer.python.exists():
            raise Unavailable(f"the peer {peer.name} is not installed; `make peer-{peer.environment}` installs it")
    package = package_for_peers(package)
    needed = {INT8_FILE, *(KERAS_FILES if any(peer.engine == "keras" for peer in peers) else ())}
    if missing := needed - read_package(package).files.keys():
        raise Unavailable(f"the package {package} lacks {', '.join(sorted(missing))}; name another with --package")
    with tempfile.TemporaryDirectory(prefix="ctbatch-peers-") as name:
        folder = Path(name)
        archive = folder / "slices.zip"
        _write(archive, path, slices)
        ours = [_ctbatch(package, archive, shown)]
        theirs = [_peer(peer, package, archive, folder, shown) for peer in peers]
        ours.append(_ctbatch(package, archive, shown))
    _print(table(ours, theirs), len(ours[0].verdicts), as_json)


def _write(archive: Path, path: Path | None, slices: int) -> None:
    """Write an archive of at most `slices` slices.

    Take the slices from all over the folder `path`. If `path` is None, make synthetic slices.
    """
    if path is None:
        write_scans(archive, slices, "PNG", SIZE, SEED)
        return
    files = slice_files(path)
    chosen = np.linspace(0, len(files) - 1, min(slices, len(files))).astype(int)
    pack(archive, path, [files[number] for number in chosen])


def _ctbatch(package: Path, archive: Path, shown: bool) -> Row:
    """Measure a whole job from its submission to its end, after a warm-up."""
    say("measuring ctbatch")
    began = time.monotonic()
    with serve(package) as bench:
        warm_up(bench)
        ready = time.monotonic() - began
        with watched() as disturbance:
            began = time.monotonic()
            job = last_view(bench, send_archive(bench, archive))
            seconds = time.monotonic() - began
        raise_if_spoilt(disturbance, shown)
        with read_scope() as s:
            query = select(Slice.name, Prediction.engine, Prediction.probability, Prediction.positive)
            query = query.join(Prediction, Prediction.slice_id == Slice.id).where(Slice.job_id == job["id"])
            rows = s.execute(query.order_by(Slice.ordinal)).all()
    verdicts = {row.name: Verdict(row.probability, row.positive) for row in rows}
    with zipfile.ZipFile(archive) as packed:
        if len(verdicts) != len(packed.infolist()):
            raise Unavailable(f"ctbatch predicted {len(verdicts)} of {len(packed.infolist())} slices; use other slices")
    return _row(f"ctbatch, {rows[0].engine}", verdicts, seconds, ready, disturbance)


def _peer(peer: Peer, package: Path, archive: Path, folder: Path, shown: bool) -> Row:
    say(f"measuring {peer.name}")
    timed, database = run_peer(peer, package, archive, folder / peer.name)
    raise_if_spoilt(timed.disturbance, shown)
    return _row(peer.name, read_rows(database), timed.seconds, timed.start_seconds, timed.disturbance)


def _row(
    name: str, verdicts: dict[str, Verdict], seconds: float, start_seconds: float, disturbance: Disturbance
) -> Row:
    row = Row(name, len(verdicts), seconds, start_seconds, verdicts, disturbance.spoils, str(disturbance))
    say(f"{name}: {row.rate:.1f} slices/s; others took {disturbance}")
    return row


def _print(lines: list[dict[str, object]], slices: int, as_json: bool) -> None:
    processor = read_processor().line
    if as_json:
        print_json({"processor": processor, "slices": slices, "systems": lines})
        return
    say(f"{slices} slices, {processor}")
    print_table(COLUMNS, [[line[name] for name in COLUMNS] for line in lines])
    for line in lines:
        if line["disturbed"]:
            say(f"{line['system']} is not a result: others took {line['others']}")
        if line["differences"]:
            say(f"{line['system']} differs in slices {line['differences']}")
