"""Peers are started, fed and stopped by one runner, and compared with ctbatch in one table."""

import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.benchmarks.peers.catalogue import PEERS, Peer
from cli.benchmarks.peers.compare import Row, Verdict, Verdicts, read_rows, table
from cli.benchmarks.peers.process import run_peer
from cli.commands.bench import bench
from cli.errors import Unavailable

FAKE = "tests.builders.fake_peer"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of three files."""
    path = tmp_path / "slices.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(3):
            packed.writestr(f"{number}.png", b"")
    return path


def test_peer_writes_its_rows_and_is_stopped_with_all_it_started(archive: Path, tmp_path: Path) -> None:
    timed, database = run_peer(Peer("fake", FAKE, "", "good"), tmp_path, archive, tmp_path / "run")
    assert read_rows(database) == {f"{n}.png": Verdict(n / 10, True) for n in range(3)}
    assert timed.seconds > 0
    assert timed.start_seconds > 0
    left = (tmp_path / "run" / "left").read_text()
    state = Path(f"/proc/{left}/stat")
    assert not state.exists() or " Z " in state.read_text()


def test_peer_that_fails_is_reported_with_its_log(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the network cannot be loaded"):
        run_peer(Peer("fake", FAKE, "", "fails"), tmp_path, archive, tmp_path / "run")


def test_peer_that_is_not_installed_names_the_command(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="make peer-nowhere"):
        run_peer(Peer("fake", FAKE, "nowhere", "int8"), tmp_path, archive, tmp_path / "run")


def test_unknown_peer_is_refused() -> None:
    refused = CliRunner().invoke(bench, ["peers", "--peer", "abacus"])
    assert refused.exit_code != 0
    assert all(name in refused.output for name in PEERS)


def row(name: str, seconds: float, verdicts: Verdicts) -> Row:
    return Row(name, len(verdicts), seconds, 1.0, verdicts, disturbed=False, others="")


def test_table_has_ratios_to_ctbatch_and_labels_that_differ() -> None:
    ours = {"a": Verdict(0.4, False), "b": Verdict(0.9, True)}
    theirs = {"b": Verdict(0.9, True), "a": Verdict(0.6, True)}
    first, second, peer = table([row("ctbatch", 1.0, ours), row("ctbatch", 1.0, ours)], [row("peer", 2.0, theirs)])
    assert (first["slices/s"], first["ctbatch / system"], first["other labels"]) == (2.0, 1.0, 0)
    assert second == first
    assert (peer["slices/s"], peer["ctbatch / system"], peer["largest difference"]) == (1.0, 2.0, 0.2)
    assert peer["differences"] == [{"slice": 0, "ctbatch": 0.4, "peer": 0.6}]


def test_peer_without_a_row_for_each_slice_is_no_result() -> None:
    ours = {"a": Verdict(0.4, False), "b": Verdict(0.9, True)}
    with pytest.raises(Unavailable):
        table([row("ctbatch", 1.0, ours)], [row("peer", 2.0, {"a": Verdict(0.4, False)})])
