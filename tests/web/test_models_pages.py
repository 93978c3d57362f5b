"""Model versions over pages and the API: a page each, its files, the gate, site checks, export and import."""

import io
import re
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from apiflask import APIFlask
from sqlalchemy import delete, select

from db.database import read_scope, session_scope
from db.evaluation import evaluations
from db.evaluation.result import EvaluationResult, PairedMetric
from db.models import Dataset, Evaluation, ModelVersion, Promotion, User
from db.models.documents import FindingRule, Rate, Tuning
from db.registry import champions, versions
from db.settings import Settings
from db.storage import storage
from tests.builders import versions as builders
from tests.builders.datasets import split_of
from tests.builders.files import png
from tests.builders.networks import keras_file_with_link
from tests.builders.versions import fake_package
from tests.web.actors import Api, Browser, load_engines, ready_dataset
from web.views.metric_filters import plain

DARK = b"@media screen and (prefers-color-scheme: dark) {p{color:red}}"
REPORT = b"<!doctype html><title>Report</title><style>%b</style><script>alert(1)</script><p>Report</p>" % DARK
CARD = b"# site\n\n<script>alert(2)</script> Research use only."
FIGURES = {"accuracy": 0.96, "recall": 0.95, "specificity": 0.94, "auc": 0.99, "ece": 0.02}
LARGEST = {"largest_difference": 0.0342}
BY_GROUP = {
    "accuracy": 0.875,
    "n": 40,
    "class_groups": {"COVID": 20, "non-COVID": 20},
    "intervals": {"accuracy": [0.731, 0.952]},
    "rule": {"rule": "top-k-mean", "version": 2, "k": 10, "threshold": 0.5},
}
METRICS: dict[str, Any] = {
    **FIGURES,
    "by_group": BY_GROUP,
    "measured_on": "the test part",
    "n": 60,
    "groups": 40,
    "class_groups": {"COVID": 20, "non-COVID": 20},
    "confusion_matrix": [[28, 2], [1, 29]],
    "intervals": {name: [value - 0.02, value + 0.01] for name, value in FIGURES.items()},
}


@pytest.fixture
def split_id(app: APIFlask) -> int:
    """A split of a dataset that versions were trained on."""
    dataset_id = ready_dataset("site")
    with session_scope() as s:
        return split_of(s, s.get_one(Dataset, dataset_id)).id


def add_version(folder: Path, split_id: int, name: str = "site") -> int:
    """Register a version with a report, a card, a picture, figures and the split it left its test part in."""
    files = {"report.html": REPORT, "MODEL_CARD.md": CARD, "roc.png": png(3), "model.xml": b"<net>", "model.bin": b"0"}
    facts = {
        "split": {"id": split_id, "dataset": "site/1"},
        "dataset": "site/1",
        "lineage": ["fake/1"],
        "preset": "quick",
    }
    ood = {"threshold": 1.6, "openvino-int8": 1.75}
    package = fake_package(folder / "package", name, files, metrics=METRICS, ood=ood, extra=facts)
    stored = versions.store_package(package)
    with session_scope() as s:
        return versions.register_package(s, stored).id


@pytest.fixture
def version_id(app: APIFlask, split_id: int, tmp_path: Path) -> int:
    """A candidate beside the champion fake/1."""
    return add_version(tmp_path, split_id)


def carry_out(difference: float = 0.0) -> None:
    """Carry out the evaluations that wait; the candidate is this much better than the champion, ±0.01."""
    pair = PairedMetric(
        first=0.9 + difference, second=0.9, difference=difference, low=difference - 0.01, high=difference + 0.01,
        p_lower=NormalDist().cdf(difference / 0.0051),
    )  # fmt: skip
    while True:
        with session_scope() as s:
            claimed = evaluations.claim(s, "worker")
            if claimed is None:
                return
            found, claim = claimed
            figures = dict.fromkeys(FIGURES, pair)
            if found.model_version.name == "fake":
                figures = dict.fromkeys(FIGURES, pair.swapped())
            others = {other.id: figures for other in evaluations.done_beside(s, found)}
        with session_scope() as s:
            assert evaluations.finish(
                s, claim, storage().put(b"scores"), EvaluationResult(**METRICS, engine="fake"), others
            )


