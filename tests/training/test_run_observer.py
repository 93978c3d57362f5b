"""The rate that a run reports, from which its time left is estimated."""

from collections.abc import Iterator

import pytest

from training.loop.observer import Step
from training.run_observer import RATE_SECONDS, MovingRate


def at(step: int, epoch: int = 0, stage: int = 0) -> Step:
    return Step(stage, 2, "s", epoch, 4, step, 10, 0.5, None)


def rates(*steps: tuple[float, Step]) -> list[float | None]:
    """The rates after steps of 32 slices, each at its time in seconds."""
    times: Iterator[float] = iter(time for time, _ in steps)
    rate = MovingRate(lambda: next(times))
    return [rate.after(step, 32) for _, step in steps]


def test_first_step_of_a_stage_compiles_and_does_not_count() -> None:
    assert rates((90.0, at(1)), (92.0, at(2)), (94.0, at(3))) == [None, 16.0, 16.0]
    assert rates((0.0, at(1)), (1.0, at(2)), (80.0, at(1, stage=1)), (84.0, at(2, stage=1))) == [None, 32.0, None, 8.0]


def test_rate_follows_the_last_minute() -> None:
    slow = [(float(second), at(second, epoch=0)) for second in range(1, 11)]
    fast = [(10 + RATE_SECONDS + step / 4, at(step, epoch=1)) for step in range(1, 11)]
    assert rates(*slow, *fast)[-1] == pytest.approx(4 * 32)


def test_time_between_epochs_counts() -> None:
    # Nine steps in nine seconds, then a validation of ten seconds before the next.
    *_, last = rates(*[(float(second), at(second)) for second in range(1, 11)], (21.0, at(1, epoch=1)))
    assert last == pytest.approx(32 * 10 / 20)
