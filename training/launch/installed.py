"""Finds out if training is installed here, without loading TensorFlow, so that every process can ask."""

from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("tensorflow", "keras", "nncf", "matplotlib", "seaborn")  # the extra `training` of pyproject.toml
PRIVATE_BROKER = "redis+socket"  # what the URL of a broker on a Unix socket begins with: it serves this machine alone
PROJECT = Path(__file__).resolve().parents[2]


class TrainingNotInstalled(Exception):
    """A library that training needs is not installed here. The message says which command installs it."""

    def __init__(self) -> None:
        super().__init__(f"Training is not installed here. Run `{install_command()}`, then start ctbatch again.")


def is_installed() -> bool:
    """Return whether every library that training needs can be found."""
    return all(find_spec(name) is not None for name in LIBRARIES)


def install_command() -> str:
    """Return the command that installs training: make's in a checkout, else pip's."""
    return "make training" if (PROJECT / "Makefile").is_file() else "pip install 'ctbatch[training]'"


def check_installed() -> None:
    """Raise TrainingNotInstalled unless this process can train."""
    if not is_installed():
        raise TrainingNotInstalled


def check_launch(broker_url: str) -> None:
    """Raise TrainingNotInstalled where no worker could take a training run.

    A broker that other machines reach may serve a training worker on one of them, so only a private one is refused.
    """
    if broker_url.startswith(PRIVATE_BROKER):
        check_installed()
