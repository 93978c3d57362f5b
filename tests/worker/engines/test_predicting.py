"""A worker predicts with the engine that proved itself, and each prediction says which one it was."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db import database as base
from db.access.accounts import create_user
from db.database import read_scope, session_scope
from db.evaluation.promotion import promote_first
from db.models import Prediction
from db.registry import versions
from db.registry.engine_proofs import list_servings
from db.registry.manifest import INT8_FILE
from db.settings import Settings
from tests.builders.files import png
from tests.worker.conftest import Submit
from tests.worker.engines.test_proof import damage_one_scale, rewrite
from worker.jobs import ingest, loaded_engines, predict

Published = tuple[Path, Any, list[Any]]


def promote(folder: Path) -> int:
    """Register a package and make it the champion; its id."""
    stored = versions.store_package(folder)
    with session_scope() as s:
        return promote_first(s, versions.register_package(s, stored), "for a test").id


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_predictions_say_which_precision_made_them(
    damaged: bool, published: Published, database: Settings, submit: Submit, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(published[0], tmp_path / "package"))
    if damaged:
        damage_one_scale(folder / INT8_FILE)
        rewrite(folder, lambda manifest: None)
    base.use(database.model_copy(update={"engine": "openvino"}))
    version_id = promote(folder)
    with session_scope() as s:
        ann = create_user(s, "ann", None)
    submit(ann, {"a.png": png(1), "b.png": png(2)})
    ingest.unpack_next("w")
    assert predict.predict_next("w")
    loaded_engines.kept.clear()
    with read_scope() as s:
        engines = set(s.scalars(select(Prediction.engine)))
        [serving] = list_servings(s, version_id=version_id)
    parity = json.loads((folder / "package.json").read_text())["parity"]
    slower = "openvino-bf16" if parity["bf16"]["passed"] else "openvino-f32"
    assert engines == {slower if damaged else "openvino-int8"} == {serving.engine}
    assert serving.state == ("fallen back" if damaged else "used")
