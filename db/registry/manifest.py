"""What a package's `package.json` says, checked before any of it is believed: it may come from anybody."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from db.registry.proof_file import PROOF_FILE
from db.terms import NAME

FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,90}\.(keras|xml|bin|html|md|txt|json|csv|png|svg|npy|npz)")
SHA256 = re.compile(r"[0-9a-f]{64}")
TEXTS = ("name", "note", "recipe", "dataset_hash", "created_at")
OBJECTS = ("metrics", "parity", "ood", "calibration", "proof", "extra")
PRECISIONS = {"f32", "bf16", "int8"}
DIFFERENCES = {"logit", "distance", "cam"}  # that a proof's tolerance bounds
REQUIRED = {"name", "note", "recipe", "threshold", "temperature", "files", "metrics", "parity"}
KNOWN = {*TEXTS, *OBJECTS, "threshold", "temperature", "files"}
MAX_TEXT = 2_000
NETWORKS = ({"model.keras"}, {"model.xml", "model.bin"}, {"model-int8.xml", "model-int8.bin"})


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
    _check_calibration(values.get("calibration", {}))
    _check_parity(values["parity"])
    _check_proof(values)
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
    _check_pair(values, "package.json is damaged: ")
    if not all(_is_number(limit) and limit > 0 for limit in values.get("ood", {}).values()):
        raise BadManifest("package.json is damaged: ood holds what is no positive number")


def _check_pair(values: dict[str, Any], where: str) -> None:
    threshold: Any = values.get("threshold")
    temperature: Any = values.get("temperature")
    if not _is_number(threshold) or not 0 <= threshold <= 1:
        raise BadManifest(f"{where}threshold is not a probability")
    if not _is_number(temperature) or temperature <= 0:
        raise BadManifest(f"{where}temperature is not a positive number")


def _check_calibration(calibration: dict[str, Any]) -> None:
    for engine, own in calibration.items():
        if not isinstance(own, dict) or own.keys() != {"temperature", "threshold"}:
            raise BadManifest(
                f"package.json is damaged: calibration of {engine[:64]!a} is not a temperature and threshold"
            )
        _check_pair(own, f"package.json is damaged: calibration of {engine[:64]!a}: ")


def _check_parity(parity: dict[str, Any]) -> None:
    for precision in PRECISIONS & parity.keys():
        found = parity[precision]
        if not isinstance(found, dict) or not all(_is_plain(value) for value in found.values()):
            raise BadManifest(f"package.json is damaged: the parity of {precision} is not whole")


def _is_plain(value: Any) -> bool:
    """Whether a value is text, a truth value, a number that a float can hold, nothing, or made of such."""
    if isinstance(value, dict):
        return all(_is_plain(each) for each in value.values())
    return value is None or isinstance(value, str | bool) or _is_number(value)


def _check_proof(values: dict[str, Any]) -> None:
    """A network in int8 alone needs a proof, since there is no float32 file to hold it to."""
    proof, files = values.get("proof", {}), values["files"]
    if (PROOF_FILE in files and not proof) or (proof and PROOF_FILE not in files):
        raise BadManifest(f"package.json is damaged: proof and {PROOF_FILE} belong together")
    if not proof and files.keys().isdisjoint({"model.keras", "model.xml"}):
        raise BadManifest("it holds an int8 network alone, and no proof to hold it to")
    tolerance = proof.get("tolerance", {})
    if not isinstance(tolerance, dict) or not tolerance.keys() <= PRECISIONS:
        raise BadManifest("package.json is damaged: the proof's tolerance names an unknown precision")
    for precision, limits in tolerance.items():
        if not isinstance(limits, dict) or limits.keys() != DIFFERENCES:
            raise BadManifest(f"package.json is damaged: the proof's tolerance of {precision} is not whole")
        if not all(_is_number(limit) and limit >= 0 for limit in limits.values()):
            raise BadManifest(f"package.json is damaged: the proof's tolerance of {precision} is not a number")


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


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
    if not any(network <= files.keys() for network in NETWORKS):
        raise BadManifest("it holds no network: neither model.keras, nor model.xml or model-int8.xml with its .bin")
