"""The demo model that ships with ctbatch: it shows how everything works, and knows nothing about patients."""

from pathlib import Path

from db.database import session_scope
from db.registry.transfer import PackageRefused, import_package, register_received

NAME = "demo"
DEMO_FILE = Path(__file__).with_name("demo-model.tar.gz")


class DemoModelDamaged(Exception):
    """The file of the demo model is missing or damaged; the message says which command makes it anew."""


def import_demo_model(recipe: str) -> str:
    """Register the demo model, if it is not here yet, and return its label. `recipe`: the one slices are prepared by.

    Raises DemoModelDamaged.
    """
    try:
        received = import_package(DEMO_FILE, recipe)
    except (PackageRefused, FileNotFoundError) as error:  # a full disk is no fault of the file
        why = error.strerror if isinstance(error, OSError) else error
        raise DemoModelDamaged(
            f"the demo model cannot be used: {why}; `make demo-model` makes {DEMO_FILE.name} anew"
        ) from error
    with session_scope() as s:
        version, _ = register_received(s, received)
        return version.label
