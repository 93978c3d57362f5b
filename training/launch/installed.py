"""Finds out if training is installed here. Does not load TensorFlow, so every process can use this."""

from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("tensorflow", "keras", "nncf", "matplotlib", "seaborn")  # see the extra `training` in pyproject.toml
PRIVATE_BROKER = "redis+socket"  # the beginning of the URL of a broker on a Unix socket, which serves only this machine
PROJECT = Path(__file__).resolve().parents[2]


class TrainingNotInstalled(Exception):
    """A library that training needs is not installed here. The message says which command installs it."""

    def __init__(self) -> None:
        super().__init__(f"Training is not installed here. Run `{install_command()}`, then start ctbatch again.")


def is_installed() -> bool:
    """Return whether every library that training needs can be found."""
    return all(find_spec(name) is not None for name in LIBRARIES)


def install_command() -> str:
    """Return the command that installs training: a make target in a checkout, or else a pip command."""
    return "make training" if (PROJECT / "Makefile").is_file() else "pip install 'ctbatch[training]'"


def check_installed() -> None:
    """Raise TrainingNotInstalled unless this process can train."""
    if not is_installed():
        raise TrainingNotInstalled


def check_launch(broker_url: str) -> None:
    """Raise TrainingNotInstalled if no worker could take a training run.

    If other machines can reach the broker, one of them may have a training worker. So the error is raised only if the
    broker serves this machine alone.
    """
    if broker_url.startswith(PRIVATE_BROKER):
        check_installed()
