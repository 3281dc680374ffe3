"""Draws timelines with matplotlib, and nothing else. Never through pyplot: its state is not safe between threads."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..watch.events import SocketEvent
from ..watch.text import visible
from .lanes import Lane
from .timeline import (
    ACCEPTED,
    BACKLOG,
    CONNECTING,
    IN_ACCEPT,
    IN_RECV,
    IN_SEND,
    PAUSED,
    WORKS,
    Span,
    Timeline,
    collector_paused,
    quote,
)

# Far apart under every simulated colour blindness; waiting is striped and outlined as well, connecting is thin.
COLOURS = {
    CONNECTING: "#BBBBBB",
    BACKLOG: "#EE7733",
    ACCEPTED: "#E4E4E4",
    IN_ACCEPT: "#E4E4E4",
    IN_RECV: "#99CCEE",
    WORKS: "#0066AA",
    IN_SEND: "#AA3377",
    PAUSED: "#9A9A9A",
}
STRIPES = {BACKLOG: "///", IN_SEND: "xxx", PAUSED: ".."}
WORDS = {  # of the legend
    CONNECTING: "connecting",
    BACKLOG: "waits in the backlog",
    ACCEPTED: "accepted, no thread is seen at it",
    IN_ACCEPT: "waits in accept for a client",
    IN_RECV: "server waits for the client (recv)",
    WORKS: "server works for the client",
    IN_SEND: "sendall waits: the client does not read",
    PAUSED: "paused, step by step",
}
LIGHT = {"paper": "#FFFFFF", "ink": "#1A1A1A", "faint": "#D5D5D5"}
DARK = {"paper": "#1E1E1E", "ink": "#F2F2F2", "faint": "#4A4A4A"}
ON_LIGHT, ON_DARK = "#1A1A1A", "#FFFFFF"  # words on bars
DARK_BARS = (WORKS, IN_SEND)
LABEL_LANES = 24  # up to so many lanes have room for words
INCHES_A_LANE = 0.85
WIDTH, SUMMARY, MARGIN = 7.2, 2.9, 0.6  # inches of a timeline, of what its lanes come to, of what stands around
BESIDE = 5.2  # inches of one of several timelines: a page is only so wide
LETTERS = 60  # of a quoted message that fit side by side into an axis of `WIDTH`
BOLD = 0.95  # as many fit that are bold
LETTER = 0.14  # inches of a letter of a lane's name, which widens the picture
ENTRY, SYMBOL = 0.102, 0.62  # inches of a letter in the legend, and of what stands before the words
HALF, ABOVE = 0.2, 0.35  # of a lane: half a bar, and how far above or below its middle the marks are
TITLE = 40  # characters of a server's name
LARGEST = 11.0  # inches, for any number of lanes
LINES = 2000  # lanes that are drawn; of more, so many that lie evenly among them
PIXELS = 1000  # across a timeline: what is nearer to its neighbour is drawn as one
CHOSEN = 12  # lanes that are named where there is no room for all the names
SEEN = 0.004  # of the width: a stretch as wide as that needs a word in the legend
FINE = 300  # stretches of a lane that are drawn one by one; of more, each pixel gets the mean colour of what is in it
AIRY = 14  # up to so many lanes have room for two lines of text
MARKS = 60  # messages of a lane that are marked one by one


class _Words(NamedTuple):
    """Written on a bar: `text` where it fits, else `short`, else nothing."""

    begin: float
    end: float
    text: str
    short: str


@dataclass
class _Row:
    """One lane to be drawn. `words` are written on the bar, `summary` beside it. A `heading` has only its name."""

    name: str
    spans: list[Span]
    words: list[_Words] = field(default_factory=list)
    lane: Lane | None = None
    summary: str = ""
    heading: bool = False


@collector_paused()
def timeline_figure(timelines: Sequence[Timeline], dark: bool = False) -> Figure:
    """The timelines side by side: one lane a client, each run from its own zero, all with the same scale.

    Bars say what the client or its server waits for; marks say sent and answered. Up to `LABEL_LANES` lanes also carry
    words; above that a strip tells how many waited, and how many were served, at each moment.
    """
    if not timelines:
        raise ValueError("there is no timeline to draw: give at least one")
    rows = [_client_rows(timeline, summaries=len(timelines) == 1) for timeline in timelines]
    return _figure(timelines, rows, dark)


@collector_paused()
def threads_figure(timeline: Timeline, dark: bool = False) -> Figure:
    """One lane a thread: where it waited, and for whom it worked."""
    rows = []
    for label, spans in timeline.thread_spans.items():
        words: list[_Words] = []
        for span in spans:  # who it is with, over all neighbouring stretches of the same client
            said = "waits in accept" if span.state == IN_ACCEPT else f"with {span.client}" if span.client else ""
            if span.state == PAUSED and not span.client:
                said = "paused before accept"
            if words and words[-1].text == said:
                words[-1] = words[-1]._replace(end=span.end)
            else:
                words.append(_Words(span.begin, span.end, said, span.client or "accept"))
        rows.append(_Row(label, spans, words))
    return _figure([timeline], [rows], dark)


@collector_paused()
def stacked_figure(timelines: Sequence[Timeline], dark: bool = False) -> Figure:
    """Several servers on one axis, below one another: what happened at one moment stands at one place."""
    if not timelines:
        raise ValueError("there is no timeline to draw: give at least one")
    rows: list[_Row] = []
    for timeline in timelines:
        rows += [_Row(timeline.server[:TITLE], [], heading=True), *_client_rows(timeline)]
    first, last = min(each.start for each in timelines), max(each.now for each in timelines)
    whole = Timeline("", (), first, last, False, 0, window=timelines[0].window)
    return _figure([whole], [rows], dark)


# -- what there is to draw -------------------------------------------------------------------------------------------


def _client_rows(timeline: Timeline, summaries: bool = True) -> list[_Row]:
    table = timeline.table() if len(timeline.lanes) <= LABEL_LANES else []
    rows = [_Row(lane.name, timeline.spans[lane.name], lane=lane) for lane in timeline.lanes]
    for row, lane, facts in zip(rows, timeline.lanes, table, strict=False):
        row.words = [
            _Words(each.begin, each.end, BACKLOG.words, "waits") for each in row.spans[:2] if each.state == BACKLOG
        ]
        if lane.accepted is not None:
            by = " and ".join(lane.threads).replace("server thread", "the server thread") or "nobody yet"
            begin = max(lane.connected or lane.accepted, lane.accepted)
            end = timeline.now if lane.ended is None else lane.ended
            row.words.append(_Words(begin, end, f"served by {by}", "served"))
        said = [f"waited {_duration(facts['seconds waited'])}"] if facts["seconds waited"] is not None else []
        if lane.accepted is not None:
            said.append(f"served {_duration(facts['seconds served'])}")
        many = facts["messages"]
        moved = f"{many:,} message{'' if many == 1 else 's'}, {facts['bytes sent']:,} B"
        row.summary = f"{', '.join(said)}\n{moved}" if summaries else ""
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
    names = max((len(row.name) for each in rows for row in each if not row.heading), default=0)
    summaries = any(row.summary for each in rows for row in each)
    axis = WIDTH if len(timelines) == 1 else BESIDE
    width = (axis + LETTER * names + (SUMMARY if summaries else 0)) * len(timelines) + MARGIN
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=(DARK if dark else LIGHT)["paper"])
    _draw(figure, timelines, rows, dark, letters=LETTERS * axis / WIDTH)
    return figure


def draw_timelines(figure: Any, timelines: Sequence[Timeline], dark: bool) -> None:
    """Draw them side by side into a figure or a part of one, without what each client's lane comes to."""
    rows = [_client_rows(timeline, summaries=False) for timeline in timelines]
    _draw(figure, timelines, rows, dark, titles=False)


