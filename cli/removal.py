"""Removes what a command line names, one by one."""

from collections.abc import Callable, Sequence

import click

from cli.errors import CommandError
from cli.output import print_json, safe, say


def confirm_removal(kind: str, names: Sequence[str], lost: str) -> None:
    """Ask whether to delete these jobs or datasets. `lost`: a sentence that says what is lost. Abort if not."""
    which = f"{kind} {names[0]}" if len(names) == 1 else f"{len(names)} {kind}s"
    click.confirm(f"Delete {which}? {lost}", abort=True, err=True)


def remove_each(kind: str, names: Sequence[str], remove: Callable[[str], None], *, as_json: bool) -> None:
    """Call `remove` for each name, and report what was deleted. If one fails, go on with the others.

    Raises the first CommandError in the end, with the name in its message.
    """
    deleted: list[str] = []
    first: CommandError | None = None
    for name in names:
        try:
            remove(name)
        except CommandError as error:
            named = type(error)(f"{kind} {safe(name)}: {error.message}")
            if first is None:
                first = named
            else:
                named.show()
        else:
            deleted.append(name)
            if not as_json:
                say(f"{kind} {safe(name)} is deleted")
    if as_json:
        print_json({"deleted": deleted})
    if first is not None:
        raise first
