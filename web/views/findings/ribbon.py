"""Draws the probabilities along a series as a ribbon in SVG: a path for each kind of bar, and a text for readers."""

from dataclasses import dataclass

from db.findings.ribbons import Ribbon
from web.views.filters import count, counted, probability

HEIGHT = 100
LEAST_HEIGHT = 4  # least height of a bar, so that a probability near 0 is visible
NOTHING_HEIGHT = 8  # height of the mark of a slice without a prediction

TITLES = {
    "positive": "COVID",
    "negative": "non-COVID",
    "ood": "out of distribution",
    "little-lung": "little lung, left out",
    "nothing": "not predicted",
}
"""The kinds of bars, as the legend calls them."""


@dataclass(frozen=True)
class Drawing:
    """A ribbon for a template: the width of the view box, a path for each kind of bar, and the same in words.

    `placed`: whether the slices run from the feet to the head. `threshold`: a slice is COVID if its probability is at
    least this number. It is None if the slices have several thresholds.
    """

    width: int
    placed: bool
    paths: dict[str, str]
    text: str
    threshold: float | None


def draw(ribbon: Ribbon, threshold: float | None) -> Drawing:
    """Return the drawing of a ribbon. `threshold`: see Drawing."""
    paths: dict[str, str] = {}
    for place, bar in enumerate(ribbon.bars):
        height = NOTHING_HEIGHT if bar.probability is None else max(LEAST_HEIGHT, round(HEIGHT * bar.probability))
        paths[bar.kind] = paths.get(bar.kind, "") + f"M{place} {HEIGHT}v-{height}h1v{height}z"
    return Drawing(len(ribbon.bars), ribbon.placed, paths, _text(ribbon, threshold), threshold)


def _text(ribbon: Ribbon, threshold: float | None) -> str:
    order = "from the feet to the head" if ribbon.placed else "in the order of their locations, numbers and names"
    start = f"Probability of COVID along {counted(ribbon.slices, 'slice')} {order}"
    if ribbon.highest is None or ribbon.highest_at is None:
        return f"{start}: no slice was predicted."
    least = "" if threshold is None else f" (at least {probability(threshold)})"
    return (
        f"{start}: the highest is {probability(ribbon.highest)} at slice {count(ribbon.highest_at)};"
        f" {count(ribbon.positive)} of {count(ribbon.predicted)} predicted slices are COVID{least},"
        f" not counting slices that are out of distribution or show little lung."
    )
