"""Passes data between ctbatch and a peer: arguments, the slices of an archive, and the rows that the peer writes."""

import base64
import signal
import sqlite3
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

READY, GO, DONE = "peer: ready", "go", "peer: done"
ROWS_A_TRANSACTION = 32
TABLE = """CREATE TABLE IF NOT EXISTS prediction (
    name TEXT PRIMARY KEY, logit REAL, probability REAL, positive INTEGER, cam BLOB, distance REAL)"""
COLUMNS = ("name", "logit", "probability", "positive", "cam", "distance")


@dataclass(frozen=True)
class Job:
    """One run of a peer: the package, the engine, the archive to read, the database to write, and the broker's URL."""

    package: Path
    engine: str
    archive: Path
    database: Path
    broker: str

    @classmethod
    def of_arguments(cls) -> "Job":
        """Return the job that this process's command line names. From now on, the process cleans up on SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        package, engine, archive, database, broker = sys.argv[1:]
        return cls(Path(package), engine, Path(archive), Path(database), broker)

    @property
    def arguments(self) -> list[str]:
        """Return the command-line arguments that `of_arguments` reads."""
        return [str(self.package), self.engine, str(self.archive), str(self.database), self.broker]

    def slices(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the bytes of each file in the archive."""
        with zipfile.ZipFile(self.archive) as archive:
            for entry in archive.infolist():
                yield entry.filename, archive.read(entry)


def wait_for_go() -> None:
    """Report that everything is loaded, and wait until the caller starts the clock. Exit if the caller is gone."""
    print(READY, flush=True)
    if sys.stdin.readline().strip() != GO:
        sys.exit()


def done() -> None:
    """Report that the last row is written, and wait until the caller stops the clock."""
    print(DONE, flush=True)
    sys.stdin.read()


def write_rows(database: Path, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Write names and answers as they come, `ROWS_A_TRANSACTION` in each transaction."""
    with closing(open_database(database)) as connection:
        source = iter(rows)
        while part := list(islice(source, ROWS_A_TRANSACTION)):
            insert(connection, part)


def open_database(database: Path) -> sqlite3.Connection:
    """Open the database, make its table if needed, and return the connection."""
    connection = sqlite3.connect(database, timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(TABLE)
    return connection


def insert(connection: sqlite3.Connection, part: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Write names and answers in one transaction."""
    rows = [(name, *(answer[column] for column in COLUMNS[1:])) for name, answer in part]
    rows = [(*row[:4], base64.b64decode(row[4]), row[5]) for row in rows]
    with connection:
        connection.executemany("INSERT OR REPLACE INTO prediction VALUES (?, ?, ?, ?, ?, ?)", rows)
