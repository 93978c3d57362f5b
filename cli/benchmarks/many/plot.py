"""Draws how time, memory and queries grow with the number of slices."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw the report of `growth` into a PNG."""
    jobs, queries = report["jobs"], report["query_milliseconds"]
    figure, (time_axes, memory_axes, query_axes) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    time_axes.plot(list(jobs), [job["milliseconds_a_slice"] for job in jobs.values()], "o-")
    time_axes.set_ylim(bottom=0)
    _label(time_axes, "Time from submission to end", "ms a slice", "slices of the job")
    roles = sorted({role for job in jobs.values() for role in job["peak_mib"]} - {"other"})
    for role in roles:
        memory_axes.plot(
            list(jobs), [job["peak_mib"].get(role, {}).get("pss") for job in jobs.values()], "o-", label=role
        )
    memory_axes.axhline(400, color="grey", linestyle=":")
    _label(memory_axes, "Largest process of a role", "MiB (PSS)", "slices of the job")
    for name in next(iter(queries.values())):
        query_axes.plot(list(queries), [times[name] for times in queries.values()], "o-", label=name)
    query_axes.set_yscale("log")
    _label(query_axes, "A page of 100, by the API", "ms", "slices of the job")
    for axes in (memory_axes, query_axes):
        axes.legend(fontsize=7, ncols=2)
    figure.suptitle(f"{report['processor']}; engine {report['engine']}", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _label(axes: Axes, title: str, y: str, x: str) -> None:
    axes.set_xscale("log")
    axes.set(title=title, ylabel=y, xlabel=x)
    axes.grid(alpha=0.3)
