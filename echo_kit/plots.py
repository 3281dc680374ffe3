"""Draws timelines with matplotlib, and nothing else. Never through pyplot: its state is not safe between threads."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .events import visible
from .lanes import Lane
from .timeline import ACCEPTED, BACKLOG, CONNECTING, IN_ACCEPT, IN_RECV, IN_SEND, WORKS, Span, Timeline, quote

# Far apart under every simulated colour blindness; waiting is striped and outlined as well, connecting is thin.
COLOURS = {
    CONNECTING: "#BBBBBB",
    BACKLOG: "#EE7733",
    ACCEPTED: "#E4E4E4",
    IN_ACCEPT: "#E4E4E4",
    IN_RECV: "#99CCEE",
    WORKS: "#0066AA",
    IN_SEND: "#AA3377",
}
STRIPES = {BACKLOG: "///", IN_SEND: "xxx"}
WORDS = {  # of the legend
    CONNECTING: "connecting",
    BACKLOG: "waits in the backlog",
    ACCEPTED: "accepted, no thread is at it",
    IN_ACCEPT: "waits in accept for a client",
    IN_RECV: "server waits for the client (recv)",
    WORKS: "server works for the client",
    IN_SEND: "sendall waits: the client does not read",
}
LIGHT = {"paper": "#FFFFFF", "ink": "#1A1A1A", "faint": "#D5D5D5"}
DARK = {"paper": "#1E1E1E", "ink": "#F2F2F2", "faint": "#4A4A4A"}
ON_BAR = "#1A1A1A"  # words on the light bars
LABEL_LANES = 24  # up to so many lanes have room for words
INCHES_A_LANE = 0.85
WIDTH, SUMMARY, MARGIN = 5.4, 1.9, 4.2  # inches of a timeline, of what its lanes come to, of what stands around
LETTERS = 60  # of a quoted message that fit side by side into an axis
HALF, ABOVE = 0.2, 0.35  # of a lane: half a bar, and how far above or below its middle the marks are
TITLE = 40  # characters of a server's name
LARGEST = 11.0  # inches, for any number of lanes
PIXELS = 1000  # across a timeline: what is nearer to its neighbour is drawn as one
CHOSEN = 12  # lanes that are named where there is no room for all the names
SEEN = 0.004  # of the width: a stretch as wide as that needs a word in the legend


@dataclass
class _Row:
    """One lane to be drawn. `words` are written on the bar, `summary` beside it."""

    name: str
    spans: list[Span]
    words: list[tuple[float, float, str]] = field(default_factory=list)
    lane: Lane | None = None
    summary: str = ""


def timeline_figure(timelines: Sequence[Timeline], dark: bool = False) -> Figure:
    """The timelines side by side: one lane a client, each run from its own zero, all with the same scale.

    Bars say what the client or its server waits for; marks say sent and answered. Up to `LABEL_LANES` lanes also carry
    words; above that a strip tells how many waited, and how many were served, at each moment.
    """
    if not timelines:
        raise ValueError("there is no timeline to draw: give at least one")
    rows = [_client_rows(timeline) for timeline in timelines]
    return _figure(timelines, rows, dark)


def threads_figure(timeline: Timeline, dark: bool = False) -> Figure:
    """One lane a thread: where it waited, and for whom it worked."""
    rows = []
    for label, spans in timeline.thread_spans.items():
        words: list[tuple[float, float, str]] = []
        for span in spans:  # who it is with, over all neighbouring stretches of the same client
            said = "waits in accept" if span.state == IN_ACCEPT else f"with {span.client}" if span.client else ""
            if words and words[-1][2] == said:
                words[-1] = (words[-1][0], span.end, said)
            else:
                words.append((span.begin, span.end, said))
        rows.append(_Row(label, spans, words))
    return _figure([timeline], [rows], dark)


def stacked_figure(timelines: Sequence[Timeline], dark: bool = False) -> Figure:
    """Several servers on one axis, below one another: what happened at one moment stands at one place."""
    if not timelines:
        raise ValueError("there is no timeline to draw: give at least one")
    rows: list[_Row] = []
    for timeline in timelines:
        mine = _client_rows(timeline)
        for row in mine:
            row.name = f"{row.name} at {timeline.server[:TITLE]}"
        rows += mine
    first, last = min(each.start for each in timelines), max(each.now for each in timelines)
    title = ", ".join(each.server for each in timelines)
    whole = Timeline(title, (), first, last, False, 0, window=timelines[0].window)
    return _figure([whole], [rows], dark)


# -- what there is to draw -------------------------------------------------------------------------------------------


def _client_rows(timeline: Timeline) -> list[_Row]:
    table = timeline.table() if len(timeline.lanes) <= LABEL_LANES else []
    rows = [_Row(lane.name, timeline.spans[lane.name], lane=lane) for lane in timeline.lanes]
    for row, lane, facts in zip(rows, timeline.lanes, table, strict=False):
        row.words = [(span.begin, span.end, BACKLOG) for span in row.spans if span.state == BACKLOG]
        if lane.accepted is not None:
            by = " and ".join(lane.threads).replace("server thread", "the server thread") or "nobody yet"
            begin = max(lane.connected or lane.accepted, lane.accepted)
            row.words.append((begin, timeline.now if lane.ended is None else lane.ended, f"served by {by}"))
        said = [f"waited {_duration(facts['seconds waited'])}"] if facts["seconds waited"] is not None else []
        if lane.accepted is not None:
            said.append(f"served {_duration(facts['seconds served'])}")
        many = facts["messages"]
        moved = f"{many:,} message{'' if many == 1 else 's'}, {facts['bytes sent']:,} B"
        row.summary = f"{', '.join(said)}\n{moved}"
    return rows


def _duration(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2g} {unit}" if seconds * factor < 100 else f"{seconds * factor:,.0f} {unit}"
    return f"{seconds * 1e6:.0f} µs" if seconds > 0 else "0 s"


# -- drawing ---------------------------------------------------------------------------------------------------------


def _figure(timelines: Sequence[Timeline], rows: list[list[_Row]], dark: bool) -> Figure:
    most = max(map(len, rows))
    height = min(LARGEST, 1.9 + INCHES_A_LANE * max(1, most))
    width = (WIDTH + (SUMMARY if any(row.summary for each in rows for row in each) else 0)) * len(timelines) + MARGIN
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=(DARK if dark else LIGHT)["paper"])
    _draw(figure, timelines, rows, dark)
    return figure


def draw_timelines(figure: Any, timelines: Sequence[Timeline], dark: bool) -> None:
    """Draw them side by side into a figure or a part of one, without what each client's lane comes to."""
    rows = [_client_rows(timeline) for timeline in timelines]
    for row in (row for each in rows for row in each):
        row.summary = ""
    _draw(figure, timelines, rows, dark, titles=False)