def champion() -> str:
    with read_scope() as s:
        found = champions.champion(s)
        return found.label if found else ""


def test_page_shows_figures_lineage_files_and_card(api: Api, anns_browser: Browser, version_id: int) -> None:
    page = anns_browser.get(f"/models/{version_id}").text
    for text in (
        "0.960",
        "0.940 – 0.970",
        "sensitivity",
        "the test part",
        "fake/1",
        "quick",
        "roc.png",
        "used by 0 jobs",
        "a distance of 1.600; 1.750 by openvino-int8",
    ):
        assert text in page
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "Make this the champion" not in page  # Ann is no admin
    assert anns_browser.get("/models/99").status_code == 404
    shown = api.get(f"/models/{version_id}").json
    assert (shown["label"], shown["used_by"], shown["facts"]["lineage"]) == ("site/1", 0, ["fake/1"])
    assert shown["gate"]["verdict"] == "not compared yet"


def test_page_names_the_engine_of_its_metrics(anns_browser: Browser, version_id: int) -> None:
    with session_scope() as s:
        s.get_one(ModelVersion, version_id).metrics = METRICS | {"measured_with": "openvino-int8"}
    page = anns_browser.get(f"/models/{version_id}").text
    assert "60 slices of 40 groups (20 COVID, 20 non-COVID), by openvino-int8." in page


def test_page_shows_metrics_of_groups_and_the_rule_of_findings(anns_browser: Browser, version_id: int) -> None:
    page = anns_browser.get(f"/models/{version_id}").text
    of_groups = page[page.index('id="by-group"') :]
    assert "0.875" in of_groups
    assert "0.731 – 0.952" in of_groups
    assert "40 groups (20 COVID, 20 non-COVID)" in of_groups
    assert "This is the default" in page
    right = Rate(value=0.9, low=0.8, high=0.95)
    counts = {"groups": {"COVID": 30, "non-COVID": 30}, "joined_groups": 30, "named_groups": 60}
    tuning = Tuning(dataset="site/9", engine="fake", seed=7, held_out={"precision": right}, **counts)
    with session_scope() as s:
        rule = FindingRule(rule="noisy-or", version=2, threshold=0.3, tuned=tuning)
        s.get_one(ModelVersion, version_id).finding_rule = rule
    page = anns_browser.get(f"/models/{version_id}").text
    for text in ("noisy-or, version 2", "site/9", "COVID verdicts that are right", "0.800 – 0.950"):
        assert text in page
    assert "60 groups; 30 after joining those that share slices (30 COVID, 30 non-COVID)" in page


@pytest.mark.slow
def test_page_shows_calibration_and_parity_as_a_table(api: Api, anns_browser: Browser, version_id: int) -> None:
    with session_scope() as s:
        version = s.get_one(ModelVersion, version_id)
        version.calibration = {"openvino-int8": {"temperature": 1.375, "threshold": 0.475}}
        version.parity = {
            "slices": 399,
            "processor": "Xeon <AVX2>",
            "bf16": {"passed": False, "reason": "not <measured> here"},
            "int8": {"passed": True, "to_covid": 2, "to_non_covid": 0, "p99_difference": 0.0124, **LARGEST},
        }
    page = anns_browser.get(f"/models/{version_id}").text
    assert "<dt>Threshold</dt><dd>0.500; 0.475 by openvino-int8</dd>" in page
    assert "<dt>Temperature</dt><dd>1.000; 1.375 by openvino-int8</dd>" in page
    table = cells(page, "parity")
    assert 'aria-labelledby="parity-title">\n  <table class="plain parity' in page, (
        "its verdicts may be long: it scrolls"
    )
    assert [row[0] for row in table] == ["File", "bf16", "int8"]
    assert table[0][1:4] == ["Changed to COVID", "Changed to non-COVID", "99th percentile"]
    assert table[1:] == [
        ["bf16", "–", "–", "–", "–", "not &lt;measured&gt; here"],
        ["int8", "2", "0", "0.012", "0.034", "kept"],
    ]
    assert "on 399 slices of the test part" in page
    assert "Xeon &lt;AVX2&gt;" in page
    assert "Parity: int8" not in page
    for shown in (api.get(f"/models/{version_id}").json, api.get("/models").json["items"][0]):
        assert shown["calibration"] == {"openvino-int8": {"temperature": 1.375, "threshold": 0.475}}


