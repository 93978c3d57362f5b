"""Compares the rows that peers wrote with those of ctbatch, and makes the table of all systems."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cli.errors import Unavailable

LISTED = 20  # the most differences that are listed for a peer


@dataclass(frozen=True)
class Verdict:
    """The answer of a system to one slice."""

    probability: float
    positive: bool


Verdicts = dict[str, Verdict]  # by the name of a file in the archive


@dataclass(frozen=True)
class Row:
    """The measurements of one system. `slices`: how many slices the system recorded."""

    name: str
    slices: int
    seconds: float
    start_seconds: float
    verdicts: Verdicts
    disturbed: bool
    others: str

    @property
    def rate(self) -> float:
        """Return the slices/s, from the first byte read to the last row written."""
        return self.slices / self.seconds


def read_rows(database: Path) -> Verdicts:
    """Return the verdicts that a peer recorded."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT name, probability, positive FROM prediction")
        return {name: Verdict(probability, bool(positive)) for name, probability, positive in rows}


def differences(ours: Verdicts, theirs: Verdicts) -> list[dict[str, object]]:
    """Return the slices to which two systems give different labels.

    The key `slice` of each dict holds the slice's place in the archive, from 0.

    Raises:
        Unavailable: the two systems do not have rows for the same slices.
    """
    if ours.keys() != theirs.keys():
        raise Unavailable(f"a peer recorded {len(theirs)} slices and ctbatch {len(ours)}; they must be the same slices")
    return [
        {"slice": number, "ctbatch": round(ours[name].probability, 4), "peer": round(theirs[name].probability, 4)}
        for number, name in enumerate(ours)
        if ours[name].positive != theirs[name].positive
    ]


def largest_difference(ours: Verdicts, theirs: Verdicts) -> float:
    """Return the largest difference between two systems' probabilities of the same slice."""
    return max((abs(ours[name].probability - theirs[name].probability) for name in ours), default=0.0)


COLUMNS = (
    "system",
    "slices/s",
    "ctbatch / system",
    "seconds",
    "start, seconds",
    "other labels",
    "largest difference",
    "disturbed",
)


def table(ours: list[Row], peers: list[Row]) -> list[dict[str, object]]:
    """Return a line for each measurement of ctbatch, and one for each peer.

    The value "ctbatch / system" is the mean speed of ctbatch divided by the speed of the line's system.
    """
    rate = sum(row.rate for row in ours) / len(ours)
    lines = []
    for row in [*ours, *peers]:
        odd = differences(ours[0].verdicts, row.verdicts)
        lines.append(
            {
                "system": row.name,
                "slices/s": round(row.rate, 1),
                "ctbatch / system": round(rate / row.rate, 2),
                "seconds": round(row.seconds, 2),
                "start, seconds": round(row.start_seconds, 1),
                "other labels": len(odd),
                "largest difference": round(largest_difference(ours[0].verdicts, row.verdicts), 4),
                "disturbed": row.disturbed,
                "others": row.others,
                "differences": odd[:LISTED],
            }
        )
    return lines