def _draw(figure: Any, timelines: Sequence[Timeline], rows: list[list[_Row]], dark: bool, titles: bool = True) -> None:
    colours = DARK if dark else LIGHT
    most = max(map(len, rows))
    words = most <= LABEL_LANES
    ratios = (1,) if words else (5, 1)
    grid = figure.subplots(len(ratios), len(timelines), squeeze=False, sharex=True, height_ratios=ratios)
    windows = [each.window or (0.0, max(each.now - each.start, 1e-6)) for each in timelines]
    begin = min(window[0] for window in windows)
    longest = max(window[1] for window in windows) - begin
    scale, unit = (1000.0, "milliseconds") if longest < 2 else (1.0, "seconds")
    for column, (timeline, mine) in enumerate(zip(timelines, rows, strict=True)):
        axis = grid[0][column]
        view = _View(timeline.start, scale, begin, begin + longest * 1.02)
        axis.set_xlim(view.begin * scale, view.end * scale)
        if words:
            _draw_lanes(axis, mine, view, colours, most)
        else:
            _draw_raster(axis, mine, view, colours)
            _draw_counts(grid[1][column], mine, view, colours)
        if titles:
            title = drawable(timeline.server[:TITLE])
            axis.set_title(title, fontsize=17, fontweight="bold", color=colours["ink"], loc="left", parse_math=False)
        for each in grid[:, column]:
            _furnish(each, colours)
        grid[-1][column].set_xlabel(f"{unit} since the first client came", fontsize=13, color=colours["ink"])
    legend = figure.legend(
        handles=_legend(rows, longest, colours, marks=words and any(row.lane for each in rows for row in each)),
        loc="outside upper center",
        ncols=3 if len(timelines) == 1 else 5,
        fontsize=13,
        frameon=False,
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.4,
    )
    for text in legend.get_texts():
        text.set_color(colours["ink"])


@dataclass(frozen=True)
class _View:
    """The axis: where a time stands on it. `begin` and `end` are what it shows, in seconds since `start`."""

    start: float
    scale: float
    begin: float
    end: float

    def at(self, time: float) -> float:
        return (time - self.start) * self.scale

    def cut(self, span: Span) -> tuple[float, float] | None:
        """The part of the stretch that is shown, in seconds since `start`."""
        begin, end = max(span.begin - self.start, self.begin), min(span.end - self.start, self.end)
        return (begin, end) if end >= begin else None

    def shows(self, time: float) -> bool:
        return self.begin <= time - self.start <= self.end


