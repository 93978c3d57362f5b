"""What serves on a host, by the proofs of the newest load there."""

from collections.abc import Callable

import pytest
from sqlalchemy import select

from db.database import read_scope, session_scope
from db.ledger import jobs
from db.models import EngineProof, Job, JobState, ModelVersion, User
from db.registry import engine_proofs
from db.registry.engine_proofs import Serving
from tests.web.actors import end_workers, load_engines
from worker import sweep

NewChampion = Callable[[str], ModelVersion]


def result(engine: str, passed: bool = True, host: str = "ct-1") -> dict[str, object]:
    """A result of a proof, as a worker hands it over."""
    return {
        "host": host,
        "processor": "Xeon, AVX2",
        "engine": engine,
        "precision": engine.rpartition("-")[2],
        "passed": passed,
        "largest_difference": 0.004 if passed else 0.31,
        "seconds": 1.5,
        "text": f"{engine} {'agrees with' if passed else 'differs from'} the package's proof",
    }


def load(version: ModelVersion, **passed: bool) -> None:
    """Record one load that tried these precisions, in this order."""
    with session_scope() as s:
        results = [result(f"openvino-{name}", found) for name, found in passed.items()]
        engine_proofs.record_load(s, version.id, results)


def serving() -> Serving:
    """The one serving that there is."""
    with read_scope() as s:
        [found] = engine_proofs.list_servings(s)
    return found


@pytest.mark.parametrize(
    ("passed", "state", "engine"),
    [
        ({"int8": True}, "used", "openvino-int8"),
        ({"f32": True}, "used", "openvino-f32"),  # no quicker engine was to be tried: not a fall-back
        ({"int8": False, "bf16": True}, "fallen back", "openvino-bf16"),
        ({"int8": False, "bf16": False, "f32": True}, "fallen back", "openvino-f32"),
        ({"int8": False, "bf16": False, "f32": False}, "refused", None),
    ],
)
def test_first_engine_that_passes_serves(
    champion: ModelVersion, passed: dict[str, bool], state: str, engine: str | None
) -> None:
    load(champion, **passed)
    found = serving()
    assert (found.state, found.engine, found.host, found.version.label) == (state, engine, "ct-1", "fake/1")
    assert [proof.precision for proof in found.proofs] == list(passed)
    assert bool(found.advice) == (state != "used")


def test_new_load_replaces_the_results_of_earlier_ones(champion: ModelVersion) -> None:
    load(champion, int8=False, bf16=True)
    load(champion, int8=True)
    assert (serving().state, serving().engine) == ("used", "openvino-int8")
    load(champion, f32=True)  # the settings ask for float32 now
    assert (serving().state, serving().engine) == ("used", "openvino-f32")
    load(champion, int8=False, bf16=False, f32=False)
    assert (serving().state, serving().engine) == ("refused", None)
    load(champion)  # the fake engine proves nothing
    with read_scope() as s:
        assert len(s.scalars(select(EngineProof)).all()) == 3


def test_message_names_what_failed_and_what_serves(champion: ModelVersion) -> None:
    load(champion, int8=False, bf16=True)
    found = serving()
    assert found.message == "int8 is not used on ct-1 for fake/1; bfloat16 serves instead."
    assert found.reasons == ["openvino-int8 differs from the package's proof"]
    assert "update the machine's OpenVINO" in found.advice
    load(champion, int8=False, bf16=False, f32=True)
    assert serving().message == "int8 and bfloat16 are not used on ct-1 for fake/1; float32 serves instead."
    load(champion, int8=False, f32=False)
    assert serving().message == "ct-1 refuses to predict with fake/1; its slices wait for another worker."
    assert len(serving().reasons) == 2


def test_warning_of_a_job_names_the_file_that_the_package_lacks(champion: ModelVersion) -> None:
    lacks = "keras is not used: the package demo holds no model.keras"
    with session_scope() as s:
        engine_proofs.record_load(s, champion.id, [result("keras", False) | {"text": lacks}])
    with read_scope() as s:
        warning = engine_proofs.refusals(s, {champion.id})[champion.id]
    assert lacks in warning
    assert "CTBATCH_ENGINE" in warning


def test_each_host_and_version_has_its_own_serving(champion: ModelVersion, new_champion: NewChampion) -> None:
    other = new_champion("other")
    load(champion, int8=True)
    load(other, int8=False, bf16=True)
    with session_scope() as s:
        engine_proofs.record_load(s, other.id, [result("openvino-int8", False, "ct-0")])
    with read_scope() as s:
        found = engine_proofs.list_servings(s)
        assert [(one.host, one.version.label, one.state) for one in found] == [
            ("ct-0", "other/1", "refused"),
            ("ct-1", "other/1", "fallen back"),
            ("ct-1", "fake/1", "used"),
        ]
        assert len(engine_proofs.list_servings(s, host="ct-1")) == 2
        assert len(engine_proofs.list_servings(s, host="ct-1", version_id=other.id)) == 1


def test_concerns_are_of_versions_in_use(champion: ModelVersion, new_champion: NewChampion, ann: User) -> None:
    load(champion, int8=False, bf16=True)
    with session_scope() as s:
        jobs.create_job(s, owner=ann, files=[jobs.ReceivedFile("a.zip", "5" * 64, 10, "zip", 1)])
    other = new_champion("other")
    load(other, int8=False)
    assert labels() == [("other/1", "refused"), ("fake/1", "fallen back")]
    with session_scope() as s:
        s.scalars(select(Job)).one().state = JobState.FINISHED
    assert labels() == [("other/1", "refused")]


def test_host_whose_worker_is_gone_hides_no_refusal(champion: ModelVersion) -> None:
    load(champion, int8=False)
    load_engines(champion.id, "old", int8=True)
    assert refusal(champion) is None
    end_workers("old")
    assert champion.label in (refusal(champion) or "")
    assert serving().host == "ct-1"
    end_workers("ct-1")
    assert refusal(champion) is None
    with session_scope() as s:
        engine_proofs.keep_seen(s, "old")
    assert serving().host == "old"


def test_imported_version_is_not_proven_by_a_host_whose_worker_is_gone(champion: ModelVersion) -> None:
    with session_scope() as s:
        version = s.get_one(ModelVersion, champion.id)
        version.facts = {"imported": {}}
    load_engines(champion.id, "old", int8=True)
    for gone in (False, True):
        if gone:
            end_workers("old")
        with read_scope() as s:
            assert (engine_proofs.why_not_proven(s, version) is not None) == gone
            assert engine_proofs.is_any_untried(s) == gone
            assert (engine_proofs.next_untried(s, "new") is not None) == gone
            assert engine_proofs.next_untried(s, "old") is None


def test_rows_of_a_host_are_removed_a_day_after_its_worker_is_gone(champion: ModelVersion) -> None:
    load(champion, int8=True)
    load_engines(champion.id, "old", int8=True)
    for seconds, hosts in ((engine_proofs.KEPT_SECONDS - 60, ["ct-1", "old"]), (engine_proofs.KEPT_SECONDS, ["ct-1"])):
        end_workers("old", seconds)
        sweep.sweep()
        with read_scope() as s:
            assert sorted(s.scalars(select(EngineProof.host))) == hosts


def refusal(version: ModelVersion) -> str | None:
    """The warning that no running worker may predict with a version."""
    with read_scope() as s:
        return engine_proofs.refusals(s, {version.id}).get(version.id)


def labels() -> list[tuple[str, str]]:
    """The version and state of each concern."""
    with read_scope() as s:
        found = engine_proofs.list_concerns(s, engine_proofs.list_servings(s))
        return [(one.version.label, one.state) for one in found]
