"""Waiting for a job: its progress while it runs, and the exit code that says how it ended."""

from cli.errors import JobFailed, PartialFailure, Unavailable
from cli.output import print_json, print_table, progress_bar
from cli.remote.client import Client, Json
from db.reasons import explain

REFUSED = ("rejected", "quarantined", "cancelled")  # the outcomes of a slice without a prediction


def follow(client: Client, job_id: str, *, strict: bool = False, as_json: bool = False) -> Json:
    """Show the progress of a job until it ends, print what came of it and return it.

    Raises:
        JobFailed: it failed.
        PartialFailure: it predicted nothing, or some slices were quarantined or cancelled; with `strict` rejected too.
    """
    job = watch_progress(client, job_id)
    if as_json:
        print_json(job)
    else:
        print_table(("outcome", "slices"), summary(job))
    raise_for_outcome(job, strict=strict)
    return job


def watch_progress(client: Client, job_id: str, *, patient: bool = True) -> Json:
    """Show a bar until the job has ended and return its last view.

    Raises:
        Unavailable: not `patient`, and no worker has an engine that may predict.
    """
    job: Json = {}
    with progress_bar("predicting", 1.0) as update:
        for job in client.watch(job_id):
            update(fraction_done(job), _note(job))
            if not patient and job.get("warning"):
                raise Unavailable(job["warning"])
    return job


def done(counts: Json) -> int:
    """Return how many slices have their outcome."""
    return sum(int(counts[name]) for name in ("predicted", *REFUSED))


def fraction_done(job: Json) -> float:
    """Return the done part of what is known so far, 0 to 1."""
    if job["state"] not in ("queued", "running"):
        return 1.0
    total = int(job["stages"]["total"])
    return done(job["counts"]) / total if total else 0.0


def _note(job: Json) -> str:
    counts = job["counts"]
    parts = [f"{done(counts)} of {job['stages']['total']} slices"]
    if job.get("rate"):
        parts.append(f"{job['rate']:.0f}/s")
    if job.get("eta_seconds"):
        parts.append(f"about {job['eta_seconds']:.0f} s left")
    if job.get("warning"):
        parts.append(job["warning"])
    return ", ".join(parts)


def summary(job: Json) -> list[tuple[str, int]]:
    """Return what came of a job's slices, a line each, the rejected ones by reason."""
    counts = job["counts"]
    lines = [("received", counts["received"]), ("predicted", counts["predicted"]), ("  positive", counts["positive"])]
    lines.append(("rejected", counts["rejected"]))
    lines += [(f"  {reason}", number) for reason, number in sorted((job.get("rejections") or {}).items())]
    lines += [(name, counts[name]) for name in ("quarantined", "cancelled") if counts[name]]
    return lines


def raise_for_outcome(job: Json, *, strict: bool = False) -> None:
    """Raise the error whose exit code says how the job ended.

    Nothing is raised where something was predicted and the rest was rejected, unless `strict`.

    Raises:
        JobFailed, PartialFailure: as for `follow`.
    """
    counts = job["counts"]
    if job["state"] == "failed":
        raise JobFailed(f"job {job['id']} failed: {explain(job.get('error')) or 'no reason is known'}")
    unpredicted = counts["quarantined"] or counts["cancelled"] or (strict and counts["rejected"])
    if job.get("nothing_predicted") or job["state"] == "cancelled" or unpredicted:
        raise PartialFailure(f"job {job['id']} is {job['state_text']}: {_account(job)}")


def _account(job: Json) -> str:
    """Return what came of the slices, and what to do about those without a prediction."""
    counts = job["counts"]
    numbers = ", ".join(f"{counts[name]} {name}" for name in ("predicted", *REFUSED) if counts[name])
    if counts["quarantined"] or counts["cancelled"]:
        return f"{numbers}. `ctbatch jobs retry {job['id']}` puts back what was quarantined or cancelled"
    if counts["rejected"]:
        return f"{numbers}. `ctbatch results {job['id']} --state rejected` lists the reasons"
    return numbers or "it holds no slices. Check what was sent"
