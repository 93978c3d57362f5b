"""What the facts of files tell of their class: planted shortcuts are found, and chance is not called one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from worker.datasets.collector import Item
from worker.datasets.shortcuts import check_shortcuts


def items(count: int, **facts: Callable[[int, int], Any]) -> list[Item]:
    """Slices in 20 groups, even ones COVID; each fact a function of the slice's number and label."""
    made = []
    for n in range(count):
        group = n % 20
        item = Item(n, f"{n}.png", row=n, label=1 - group % 2, group=str(group), format="PNG", mode="L", bytes=900)
        item.width = item.height = 100
        for fact, value in facts.items():
            setattr(item, fact, value(n, 1 - group % 2))
        made.append(item)
    return made


def test_facts_that_do_not_predict_the_class_are_not_shortcuts() -> None:
    draw = np.random.default_rng(3)
    found = check_shortcuts(items(400, width=lambda n, label: int(draw.integers(90, 110))))
    assert not found["found"]
    assert found["verdict"].startswith("no shortcut")
    assert found["facts"]["format"] == {"balanced_accuracy": 0.5, "auc": 0.5}
    assert found["facts"]["width × height"]["auc"] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("fact", "column", "value"),
    [
        ("format", "format", lambda n, label: "JPEG" if label else "PNG"),
        ("mode", "mode", lambda n, label: "RGBA" if label and n % 7 else "L"),
        ("width × height", "width", lambda n, label: 100 + 5 * label + n % 3),
        ("bytes", "bytes", lambda n, label: 900 + 200 * label + n % 100),
    ],
)
def test_fact_that_predicts_the_class_is_a_shortcut(fact: str, column: str, value: Callable[[int, int], Any]) -> None:
    found = check_shortcuts(items(400, **{column: value}))
    assert found["found"]
    assert found["facts"][fact]["auc"] > 0.9
    assert found["facts"]["all but the name"]["auc"] > 0.9
    assert found["verdict"].startswith(f"a shortcut: the {fact} of a file alone predicts the class")


def test_name_that_predicts_the_class_is_reported_but_is_not_a_shortcut() -> None:
    found = check_shortcuts(items(400, name=lambda n, label: f"x/{'Covid' if label else 'Non-Covid'} ({n}).png"))
    assert not found["found"]
    assert list(found["facts"])[-2:] == ["all but the name", "all with the name"]
    assert found["facts"]["name pattern"]["auc"] == found["facts"]["all with the name"]["auc"] == 1.0
    assert found["verdict"].endswith("its name does, but a network never sees it")


def test_shortcuts_are_not_measured_on_a_class_of_one_group() -> None:
    few = [item for item in items(40) if item.label or item.group == "1"]
    assert check_shortcuts(few)["verdict"].startswith("not measured")
