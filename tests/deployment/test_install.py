"""How it is installed: complete locks with hashes, and every import declared; uv first, pip where there is no uv."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from training.launch.installed import LIBRARIES

PROJECT = Path(__file__).parents[2]
LOCKS = PROJECT / ".lock"
DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text())
WITH_TRAINING = ("training", "worker/engines/keras.py", "cli/benchmarks/many/plot.py")
PEERS_IN = "cli/benchmarks/peers/"  # each runs in an environment of its own
OURS = {"db", "worker", "training", "web", "cli"}


def plain(name: str) -> str:
    """The one spelling of a package's name (PEP 503), without its extras and version."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ;]", name)[0]).lower()


def pins(lock: str) -> set[str]:
    """Each pinned package of a lock, with its version and its condition."""
    return set(re.findall(r"^([a-z0-9][^#\\]+?)(?: \\)?$", (LOCKS / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", sorted(path.name for path in LOCKS.glob("*.txt")))
def test_lock_has_a_hash_for_every_package(lock):
    blocks = re.split(r"\n(?=[a-z0-9])", (LOCKS / lock).read_text())
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize(("less", "more"), [("serving.txt", "training.txt"), ("training.txt", "dev.txt")])
def test_larger_lock_keeps_the_versions_of_the_smaller(less, more):
    versions = {pin.split(" ")[0] for pin in pins(more)}
    assert {pin.split(" ")[0] for pin in pins(less)} <= versions


def test_peers_use_the_versions_that_ctbatch_uses():
    ours = dict(pin.split(" ")[0].split("==") for pin in pins("training.txt"))
    for lock in (LOCKS / "peers").glob("*.txt"):
        theirs = dict(pin.split(" ")[0].split("==") for pin in pins(f"peers/{lock.name}"))
        assert {name: ours[name] for name in theirs.keys() & ours.keys()} == {
            name: theirs[name] for name in theirs.keys() & ours.keys()
        }


def test_serving_lock_has_no_library_of_training():
    serving = {plain(pin) for pin in pins("serving.txt")}
    assert serving.isdisjoint({*LIBRARIES, "pandas", "pytest", "uv"})
    assert {"openvino", "scikit-learn", "scipy", "h5py"} <= serving


def test_libraries_of_training_are_those_of_the_extra():
    extra = {plain(name) for name in DECLARED["project"]["optional-dependencies"]["training"]}
    assert extra - {plain(name) for name in pins("serving.txt")} == set(LIBRARIES)


def test_every_import_is_declared_where_it_is_needed():
    serving = {plain(name) for name in DECLARED["project"]["dependencies"]}
    training = serving | {plain(name) for name in DECLARED["project"]["optional-dependencies"]["training"]}
    peers = {plain(line) for file in (LOCKS / "peers").glob("*.in") for line in file.read_text().split()}
    distributions = packages_distributions()
    wrong = []
    for path in sorted(path for package in OURS for path in (PROJECT / package).rglob("*.py")):
        name = path.relative_to(PROJECT).as_posix()
        allowed = training if name.startswith(WITH_TRAINING) else serving
        allowed = allowed | peers if name.startswith(PEERS_IN) else allowed
        for module in imported(path) - OURS - sys.stdlib_module_names:
            if allowed.isdisjoint(map(plain, distributions.get(module, [module]))):
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def imported(path: Path) -> set[str]:
    """The top-level names of the modules that a file imports, wherever it does."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


Install = Callable[..., list[str]]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Run .lock/install with programs that only note what they are asked; those named in `failing` fail."""
    (tmp_path / "venv").mkdir()
    (tmp_path / "bin").mkdir()

    def program(path: Path, name: str, *, fails: bool, then: str = "") -> None:
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/asked"\n{then}\nexit {int(fails)}\n')
        path.chmod(0o755)

    def run(*, on_path: bool = True, to_be_had: bool = True, failing: tuple[str, ...] = (), **env: str) -> list[str]:
        uv = tmp_path / "venv/uv"
        program(tmp_path / "uv", "uv", fails="uv" in failing)
        if on_path:
            (tmp_path / "uv").rename(tmp_path / "bin/uv")
        brings_uv = f'case "$*" in *uv.txt*) {f"cp {tmp_path}/uv {uv}" if to_be_had else "exit 1"} ;; esac'
        program(tmp_path / "venv/python", "pip", fails="pip" in failing, then=brings_uv)
        result = subprocess.run(
            ["/bin/sh", LOCKS / "install", tmp_path / "venv/python", "--require-hashes", "-r", "some.txt"],
            env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"} | env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (result.returncode != 0) == ("pip" in failing), result.stderr
        lines = (tmp_path / "asked").read_text().splitlines()
        return [line for line in lines if " config " not in line]

    return run


BY_UV = r"uv pip install .*--python \S+/venv/python --no-deps --require-hashes -r some\.txt"
BY_PIP = r"pip -m pip .*install --no-deps --require-hashes -r some\.txt"
UV_BY_PIP = r"pip -m pip .*install --no-deps --only-binary :all: --require-hashes -r \S+/uv\.txt"


def matches(lines: list[str], *patterns: str) -> bool:
    return len(lines) == len(patterns) and all(map(re.fullmatch, patterns, lines))


def test_uv_on_the_path_installs(install):
    assert matches(install(), BY_UV)


def test_uv_is_installed_by_its_hash_where_there_is_none(install):
    assert matches(install(on_path=False), UV_BY_PIP, BY_UV)


def test_pip_installs_where_uv_cannot_be_had(install):
    assert matches(install(on_path=False, to_be_had=False), UV_BY_PIP, BY_PIP)


def test_pip_installs_where_uv_fails(install):
    assert matches(install(failing=("uv",)), BY_UV, BY_PIP)


def test_failed_install_exits_with_an_error(install):
    assert matches(install(failing=("uv", "pip")), BY_UV, BY_PIP)
