"""Reads the values that the page of a model version shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.datasets.datasets import list_datasets
from db.evaluation import evaluations
from db.evaluation.evaluations import EvaluationView, evaluation_view
from db.evaluation.gate import Gate, gate_of
from db.evaluation.promotion import PromotionView, promotions_of
from db.models import OPEN_WORK, Dataset, ModelVersion, TrainingRun, Work
from db.registry import champions, versions
from db.training import runs
from db.training.lineage import ancestors_elsewhere, training_split_of


@dataclass(frozen=True)
class Ancestor:
    """A version from which another one was trained. `version_id`: None if it is not in this database."""

    label: str
    version_id: int | None


@dataclass(frozen=True)
class VersionPage:
    """A model version, the versions to compare it with, and the datasets to check it on.

    `lineage`: its ancestors in this database. `lineage_elsewhere`: ancestors in the database where an imported version
    was made. Both begin with the oldest. `dataset` and `run`: the dataset and the run that made the version, or None if
    they are not here. The dataset may be deleted. `has_test_part`: the split of its training, which has a test part, is
    here, and its dataset is not deleted. `other_versions` and `ready_datasets`: labels.
    """

    version: ModelVersion
    used_by: int
    lineage: Sequence[Ancestor]
    lineage_elsewhere: Sequence[str]
    promotions: Sequence[PromotionView]
    dataset: Dataset | None
    run: TrainingRun | None
    has_test_part: bool
    other_versions: Sequence[str]
    ready_datasets: Sequence[str]


@dataclass(frozen=True)
class VersionChecks:
    """The present comparison of a version with the champion, and its site checks.

    `open`: an evaluation of the version or of the champion is still open. `comparing`: an open evaluation is on a part
    of a split, as the gate needs it.
    """

    version: ModelVersion
    champion: ModelVersion | None
    gate: Gate
    site_checks: Sequence[EvaluationView]
    comparing: bool
    open: bool

    @property
    def is_champion(self) -> bool:
        """Whether new jobs get this version."""
        return self.champion is not None and self.champion.id == self.version.id


def version_page(s: Session, version: ModelVersion) -> VersionPage:
    """Return the values that the page shows of a version."""
    split = training_split_of(s, version)
    return VersionPage(
        version=version,
        used_by=versions.used_by(s, version),
        lineage=_lineage(s, version),
        lineage_elsewhere=ancestors_elsewhere(version),
        promotions=promotions_of(s, version),
        dataset=_dataset_of(s, version),
        run=None if version.facts.run is None else runs.find_run(s, version.facts.run),
        has_test_part=split is not None and split.dataset.deleted_at is None,
        other_versions=[other.label for other in versions.list_versions(s) if other.id != version.id],
        ready_datasets=[dataset.label for dataset in list_datasets(s) if dataset.state == Work.DONE],
    )


def version_checks(s: Session, version: ModelVersion) -> VersionChecks:
    """Return the champion, the gate and the evaluations that the page of a version shows now."""
    champion = champions.champion(s)
    own = evaluations.of_version(s, version)
    theirs = evaluations.of_version(s, champion) if champion and champion.id != version.id else []
    waiting = [one for one in (*own, *theirs) if one.state in OPEN_WORK]
    return VersionChecks(
        version=version,
        champion=champion,
        gate=gate_of(s, version),
        site_checks=[evaluation_view(one) for one in own if one.part is None and one.precision is None],
        comparing=any(one.part is not None for one in waiting),
        open=bool(waiting),
    )


def _lineage(s: Session, version: ModelVersion) -> list[Ancestor]:
    """Return the ancestors that the facts of the version name."""
    ancestors = [(label, versions.find_version(s, label)) for label in version.facts.lineage]
    return [Ancestor(label, ancestor.id if ancestor else None) for label, ancestor in ancestors]


def _dataset_of(s: Session, version: ModelVersion) -> Dataset | None:
    """Return the dataset that the version was trained on, or None.

    Compare the hash too, because after an import another dataset here may have the same label.
    """
    same = s.scalars(select(Dataset).where(Dataset.sha256 == version.dataset_hash)).all()
    return next((dataset for dataset in same if dataset.label == version.facts.dataset), None)