def _draw(
    figure: Any,
    timelines: Sequence[Timeline],
    rows: list[list[_Row]],
    dark: bool,
    titles: bool = True,
    letters: float = LETTERS,
) -> None:
    colours = DARK if dark else LIGHT
    most = max(map(len, rows))
    words = most <= LABEL_LANES
    ratios = (1,) if words else (5, 1)
    grid = figure.subplots(len(ratios), len(timelines), squeeze=False, sharex=True, height_ratios=ratios)
    windows = [
        each.window or (0.0, max(each.now - each.start, 1e-6) if mine else 1.0)
        for each, mine in zip(timelines, rows, strict=True)
    ]
    begin = min(window[0] for window in windows)
    longest = max(window[1] for window in windows) - begin
    scale, unit = (1000.0, "milliseconds") if longest < 2 else (1.0, "seconds")
    for column, (timeline, mine) in enumerate(zip(timelines, rows, strict=True)):
        axis = grid[0][column]
        view = _View(timeline.start, scale, begin, begin + longest * 1.02, letters)
        axis.set_xlim(view.begin * scale, view.end * scale)
        if words:
            _draw_lanes(axis, mine, view, colours, most)
        else:
            _draw_raster(axis, mine, view, colours)
            _draw_counts(grid[1][column], mine, view, colours)
        if not mine:
            nobody = axis.text(0.5, 0.5, "no client came", transform=axis.transAxes, fontsize=17, color=colours["ink"])
            nobody.set(ha="center", va="center")
        if titles and timeline.server:
            title = drawable(timeline.server[:TITLE])
            if timeline.dropped:
                title += f" (the oldest {timeline.dropped:,} events are missing)"
            axis.set_title(title, fontsize=17, fontweight="bold", color=colours["ink"], loc="left", parse_math=False)
        for each in grid[:, column]:
            _furnish(each, colours)
        grid[-1][column].set_xlabel(f"{unit} since the first client came", fontsize=13, color=colours["ink"])
    handles = _legend(rows, longest, colours, words)
    legend = figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=_columns([each.get_label() for each in handles], figure.bbox.width / figure.dpi),
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
    letters: float = LETTERS  # that fit side by side

    def at(self, time: float) -> float:
        return (time - self.start) * self.scale

    def cut(self, begin: float, end: float) -> tuple[float, float] | None:
        """The part of a stretch that is shown, in seconds since `start`."""
        begin, end = max(begin - self.start, self.begin), min(end - self.start, self.end)
        return (begin, end) if end >= begin else None


