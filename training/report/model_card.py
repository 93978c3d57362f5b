"""Writes the model card of a version in Markdown, with the headings of Mitchell et al. (2019, FAT*, Model Cards)."""

import html
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from db import COVID, NON_COVID
from db.evaluation.result import GroupMetrics
from db.metrics import GROUP_METRICS, METRICS, counted_groups, groups_not_counted
from db.registry.parity import parity_rows
from training.report.content import (
    ReportContent,
    calibrated_for,
    calibration_note,
    duration,
    few_groups_note,
    largest_group_note,
    metric_rows,
    number,
    percent,
    stop_note,
)
from training.report.figures.style import readable
from training.report.figures.training import SOURCE_METRICS

CARD = "MODEL_CARD.md"
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def write_card(folder: Path, content: ReportContent) -> None:
    """Write `MODEL_CARD.md` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(model_card(content), encoding="utf-8")


def model_card(content: ReportContent) -> str:
    """Return the card as Markdown. Names come from users, so they are escaped and cannot become markup."""
    sections = (
        ("Model details", _details(content)),
        ("Intended use", _intended_use()),
        ("Factors", _factors(content)),
        ("Metrics", _metrics(content)),
        ("Evaluation data", _evaluation_data(content)),
        ("Training data", _training_data(content)),
        ("Ethical considerations", _ethics()),
        ("Caveats and recommendations", _caveats(content)),
        ("How to reproduce", _reproduce(content)),
    )
    head = [f"# {plain(content.title)}", "", "**Research use only. Not for diagnosis.**"]
    if content.note:
        head += ["", plain(content.note)]
    body = [line for title, lines in sections for line in ("", f"## {title}", "", *lines)]
    return "\n".join([*head, *body]) + "\n"


def plain(text: object) -> str:
    """Return text on one line. Escape everything that Markdown or HTML would read as markup."""
    return _MARKUP.sub(r"\\\1", html.escape(readable(str(text)), quote=False))


def _details(content: ReportContent) -> list[str]:
    facts = content.facts
    lines = [
        "- A ResNet50 that gives an axial chest CT slice (8 bits, 224 × 224) a probability of COVID and a heat map.",
        f"- Preset {plain(facts.preset)}, seed {facts.seed}, trained in {duration(facts.seconds)}.",
        f"- COVID if the probability is at least {number(content.threshold)}. The rule {plain(content.threshold_rule)} "
        f"chose this threshold on the validation slices. Temperature {number(content.temperature)}.",
    ]
    if note := stop_note(content):
        lines.append(f"- **{note}** More epochs might have made a better model.")
    if facts.lineage:
        lines.append(f"- Lineage: {' → '.join(plain(label) for label in facts.lineage)}.")
    exported = [f"{plain(row.engine)} ({plain(row.verdict)})" for row in parity_rows(content.parity)]
    if exported:
        lines.append(f"- Exported files, compared with the trained network: {', '.join(exported)}.")
    return lines


def _intended_use() -> list[str]:
    return [
        "- Research on the classification of chest CT slices, and on how such classifiers fail.",
        "- Not for diagnosis, triage, treatment or any decision about a patient. It is not a medical device.",
        "- Not for X-ray, MR, photographs, other organs, or slices outside the lungs.",
    ]


def _factors(content: ReportContent) -> list[str]:
    lines = [
        "- Known to change the answer: scanner, hospital, reconstruction kernel, window, image format, level of the "
        "slice, and other diseases of the lung.",
        "- Age, sex and origin of the patients are unknown here, so performance by them was not measured.",
    ]
    if not content.by_source:
        return [*lines, "- Performance by source was not measured."]
    table = []
    for name, metrics in content.by_source.items():
        rows = metric_rows(metrics)
        shown = [_value(rows[key].value, rows[key].interval) for key in SOURCE_METRICS]
        table.append([plain(name), f"{metrics.n or 0:,}", *shown])
    return [*lines, "", *_table(("Source", "Slices", *(METRICS[name].title for name in SOURCE_METRICS)), table)]


def _metrics(content: ReportContent) -> list[str]:
    rows = [[row.word, row.value, row.interval or "–", row.meaning] for row in metric_rows(content.metrics).values()]
    (tn, fp), (fn, tp) = content.metrics.confusion_matrix
    confusion = [[NON_COVID, f"{tn:,}", f"{fp:,}"], [COVID, f"{fn:,}", f"{tp:,}"]]
    return [
        " ".join(("Intervals are 95 %, by resampling whole groups.", few_groups_note(content))).rstrip(),
        f"Calibration error: {calibration_note(content)}",
        "",
        *_table(("Metric", "Value", "95 % interval", "What it says"), rows),
        "",
        *_table(("True class", "called non-COVID", "called COVID"), confusion),
        *_group_metrics(content.by_group),
    ]


def _group_metrics(groups: GroupMetrics | None) -> list[str]:
    """Return the metrics of groups (patients). Each group gets one verdict."""
    if groups is None:
        return []
    apart = groups_not_counted(groups.left_out, groups.no_verdict)
    if groups.n == 0:
        return ["", f"No metrics of groups (patients): {apart}."]
    shown = metric_rows(groups)
    rows = [[shown[key].word, shown[key].value, shown[key].interval or "–"] for key in GROUP_METRICS]
    kinds = ", ".join(f"{size:,} {name}" for name, size in groups.class_groups.items())
    return [
        "",
        f"By group (patient): {counted_groups(groups.groups, groups.n)} ({kinds}), each with one verdict by the rule "
        f"{plain(groups.rule.name)}: COVID if the score is at least {number(groups.rule.threshold)}. "
        f"A group is COVID if any of its slices is.{f' Not counted: {apart}.' if apart else ''}",
        "",
        *_table(("Metric of groups", "Value", "95 % interval"), rows),
    ]


def _evaluation_data(content: ReportContent) -> list[str]:
    labels = content.test.labels
    groups = counted_groups(content.metrics.groups, content.metrics.named_groups)
    slices = content.metrics.n or len(labels)
    covid = int(labels.sum())
    return [
        f"{slices:,} slices of {groups} ({covid:,} COVID, {len(labels) - covid:,} non-COVID): "
        f"{plain(content.measured_on)}."
    ]


def _training_data(content: ReportContent) -> list[str]:
    facts = content.facts
    sha256 = plain(facts.dataset_hash or "unknown")
    lines = [f"Dataset {plain(facts.dataset)}, SHA-256 {sha256}; split {plain(facts.split)}."]
    if facts.parts:
        rows = [
            [plain(part.part), *(f"{n:,}" for n in (part.slices, part.groups, part.covid, part.non_covid))]
            for part in facts.parts
        ]
        lines += ["", *_table(("Part", "Slices", "Groups", COVID, NON_COVID), rows)]
    if note := largest_group_note(facts):
        lines += ["", note]
    if facts.allowed_leaks:
        leaks = ", ".join(plain(leak) for leak in facts.allowed_leaks)
        lines += ["", f"**Trained although the split leaks ({leaks}): the metrics may be too good.**"]
    return lines


def _ethics() -> list[str]:
    return [
        "- CT slices are patients' data. If the package has a report or pictures of slices (`augmented.png`, "
        "`mistakes.png`), look at them before you pass the package on.",
        "- A missed COVID slice and a false alarm do different harm. The threshold weighs the two.",
        "- Labels come with the dataset. Wrong labels are learned.",
    ]


def _caveats(content: ReportContent) -> list[str]:
    return [
        "- **Other scanners and hospitals mislead such models.** The metrics above hold for slices of the same source. "
        "On another public set, a model like this may be no better than chance. Run a site check on a labelled sample "
        "of the new site (`ctbatch models check MODEL --on DATASET`) before any use there.",
        f"- {_out_of_distribution(content)}",
        f"- The probability is calibrated for {calibrated_for(content.facts)}, not for another share of COVID.",
        "- A heat map shows what the score rests on, not where the disease is.",
    ]


def _out_of_distribution(content: ReportContent) -> str:
    if content.ood_threshold is None:
        return "This version has no out-of-distribution score, so a photograph gets a probability like any slice."
    text = (
        "The out-of-distribution score is a slice's distance from the training slices in the network's features; "
        f"beyond {content.ood_threshold:.4g} a slice is out of distribution"
    )
    distance = content.test.distance
    if distance is not None and np.isfinite(distance).any():
        finite = distance[np.isfinite(distance)]
        text += f", as {percent(int((finite > content.ood_threshold).sum()), len(finite))} of the evaluation slices are"
    return f"{text}. Other slices may still be unlike the training slices."


def _reproduce(content: ReportContent) -> list[str]:
    facts = content.facts
    given = {
        "preset": facts.preset,
        "seed": facts.seed,
        "dataset": facts.dataset,
        "dataset_sha256": facts.dataset_hash,
        "config": facts.config,
        "environment": facts.environment,
    }
    return [
        "Threads and hardware cause small differences. The run's settings, and the versions of code and libraries:",
        "",
        "```json",
        json.dumps(given, indent=2, default=str),
        "```",
    ]


def _value(value: str, interval: str) -> str:
    return f"{value} ({interval})" if interval else value


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
