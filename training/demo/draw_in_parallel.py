"""Draws many phantoms in parallel, with a process for each core."""

import itertools
import os
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from training.errors import RunFailed
from worker.engines.processor import usable_cores
from worker.phantoms.slices import LabelledSlices

_CODE = """
import sys, numpy
from worker.phantoms.slices import labelled_slices
seed, pairs, per_patient, first, size = map(int, sys.argv[1:6])
drawn = labelled_slices(seed, pairs, per_patient, first_pair=first, size=size)
numpy.savez(sys.argv[6], **vars(drawn))
"""


def draw_on_all_cores(seed: int, pairs: int, per_patient: int, *, first_pair: int, size: int) -> LabelledSlices:
    """Draw as `labelled_slices` does, but divide the pairs of patients between processes.

    The processes are plain commands. multiprocessing is not used, because a worker's process is a daemon, which may not
    have such children, and a fork of a process that runs TensorFlow can hang.
    """
    cores = usable_cores()
    shares = list(itertools.pairwise(first_pair + pairs * n // cores for n in range(cores + 1)))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="ctbatch-") as folder:
        files = [f"{folder}/{start}.npz" for start, end in shares if end > start]
        started = [
            subprocess.Popen(  # noqa: S603  (our own code)
                [sys.executable, "-P", "-c", _CODE, *map(str, (seed, end - start, per_patient, start, size)), file],
                env=environment,
            )
            for (start, end), file in zip([s for s in shares if s[1] > s[0]], files, strict=True)
        ]
        codes = [process.wait() for process in started]
        if any(codes):
            raise RunFailed("a process that draws phantoms failed; the log of the training worker says why")
        parts = [np.load(file) for file in files]
        names = [field.name for field in fields(LabelledSlices)]
        return LabelledSlices(**{name: np.concatenate([part[name] for part in parts]) for name in names})
