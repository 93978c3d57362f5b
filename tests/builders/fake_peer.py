"""A peer that answers by the number of a slice, and leaves a process behind. Its engine says how it goes wrong."""

import subprocess
import sys

from cli.benchmarks.peers.exchange import Job, done, wait_for_go, write_rows


def main() -> None:
    """Predict nothing, quickly."""
    job = Job.of_arguments()
    if job.engine == "fails":
        sys.exit("the network cannot be loaded")
    left = subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL)
    (job.database.parent / "left").write_text(str(left.pid))
    wait_for_go()
    answer = {"logit": 0.0, "positive": True, "cam": "", "distance": 0.0}
    rows = ((name, answer | {"probability": number / 10}) for number, (name, _) in enumerate(job.slices()))
    write_rows(job.database, rows)
    done()


if __name__ == "__main__":
    main()
