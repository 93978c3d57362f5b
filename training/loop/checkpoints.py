"""Stores checkpoints as files in storage. If a worker dies, its run continues from the last checkpoint."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.storage import storage
from db.training.progress import StoredCheckpoint
from training.loop.observer import Arrays, Checkpoint
from worker.engines.package import sha256_of

NETWORK, STATE = "network.npz", "state.npz"
STATES = ("weights", "optimizer", "average", "best")


def write(checkpoint: Checkpoint, earlier: StoredCheckpoint | None, run_id: int) -> StoredCheckpoint:
    """Put a checkpoint into storage. `earlier`: the previous checkpoint, or None.

    The weights with which a stage began are written once for each stage. The files contain the run's id, so that two
    runs never share a file. Otherwise one run could remove a file that the other needs.
    """
    mine = {"run": [np.array(run_id)]}
    if earlier and earlier.stage == checkpoint.stage:
        network = earlier.files[NETWORK]
    else:
        network = _put({"network": checkpoint.network} | mine)
    return StoredCheckpoint(
        stage=checkpoint.stage,
        epoch=checkpoint.epoch,
        best_epoch=checkpoint.best_epoch,
        loss_before=checkpoint.loss_before,
        network_stage=checkpoint.network_stage,
        history=checkpoint.history,
        files={NETWORK: network, STATE: _put(checkpoint.arrays | mine)},
    )


def _put(groups: dict[str, Arrays]) -> str:
    """Store named lists of arrays durably as one .npz, and return its SHA-256."""
    path = storage().incoming.new_path()
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


def read(stored: StoredCheckpoint | None) -> Checkpoint | None:
    """Read the checkpoint that `write` stored. Raises storage's FileMissing and FileDamaged."""
    if stored is None:
        return None
    arrays = _get(storage().verified_path(stored.files[STATE]))
    network = _get(storage().verified_path(stored.files[NETWORK]))["network"]
    states = {name: arrays.get(name, []) for name in STATES}
    return Checkpoint(
        stored.stage,
        stored.epoch,
        stored.history,
        stored.best_epoch,
        stored.loss_before,
        states,
        network,
        stored.network_stage,
    )


def _get(path: Path) -> dict[str, list[NDArray[Any]]]:
    groups: dict[str, list[NDArray[Any]]] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in sorted(file.files, key=lambda key: (key.split("/")[0], int(key.split("/")[1]))):
            groups.setdefault(key.split("/")[0], []).append(file[key])
    return groups


def drop(stored: StoredCheckpoint | None, but: StoredCheckpoint | None = None) -> None:
    """Remove the files of a checkpoint, except those that the checkpoint `but` names."""
    for sha256 in set(stored.files.values() if stored else ()) - set(but.files.values() if but else ()):
        storage().delete(sha256)
