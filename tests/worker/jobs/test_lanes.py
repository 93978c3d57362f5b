"""The two lanes of a worker: one claims, reads and records while the other's work is in the engine."""

from threading import Event

import pytest

from worker.jobs.lanes import Lanes


def test_next_work_is_begun_while_the_first_is_carried_out() -> None:
    waiting = [2, 3]
    begun, done = Event(), []

    def carry_out(work: int) -> None:
        if work == 1:
            assert begun.wait(20)
        begun.set()
        done.append(work)

    Lanes(lambda: waiting.pop(0) if waiting else None, carry_out).run(1)
    assert sorted(done) == [1, 2, 3]


def test_work_that_comes_while_a_lane_is_busy_is_taken() -> None:
    came, done = Event(), []

    def claim() -> int | None:
        return None if done or not came.is_set() else 2

    def carry_out(work: int) -> None:
        if work == 1:
            came.set()
            while 2 not in done:
                Event().wait(0.01)
        done.append(work)

    Lanes(claim, carry_out).run(1)
    assert done == [2, 1]


@pytest.mark.parametrize("failing", [1, 2])
def test_an_error_in_either_lane_ends_both(failing: int) -> None:
    begun = Event()

    def carry_out(work: int) -> None:
        if work == failing:
            assert failing == 2 or begun.wait(20)
            raise RuntimeError("as said")
        begun.set()

    claims = iter([2])
    with pytest.raises(RuntimeError, match="as said"):
        Lanes(lambda: next(claims, None), carry_out).run(1)