def drawable(text: str) -> str:
    """`text` with a box for each character that the font lacks: matplotlib would warn of it whenever it draws."""
    fonts = [get_font(findfont(FontProperties(weight=weight))) for weight in ("normal", "bold")]
    return "".join(char if all(font.get_char_index(ord(char)) for font in fonts) else "□" for char in visible(text))


def _legend(rows: list[list[_Row]], longest: float, colours: dict[str, str], marks: bool) -> list[Any]:
    ink = colours["ink"]
    clients = any(row.lane is not None for each in rows for row in each)
    usual = {BACKLOG, IN_RECV, WORKS} if clients or not rows[0] else {IN_ACCEPT, IN_RECV, WORKS}
    there = {
        span.state for each in rows for row in each for span in row.spans if span.end - span.begin > SEEN * longest
    }
    handles: list[Any] = [
        Patch(facecolor=COLOURS[state], edgecolor=ink, linewidth=0.5, hatch=STRIPES.get(state), label=words)
        for state, words in WORDS.items()
        if state in usual | there
    ]
    if marks:
        handles += [
            Line2D([], [], marker="v", markersize=10, linestyle="", color=ink, label="client sends"),
            Line2D([], [], marker="^", markersize=10, ls="", mfc="none", mew=2, color=ink, label="server answers"),
        ]
    return handles


def _draw_lanes(axis: Any, rows: list[_Row], view: _View, colours: dict[str, str], most: int) -> None:
    ink = colours["ink"]
    shapes: dict[str, list[Any]] = {state: [] for state in COLOURS}
    sent, back = [], []
    for number, row in enumerate(rows):
        for state, begin, end in _merged(row.spans, view):
            half = HALF / 2 if state == CONNECTING else HALF
            x0, x1 = begin * view.scale, end * view.scale
            shapes[state].append([(x0, number - half), (x1, number - half), (x1, number + half), (x0, number + half)])
        if row.lane is not None:
            sent += [(x, number) for x in _places(row.lane.to_server, view)]
            back += [(x, number) for x in _places(row.lane.answers, view)]
    for state, each in shapes.items():  # one collection a state: a patch for each bar is slow at hundreds of lanes
        edge = ink if state == BACKLOG else COLOURS[state]
        width = 1.0 if state == BACKLOG else 0.8
        bars = PolyCollection(
            each, facecolors=COLOURS[state], edgecolors=edge, linewidths=width, hatch=STRIPES.get(state), zorder=2
        )
        axis.add_collection(bars)
    _marks(axis, sent, "v", ABOVE, ink, ink)
    _marks(axis, back, "^", -ABOVE, "none", ink)
    for number, row in enumerate(rows):
        _write_on_bars(axis, row, number, view)
        if row.lane is not None:
            _quotes(axis, row.lane, number, view, ink)
        if row.summary:
            axis.text(
                1.01, number, row.summary, transform=axis.get_yaxis_transform(), va="center", fontsize=12, color=ink
            )
    names = [drawable(row.name) for row in rows]
    axis.set_yticks(range(len(rows)), names, fontsize=16, color=ink, parse_math=False)
    axis.set_ylim(max(most, 1) - 0.3, -0.75)


def _merged(spans: Iterable[Span], view: _View) -> list[tuple[str, float, float]]:
    """(state, begin, end) in seconds: what is nearer to its like than a pixel is one with it."""
    pixel = (view.end - view.begin) / PIXELS
    merged: list[tuple[str, float, float]] = []
    latest: dict[str, int] = {}
    for span in spans:
        cut = view.cut(span)
        if cut is None:
            continue
        # A sendall that does not wait is a part of the work.
        state = WORKS if span.state == IN_SEND and cut[1] - cut[0] < pixel else span.state
        at = latest.get(state)
        if at is not None and cut[0] - merged[at][2] < pixel:
            merged[at] = (state, merged[at][1], max(cut[1], merged[at][2]))
        else:
            latest[state] = len(merged)
            merged.append((state, *cut))
    return merged


def _places(messages: Iterable[Any], view: _View) -> list[float]:
    """Where their marks stand, one a pixel."""
    pixel = (view.end - view.begin) / PIXELS
    seen = {round((message.began - view.start) / pixel): message for message in messages if view.shows(message.began)}
    return [view.at(message.began) for message in seen.values()]


def _marks(axis: Any, points: list[tuple[float, int]], marker: str, above: float, fill: str, ink: str) -> None:
    if points:
        xs, rows = zip(*points, strict=True)
        axis.scatter(
            xs,
            [row - above for row in rows],
            s=90,
            marker=marker,
            facecolors=fill,
            edgecolors=ink,
            linewidths=2,
            zorder=4,
            clip_on=False,
        )


