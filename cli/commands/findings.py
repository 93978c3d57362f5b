"""`ctbatch findings`: lists the findings of a job, and tunes the rule of findings of a model version."""

from collections.abc import Mapping
from pathlib import Path

import click

from cli.commands.results import write_pieces
from cli.errors import Refused, Unavailable, UsageError
from cli.local.datasets import find_dataset
from cli.local.evaluate import carry_out
from cli.local.model_tables import find_version
from cli.local.session import reading, writing
from cli.options import NEW_FILE, ROW_ID, json_option
from cli.output import RESEARCH_LINE, print_json, print_table, say
from cli.remote.client import Client, job_path
from cli.remote.findings import FORMATS, LEVELS, VERDICTS, print_findings
from db.datasets.datasets import lock_kept
from db.datasets.slices import DatasetGone
from db.evaluation import evaluations
from db.evaluation.evaluations import EvaluationError
from db.findings.rules import RULES, UnknownRule, rule_of
from db.metrics import counted_groups, groups_not_counted, written, written_interval
from db.models import Evaluation
from db.models.documents import FindingRule, Rate
from db.registry.versions import keep_finding_rule
from db.storage import FileDamaged, FileMissing

TITLES = {
    "recall": "sensitivity",
    "precision": "COVID verdicts right",
    "negative_precision": "non-COVID verdicts right",
}


@click.group()
def findings() -> None:
    """List the findings of a job, and tune the rule that makes findings.

    A finding is the verdict on a patient, study or series.
    """


@findings.command("ls")
@click.argument("job_id", metavar="JOB")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as --format json does.")
@click.option("--level", type=click.Choice(LEVELS), help="Show only findings on patients, on studies or on series.")
@click.option(
    "--verdict", type=click.Choice(VERDICTS), help="Show only findings with this verdict. `none` means no verdict."
)
@click.option("-o", "--output", type=NEW_FILE, help="Write CSV or JSON to this file.")
def list_findings(
    job_id: str, form: str, as_json: bool, level: str | None, verdict: str | None, output: Path | None
) -> None:
    """Print the findings of JOB. If JOB has not ended, there are no findings, and the exit code is 4.

    Below each patient are the patient's studies, and below each study its series. --level and --verdict work only with
    --format table.
    """
    form = "json" if as_json else form
    if form == "table" and output:
        raise click.UsageError("--output needs --format csv or json")
    if form != "table" and (level or verdict):
        raise click.UsageError("--level and --verdict work only with tables; leave them out, or use --format table")
    with Client() as client:
        if form == "table":
            print_findings(client, job_id, {"level": level, "verdict": verdict})
        else:
            write_pieces(client.stream(job_path(job_id, f"/findings.{form}")), output)


