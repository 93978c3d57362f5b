"""Prints tables and progress bars on a terminal, plain lines elsewhere, and JSON on demand."""

import codecs
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import click

NO_MODEL = "`ctbatch models promote demo` takes the demo model, which shows how everything works"
RESEARCH_LINE = "Research use only, not for diagnosis."


def safe(value: object) -> str:
    """Return `value` as one printable line, with control and bidirectional characters escaped.

    File names come from other people's archives, and a terminal would obey such characters.
    """
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() and unicodedata.category(c) != "Cf" else ascii(c)[1:-1] for c in text)


def say(text: str) -> None:
    """Write one line for people to stderr, so that stdout holds data only."""
    click.echo(text, err=True)


def print_json(value: object) -> None:
    """Write `value` to stdout as one line of JSON. If stdout is not UTF-8, write only ASCII."""
    is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
    click.echo(json.dumps(value, ensure_ascii=not is_utf8, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str = "nothing to show") -> None:
    """Draw a table on a terminal. Elsewhere write tab-separated lines, of which the first has the column names.

    True is shown as "yes". False and None are left blank. On a terminal, `empty` is written if there are no rows.
    """
    cells = [[safe({True: "yes", False: ""}[v] if isinstance(v, bool) else v) for v in row] for row in rows]
    if not sys.stdout.isatty():
        for line in [list(columns), *cells]:
            click.echo("\t".join(line))
        return
    if not cells:
        click.echo(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for index, name in enumerate(columns):
        numeric = all(row[index] == "" or isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for line in cells:
        table.add_row(*(Text(value) for value in line))
    Console().print(table)


def print_rows(
    rows: Sequence[Mapping[str, object]], columns: Sequence[str], as_json: bool, empty: str = "nothing to show"
) -> None:
    """Write the rows as JSON, with all their members, or as a table with only these columns."""
    if as_json:
        print_json(rows)
    else:
        print_table(columns, [[row[name] for name in columns] for row in rows], empty)


def print_report(report: Mapping[str, object], as_json: bool) -> None:
    """Write the result of a benchmark as JSON, or as a table with a line for each member."""
    if as_json:
        print_json(report)
    else:
        print_table(("measured", "value"), [(name, str(value)) for name, value in report.items()])


@contextmanager
def complete_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces `path` at the end of the block, or is removed if the block fails.

    A link stays, and the file that it points at is replaced. A device or a named pipe is written to directly.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        with draft.open("xb") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


Update = Callable[[float, str], None]


@contextmanager
def progress_bar(title: str, total: float, *, unit: str = "", enabled: bool = True) -> Iterator[Update]:
    """Yield `update(done, note)`. It moves a bar on a terminal. Elsewhere it writes a line at each tenth.

    `unit="bytes"` shows sizes and speed. `enabled=False` shows nothing.
    """
    if not enabled:
        yield lambda _done, _note: None
    elif not sys.stderr.isatty():
        yield _plain_progress(title, total)
    else:
        with _rich_progress(title, total, unit) as update:
            yield update


def _plain_progress(title: str, total: float) -> Update:
    last_tenth = -1

    def update(done: float, note: str) -> None:
        nonlocal last_tenth
        tenth = int(10 * done / total) if total > 0 else 0
        if tenth > last_tenth:
            last_tenth = tenth
            say(f"{title}: {min(100, 10 * tenth)} % {safe(note)}".rstrip())

    return update


@contextmanager
def _rich_progress(title: str, total: float, unit: str) -> Iterator[Update]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TransferSpeedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()]
    if unit == "bytes":
        columns += [DownloadColumn(), TransferSpeedColumn()]
    columns.append(TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(escape(title), total=total, note="")
        yield lambda done, note: progress.update(task, completed=done, note=escape(safe(note)))
