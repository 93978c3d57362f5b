"""Template filters that write values: times, durations, counts, shares, sizes, reasons."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flask import Flask, url_for
from markupsafe import Markup, escape

from db import FAKE_ENGINE, MADE_UP, RESEARCH_USE_ONLY
from db.models import Outcome
from db.reasons import NOTES, explain
from web.actions.keys import new_key
from web.errors import sentence
from web.views import metric_filters
from worker.imaging.display_names import display_name

MINUTE, HOUR, DAY = 60, 3600, 86400


def install(app: Flask) -> None:
    """Make the functions of this module available to templates."""
    app.jinja_env.filters.update(
        ago=ago,
        age=age,
        duration=duration,
        about=about,
        count=count,
        counted=counted,
        priority=priority,
        state_word=state_word,
        share=share,
        probability=probability,
        bytesize=bytesize,
        reason=explain,
        note=note,
        sentence=sentence,
        name=name,
    )
    app.jinja_env.globals.update(notice=RESEARCH_USE_ONLY, icon=icon, new_key=new_key)
    app.jinja_env.globals.update(shown_size=shown_size, without=without, fake_engine=FAKE_ENGINE, made_up=MADE_UP)
    metric_filters.install(app)
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True


def name(text: str | None) -> Markup:
    """Escape a name that a submitter chose, make invisible characters visible, and isolate its text direction."""
    return Markup('<bdi class="name">{}</bdi>').format(display_name(text or ""))


def note(code: str) -> str:
    """Return the sentence of a note on a slice or a series."""
    return NOTES.get(code, code)


def ago(moment: datetime | None) -> Markup:
    """Write a moment such as "3 min ago". Its title is the full time in UTC."""
    if moment is None:
        return Markup("–")
    utc = moment.astimezone(UTC)
    stamp = utc.isoformat(timespec="seconds")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(stamp, f"{utc:%Y-%m-%d %H:%M:%S} UTC", age(moment))


def age(moment: datetime) -> str:
    """Write how long ago a moment was, in one unit. After a week, write the date."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if seconds < 10:
        return "just now"
    if seconds < MINUTE:
        return f"{seconds:.0f} s ago"
    if seconds < HOUR:
        return f"{seconds // MINUTE:.0f} min ago"
    if seconds < DAY:
        return f"{seconds // HOUR:.0f} h ago"
    if seconds < 7 * DAY:
        days = int(seconds // DAY)
        return "yesterday" if days == 1 else f"{days} days ago"
    return f"{moment:%Y-%m-%d}"


def duration(seconds: float | None) -> str:
    """Write a duration in at most two units."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE:02d} min"


def about(seconds: float | None) -> str:
    """Write an estimated duration, rounded to the precision of the estimate."""
    if seconds is None:
        return "–"
    if seconds < MINUTE:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    if seconds < HOUR:
        return f"about {round(seconds / MINUTE)} min"
    return f"about {duration(600 * round(seconds / 600))}"


def counted(number: int, thing: str) -> str:
    """Write a number with a noun: "1 slice", "2 slices"."""
    return f"{count(number)} {thing}{'' if number == 1 else 's'}"


def priority(number: int) -> str:
    """Write a job's priority in the words of the submit page. Add the number if the page does not offer it."""
    words = "low priority" if number < 0 else "high priority" if number > 0 else "normal priority"
    return words if number in (-5, 0, 5) else f"{words} ({number})"


def state_word(state: str) -> str:
    """Return the word for the state of a slice on pages."""
    return "waiting" if state == Outcome.OPEN else state


def shown_size(width: int | None, height: int | None, longer: int) -> tuple[int, int]:
    """Return width and height of a picture with the same aspect, whose longer side is `longer` pixels.

    It is square if the size is not known.
    """
    if not width or not height:
        return longer, longer
    scale = longer / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the parameters of an address without the parameter `name`."""
    return {key: value for key, value in values.items() if key != name}


def count(number: float) -> str:
    """Write a whole number with narrow no-break spaces between thousands."""
    return f"{number:,.0f}".replace(",", "\u202f")


def share(part: float, whole: float) -> str:
    """Write a percentage. It is 0 or 100 only if the share is exactly 0 or 1."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<\u202f0.1\u202f%"
    if 99.9 < percent < 100:
        return ">\u202f99.9\u202f%"
    return f"{percent:.1f}\u202f%" if percent % 100 else f"{percent:.0f}\u202f%"


def probability(value: float | None) -> str:
    """Write a probability with three decimals. It is never rounded to 0 or 1."""
    if value is None:
        return "–"
    if value < 0.001:
        return "<\u202f0.001"
    if value > 0.999:
        return ">\u202f0.999"
    return f"{value:.3f}"


def bytesize(size: float) -> str:
    """Write a size in binary units."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.0f} TiB"


def icon(symbol: str, title: str = "") -> Markup:
    """Draw a symbol of `static/icons.svg`. It is hidden from screen readers unless it has a title."""
    address = url_for("static", filename="icons.svg")
    spoken = Markup('role="img" aria-label="{}"').format(title) if title else Markup('aria-hidden="true"')
    return Markup('<svg class="icon" {}><use href="{}#{}"></use></svg>').format(spoken, address, escape(symbol))
