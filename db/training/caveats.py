"""Says in lines why the metrics of a version may be too good, or what cannot be checked."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from db import PARTS, TEST
from db.datasets.slices import lack_of_patient, names_patients, without_patient
from db.models import Dataset, ModelVersion, Split
from db.models.documents import FindingRule
from db.training.lineage import (
    ancestors_elsewhere,
    ancestors_of,
    count_known,
    deleted_slices,
    deleted_source_of,
    deleted_sources,
    is_deleted,
    is_kept_apart,
    trained_on,
    training_source_of,
)


def unknown_tuning(s: Session, rule: FindingRule) -> list[str]:
    """Return a line if the rule was tuned on slices that are deleted. Call this after `tuned_on`."""
    if rule.tuned is None or (lost := deleted_slices(s, rule.tuned.dataset_hash)) is None:
        return []
    return [f"the rule of findings was tuned on {lost.label}, which is deleted; its slices may include these"]


def why_unknown(s: Session, version: ModelVersion, split: Split) -> str:
    """Return why nobody can find out which slices of a split's test part the version may know, or "".

    Call this after `known_in_test`.
    """
    if is_kept_apart(s, version, split, (TEST,)):
        return ""
    lost = [split.dataset] if is_deleted(s, split.dataset_id) else deleted_sources(s, version)
    if not lost:
        return ""
    labels = " and ".join(dataset.label for dataset in lost)
    return (
        f"{labels} {'is' if len(lost) == 1 else 'are'} deleted, so whether these slices trained the candidate, or a"
        " version that it comes from, cannot be checked"
    )


def optimism_notes(
    s: Session, versions: Sequence[ModelVersion], dataset_id: int, split: Split | None = None, part: str | None = None
) -> list[str]:
    """Return a line for each reason why the versions' metrics may be optimistic, such as slices seen in training."""
    notes = []
    dataset = s.get_one(Dataset, dataset_id)
    for version in versions:
        if is_kept_apart(s, version, split, PARTS if part is None else (part,)):
            continue
        if dataset.deleted_at is not None:
            notes.append(
                f"{dataset.label} is deleted, so whether {version.label}, or a version it comes from, was trained on"
                " these slices cannot be checked"
            )
            continue
        known = count_known(s, version, dataset_id, split, part)
        if known.seen:
            notes.append(f"{version.label}, or a version it comes from, was trained on {known.seen} of these slices")
        if known.named:
            notes.append(
                f"{version.label}, or a version it comes from, was trained on groups with the names of the groups of"
                f" {known.named} of these slices: they may be of the same patients"
            )
        notes += unknown_sources(s, version)
    if count := without_patient(dataset):
        notes.append(
            f"{count:,} of {dataset.size:,} slices of {dataset.label} {lack_of_patient(dataset)}: metrics may be"
            " too good, and their intervals too narrow"
        )
    return list(dict.fromkeys(notes))


def unknown_sources(s: Session, version: ModelVersion) -> list[str]:
    """Return a line for each reason why training slices of the version or of an ancestor are not in this database.

    Call this after reading slices, as `deleted_sources`.
    """
    lines = []
    for one in ancestors_of(s, version):
        was_trained = one.facts.dataset or one.facts.imported
        if lost := deleted_source_of(s, one):
            lines.append(f"{one.label} was trained on {lost.label}, which is deleted; its slices may include these")
        elif was_trained and training_source_of(s, one) == (None, None):
            lines.append(f"{one.label} was trained on slices that this database does not have; they may include these")
        if labels := ancestors_elsewhere(one):
            lines.append(f"{one.label} was made elsewhere from {', '.join(labels)}, which may have seen these slices")
    return lines


def compared_by_pixels(s: Session, version: ModelVersion, dataset: Dataset) -> list[str]:
    """Return the labels of the other training datasets of the version that only pixels can compare with `dataset`.

    The version or an ancestor was trained on these datasets. Names of groups could compare two datasets too, if the
    names in both come from a CSV or folders.
    """
    others = [other for other in trained_on(s, version) if other.id != dataset.id]
    return [other.label for other in others if not (names_patients(dataset) and names_patients(other))]
