"""The demo model that ships with ctbatch. It shows how everything works, and was trained only on synthetic slices."""

from pathlib import Path

from db.database import session_scope
from db.registry.transfer import PackageRefused, import_package, register_received

NAME = "demo"
DEMO_FILE = Path(__file__).with_name("demo-model.tar.gz")


class DemoModelDamaged(Exception):
    """The file of the demo model is missing or damaged. The message names the command that makes it again."""


def _shipped(_: Path) -> None:
    """Accept any weights, because the file is a part of the program."""


def import_demo_model(recipe: str) -> str:
    """Register the demo model unless it is registered already. Return its label. `recipe`: how slices are prepared.

    Raises DemoModelDamaged.
    """
    try:
        received = import_package(DEMO_FILE, recipe, _shipped)
    except (PackageRefused, FileNotFoundError) as error:  # other OSErrors (a full disk) are not the file's fault
        why = error.strerror if isinstance(error, OSError) else error
        raise DemoModelDamaged(
            f"the demo model cannot be used: {why}; `make demo-model` makes {DEMO_FILE.name} again"
        ) from error
    with session_scope() as s:
        version, _ = register_received(s, received)
        return version.label
