"""Draws the parts of small sets of groups: each part gets both classes if this is possible."""

from collections import Counter
from itertools import product
from random import Random

import pytest

from db import PARTS
from db.training.splits import Unit, draw


def has_all_classes(units: list[Unit], parts: dict[str, str]) -> bool:
    """Whether each part has slices of both classes."""
    return len({(parts[unit.groups[0]], label) for unit in units for label in unit.slices}) == 2 * len(PARTS)


def can_be_split(units: list[Unit]) -> bool:
    """Whether any of all possible splits has both classes in each part."""
    choices = product(*([unit.stays] if unit.stays else PARTS for unit in units))
    return any(has_all_classes(units, {unit.groups[0]: part for unit, part in zip(units, chosen, strict=True)})
               for chosen in choices)  # fmt: skip


@pytest.mark.parametrize(
    "sizes",
    [
        [(100, 0), (1, 20), (0, 5), (20, 0), (0, 5)],
        [(40, 0), (35, 0), (10, 40), (0, 35), (0, 33)],
        [(10, 40), (60, 1), (30, 0), (0, 30)],
        [(9, 9), (9, 9), (9, 9)],
    ],
)
def test_three_groups_of_each_class_are_enough_with_each_seed(sizes: list[tuple[int, int]]) -> None:
    units = [Unit([str(number)], +Counter(dict(enumerate(counts)))) for number, counts in enumerate(sizes)]
    for seed in range(50):
        assert has_all_classes(units, draw(units, seed))


def test_drawing_finds_a_split_if_there_is_one() -> None:
    random = Random(1)
    possible = 0
    for seed in range(300):
        units = [
            Unit([str(number)], Counter(dict.fromkeys(labels, random.choice([1, 5, 40]))), stays)
            for number in range(random.randint(4, 6))
            for labels in [random.choice([[0], [1], [0, 1]])]
            for stays in [random.choice([*PARTS, *[None] * 15])]
        ]
        is_possible = can_be_split(units)
        assert has_all_classes(units, draw(units, seed)) == is_possible
        possible += is_possible
    assert 50 < possible < 250
