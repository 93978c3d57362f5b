"""Describes the settings of a training run: a list for the whole run, and a table with a column for each stage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Flask

from db.training.progress import FIT_SHARE
from web.views.metric_filters import plain

OFF = "off"
INITIAL = {"none": "random weights", "imagenet": "ImageNet's weights", "file": "a file of weights"}
RUN_WORDS = {
    "preset": "Preset",
    "initial": "Starts from",
    "pixels": "Scale of pixels",
    "balanced": "Classes count the same",
    "hidden": "Units of the hidden layer",
    "dropout": "Dropout",
    "threshold": "Threshold rule",
    "floor": "Sensitivity floor",
    "precision": "Precision",
}
STAGE_WORDS = {
    "size": "Slices",
    "epochs": "Epochs",
    "unfreeze": "Layers that learn",
    "copies": "Augmented copies",
    "batch": "Batch",
    "optimizer": "Optimiser",
    "rate": "Learning rate",
    "schedule": "Schedule of the rate",
    "warmup": "Warm-up",
    "weight_decay": "Weight decay",
    "label_smoothing": "Label smoothing",
    "q": "Doubt in labels, q",
    "patience": "Ends early",
    "average": "Average of the weights",
    "keep": "Keeps",
}


@dataclass(frozen=True)
class StageTable:
    """The settings of all stages: their names, and a row for each setting with its value in each stage."""

    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def install(app: Flask) -> None:
    """Make the functions of this module available to templates."""
    app.jinja_env.globals.update(run_settings=run_settings, stage_table=stage_table, training_share=FIT_SHARE)


def run_settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings of the whole run, each with its name."""
    single = {key: value for key, value in config.items() if key not in LISTED}
    rows = [(RUN_WORDS.get(key, _words(key)), _of_run(key, value)) for key, value in single.items()]
    augment = config.get("augment")
    if isinstance(augment, Mapping):
        changes = {key: value for key, value in augment.items() if value}
        rows.append(("Augmentation", plain(changes) if changes.keys() - {"often"} else OFF))
    return rows


LISTED = frozenset({"stages", "augment"})  # settings that are shown elsewhere


def stage_table(config: Mapping[str, Any]) -> StageTable:
    """Return the settings of the stages. Leave out settings that are off in all stages."""
    stages = [stage for stage in config.get("stages", ()) if isinstance(stage, Mapping)]
    keys = dict.fromkeys(str(key) for stage in stages for key in stage if key != "name")
    ordered = [
        *(key for key in STAGE_WORDS if key in keys),
        *(key for key in keys if key not in STAGE_WORDS),
    ]
    values = {key: [_of_stage(key, stage.get(key)) for stage in stages] for key in ordered}
    rows = [(STAGE_WORDS.get(key) or _words(key), row) for key, row in values.items()]
    names = [str(stage.get("name", number)) for number, stage in enumerate(stages, start=1)]
    return StageTable(names, [(word, values) for word, values in rows if set(values) != {OFF}])


def _of_run(key: str, value: Any) -> str:
    if key == "initial" and isinstance(value, str):
        kind, _, which = value.partition(":")
        if kind == "model":
            return which
        return INITIAL.get(kind, value) + (f" ({which[:16]}…)" if which else "")
    return plain(value)


def _layers(count: int) -> str:
    return {-1: "all", 0: "the head"}.get(count, f"the head and the last {count}")


def _count(word: str) -> Callable[[float], str]:
    return lambda number: f"{number:g} {word if number == 1 else word + 's'}"


STAGE_VALUES: dict[str, Callable[[Any], str]] = {
    "size": lambda size: f"{size} px",
    "unfreeze": _layers,
    "batch": _count("slice"),
    "warmup": lambda epochs: _count("epoch")(epochs) if epochs else OFF,
    "patience": lambda epochs: f"after {_count('epoch')(epochs)} without a better loss" if epochs else "never",
    "keep": lambda which: f"the {which} epoch",
}
"""Functions that write the values of some settings of a stage. Other values are written as they are, and 0 as off."""


def _of_stage(key: str, value: Any) -> str:
    if key in STAGE_VALUES and value is not None and not (key != "keep" and isinstance(value, str)):
        return STAGE_VALUES[key](value)
    return OFF if value == 0 else plain(value)


def _words(key: str) -> str:
    words = key.replace("_", " ")
    return words[:1].upper() + words[1:]
