"""`ctbatch models`: lists and shows model versions, and promotes the one that new jobs use."""

import click

from cli.commands.models.check import check, compare
from cli.commands.models.files import export, import_file
from cli.errors import JobFailed, NotFoundOrDenied, Refused, Unavailable, UsageError
from cli.local.datasets import named
from cli.local.demo_model import ensure_demo_model, imported_demo_model
from cli.local.evaluate import carry_out
from cli.local.model_tables import comparison_rows, find_version, flat, version_view
from cli.local.session import operator_name, reading, writing
from cli.options import json_option
from cli.output import NO_MODEL, print_json, print_table, say
from cli.remote.find_server import settings_with_local_broker
from db.evaluation import promotion
from db.evaluation.evaluations import EvaluationError
from db.evaluation.gate import Gate, gate_of, request_gate
from db.evaluation.promotion import GateClosed
from db.findings.rules import rule_of
from db.metrics import counted_groups
from db.registry import champions, engine_proofs, versions
from db.registry.demo_model import NAME as DEMO
from db.storage import FileDamaged, FileMissing

reason_option = click.option("--reason", default="", help="Say why. The reason is kept with the promotion.")


@click.group()
def models() -> None:
    """List, show, compare, check, promote, roll back, export and import model versions.

    Opens the database directly: the one in DATABASE_URL, or else ctbatch.db in the --home folder.
    """


for command in (compare, check, export, import_file):
    models.add_command(command)


@models.command("ls")
@json_option
def list_models(as_json: bool) -> None:
    """List all model versions, newest first."""
    with reading() as session:
        champion = champions.champion(session)
        views = [version_view(version, champion) for version in versions.list_versions(session)]
    if as_json:
        print_json(views)
        return
    columns = ("version", "champion", "note", "recipe", "created_at")
    rows = [["yes" if view[name] is True else view[name] or "" for name in columns] for view in views]
    print_table(columns, rows, empty=f"no model version yet; {NO_MODEL}")


@models.command()
@click.argument("version", metavar="VERSION")
@json_option
def show(version: str, as_json: bool) -> None:
    """Show the model version VERSION (name/number, or its id).

    Prints the version's lineage and dataset, its metrics with intervals, and its files with their SHA-256. Also prints
    its parity (how far the exported files differ from the trained network), its promotions, and the number of jobs that
    used it.
    """
    with reading() as session:
        row = find_version(session, version)
        view = version_view(row, champions.champion(session))
        hidden = None if as_json else {"figures"}  # only programs get the figures, which would fill the screen
        promotions = [one.model_dump(mode="json", exclude=hidden) for one in promotion.promotions_of(session, row)]
        view |= {
            "used_by": versions.used_by(session, row),
            "calibration": row.calibration,
            "parity": row.parity,
            "ood": row.ood,
            "finding_rule": rule_of(row).as_dict(),
            "facts": row.facts.as_json(),
            "dataset_hash": row.dataset_hash,
            "files": row.files,
            "promotions": promotions,
        }
    print_json(view) if as_json else print_table(("", "value"), flat(view))


