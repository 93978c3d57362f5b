"""What the API gives: what the database knows, plus addresses."""

from typing import Any

from flask import url_for
from sqlalchemy.orm import Session

from db import RESEARCH_USE_ONLY
from db.datasets.datasets import dataset_view
from db.evaluation.evaluations import evaluation_view, of_version
from db.evaluation.gate import gate_of
from db.evaluation.promotion import promotions_of
from db.ledger.job_view import JobView
from db.models import Dataset, ModelVersion, TrainingRun
from db.registry.champions import champion
from db.registry.engine_proofs import Serving
from db.registry.versions import used_by
from db.training.runs import epochs_of, run_view
from db.training.split_view import splits_of


def dataset_json(s: Session, dataset: Dataset, *, whole: bool = True) -> dict[str, Any]:
    """The JSON of a dataset; in a list without its report and splits, which may be long."""
    shown = dataset_view(s, dataset).as_dict()
    links = {
        "self": url_for("api_datasets.show", dataset_id=dataset.id),
        "page": url_for("datasets.show", dataset_id=dataset.id),
    }
    splits = [split.as_dict() for split in splits_of(s, dataset)] if whole else []
    return {**shown, "report": shown["report"] if whole else {}, "splits": splits, "links": links}


def run_json(s: Session, run: TrainingRun) -> dict[str, Any]:
    """The JSON of a training run."""
    links = {
        "self": url_for("api_runs.show", run_id=run.id),
        "epochs": url_for("api_runs.list_epochs", run_id=run.id),
        "page": url_for("runs.show", run_id=run.id),
    }
    return {**run_view(s, run).as_dict(), "links": links}


def epochs_json(s: Session, run: TrainingRun) -> dict[str, Any]:
    """All epochs of a run, and the names of its stages."""
    names = ("stage", "epoch", "metrics", "seconds")
    items = [{name: getattr(epoch, name) for name in names} for epoch in epochs_of(s, run.id)]
    stages = [str(stage.get("name", number)) for number, stage in enumerate(run.config.get("stages", []), start=1)]
    return {"items": items, "stages": stages, "next_cursor": None}


def model_detail(s: Session, version: ModelVersion) -> dict[str, Any]:
    """All that is known of a model version."""
    now = champion(s)
    return {
        **model_json(version, now.id if now else None),
        "ood": version.ood,
        "facts": version.facts.as_json(),
        "files": version.files,
        "used_by": used_by(s, version),
        "checks": [evaluation_view(one).as_dict() for one in of_version(s, version)],
        "gate": gate_of(s, version).as_dict(),
        "promotions": promotions_of(s, version),
        "links": {
            "self": url_for("api_models.show", model_id=version.id),
            "card": url_for("api_models.card", model_id=version.id),
            "export": url_for("api_models.export", model_id=version.id),
            "page": url_for("models.show", version_id=version.id),
        },
    }


def serving_json(serving: Serving, in_use: set[int]) -> dict[str, Any]:
    """The JSON of what serves on a host; `in_use`: the ids of the versions that the champion and open jobs are."""
    links = {
        "model": url_for("api_models.show", model_id=serving.version.id),
        "page": url_for("workers.index"),
    }
    return {**serving.as_dict(), "in_use": serving.version.id in in_use, "links": links}


def model_json(version: ModelVersion, champion_id: int | None) -> dict[str, Any]:
    """The JSON of a model version."""
    names = ("id", "name", "number", "label", "note", "recipe", "threshold", "temperature")
    return {
        **{name: getattr(version, name) for name in (*names, "calibration", "metrics", "parity")},
        "dataset_hash": version.dataset_hash,
        "created_at": version.created_at.isoformat(),
        "champion": version.id == champion_id,
    }


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
