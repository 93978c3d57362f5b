"""A job as the API gives it: what the database knows, plus addresses and the notice."""

from typing import Any

from flask import url_for

from db.progress import JobView
from web.notice import RESEARCH_USE_ONLY


def job_json(view: JobView) -> dict[str, Any]:
    """The JSON of a job."""
    links = {
        "self": url_for("api_jobs.show_job", job_id=view.id),
        "results": url_for("api_results.list_results", job_id=view.id),
        "csv": url_for("api_results.results_csv", job_id=view.id),
        "json": url_for("api_results.results_json", job_id=view.id),
        "page": url_for("jobs.show", job_id=view.id),
    }
    return {**view.as_dict(), "notice": RESEARCH_USE_ONLY, "links": links}
