"""Which process serves which queue."""

import socket
from pathlib import Path

import pytest

from cli.supervisor import roles
from cli.supervisor.roles import CELERY, command_line, environment
from db.broker import Queue
from db.settings import Settings
from tests.conftest import make_settings
from web.server import hooks


def queues_of(role: str) -> set[str]:
    """The queues in the command line of a role's process."""
    words = command_line(role, Settings())
    return set(words[words.index("-Q") + 1].split(","))


def test_every_queue_is_served_by_one_role() -> None:
    served = [queue for role in CELERY for queue in queues_of(role)]
    assert sorted(served) == sorted(Queue)


@pytest.mark.parametrize(("cores", "processes"), [(1, "2"), (8, "2"), (64, "16")])
def test_ingest_serves_no_other_queue_and_has_a_second_process_for_small_jobs(
    cores: int, processes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "usable_cores", lambda: cores)
    words = command_line("ingest", Settings())
    assert queues_of("ingest") == {Queue.INGEST}
    assert words[words.index("-c") + 1] == processes


def test_several_web_processes_count_in_one_folder(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, web_workers=2)
    assert environment("web", settings, {})["PROMETHEUS_MULTIPROC_DIR"] == str(
        tmp_path / "run/metrics" / f"{socket.gethostname()}-{settings.port}"
    )
    assert environment("web", settings, {"PROMETHEUS_MULTIPROC_DIR": "/own"})["PROMETHEUS_MULTIPROC_DIR"] == "/own"
    assert "PROMETHEUS_MULTIPROC_DIR" not in environment("web", make_settings(tmp_path), {})
    assert "PROMETHEUS_MULTIPROC_DIR" not in environment("ingest", settings, {})


def test_counts_of_an_earlier_start_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "metrics/histogram_1.db"
    old.parent.mkdir()
    old.touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(old.parent))
    hooks.on_starting(None)
    assert list(old.parent.iterdir()) == []
