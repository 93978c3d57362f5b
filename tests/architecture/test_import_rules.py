"""Imports go one way, between the packages and between the rooms (folders) of each, and only training and the Keras
engine load TensorFlow."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

# What a package may import of the others. Where parts are named, these are the pure ones; training also does what
# every Celery process does at its start, its evaluation workers build datasets, and web refuses at launch what cannot
# be trained.
MAY_IMPORT = {
    "db": (),
    "worker": ("db",),
    "training": (
        "db",
        "worker.imaging",
        "worker.hdf5",
        "worker.engines",
        "worker.phantoms",
        "worker.datasets",
        "worker.process",
        "worker.heartbeat",
        "worker.claimed",
    ),
    "web": (
        "db",
        "worker.imaging",
        "worker.hdf5",
        "worker.received_files",
        "worker.datasets.label_table",
        "training.config",
        "training.errors",
        "training.launch",
    ),
    "cli": ("db", "worker", "training", "web"),
}

# From the bottom up: a module imports only what stands above its own line here, or on it. A line is a room, or some of
# the modules that lie in the package itself. CONTRIBUTING.md has the same rooms in the same order.
ROOMS = {
    "db": (
        "metrics reasons settings clock database bulk background crash_points logs paging storage broker",
        "models",
        "backup migrate installation",
        "timing",
        "access",
        "registry",
        "series",
        "findings",
        "ledger",
        "datasets",
        "training",
        "evaluation",
        "migrations",
    ),
    "worker": (
        "linux_process process heartbeat app",
        "imaging",
        "imaging.archives",
        "imaging.formats",
        "imaging.sandbox",
        "received_files hdf5",
        "phantoms",
        "engines",
        "decoding claimed",
        "jobs",
        "datasets",
        "lease_watch reap scrub sweep tasks",
    ),
    "training": (
        "config errors app",
        "launch",
        "data",
        "network",
        "evaluation",
        "loop",
        "report.figures",
        "report",
        "export",
        "demo",
        "run run_observer",
        "tasks",
    ),
    "web": (
        "server",
        "errors static_versions compression",
        "monitoring",
        "security",
        "schemas",
        "actions",
        "downloads",
        "api",
        "views",
        "app asgi",
    ),
    "cli": (
        "errors output home options training_options polling removal",
        "files",
        "remote",
        "local",
        "supervisor",
        "benchmarks",
        "commands",
        "main __main__",
    ),
}
MOST_MODULES = 14  # of a folder: what is more wants a room of its own
MOST_LINES = 200  # a class has fewer: what is longer has a second task
TENSORFLOW_IN = {"worker/engines/keras.py", "cli/benchmarks/peers/network.py"}  # peers run apart from ctbatch
HEAVY = "tensorflow", "keras"
HDF5_IN = {"worker/hdf5.py", "training/network/load_weights.py"}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for package in MAY_IMPORT for path in sorted((PROJECT / package).rglob("*.py"))}
IMPORTS = {module: set(imported(path)) for module, path in MODULES.items()}


def is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def package_of(module: str) -> str:
    return module.split(".")[0]


def own_imports(module: str) -> set[str]:
    """The modules of this project that a module imports; of a name in a module, the module."""
    found = set()
    for name in IMPORTS[module]:
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found |= {name} - {"", module}
    return found


def level_of(module: str) -> int | None:
    """The number of the line in ROOMS that has this module; None for the package itself."""
    package, _, rest = module.partition(".")
    levels = {room: i for i, line in enumerate(ROOMS[package]) for room in line.split()}
    while rest and rest not in levels:
        rest = rest.rpartition(".")[0]
    return levels.get(rest)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_one_way(package: str) -> None:
    allowed = (package, *MAY_IMPORT[package])
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if package_of(module) == package
        for name in IMPORTS[module]
        if package_of(name) in MAY_IMPORT and not any(is_in(name, part) for part in allowed)
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ROOMS)
def test_every_module_has_a_room(package: str) -> None:
    homeless = [
        module for module in MODULES if package_of(module) == package and module != package and level_of(module) is None
    ]
    gone = [
        room
        for line in ROOMS[package]
        for room in line.split()
        if f"{package}.{room}" not in MODULES and not (PROJECT / package / room).is_dir()
    ]
    assert (homeless, gone) == ([], [])


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_rooms_below(package: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if package_of(module) == package and (own := level_of(module)) is not None
        for name in own_imports(module)
        if package_of(name) == package and (level := level_of(name)) is not None and level > own
    ]
    assert wrong == []


def test_there_are_no_circles() -> None:
    try:
        TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_room_is_crowded() -> None:
    folders = [path.parent for module, path in MODULES.items() if path.name != "__init__.py"]
    crowded = [f"{folder.relative_to(PROJECT)}: {folders.count(folder)}" for folder in sorted(set(folders))]
    assert [line for line in crowded if int(line.rpartition(" ")[2]) > MOST_MODULES] == []


def test_no_class_is_long() -> None:
    lengths = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines >= MOST_LINES} == {}


@pytest.mark.parametrize("package", ROOMS)
def test_contributing_shows_the_same_rooms(package: str) -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text()
    row = re.search(rf"^\| `{package}/` \|(.*)\|$", text, re.MULTILINE)
    assert row is not None
    _, rooms, others = row[1].split("|")
    folders = [line for line in ROOMS[package] if (PROJECT / package / line.replace(".", "/")).is_dir()]
    assert re.findall(r"`(.+?)`", rooms) == folders
    assert re.findall(r"`(.+?)`", others) == list(MAY_IMPORT[package])


def test_hdf5_is_read_in_two_places_only() -> None:
    """Where the process is confined, and where a confined one has checked the file."""
    readers = {path.relative_to(PROJECT).as_posix() for module, path in MODULES.items() if "h5py" in IMPORTS[module]}
    assert readers == HDF5_IN


def test_tensorflow_is_named_in_two_places_only() -> None:
    wrong = [
        f"{path.relative_to(PROJECT)} imports {name}"
        for module, path in MODULES.items()
        for name in IMPORTS[module]
        if package_of(name) in HEAVY
        and package_of(module) != "training"
        and path.relative_to(PROJECT).as_posix() not in TENSORFLOW_IN
    ]
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    [
        ["cli.main", "cli.commands.submit", "cli.commands.jobs", "cli.commands.results"],
        ["web.asgi"],
        ["worker.app", "worker.tasks", "worker.engines.openvino"],
        ["worker.sweep"],
        ["training.app", "training.tasks"],
    ],
    ids=lambda modules: modules[0],
)
def test_a_process_starts_without_tensorflow(modules: list[str], tmp_path: Path) -> None:
    code = f"import sys, {', '.join(modules)}; print(*sorted(sys.modules.keys() & {set(HEAVY)!r}))"
    env = {"CTBATCH_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT), "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\n"


def test_help_imports_no_command() -> None:
    code = "import sys; from cli.main import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    loaded = result.stdout.splitlines()[-1].split()
    assert "ctbatch" in result.stdout
    assert {"rich", "httpx", "sqlalchemy", "pydantic", "celery", "numpy"}.isdisjoint(loaded)
    assert [name for name in loaded if name.startswith("cli.")] == ["cli.errors", "cli.home", "cli.main"]
