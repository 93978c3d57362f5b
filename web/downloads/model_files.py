"""Sends the files of a model version: its report, its card, its figures, and the whole version as one file."""

from dataclasses import dataclass

from flask import Response, request

from db import RESEARCH_USE_ONLY
from db.access.audit import WITH_SLICES, Action
from db.models import ModelVersion, User
from db.registry.export import export_package, export_size
from db.registry.manifest import OF_SLICES
from db.storage import storage
from web.errors import not_found
from web.security.audit import record_export

CARD, REPORT = "MODEL_CARD.md", "report.html"
REPORT_CSP = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'self'; sandbox"
)
"""The report is a page of its own, with its style inside. It may come from another site, so it may not run scripts."""
DARK = "(prefers-color-scheme: dark)"
THEMES = {"dark": "(min-width: 0)", "light": "(max-width: 0)"}  # media queries: one matches every screen, one none
FIGURES = {
    "confusion-matrix": ("Confusion matrix", "Test slices by their true class and by their predicted class"),
    "roc": ("ROC curve", "The share of COVID slices that are found, against the share of false alarms"),
    "precision-recall": ("Precision and recall", "Precision against the share of COVID slices that are found"),
    "reliability": ("Reliability", "The share of COVID slices against the probability that the model gave"),
    "scores": ("Scores by class", "How the probabilities of each class are spread, and the threshold"),
    "distance": ("Distance", "How far test slices lie from the training slices, and the limit"),
    "by-source": ("By source", "Metrics of each source of slices, with intervals"),
    "learning-curves": ("Learning curves", "Loss and accuracy by epoch, in training and validation"),
    "augmented": ("Augmented slices", "Training slices as augmentation changes them"),
    "mistakes": ("Mistakes", "The most confident wrong predictions, each slice beside its heat map"),
}
"""The title and the alternative text of each figure of a report, by its name."""


@dataclass(frozen=True)
class FigureLink:
    """A figure of a version: the file's name, the title and the alternative text."""

    file: str
    title: str
    description: str


def figures(version: ModelVersion, user: User) -> list[str]:
    """Return the names of the version's figures that the user may see. Only admins may see figures of slices."""
    hidden = () if user.is_admin else OF_SLICES
    return sorted(name for name in version.files if name.endswith(".png") and name not in hidden)


def figure_links(version: ModelVersion, user: User) -> list[FigureLink]:
    """Return the version's figures that the user may see, with title and alternative text."""
    links = []
    for file in figures(version, user):
        stem = file.removesuffix(".png")
        links.append(FigureLink(file, *FIGURES.get(stem, (stem.replace("-", " ").replace("_", " "), ""))))
    return links


def card_text(version: ModelVersion) -> str | None:
    """Return the model card as Markdown, or None if the version has none. Raises storage's FileMissing, FileDamaged."""
    sha256 = version.files.get(CARD)
    return storage().read(sha256).decode("utf-8", errors="replace") if sha256 else None


def card_response(version: ModelVersion) -> Response:
    """Return the model card as a file. Raises Problem 404."""
    text = card_text(version)
    if text is None:
        raise not_found()
    return Response(text, content_type="text/markdown; charset=utf-8")


def report_response(version: ModelVersion, theme: str = "") -> Response:
    """Return the training report. Its Content-Security-Policy is `sandbox`, so it cannot run scripts.

    `theme`: "dark" or "light" overrides the browser's preference. With any other value, the browser decides. Raises
    Problem 404.
    """
    response = _file(version, REPORT, "text/html; charset=utf-8")
    if theme in THEMES and response.status_code == 200:
        response.set_data(response.get_data().replace(DARK.encode(), THEMES[theme].encode()))
    response.headers["Content-Security-Policy"] = REPORT_CSP
    response.headers["X-Frame-Options"] = "SAMEORIGIN"  # a page with links back shows the report in a frame
    return response


def figure_response(version: ModelVersion, name: str, user: User) -> Response:
    """Return one figure. Raises Problem 404."""
    if name not in figures(version, user):
        raise not_found()
    return _file(version, name, "image/png")


def _file(version: ModelVersion, name: str, content_type: str) -> Response:
    sha256 = version.files.get(name)
    if sha256 is None:
        raise not_found()
    response = Response(storage().read(sha256), content_type=content_type)
    response.set_etag(sha256)
    response.make_conditional(request)
    return response


def export_response(version: ModelVersion, *, with_slices: bool) -> Response:
    """Stream the version as one file, with or without pictures of slices. Raises storage's FileMissing, FileDamaged."""
    record_export(Action.MODEL_EXPORT, f"model {version.label}", WITH_SLICES if with_slices else "")
    response = Response(export_package(version, with_slices=with_slices), content_type="application/x-tar")
    response.content_length = export_size(version, with_slices=with_slices)
    name = f"{version.name}-{version.number}.ctbatch.tar"
    response.headers.set("Content-Disposition", "attachment", filename=name)
    response.headers["X-Notice"] = RESEARCH_USE_ONLY
    return response
