"""The promotion gate on both databases: refusals, reasons, records, and rollback."""

import threading
from collections.abc import Callable

import pytest

from db.database import read_scope, session_scope
from db.evaluation import comparisons, evaluations, promotion
from db.evaluation.gate import (
    DEFAULT_FLOOR,
    INCOMPARABLE,
    NOTHING,
    PENDING,
    UNPROVEN,
    Gate,
    floors_of,
    gate_of,
    request_gate,
)
from db.evaluation.promotion import GateClosed
from db.evaluation.result import EvaluationResult, PairedMetric
from db.evaluation.rule import COMPARED, NO_EVIDENCE, NOT_SHOWN, PASSED, REFUSED
from db.models import (
    Dataset,
    Evaluation,
    LabelledSlice,
    ModelVersion,
    Promotion,
    PromotionKind,
    Split,
    SplitRule,
    User,
    Work,
)
from db.registry import champions, engine_proofs
from db.registry import versions as registry
from db.settings import Settings
from db.storage import storage
from db.training.lineage import ancestors_of
from tests.builders.datasets import delete_dataset, new_split
from tests.builders.statements import recorded_statements
from tests.builders.versions import fake_package

NewChampion = Callable[[str], ModelVersion]
Pairs = dict[str, PairedMetric]


def pair(low: float | None, high: float | None) -> PairedMetric:
    middle = None if low is None or high is None else (low + high) / 2
    p = None if high is None else 0.0 if high < 0 else 0.5
    return PairedMetric(first=0.9, second=0.9, difference=middle, low=low, high=high, p_lower=p)


EVEN: Pairs = {name: pair(-0.01, 0.02) for name in (*COMPARED, "brier")}
MANY = {"COVID": 20, "non-COVID": 20}


FEW = {"COVID": 20, "non-COVID": 19}


