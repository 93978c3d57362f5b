"""`ctbatch jobs`: lists, shows, waits for, cancels, retries and deletes jobs."""

import click

from cli.errors import CommandError
from cli.options import json_option, need_wait, strict_option
from cli.output import print_json, print_table, safe, say
from cli.remote.client import Client, Json, job_path
from cli.remote.follow_job import done, follow, print_summary
from cli.removal import confirm_removal, remove_each

STATES = ("queued", "running", "finished", "cancelled", "failed")
FACTS = ("id", "name", "state", "error", "model_version", "model_note", "recipe", "priority", "rate", "eta_seconds",
         "created_at", "started_at", "first_result_at", "finished_at")  # fmt: skip


@click.group()
def jobs() -> None:
    """List, show, wait for, cancel, retry and delete jobs."""


@jobs.command("ls")
@click.option("--state", type=click.Choice(STATES), help="List only jobs in this state.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="List at most this many jobs.")
@json_option
def list_jobs(state: str | None, limit: int, as_json: bool) -> None:
    """List jobs, newest first."""
    with Client() as client:
        views = list(client.pages("/jobs", {"state": state}, limit))
    if as_json:
        print_json(views)
    else:
        columns = ("id", "name", "state", "done", "received", "positive", "ood", "rejected", "created")
        print_table(columns, [_row(job) for job in views], empty="no jobs yet; `ctbatch submit PATH` sends one")


def _row(job: Json) -> tuple[object, ...]:
    counts = job["counts"]
    numbers = (done(counts), counts["received"], counts["positive"], job.get("ood"), counts["rejected"])
    return (job["id"], job["name"], job["state_text"], *numbers, job["created_at"])


@jobs.command()
@click.argument("job_id", metavar="JOB")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Show a job: state, model version and outcomes."""
    with Client() as client:
        job = client.get(job_path(job_id))
    if as_json:
        print_json(job)
        return
    facts = {name: job[name] for name in FACTS} | {"state": job["state_text"]}
    print_table(("", "value"), [(name, value) for name, value in facts.items() if value not in (None, "")])
    print_summary(job)


@jobs.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@strict_option
@json_option
def wait(job_ids: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Wait until every JOB has ended.

    The exit code says how the JOBs ended. It is 5 if a JOB predicted nothing, or has quarantined or cancelled slices.
    If several JOBs did not end well, the exit code is that of the first of them on the command line.
    """
    first: CommandError | None = None
    with Client() as client:
        for job_id in job_ids:
            try:
                follow(client, job_id, strict=strict, as_json=as_json)
            except CommandError as error:
                if first is None:
                    first = error
                else:
                    error.show()
    if first is not None:
        raise first


@jobs.command()
@click.argument("job_id", metavar="JOB")
@json_option
def cancel(job_id: str, as_json: bool) -> None:
    """Cancel a job. The predictions made so far are kept."""
    with Client() as client:
        job = client.post(job_path(job_id, "/cancel"))
    print_json(job) if as_json else say(f"job {job['id']} is {job['state_text']}: {safe(job['name'])}")


@jobs.command()
@click.argument("job_id", metavar="JOB")
@click.option("--wait", "wait_for_it", is_flag=True, help="Wait until the job has ended again.")
@strict_option
@json_option
def retry(job_id: str, wait_for_it: bool, strict: bool, as_json: bool) -> None:
    """Retry the failed slices and uploads of a job.

    Retries quarantined slices, cancelled slices and failed uploads. Also retries files rejected as decoder_budget. If
    the job has no decoder_budget files, retries files rejected as decoder_crash or decoder_timeout. Predictions are
    kept. --strict needs --wait.
    """
    need_wait(strict, wait_for_it)
    with Client() as client:
        answer = client.post(job_path(job_id, "/retry"))
        job = answer["job"]
        if not as_json:
            name = safe(job["name"])
            say(f"queued again: {answer['retried']}; job {job['id']} is {job['state_text']}: {name}")
        if wait_for_it:
            follow(client, job_id, strict=strict, as_json=as_json)
        elif as_json:
            print_json(answer)


@jobs.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def rm(job_ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete ended jobs, with their results, findings and labels.

    Their files are removed from the disk days later. Files that another job or a dataset uses stay. If a JOB cannot be
    deleted, the other JOBs are still deleted. The exit code says why a JOB was not deleted. If several JOBs cannot be
    deleted, the exit code is that of the first of them on the command line.
    """
    if not yes:
        confirm_removal("job", job_ids, "Results, findings and labels are lost.")
    with Client() as client:
        remove_each("job", job_ids, lambda job_id: client.delete(job_path(job_id)), as_json=as_json)