@models.command()
@click.argument("version", metavar="VERSION")
@reason_option
@click.option(
    "--force",
    is_flag=True,
    help="Promote even if the verdict is `refused`, `not compared yet` or `cannot be compared`. Needs --reason.",
)
@json_option
def promote(version: str, reason: str, force: bool, as_json: bool) -> None:
    """Make VERSION the champion, if the gate allows it. New jobs use the champion. Older jobs keep their version.

    The gate compares VERSION with the champion on the test part of VERSION's own split. The verdict of the gate is one
    of these:

    \b
    refused: sensitivity is below 0.85 (or VERSION's own floor),
      specificity below 0.80 or AUC below 0.90
    refused: AUC, accuracy, sensitivity or specificity is lower than the
      champion's, and chance alone is unlikely to explain this. VERSION is
      not refused if the evidence shows that the difference is at most
      0.02 (CTBATCH_PROMOTION_MARGIN)
    passed: the evidence shows that VERSION is at most 0.02 worse in each
      of these four metrics
    not shown: the evidence does not show whether VERSION is as good as
      the champion
    not enough evidence: a class has fewer than 20 groups
    not enough evidence: more than 1 % of the slices are training slices of
      VERSION or an ancestor, or are in the groups of training slices
    not enough evidence: VERSION comes from a version whose dataset is
      deleted, so its training slices are not known
    not compared yet: the comparison is missing, because an evaluation
      failed or its scores are gone
    cannot be compared: the comparison is missing, and the dataset is
      deleted
    nothing to compare on: there is no champion, VERSION is the champion
      already, the test part is not in this database, or no engine runs
      both versions
    not proven here: an imported VERSION has not passed its trial

    The trial of an imported VERSION runs on a machine of this installation. If no machine has tried VERSION yet, this
    machine tries it now. In the trial, the network must load and return finite numbers. Nothing overrides a failed
    trial.

    If the verdict is `passed`, no reason is needed. If the verdict is `refused`, `not compared yet` or `cannot be
    compared`, add --force and --reason. In all other cases, add --reason. The champion itself is not promoted again.
    The metrics, the reason, the time and the user are kept. The exit code is 1 if VERSION was not promoted.

    If VERSION is `demo`, the demo model of ctbatch is promoted. If there is no champion, this needs no reason.
    """
    if version == DEMO:
        version = _promote_demo(reason, as_json)
        if not version:
            return
    _try_imported(version)
    _evaluate_missing(version, quiet=as_json)
    settings_with_local_broker()  # so that an idle worker loads the new champion at once
    with reading() as session:
        gate = gate_of(session, find_version(session, version))
    if not as_json:
        _print_gate(gate)
    try:
        with writing() as session:
            chosen = find_version(session, version)
            promotion.promote(session, chosen, None, reason, gate, force=force, who=operator_name())
            view = version_view(chosen, chosen)
    except GateClosed as error:
        if as_json:
            print_json({"promoted": False, "gate": gate.as_dict()})
        raise Refused(str(error)) from error
    if as_json:
        print_json({**view, "promoted": True, "gate": gate.as_dict()})
    else:
        say(f"{view['version']} is the champion")


def _promote_demo(reason: str, as_json: bool) -> str:
    """Promote the demo model if there is no champion, and return "". Otherwise return its label, for the gate."""
    label = imported_demo_model()
    if ensure_demo_model(reason=reason) != label:
        return label
    with reading() as session:
        champion = find_version(session, label)
        view = version_view(champion, champion)
    print_json({**view, "promoted": True}) if as_json else say(f"{label} is the champion; {champion.note}")
    return ""


def _try_imported(version: str) -> None:
    """Try an imported version that has not passed its trial yet. If the trial fails, the gate reports this later."""
    from worker.engines.trial import try_version

    with reading() as session:
        row = find_version(session, version)
        if engine_proofs.why_not_proven(session, row) is None:
            return
    say(f"trying {row.label} on this machine, in a process of its own")
    try:
        try_version(row)
    except (FileMissing, FileDamaged) as error:
        raise Unavailable(f"a file of {row.label} is gone or damaged: {error}") from error


def _evaluate_missing(version: str, *, quiet: bool) -> None:
    """Carry out the evaluations that the gate lacks. If one fails, the gate reports this later."""
    try:
        with writing() as session:
            missing = request_gate(session, find_version(session, version), notify=False)
            ids = [evaluation.id for evaluation in missing]
    except EvaluationError as error:
        raise UsageError(str(error)) from error
    for evaluation_id in ids:
        try:
            carry_out(evaluation_id, quiet=quiet)
        except JobFailed as error:
            say(error.message)


def _print_gate(gate: Gate) -> None:
    """Print the gate's comparison and verdict."""
    if gate.figures:
        dataset = named(gate.dataset, gate.dataset_deleted)
        groups = counted_groups(gate.groups, gate.named_groups)
        where = f"on the test part of {dataset}: {gate.slices} slices, {groups}"
        say(f"{where}{f'; both measured by {gate.engine}' if gate.engine else ''}")
        print_table(
            ("metric", gate.candidate, gate.champion or "", "difference", "95 %", ""), comparison_rows(gate.figures)
        )
    for line in (*gate.reasons, *gate.notes):
        say(f"  {line}")
    say(f"the gate says of {gate.candidate}: {gate.verdict}")


@models.command()
@reason_option
@json_option
def rollback(reason: str, as_json: bool) -> None:
    """Make the previous champion the champion again. Needs --reason.

    A second rollback goes back one step further, because a promotion that was rolled back no longer counts. Warns if
    every running worker refuses to predict with the version.
    """
    with writing() as session:
        try:
            chosen = promotion.rollback(session, None, reason, operator_name())
        except promotion.NoEarlierChampion as error:
            raise NotFoundOrDenied(str(error)) from error
        except promotion.RollbackRefused as error:
            raise Refused(f"{error}: --reason") from error
        view = version_view(chosen, chosen) | {"warning": engine_proofs.refusal(session, chosen)}
    if as_json:
        print_json(view)
        return
    say(f"{view['version']} is the champion again")
    if view["warning"]:
        say(f"  {view['warning']}")
