"""`ctbatch models check` and `compare`: a version on a new site's sample, and two versions on the same slices."""

import click
from sqlalchemy.orm import Session

from cli.errors import NotFoundOrDenied, UsageError
from cli.evaluating import carry_out
from cli.model_tables import FIGURES, comparison_rows, find_version, with_interval
from cli.operator import reading, writing
from cli.options import json_option
from cli.output import RESEARCH_LINE, print_json, print_table, say
from db import datasets, evaluations, lineage, promotion
from db.evaluations import EvaluationError
from db.models import Dataset, Evaluation, ModelVersion, Split


@click.command()
@click.argument("version", metavar="MODEL")
@click.option("--on", "dataset", required=True, metavar="DATASET", help="The site's labelled slices, name/number.")
@json_option
def check(version: str, dataset: str, as_json: bool) -> None:
    """Say whether MODEL may be used at a new site, by a labelled DATASET of that site's slices.

    Sensitivity must reach 0.85 (or the model's own floor), specificity 0.80 and AUC 0.90. It may be used where the
    lower ends of all three 95 % intervals, by resampling groups, reach them on at least 20 groups of each class; it may
    not where the upper end of one is below; else there is not enough evidence, and how many more groups would help is
    said. Slices that the model was trained on are no evidence.
    """
    evaluation_id = _ask([version], dataset)[0]
    found = carry_out(evaluation_id, quiet=as_json)
    view = evaluations.evaluation_view(found)
    if as_json:
        print_json(view.as_dict())
        return
    result = view.result
    print_table(
        ("figure", "value", "95 %"),
        [(words, "–" if result[name] is None else f"{result[name]:.3f}", with_interval(result["intervals"][name])[2:-1])
         for name, words in FIGURES.items()],
    )  # fmt: skip
    said = result["site_check"]
    say(f"{view.model_version} on {view.dataset}, {result['n']} slices of {result['groups']} groups: {said['verdict']}")
    for reason in said["reasons"]:
        say(f"  {reason}")
    if said["apart"] is not None:
        say(f"  {said['apart']:.1%} of the slices lie apart from those the model knows")
    say(RESEARCH_LINE)


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--on", "dataset", metavar="DATASET", help="Compare on this whole dataset  [default: A's test part]")
@json_option
def compare(first: str, second: str, dataset: str | None, as_json: bool) -> None:
    """Compare the model versions A and B on the same slices, paired by resampling the same groups."""
    ids = _ask([first, second], dataset)
    if ids[0] == ids[1]:
        raise UsageError(f"{first} and {second} are the same model version")
    for evaluation_id in ids:
        carry_out(evaluation_id, quiet=as_json)
    with reading() as session:
        ours, theirs = (evaluations.evaluation_view(session.get_one(Evaluation, each)) for each in ids)
    figures = ours.result["against"].get(theirs.model_version)
    if not figures:
        raise NotFoundOrDenied(f"the scores of {ours.model_version} or {theirs.model_version} are gone")
    if as_json:
        kept = {"a": ours.model_version, "b": theirs.model_version, "dataset": ours.dataset, "part": ours.part}
        print_json({**kept, "slices": ours.result["n"], "groups": ours.result["groups"], "figures": figures})
        return
    say(f"{ours.dataset}{f' ({ours.part})' if ours.part else ''}: {ours.result['n']} slices, "
        f"{ours.result['groups']} groups")  # fmt: skip
    print_table(
        ("figure", ours.model_version, theirs.model_version, "difference", "95 %", ""), comparison_rows(figures)
    )


def _ask(labels: list[str], dataset: str | None) -> list[int]:
    """Return the ids of these versions' evaluations on the dataset, or on the first one's test part."""
    try:
        with writing() as session:
            versions = [find_version(session, label) for label in labels]
            chosen, split = _slices(session, versions[0], dataset)
            part = promotion.PART if split else None
            return [
                evaluations.request(session, version=each, dataset=chosen, split=split, part=part, hint=False).id
                for each in versions
            ]
    except EvaluationError as error:
        raise UsageError(str(error)) from error


def _slices(session: Session, version: ModelVersion, label: str | None) -> tuple[Dataset, Split | None]:
    if label is None:
        split = lineage.held_out(session, version)
        if split is None:
            raise UsageError(f"{version.label} has no test part in this database: name a dataset with --on")
        return split.dataset, split
    found = datasets.find_dataset(session, label)
    if found is None:
        raise NotFoundOrDenied(f"there is no dataset {label}")
    return found, None
