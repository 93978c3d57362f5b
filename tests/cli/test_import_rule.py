"""Imports go one way between the packages, and no process but training and the Keras engine loads TensorFlow."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
MAY_IMPORT = {
    "db": set(),
    "worker": {"db"},
    "training": {"db", "worker"},
    "web": {"db", "worker", "training"},
    "cli": {"db", "worker", "training", "web"},
}
# Of others these two use the pure parts only; training also what every Celery process does at its start.
PARTS_OF_OTHERS = {
    "training": ("worker.imaging", "worker.engines", "worker.phantoms", "worker.process", "worker.heartbeat"),
    # A wrong setting, and a file of weights that is none, are refused at launch.
    "web": ("worker.imaging", "training.config", "training.installed", "training.launch", "training.weights_file"),
}
TENSORFLOW_IN = {"worker/engines/keras.py"}
HEAVY = "tensorflow", "keras"


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(package: str) -> list[Path]:
    return sorted((PROJECT / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_one_way(package):
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        f"{path.relative_to(PROJECT)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] in MAY_IMPORT.keys() - allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("package", PARTS_OF_OTHERS)
def test_only_the_pure_parts_of_others_are_used_elsewhere(package):
    wrong = [
        f"{path.relative_to(PROJECT)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name.startswith(("worker.", "training.")) and not name.startswith((f"{package}.", *PARTS_OF_OTHERS[package]))
    ]
    assert wrong == []


def test_tensorflow_is_named_in_two_places_only():
    wrong = [
        f"{path.relative_to(PROJECT)} imports {name}"
        for package in MAY_IMPORT
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] in HEAVY
        and package != "training"
        and path.relative_to(PROJECT).as_posix() not in TENSORFLOW_IN
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "modules",
    [
        ["cli.main", "cli.submit", "cli.jobs", "cli.results"],
        ["web.wsgi"],
        ["worker.app", "worker.tasks", "worker.engines.openvino"],
        ["worker.sweep"],
        ["training.app", "training.tasks"],
    ],
    ids=lambda modules: modules[0],
)
def test_a_process_starts_without_tensorflow(modules, tmp_path):
    code = f"import sys, {', '.join(modules)}; print(*sorted(sys.modules.keys() & {set(HEAVY)!r}))"
    env = {"CTBATCH_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT), "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\n"


def test_help_imports_no_command():
    code = "import sys; from cli.main import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    loaded = result.stdout.splitlines()[-1].split()
    assert "ctbatch" in result.stdout
    assert {"rich", "httpx", "sqlalchemy", "pydantic", "celery", "numpy"}.isdisjoint(loaded)
    assert [name for name in loaded if name.startswith("cli.")] == ["cli.errors", "cli.main"]
