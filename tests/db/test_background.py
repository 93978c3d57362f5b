"""Work in a thread of its own: who waits is told each second, and nothing that is raised gets lost."""

from threading import Event

import pytest

from db import background as module
from db.background import run_with_heartbeat


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)


def test_what_the_work_gives_comes_back_and_somebody_is_told_meanwhile():
    told = []

    def work():
        while len(told) < 3:
            pass
        return "done"

    assert run_with_heartbeat(work, lambda: told.append(True)) == "done"
    assert len(told) >= 3


def test_what_the_work_raises_is_raised():
    def work():
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        run_with_heartbeat(work, lambda: None)


def test_work_that_takes_too_long_is_given_up():
    end = Event()
    try:
        with pytest.raises(TimeoutError):
            run_with_heartbeat(lambda: end.wait(60), lambda: None, at_most=0.05)
        assert not end.is_set()
    finally:
        end.set()


def test_a_cancel_does_not_wait_for_the_work():
    class Cancelled(Exception):
        pass

    def cancelled():
        raise Cancelled

    end = Event()
    try:
        with pytest.raises(Cancelled):
            run_with_heartbeat(lambda: end.wait(60), cancelled)
        assert not end.is_set()
    finally:
        end.set()
