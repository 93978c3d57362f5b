"""The manifest of a package, `package.json`, as a pydantic model. It is strict, as the file may come from anybody."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from db import NAME
from db.models.documents import Document, Facts, FindingRule, Measured
from db.registry.proof_file import PROOF_FILE

MANIFEST = "package.json"
KERAS_FILE = "model.keras"
FLOAT_FILE, INT8_FILE = "model.xml", "model-int8.xml"  # for OpenVINO; the weights are in a .bin beside each
OF_SLICES = frozenset({"augmented.png", "mistakes.png", "report.html"})
"""Files of a package that show slices. The report holds the same figures as the two pictures. A package may lack them,
even if its manifest names them: they are erased when the dataset is deleted that the version was trained on."""
NETWORKS = ({KERAS_FILE}, {FLOAT_FILE, "model.bin"}, {INT8_FILE, "model-int8.bin"})
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,90}\.(keras|xml|bin|html|md|txt|json|csv|png|svg|npy|npz)")
PRECISIONS = ("f32", "bf16", "int8")
SHOWN = 64  # the most characters of a name in a message
UNUSABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all control characters except tab and new line
LARGEST_NUMBER = 1e300
MOST_NESTED = 32  # levels of objects and lists; our own manifests have 7


class BadManifest(Exception):
    """The manifest is damaged, or describes a package that cannot be used here. The message says why."""


def _model_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:SHOWN]!a} is not a name of a model")
    return name


def _file_name(name: str) -> str:
    if not FILE.fullmatch(name) or name == MANIFEST:
        raise ValueError(f"{name[:SHOWN]!a} is not a file name that a package may hold")
    return name


def _precision(name: str) -> str:
    if name not in PRECISIONS:
        raise ValueError(f"{name[:SHOWN]!a} is an unknown precision")
    return name


def _tolerance(limits: dict[str, float]) -> dict[str, float]:
    if limits.keys() != {"logit", "distance", "cam"}:
        raise ValueError("a tolerance must have the members logit, distance and cam, and no others")
    return limits


def _calibration(own: dict[str, float]) -> dict[str, float]:
    if own.keys() != {"temperature", "threshold"} or own["temperature"] <= 0 or not 0 <= own["threshold"] <= 1:
        raise ValueError("a calibration is a temperature above 0 and a threshold from 0 to 1")
    return own


Text = Annotated[str, Field(max_length=2_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Precision = Annotated[str, AfterValidator(_precision)]
Calibration = Annotated[dict[str, float], AfterValidator(_calibration)]
"""An engine's own temperature and threshold."""
Tolerance = Annotated[dict[str, Annotated[float, Field(ge=0)]], AfterValidator(_tolerance)]
"""How far an engine's answers may be from the answers of the proof, by precision."""


class ProofFacts(Document):
    """The facts of a proof: the number and seed of its slices, and how far answers may differ in each precision."""

    model_config = ConfigDict(extra="allow")

    slices: int = 0
    seed: int = 0
    tolerance: dict[Precision, Tolerance] = Field(default_factory=dict)


class Parity(Document):
    """How close the file of a precision is to float32 on the test slices. Only members that pages show are declared."""

    model_config = ConfigDict(extra="allow")

    passed: bool = False
    reason: Text = "left out"
    to_covid: int | None = None
    to_non_covid: int | None = None
    p99_difference: float | None = None
    largest_difference: float | None = None


class StatedMetrics(Measured, Document):
    """The metrics that a package states. Only members that pages show are declared, without limits on their values."""

    model_config = ConfigDict(extra="allow")

    intervals: dict[str, list[float] | None] = Field(default_factory=dict)
    by_group: "StatedMetrics | None" = None
    by_source: dict[str, "StatedMetrics"] = Field(default_factory=dict)
    rule: dict[str, Any] | None = None
    measured_on: Text = ""
    measured_with: Text = ""


def _metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    StatedMetrics.of(metrics)
    return metrics


def _parity(parity: dict[str, Any]) -> dict[str, Any]:
    for precision in parity.keys() & set(PRECISIONS):
        Parity.of(parity[precision])
    return parity