def drawable(text: str) -> str:
    """`text` with a box for each character that the font lacks: matplotlib would warn of it whenever it draws."""
    fonts = [get_font(findfont(FontProperties(weight=weight))) for weight in ("normal", "bold")]
    return "".join(char if all(font.get_char_index(ord(char)) for font in fonts) else "□" for char in visible(text))


def _columns(labels: list[str], width: float) -> int:
    """In how many columns the legend fits into so many inches."""
    for columns in range(len(labels), 1, -1):
        widest = [max(map(len, each)) for each in np.array_split(labels, columns)]  # as matplotlib does
        if sum(ENTRY * letters + SYMBOL for letters in widest) <= width:
            return columns
    return 1


def _legend(rows: list[list[_Row]], longest: float, colours: dict[str, str], words: bool) -> list[Any]:
    ink, every = colours["ink"], [row for each in rows for row in each]
    clients = any(row.lane is not None for row in every)
    usual = {BACKLOG, IN_RECV, WORKS} if clients or not every else {IN_ACCEPT, IN_RECV, WORKS}
    wide = SEEN * longest
    there = {state for row in every for state, begin, end, _, _ in row.spans if end - begin > wide}
    handles: list[Any] = [
        Patch(facecolor=COLOURS[state], edgecolor=ink, linewidth=0.5, hatch=STRIPES.get(state), label=words)
        for state, words in WORDS.items()
        if state in usual | there
    ]
    if words and any(row.lane and len(row.lane.to_server) <= MARKS for row in every):
        handles += [
            Line2D([], [], marker="v", markersize=10, linestyle="", color=ink, label="client sends"),
            Line2D([], [], marker="^", markersize=10, ls="", mfc="none", mew=2, color=ink, label="server answers"),
        ]
    return handles


