"""Waits for a job. Shows its progress, and raises an error if the job did not end well."""

from cli.errors import JobFailed, PartialFailure, Unavailable
from cli.output import RESEARCH_LINE, print_json, print_table, progress_bar, safe, say
from cli.remote.client import Client, Json
from db.reasons import explain

UNPREDICTED = ("rejected", "quarantined", "cancelled")  # the outcomes of a slice without a prediction


def follow(client: Client, job_id: str, *, strict: bool = False, as_json: bool = False) -> Json:
    """Show the progress of a job until it ends, print its outcomes and return it.

    Raises:
        JobFailed, PartialFailure: as for `raise_for_outcome`.
    """
    job = watch_progress(client, job_id)
    if as_json:
        print_json(job)
    else:
        print_summary(job)
    raise_for_outcome(job, strict=strict)
    return job


def watch_progress(client: Client, job_id: str, *, patient: bool = True) -> Json:
    """Show a bar until the job has ended, and return its last view.

    Raises:
        Unavailable: no worker has an engine that may predict, and `patient` is False.
    """
    job: Json = {}
    with progress_bar("predicting", 1.0) as update:
        for job in client.watch(job_id):
            update(fraction_done(job), _note(job))
            if not patient and job.get("warning"):
                raise Unavailable(job["warning"])
    return job


def done(counts: Json) -> int:
    """Return the number of slices that have an outcome."""
    return sum(int(counts[name]) for name in ("predicted", *UNPREDICTED))


def fraction_done(job: Json) -> float:
    """Return which share (0 to 1) of the job's slices has an outcome. Return 0 while their number is not known."""
    if job["state"] not in ("queued", "running"):
        return 1.0
    total = int(job["stages"]["total"]) if job["stages"]["total_known"] else 0
    return done(job["counts"]) / total if total else 0.0


def _note(job: Json) -> str:
    counts = job["counts"]
    of_total = f" of {job['stages']['total']}" if job["stages"]["total_known"] else ""
    notes = [f"{done(counts)}{of_total} slices"]
    if job.get("rate"):
        notes.append(f"{job['rate']:.0f}/s")
    if job.get("eta_seconds"):
        notes.append(f"about {job['eta_seconds']:.0f} s left")
    if job.get("warning"):
        notes.append(job["warning"])
    return ", ".join(notes)


def print_summary(job: Json) -> None:
    """Print how many slices have each outcome, and the notice of the job."""
    print_table(("outcome", "slices"), summary(job))
    say(notice_of(job))


def notice_of(job: Json) -> str:
    """Return the notice of a job, as one printable line."""
    return safe(job.get("notice") or RESEARCH_LINE)


def summary(job: Json) -> list[tuple[str, int]]:
    """Return how many slices have each outcome. Rejected slices are also counted by reason."""
    counts = job["counts"]
    lines = [("received", counts["received"]), ("predicted", counts["predicted"]), ("  positive", counts["positive"])]
    if job.get("ood"):
        lines.append(("  out of distribution", job["ood"]))
    lines.append(("rejected", counts["rejected"]))
    lines += [(f"  {reason}", number) for reason, number in sorted((job.get("rejections") or {}).items())]
    lines += [(name, counts[name]) for name in ("quarantined", "cancelled") if counts[name]]
    return lines


def raise_for_outcome(job: Json, *, strict: bool = False) -> None:
    """Raise an error if the job did not end well. Its exit code says how the job ended.

    Raises:
        JobFailed: the job failed.
        PartialFailure: the job was cancelled or predicted nothing, or slices were quarantined or cancelled. With
            `strict`, also if slices were rejected.
    """
    counts = job["counts"]
    if job["state"] == "failed":
        raise JobFailed(f"job {job['id']} failed: {explain(job.get('error')) or 'the server gives no reason'}")
    unpredicted = counts["quarantined"] or counts["cancelled"] or (strict and counts["rejected"])
    if job.get("nothing_predicted") or job["state"] == "cancelled" or unpredicted:
        raise PartialFailure(f"job {job['id']} is {job['state_text']}: {_account(job)}")


def _account(job: Json) -> str:
    """Return how many slices have each outcome, and what to do about slices without a prediction."""
    counts = job["counts"]
    numbers = ", ".join(f"{counts[name]} {name}" for name in ("predicted", *UNPREDICTED) if counts[name])
    if counts["quarantined"] or counts["cancelled"]:
        return f"{numbers}. `ctbatch jobs retry {job['id']}` queues the quarantined and cancelled slices again"
    if counts["rejected"]:
        return f"{numbers}. `ctbatch results {job['id']} --state rejected` lists the reasons"
    return numbers or "it has no slices. Check the files that were sent"
