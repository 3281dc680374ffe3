"""Draws how long answers took: as a distribution, since a mean would hide the slow ones, and over time."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from .draw_timeline import DARK, LIGHT

POINTS = 5_000  # answers that are drawn
LINE, MARK = "#0077BB", "#EE7733"
NAMED = (50, 99, 100)  # percent of the answers


def duration(seconds: float, _: object = None) -> str:
    """As people say it: 250 µs, 3.2 ms, 1.5 s."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size * 0.9995 or unit == "µs":
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError


def latency_figure(title: str, at: list[float], times: list[float], per_second: float, dark: bool = False) -> Figure:
    """`at` is when each answer came, and `times` how long it took, both in seconds."""
    colours = DARK if dark else LIGHT
    figure = Figure(figsize=(11.4, 4.2), facecolor=colours["paper"], layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(title if times else f"{title} No answer came.", color=colours["ink"], fontsize=15)
    for axes in (left, right):
        axes.set_facecolor(colours["paper"])
        axes.tick_params(colors=colours["ink"], labelsize=12, which="both")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(colours["ink"])
        axes.grid(color=colours["faint"], linewidth=0.6)
    left.set_xlabel("time from a message to its answer", color=colours["ink"], fontsize=13)
    left.set_ylabel("answers that were there by then", color=colours["ink"], fontsize=13)
    right.set_xlabel("seconds since the first connect", color=colours["ink"], fontsize=13)
    right.set_ylabel("time to the answer", color=colours["ink"], fontsize=13)
    for axes in (left, right):
        axes.set_visible(bool(times))
    if times:
        _distribution(left, sorted(times), colours)
        right.set_title(f"{per_second:,.0f} answers a second", color=colours["ink"], fontsize=13)
        step = math.ceil(len(times) / POINTS)  # every so many: those of a moment stand together
        right.plot(at[::step], times[::step], ".", color=LINE, markersize=3, alpha=0.5)
        right.set_yscale("log")
        _durations(right.yaxis, times)
    return figure


def _durations(axis: Any, times: list[float]) -> None:
    """Ticks at 1, 10, 100, and at 2 and 5 times as much where there would be few."""
    few = max(times) < 100 * min(times)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(duration))
    axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _distribution(axes: Any, times: list[float], colours: dict[str, str]) -> None:
    step = math.ceil(len(times) / POINTS)
    rows = [*range(0, len(times), step), len(times) - 1]
    axes.step([times[row] for row in rows], [100 * (row + 1) / len(times) for row in rows], where="post", color=LINE)
    words = []
    for part in NAMED:
        time = times[max(0, math.ceil(part / 100 * len(times)) - 1)]
        axes.plot([time], [part], "o", color=MARK, markersize=8)
        words.append(f"{'all' if part == 100 else f'{part} %'} within {duration(time)}")
    axes.set_title(", ".join(words), color=colours["ink"], fontsize=13)
    axes.set_xscale("log")
    axes.set_xlim(times[0] / 1.5, times[-1] * 1.5)
    axes.set_ylim(0, 104)
    _durations(axes.xaxis, times)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
