"""What a package's `package.json` says, checked before any of it is believed: it may come from anybody."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,90}\.(keras|xml|bin|html|md|txt|json|csv|png|svg|npy)")
SHA256 = re.compile(r"[0-9a-f]{64}")
TEXTS = ("name", "note", "recipe", "dataset_hash", "created_at")
OBJECTS = ("metrics", "parity", "ood", "extra")
REQUIRED = {"name", "note", "recipe", "threshold", "temperature", "files", "metrics", "parity"}
KNOWN = {*TEXTS, *OBJECTS, "threshold", "temperature", "files"}
MAX_TEXT = 2_000


class BadManifest(Exception):
    """The manifest is damaged, or describes what cannot be used here; the message says which."""


@dataclass(frozen=True)
class Manifest:
    """A manifest that holds. `values`: its members; `source`: its bytes as they came."""

    values: dict[str, Any]
    source: bytes

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.values["name"])

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 by file name."""
        return dict(self.values["files"])


def read_manifest(data: bytes, recipe: str, max_files: int) -> Manifest:
    """Check a manifest's members, its types, names and numbers.

    Raises BadManifest.
    """
    try:
        values = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadManifest("package.json is damaged: it holds no JSON") from error
    if not isinstance(values, dict):
        raise BadManifest("package.json is damaged: it holds no object")
    if missing := REQUIRED - values.keys():
        raise BadManifest(f"package.json is damaged: it has no {', '.join(sorted(missing))}")
    if foreign := values.keys() - KNOWN:
        raise BadManifest(f"package.json holds what this version does not know: {ascii(sorted(foreign))[:120]}")
    _check_texts(values)
    if values["recipe"] != recipe:
        raise BadManifest(f"it was made for slices prepared by {values['recipe']!a}; here they are by {recipe}")
    for name in OBJECTS:
        if not isinstance(values.get(name, {}), dict):
            raise BadManifest(f"package.json is damaged: {name} is no object")
    _check_numbers(values)
    _check_files(values["files"], max_files)
    return Manifest(values, data)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _check_texts(values: dict[str, Any]) -> None:
    for name in TEXTS:
        value = values.get(name)
        if not isinstance(value, str | None if name not in REQUIRED else str) or len(value or "") > MAX_TEXT:
            raise BadManifest(f"package.json is damaged: {name} is no text")
    if not NAME.fullmatch(values["name"]):
        raise BadManifest(f"{values['name'][:64]!a} is no name of a model")


def _check_numbers(values: dict[str, Any]) -> None:
    threshold, temperature = values["threshold"], values["temperature"]
    if not _is_number(threshold) or not 0 <= threshold <= 1:
        raise BadManifest("package.json is damaged: threshold is no probability")
    if not _is_number(temperature) or temperature <= 0:
        raise BadManifest("package.json is damaged: temperature is no positive number")
    if not all(_is_number(limit) and limit > 0 for limit in values.get("ood", {}).values()):
        raise BadManifest("package.json is damaged: ood holds what is no positive number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_files(files: Any, limit: int) -> None:
    if not isinstance(files, dict):
        raise BadManifest("package.json is damaged: files is no object")
    if len(files) > limit:
        raise BadManifest(f"package.json names {len(files)} files; {limit} are accepted")
    for name, sha256 in files.items():
        if not FILE.fullmatch(name) or name == "package.json":
            raise BadManifest(f"{name[:64]!a} is no file name that a package may hold")
        if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
            raise BadManifest(f"{name} has no SHA-256")
    if "model.keras" not in files and not {"model.xml", "model.bin"} <= files.keys():
        raise BadManifest("it holds no network: neither model.keras nor model.xml with model.bin")
