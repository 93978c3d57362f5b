"""Turns rows and views of the database into the API's objects, with addresses."""

from flask import url_for
from sqlalchemy.orm import Session

from db.datasets.datasets import dataset_view
from db.evaluation.evaluations import evaluation_view, of_version
from db.evaluation.gate import gate_of
from db.evaluation.promotion import promotions_of
from db.findings.rules import rule_of
from db.ledger.job_view import JobView
from db.models import Dataset, ModelVersion, TrainingRun
from db.registry.champions import champion
from db.registry.engine_proofs import Serving, refusal
from db.registry.versions import used_by
from db.training.runs import epochs_of, run_view
from db.training.split_view import splits_of
from web.schemas.datasets import DatasetOut
from web.schemas.jobs import JobLinks, JobOut
from web.schemas.models import ModelDetail, ModelOut, PromotionOut
from web.schemas.runs import EpochList, EpochOut, RunOut
from web.schemas.workers import WorkerOut


def dataset_json(s: Session, dataset: Dataset, *, whole: bool = True) -> DatasetOut:
    """Return a dataset for the API. `whole`: with its report and splits, which may be too long for a list."""
    links = {
        "self": url_for("api_datasets.show", dataset_id=dataset.id),
        "page": url_for("datasets.show", dataset_id=dataset.id),
    }
    view = dataset_view(s, dataset)
    facts = vars(view) | {"report": view.report.as_json() if whole else {}}
    splits = splits_of(s, dataset) if whole else []
    return DatasetOut(**facts, splits=splits, links=links)


def run_json(s: Session, run: TrainingRun) -> RunOut:
    """Return a training run for the API."""
    links = {
        "self": url_for("api_runs.show", run_id=run.id),
        "epochs": url_for("api_runs.list_epochs", run_id=run.id),
        "page": url_for("runs.show", run_id=run.id),
    }
    return RunOut(**vars(run_view(s, run)), links=links)


def epochs_json(s: Session, run: TrainingRun) -> EpochList:
    """Return all epochs of a run, and the names of its stages."""
    stages = [str(stage.get("name", number)) for number, stage in enumerate(run.config.get("stages", []), start=1)]
    return EpochList(items=[EpochOut.model_validate(epoch) for epoch in epochs_of(s, run.id)], stages=stages)


def model_json(version: ModelVersion, champion_id: int | None) -> ModelOut:
    """Return a model version for the API's list."""
    facts = {name: getattr(version, name) for name in ModelOut.model_fields if name != "champion"}
    return ModelOut(**facts, champion=version.id == champion_id)


def model_detail(s: Session, version: ModelVersion) -> ModelDetail:
    """Return all facts of a model version for the API."""
    now = champion(s)
    return ModelDetail(
        **dict(model_json(version, now.id if now else None)),
        ood=version.ood,
        finding_rule=rule_of(version).as_dict(),
        facts=version.facts.as_json(),
        files=version.files,
        used_by=used_by(s, version),
        checks=[evaluation_view(evaluation) for evaluation in of_version(s, version)],
        gate=gate_of(s, version).as_dict(),
        promotions=[PromotionOut(**promotion.as_dict()) for promotion in promotions_of(s, version)],
        warning=refusal(s, version),
        links={
            "self": url_for("api_models.show", model_id=version.id),
            "card": url_for("api_models.card", model_id=version.id),
            "export": url_for("api_models.export", model_id=version.id),
            "page": url_for("models.show", version_id=version.id),
        },
    )


def serving_json(serving: Serving, in_use: set[int]) -> WorkerOut:
    """Return which engine serves on a host. `in_use`: the ids of the champion and of open jobs' versions."""
    links = {
        "model": url_for("api_models.show", model_id=serving.version.id),
        "page": url_for("workers.index"),
    }
    return WorkerOut(**serving.as_dict(), in_use=serving.version.id in in_use, links=links)


def job_json(view: JobView) -> JobOut:
    """Return a job for the API."""
    links = JobLinks(
        self=url_for("api_jobs.show_job", job_id=view.id),
        findings=url_for("api_findings.list_findings", job_id=view.id),
        results=url_for("api_results.list_results", job_id=view.id),
        csv=url_for("api_results.results_csv", job_id=view.id),
        json=url_for("api_results.results_json", job_id=view.id),
        parquet=url_for("api_results.results_parquet", job_id=view.id),
        series=url_for("api_results.list_series", job_id=view.id),
        page=url_for("jobs.show", job_id=view.id),
    )
    return JobOut(**dict(view), links=links)
