"""Options of training runs and splits that several commands share.

They are not in `cli.options`, because the presets load slowly.
"""

from collections.abc import Callable
from typing import Any

import click

from db import MAX_INTEGER
from db.training.leaks import LEAKS
from training.config import PRESETS

PRESET = click.Choice(sorted(PRESETS))

as_given_option = click.option(
    "--groups-as-given",
    is_flag=True,
    help="Let groups that share near-identical slices go into different parts  [default: keep them in one part]",
)


def seed_option(purpose: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the option `--seed`. `purpose` is its help text."""
    return click.option("--seed", type=click.IntRange(0, MAX_INTEGER), default=7, show_default=True, help=purpose)


def run_options(preset: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a training run. They are named like the fields of `RunRequest`.

    `preset` is the default preset.
    """
    options = (
        click.option(
            "--preset",
            type=PRESET,
            default=preset,
            show_default=True,
            help="Train with this preset: default (starts from ImageNet), quick (minutes, to try everything out),"
            " scratch (starts from random weights, takes an hour or more) or seed (the settings of the notebook"
            " from which ctbatch grew).",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change one setting of the preset, for example stages.head.epochs=5. Can be repeated.",
        ),
        seed_option("Random seed of the split, the weights and the order of batches."),
        as_given_option,
        click.option(
            "--allow-leak",
            "allow_leaks",
            multiple=True,
            metavar="LEAK",
            help=f"Train even if the split has this leak: {', '.join(LEAKS)}. Can be repeated.",
        ),
    )

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add