def cells(page: str, section: str) -> list[list[str]]:
    """The words of each cell of the table in a section, by rows."""
    table = page.split(f'id="{section}"')[1].split("</table>")[0].split("<table")[1]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [
        [" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in re.findall(r"<t[hd]\b.*?</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def test_page_says_where_a_version_runs(api: Api, roots_browser: Browser, version_id: int) -> None:
    assert "No running worker has loaded this version." in roots_browser.get(f"/models/{version_id}").text
    load_engines(version_id, "ct-1", int8=False, bf16=True)
    load_engines(1, "ct-2", int8=True)
    page = roots_browser.get(f"/models/{version_id}").text
    table = cells(page, "workers")
    assert [row[2] for row in table] == ["Engine", "openvino-int8", "openvino-bf16"]
    assert table[1][1].startswith("not used openvino-int8 is not used: it differs")
    assert table[2][1] == "used, fallen back"
    assert "ct-2" not in page


def test_where_a_version_runs_is_for_admins(anns_browser: Browser, version_id: int) -> None:
    load_engines(version_id, "ct-1", int8=True)
    page = anns_browser.get(f"/models/{version_id}").text
    assert [word in page for word in ("Where it runs", "ct-1", "/workers")] == [False] * 3


def test_files_that_show_slices_are_for_admins(
    api: Api, anns_browser: Browser, admin: Api, version_id: int, app: APIFlask, root: User
) -> None:
    with session_scope() as s:
        version = s.get_one(ModelVersion, version_id)
        version.files = version.files | {"mistakes.png": version.files["roc.png"]}
    roots = Browser(app)
    roots.sign_in("root")
    for path in ("report", "figures/mistakes.png"):
        assert anns_browser.get(f"/models/{version_id}/{path}").status_code in (403, 404)
        assert roots.get(f"/models/{version_id}/{path}").status_code == 200
    page = anns_browser.get(f"/models/{version_id}").text
    assert [word in page for word in ("figures/roc.png", "figures/mistakes.png", "Training report", "Export")] == [
        True,
        *[False] * 3,
    ]
    page = roots.get(f"/models/{version_id}").text
    assert all(word in page for word in ("figures/roc.png", "figures/mistakes.png", "Training report", "Export"))
    assert api.get(f"/models/{version_id}/export").status_code == 403
    assert admin.get(f"/models/{version_id}/export").status_code == 200


def test_report_runs_nothing_and_loads_nothing(roots_browser: Browser, version_id: int) -> None:
    answer = roots_browser.get(f"/models/{version_id}/report")
    assert answer.data == REPORT
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert policy.endswith("sandbox")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert roots_browser.get("/models/1/report").status_code == 404


def test_figures_and_card_are_files(api: Api, anns_browser: Browser, version_id: int) -> None:
    figure = anns_browser.get(f"/models/{version_id}/figures/roc.png")
    assert (figure.mimetype, figure.data) == ("image/png", png(3))
    assert anns_browser.get(f"/models/{version_id}/figures/package.json").status_code == 404
    card = api.get(f"/models/{version_id}/card")
    assert (card.mimetype, card.data) == ("text/markdown", CARD)
    assert api.get("/models/1/card").status_code == 404


def test_version_that_was_not_compared_is_compared_first(admin: Api, version_id: int) -> None:
    refused = admin.post(f"/models/{version_id}/promote", json={"reason": "better"})
    assert (refused.status_code, refused.json["type"]) == (409, "urn:ctbatch:problem:gate-closed")
    assert "The comparison is queued." in refused.json["detail"]
    carry_out()
    promoted = admin.post(f"/models/{version_id}/promote", json={"reason": "better"})
    assert (promoted.status_code, promoted.json["champion"]) == (200, True)
    assert champion() == "site/1"


def test_refusal_shows_the_figures_and_is_overridden_with_a_reason(
    admin: Api, roots_browser: Browser, version_id: int
) -> None:
    token = roots_browser.csrf("/models")
    roots_browser.client.post(f"/models/{version_id}/compare", data={"csrf_token": token})
    carry_out(-0.05)
    refused = roots_browser.client.post(f"/models/{version_id}/promote", data={"csrf_token": token, "reason": "new"})
    assert refused.status_code == 409
    for text in (
        "Not promoted",
        "sensitivity 0.950 (0.930 – 0.960), at least",
        "specificity 0.940 (0.920 – 0.950), at least",
        "worse beyond chance",
        "−0.050",
        "−0.060 to −0.040",
    ):
        assert text in refused.text
    assert champion() == "fake/1"
    form = {"csrf_token": token, "reason": "", "force": "1"}
    assert roots_browser.client.post(f"/models/{version_id}/promote", data=form).status_code == 409
    forced = roots_browser.client.post(f"/models/{version_id}/promote", data=form | {"reason": "we <know> why"})
    assert forced.status_code == 303
    assert champion() == "site/1"
    page = roots_browser.get(f"/models/{version_id}").text
    assert "we &lt;know&gt; why" in page
    assert "overridden" in page


def question(page: str) -> str:
    """What the page asks before it promotes."""
    found = re.search(r'<p id="promote-question" hidden>(.*?)</p>', page)
    return found[1] if found else ""


def test_promote_asks_with_model_verdict_and_worst_metric_and_says_when_it_is_done(
    roots_browser: Browser, version_id: int
) -> None:
    token = roots_browser.csrf("/models")
    roots_browser.client.post(f"/models/{version_id}/compare", data={"csrf_token": token})
    carry_out(-0.012)
    page = roots_browser.get(f"/models/{version_id}").text
    assert f'action="/models/{version_id}/promote" data-confirm-from="promote-question"' in page
    assert question(page) == (
        "Make site/1 the champion in place of fake/1? The gate says: not shown. "
        "Its weakest metric against the champion is AUC 0.888, −0.012 (−0.022 to −0.002)."
    )
    assert "both measured by fake" in page
    form = {"csrf_token": token, "reason": "it reads the new scanner"}
    assert roots_browser.client.post(f"/models/{version_id}/promote", data=form).status_code == 303
    assert re.search(r'class="success" role="status">.*site/1 is the champion now', roots_browser.get("/models").text)
    assert 'class="success"' not in roots_browser.get("/models").text
    assert roots_browser.client.post("/models/rollback", data=form).status_code == 303
    assert re.search(r'class="success" role="status">.*fake/1 is the champion again', roots_browser.get("/models").text)


def test_promotion_from_a_page_with_another_champion_is_refused(
    admin: Api, roots_browser: Browser, version_id: int, split_id: int, tmp_path: Path
) -> None:
    other = add_version(tmp_path / "other", split_id, "other")
    token = roots_browser.csrf("/models")
    page = roots_browser.get(f"/models/{version_id}").text
    shown = '<input type="hidden" name="champion" value="fake/1" form="promote">'
    assert '<form class="stack" id="promote" method="post"' in page
    for part in (page, roots_browser.get(f"/models/{version_id}/checks").text):
        assert shown in part
    promoted = admin.post(f"/models/{other}/promote", json={"reason": "urgent", "force": True, "champion": "fake/1"})
    assert (promoted.status_code, champion()) == (200, "other/1")
    form = {"csrf_token": token, "reason": "fake/1 is old", "force": "1", "champion": "fake/1"}
    late = roots_browser.client.post(f"/models/{version_id}/promote", data=form)
    assert (late.status_code, champion()) == (409, "other/1")
    assert "The champion has changed: it is other/1 now; look at it again." in late.text
    assert shown.replace("fake/1", "other/1") in late.text
    again = admin.post(f"/models/{other}/promote", json={"reason": "urgent", "force": True})
    assert (again.status_code, again.json["detail"]) == (409, "other/1 is the champion already.")


def test_page_tells_that_there_was_no_champion(roots_browser: Browser, split_id: int, tmp_path: Path) -> None:
    with session_scope() as s:
        s.execute(delete(Promotion))
    version_id = add_version(tmp_path, split_id)
    page = roots_browser.get(f"/models/{version_id}").text
    assert '<input type="hidden" name="champion" value="" form="promote">' in page


def test_figures_have_a_title_and_a_text_of_their_own(roots_browser: Browser, version_id: int) -> None:
    page = roots_browser.get(f"/models/{version_id}").text
    found = re.search(r'figures/roc\.png" alt="([^"]+)"[^>]*><span class="sub">([^<]+)</span>', page)
    assert found is not None
    assert found[2] == "ROC curve"
    assert found[1] not in ("", found[2])


def test_report_names_the_dataset_of_its_slices(roots_browser: Browser, version_id: int) -> None:
    with session_scope() as s:
        s.get_one(ModelVersion, version_id).dataset_hash = s.scalars(select(Dataset.sha256)).one()
    page = roots_browser.get(f"/models/{version_id}/training-report").text
    assert re.search(r'slices by their row in <a href="/datasets/\d+"><bdi class="name">site/1</bdi></a>', page)


def test_report_has_a_way_back(roots_browser: Browser, version_id: int) -> None:
    page = roots_browser.get(f"/models/{version_id}").text
    assert f'href="/models/{version_id}/training-report"' in page
    framed = roots_browser.get(f"/models/{version_id}/training-report").text
    assert f'<a href="/models/{version_id}">site/1</a>' in framed
    assert f'<iframe class="report-frame" data-themed="/models/{version_id}/report"' in framed
    report = roots_browser.get(f"/models/{version_id}/report")
    assert (
        report.headers["X-Frame-Options"],
        "frame-ancestors 'self'" in report.headers["Content-Security-Policy"],
    ) == (
        "SAMEORIGIN",
        True,
    )
    assert roots_browser.get("/models/1/training-report").status_code == 404


@pytest.mark.parametrize(("theme", "media"), [("dark", "(min-width: 0)"), ("light", "(max-width: 0)"), ("no", None)])
def test_report_is_dark_or_light_as_its_page_is(
    roots_browser: Browser, version_id: int, theme: str, media: str | None
) -> None:
    page = roots_browser.get(f"/models/{version_id}/report?theme={theme}").text
    assert f"@media screen and {media or '(prefers-color-scheme: dark)'}" in page


def test_intervals_of_few_groups_are_marked(roots_browser: Browser, version_id: int) -> None:
    mark = "Few groups: the intervals are only approximate"
    assert mark not in roots_browser.get(f"/models/{version_id}").text
    assert mark not in roots_browser.get("/models").text
    with session_scope() as s:
        version = s.get_one(ModelVersion, version_id)
        version.metrics = METRICS | {"groups": 21, "class_groups": {"COVID": 1, "non-COVID": 20}}
    page = roots_browser.get(f"/models/{version_id}").text
    assert mark in page
    assert "60 slices of 21 groups (1 COVID, 20 non-COVID)" in page
    assert mark in roots_browser.get("/models").text
    joined = {"groups": 24, "named_groups": 72, "class_groups": {"COVID": 12, "non-COVID": 12}}
    with session_scope() as s:
        s.get_one(ModelVersion, version_id).metrics = METRICS | joined
    page = roots_browser.get(f"/models/{version_id}").text
    assert "60 slices of 72 groups; 24 after joining those that share slices (12 COVID, 12 non-COVID)" in page
    uneven = {"class_groups": {"COVID": 40, "non-COVID": 40}, "effective_groups": {"COVID": 9.6, "non-COVID": 40.0}}
    with session_scope() as s:
        s.get_one(ModelVersion, version_id).metrics = METRICS | uneven
    assert (
        "The 40 groups of COVID have unequal numbers of slices, and count like about 10 groups of equal size."
        in roots_browser.get(f"/models/{version_id}").text
    )
    with session_scope() as s:
        s.get_one(ModelVersion, version_id).metrics = METRICS | {"class_groups": {"COVID": "many"}}
    assert mark not in roots_browser.get(f"/models/{version_id}").text


def test_rollback_brings_the_champion_before_back(admin: Api, roots_browser: Browser, version_id: int) -> None:
    assert admin.post("/models/rollback", json={"reason": "x"}).status_code == 409
    admin.post(f"/models/{version_id}/promote", json={"reason": "x", "force": True})
    assert "Roll back" in roots_browser.get("/models").text
    for reason in ("", " \n"):
        refused = admin.post("/models/rollback", json={"reason": reason})
        assert (refused.status_code, refused.json["detail"]) == (409, "A rollback needs a reason.")
    shown = '<input type="hidden" name="champion" value="site/1">'
    assert shown in roots_browser.get("/models").text
    late = admin.post("/models/rollback", json={"reason": "it missed some", "champion": "fake/1"})
    assert (late.status_code, late.json["detail"]) == (
        409,
        "The champion has changed: it is site/1 now; look at it again.",
    )
    back = admin.post("/models/rollback", json={"reason": "it missed some", "champion": "site/1"})
    assert (back.status_code, back.json["label"], champion()) == (200, "fake/1", "fake/1")
    token = roots_browser.csrf("/models")
    again = roots_browser.client.post("/models/rollback", data={"csrf_token": token, "reason": "again"})
    assert (again.status_code, champion()) == (409, "fake/1")
    assert "There is no champion before fake/1 to go back to." in again.text
    assert "Roll back" not in roots_browser.get("/models").text


def test_rollback_says_if_every_worker_refuses_the_version(admin: Api, roots_browser: Browser, version_id: int) -> None:
    def promote() -> None:
        admin.post(f"/models/{version_id}/promote", json={"reason": "x", "force": True})

    promote()
    load_engines(1, "ct-1", int8=False)
    back = admin.post("/models/rollback", json={"reason": "it missed some"}).json
    assert "No worker has an engine that may predict with fake/1" in back["warning"]
    assert admin.get(f"/models/{version_id}").json["warning"] is None
    promote()
    form = {"csrf_token": roots_browser.csrf("/models"), "reason": "again"}
    roots_browser.client.post("/models/rollback", data=form)
    page = roots_browser.get("/models/1").text
    assert re.search(r'class="caution" role="alert">.*No worker has an engine that may predict with fake/1', page)


def test_promotions_list_user_time_reason_and_metrics(admin: Api, version_id: int) -> None:
    admin.post(f"/models/{version_id}/promote", json={"reason": "x"})
    carry_out(0.03)
    admin.post(f"/models/{version_id}/promote", json={"reason": "it is better"})
    [told] = admin.get(f"/models/{version_id}").json["promotions"]
    assert (told["by"], told["reason"], told["verdict"], told["overridden"]) == (
        "root",
        "it is better",
        "passed",
        False,
    )
    assert (told["champion"], told["figures"]["auc"]["difference"]) == ("fake/1", 0.03)
    admin.post("/models/rollback", json={"reason": "it missed some"})
    back = admin.get("/models/1").json["promotions"][0]
    assert (back["by"], back["verdict"], back["champion"], back["figures"]) == ("root", "rollback", "site/1", {})
    assert back["at"] >= told["at"]


def test_row_44_only_admins_change_models(api: Api, anns_browser: Browser, version_id: int) -> None:
    assert api.post(f"/models/{version_id}/promote", json={"reason": "x"}).status_code == 403
    assert api.post("/models/rollback", json={}).status_code == 403
    assert api.post(f"/models/{version_id}/checks", json={"dataset": "site/1"}).status_code == 403
    assert api.post(f"/models/{version_id}/comparisons", json={"with_model": "fake/1"}).status_code == 403
    assert api.post("/models/import", data={"files": (io.BytesIO(b"x"), "x.tar")}).status_code == 403
    token = anns_browser.csrf("/models")
    for action in ("promote", "compare", "comparisons", "check"):
        answer = anns_browser.client.post(f"/models/{version_id}/{action}", data={"csrf_token": token})
        assert answer.status_code == 403
    assert "Import a model version" not in anns_browser.get("/models").text


def test_site_check_is_queued_and_its_verdict_shown(admin: Api, roots_browser: Browser, version_id: int) -> None:
    ready_dataset("other")
    asked = admin.post(f"/models/{version_id}/checks", json={"dataset": "other"})
    assert (asked.status_code, asked.json["state"], asked.json["dataset"]) == (202, "queued", "other/1")
    assert 'hx-trigger="every' in roots_browser.get(f"/models/{version_id}/checks").text
    carry_out()
    with session_scope() as s:
        check = s.get_one(Evaluation, asked.json["id"])
        said = {"verdict": "may not be used", "reasons": ["specificity 0.61, floor 0.80"]}
        check.result = {**check.result, "site_check": said, "by_group": BY_GROUP | {"tuned_slices": 3}}
    page = roots_browser.get(f"/models/{version_id}").text
    assert "may not be used" in page
    assert "Specificity 0.61, floor 0.80." in page
    assert "The rule was tuned on 3 of the" in page
    assert 'hx-trigger="every' not in page
    token = roots_browser.csrf("/models")
    unknown = {"csrf_token": token, "dataset": "none\0"}
    assert roots_browser.client.post(f"/models/{version_id}/check", data=unknown).status_code == 422


def test_pages_say_that_no_group_has_a_verdict(admin: Api, roots_browser: Browser, version_id: int) -> None:
    no_group = {"n": 0, "no_verdict": 10, "rule": BY_GROUP["rule"]}
    ready_dataset("other")
    asked = admin.post(f"/models/{version_id}/checks", json={"dataset": "other"})
    carry_out()
    with session_scope() as s:
        version = s.get_one(ModelVersion, version_id)
        version.metrics = version.metrics | {"by_group": no_group}
        check = s.get_one(Evaluation, asked.json["id"])
        check.result = {**check.result, "by_group": no_group}
    page = roots_browser.get(f"/models/{version_id}").text
    assert page.count("No metrics of groups (patients): 10 groups without a verdict") == 2
    assert "Each group gets one verdict" not in page


def test_two_versions_are_compared_over_the_api(admin: Api, version_id: int, split_id: int, tmp_path: Path) -> None:
    add_version(tmp_path / "third", split_id, "third")
    url, asked = f"/models/{version_id}/comparisons", {"with_model": "third/1"}
    queued = admin.post(url, json=asked)
    assert (queued.status_code, queued.json["state"], queued.json["part"]) == (202, "queued", "test")
    carry_out(0.02)
    done = admin.post(url, json=asked).json
    assert (done["state"], done["dataset"], done["slices"], done["groups"]) == ("finished", "site/1", 60, 40)
    assert abs(done["figures"]["auc"]["difference"]) == 0.02
    assert (done["model_version"], done["with_model"], done["notes"]) == ("site/1", "third/1", [])
    whole = admin.post(url, json=asked | {"dataset": "site"}).json
    assert (whole["state"], whole["part"]) == ("queued", None)
    carry_out()
    assert admin.post(url, json=asked | {"dataset": "site"}).json["notes"] == [
        f"{label}, or a version it comes from, was trained on 40 of these slices" for label in ("site/1", "third/1")
    ]


@pytest.mark.parametrize(
    ("pair", "status", "detail"),
    [
        ({"with_model": "none/1"}, 422, "There is no model version none/1."),
        ({"with_model": "fake/1", "dataset": "none"}, 422, "There is no dataset none."),
        ({"with_model": "site/1"}, 409, "site/1 and site/1 are the same model version."),
    ],
)
def test_impossible_comparison_is_refused(
    admin: Api, version_id: int, pair: dict[str, str], status: int, detail: str
) -> None:
    answer = admin.post(f"/models/{version_id}/comparisons", json=pair)
    assert (answer.status_code, answer.json["detail"].startswith(detail)) == (status, True)
    assert admin.get(f"/models/{version_id}").json["checks"] == []


def test_a_version_without_a_test_part_is_compared_on_a_dataset(admin: Api, version_id: int) -> None:
    refused = admin.post("/models/1/comparisons", json={"with_model": "site/1"})
    assert (refused.status_code, "name a dataset to compare them on" in refused.json["detail"]) == (409, True)
    asked = {"with_model": "site/1", "dataset": "site/1"}
    assert admin.post("/models/1/comparisons", json=asked).json["state"] == "queued"


def test_page_compares_with_another_version(
    roots_browser: Browser, version_id: int, split_id: int, tmp_path: Path
) -> None:
    add_version(tmp_path / "third", split_id, "third")
    page = roots_browser.get(f"/models/{version_id}").text
    assert 'id="compare-with"' in page
    assert 'id="comparison"' not in page
    form = {"csrf_token": roots_browser.csrf("/models"), "with_model": "third/1", "dataset": "site/1"}
    sent = roots_browser.client.post(f"/models/{version_id}/comparisons", data=form)
    assert sent.status_code == 303
    address = sent.location.partition("#")[0]
    waiting = roots_browser.get(address).text
    assert 'id="comparison"' in waiting
    assert 'hx-trigger="every' in waiting
    assert f"/models/{version_id}/checks?with_model=third/1&amp;dataset=site/1" in waiting
    carry_out(0.02)
    shown = roots_browser.get(address).text
    for text in (
        "60 slices of 40 groups (20 COVID, 20 non-COVID)",
        "beyond chance",
        "was trained on 40 of these slices",
    ):
        assert text in shown
    assert 'hx-trigger="every' not in shown
    assert roots_browser.get(f"/models/{version_id}?with_model=no%00ne&dataset=x").status_code == 200


def test_export_is_imported_again_and_a_damaged_one_is_refused(
    admin: Api, roots_browser: Browser, version_id: int
) -> None:
    plain = admin.get(f"/models/{version_id}/export")
    answer = admin.get(f"/models/{version_id}/export?with_slices=1")
    assert [b"report.html" in export.data for export in (plain, answer)] == [False, True]
    assert answer.headers["Content-Disposition"] == "attachment; filename=site-1.ctbatch.tar"
    assert len(answer.data) == int(answer.headers["Content-Length"])
    again = admin.post("/models/import", data={"files": (io.BytesIO(answer.data), "site.tar")})
    assert (again.status_code, again.json["id"]) == (200, version_id)
    damaged = answer.data.replace(b"<p>Report</p>", b"<p>REPORT</p>")
    token = roots_browser.csrf("/models")
    form = {"csrf_token": token, "files": (io.BytesIO(damaged), "<site>.tar")}
    refused = roots_browser.client.post("/models/import", data=form)
    assert refused.status_code == 422
    assert "Report.html holds other bytes" in refused.text
    assert "&lt;site&gt;.tar" in refused.text
    with session_scope() as s:
        s.get_one(ModelVersion, version_id).name = "elsewhere"
    new = admin.post("/models/import", data={"files": (io.BytesIO(answer.data), "site.tar")})
    assert (new.status_code, new.json["label"], new.json["champion"]) == (201, "site/1", False)
    page = roots_browser.get(f"/models/{new.json['id']}").text
    told = '<dt>Made elsewhere from</dt><dd><bdi class="name">fake/1</bdi></dd>'
    assert told in page, "without a link: here fake/1 is another version"


def test_network_whose_weights_name_another_file_is_not_imported(admin: Api, settings: Settings) -> None:
    version = builders.add_version(settings.home, "odd", {"model.keras": keras_file_with_link()})
    exported = admin.get(f"/models/{version.id}/export").data
    refused = admin.post("/models/import", data={"files": (io.BytesIO(exported), "odd.tar")})
    assert refused.status_code == 422
    assert "holds a soft or external link" in refused.json["detail"]


@pytest.mark.parametrize(
    "odd",
    [
        {"auc": "high", "intervals": [1], "confusion_matrix": [[1]], "by_source": 7, "n": "many"},
        {"confusion_matrix": [[1, 0], [0, 1]], "measured_with": []},
    ],
)
def test_malformed_metrics_do_not_break_pages(anns_browser: Browser, version_id: int, odd: dict[str, Any]) -> None:
    with session_scope() as s:
        version = s.get_one(ModelVersion, version_id)
        version.metrics = {"accuracy": 0.5} | odd
        version.parity = {"slices": "many", "processor": {}}
    page = anns_browser.get(f"/models/{version_id}")
    assert (page.status_code, "0.500" in page.text) == (200, True)
    assert anns_browser.get("/models").status_code == 200


def test_fact_of_any_shape_is_written_in_one_line() -> None:
    parity = {"auc_change": 8.793969849252292e-05, "accuracy_change": -0.0025062656641, "passed": True, "slices": 399}
    assert plain(parity) == "auc change 8.794e-05, accuracy change -0.002506, passed yes, slices 399"
    assert plain([0.5, None, ["a", False]]) == "0.5, –, a, no"
