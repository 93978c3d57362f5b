"""A worker that predicts keeps what the proofs found, whether one passed or none. Nobody else keeps anything."""

import pytest

from db.database import read_scope
from db.models import ModelVersion
from db.registry.engine_proofs import list_servings
from worker.engines import load
from worker.engines.fake import FakeEngine
from worker.engines.proof import ProofResult
from worker.jobs import loaded_engines


def result(precision: str, passed: bool) -> ProofResult:
    """What a proof found on a machine."""
    return ProofResult("ct-1", "Xeon", f"openvino-{precision}", precision, passed, 0.01, 1.0, "as it was found")


def test_proofs_of_a_load_are_kept(champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [result("int8", False), result("bf16", True)]
    monkeypatch.setattr(load, "load_engine", lambda *args, **kwargs: load.Proven(FakeEngine(), results))
    predicting_worker_loads(champion)
    assert kept() == [("ct-1", "fallen back", "openvino-bf16")]


def test_proofs_of_a_refusal_are_kept(champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> load.Proven:
        raise load.EngineUnproven([result("int8", False), result("f32", False)])

    monkeypatch.setattr(load, "load_engine", refuse)
    with pytest.raises(load.EngineUnproven):
        predicting_worker_loads(champion)
    assert kept() == [("ct-1", "refused", None)]


def test_engine_of_another_precision_does_not_serve(champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load_engine(*args: object, precision: str | None = None, **kwargs: object) -> load.Proven:
        asked.append(precision)
        return load.Proven(FakeEngine(), [result("f32", True)])

    monkeypatch.setattr(load, "load_engine", load_engine)
    load.engine_of(champion, "f32")
    assert asked == ["f32"]
    assert kept() == []


def test_evaluation_does_not_change_what_serves(champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> load.Proven:
        raise load.EngineUnproven([result("f32", False)])

    monkeypatch.setattr(load, "load_engine", lambda *_, **__: load.Proven(FakeEngine(), [result("int8", True)]))
    predicting_worker_loads(champion)
    monkeypatch.setattr(load, "load_engine", refuse)
    with pytest.raises(load.EngineUnproven):
        load.engine_of(champion)
    monkeypatch.setattr(load, "load_engine", lambda *_, **__: load.Proven(FakeEngine(), [result("f32", True)]))
    load.engine_of(champion)
    assert kept() == [("ct-1", "used", "openvino-int8")]


def predicting_worker_loads(version: ModelVersion) -> None:
    """Load the engine as an inference worker does that has just started."""
    loaded_engines.kept.clear()
    try:
        loaded_engines.load(version)
    finally:
        loaded_engines.kept.clear()


def kept() -> list[tuple[str, str, str | None]]:
    """Host, state and engine of what serves."""
    with read_scope() as s:
        return [(one.host, one.state, one.engine) for one in list_servings(s)]
