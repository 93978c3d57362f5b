"""Checkpoints as files in storage: what a run goes on from when its worker died."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from db.storage import storage
from training.loop.watcher import Checkpoint, EpochRecord
from worker.engines.package import sha256_of

NETWORK, STATE = "network.npz", "state.npz"


def write(checkpoint: Checkpoint, earlier: dict[str, Any], run_id: int) -> dict[str, Any]:
    """Put a checkpoint into storage; what names it, as TrainingRun.checkpoint keeps it.

    `earlier`: the one before. The network as the stage began is written once a stage. The run's id is in the files, so
    that no two runs name the same one: what one drops, the other may need.
    """
    mine = {"run": [np.array(run_id)]}
    same_stage = earlier.get("stage") == checkpoint.stage and NETWORK in earlier.get("files", {})
    network = earlier["files"][NETWORK] if same_stage else _put({"network": checkpoint.network} | mine)
    return {**checkpoint.facts(), "files": {NETWORK: network, STATE: _put(checkpoint.arrays | mine)}}


def _put(groups: dict[str, list[NDArray[Any]]]) -> str:
    """Store named lists of arrays as one .npz, durably; its SHA-256."""
    path = storage().incoming / uuid4().hex
    arrays = {f"{name}/{i}": array for name, group in groups.items() for i, array in enumerate(group)}
    try:
        with path.open("xb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        sha256 = sha256_of(path)
        storage().adopt(path, sha256)
    finally:
        path.unlink(missing_ok=True)
    return sha256


def read(kept: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint that `write` described; None where there is none.

    Raises storage's FileMissing and FileDamaged.
    """
    if not kept:
        return None
    arrays = _get(storage().verified_path(kept["files"][STATE]))
    arrays.pop("run", None)
    network = _get(storage().verified_path(kept["files"][NETWORK]))["network"]
    history = [EpochRecord(**record) for record in kept["history"]]
    for name in ("weights", "optimizer", "average", "best"):
        arrays.setdefault(name, [])
    return Checkpoint(kept["stage"], kept["epoch"], history, kept["best_epoch"], arrays, network)


def _get(path: Path) -> dict[str, list[NDArray[Any]]]:
    groups: dict[str, list[NDArray[Any]]] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in sorted(file.files, key=lambda key: (key.split("/")[0], int(key.split("/")[1]))):
            groups.setdefault(key.split("/")[0], []).append(file[key])
    return groups


def drop(kept: dict[str, Any], but: dict[str, Any]) -> None:
    """Remove a checkpoint's files that a newer one does not name."""
    for sha256 in set(kept.get("files", {}).values()) - set(but.get("files", {}).values()):
        storage().delete(sha256)