def _draw_lanes(axis: Any, rows: list[_Row], view: _View, colours: dict[str, str], most: int) -> None:
    ink = colours["ink"]
    shapes: dict[str, list[Any]] = {state: [] for state in COLOURS}
    sent, back = [], []
    first, last = view.start + view.begin, view.start + view.end
    for number, row in enumerate(rows):
        shown = row.spans
        if shown and (shown[0].begin < first or shown[-1].end > last):
            shown = [span for span in shown if span.end >= first and span.begin <= last]
        if len(shown) > FINE:
            edges = (view.begin * view.scale, view.end * view.scale, number + HALF, number - HALF)
            axis.imshow(_mixed([row], view), extent=edges, aspect="auto", interpolation="nearest", zorder=2)
        else:
            for span in shown:
                state, x0, x1 = _bar(span, view)
                half = HALF / 2 if state == CONNECTING else HALF
                corners = (x0, number - half), (x1, number - half), (x1, number + half), (x0, number + half)
                shapes[state].append(corners)
        if row.lane is not None:
            asked = [event for event in row.lane.to_server if first <= event.began <= last]
            answered = [event for event in row.lane.answers if first <= event.began <= last]
            if len(asked) > MARKS and most <= AIRY:
                said = f"{len(asked):,} messages, too many to mark each"
                axis.text(view.begin * view.scale, number - ABOVE, said, va="center", fontsize=13, color=ink)
            elif len(asked) <= MARKS:
                sent += [(view.at(event.began), number) for event in asked]
                back += [(view.at(event.began), number) for event in answered]
                _quotes(axis, asked, number, view, ink)
        _write_on_bars(axis, row, number, shown, view)
        if row.summary:
            said = row.summary if most <= AIRY else row.summary.partition("\n")[0]
            axis.text(1.01, number, said, transform=axis.get_yaxis_transform(), va="center", fontsize=13, color=ink)
    for state, each in shapes.items():  # one collection a state: a patch for each bar is slow at hundreds of bars
        edge, width = (ink, 1.0) if state in STRIPES else (COLOURS[state], 0.8)  # stripes have the colour of the edge
        bars = PolyCollection(
            each, facecolors=COLOURS[state], edgecolors=edge, linewidths=width, hatch=STRIPES.get(state), zorder=2
        )
        axis.add_collection(bars)
    _marks(axis, sent, "v", ABOVE, ink, ink)
    _marks(axis, back, "^", -ABOVE, "none", ink)
    changes = [(view.at(each.begin), at) for at, row in enumerate(rows) if not row.lane for each in row.words[:FINE]]
    if changes:  # where a thread goes from one client to the next
        xs, ys = np.array(changes).T
        axis.vlines(xs, ys - HALF, ys + HALF, color=colours["paper"], linewidth=2.5, zorder=3)
    names = [drawable(row.name) for row in rows]
    labels = axis.set_yticks(range(len(rows)), names, fontsize=16, color=ink, parse_math=False)
    for label, row in zip(labels, rows, strict=True):
        if row.heading:
            label.label1.set_fontweight("bold")
    axis.set_xlim(view.begin * view.scale, view.end * view.scale)
    axis.set_ylim(max(most, 1) - 0.3, -0.75)


def _bar(span: Span, view: _View) -> tuple[str, float, float]:
    """(state, begin, end) on the axis. A sendall that does not wait is a part of the work."""
    cut = view.cut(span.begin, span.end)
    assert cut is not None  # the caller has asked
    short = span.end - span.begin < (view.end - view.begin) / PIXELS
    return WORKS if span.state == IN_SEND and short else span.state, cut[0] * view.scale, cut[1] * view.scale


def _mixed(rows: list[_Row], view: _View) -> Any:
    """The lanes as a picture, one line each. A pixel has the mean colour of what was in it, by the seconds it took:
    a server that works for a tenth of the time is not drawn as one that works. A pixel with anything in it is full.
    """
    spans = list(itertools.chain.from_iterable(row.spans for row in rows))
    state = {each: number for number, each in enumerate(COLOURS)}
    states = np.fromiter(map(state.__getitem__, map(attrgetter("state"), spans)), int, len(spans))
    begins = np.fromiter(map(attrgetter("begin"), spans), float, len(spans))
    ends = np.fromiter(map(attrgetter("end"), spans), float, len(spans))
    pixel = (view.end - view.begin) / PIXELS
    begins, ends = (np.clip((each - view.start - view.begin) / pixel, 0, PIXELS) for each in (begins, ends))
    states[(states == state[IN_SEND]) & (ends - begins < 1)] = state[WORKS]
    # A stretch fills the pixels from its begin on, less those from its end on; of the pixel that it begins in, a part.
    edge = np.concatenate((begins, ends))
    whole = edge.astype(int)
    sign = np.repeat((1.0, -1.0), len(spans))
    later = sign * (edge - whole)
    place = np.tile(np.repeat(np.arange(len(rows)) * (PIXELS + 2), [len(row.spans) for row in rows]), 2) + whole
    places, weights = np.concatenate((place, place + 1)), np.concatenate((sign - later, later))
    colours = np.array([(1.0, *to_rgb(colour)) for colour in COLOURS.values()])[states]
    sums = np.empty((4, len(rows), PIXELS))  # how full each pixel is, and of how much red, green, blue
    for each, colour in zip(sums, colours.T, strict=True):
        steps = np.bincount(places, weights * np.tile(colour, 4), len(rows) * (PIXELS + 2))
        np.cumsum(steps.reshape(len(rows), -1)[:, :PIXELS], axis=1, out=each)
    full = sums[0] > 1e-9  # more than rounding leaves
    image = np.zeros((len(rows), PIXELS, 4), dtype=np.uint8)
    image[full] = np.clip(sums[:, full] / sums[0, full] * 255 + 0.5, 0, 255)[[1, 2, 3, 0]].T
    return image


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
    edges = (view.begin * view.scale, view.end * view.scale, len(rows) - 0.5, -0.5)
    # More lines than a picture has are not seen, and take 60 kB each while it is drawn.
    seen = [rows[each] for each in np.linspace(0, len(rows) - 1, min(len(rows), LINES)).round().astype(int)]
    axis.imshow(_mixed(seen, view), extent=edges, aspect="auto", interpolation="nearest", zorder=1)
    chosen = sorted({round(each * (len(rows) - 1) / (CHOSEN - 1)) for each in range(CHOSEN)})
    names = [drawable(rows[each].name) for each in chosen]
    axis.set_yticks(chosen, names, fontsize=14, color=colours["ink"], parse_math=False)
    axis.set_ylabel(f"{len(rows):,} lanes, the first on top", fontsize=14, color=colours["ink"])


