"""Export and import of a model version as one file: the same bytes, every hash, and nothing kept of a bad one."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from db import database as base
from db import migrate
from db.database import session_scope
from db.models import Dataset, ModelVersion
from db.registry import transfer, versions
from db.registry.export import export_package, export_size
from db.registry.keras_safety import HarmfulModel, check_keras_archive
from db.registry.manifest import MANIFEST, OF_SLICES
from db.registry.transfer import PackageRefused, import_package, register_received
from db.settings import Settings
from db.storage import FileDamaged, storage
from db.training import runs
from db.training.runs import NewRun
from tests.builders.datasets import add_dataset, add_split, delete_dataset
from tests.conftest import make_settings
from worker.engines.package import read_package

RECIPE = "lung-224-v1"
LAYER = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 1}, "registered_name": None}


def keras_file(*layers: dict[str, Any], **members: bytes) -> bytes:
    """A Keras archive of these layers, as far as its configuration goes."""
    config = {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "registered_name": "Functional",
        "config": {"layers": [LAYER, *layers]},
    }
    files = {"metadata.json": b"{}", "config.json": json.dumps(config).encode(), "model.weights.h5": b"weights"}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in (files | members).items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return packed.getvalue()


def accept(_: Path) -> None:
    """Take any weights: these tests have none."""


FILES = {"model.keras": keras_file(), "model.xml": b"<net/>", "model.bin": bytes(700), "report.html": b"<p>good</p>"}


def manifest(files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "name": "lung", "note": "a note", "recipe": RECIPE, "threshold": 0.4, "temperature": 1.5,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "metrics": {"auc": 0.9}, "parity": {}, "ood": {"threshold": 3.0}, "dataset_hash": "ab",
        "created_at": "2026-01-01T00:00:00+00:00",
        "extra": {"floor": 0.9, "lineage": ["lung/1"], "run": 4, "split": {"id": 1, "dataset": "site/1"}},
    }  # fmt: skip


def tar(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = tarfile.REGTYPE if name == "package.json" else kind
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def packed(contents: dict[str, bytes] = FILES, /, **values: object) -> bytes:
    return tar(("package.json", json.dumps({**manifest(contents), **values}).encode()), *contents.items())


@pytest.fixture
def version(database: Settings, tmp_path: Path) -> ModelVersion:
    """A model version of this site, with files."""
    folder = tmp_path / "package"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "package.json").write_text(json.dumps(manifest(FILES)))
    stored = versions.store_package(folder)
    with session_scope() as s:
        return versions.register_package(s, stored)


@pytest.fixture
def receive(database: Settings, tmp_path: Path) -> Callable[[bytes], tuple[ModelVersion, bool]]:
    """Imports the bytes of a file."""

    def act(data: bytes) -> tuple[ModelVersion, bool]:
        path = tmp_path / "lung.tar"
        path.write_bytes(data)
        received = import_package(path, RECIPE, accept)
        with session_scope() as s:
            return register_received(s, received)

    return act


def test_weights_are_checked_before_anything_is_kept(tmp_path: Path) -> None:
    base.use(make_settings(tmp_path / "home"))
    path = tmp_path / "lung.tar"
    path.write_bytes(packed())

    def refuse_weights(archive: Path) -> None:
        assert archive.read_bytes() == FILES["model.keras"]
        raise HarmfulModel("holds a link")

    with pytest.raises(PackageRefused, match=r"model\.keras holds a link"):
        import_package(path, RECIPE, refuse_weights)
    assert stored() == []


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[[bytes, str], None]:
    """Fails to import the bytes of a file, with this message, and looks what was kept; no database is asked."""
    base.use(make_settings(tmp_path / "home"))

    def act(data: bytes, message: str) -> None:
        path = tmp_path / "lung.tar"
        path.write_bytes(data)
        with pytest.raises(PackageRefused, match=message) as refusal:
            import_package(path, RECIPE, accept)
        assert str(refusal.value).startswith("lung.tar: ")
        assert "\n" not in str(refusal.value)
        assert stored() == []

    return act


def stored() -> list[Path]:
    """Every file in storage, the unfinished ones too."""
    return [path for path in storage().folder.rglob("*") if path.is_file()]


def test_a_version_is_exported_to_the_same_bytes_each_time(version: ModelVersion, tmp_path: Path) -> None:
    path = tmp_path / "lung.tar"
    path.write_bytes(b"".join(export_package(version)))
    assert b"".join(export_package(version)) == path.read_bytes()
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["package.json", "model.bin", "model.keras", "model.xml"]


@pytest.mark.parametrize("with_slices", [False, True])
def test_pictures_of_slices_are_exported_only_if_asked_for(
    version: ModelVersion, tmp_path: Path, *, with_slices: bool
) -> None:
    path = tmp_path / "lung.tar"
    path.write_bytes(b"".join(export_package(version, with_slices=with_slices)))
    assert path.stat().st_size == export_size(version, with_slices=with_slices)
    with tarfile.open(path) as archive:
        assert ("report.html" in archive.getnames()) is with_slices
    with session_scope() as s:
        again, new = register_received(s, import_package(path, RECIPE, accept))
    assert (again.id, new) == (version.id, False)


def test_import_keeps_files_and_metrics_and_moves_the_origin_aside(
    version: ModelVersion, database: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "lung.tar"
    path.write_bytes(b"".join(export_package(version, with_slices=True)))
    base.use(make_settings(tmp_path / "elsewhere"))
    migrate.upgrade()
    received = import_package(path, RECIPE, accept)
    with session_scope() as s:
        there, new = register_received(s, received)
    assert new
    assert (there.label, there.files, there.metrics) == ("lung/1", version.files, version.metrics)
    assert (there.threshold, there.temperature, there.ood) == (0.4, 1.5, {"threshold": 3.0})
    assert there.facts.as_json() == {
        "floor": 0.9,
        "imported": {"lineage": ["lung/1"], "run": 4, "split": {"id": 1, "dataset": "site/1"}},
    }
    folder = versions.package_folder(there)
    copied = {name: data for name, data in FILES.items() if name not in OF_SLICES}
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST} == copied
    assert b"".join(export_package(there, with_slices=True)) == path.read_bytes()


def test_version_that_lost_its_pictures_is_used_exported_and_imported(version: ModelVersion, tmp_path: Path) -> None:
    """Its manifest still names them."""
    with session_scope() as s:
        stored = s.get_one(ModelVersion, version.id)
        stored.files = {name: sha256 for name, sha256 in stored.files.items() if name not in OF_SLICES}
        before, after = versions.package_folder(version), versions.package_folder(stored)
    assert before == after, "no worker loads it again"
    read_package(after)
    path = tmp_path / "lung.tar"
    path.write_bytes(b"".join(export_package(stored, with_slices=True)))
    assert path.stat().st_size == export_size(stored, with_slices=True)
    with session_scope() as s:
        assert register_received(s, import_package(path, RECIPE, accept))[0].id == version.id


@pytest.mark.parametrize("elsewhere", [False, True], ids=["made_here", "made_elsewhere"])
@pytest.mark.parametrize("is_kept", [False, True], ids=["deleted", "kept_in_a_copy"])
def test_import_takes_in_no_pictures_of_slices_that_were_deleted_here(
    receive: Callable[[bytes], tuple[ModelVersion, bool]], *, is_kept: bool, elsewhere: bool
) -> None:
    before = None if elsewhere else receive(packed())[0]
    datasets = [add_dataset("site"), add_dataset("copy")]
    with session_scope() as s:
        for dataset in datasets:
            s.get_one(Dataset, dataset.id).sha256 = "ab"
    for dataset in datasets[: 1 if is_kept else 2]:
        delete_dataset(dataset)
    version, new = receive(packed())
    assert ("report.html" in version.files) is is_kept
    assert (new, receive(packed())[0].id) == (elsewhere, version.id)
    assert before is None or before.id == version.id


def test_importing_twice_gives_the_same_version(receive) -> None:
    first, new = receive(packed())
    again, new_again = receive(packed())
    assert (new, new_again, again.id) == (True, False, first.id)
    other, new = receive(packed(note="another note"))
    assert (new, other.label) == (True, "lung/2")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_two_who_import_the_same_package_at_once_get_one_version(database: Settings, tmp_path: Path) -> None:
    """On SQLite, the second waits for the first anyway."""
    path = tmp_path / "lung.tar"
    path.write_bytes(packed())
    received = import_package(path, RECIPE, accept)
    second: list[tuple[ModelVersion, bool]] = []

    def register() -> None:
        with session_scope() as s:
            second.append(register_received(s, received))

    other = threading.Thread(target=register)
    with session_scope() as s:
        first, _ = register_received(s, received)
        other.start()
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while other.is_alive() and not s.scalar(waiting):
            time.sleep(0.01)
    other.join()
    [(again, new)] = second
    assert (again.id, new) == (first.id, False)


def test_importing_an_export_of_this_database_gives_the_existing_version(version: ModelVersion, receive) -> None:
    again, new = receive(b"".join(export_package(version)))
    assert (again.id, new) == (version.id, False)


@pytest.mark.parametrize("name", ["", "7", "1.2_b-C", "x" * 64])
def test_a_name_that_a_run_may_have_goes_through_import_and_export(
    receive: Callable[[bytes], tuple[ModelVersion, bool]], name: str
) -> None:
    dataset = add_dataset()
    with session_scope() as s:
        run = runs.create_run(s, NewRun(dataset, add_split(dataset), "quick", {}, seed=7, name=name))
    there, _ = receive(packed(name=run.name))
    again, new = receive(b"".join(export_package(there)))
    assert (again.name, new) == (name or "site", False)
    with session_scope() as s:
        assert versions.find_version(s, there.label).id == there.id


def test_a_stored_file_that_was_damaged_is_not_exported(version: ModelVersion) -> None:
    storage().local_path(version.files["model.bin"]).write_bytes(b"other")
    with pytest.raises(FileDamaged):
        list(export_package(version))


BROKEN = {
    "an empty file": (b"", "damaged, cut off, or not an exported model version"),
    "a picture": (b"\x89PNG\r\n" + bytes(2000), "damaged, cut off, or not an exported model version"),
    "an empty TAR": (bytes(10240), "does not begin with package.json"),
    "a TAR of something else": (tar(("scan.dcm", b"DICM")), "does not begin with package.json"),
    "cut off within a file": (packed()[:2600], "the file is cut off"),
    "cut off between files": (packed()[: packed().index(b"model.xml\0")], "damaged, cut off"),
    "a file is missing": (
        tar(("package.json", json.dumps(manifest(FILES)).encode()), *list(FILES.items())[:-1]),
        "report.html is missing",
    ),
    "other bytes": (packed().replace(b"<p>good</p>", b"<p>evil</p>"), "report.html holds other bytes"),
    "a file that is not named": (
        tar(("package.json", json.dumps(manifest({k: FILES[k] for k in list(FILES)[:3]})).encode()), *FILES.items()),
        "holds 'report.html', which package.json does not name",
    ),
    "a file twice": (
        tar(("package.json", json.dumps(manifest(FILES)).encode()), *FILES.items(), ("model.xml", b"<net/>")),
        "or holds it twice",
    ),
    "a link": (
        tar(("package.json", json.dumps(manifest(FILES)).encode()), ("model.xml", b""), kind=tarfile.SYMTYPE),
        "'model.xml' is not a regular file",
    ),
    "a large model card": (
        tar(
            ("package.json", json.dumps(manifest(FILES | {"MODEL_CARD.md": bytes(1 << 21)})).encode()),
            ("MODEL_CARD.md", bytes(1 << 21)),
        ),
        "its MODEL_CARD.md is larger than the 1 MiB that are accepted",
    ),
    "a damaged header": (packed().replace(b"model.xml\0", b"model.xyz\0"), "damaged, cut off"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_or_foreign_file_is_refused_and_nothing_is_kept(refuse, data: bytes, message: str) -> None:
    refuse(data, message)


PATHS = ["../model.xml", "/etc/model.xml", "a/model.xml", "a\\model.xml", ".xml", "model.pkl", "model.h5", "x\n.xml"]
ODD_METRICS: dict[str, object] = {
    "auc": "high",
    "n": "many",
    "class_groups": {"COVID": "many"},
    "confusion_matrix": [[1, "many"]],
    "intervals": [1],
    "by_group": 7,
    "by_source": {"CT 1": 7},
    "rule": 7,
    "measured_on": {},
    "measured_with": [],
}
UNUSABLE = [
    *(({"files": {name: "0" * 64}}, "is not a file name that a package may hold") for name in PATHS),
    ({"files": {"model.xml": "0" * 63, "model.bin": "0" * 64}}, "files.model.xml"),
    ({"files": {"model.xml": None}}, "files.model.xml"),
    ({"files": {"model.xml": "0" * 64}}, "it holds no network"),
    ({"files": {f"{n}.png": "0" * 64 for n in range(65)}}, "names 65 files; 64 are accepted"),
    ({"files": []}, "'files'"),
    ({"recipe": "brain-512-v3"}, "slices prepared by the recipe 'brain-512-v3'; this ctbatch uses lung-224-v1"),
    ({"name": "../lung"}, "is not a name of a model"),
    ({"name": "x" * 65}, "is not a name of a model"),
    ({"note": "x" * 2001}, "'note'"),
    ({"note": None}, "'note'"),
    ({"dataset_hash": 7}, "'dataset_hash'"),
    ({"threshold": 1.5}, "'threshold'"),
    ({"threshold": True}, "'threshold'"),
    ({"threshold": float("nan")}, "it is not JSON"),
    ({"temperature": 0}, "'temperature'"),
    ({"temperature": "hot"}, "'temperature'"),
    ({"metrics": []}, "'metrics'"),
    *(({"metrics": {name: value}}, "'metrics") for name, value in ODD_METRICS.items()),
    *(({"metrics": {"by_group": {name: value}}}, "'metrics") for name, value in ODD_METRICS.items()),
    ({"extra": {"environment": {"deep": json.loads("[" * 300 + "]" * 300)}}}, "nested more than 32 levels"),
    ({"ood": []}, "'ood'"),
    ({"ood": {"threshold": 1.5, "openvino-int8": "far"}}, "ood.openvino-int8"),
    ({"plugin": "x"}, "'plugin'"),
    ({"threshold": 10**400}, "a number that is too large"),
    ({"metrics": {"auc": 10**400}}, "a number that is too large"),
    ({"metrics": {"deep": [{"x": "\ud800"}]}}, "half a character"),
    ({"metrics": {"\0": 1}}, "a control character"),
    ({"extra": {"free": "\x1b[2J"}}, "a control character"),
    ({"note": "\ud800"}, "half a character"),
    ({"files": {"a\nb.xml": "0" * 64}}, r"a\\nb\.xml"),
    ({"parity": {"int8": [1]}}, "'parity"),
    ({"parity": {"f32": {"largest_difference": "much"}}}, "'parity"),
    ({"extra": {"lineage": "none"}}, "extra.lineage"),
    ({"extra": {"dataset": ["x"]}}, "extra.dataset"),
    ({"extra": {"run": "y"}}, "extra.run"),
    ({"extra": {"split": {"id": "1", "dataset": "site/1"}}}, "extra.split"),
    ({"extra": {"training_seconds": "long"}}, "extra.training_seconds"),
    *(({"extra": {"floor": floor}}, "extra.floor") for floor in ("high", [0.9], 7, True)),
]


def test_infinite_number_is_refused(refuse) -> None:
    data = json.dumps({**manifest(FILES), "metrics": {"auc": "INF"}}).replace('"INF"', "1e999").encode()
    refuse(tar(("package.json", data), *FILES.items()), "a number that is too large")


@pytest.mark.parametrize(("values", "message"), UNUSABLE, ids=[str(values)[:40] for values, _ in UNUSABLE])
def test_a_manifest_that_cannot_be_used_is_refused(refuse, values: dict[str, Any], message: str) -> None:
    refuse(packed(**values), message)


@pytest.mark.parametrize("data", [b"[]", b"{", b"\xff", b"[" * 100_000, b"{}"])
def test_manifest_that_is_not_an_object_is_refused(refuse, data: bytes) -> None:
    refuse(tar(("package.json", data)), r"package\.json is damaged")


@pytest.mark.parametrize("name", ["MAX_BYTES", "MAX_MANIFEST_BYTES"])
def test_sizes_are_bounded(refuse, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(transfer, name, 600)
    refuse(packed(), "that are accepted")


def custom(module: object, name: object, registered: object = None) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": {}, "registered_name": registered}


HARMFUL = {
    "a lambda": (keras_file(custom("keras.layers", "Lambda")), "holds a Lambda, which runs code"),
    "a lambda's code": (keras_file({"config": [{"class_name": "__lambda__", "config": {}}]}), "holds a __lambda__"),
    "a saved model": (keras_file(custom("keras.layers", "TFSMLayer")), "holds a TFSMLayer"),
    "a vocabulary": (keras_file(custom("keras.layers", "StringLookup")), "holds a StringLookup"),
    "a module of Python": (
        keras_file(custom("os", "System")),
        "'os' 'System', which is not a part of Keras that ctbatch",
    ),
    "a function": (keras_file(custom("keras.utils", "get_file")), "'keras.utils' 'get_file'"),
    "a function of Python": (keras_file(custom("builtins", "function", "function")), "holds a function"),
    "a function of Keras": (keras_file(custom("keras.layers", "deserialize")), "'deserialize'"),
    "a lookalike": (keras_file(custom("keras.layersx", "Dense")), r"'keras\.layersx' 'Dense'"),
    "a registered class": (keras_file(custom(None, "Mine", "site>Mine")), "None 'Mine'"),
    "a network of whole numbers": (
        keras_file(custom("keras.quantizers", "Int8QuantizationConfig")),
        "not a part of Keras that ctbatch loads",
    ),
    "another name registered": (
        keras_file(custom("keras.layers", "Dense", "site>Dense")),
        "not a part of Keras that ctbatch loads",
    ),
    "no name": (keras_file(custom("keras.layers", None)), "not a part of Keras that ctbatch loads"),
    "an asset": (keras_file(**{"assets/x.txt": b""}), "not a plain Keras archive"),
    "no configuration": (keras_file(**{"config.json": b"{"}), "is damaged"),
    "nested without end": (keras_file(**{"config.json": b"[" * 5000 + b"]" * 5000}), "is damaged|nested too deep"),
    "no archive": (b"\x89HDF\r\n\x1a\n" + bytes(600), "is damaged: it is not a Keras archive"),
}


@pytest.mark.parametrize(("data", "message"), HARMFUL.values(), ids=HARMFUL.keys())
def test_a_network_that_could_run_code_is_refused(refuse, data: bytes, message: str) -> None:
    refuse(packed({"model.keras": data}), rf"lung\.tar: model\.keras .*({message})")


def test_network_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("metadata.json", "config.json"):
            archive.writestr(name, b"{}")
        archive.writestr("model.weights.h5", bytes(20 << 20))
    with pytest.raises(HarmfulModel, match="unpacks to far more than it is"):
        check_keras_archive(tmp_path / "model.keras")


INT8 = {"model-int8.xml": b"<net/>", "model-int8.bin": bytes(700)}
TOLERANCE = {"int8": {"logit": 0.2, "distance": 0.1, "cam": 0.1}}


def proof_file(side: int = 224) -> bytes:
    """A proof of two slices."""
    packed = io.BytesIO()
    answers = {"logit": np.zeros(2, np.float32), "cam": np.zeros((2, 7, 7), np.float32)}
    np.savez_compressed(packed, slices=np.zeros((2, side, side), np.uint8), **answers)
    return packed.getvalue()


def proven(files: dict[str, bytes], proof: bytes, **values: object) -> bytes:
    """A package of these files with a proof."""
    return packed(files | {"proof.npz": proof}, proof={"slices": 2, "seed": 1, "tolerance": TOLERANCE}, **values)


def test_compressed_int8_package_with_a_proof_is_imported(receive) -> None:
    own = {"openvino-int8": {"temperature": 1.2, "threshold": 0.45}}
    version, new = receive(gzip.compress(proven(INT8, proof_file(), calibration=own)))
    assert new
    assert version.calibration == own
    assert version.files.keys() == {*INT8, "proof.npz", "package.json"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packed(INT8), "no proof"),
        (proven(FILES, proof_file(side=100)), "must be uint8"),
        (proven(FILES, b"PK nothing"), "proof.npz is damaged"),
        (packed(FILES | {"proof.npz": proof_file()}), "both the proof and"),
        (packed(FILES, proof={"tolerance": TOLERANCE}), "both the proof and"),
        (proven(FILES, proof_file()).replace(b'"logit": 0.2', b'"logit": "x"'), "tolerance"),
        (proven(FILES, proof_file()).replace(b'"int8": {', b'"int7": {'), "unknown precision"),
        (packed(FILES, calibration={"openvino-int8": {"temperature": 0, "threshold": 0.5}}), "temperature"),
        (packed(FILES, calibration={"openvino-int8": {"threshold": 0.5}}), "calibration.openvino-int8"),
        (gzip.compress(proven(INT8, proof_file()))[:-900], "cut off"),
    ],
)
def test_bad_proof_or_calibration_is_refused(refuse, data: bytes, message: str) -> None:
    refuse(data, message)


def test_bytes_that_inflate_to_more_than_is_accepted_are_refused(refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_BYTES", 1000)
    refuse(gzip.compress(packed(FILES | {"model.bin": bytes(1_000_000)})), "more than")
