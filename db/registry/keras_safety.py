"""Refuses `.keras` files that could run code of their maker. Checks their configuration without loading them.

Such a file names the classes of the network. Keras's safe mode refuses lambdas, but older versions had ways around it
(CVE-2025-1550, CVE-2025-8747). So this module refuses everything that is not a layer, an operation or a setting of
Keras itself.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WEIGHTS_MEMBER = "model.weights.h5"
MEMBERS = {"metadata.json", "config.json", WEIGHTS_MEMBER}
MAX_CONFIG_BYTES = 16 << 20
MAX_DEPTH = 100
MODULES = (
    "keras.layers",
    "keras.initializers",
    "keras.regularizers",
    "keras.constraints",
    "keras.src.ops",
    "keras.dtype_policies",
    "keras.optimizers",
    "keras.losses",
    "keras.metrics",
)
NETWORKS = {
    ("keras.src.models.functional", "Functional"),
    ("keras.src.models.sequential", "Sequential"),
    *(("keras", kind) for kind in ("Functional", "Model", "Sequential")),
}
CLASS = re.compile(r"[A-Z][A-Za-z0-9]*")  # a name that begins with a small letter is a function
REACH_OUT = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "__lambda__", "function",
             "StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization"}  # fmt: skip
# Values in a configuration that are not made by a class.
PLAIN = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__slice__", "__ellipsis__", "__tuple__"}


class HarmfulModel(Exception):
    """The file is damaged, has other members than a Keras archive, or names a class that is not one of Keras.

    The message is a predicate, which is written after the name of the file.
    """


def check_keras_archive(path: Path) -> None:
    """Raise HarmfulModel unless the file is a Keras 3 archive that uses only classes of Keras."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist()]
            if set(names) != MEMBERS or len(names) != len(MEMBERS):
                raise HarmfulModel(f"is not a plain Keras archive: it holds {ascii(sorted(set(names)))[:120]}")
            if sum(info.file_size for info in archive.infolist()) > 2 * path.stat().st_size + MAX_CONFIG_BYTES:
                raise HarmfulModel("unpacks to far more than it is")
            config = json.loads(_read(archive, "config.json"))
            for kind in _kinds(config):
                _check_kind(*kind)
    except (zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError, RuntimeError, EOFError) as error:
        raise HarmfulModel("is damaged: it is not a Keras archive") from error


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as member:
        data = member.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise HarmfulModel(f"has a {name} of more than {MAX_CONFIG_BYTES >> 20} MiB")
    return data


def _kinds(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any, Any]]:
    """Yield every object that loading the configuration would make: its module, class name and registered name."""
    if depth > MAX_DEPTH:
        raise HarmfulModel("has a configuration that is nested too deep")
    if isinstance(value, dict):
        if "class_name" in value or "module" in value or "registered_name" in value:
            yield value.get("module"), value.get("class_name"), value.get("registered_name")
        for member in value.values():
            yield from _kinds(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            yield from _kinds(member, depth + 1)


def _check_kind(module: Any, kind: Any, registered: Any) -> None:
    if module is None and kind in PLAIN:
        return
    if kind in REACH_OUT:
        raise HarmfulModel(f"holds a {kind}, which runs code or reads files of its own when it is loaded")
    network = isinstance(module, str) and isinstance(kind, str) and (module, kind) in NETWORKS
    policy = (module, kind) == ("keras", "DTypePolicy")
    stock = isinstance(module, str) and any(module == own or module.startswith(f"{own}.") for own in MODULES)
    is_class = isinstance(kind, str) and CLASS.fullmatch(kind) is not None
    if not (network or policy or (stock and is_class)) or registered not in (None, kind):
        raise HarmfulModel(f"holds {module!a} {kind!a}, which is not a part of Keras that ctbatch loads")
