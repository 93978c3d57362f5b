"""Runs the peer Ray Data, with decoding and predicting as two stages. Ray starts the stages anew for each archive."""

from pathlib import Path
from typing import Any

import numpy as np
import ray

from cli.benchmarks.peers.exchange import Job, done, wait_for_go, write_rows
from cli.benchmarks.peers.network import Network, prepare

BATCH = 32
Batch = dict[str, Any]


class Predict:
    """Predicts batches. Each process of the stage has one `Predict` object."""

    def __init__(self, package: str, engine: str) -> None:
        self.network = Network(Path(package), engine)

    def __call__(self, batch: Batch) -> Batch:
        """Return the names of a batch's slices with their answers."""
        answers = self.network.answers(np.stack(list(batch["pixels"])))
        return {"name": batch["name"]} | {key: np.array([one[key] for one in answers]) for key in answers[0]}


def decode(row: Batch) -> Batch:
    """Return the name of a file and its prepared slice."""
    return {"name": row["name"], "pixels": prepare(row["file"])}


def main() -> None:
    """Predict a whole archive as one dataset."""
    job = Job.of_arguments()
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        wait_for_go()
        files = ray.data.from_items([{"name": name, "file": file} for name, file in job.slices()])
        constructor = {"package": str(job.package), "engine": job.engine}
        stage = ray.data.ActorPoolStrategy(size=1)
        answers = files.map(decode).map_batches(
            Predict, batch_size=BATCH, compute=stage, fn_constructor_kwargs=constructor
        )
        write_rows(job.database, ((row.pop("name"), row) for row in answers.iter_rows()))
        done()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
