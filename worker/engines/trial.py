"""Tries an imported model version before it may be promoted: runs its engine in a confined process.

A hash shows only that a file arrived whole. A trial also shows that the network can be loaded, that it finishes, and
that its scores are numbers. `worker.imaging.sandbox.seccomp.forbid_effects` states what the process must not do. The
process has no secrets and no database.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from db.database import current
from db.models import ModelVersion
from db.registry import versions
from worker.engines.interface import Scores
from worker.engines.load import EngineUnproven, check_keras_file, keep_results, load_engine
from worker.engines.package import PackageError, read_package
from worker.engines.proof import FIRST_PAIR, SEED, ProofResult, exact_by_itself, failed, result_of
from worker.imaging.sandbox.filter_choice import filter_choice
from worker.imaging.sandbox.protocol import FILTER_REQUIRED
from worker.imaging.sandbox.seccomp import forbid_effects
from worker.linux_process import die_with_parent
from worker.phantoms.slices import labelled_slices

SECONDS = 300.0
LOOK_SECONDS = 0.5  # pause between two looks whether a trial must give way
PAIRS = 2  # pairs of phantoms, with four slices each
MAX_REPLY_BYTES = 1 << 20
_ROOT = Path(__file__).parents[2]
_LAUNCH = "import sys; sys.path[:0] = sys.argv[1:2]; from worker.engines.trial import main; main(*sys.argv[2:])"
_PASSED_ON = ("LD_LIBRARY_PATH", "KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS")


class _Reply(BaseModel):
    """What the confined process reports about one engine. The report is not trusted, so its fields are bounded."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    engine: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    passed: bool
    largest_difference: float | None
    seconds: Annotated[float, Field(ge=0)]
    text: Annotated[str, Field(max_length=2000, pattern=r"^[ -~]*$")]


_Replies = TypeAdapter(Annotated[list[_Reply], Field(min_length=1, max_length=10)])


def try_version(version: ModelVersion, gives_way: Callable[[], bool] = lambda: False) -> list[ProofResult]:
    """Load the engine that the settings choose, run its proof and some phantoms through it, and keep the results.

    If the trial gives way (`try_package`), nothing is kept. Raises storage's FileMissing and FileDamaged, and what
    `gives_way` raises.
    """
    folder, settings = versions.package_folder(version), current()
    results = try_package(folder, settings.engine, settings.engine_threads, gives_way)
    if results:
        keep_results(version, results)
    return results


def try_package(
    folder: Path, choice: str, threads: int = 0, gives_way: Callable[[], bool] = lambda: False
) -> list[ProofResult]:
    """Try the engines of a package in a confined process. The last result says whether an engine may serve.

    `gives_way` is called again and again. If it returns True before the process has ended, the process is killed, and
    the list is empty.
    """
    try:
        check_keras_file(folder, read_package(folder))
    except PackageError as error:
        return [failed(choice, str(error))]
    process = subprocess.Popen(  # noqa: S603  our own interpreter and module
        [
            sys.executable,
            "-I",
            "-B",
            "-c",
            _LAUNCH,
            str(_ROOT),
            str(os.getpid()),
            filter_choice(),
            str(folder),
            choice,
            str(threads),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "", "KERAS_HOME": "/nonexistent"}
        | {name: value for name, value in os.environ.items() if name in _PASSED_ON},
    )
    with process:
        try:
            reply = _reply(process, gives_way)
        except subprocess.TimeoutExpired:
            return [failed(choice, f"its trial took more than {SECONDS:.0f} seconds")]
        finally:
            process.kill()
    if reply is None:
        return []
    try:
        replies = _Replies.validate_json(reply)
    except ValidationError:
        return [failed(choice, f"its trial broke off: the process ended with code {process.returncode}")]
    return [result_of(**dict(one)) for one in replies]


def _reply(process: subprocess.Popen[bytes], gives_way: Callable[[], bool]) -> bytes | None:
    """Return what the process wrote, at most `MAX_REPLY_BYTES`, or None if it must give way.

    Raises TimeoutExpired after `SECONDS`.
    """
    assert process.stdout is not None  # noqa: S101  (a pipe)
    until, reply = time.monotonic() + SECONDS, b""
    while len(reply) < MAX_REPLY_BYTES:
        left = until - time.monotonic()
        if left <= 0:
            raise subprocess.TimeoutExpired(process.args, SECONDS)
        if select.select([process.stdout], [], [], min(LOOK_SECONDS, left))[0]:
            piece = os.read(process.stdout.fileno(), MAX_REPLY_BYTES - len(reply))
            if not piece:
                break
            reply += piece
        elif gives_way():
            return None
    return reply


def main(parent: str, filter_: str, folder: str, choice: str, threads: str) -> NoReturn:
    """Confine this process, try the package, and write the results to stdout as JSON.

    If the filter is `required` but cannot be set, the package is not tried, and counts as failed.
    """
    die_with_parent(int(parent))
    replies = os.dup(1)
    os.dup2(2, 1)  # so that libraries do not print into the answer
    # TensorFlow asks for this folder; without it, Python would try to write into several folders
    tempfile.tempdir = "/nonexistent"
    unfiltered = forbid_effects()
    if unfiltered and filter_ == FILTER_REQUIRED:
        results = [failed(choice, f"this machine cannot confine its trial: {unfiltered}")]
    else:
        results = _try(Path(folder), choice, int(threads) or None)
    fields = _Reply.model_fields
    answer = json.dumps([{name: getattr(result, name) for name in fields} for result in results]).encode()
    view = memoryview(answer)
    while view:
        view = view[os.write(replies, view) :]
    os._exit(0)


def _try(folder: Path, choice: str, threads: int | None) -> list[ProofResult]:
    try:
        proven = load_engine(folder, choice, threads=threads)
    except EngineUnproven as error:
        return error.results
    except PackageError as error:
        return [failed(choice, str(error))]
    slices = labelled_slices(SEED, PAIRS, 2, first_pair=FIRST_PAIR).pixels
    try:
        why = _fault(proven.engine.predict(slices), len(slices))
    except Exception as error:
        why = f"it cannot be run: {type(error).__name__}"
    if why:
        return [failed(proven.engine.name, why)]
    return proven.results or [exact_by_itself(proven.engine)]


def _fault(scores: Scores, count: int) -> str | None:
    """Return what is wrong with the scores of `count` phantoms, or None."""
    arrays = {"logit": (scores.logit, (count,)), "cam": (scores.cam, (count, 7, 7))}
    if scores.distance is not None:
        arrays["distance"] = (scores.distance, (count,))
    for name, (array, shape) in arrays.items():
        if array.shape != shape:
            return f"its {name} has the shape {list(array.shape)}, not {list(shape)}"
        if not np.isfinite(array).all():
            return f"its {name} is not a number for a phantom"
    return None