@findings.command()
@click.argument("version", metavar="VERSION")
@click.option("--dataset", required=True, metavar="DATASET", help="Tune on this dataset of labelled slices.")
@click.option(
    "--rule",
    "names",
    multiple=True,
    metavar="RULE",
    help=f"Try only this rule. Can be repeated.  [{', '.join(RULES)}]",
)
@click.option("--seed", type=ROW_ID, default=7, show_default=True, help="Random seed of the folds.")
@json_option
def tune(version: str, dataset: str, names: tuple[str, ...], seed: int, as_json: bool) -> None:
    """Choose the best rule of findings for VERSION.

    Tries the rules below on the labelled slices of DATASET. Also chooses the threshold, and for top-k-mean the number
    k. Stores the result with VERSION. From now on, jobs with VERSION make their findings by this rule. Existing
    findings do not change.

    \b
    top-k-mean: the mean of the k highest probabilities
    max: the highest probability
    mean: the mean of all probabilities
    noisy-or: the probability that at least one slice is COVID,
      if slices were independent

    The score of a group (patient) is the highest score of its series.

    The command uses nested cross-validation on the groups (patients) of DATASET. The inner folds choose the rule. The
    outer folds have no part in the choice. The printed estimate comes from the outer folds.

    Refuses DATASET if one of its slices was used to train, calibrate or test VERSION or one of its ancestors. Also
    refuses DATASET if more than 1 % of its slices are near-identical to such slices.
    """
    from training.evaluation.tune_findings import CannotTune, candidates  # loads the libraries that compute
    from training.evaluation.tune_version import check_dataset, tune_version

    try:
        tried = candidates(names)
        with writing() as session:
            model, sample = find_version(session, version), find_dataset(session, dataset)
            check_dataset(session, model, sample)
            evaluation_id = evaluations.request(session, version=model, dataset=sample, notify=False).id
        carry_out(evaluation_id, quiet=as_json)
        with reading() as session:
            evaluation = session.get_one(Evaluation, evaluation_id)
        rule = tune_version(evaluation, tried, seed, lambda: None)
        with writing() as session:
            lock_kept(session, sample.id)
            keep_finding_rule(session, find_version(session, version), rule)
    except (UnknownRule, EvaluationError, DatasetGone) as error:
        raise UsageError(str(error)) from error
    except CannotTune as error:
        raise Refused(str(error)) from error
    except (FileMissing, FileDamaged) as error:
        raise Unavailable(f"a stored file of {version} or {dataset} is gone or damaged: {error}") from error
    _print_rule(rule, as_json)


@findings.command()
@click.argument("version", metavar="VERSION")
@json_option
def rule(version: str, as_json: bool) -> None:
    """Show the rule of findings of VERSION."""
    with reading() as session:
        row = find_version(session, version)
        kept = rule_of(row)
    _print_rule(kept, as_json, row.calibration)


@findings.command()
@click.argument("version", metavar="VERSION")
@json_option
def reset(version: str, as_json: bool) -> None:
    """Let VERSION use the default rule of findings again."""
    with writing() as session:
        row = find_version(session, version)
        keep_finding_rule(session, row, None)
        session.refresh(row)
        kept = rule_of(row)
    _print_rule(kept, as_json, row.calibration)


def _print_rule(rule: FindingRule, as_json: bool, calibration: Mapping[str, Mapping[str, float]] | None = None) -> None:
    if as_json:
        print_json(rule.as_dict())
        return
    say(f"{rule.name}, version {rule.version}: COVID if the score is at least {rule.threshold:.3f}")
    if rule.tuned is None:
        for engine, own in sorted((calibration or {}).items()):
            if own["threshold"] != rule.threshold:
                say(f"  for jobs that {engine} predicts: at least {own['threshold']:.3f}")
        say("this is the default rule; `ctbatch findings tune` chooses one on labelled patients")
        return
    tuned = rule.tuned
    columns = ("of groups", "this rule, on groups it was not chosen on", "95 %", "the default rule", "95 %")
    print_table(columns, [_rates(name, tuned.held_out[name], tuned.by_default.get(name)) for name in tuned.held_out])
    kinds = ", ".join(f"{count} {name}" for name, count in tuned.groups.items())
    counted = f"{counted_groups(tuned.all_groups, tuned.named_groups)} ({kinds})"
    say(f"tuned on {tuned.dataset}: {counted}; scores by {tuned.engine}; seed {tuned.seed}")
    if apart := groups_not_counted(tuned.left_out, tuned.no_verdict):
        say(f"  not counted: {apart}")
    say(f"  the outer folds chose: {'; '.join(tuned.chosen)}")
    for note in tuned.notes:
        say(f"  {note}")
    say(RESEARCH_LINE)


def _rates(name: str, held_out: Rate, by_default: Rate | None) -> tuple[str, ...]:
    cells = [TITLES.get(name, name)]
    for rate in (held_out, by_default):
        cells += [written(rate.value if rate else None), written_interval(rate.low, rate.high) if rate else ""]
    return tuple(cells)