class Registry:
    """A split, versions trained on it, and evaluations whose figures the test names."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.home = settings, settings.home
        with session_scope() as s:
            self.dataset = Dataset(name="site", number=1, sources=[], state=Work.DONE)
            s.add(self.dataset)
            s.flush()
            self.split = new_split(self.dataset.id, {})
            s.add(self.split)

    def add(self, name: str, **facts: object) -> ModelVersion:
        package = fake_package(self.home / f"package-{name}", name)
        stored = registry.store_package(package)
        with session_scope() as s:
            version = registry.register_package(s, stored)
            version.facts = {"split": {"id": self.split.id, "dataset": "site/1"}, **facts}
        return version

    def evaluate(self, version: ModelVersion, recall: float, figures: Pairs = EVEN, **measured: object) -> None:
        """Carry out what is requested on the test part, with these metrics against whatever was there before."""
        with session_scope() as s:
            request_gate(s, version)
        while True:
            with session_scope() as s:
                claimed = evaluations.claim(s, "w")
                if claimed is None:
                    return
                others = {other.id: figures for other in evaluations.done_beside(s, claimed[0])}
            if claimed[0].model_version_id != version.id:
                mirrored = {name: metric.swapped() for name, metric in figures.items()}
                others = dict.fromkeys(others, mirrored)
            interval = {"recall": (recall - 0.1, recall + 0.1)}
            others_fine = {"specificity": 0.9, "auc": 0.95, "class_groups": MANY, "engine": "fake", **measured}
            result = EvaluationResult(n=40, groups=40, recall=recall, intervals=interval, **others_fine)  # type: ignore[arg-type]
            with session_scope() as s:
                assert evaluations.finish(s, claimed[1], storage().put(b"scores"), result, others)


@pytest.fixture
def models(database) -> Registry:
    return Registry(database)


def gate(version: ModelVersion) -> Gate:
    with read_scope() as s:
        return gate_of(s, s.get_one(ModelVersion, version.id))


def promote(version: ModelVersion, reason: str = "", user: User | None = None, **how: object) -> Promotion:
    now = gate(version)
    with session_scope() as s:
        return promotion.promote(s, version, user, reason, now, **how)  # type: ignore[arg-type]


def champion_now() -> str | None:
    with read_scope() as s:
        found = champions.champion(s)
        return found.label if found else None


PROOF = {"host": "h", "processor": "p", "engine": "openvino-f32", "precision": "f32", "seconds": 1.0}


def keep_proof(version: ModelVersion, *, passed: bool) -> None:
    with session_scope() as s:
        result = PROOF | {"passed": passed, "largest_difference": None, "text": "it cannot be run"}
        engine_proofs.record_load(s, version.id, [result])


def test_imported_version_waits_for_its_trial(models: Registry) -> None:
    version = models.add("far", imported={}, split=None)
    assert gate(version).verdict == UNPROVEN
    with pytest.raises(GateClosed, match="not tried here yet"):
        promote(version, "trust me", force=True)
    keep_proof(version, passed=False)
    with pytest.raises(GateClosed, match="it cannot be run"):
        promote(version, "trust me", force=True)
    keep_proof(version, passed=True)
    promote(version, "the first one")
    assert champion_now() == "far/1"


def test_gate_notes_that_every_worker_refuses_the_version(models: Registry) -> None:
    version = models.add("new")
    keep_proof(version, passed=True)
    assert gate(version).notes == []
    keep_proof(version, passed=False)
    [note] = gate(version).notes
    assert "No worker has an engine that may predict with new/1: it cannot be run" in note
    assert promote(version, "the first", force=True).gate["notes"] == [note]


def test_imported_version_is_tried_on_each_host_until_one_passes(models: Registry) -> None:
    models.add("near")
    version = models.add("far", imported={})

    def untried(host: str) -> str | None:
        with read_scope() as s:
            found = engine_proofs.next_untried(s, host)
            return found.label if found else None

    assert untried("h") == version.label
    keep_proof(version, passed=False)
    assert [untried("h"), untried("another")] == [None, version.label]
    keep_proof(version, passed=True)
    assert untried("another") is None


def test_passing_candidate_is_promoted_and_its_gate_kept(models: Registry, ann: User) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    assert gate(new).verdict == PENDING
    with pytest.raises(GateClosed, match="new/1 is not evaluated on it yet"):
        promote(new)
    models.evaluate(new, 0.92)
    ann.is_admin = True
    kept = promote(new, user=ann)
    assert champion_now() == "new/1"
    assert (kept.user_id, kept.gate["who"], kept.gate["verdict"]) == (ann.id, "ann", "passed")
    assert (kept.gate["candidate"], kept.gate["champion"], kept.gate["dataset"]) == ("new/1", "old/1", "site/1")
    assert (kept.gate["slices"], kept.gate["groups"], kept.gate["sensitivity"]) == (40, 40, 0.92)
    assert (kept.gate["engine"], kept.gate["margin"], kept.gate["candidate_number"]) == ("fake", 0.02, 2)
    assert kept.gate["floors"]["specificity"] == {"floor": 0.8, "value": 0.9, "interval": None}
    assert kept.gate["figures"] == {name: metric.as_json() for name, metric in EVEN.items()}
    assert not kept.gate["overridden"]


def promote_first(models: Registry, version: ModelVersion) -> None:
    models.evaluate(version, 0.9)
    promote(version, "the first")


def test_candidate_that_is_worse_is_refused_unless_an_admin_says_why(models: Registry, ann: User) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92, {**EVEN, "auc": pair(-0.3, -0.1)})
    with pytest.raises(GateClosed, match=r"^new/1: refused \(its AUC is worse beyond chance"):
        promote(new, "I like it")
    with pytest.raises(GateClosed, match="needs a reason"):
        promote(new, "  ", force=True)
    with pytest.raises(GateClosed, match="only an admin"):
        promote(new, "I like it", ann, force=True)
    ann.is_admin = True
    kept = promote(new, "the old one fails on the new scanner", ann, force=True)
    assert champion_now() == "new/1"
    assert kept.gate["overridden"]
    assert kept.reason == "the old one fails on the new scanner"
    assert kept.gate["figures"]["auc"]["high"] == -0.1
    assert kept.created_at is not None


def test_what_is_not_shown_is_promoted_only_with_a_reason(models: Registry) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92, {**EVEN, "specificity": pair(-0.08, 0.05)})
    assert (gate(new).verdict, gate(new).worst) == (NOT_SHOWN, "specificity 0.900, −0.015 (−0.080 to +0.050)")
    assert gate(new).notes[-1].startswith("about 100 groups of equal size of each class are needed")
    for force in (False, True):
        with pytest.raises(GateClosed, match="needs a reason"):
            promote(new, " ", force=force)
    kept = promote(new, "it reads the new scanner")
    assert (champion_now(), kept.gate["verdict"], kept.gate["overridden"]) == ("new/1", NOT_SHOWN, False)


def test_margin_is_a_setting(models: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92, {**EVEN, "specificity": pair(-0.08, 0.05)})
    wide = models.settings.model_copy(update={"promotion_margin": 0.1})
    monkeypatch.setattr("db.evaluation.gate.current", lambda: wide)
    assert (gate(new).verdict, gate(new).margin) == (PASSED, 0.1)


def test_few_groups_of_a_class_are_not_enough_evidence(models: Registry) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92, class_groups=FEW)
    assert gate(new).verdict == NO_EVIDENCE
    with pytest.raises(GateClosed, match="only 19 groups of non-COVID"):
        promote(new)


def test_different_engines_are_not_compared(models: Registry) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92, engine="keras-bf16")
    assert gate(new).verdict == NOTHING
    assert gate(new).reasons == ["no engine runs both: new/1 was measured by keras-bf16, old/1 by fake"]
    assert gate(new).engine == "", "one engine would be named for both"


def test_a_comparison_names_no_engine_if_two_measured(models: Registry) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92, engine="keras-bf16")
    with read_scope() as s:
        versions = (s.get_one(ModelVersion, one.id) for one in (new, old))
        comparison = comparisons.comparison_of(s, comparisons.pair_of(s, *versions))
    assert comparison is not None
    assert (comparison.state, comparison.engine) == ("finished", None)
    assert "new/1 by keras-bf16, old/1 by fake" in comparison.notes[0]


@pytest.mark.parametrize(
    ("old_files", "new_files", "precision"),
    [
        ({"model.xml", "model-int8.xml"}, {"model.keras", "model-int8.xml"}, "f32"),
        ({"model-int8.xml"}, {"model.keras", "model-int8.xml"}, "int8"),
        ({"model-int8.xml"}, {"model.keras"}, None),
    ],
)
def test_both_are_measured_in_the_same_precision(
    models: Registry, old_files: set[str], new_files: set[str], precision: str | None
) -> None:
    old, new = models.add("old"), models.add("new")
    with session_scope() as s:
        for version, files in ((old, old_files), (new, new_files)):
            stored = s.get_one(ModelVersion, version.id)
            stored.files = stored.files | dict.fromkeys(files, "0" * 64)
        champions.record_promotion(s, s.get_one(ModelVersion, old.id), None, "the first")
    with session_scope() as s:
        requested = request_gate(s, s.get_one(ModelVersion, new.id))
        assert [one.precision for one in requested] == [precision, precision]


def test_candidates_that_were_held_to_the_same_slices_are_counted(models: Registry) -> None:
    old, second, third = models.add("old"), models.add("second"), models.add("third")
    promote_first(models, old)
    for version in (second, third):
        models.evaluate(version, 0.92)
    assert [gate(version).candidate_number for version in (second, third)] == [2, 3]
    assert gate(third).notes[-1].startswith("it is the 3rd version trained on this split")


def test_version_has_its_own_floor(models: Registry) -> None:
    old, new = models.add("old"), models.add("new", floor=0.95)
    promote_first(models, old)
    models.evaluate(new, 0.92)
    assert gate(new).reasons == ["its sensitivity of 0.920 is below the floor of 0.950"]
    assert gate(new).floors["recall"].floor == 0.95


def test_first_version_needs_a_reason_and_its_floor_holds(models: Registry) -> None:
    first, blind = models.add("first"), models.add("blind")
    models.evaluate(first, 0.9)
    models.evaluate(blind, 0.4)
    assert (gate(first).verdict, gate(first).reasons) == (NOTHING, ["there is no champion"])
    assert gate(blind).verdict == REFUSED
    with pytest.raises(GateClosed, match="needs a reason"):
        promote(first)
    promote(first, "the first")
    assert champion_now() == "first/1"


@pytest.mark.parametrize("split", [None, {"id": 99, "dataset": "site/1"}, {"id": 1, "dataset": "elsewhere/1"}])
def test_version_without_a_test_part_here_needs_a_reason(models: Registry, split: object) -> None:
    imported = models.add("imported", split=split)
    assert gate(imported).verdict == NOTHING
    with session_scope() as s:
        assert request_gate(s, imported) == []
    with pytest.raises(GateClosed, match=r"nothing to compare on .*needs a reason"):
        promote(imported)
    promote(imported, "the site check was good")
    assert champion_now() == "imported/1"


def test_split_of_another_dataset_under_the_same_id_is_not_taken_for_the_versions_own(models: Registry) -> None:
    foreign = models.add("foreign", split={"id": models.split.id, "dataset": "elsewhere/3"})
    assert gate(foreign).verdict == NOTHING


def test_failed_evaluation_is_named_and_requested_again(models: Registry) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    with session_scope() as s:
        [requested] = request_gate(s, new)
        evaluations.fail(s, evaluations.claim(s, "w")[1], "a file is gone")
    assert gate(new).reasons == ["the evaluation of new/1 failed: a file is gone"]
    with session_scope() as s:
        [again] = request_gate(s, new)
        assert (again.id, again.state) == (requested.id, Work.READY)


def test_notes_count_test_slices_that_trained_a_version(models: Registry) -> None:
    with session_scope() as s:
        slices = [("a", "1"), ("b", "2"), ("b", "3"), ("c", "4")]
        for row, (group, pixels) in enumerate(slices):
            known = {"dataset_id": models.dataset.id, "group": group, "pixels_sha256": pixels, "label": 1}
            s.add(LabelledSlice(ordinal=row, row=row, name=f"{row}.png", **known))
        s.get_one(Split, models.split.id).assignment = {"a": "train", "b": "test", "c": "test"}
        parts = {"a": "test", "b": "train", "c": "validation"}
        split = new_split(models.dataset.id, parts, seed=8)
        s.add(split)
    other = {"id": split.id, "dataset": "site/1"}
    parent = models.add("parent", split=other)
    child = models.add("child", lineage=["gone/1", parent.label])
    models.evaluate(child, 0.92)
    assert gate(child).notes == ["child/1, or a version it comes from, was trained on 2 of these slices"]
    old, new = models.add("old", split=other), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92)
    models.evaluate(child, 0.92)
    assert gate(new).notes[0] == "old/1, or a version it comes from, was trained on 2 of these slices"
    assert gate(new).verdict == PASSED, "the champion was trained on some, not the candidate"
    assert [note.split(",")[0] for note in gate(child).notes] == ["child/1", "old/1"]
    assert gate(child).verdict == NO_EVIDENCE
    with pytest.raises(GateClosed, match="2 of 40 slices are not evidence"):
        promote(child)


def test_slices_are_read_once_for_a_gate_that_is_looked_at_again(models: Registry) -> None:
    with session_scope() as s:
        for row, group in enumerate(("a", "b", "c")):
            known = {"dataset_id": models.dataset.id, "group": group, "pixels_sha256": str(row), "label": 1}
            s.add(LabelledSlice(ordinal=row, row=row, name=f"{row}.png", **known))
        s.get_one(Split, models.split.id).assignment = {"a": "train", "b": "test", "c": "test"}
        other = new_split(models.dataset.id, {"a": "test", "b": "train", "c": "test"}, seed=8)
        s.add(other)
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92)
    with session_scope() as s:
        stored = s.get_one(ModelVersion, old.id)
        stored.facts = {**stored.facts.as_json(), "split": {"id": other.id, "dataset": "site/1"}}
    first = gate(new)
    assert first.notes[0] == "old/1, or a version it comes from, was trained on 1 of these slices"
    with recorded_statements() as statements:
        assert gate(new) == first
    assert not [one for one in statements if "labelled_slice" in one]


def test_patients_in_both_train_and_test_are_not_evidence(models: Registry) -> None:
    with session_scope() as s:
        for row, (group, part) in enumerate([("a", "train"), ("b", "train"), ("b", "test"), ("c", "test")]):
            known = {"dataset_id": models.dataset.id, "group": group, "pixels_sha256": str(row), "label": 1}
            s.add(LabelledSlice(ordinal=row, row=row, name=f"{row}.png", given_part=part, **known))
        split = s.get_one(Split, models.split.id)
        split.rule, split.leaks = SplitRule.GIVEN, {"shared-groups": {"count": 1, "examples": ["b"]}}
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92)
    assert gate(new).verdict == NO_EVIDENCE
    assert gate(new).reasons[0].startswith("1 of 40 slices")


def test_notes_count_slices_without_a_known_patient(models: Registry) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92)
    assert len(gate(new).notes) == 1
    with session_scope() as s:
        s.get_one(Dataset, models.dataset.id).report = {"groups_from": {"folders": 8, "near-identical slices": 1200}}
    assert gate(new).notes[0].startswith("1,200 of ")


def test_notes_name_versions_trained_on_slices_elsewhere(models: Registry) -> None:
    imported, new = models.add("imported", split=None, dataset="clinic/4"), models.add("new", dataset="site/1")
    promote(imported, "the site check was good")
    models.evaluate(new, 0.92)
    assert gate(new).notes == [
        "imported/1 was trained on slices that this database does not have; they may include these",
    ]


def test_ancestors_of_an_imported_version_are_not_versions_here(models: Registry) -> None:
    models.add("base", dataset="site/1")
    elsewhere = {"lineage": ["base/1"]}
    imported, new = models.add("imported", split=None, imported=elsewhere), models.add("new", dataset="site/1")
    keep_proof(imported, passed=True)
    promote(imported, "the site check was good")
    models.evaluate(new, 0.92)
    assert gate(new).notes[:2] == [
        "imported/1 was trained on slices that this database does not have; they may include these",
        "imported/1 was made elsewhere from base/1, which may have seen these slices",
    ]
    with read_scope() as s:
        assert [each.label for each in ancestors_of(s, s.merge(imported))] == ["imported/1"]


def test_changed_champion_is_not_replaced_by_an_old_gate(models: Registry) -> None:
    old, new, other = models.add("old"), models.add("new"), models.add("other")
    promote_first(models, old)
    models.evaluate(new, 0.92)
    before = gate(new)
    models.evaluate(other, 0.92)
    promote(other)
    with pytest.raises(GateClosed, match="the champion has changed: it is other/1 now"), session_scope() as s:
        promotion.promote(s, new, None, "", before)


def test_champion_that_the_person_did_not_see_is_not_replaced(models: Registry) -> None:
    old, new = models.add("old"), models.add("new")
    with pytest.raises(GateClosed, match="the champion has changed: no version is the champion now"):
        promote(old, "the first", force=True, champion_seen="older/1")
    promote(old, "the first", force=True, champion_seen="")
    for champion_seen in ("", "older/1"):
        with pytest.raises(GateClosed, match="the champion has changed: it is old/1 now"):
            promote(new, "it reads the new scanner", force=True, champion_seen=champion_seen)
    promote(new, "it reads the new scanner", force=True, champion_seen="old/1")
    assert champion_now() == "new/1"


def test_champion_is_not_promoted_again(models: Registry) -> None:
    only = models.add("only")
    promote_first(models, only)
    with pytest.raises(GateClosed, match="only/1 is the champion already"):
        promote(only, "again", force=True)
    with read_scope() as s:
        assert len(champions.promotions(s)) == 1


def at_once(*acts: Callable[[], object]) -> list[Exception]:
    """Run each in a thread of its own, and return what they raise."""
    raised: list[Exception] = []

    def act_of(act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=act_of, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_only_one_of_several_simultaneous_promotions_succeeds(models: Registry) -> None:
    old, *new = (models.add(name) for name in ("old", "a", "b", "c", "d"))
    promote_first(models, old)
    gates = []
    for each in new:
        models.evaluate(each, 0.92)
        gates.append(gate(each))

    def act_of(version: ModelVersion, seen: Gate) -> Callable[[], None]:
        def act() -> None:
            with session_scope() as s:
                promotion.promote(s, s.merge(version), None, "", seen)

        return act

    raised = at_once(*(act_of(*pair) for pair in zip(new, gates, strict=True)))
    assert [type(error) for error in raised] == [GateClosed] * 3
    with read_scope() as s:
        assert [each.model_version.label for each in champions.promotions(s)] == [champion_now(), "old/1"]


def test_two_who_roll_back_the_same_champion_go_back_one_step(models: Registry) -> None:
    for name in ("a", "b", "c"):
        promote(models.add(name), "why", force=True)

    def act() -> None:
        with session_scope() as s:
            promotion.rollback(s, None, "worse", champion_seen="c/1")

    [error] = at_once(act, act)
    assert str(error) == "the champion has changed: it is b/1 now; look at it again"
    assert champion_now() == "b/1"


def test_versions_of_one_name_that_are_made_at_once_get_numbers_of_their_own(models: Registry) -> None:
    package = fake_package(models.home / "package", "same")
    stored = registry.store_package(package)

    def act() -> None:
        with session_scope() as s:
            registry.register_package(s, stored)

    assert at_once(act, act, act, act) == []
    with read_scope() as s:
        assert sorted(each.number for each in registry.list_versions(s)) == [1, 2, 3, 4]


def test_rollback_is_one_step_and_history_stays(models: Registry) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92)
    promote(new)
    with session_scope() as s:
        assert promotion.rollback(s, None, "worse on CT 2").label == "old/1"
    assert champion_now() == "old/1"
    with read_scope() as s:
        history = [(p.model_version.label, p.reason, p.kind, p.gate.get("verdict")) for p in champions.promotions(s)]
    assert history == [
        ("old/1", "worse on CT 2", "rollback", None),
        ("new/1", "", "promotion", "passed"),
        ("old/1", "the first", "promotion", "nothing to compare on"),
    ]


def test_each_rollback_goes_back_one_step_further(models: Registry, ann: User) -> None:
    versions = {name: models.add(name) for name in ("a", "b", "c", "d")}

    def crown(name: str) -> None:
        with session_scope() as s:
            champions.record_promotion(s, versions[name], None, "better")

    def back() -> str:
        with session_scope() as s:
            return promotion.rollback(s, ann, "worse").label

    for name in ("a", "b", "c"):
        crown(name)
    assert [back(), back()] == ["b/1", "a/1"]
    with pytest.raises(promotion.NoEarlierChampion, match="no champion before a/1"):
        back()
    for name in ("c", "d", "c"):
        crown(name)
    assert [back(), back(), back()] == ["d/1", "c/1", "a/1"]
    with read_scope() as s:
        assert {each.gate.get("who") for each in champions.promotions(s)} == {"ann", None}


def test_rollbacks_of_earlier_releases_count_as_they_happened(models: Registry) -> None:
    versions = [models.add(name) for name in ("a", "b", "c")]
    with session_scope() as s:
        for version in versions:
            champions.record_promotion(s, version, None, "better")
        for version in (versions[1], versions[2]):  # as earlier releases went back twice
            champions.record_promotion(s, version, None, "worse", kind=PromotionKind.ROLLBACK)
        assert promotion.rollback(s, None, "worse").label == "b/1"


def test_champion_is_not_compared_with_itself(models: Registry) -> None:
    old = models.add("old")
    promote_first(models, old)
    assert gate(old).reasons == ["it is the champion already"]
    with session_scope() as s:
        assert request_gate(s, old) == []
        assert s.query(Evaluation).count() == 1


@pytest.mark.parametrize(
    ("facts", "floor"),
    [
        ({}, DEFAULT_FLOOR),
        ({"floor": 0.7}, 0.7),
        ({"imported": {}}, DEFAULT_FLOOR),
        ({"imported": {}, "floor": 0.0}, DEFAULT_FLOOR),
        ({"imported": {}, "floor": 0.95}, 0.95),
    ],
)
def test_imported_version_cannot_lower_its_floor(facts: dict[str, object], floor: float) -> None:
    assert floors_of(ModelVersion(name="lungs", number=1, facts=facts)).recall == floor


def test_finished_comparison_counts_after_its_dataset_is_deleted(models: Registry) -> None:
    old, new, worse = models.add("old"), models.add("new"), models.add("worse")
    promote_first(models, old)
    models.evaluate(new, 0.92)
    models.evaluate(worse, 0.92, {**EVEN, "auc": pair(-0.3, -0.1)})
    before = gate(new), gate(worse)
    delete_dataset(models.dataset)
    assert [gate(new), gate(worse)] == [one.model_copy(update={"dataset_deleted": True}) for one in before]
    assert [one.verdict for one in before] == [PASSED, REFUSED]
    with session_scope() as s:
        assert request_gate(s, new) == []


def test_missing_comparison_on_a_deleted_dataset_needs_a_reason_and_force(models: Registry) -> None:
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    delete_dataset(models.dataset)
    assert gate(new).verdict == INCOMPARABLE
    assert gate(new).reasons == ["site/1 is deleted, so new/1 cannot be evaluated on it any more"]
    with pytest.raises(GateClosed, match=r"^new/1: cannot be compared \(site/1 is deleted, "):
        promote(new, "trust me")
    kept = promote(new, "trust me", force=True)
    assert (champion_now(), kept.gate["overridden"]) == ("new/1", True)


@pytest.mark.parametrize("is_deleted", [False, True])
def test_candidate_does_not_pass_because_training_slices_of_its_parent_are_deleted(
    models: Registry, is_deleted: bool
) -> None:
    """All test slices trained the parent."""
    with session_scope() as s:
        earlier = Dataset(name="earlier", number=1, sources=[], state=Work.DONE)
        s.add(earlier)
        s.flush()
        for dataset in (earlier, models.dataset):
            s.add(
                LabelledSlice(dataset_id=dataset.id, ordinal=0, row=0, name="a", group="a", label=1, pixels_sha256="1")
            )
        s.get_one(Split, models.split.id).assignment = {"a": "test"}
        split = new_split(earlier.id, {"a": "train"})
        s.add(split)
    parent = models.add("parent", split={"id": split.id, "dataset": "earlier/1"})
    child, old = models.add("child", lineage=[parent.label]), models.add("old")
    promote_first(models, old)
    models.evaluate(child, 0.92)
    if is_deleted:
        delete_dataset(earlier)
    reason, note = gate(child).reasons, gate(child).notes
    assert gate(child).verdict == NO_EVIDENCE
    if is_deleted:
        assert reason[0].startswith("earlier/1 is deleted, so whether these slices trained the candidate")
        assert note[0] == "parent/1 was trained on earlier/1, which is deleted; its slices may include these"
    with pytest.raises(GateClosed, match="needs a reason"):
        promote(child)


def test_candidate_on_a_deleted_split_that_leaks_does_not_pass(models: Registry) -> None:
    with session_scope() as s:
        s.get_one(Split, models.split.id).leaks = {"shared-groups": {"count": 1, "examples": ["a"]}}
    old, new = models.add("old"), models.add("new")
    promote_first(models, old)
    models.evaluate(new, 0.92)
    assert gate(new).verdict == PASSED, "the one group has no slices in this test"
    delete_dataset(models.dataset)
    assert gate(new).verdict == NO_EVIDENCE
    assert gate(new).reasons[0].startswith("site/1 is deleted, so whether these slices trained the candidate")