def _draw_raster(axis: Any, rows: list[_Row], view: _View, colours: dict[str, str]) -> None:
    """Many lanes: each a thin line of coloured pixels, so that 1,000 are drawn as fast as 10."""
    states = list(COLOURS)
    palette = np.array([to_rgb(colours["paper"]), *(to_rgb(COLOURS[state]) for state in states)])
    number = {state: each for each, state in enumerate(states, 1)}
    image = np.zeros((len(rows), PIXELS), dtype=np.uint8)
    pixel = (view.end - view.begin) / PIXELS
    for line, row in zip(image, rows, strict=True):
        for span in row.spans:
            begin, end = (
                int((span.begin - view.start - view.begin) / pixel),
                int((span.end - view.start - view.begin) / pixel),
            )
            if end >= 0 and begin < PIXELS and (end > begin or span.state != IN_RECV):  # a moment of work is seen, too
                line[max(0, begin) : end + 1] = number[span.state]
    edges = (view.begin * view.scale, view.end * view.scale, len(rows) - 0.5, -0.5)
    axis.imshow(palette[image], extent=edges, aspect="auto", interpolation="nearest", zorder=1)
    chosen = sorted({round(each * (len(rows) - 1) / (CHOSEN - 1)) for each in range(CHOSEN)})
    names = [drawable(rows[each].name) for each in chosen]
    axis.set_yticks(chosen, names, fontsize=12, color=colours["ink"], parse_math=False)
    axis.set_ylabel(f"{len(rows):,} lanes, the first on top", fontsize=13, color=colours["ink"])


def _draw_counts(axis: Any, rows: list[_Row], view: _View, colours: dict[str, str]) -> None:
    """How many wait, and how many are being served, at each moment."""
    for states, colour, words in (
        ((BACKLOG,), COLOURS[BACKLOG], "wait"),
        ((ACCEPTED, IN_RECV, WORKS, IN_SEND), COLOURS[WORKS], "served"),
    ):
        changes = []
        for row in rows:
            mine = [span for span in row.spans if span.state in states]
            if mine:
                changes += [(mine[0].begin, 1), (mine[-1].end, -1)]
        if changes:
            changes.sort()
            times = [view.at(time) for time, _ in changes]
            counts = np.cumsum([change for _, change in changes])
            axis.step(times, counts, where="post", color=colour, linewidth=2)
            axis.fill_between(times, counts, step="post", color=colour, alpha=0.25)
            axis.plot([], [], color=colour, linewidth=6, label=words)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=12, frameon=False, labelcolor=colours["ink"])
    axis.set_ylim(bottom=0)
    axis.set_ylabel("now", fontsize=13, color=colours["ink"])


def _furnish(axis: Any, colours: dict[str, str]) -> None:
    axis.set_facecolor(colours["paper"])
    axis.tick_params(axis="both", colors=colours["ink"])
    axis.tick_params(axis="x", labelsize=13)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=colours["faint"], linewidth=0.8, zorder=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colours["ink"])


def _write_on_bars(axis: Any, row: _Row, number: int, view: _View) -> None:
    """What each long enough stretch is, written on it."""
    for begin, end, said in row.words:
        cut = view.cut(Span("", begin, end))
        share = (cut[1] - cut[0]) / (view.end - view.begin) if cut is not None else 0
        if cut is None or share < 0.14 or not said:
            continue
        paper = COLOURS[BACKLOG] if said == BACKLOG else None
        axis.text(
            (cut[0] + cut[1]) / 2 * view.scale,
            number,
            drawable(said if share * LETTERS > len(said) * 0.9 else said.split(" ")[0]),
            ha="center",
            va="center",
            fontsize=13,
            fontweight="bold",
            color=ON_BAR,
            bbox={"facecolor": paper, "edgecolor": "none", "pad": 2} if paper else None,
            zorder=5,
            clip_on=True,
            parse_math=False,
        )


def _quotes(axis: Any, lane: Lane, row: int, view: _View, ink: str) -> None:
    """What was sent, beside its mark, as far as it fits before the next mark."""
    messages = [event for event in lane.to_server if view.shows(event.began)]
    places = [view.at(event.began) for event in messages]
    end = view.end * view.scale
    letters = LETTERS / ((view.end - view.begin) * view.scale)  # how many fit into one unit of the axis
    free_from = float("-inf")
    for event, x, after in zip(messages, places, [*places[1:], float("inf")], strict=True):
        room = (min(after, end) - x) * letters - 3
        if room < 3 and (x < free_from or (x - free_from) * letters < 7):
            free_from = max(free_from, x)
            continue  # no room on either side: most of a long run's messages
        text = drawable(quote(event).split('" (')[0].strip('"'))
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
