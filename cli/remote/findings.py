"""Prints the findings of a job as a table."""

from collections.abc import Mapping

from cli.output import print_table, say
from cli.remote.client import Client, Json, job_path
from cli.remote.follow_job import notice_of
from db.reasons import explain

LEVELS = ("patient", "study", "series")
VERDICTS = ("COVID", "non-COVID", "none")
FORMATS = ("table", "csv", "json")
COLUMNS = ("patient", "level", "series", "uploads", "verdict", "score", "threshold", "used", "left_out", "reason")
MOST_ROWS = 1_000
MOST_UPLOADS = 3  # the most names of uploads in a row


def print_findings(client: Client, job_id: str, filters: Mapping[str, str | None]) -> None:
    """Print the findings of a job that match the filters, patients first."""
    notice = notice_of(client.get(job_path(job_id)))
    rows = list(client.pages(job_path(job_id, "/findings"), filters, MOST_ROWS))
    print_table(COLUMNS, [_cells(row) for row in rows], empty="no findings")
    if rows:
        k = f" (k {rows[0]['k']})" if rows[0]["k"] else ""
        say(f"rule {rows[0]['rule']}{k}, version {rows[0]['rule_version']}. {notice}")
    if len(rows) == MOST_ROWS:
        say(f"these are the first {MOST_ROWS} findings; `ctbatch findings ls JOB --format csv` writes all")


def _cells(row: Json) -> list[object]:
    left_out = ", ".join(f"{count} {reason}" for reason, count in row["left_out"].items())
    score = "" if row["score"] is None else f"{row['score']:.3f}"
    verdict = row["verdict"] or "no verdict"
    uploads = ", ".join(row["uploads"][:MOST_UPLOADS]) + (", …" if len(row["uploads"]) > MOST_UPLOADS else "")
    place = [row["patient"], row["level"], row["series"] or "", uploads]
    reason = explain(row["reason"]) if row["reason"] else ""
    return [*place, verdict, score, f"{row['threshold']:.3f}", row["used"], left_out, reason]
