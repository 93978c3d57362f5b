"""A job and a model version as the API gives them: what the database knows, plus addresses and the notice."""

from typing import Any

from flask import url_for

from db.models import ModelVersion
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


def model_json(version: ModelVersion, champion_id: int | None) -> dict[str, Any]:
    """The JSON of a model version."""
    names = ("id", "name", "number", "label", "note", "recipe", "threshold", "temperature", "metrics", "parity")
    return {
        **{name: getattr(version, name) for name in names},
        "dataset_hash": version.dataset_hash,
        "created_at": version.created_at.isoformat(),
        "champion": version.id == champion_id,
    }
