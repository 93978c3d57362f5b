"""Finds or makes the model package for the comparison. The package holds a Keras network and its int8 form."""

from pathlib import Path

from cli.errors import UsageError
from cli.output import progress_bar, say
from cli.supervisor.roles import PROJECT
from db.registry.manifest import INT8_FILE, KERAS_FILE
from training.launch.installed import check_installed
from worker.engines.package import PackageError, read_package

DEMO = PROJECT / ".build" / "demo-package"  # `make demo-model` leaves it there
MADE = PROJECT / ".build" / "peers" / "package"
KERAS_FILES = (KERAS_FILE,)


def package_for_peers(package: Path | None) -> Path:
    """Return the package for the comparison.

    This is `package` if it is given. Otherwise it is the demo model with its float32 files, if `make demo-model` has
    made it. Otherwise make a package here.

    Raises:
        UsageError: the package cannot be read.
        TrainingNotInstalled: a package has to be made, but Keras is not installed.
    """
    if package is None:
        package = next((folder for folder in (DEMO, MADE) if (folder / "package.json").exists()), None)
    if package is None:
        package = _make()
    try:
        read_package(package)
    except PackageError as error:
        raise UsageError(f"the package {package} cannot be used: {error}; name another with --package") from error
    return package


def _make() -> Path:
    """Train ctbatch's network briefly on phantoms. The speed of a network does not depend on its weights."""
    check_installed()
    from training.config import ALL, STEADY_RULE, Augment, Config, Stage
    from training.demo.model import Plan, make_demo_package

    say(f"making a model package in {MADE}, which takes some minutes; `make demo-model` would make {DEMO}")
    small = Stage(name="small", unfreeze=ALL, epochs=3, size=64, rate=1e-3)
    head = Stage(name="head", unfreeze=0, epochs=20, copies=1, rate=1e-3)
    plan = Plan(
        Config(preset="peers", threshold=STEADY_RULE, augment=Augment(), stages=(small, head)),
        {"train": 160, "validation": 32, "test": 32},
        last_stage_slices=320,
    )
    with progress_bar("making a package", 1.0) as update:
        made = make_demo_package(MADE, plan=plan, progress=update)
    if INT8_FILE not in made.files:
        raise UsageError("the package that was made here has no int8 network; run `make demo-model`, and try again")
    return MADE
