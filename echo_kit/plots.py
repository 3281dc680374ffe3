"""Draws timelines with matplotlib, and nothing else. Never through pyplot: its state is not safe between threads."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .events import visible
from .timeline import Lane, Timeline, quote

# Far apart under every simulated colour blindness; waiting is striped and outlined as well, connecting is thin.
CONNECTING, WAITING, SERVED = "#BBBBBB", "#EE7733", "#0077BB"
LIGHT = {"paper": "#FFFFFF", "ink": "#1A1A1A", "faint": "#D5D5D5", "mark": "#FFFFFF"}
DARK = {"paper": "#1E1E1E", "ink": "#F2F2F2", "faint": "#4A4A4A", "mark": "#FFFFFF"}
LABEL_LANES = 24  # up to so many lanes have room for words
INCHES_A_LANE = 0.85
LETTERS = 60  # of a quoted message that fit side by side into an axis
HALF, ABOVE = 0.2, 0.35  # of a lane: half a bar, and how far above or below its middle the marks are
TITLE = 40  # characters of a server's name
LARGEST = 11.0  # inches, for any number of lanes


def timeline_figure(timelines: Sequence[Timeline], dark: bool = False) -> Figure:
    """The timelines side by side: one lane a client, each run from its own zero, all with the same scale.

    Bars say connecting, waiting in the backlog, served; marks say sent and echoed. Up to `LABEL_LANES` lanes also
    carry words.
    """
    if not timelines:
        raise ValueError("there is no timeline to draw: give at least one")
    colours = DARK if dark else LIGHT
    most = max(len(timeline.lanes) for timeline in timelines)
    height = min(LARGEST, 1.9 + INCHES_A_LANE * max(1, most))
    figure = Figure(figsize=(5.4 * len(timelines) + 4.2, height), layout="constrained", facecolor=colours["paper"])
    axes = figure.subplots(1, len(timelines), squeeze=False, sharex=True)[0]
    longest = max(max(timeline.now - timeline.start for timeline in timelines), 1e-6)
    scale, unit = (1000.0, "milliseconds") if longest < 2 else (1.0, "seconds")
    for axis, timeline in zip(axes, timelines, strict=True):
        axis.set_xlim(0, longest * scale * 1.02)
        _draw(axis, timeline, scale, colours, most)
        axis.set_xlabel(f"{unit} since the first client came", fontsize=13, color=colours["ink"])
    legend = figure.legend(
        handles=_legend(colours),
        loc="outside upper center",
        ncols=5,
        fontsize=13,
        frameon=False,
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.4,
    )
    for text in legend.get_texts():
        text.set_color(colours["ink"])
    return figure


def _drawable(text: str) -> str:
    """`text` with a box for each character that the font lacks: matplotlib would warn of it whenever it draws."""
    fonts = [get_font(findfont(FontProperties(weight=weight))) for weight in ("normal", "bold")]
    return "".join(char if all(font.get_char_index(ord(char)) for font in fonts) else "□" for char in visible(text))


def _legend(colours: dict[str, str]) -> list[Any]:
    ink = colours["ink"]
    return [
        Patch(facecolor=CONNECTING, label="connecting"),
        Patch(facecolor=WAITING, edgecolor=ink, hatch="///", label="waits in the backlog"),
        Patch(facecolor=SERVED, label="served"),
        Line2D([], [], marker="v", markersize=10, linestyle="", color=ink, label="client sends"),
        Line2D([], [], marker="^", markersize=10, linestyle="", mfc="none", mew=2, color=ink, label="server answers"),
    ]


def _draw(axis: Any, timeline: Timeline, scale: float, colours: dict[str, str], most: int) -> None:
    def at(time: float) -> float:
        return (time - timeline.start) * scale

    ink, lanes = colours["ink"], timeline.lanes
    words = len(lanes) <= LABEL_LANES
    bars: dict[str, list[Any]] = {CONNECTING: [], WAITING: [], SERVED: []}
    for row, lane in enumerate(lanes):
        for colour, half, begin, end in _bars(lane, timeline.now):
            x0, x1 = at(begin), at(end)
            bars[colour].append([(x0, row - half), (x1, row - half), (x1, row + half), (x0, row + half)])
    for colour, shapes in bars.items():  # one collection a state: a patch for each bar is slow at hundreds of lanes
        striped = colour == WAITING
        axis.add_collection(
            PolyCollection(
                shapes,
                facecolors=colour,
                edgecolors=ink if striped and words else colour,
                linewidths=1.0 if striped else 0.5,
                hatch="///" if striped and words else None,
                zorder=2,
            )
        )
    sent = [(at(event.began), row) for row, lane in enumerate(lanes) for event in lane.to_server]
    back = [(at(event.began), row) for row, lane in enumerate(lanes) for event in lane.answers]
    _marks(axis, sent, "v", ABOVE, ink, ink, words)
    _marks(axis, back, "^", -ABOVE, "none", ink, words)
    if words:
        for row, lane in enumerate(lanes):
            _words(axis, lane, row, timeline, at, colours)
        names = [_drawable(lane.name) for lane in lanes]
        axis.set_yticks(range(len(lanes)), names, fontsize=16, color=ink, parse_math=False)
    else:
        axis.set_ylabel(f"{len(lanes):,} clients, in the order in which they came", fontsize=13, color=ink)
        axis.set_yticks([])
    axis.set_ylim(max(most, 1) - 0.3, -0.75)
    title = _drawable(timeline.server[:TITLE])
    axis.set_title(title, fontsize=17, fontweight="bold", color=ink, loc="left", parse_math=False)
    axis.set_facecolor(colours["paper"])
    axis.tick_params(axis="x", labelsize=13, colors=ink)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=colours["faint"], linewidth=0.8, zorder=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(ink)


def _marks(
    axis: Any, points: Iterable[tuple[float, int]], marker: str, above: float, fill: str, ink: str, words: bool
) -> None:
    points = list(points)
    if points:
        axis.scatter(
            [x for x, _ in points],
            [row - above for _, row in points],
            s=90 if words else 6,
            marker=marker,
            facecolors=fill,
            edgecolors=ink,
            linewidths=2 if words else 0.5,
            zorder=4,
            clip_on=False,
        )


def _bars(lane: Lane, now: float) -> Iterable[tuple[str, float, float, float]]:
    """(colour, half the height, begin, end) of each stretch of the lane."""
    if lane.connecting is not None and lane.connected is not None:
        yield CONNECTING, HALF / 2, lane.connecting, lane.connected
    arrived = lane.connected if lane.connected is not None else lane.accepted
    if arrived is None:
        return
    over = lane.ended if lane.ended is not None else now
    accepted = lane.accepted if lane.accepted is not None else over
    if accepted > arrived:
        yield WAITING, HALF, arrived, accepted
    if lane.accepted is not None:
        yield SERVED, HALF, max(arrived, accepted), max(over, accepted)


def _words(axis: Any, lane: Lane, row: int, timeline: Timeline, at: Any, colours: dict[str, str]) -> None:
    """What each long enough stretch is, written on it; what was sent, above its mark."""
    whole = axis.get_xlim()[1]
    for colour, _, begin, end in _bars(lane, timeline.now):
        share = (at(end) - at(begin)) / whole
        if colour == CONNECTING or share < 0.16:
            continue
        by = " and ".join(lane.threads).replace("server thread", "the server thread") or "nobody yet"
        said = "waits in the backlog" if colour == WAITING else f"served by {by}"
        axis.text(
            (at(begin) + at(end)) / 2,
            row,
            _drawable(said if share > 0.4 else said.split(" ")[0]),
            ha="center",
            va="center",
            fontsize=13,
            fontweight="bold",
            color="#1A1A1A" if colour == WAITING else colours["mark"],
            bbox={"facecolor": WAITING, "edgecolor": "none", "pad": 2} if colour == WAITING else None,
            zorder=5,
            clip_on=True,
            parse_math=False,
        )
    _quotes(axis, lane, row, [at(event.began) for event in lane.to_server], colours["ink"])


def _quotes(axis: Any, lane: Lane, row: int, places: list[float], ink: str) -> None:
    """What was sent, beside its mark, as far as it fits before the next mark."""
    letters = LETTERS / axis.get_xlim()[1]  # how many fit into one unit of the axis
    free_from = float("-inf")
    for event, x, after in zip(lane.to_server, places, [*places[1:], float("inf")], strict=True):
        text = _drawable(quote(event).split('" (')[0].strip('"'))
        room = (min(after, LETTERS / letters * 1.02) - x) * letters - 3
        side = "left"
        if room < min(len(text), 6) and (x - free_from) * letters > len(text) + 4:
            side = "right"  # before its mark there is more room
            room = (x - free_from) * letters - 4
        if room >= min(len(text), 3) and x >= free_from:
            shown = text if len(text) <= room else text[: max(1, int(room) - 1)] + "…"
            axis.annotate(
                shown,
                (x, row - ABOVE),
                xytext=(9 if side == "left" else -9, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=13,
                color=ink,
                zorder=5,
                parse_math=False,
            )
            free_from = x + (len(shown) + 3) / letters if side == "left" else x
        else:
            free_from = max(free_from, x)


def png(figure: Figure, dpi: int = 160) -> tuple[str, int, int]:
    """The figure as base64 text, and the width and height, in CSS pixels, at which a page should show it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    width, height = figure.get_size_inches() * 80
    return base64.b64encode(buffer.getvalue()).decode("ascii"), round(width), round(height)
