"""How often a client looks at a job, and how soon it sees the end."""

import functools
from dataclasses import dataclass

import httpx
import pytest

from cli.remote.client import Client
from cli.remote.find_server import Server


@dataclass
class Clock:
    """A clock that only pauses move."""

    now: float = 100.0
    looks: int = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for place in ("cli.polling.monotonic", "cli.remote.client.time.monotonic"):
        monkeypatch.setattr(place, clock.monotonic)
    monkeypatch.setattr("cli.polling.sleep", clock.sleep)
    return clock


def watched(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float, *, estimate: float | None = 1.0) -> float:
    """Watch a job of so many seconds, and return after how many more its end was seen.

    It advances in 8 steps. `estimate`: what the server says of the rest, as a share of what it will be.
    """
    began = clock.now

    def answer(_: httpx.Request) -> httpx.Response:
        clock.looks += 1
        spent = clock.now - began
        eta = None if estimate is None else estimate * (seconds - spent)
        state = "finished" if spent >= seconds else "running"
        return httpx.Response(
            200, json={"state": state, "stages": {"done": int(8 * spent / seconds)}, "eta_seconds": eta}
        )

    monkeypatch.setattr(httpx, "Client", functools.partial(httpx.Client, transport=httpx.MockTransport(answer)))
    with Client(Server("http://test", "token", local=True)) as client:
        last = list(client.watch("job"))[-1]
    assert last["state"] == "finished"
    return clock.now - began - seconds


@pytest.mark.parametrize(
    ("seconds", "looks", "late"), [(0.1, 5, 0.04), (8, 130, 0.1), (600, 950, 0.8), (3_600, 4_100, 1)]
)
@pytest.mark.parametrize("estimate", [0.5, 1.0, 2.0])
def test_end_is_seen_soon_by_few_looks_even_if_the_estimate_is_wrong(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float, looks: int, late: float, estimate: float
) -> None:
    assert watched(monkeypatch, clock, seconds, estimate=estimate) <= late
    assert clock.looks <= looks


def test_job_that_waits_for_others_is_looked_at_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    assert watched(monkeypatch, clock, 60, estimate=None) <= 1
    assert clock.looks <= 150
