"""Tunes how the OpenVINO engine divides work between the cores of this machine. The result is stored and used later.

The best division depends on the processor and on the network's file, so a tuning is valid for this pair. It is stored
in the home, which belongs to one machine.
"""

import logging
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from db.database import current
from worker.engines.interface import Engine
from worker.engines.openvino import DEFAULT_REQUEST, OpenVinoEngine
from worker.engines.processor import read_processor, usable_cores
from worker.imaging.recipe import SIDE

log = logging.getLogger(__name__)

SECONDS = 20.0  # after this time, no more settings are tried
# the length of each of ROUNDS; the quickest round counts, because other processes may disturb a round
MEASURED_SECONDS = 0.4
ROUNDS = 3
CALL = 4  # requests that each stream computes in a call
REQUESTS = (2, 8, 16)  # numbers of slices in a request that are tried besides the default
CLEARLY = 1.03  # the least gain that counts; a smaller gain is noise


class Tuning(BaseModel):
    """The settings of an engine. Parallel `streams` share the `threads`. Each stream computes `request` slices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    streams: int = Field(ge=1)
    threads: int = Field(ge=1)
    request: int = Field(ge=1)
    slices_per_second: float = Field(gt=0)


_KEPT = TypeAdapter(dict[str, Tuning])


def kept_tuning(sha256: str, precision: str, threads: int | None = None) -> Tuning | None:
    """Return the stored tuning of a network's file in a precision on this processor, or None if there is none."""
    return _read().get(_key(sha256, precision, threads))


def tune(model: Path, sha256: str, precision: str, threads: int | None = None) -> Tuning:
    """Try settings for a network, for half a minute at most, and store the quickest. Run nothing else meanwhile."""
    ends = time.monotonic() + SECONDS
    cores = threads or usable_cores()
    slices = np.random.default_rng(5).integers(0, 256, (CALL * cores * max(REQUESTS), SIDE, SIDE), np.uint8)
    best: Tuning | None = None
    for streams, used in _ways(cores):
        if best is not None and time.monotonic() > ends:
            break
        best = _better(best, _measured(model, precision, slices, streams, used, DEFAULT_REQUEST))
    assert best is not None  # noqa: S101  the first way is always tried
    for request in REQUESTS:
        if time.monotonic() > ends:
            break
        best = _better(best, _measured(model, precision, slices, best.streams, best.threads, request))
    _write(_read() | {_key(sha256, precision, threads): best})
    return best


def _ways(cores: int) -> list[tuple[int, int]]:
    """Return the numbers of streams and threads to try, default first.

    Fewer threads than cores may be quicker, because two cores may share their arithmetic units.
    """
    ways = [(cores, cores), (max(cores // 2, 1), cores), (max(cores // 2, 1), max(cores // 2, 1)), (1, cores)]
    return list(dict.fromkeys(ways))


def _better(one: Tuning | None, other: Tuning) -> Tuning:
    return other if one is None or other.slices_per_second > CLEARLY * one.slices_per_second else one


def _measured(
    model: Path, precision: str, slices: NDArray[np.uint8], streams: int, threads: int, request: int
) -> Tuning:
    engine = OpenVinoEngine(model, precision, threads, streams=streams, request=request)
    engine.predict(slices[: streams * request])
    rates = [_rate(engine, slices[: CALL * streams * request]) for _ in range(ROUNDS)]
    return Tuning(streams=streams, threads=threads, request=request, slices_per_second=round(max(rates), 2))


def _rate(engine: Engine, slices: NDArray[np.uint8]) -> float:
    began, count, seconds = time.perf_counter(), 0, 0.0
    while not count or seconds < MEASURED_SECONDS:
        engine.predict(slices)
        count += len(slices)
        seconds = time.perf_counter() - began
    return count / seconds


def _key(sha256: str, precision: str, threads: int | None) -> str:
    return f"{read_processor().line}; {threads or usable_cores()} threads; {precision}; {sha256}"


def _file() -> Path:
    return current().home / "tuning.json"


def _read() -> dict[str, Tuning]:
    try:
        return _KEPT.validate_json(_file().read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError):
        log.warning("the file of tunings cannot be read; the engine runs untuned")
        return {}


def _write(tunings: dict[str, Tuning]) -> None:
    temporary = _file().with_suffix(".new")
    temporary.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary.write_bytes(_KEPT.dump_json(tunings, indent=1))
    temporary.replace(_file())
