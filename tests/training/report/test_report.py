"""The training report, its figures, and the model card: whole, self-contained, and safe from other people's text."""

import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from db.evaluation.result import GroupMetrics, Metrics
from db.models.documents import FindingRule
from db.training.progress import EpochRecord
from training.evaluation.metrics import measure, with_intervals
from training.report import captions
from training.report.content import PartSize, ReportContent, RunFacts, TestScores, metric_rows, settings_tables
from training.report.figures.scores import (
    confusion_figure,
    distance_figure,
    reliability_figure,
    roc_figure,
    score_figure,
)
from training.report.figures.slice_grids import GAP, TILE, Mistake, augmented_grid, mistakes_grid, pair_png
from training.report.figures.style import short_name
from training.report.figures.training import MOST_SOURCES, learning_figure, source_figure
from training.report.html import write_report
from training.report.model_card import model_card, write_card

LARGEST = {"largest_difference": 0.0345}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> $\\frac{1}{$ \u202egnp.|`evil`\n# [x](javascript:1)"
THRESHOLD = 0.47
DATA_URI = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")
FIGURES = {
    "confusion-matrix.png",
    "roc.png",
    "precision-recall.png",
    "reliability.png",
    "scores.png",
    "distance.png",
    "by-source.png",
    "learning-curves.png",
    "augmented.png",
}


def scores(slices: int = 200) -> TestScores:
    random = np.random.default_rng(3)
    labels = np.arange(slices) // 10 % 2
    probability = 1 / (1 + np.exp(-(labels * 2 - 1) * 2.5 - random.normal(0, 2, slices)))
    return TestScores(probability, labels, [f"g{at // 10}" for at in range(slices)], random.normal(1, 0.2, slices))


def history(*epochs: int) -> list[EpochRecord]:
    """So many epochs a stage; the loss falls by 0.1 with each, the accuracy rises by 0.01."""
    places = [(stage, epoch) for stage, count in enumerate(epochs) for epoch in range(count)]
    return [
        EpochRecord(
            stage,
            epoch,
            {"loss": 1 - at / 10, "val_loss": 1.2 - at / 10, "accuracy": 0.8 + at / 100, "val_accuracy": 0.7},
            1.0,
        )
        for at, (stage, epoch) in enumerate(places)
    ]


def mistake(name: str = "a.png", label: int = 1) -> Mistake:
    ramp = np.tile(np.arange(224, dtype=np.uint8), (224, 1))
    return Mistake(name, ramp, np.eye(7, dtype=np.float32), 0.031, label)


def content(test: TestScores | None = None, **changes) -> ReportContent:
    test = test or scores()
    metrics = with_intervals(test.probability, test.labels, test.groups, THRESHOLD, resamples=50)
    facts = RunFacts("quick", 7, "clinic/2", "ab" * 32, [PartSize("training", 700, 30, 300, 400)])
    return ReportContent("quick/1", "", facts, metrics, THRESHOLD, "youden", 1.25, test, **changes)


def hostile() -> ReportContent:
    plain = content()
    facts = replace(
        plain.facts,
        preset=HOSTILE,
        dataset=HOSTILE,
        config={"initial": HOSTILE, "stages": [{"name": HOSTILE, "rate": 0.1}, {"name": "b"}], "augment": {HOSTILE: 1}},
        environment={"device": HOSTILE},
        lineage=[HOSTILE],
        allowed_leaks=[HOSTILE],
        seconds=4980.0,
    )
    return replace(
        plain,
        title=HOSTILE,
        note=HOSTILE,
        facts=facts,
        history=history(4, 2),
        champion=history(3),
        augmented=np.full((3, 60, 50), 90, np.uint8),
        mistakes=[mistake(HOSTILE), mistake("b" * 300, label=0)],
        by_source={HOSTILE: plain.metrics, "b": plain.metrics},
        parity={
            "slices": 200,
            "processor": HOSTILE,
            "bf16": {"passed": True, "to_covid": 2, "to_non_covid": 1, "p99_difference": 0.0123, **LARGEST},
            "int8": {"passed": False, "reason": HOSTILE},
        },
        ood_threshold=1.3,
        measured_on=HOSTILE,
        threshold_rule=HOSTILE,
    )


class Page(HTMLParser):
    """Elements and attributes of a page that must close what it opens."""

    VOID = "meta", "img", "source"

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words += f"{data} "


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    """A folder with the report of a run whose every name is hostile, and the names that were returned."""
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(folder, hostile())


@pytest.fixture(scope="module")
def page(hostile_report):
    return Page((hostile_report[0] / "report.html").read_text(encoding="utf-8"))


def test_all_figures_are_files_beside_the_report(hostile_report):
    folder, names = hostile_report
    assert names[0] == "report.html"
    assert set(names[1:]) == FIGURES | {"mistakes.png"}
    assert {path.name for path in folder.iterdir()} == set(names)
    for name in names[1:]:
        Image.open(folder / name).verify()


def test_all_figures_are_in_the_page_with_alternative_text(page):
    pictures = {attrs.get("id"): attrs for tag, attrs in page.elements if tag == "img"}
    assert pictures.keys() >= FIGURES
    assert all(attrs["src"].startswith("data:image/png;base64,") and attrs["alt"] for attrs in pictures.values())


def test_page_needs_nothing_else(hostile_report, page):
    text = DATA_URI.sub("data:", (hostile_report[0] / "report.html").read_text(encoding="utf-8"))
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form", "base", "a", "svg"}
    addresses = [attrs[key] for _, attrs in page.elements for key in ("src", "srcset", "href") if key in attrs]
    assert all(address.startswith("data:image/png;base64,") for address in addresses)


def test_no_name_becomes_markup(page):
    assert not [key for _, attrs in page.elements for key in attrs if key.startswith("on")]
    assert len([tag for tag, attrs in page.elements if tag == "img"]) == len(FIGURES) + 2
    assert page.words.count("<script>alert(1)</script>") >= 10


def test_name_of_a_mistake_cannot_reverse_its_letters(page):
    assert "$\\frac{1}{$ gnp.|`evil` # [x]" in page.words


def test_figures_have_a_version_for_dark_screens_and_print_the_light_one(page):
    sources = [attrs for tag, attrs in page.elements if tag == "source"]
    assert len(sources) == len(FIGURES) - 1  # the augmented slices go with both
    assert {attrs["media"] for attrs in sources} == {"screen and (prefers-color-scheme: dark)"}


def test_page_states_research_use_and_how_it_was_measured(page):
    words = " ".join(page.words.split())
    assert "Research use only. Not for diagnosis." in words
    assert "Trained in spite of a leak in the split" in words
    assert "1 h 23 min" in words
    for row in metric_rows(content().metrics).values():
        assert f"{row.word} {row.value} {row.interval}" in words


def test_table_compares_exported_files_with_the_trained_network(page):
    words = " ".join(page.words.split())
    heads = "File Changed to COVID Changed to non-COVID 99th percentile of differences Largest difference Verdict"
    assert heads in words
    assert "bf16 2 1 0.01230 0.03450 kept" in words
    assert "int8 – – – – <script>" in words


@pytest.mark.slow
def test_run_with_nothing_to_show_still_has_a_report(tmp_path):
    test = TestScores(np.array([0.9, 0.8, 0.99]), np.array([1, 1, 1]), ["a", "a", "b"])
    names = write_report(tmp_path, content(test))
    text = DATA_URI.sub("", (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert set(names) == {"report.html", "confusion-matrix.png", "reliability.png", "scores.png"}
    words = " ".join(Page(text).words.split())
    assert words.count("Not drawn: only one class is present.") == 2
    assert "Not drawn: no epoch was recorded." in words
    assert "every slice it was measured on is on the right side" in words
    assert not re.search(r"\b(nan|none|inf)\b", words.replace("None: every", ""), re.IGNORECASE)
    card = model_card(content(test))
    assert not re.search(r"\b(nan|None|inf)\b", card)
    assert "| AUC | – | – |" in card


def test_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    (axes,) = confusion_figure([[90, 10], [0, 0]]).axes
    words = [text.get_text() for text in axes.texts]
    assert words == ["90\n90.0\u202f%", "10\n10.0\u202f%", "0\n0.0\u202f%", "0\n0.0\u202f%"]


def test_roc_curve_shows_the_intervals_of_the_auc_and_the_operating_point():
    test = TestScores(np.array([0.1, 0.6, 0.4, 0.9]), np.array([0, 0, 1, 1]), list("abcd"))
    metrics = Metrics(auc=0.75, intervals={"auc": (0.5, 1.0)})
    (axes,) = roc_figure(test.probability, test.labels, 0.5, metrics).axes
    handles, labels = axes.get_legend_handles_labels()
    assert "AUC 0.750 (95 %: 0.500–1.000)" in labels
    point = handles[labels.index("threshold 0.50")]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (0.5, 0.5)


def test_reliability_bins_are_those_of_the_ece():
    probability, labels = np.array([0.0, 0.01, 0.2, 0.21, 0.6, 0.59, 0.95, 1.0]), np.array([0, 1, 1, 0, 1, 0, 1, 1])
    ece = measure(probability, labels, 0.5)["ece"]
    upper, lower = reliability_figure(probability, labels, Metrics(ece=ece)).axes
    curve = next(line for line in upper.lines if line.get_label() == f"ECE {ece:.3f}")
    counts = np.array([bar.get_height() for bar in lower.patches])
    gaps = np.abs(np.diff(curve.get_xydata(), axis=1)[:, 0])
    assert (len(counts), counts[0], counts[-1]) == (15, 2, 2)
    assert (gaps * counts[counts > 0]).sum() / len(labels) == pytest.approx(ece)


def test_each_class_has_its_own_histogram():
    upper, lower = score_figure(np.array([0.2, 0.9, 0.9]), np.array([0, 1, 1]), 0.5).axes
    assert sum(bar.get_height() for bar in upper.patches) == 2
    assert sum(bar.get_height() for bar in lower.patches) == 1


def test_distances_beyond_the_threshold_are_counted_separately():
    (axes,) = distance_figure(np.array([1.0, 2.0, 3.0, np.nan]), 2.5).axes
    assert {"familiar (2)", "out of distribution (1)"} <= set(axes.get_legend_handles_labels()[1])
    with pytest.raises(ValueError, match="no distance"):
        distance_figure(np.array([np.nan]), 2.5)


def test_learning_curves_run_through_all_stages_with_the_champion_dashed():
    loss, accuracy = learning_figure(history(3, 2), history(4)).axes
    lines = {line.get_label(): line for line in loss.lines}
    np.testing.assert_allclose(lines["training"].get_xydata(), [[at, 1.1 - at / 10] for at in range(1, 6)])
    assert (lines["champion, validation"].get_linestyle(), len(lines["champion, validation"].get_xdata())) == ("--", 4)
    borders = [line.get_xdata()[0] for line in loss.lines if line.get_label().startswith("_")]
    assert borders == [3.5]
    assert [text.get_text() for text in accuracy.texts] == ["stage 1", "stage 2"]


def test_epochs_without_a_number_leave_a_gap_and_are_never_the_best():
    epochs = history(4)
    epochs[3].metrics["val_loss"] = float("nan")
    del epochs[1].metrics["val_loss"]
    loss, _ = learning_figure(epochs).axes
    validation = next(line for line in loss.lines if line.get_label() == "validation")
    assert list(validation.get_xdata()) == [1, 3]
    assert "The lowest validation loss, 1.000, was that of epoch 3." in captions.learning(content(history=epochs))


@pytest.mark.slow
def test_sources_have_bars_where_a_metric_is_defined():
    one = Metrics(n=5, accuracy=0.8, recall=None, specificity=0.5, intervals={"accuracy": (0.6, 0.9)})
    larger = one.model_copy(update={"n": 9})
    accuracy, sensitivity, specificity = source_figure({"a": one, "$x": larger}).axes
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["$x (9)", "a (5)"]
    assert [len(axes.patches) for axes in (accuracy, sensitivity, specificity)] == [2, 0, 2]
    assert len(source_figure({str(at): one for at in range(40)}).axes[0].patches) == MOST_SOURCES


def test_augmented_slices_stand_in_rows():
    slices = np.repeat(np.arange(10, 20, dtype=np.uint8), 30 * 20).reshape(10, 30, 20)
    grid = Image.open(io.BytesIO(augmented_grid(slices, columns=4)))
    assert grid.size == (4 * (TILE + GAP) - GAP, 3 * (TILE + GAP) - GAP)
    assert grid.getpixel((TILE + GAP + 5, TILE + GAP + 5)) == (15, 255)
    assert grid.getpixel((grid.width - 1, grid.height - 1)) == (0, 0)  # nothing in the last place


def test_mistake_stands_beside_itself_with_its_heat_map():
    pixels = np.asarray(Image.open(io.BytesIO(pair_png(mistake()))).convert("RGB"), int)
    left, right = pixels[:, :176], pixels[:, -176:]
    assert np.ptp(left, axis=2).max() == 0
    assert np.ptp(right, axis=2)[12, 12] > 20  # the corner that is warm
    assert np.ptp(right, axis=2)[12, 160] == 0  # the corner that is cold


def test_grid_of_no_slices_is_an_error():
    with pytest.raises(ValueError, match="augmented"):
        augmented_grid(np.zeros((0, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="no slice was labelled wrongly"):
        mistakes_grid([])


def test_long_names_lose_their_middle():
    assert short_name("a" * 20 + "b" * 20, 11) == "aaaaa…bbbbb"
    assert short_name("\n\x00") == "–"


def test_settings_are_tables_with_a_column_for_each_stage():
    general, augment, stages = settings_tables(
        "C", {"initial": None, "augment": {"flip": True}, "stages": [{"rate": 1}, {"size": 2}]}
    )
    assert general.rows == [("initial", ["–"])]
    assert (augment.title, augment.rows) == ("C: augment", [("flip", ["yes"])])
    assert (list(stages.columns), stages.rows) == (["1", "2"], [("rate", ["1", "–"]), ("size", ["–", "2"])])


def test_card_has_the_headings_of_the_field(tmp_path):
    write_card(tmp_path, hostile())
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == [
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Ethical considerations",
        "Caveats and recommendations",
        "How to reproduce",
    ]


def test_card_gives_metrics_of_groups():
    rule = FindingRule(rule="max", version=2, threshold=0.4)
    groups = GroupMetrics(accuracy=0.875, n=40, class_groups={"COVID": 20, "non-COVID": 20}, rule=rule)
    card = model_card(content(by_group=groups))
    assert "40 groups (20 COVID, 20 non-COVID)" in card
    assert "| Accuracy | 0.875 | – |" in card


def test_card_says_that_no_group_has_a_verdict():
    rule = FindingRule(rule="max", version=2, threshold=0.4)
    card = model_card(content(by_group=GroupMetrics(n=0, no_verdict=10, rule=rule)))
    assert "No metrics of groups (patients): 10 groups without a verdict" in card
    assert "Metric of groups" not in card


def test_card_gives_metrics_with_intervals_and_how_to_reproduce_the_version():
    made = content(ood_threshold=1.3)
    card = model_card(made)
    for row in metric_rows(made.metrics).values():
        assert f"| {row.word} | {row.value} | {row.interval or '–'} |" in card
    share = f"{100 * float((made.test.distance > 1.3).mean()):.1f}\u202f%"
    assert f"beyond 1.3 a slice is out of distribution, as {share} of the evaluation slices are" in card
    for fact in ("Not for diagnosis", "ctbatch models check", '"preset": "quick"', '"seed": 7', f'"{"ab" * 32}"'):
        assert fact in card


@pytest.mark.slow
def test_report_and_card_say_that_training_was_stopped_early(tmp_path):
    plain = content(history=history(2, 1))
    facts = replace(plain.facts, config={"stages": [{"name": "small", "epochs": 12}, {"name": "full", "epochs": 1}]})
    for made in (replace(plain, facts=facts), replace(plain, facts=replace(facts, stopped_early=True))):
        write_report(tmp_path, made)
        for text in (model_card(made), (tmp_path / "report.html").read_text()):
            assert ("stopped early, after 3 of at most 13 epochs" in text) == made.facts.stopped_early


@pytest.mark.slow
@pytest.mark.parametrize(("slices", "few"), [(200, True), (400, False)])
def test_report_and_card_mark_few_groups(slices, few, tmp_path):
    """A group of the scores has 10 slices of one class."""
    made = content(scores(slices))
    write_report(tmp_path, made)
    for text in (model_card(made), (tmp_path / "report.html").read_text()):
        assert ("only 10 groups of COVID and 10 groups of non-COVID" in text) == few
        assert "a perfectly calibrated model has an error of about 0." in text


@pytest.mark.slow
@pytest.mark.parametrize("balanced", [True, False])
def test_report_and_card_say_for_which_data_a_balanced_run_is_calibrated(balanced, tmp_path):
    plain = content()
    made = replace(plain, facts=replace(plain.facts, config={"balanced": balanced}))
    write_report(tmp_path, made)
    equal = "calibrated for data in which both classes are equally frequent"
    card = model_card(made)
    assert (card.count(equal), (tmp_path / "report.html").read_text().count(equal)) == ((2, 1) if balanced else (0, 0))
    assert ("calibrated for the share of COVID in the validation slices" in card) != balanced


def test_no_name_becomes_markup_in_the_card():
    card = model_card(hostile())
    prose = re.sub(r"^```json\n.*?^```$", "", card, flags=re.MULTILINE | re.DOTALL)
    assert "<" not in prose
    assert "](" not in prose
    assert "\u202e" not in card
    assert len(re.findall(r"^#", prose, re.MULTILINE)) == 10
    assert prose.count("\\`evil\\`") >= 5


@pytest.mark.slow
def test_matplotlib_is_loaded_only_to_draw():
    code = (
        "import sys, training.report.html, training.report.model_card\n"
        "print(sorted({'matplotlib', 'seaborn', 'pandas', 'sklearn', 'jinja2'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("tested", "is_said"), [(150, True), (160, False)])
def test_report_and_card_say_that_the_largest_group_is_in_training(tested, is_said, tmp_path):
    parts = [PartSize("train", 700, 30, 300, 400, 310), PartSize("test", 300, 9, 100, 200, tested)]
    plain = content()
    uneven = replace(plain, facts=replace(plain.facts, parts=parts))
    write_report(tmp_path, uneven)
    for text in (model_card(uneven), (tmp_path / "report.html").read_text()):
        assert ("training part has 310 slices" in text) == is_said