def _draw_counts(axis: Any, rows: list[_Row], view: _View, colours: dict[str, str]) -> None:
    """How many wait, and how many are being served, at each moment; or how many threads there are."""
    ends: dict[str, list[tuple[float, int]]] = {"wait": [], "served": [], "threads": []}
    for row in rows:
        waits = [span for span in row.spans[:2] if span.state == BACKLOG]  # it connects, and waits, at most once
        served = [span for span in row.spans[:3] if span.state not in (CONNECTING, BACKLOG)]
        if waits:
            ends["wait"] += [(waits[0].begin, 1), (waits[0].end, -1)]
        if served:
            ends["served" if row.lane else "threads"] += [(served[0].begin, 1), (row.spans[-1].end, -1)]
    most = 1
    for words, changes in ends.items():
        if changes:
            changes.sort()
            colour = COLOURS[BACKLOG if words == "wait" else WORKS]
            times = [view.at(time) for time, _ in changes]
            counts = np.cumsum([change for _, change in changes])
            axis.step(times, counts, where="post", color=colour, linewidth=2)
            axis.fill_between(times, counts, step="post", color=colour, alpha=0.25)
            axis.plot([], [], color=colour, linewidth=6, label=words)
            most = max(most, *counts)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=14, frameon=False, labelcolor=colours["ink"])
    axis.set_ylim(0, 1.25 * most)  # the highest number stands below the last lane's name
    axis.set_yticks((0, most), ("0", f"{most:,}"), fontsize=14)
    axis.set_ylabel("how many", fontsize=14, color=colours["ink"])


def _furnish(axis: Any, colours: dict[str, str]) -> None:
    axis.set_facecolor(colours["paper"])
    axis.tick_params(axis="both", colors=colours["ink"])
    axis.tick_params(axis="x", labelsize=13)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=colours["faint"], linewidth=0.8, zorder=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colours["ink"])


def _write_on_bars(axis: Any, row: _Row, number: int, shown: list[Span], view: _View) -> None:
    """What each long enough stretch is, written on its longest part, in the colour of that part."""
    letters = view.letters * BOLD / (view.end - view.begin)  # that fit into a second
    for begin, end, text, short in row.words:
        cut = view.cut(begin, end)
        said = next((each for each in (text, short) if each and cut and (cut[1] - cut[0]) * letters > len(each)), "")
        if cut is None or not said:
            continue
        inside = [span for span in shown if span.begin < end and span.end > begin] if len(shown) <= FINE else []
        parts = [(view.cut(span.begin, span.end) or cut, span.state) for span in inside]
        part, state = max(parts, key=lambda each: each[0][1] - each[0][0], default=(cut, IN_RECV))
        if (part[1] - part[0]) * letters < len(said):
            part = cut
        axis.text(
            (part[0] + part[1]) / 2 * view.scale,
            number,
            drawable(said),
            ha="center",
            va="center",
            fontsize=13,
            fontweight="bold",
            color=ON_DARK if state in DARK_BARS else ON_LIGHT,
            bbox={"facecolor": COLOURS[state], "edgecolor": "none", "pad": 2},
            zorder=5,
            clip_on=True,
            parse_math=False,
        )


def _quotes(axis: Any, messages: Sequence[SocketEvent], row: int, view: _View, ink: str) -> None:
    """What was sent, beside its mark, as far as it fits before the next mark."""
    places = [view.at(event.began) for event in messages]
    end = view.end * view.scale
    letters = view.letters / ((view.end - view.begin) * view.scale)  # how many fit into one unit of the axis
    free_from = float("-inf")
    for event, x, after in zip(messages, places, [*places, float("inf")][1:], strict=True):
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


@collector_paused()
def png(figure: Figure, dpi: int = 160) -> tuple[str, int, int]:
    """The figure as base64 text, and the width and height, in CSS pixels, at which a page should show it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": 3})  # 6 takes longer for 1/5 less
    width, height = figure.get_size_inches() * 80
    return base64.b64encode(buffer.getvalue()).decode("ascii"), round(width), round(height)
