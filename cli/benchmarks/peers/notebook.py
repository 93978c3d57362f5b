"""Runs the peer `notebook`: reads every slice with PIL into one list, and calls `model.predict` once."""

import numpy as np

from cli.benchmarks.peers.exchange import Job, done, wait_for_go, write_rows
from cli.benchmarks.peers.network import Network, prepare


def main() -> None:
    """Predict a whole archive in one call."""
    job = Job.of_arguments()
    network = Network(job.package, job.engine)
    wait_for_go()
    names, slices = [], []
    for name, file in job.slices():
        names.append(name)
        slices.append(prepare(file))
    answers = network.answers(np.array(slices))
    write_rows(job.database, zip(names, answers, strict=True))
    done()


if __name__ == "__main__":
    main()
