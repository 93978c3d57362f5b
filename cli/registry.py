"""`ctbatch models`: which model versions there are, and which one new jobs get."""

from typing import Any

import click

from cli.demo_model import ensure_demo_model
from cli.errors import NotFoundOrDenied
from cli.operator import reading, writing
from cli.options import json_option
from cli.output import print_json, print_table, say
from db import registry
from db.models import ModelVersion

reason_option = click.option("--reason", default="", help="Why; kept with the promotion.")


@click.group()
def models() -> None:
    """List, show, promote and roll back model versions. Acts on the database of this machine's settings."""


@models.command("ls")
@json_option
def list_models(as_json: bool) -> None:
    """List all model versions, newest first."""
    with reading() as session:
        champion = registry.champion(session)
        found = [_view(version, champion) for version in registry.list_versions(session)]
    if as_json:
        print_json(found)
        return
    columns = ("version", "champion", "note", "recipe", "created_at")
    rows = [[_cell(version[name]) for name in columns] for version in found]
    print_table(columns, rows, empty="no model version yet; `ctbatch models demo` makes one that shows how it works")


@models.command()
@click.argument("version", metavar="VERSION")
@json_option
def show(version: str, as_json: bool) -> None:
    """Show the model version VERSION (name/number, or its id): recipe, threshold, metrics, parity, files."""
    with reading() as session:
        found = _view(_find(session, version), registry.champion(session), whole=True)
    if as_json:
        print_json(found)
    else:
        print_table(("", "value"), [(name, _cell(value)) for name, value in _flat(found)])


@models.command()
@click.argument("version", metavar="VERSION")
@reason_option
@json_option
def promote(version: str, reason: str, as_json: bool) -> None:
    """Make VERSION the champion: new jobs get it, jobs that exist keep theirs."""
    with writing() as session:
        chosen = _find(session, version)
        registry.promote(session, chosen, None, reason)
        shown = _view(chosen, chosen)
    print_json(shown) if as_json else say(f"{shown['version']} is the champion")


@models.command()
@reason_option
@json_option
def rollback(reason: str, as_json: bool) -> None:
    """Make the champion before the present one the champion again."""
    with writing() as session:
        try:
            chosen = registry.rollback(session, None, reason)
        except registry.NoEarlierChampion as error:
            raise NotFoundOrDenied(str(error)) from error
        shown = _view(chosen, chosen)
    print_json(shown) if as_json else say(f"{shown['version']} is the champion again")


@models.command()
@json_option
def demo(as_json: bool) -> None:
    """Have the demo model made, if there is no champion yet.

    A training worker trains it on synthetic phantoms: it shows how ctbatch works, and knows nothing about patients.
    """
    label = ensure_demo_model()
    print_json({"version": label}) if as_json else say(f"{label} is the champion")


def _find(session: Any, label: str) -> ModelVersion:
    version = registry.find_version(session, label)
    if version is None:
        raise NotFoundOrDenied(f"there is no model version {label}")
    return version


def _view(version: ModelVersion, champion: ModelVersion | None, *, whole: bool = False) -> dict[str, Any]:
    names = ["recipe", "threshold", "temperature", "metrics", "note"]
    names += ["parity", "dataset_hash", "files"] if whole else []
    return {
        "id": version.id,
        "version": version.label,
        "champion": champion is not None and champion.id == version.id,
        "created_at": version.created_at.isoformat(),
        **{name: getattr(version, name) for name in names},
    }


def _cell(value: object) -> object:
    return {True: "yes", False: ""}.get(value, value) if isinstance(value, bool) else value


def _flat(value: dict[str, Any], before: str = "") -> list[tuple[str, object]]:
    """Return nested members as lines named `a.b`."""
    lines: list[tuple[str, object]] = []
    for name, member in value.items():
        lines += _flat(member, f"{before}{name}.") if isinstance(member, dict) else [(before + name, member)]
    return lines
