"""`ctbatch models check` evaluates a version at a new site. `compare` evaluates two versions on the same slices."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy.orm import Session

from cli.errors import NotFoundOrDenied, UsageError
from cli.local.datasets import find_dataset, named
from cli.local.evaluate import carry_out
from cli.local.model_tables import comparison_rows, find_version
from cli.local.session import reading, writing
from cli.options import json_option
from cli.output import RESEARCH_LINE, print_json, print_table, say
from db.evaluation import comparisons, evaluations
from db.evaluation.comparisons import Pair
from db.evaluation.evaluations import EvaluationError
from db.evaluation.result import EvaluationResult, GroupMetrics
from db.metrics import GROUP_METRICS, METRICS, counted_groups, groups_not_counted, written, written_interval


@click.command()
@click.argument("version", metavar="MODEL")
@click.option(
    "--on", "dataset", required=True, metavar="DATASET", help="Use this dataset, with labelled slices of the site."
)
@json_option
def check(version: str, dataset: str, as_json: bool) -> None:
    """Say whether MODEL may be used at a new site.

    Prints metrics of slices, and metrics of groups (patients) by the rule of findings of MODEL. The verdict depends on
    three metrics of slices. Their floors are 0.85 for sensitivity, 0.80 for specificity and 0.90 for AUC. A model may
    have a sensitivity floor of its own. In an imported model, its own floor counts only if it is above 0.85. Each
    of them has a 95 % interval, which comes from resampling groups. The verdict is one of these:

    \b
    may be used: the lower ends of all three intervals reach their floors,
      and DATASET has at least 20 groups of each class. Groups that share
      identical or near-identical slices count as one
    may not be used: the upper end of an interval is below the floor of
      its metric
    not enough evidence: all other cases. If possible, the command prints
      how many more groups like these would give an even chance of a clear
      verdict

    The verdict is also `not enough evidence` if more than 1 % of DATASET's slices are of one of these kinds:

    \b
      slices that MODEL was trained or calibrated on, and slices that are
        near-identical to them
      slices of a group that has the same name as a group that MODEL was
        trained or calibrated on
      slices without a known patient

    If the training slices of MODEL are not in this database, the command says so. If they were deleted, the verdict is
    never `may be used`. It is never `may be used` either if most patients get no verdict by the rule of findings.

    The check uses the engine that CTBATCH_ENGINE chooses on this machine, and prints its name. A finished check is
    carried out again if MODEL's rule of findings has changed, or if workers on this machine have begun to use another
    engine since.
    """
    from training.evaluation.site_check import MUCH_OOD

    with _asking() as session:
        model, sample = find_version(session, version), find_dataset(session, dataset)
        evaluation_id = evaluations.request_check(session, version=model, dataset=sample, notify=False).id
    view = carry_out(evaluation_id, quiet=as_json)
    if as_json:
        print_json(view.as_dict())
        return
    result, of_groups = view.result, EvaluationResult(**view.result).by_group
    print_table(
        ("metric", "of slices", "95 %", "of groups", "95 %"),
        [
            (metric.name, written(result[key]),
             written_interval(*(result["intervals"][key] or (None, None))) if metric.has_interval else "",
             *_cells_of_groups(of_groups, key))
            for key, metric in METRICS.items()
        ],
    )  # fmt: skip
    said = result["site_check"]
    groups = counted_groups(result["groups"], result.get("named_groups"))
    say(f"{view.model_version} on {view.dataset}, {result['n']} slices of {groups}: {said['verdict']}")
    say(f"  measured by {result['engine']}")
    for reason in said["reasons"]:
        say(f"  {reason}")
    if said["ood_share"] is not None and said["ood_share"] <= MUCH_OOD:  # a larger share is one of the reasons
        say(f"  {said['ood_share']:.1%} of the slices are out of distribution")
    if of_groups is not None and of_groups.n == 0:
        say(f"no metrics of groups (patients): {groups_not_counted(of_groups.left_out, of_groups.no_verdict)}")
    elif of_groups is not None:
        rule = of_groups.rule
        say(f"{of_groups.n} groups (patients) by {rule.name}: COVID if the score is at least {written(rule.threshold)}")
        if of_groups.groups != of_groups.n:
            say(f"  {of_groups.groups} groups after joining those that share slices")
        if apart := groups_not_counted(of_groups.left_out, of_groups.no_verdict):
            say(f"  not counted: {apart}")
        if tuned := of_groups.tuned_slices:
            say(f"  the rule was tuned on {tuned} of the {result['n']} slices, or on groups of the same names:")
            say("  these metrics may be too good; see `ctbatch findings rule`")
    say(RESEARCH_LINE)


def _cells_of_groups(groups: GroupMetrics | None, key: str) -> tuple[str, str]:
    """Return a metric of groups and its interval as text. Return empty texts if it is not shown for groups."""
    if groups is None or key not in GROUP_METRICS:
        return "", ""
    return written(getattr(groups, key)), written_interval(*(groups.intervals.get(key) or (None, None)))


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--on", "dataset", metavar="DATASET", help="Use this dataset  [default: the test part of A's split]")
@json_option
def compare(first: str, second: str, dataset: str | None, as_json: bool) -> None:
    """Compare the model versions A and B on the same slices.

    Each difference has a 95 % interval, which comes from resampling the same groups for both versions. Only the
    difference in the calibration error has no interval. Warns if A or B was trained on some of the slices. If the
    dataset is deleted, a finished comparison can still be read.
    """
    with _asking() as session:
        pair = _pair(session, first, second, dataset)
        ids = [each.id for each in comparisons.request(session, pair, notify=False)]
    for evaluation_id in ids:
        carry_out(evaluation_id, quiet=as_json)
    with reading() as session:
        found = comparisons.comparison_of(session, _pair(session, first, second, dataset))
    if found is None or not found.figures:
        raise NotFoundOrDenied(found.error if found and found.error else "the evaluations are gone from the database")
    if as_json:
        kept = {"a": found.model_version, "b": found.with_model}
        names = {"dataset", "part", "slices", "groups", "named_groups", "class_groups", "engine", "figures", "notes"}
        print_json(kept | found.model_dump(mode="json", by_alias=True, include=names))
        return
    where = f"{named(found.dataset, found.dataset_deleted)}{f' ({found.part})' if found.part else ''}"
    groups = counted_groups(found.groups, found.named_groups)
    say(f"{where}: {found.slices} slices, {groups}{f'; both measured by {found.engine}' if found.engine else ''}")
    print_table(
        ("metric", found.model_version, found.with_model, "difference", "95 %", ""), comparison_rows(found.figures)
    )
    for line in found.notes:
        say(f"  {line}")


@contextmanager
def _asking() -> Iterator[Session]:
    """Yield a session that can write. Raise UsageError if an evaluation is not possible."""
    try:
        with writing() as session:
            yield session
    except EvaluationError as error:
        raise UsageError(str(error)) from error


def _pair(session: Session, first: str, second: str, dataset: str | None) -> Pair:
    versions = find_version(session, first), find_version(session, second)
    sample = find_dataset(session, dataset, even_deleted=True) if dataset else None
    return comparisons.pair_of(session, *versions, sample)
