"""The style of all training figures: colours for light and dark paper, sheets, axes, and the PNG of a sheet."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 220  # sharp in print at the width of a column, and twice what a screen shows
LONGEST_NAME = 30  # the most characters of a user's text in a figure
TEXT, SMALL = 9.0, 7.5  # points
Place = Literal["best", "upper left", "upper center", "lower left", "lower right"]
Grid = Literal["both", "x", "y", "none"]


@dataclass(frozen=True)
class Style:
    """The colours for one paper. Lines also differ in dash and width, and colour-blind people can tell them apart."""

    paper: str
    sunken: str
    ink: str
    muted: str
    line: str
    positive: str
    negative: str
    accent: str
    champion: str
    on_accent: str


LIGHT = Style(
    "#ffffff", "#eef2f4", "#16232b", "#566570", "#dde4e8", "#b4530f", "#2f6aa8", "#0b6b6b", "#7c4aa6", "#ffffff"
)
DARK = Style(
    "#161e22", "#202a30", "#e4ebee", "#9aabb5", "#2e3b42", "#f0a066", "#82b4ea", "#5cc7bc", "#c39be6", "#06201f"
)


def new_sheet(width: float, height: float, style: Style) -> Figure:
    """Make an empty figure of `width` × `height` inches. pyplot does not keep it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=style.paper, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, style: Style, *, x: str = "", y: str = "", title: str = "", grid: Grid = "both") -> None:
    """Apply the common style to `axes`."""
    axes.set_facecolor(style.paper)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(style.muted)
        spine.set_linewidth(0.8)
    axes.tick_params(colors=style.muted, labelcolor=style.ink, labelsize=SMALL, width=0.8, length=3)
    axes.set_xlabel(x, color=style.ink, fontsize=TEXT)
    axes.set_ylabel(y, color=style.ink, fontsize=TEXT)
    if title:
        axes.set_title(title, color=style.ink, fontsize=TEXT, fontweight="bold", loc="left")
    if grid != "none":
        axes.grid(axis=grid, color=style.line, linewidth=0.7)
        axes.set_axisbelow(True)


def legend(axes: Axes, style: Style, place: Place) -> None:
    """Draw the legend with a background, so that lines do not cross the words."""
    axes.legend(
        loc=place,
        fontsize=SMALL,
        labelcolor=style.ink,
        facecolor=style.paper,
        edgecolor=style.line,
        framealpha=0.92,
        fancybox=False,
    )


def readable(name: str) -> str:
    """Return a user's text on one line, without characters that do not print or that reverse its order."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split()) or "–"


def short_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Return `readable` text. If it is long, leave out the middle."""
    clean = readable(name)
    if len(clean) <= longest:
        return clean
    head = (longest - 1) // 2
    return f"{clean[:head]}…{clean[-(longest - 1 - head) :]}"


def to_png(figure: Figure, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
    """Return the figure as PNG. The same data give the same bytes. Letters that the font lacks become boxes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(
            file, format="png", dpi=dots_per_inch, facecolor=figure.get_facecolor(), metadata={"Software": None}
        )
    return file.getvalue()