class Package(Document):
    """The model version that a manifest describes.

    `files` maps file names to SHA-256. `temperature` calibrates probabilities, and a probability is positive from
    `threshold` on. These two are for float32. `calibration`: the temperature and the threshold of other engines, by
    engine name. `ood`: the distance above which a slice is out of distribution. The key `threshold` is for float32,
    others are engine names. It is empty if the network has no distance. `finding_rule`: the tuned rule of findings, if
    any. `extra`: how the version was made.
    """

    name: Annotated[str, AfterValidator(_model_name)]
    note: Text
    recipe: Text
    threshold: Probability
    temperature: Positive
    files: dict[Annotated[str, AfterValidator(_file_name)], Sha256]
    metrics: Annotated[dict[str, Any], AfterValidator(_metrics)]
    parity: Annotated[dict[str, Any], AfterValidator(_parity)]
    dataset_hash: Text | None = None
    created_at: Text | None = None
    extra: Facts = Facts()
    ood: dict[str, Positive] = Field(default_factory=dict)
    calibration: dict[str, Calibration] = Field(default_factory=dict)
    proof: ProofFacts = ProofFacts()
    finding_rule: FindingRule | None = None

    def as_bytes(self) -> bytes:
        """Return the manifest as the bytes of `package.json`."""
        return (json.dumps(self.as_json(), indent=2, sort_keys=True) + "\n").encode()

    def write(self, folder: Path) -> None:
        """Write the manifest into the package's folder."""
        (folder / MANIFEST).write_bytes(self.as_bytes())


def parse_manifest(data: bytes) -> Package:
    """Return the package that the bytes of a manifest describe.

    Raises BadManifest: the bytes are not JSON, or a member is missing, unknown, or has a wrong type, form or range.
    Free members may not have values that cannot be stored or shown: control characters, lone surrogates, numbers that
    are too large or not finite, or more than 32 levels.
    """
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
        _check_values(value)
        return Package.of(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ascii(".".join(map(str, first["loc"])) or "all")[: 2 * SHOWN]
        raise BadManifest(f"{MANIFEST} is damaged: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise BadManifest(f"{MANIFEST} is damaged: it is not JSON") from error


def _check_values(whole: Any) -> None:
    """Raise BadManifest if a text or a number, at any depth, cannot be stored or shown."""
    values = [(whole, 0)]
    while values:
        value, level = values.pop()
        if level > MOST_NESTED:
            raise BadManifest(f"{MANIFEST} is damaged: it is nested more than {MOST_NESTED} levels deep")
        match value:
            case dict() as members:
                values += [(one, level + 1) for one in (*members.keys(), *members.values())]
            case list() as items:
                values += [(one, level + 1) for one in items]
            case str() as text if UNUSABLE.search(text):
                raise BadManifest(f"{MANIFEST} is damaged: it holds a control character or half a character")
            case float() | int() as number if not -LARGEST_NUMBER < number < LARGEST_NUMBER:
                raise BadManifest(f"{MANIFEST} is damaged: it holds a number that is too large")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def check_usable(package: Package, recipe: str, max_files: int) -> None:
    """Raise BadManifest unless an imported package can predict slices that this recipe prepares.

    A package with only an int8 network needs a proof, because it has no float32 network to compare with.
    """
    files = package.files.keys()
    if package.recipe != recipe:
        raise BadManifest(f"it needs slices prepared by the recipe {package.recipe!a}; this ctbatch uses {recipe}")
    if len(files) > max_files:
        raise BadManifest(f"{MANIFEST} names {len(files)} files; {max_files} are accepted")
    if not any(network <= files for network in NETWORKS):
        raise BadManifest(f"it holds no network: neither {KERAS_FILE}, nor {FLOAT_FILE} or {INT8_FILE} with its .bin")
    has_proof = package.proof != ProofFacts()
    if has_proof != (PROOF_FILE in files):
        raise BadManifest(f"{MANIFEST} is damaged: it must name both the proof and {PROOF_FILE}, or neither")
    if not has_proof and files.isdisjoint({KERAS_FILE, FLOAT_FILE}):
        raise BadManifest(
            "it holds only an int8 network and no proof; send a package with a proof or a float32 network"
        )
