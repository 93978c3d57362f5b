"""`ctbatch models`: which model versions there are, which one new jobs get, and how that changes."""

import getpass
from typing import Any

import click
from sqlalchemy.orm import Session

from cli.commands.models.check import check, compare
from cli.commands.models.files import export, import_file
from cli.errors import JobFailed, NotFoundOrDenied, Refused, UsageError
from cli.local.demo_model import ensure_demo_model, imported_demo_model
from cli.local.evaluate import carry_out
from cli.local.model_tables import comparison_rows, find_version, flat, version_view
from cli.local.session import reading, writing
from cli.options import json_option
from cli.output import NO_MODEL, print_json, print_table, say
from db.evaluation import promotion
from db.evaluation.evaluations import EvaluationError
from db.evaluation.gate import Gate, gate_of, request_gate
from db.evaluation.promotion import GateClosed
from db.models import ModelVersion
from db.registry import champions, versions
from db.registry.demo_model import NAME as DEMO

reason_option = click.option("--reason", default="", help="Why; kept with the promotion.")


@click.group()
def models() -> None:
    """List, show, compare, check, promote, roll back, export and import model versions.

    Acts on the database of this machine's settings.
    """


for command in (compare, check, export, import_file):
    models.add_command(command)


@models.command("ls")
@json_option
def list_models(as_json: bool) -> None:
    """List all model versions, newest first."""
    with reading() as session:
        champion = champions.champion(session)
        found = [version_view(version, champion) for version in versions.list_versions(session)]
    if as_json:
        print_json(found)
        return
    columns = ("version", "champion", "note", "recipe", "created_at")
    rows = [["yes" if version[name] is True else version[name] or "" for name in columns] for version in found]
    print_table(columns, rows, empty=f"no model version yet; {NO_MODEL}")


@models.command()
@click.argument("version", metavar="VERSION")
@json_option
def show(version: str, as_json: bool) -> None:
    """Show the model version VERSION (name/number, or its id).

    Its lineage and dataset, figures with intervals, parity, files with their SHA-256, promotions, and how many jobs
    used it.
    """
    with reading() as session:
        found = find_version(session, version)
        view = version_view(found, champions.champion(session))
        view |= {
            "used_by": versions.used_by(session, found),
            "calibration": found.calibration,
            "parity": found.parity,
            "ood": found.ood,
            "facts": found.facts.as_json(),
            "dataset_hash": found.dataset_hash,
            "files": found.files,
            "promotions": _promotions(session, found, figures=as_json),
        }
    print_json(view) if as_json else print_table(("", "value"), flat(view))


def _promotions(session: Session, version: ModelVersion, *, figures: bool) -> list[dict[str, Any]]:
    """Return when, by whom and why the version was promoted, and what the gate said; its figures for programs only."""
    shown = promotion.promotions_of(session, version)
    return shown if figures else [{key: each[key] for key in each if key != "figures"} for each in shown]


@models.command()
@click.argument("version", metavar="VERSION")
@reason_option
@click.option("--force", is_flag=True, help="Promote though the gate refuses; needs a reason.")
@json_option
def promote(version: str, reason: str, force: bool, as_json: bool) -> None:
    """Make VERSION the champion, if the gate lets it: new jobs get it, jobs that exist keep theirs.

    The gate holds VERSION and the champion to the same slices, the test part of VERSION's own split. It refuses when
    VERSION's sensitivity there, as measured, is below its floor (0.85 unless its run set another), or when VERSION is
    worse than the champion beyond chance: the whole 95 % interval of the difference in AUC, accuracy or sensitivity,
    paired by groups, is below nought. Where there is no champion or no test part there is nothing to compare on, and a
    reason is needed. --force with a reason overrides a refusal; figures, reason, time and who are kept. Exit code 1
    when VERSION was not promoted.

    `demo` is the demo model that ships with ctbatch. Where there is no champion, it needs no reason.
    """
    if version == DEMO:
        version = _demo_version(as_json)
        if not version:
            return
    _evaluate_missing(version, quiet=as_json)
    with reading() as session:
        gate = gate_of(session, find_version(session, version))
    if not as_json:
        _print_gate(gate)
    try:
        with writing() as session:
            chosen = find_version(session, version)
            promotion.promote(session, chosen, None, reason, gate, force=force, who=_who())
            view = version_view(chosen, chosen)
    except GateClosed as error:
        if as_json:
            print_json({"promoted": False, "gate": gate.as_dict()})
        raise Refused(str(error)) from error
    if as_json:
        print_json({**view, "promoted": True, "gate": gate.as_dict()})
    else:
        say(f"{view['version']} is the champion")


def _demo_version(as_json: bool) -> str:
    """Promote the demo model if there is no champion and return ""; else return its label, for the gate to decide."""
    label = imported_demo_model()
    if ensure_demo_model() != label:
        return label
    with reading() as session:
        found = find_version(session, label)
        view = version_view(found, found)
    print_json({**view, "promoted": True}) if as_json else say(f"{label} is the champion; {found.note}")
    return ""


def _evaluate_missing(version: str, *, quiet: bool) -> None:
    """Carry out what the gate lacks; what fails the gate itself tells of."""
    try:
        with writing() as session:
            missing = request_gate(session, find_version(session, version), hint=False)
            ids = [evaluation.id for evaluation in missing]
    except EvaluationError as error:
        raise UsageError(str(error)) from error
    for evaluation_id in ids:
        try:
            carry_out(evaluation_id, quiet=quiet)
        except JobFailed as error:
            say(error.message)


def _print_gate(gate: Gate) -> None:
    """Write what the gate saw, and what it says of it."""
    if gate.figures:
        say(f"on the test part of {gate.dataset}: {gate.slices} slices, {gate.groups} groups")
        print_table(
            ("figure", gate.candidate, gate.champion or "", "difference", "95 %", ""), comparison_rows(gate.figures)
        )
    for line in (*gate.reasons, *gate.notes):
        say(f"  {line}")
    say(f"the gate says of {gate.candidate}: {gate.verdict}")


def _who() -> str:
    """Who sits at the command line, as far as the machine knows."""
    try:
        return f"{getpass.getuser()} at the command line"
    except (KeyError, OSError):  # a container's user may have no name
        return "the command line"


@models.command()
@reason_option
@json_option
def rollback(reason: str, as_json: bool) -> None:
    """Make the champion before the present one the champion again; a reason is needed.

    Once more goes back one further: a promotion that was rolled back no longer counts.
    """
    with writing() as session:
        try:
            chosen = champions.rollback(session, None, reason, _who())
        except champions.NoEarlierChampion as error:
            raise NotFoundOrDenied(str(error)) from error
        except champions.RollbackRefused as error:
            raise Refused(f"{error}: --reason") from error
        shown = version_view(chosen, chosen)
    print_json(shown) if as_json else say(f"{shown['version']} is the champion again")
