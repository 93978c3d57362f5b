"""Messages to a broker that hangs: senders wait for it once, and then not for a while."""

import socket
from collections.abc import Iterator

import pytest

from db import broker
from db import database as base
from db.broker import Queue
from db.settings import Settings


@pytest.fixture
def hanging(settings: Settings) -> Iterator[socket.socket]:
    """A broker that accepts connections and answers nothing, in use by this test."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        base.use(settings.model_copy(update={"broker_url": url}))
        yield server


def connections(server: socket.socket) -> int:
    """How many connections were opened since the last call."""
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.timeout(20)
def test_broker_that_hangs_is_left_alone_for_a_while(hanging: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "SEND_SECONDS", 0.1)
    assert not broker.wake(Queue.INGEST)
    assert connections(hanging) >= 1
    assert not broker.wake(Queue.INFERENCE)
    assert connections(hanging) == 0
    monkeypatch.setattr(broker, "PAUSE_SECONDS", 0.0)
    broker._paused_until.clear()
    assert not broker.wake(Queue.INGEST)
    assert not broker.wake(Queue.INGEST)
    assert connections(hanging) >= 2, "the pause is over"


def test_broker_that_refuses_connections_is_tried_each_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{closed.getsockname()[1]}/0"
    base.use(settings.model_copy(update={"broker_url": url}))
    assert not broker.wake(Queue.INGEST)
    assert url not in broker._paused_until
