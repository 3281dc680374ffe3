"""Draws timelines with matplotlib, and nothing else. Never through pyplot: its state is not safe between threads."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path

from ..watch.events import SocketEvent
from ..watch.patches import collector_paused
from ..watch.text import counted, cut, listed
from .draw_text import TEXT, drawable, say, told_apart
from .lane import Lane, Span
from .states import BACKLOG, IN_ACCEPT, IN_RECV, PAUSED, STATES, USUAL, WORKS, State
from .story import quote
from .timeline import Timeline

LIGHT = {"paper": "#FFFFFF", "ink": "#1A1A1A", "faint": "#D5D5D5"}
DARK = {"paper": "#1E1E1E", "ink": "#F2F2F2", "faint": "#4A4A4A"}
ON_LIGHT, ON_DARK = "#1A1A1A", "#FFFFFF"  # words on bars
HATCHES = {"": None, "/": "///", "x": "xxx", ".": ".."}  # more of the same sign: matplotlib draws them closer
LABEL_LANES = 24  # up to so many lanes have room for words
AIRY = 14  # and up to so many for two lines of them
INCHES_A_LANE = 0.85
WIDTH, BESIDE = 7.2, 5.2  # inches of a timeline, and of one of several: a page is only so wide
LETTERS = 60  # of a message that fit side by side into an axis of `WIDTH`
HALF, ABOVE = 0.2, 0.35  # of a lane: half a bar, and how far above or below its middle the marks are
TITLE = 40  # characters of a server's name
LINES = 1500  # lanes that are drawn: a picture has no more lines of pixels for them
PIXELS = 1000  # across a timeline
CHOSEN = 12  # lanes that are named where there is no room for all the names
FINE = 300  # stretches of a lane that are drawn as they are; more of them are merged into pixels
MARKS = 60  # messages of a lane that are marked one by one
RECTANGLE = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]


@dataclass
class _Row:
    """One lane to be drawn.

    words    (begin, end, text, short): what is written on the bar, `short` where there is no room for `text`
    summary  two lines that stand beside it
    """

    name: str
    spans: list[Span]
    words: list[tuple[float, float, str, str]] = field(default_factory=list)
    lane: Lane | None = None
    summary: str = ""


@dataclass
class _Panel:
    """One axis of the picture: its lanes, and from when on it shows how many seconds."""

    title: str
    start: float
    seconds: float
    rows: list[_Row]


def timeline_figure(timelines: Sequence[Timeline], dark: bool = False) -> Figure:
    """The timelines side by side: one lane for each client, each run from its own zero, all with the same scale.

    Bars say what the client or its server waits for; marks say sent and answered. More than `LABEL_LANES` lanes are
    thinner and have neither marks nor words; some of them are named.
    """
    return _figure([_panel(each, _client_rows(each, summaries=len(timelines) == 1)) for each in timelines], dark)


def threads_figure(timeline: Timeline, dark: bool = False) -> Figure:
    """One lane for each thread: where it waited, and for whom it worked."""
    names = told_apart(timeline.thread_spans)
    rows = [_Row(name, spans) for name, spans in zip(names, timeline.thread_spans.values(), strict=True)]
    for row in rows if len(rows) <= LABEL_LANES else ():
        for said, group in itertools.groupby(row.spans, _doing):
            spans = list(group)
            row.words.append((spans[0].begin, spans[-1].end, said, spans[0].client or "accept"))
    return _figure([_panel(timeline, rows)], dark)


def draw_timelines(figure: Any, timelines: Sequence[Timeline], dark: bool) -> None:
    """Draw them side by side into a figure or a part of one, without titles and without what each lane comes to."""
    _draw(figure, [replace(_panel(each, _client_rows(each, summaries=False)), title="") for each in timelines], dark)


# -- what there is to draw -------------------------------------------------------------------------------------------


def _panel(timeline: Timeline, rows: list[_Row]) -> _Panel:
    missing = f" (the oldest {timeline.dropped:,} events are missing)" if timeline.dropped else ""
    title = drawable(timeline.server[:TITLE]) + missing
    return _Panel(title, timeline.start, timeline.now - timeline.start if rows else 1.0, rows)


def _client_rows(timeline: Timeline, summaries: bool = True) -> list[_Row]:
    names = told_apart(lane.name for lane in timeline.lanes)
    rows = [_Row(name, timeline.spans[lane.name], lane=lane) for name, lane in zip(names, timeline.lanes, strict=True)]
    if len(rows) > LABEL_LANES:
        return rows
    for row, lane, facts in zip(rows, timeline.lanes, timeline.table(), strict=True):
        waits = [each for each in row.spans[:2] if each.state is BACKLOG]
        row.words = [(each.begin, each.end, BACKLOG.words, "waits") for each in waits]
        said = [f"waited {_duration(facts['seconds waited'])}"] if facts["seconds waited"] is not None else []
        if lane.accepted is not None:
            by = listed(lane.threads).replace("server thread", "the server thread") or "nobody yet"
            begin = max(lane.connected or lane.accepted, lane.accepted)
            end = timeline.now if lane.ended is None else lane.ended
            row.words.append((begin, end, f"served by {by}", "served"))
            said.append(f"served {_duration(facts['seconds served'])}")
        if summaries:
            row.summary = f"{', '.join(said)}\n{counted(facts['messages'], 'message')}, {facts['bytes sent']:,} B"
    return rows


def _doing(span: Span) -> str:
    """What is written on a stretch of a thread; neighbours of which the same is said have it once."""
    if span.state is IN_ACCEPT:
        return "waits in accept"
    return f"with {span.client}" if span.client else "paused before accept" if span.state is PAUSED else ""


def _duration(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2g} {unit}" if seconds * factor < 100 else f"{seconds * factor:,.0f} {unit}"
    return f"{seconds * 1e6:.0f} µs" if seconds > 0 else "0 s"


# -- the picture -----------------------------------------------------------------------------------------------------


def _figure(panels: list[_Panel], dark: bool) -> Figure:
    if not panels:
        raise ValueError("there is no timeline to draw: give at least one")
    rows = [row for panel in panels for row in panel.rows]
    axis = WIDTH if len(panels) == 1 else BESIDE
    names = 0.14 * max((len(row.name) for row in rows), default=0)
    summaries = 2.9 if any(row.summary for row in rows) else 0
    height = min(11, 1.9 + INCHES_A_LANE * max(1, *(len(panel.rows) for panel in panels)))
    size, paper = ((axis + names + summaries) * len(panels) + 0.6, height), (DARK if dark else LIGHT)["paper"]
    figure = Figure(figsize=size, layout="constrained", facecolor=paper)
    _draw(figure, panels, dark, LETTERS * axis / WIDTH)
    return figure


@collector_paused()
def _draw(figure: Any, panels: list[_Panel], dark: bool, letters: float = LETTERS) -> None:
    colours = DARK if dark else LIGHT
    ink, most = colours["ink"], max(len(panel.rows) for panel in panels)
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
    longest = max(1e-6, *(panel.seconds for panel in panels))
    scale, unit = (1000.0, "milliseconds") if longest < 2 else (1.0, "seconds")
    width, wide = longest * 1.02 * scale, set[State]()
    for axis, panel in zip(axes, panels, strict=True):
        axis.set_xlim(0, width)
        wide |= _draw_lanes(axis, panel.rows, _View(panel.start, scale, width, letters / width, colours, most))
        if not panel.rows:
            say(axis, 0.5, 0.5, "no client came", ink, size=17, ha="center", transform=axis.transAxes)
        axis.set_title(panel.title, fontsize=17, fontweight="bold", color=ink, loc="left", parse_math=False)
        axis.set_xlabel(f"{unit} since the first client came", fontsize=13, color=ink)
        axis.set_facecolor(colours["paper"])
        axis.tick_params(axis="x", colors=ink, labelsize=13)
        axis.tick_params(axis="y", colors=ink, length=0)
        axis.grid(axis="x", color=colours["faint"], linewidth=0.8, zorder=0)
        axis.spines[["left", "right", "top"]].set_visible(False)
        axis.spines["bottom"].set_color(ink)
    handles = _legend([row for panel in panels for row in panel.rows], wide, ink, most <= LABEL_LANES)
    columns = _columns([each.get_label() for each in handles], figure.bbox.width / figure.dpi)
    style = {"fontsize": 13, "frameon": False, "handlelength": 1.6, "handletextpad": 0.5, "columnspacing": 1.4}
    for text in figure.legend(handles=handles, loc="outside upper center", ncols=columns, **style).get_texts():
        text.set_color(ink)


def _legend(rows: list[_Row], wide: set[State], ink: str, words: bool) -> list[Any]:
    clients = not rows or any(row.lane is not None for row in rows)
    handles: list[Any] = []
    for state in STATES:
        if state in wide or state in (USUAL if clients else (IN_ACCEPT, IN_RECV, WORKS)):
            said, hatch = state.legend, HATCHES[state.hatch]
            handles.append(Patch(facecolor=state.colour, edgecolor=ink, linewidth=0.5, hatch=hatch, label=said))
    if words and any(row.lane and len(row.lane.to_server) <= MARKS for row in rows):
        handles += [
            Line2D([], [], marker="v", markersize=10, linestyle="", color=ink, label="client sends"),
            Line2D([], [], marker="^", markersize=10, ls="", mfc="none", mew=2, color=ink, label="server answers"),
        ]
    return handles


def _columns(labels: list[str], width: float) -> int:
    """In how many columns the legend fits into so many inches: 0.102 a letter, and 0.62 for what stands before it."""
    for columns in range(len(labels), 1, -1):
        size, more = divmod(len(labels), columns)  # as matplotlib does: the first columns have one more
        starts = [size * each + min(each, more) for each in range(columns + 1)]
        widest = [max(map(len, labels[begin:end])) for begin, end in itertools.pairwise(starts)]
        if sum(0.102 * letters + 0.62 for letters in widest) <= width:
            return columns
    return 1


# -- lanes -----------------------------------------------------------------------------------------------------------


_Bar = tuple[State, float, float, float, float]


class _View(NamedTuple):
    """How an axis shows its lanes: from `start` on, in units of 1 / `scale` seconds, of which it has `width`."""

    start: float
    scale: float
    width: float
    letters: float  # that fit into one unit
    colours: dict[str, str]
    most: int  # lanes of an axis of this picture

    def at(self, time: float) -> float:
        return (time - self.start) * self.scale


def _draw_lanes(axis: Any, rows: list[_Row], view: _View) -> set[State]:
    """The states that are wide enough to be looked up in the legend."""
    words, ink = view.most <= LABEL_LANES, view.colours["ink"]
    lanes = f"{LINES:,} of " * (len(rows) > LINES) + f"{counted(len(rows), 'lane')}"
    rows = _evenly(rows, LINES)
    wide = _draw_bars(axis, rows, view, HALF if words else 0.4 if len(rows) <= 100 else 0.5)
    named: Sequence[int] = range(len(rows))
    if words:
        for number, row in enumerate(rows):
            _draw_marks(axis, row, number, view)
            _write_on_bars(axis, row, number, view)
        axis.set_ylim(max(view.most, 1) - 0.3, -0.75)
    else:
        named = _evenly(named, CHOSEN)
        axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axis.set_ylabel(f"{lanes}, the first on top", fontsize=14, color=ink)
    names, size = [rows[each].name for each in named], 16 if words else 14
    axis.set_yticks(named, names, fontsize=size, color=ink, parse_math=False)
    return wide


def _evenly(items: Sequence[Any], most: int) -> Any:
    """The first, the last, and of those between so many that there are `most`."""
    steps = (round(each * (len(items) - 1) / (most - 1)) for each in range(most))
    return items if len(items) <= most else [items[step] for step in steps]


def _draw_bars(axis: Any, rows: list[_Row], view: _View, half: float) -> set[State]:
    """One collection for each state, in it one path for each lane: many small objects would take long to draw."""
    corners: defaultdict[State, defaultdict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    words, wide = view.most <= LABEL_LANES, set()
    for number, row in enumerate(rows):
        dense, area = len(row.spans) > FINE, defaultdict[State, float](float)
        for state, begin, end, top, bottom in (_merged if dense else _stretches)(row.spans, view):
            tall = half / 2 if state.thin else half
            low, high = number - tall + 2 * tall * top, number - tall + 2 * tall * bottom
            corners[state][number] += ((begin, low), (end, low), (end, high), (begin, high), (begin, low))
            area[state] = (end - begin) * (bottom - top) + (area[state] if dense else 0)
            if area[state] > 0.004 * view.width:
                wide.add(state)
    for state in (each for each in STATES if each in corners):
        edge, thick = (view.colours["ink"], 1.0) if state.hatch else (state.colour, 0.8)  # its hatch, too
        lanes = corners[state]
        outlines = [thick if words and len(rows[number].spans) <= FINE else 0 for number in lanes]
        hatch = HATCHES[state.hatch] if words else None
        bars = PolyCollection([], facecolors=state.colour, edgecolors=edge, linewidths=outlines, hatch=hatch, zorder=2)
        codes: list[Any] = [RECTANGLE * (len(each) // len(RECTANGLE)) for each in lanes.values()]
        bars.set_verts_and_codes(list(lanes.values()), codes)
        axis.add_collection(bars, autolim=False)
    return wide


def _stretches(spans: list[Span], view: _View) -> Iterator[_Bar]:
    """(state, begin, end, top, bottom): on the axis, and in parts of the bar."""
    start, scale = view.start, view.scale
    for state, begin, end, _, _ in spans:
        yield state, (begin - start) * scale, (end - start) * scale, 0.0, 1.0


def _merged(spans: list[Span], view: _View) -> Iterator[_Bar]:
    """The same of a lane with more stretches than can be seen: in each pixel its states, one above the other.

    Each is as tall as the part of the time that it took: a server that works for a tenth of the time is drawn neither
    as one that always works nor as one that never does.
    """
    width = view.width / PIXELS
    taken: defaultdict[int, defaultdict[State, float]] = defaultdict(lambda: defaultdict(float))
    for state, begin, end, *_ in _stretches(spans, view):
        begin, end = begin / width, end / width
        for pixel in range(int(begin), math.ceil(end)):
            taken[pixel][state] += min(end, pixel + 1) - max(begin, pixel)
    alone: list[Any] = [None, 0.0, 0.0, 0.0, 1.0]  # a bar of pixels that have one state only
    for pixel, parts in sorted(taken.items()):
        if alone[0] is not None and (len(parts) > 1 or alone[0] not in parts or alone[2] != pixel * width):
            yield tuple(alone)
            alone[0] = None
        if len(parts) == 1:
            alone[:3] = [*parts, pixel * width if alone[0] is None else alone[1], (pixel + 1) * width]
            continue
        whole, top = sum(parts.values()), 0.0
        for state in (each for each in STATES if each in parts):
            bottom = top + parts[state] / whole
            yield state, pixel * width, (pixel + 1) * width, top, bottom
            top = bottom
    if alone[0] is not None:
        yield tuple(alone)


def _draw_marks(axis: Any, row: _Row, number: int, view: _View) -> None:
    """When each client sent and was answered, with what it sent; and where a thread goes from one to the next."""
    ink, paper = view.colours["ink"], view.colours["paper"]
    if row.lane is None:
        changes = [view.at(begin) for begin, *_ in row.words[:FINE]]
        axis.vlines(changes, number - HALF, number + HALF, color=paper, linewidth=2.5, zorder=3)
    elif len(row.lane.to_server) <= MARKS:
        style = {"s": 90, "edgecolors": ink, "linewidths": 2, "zorder": 4, "clip_on": False}
        asked, answered = ([view.at(each.began) for each in both] for both in (row.lane.to_server, row.lane.answers))
        axis.scatter(asked, [number - ABOVE] * len(asked), marker="v", facecolors=ink, **style)
        axis.scatter(answered, [number + ABOVE] * len(answered), marker="^", facecolors="none", **style)
        _quotes(axis, row.lane.to_server, number, view)
    elif view.most <= AIRY:
        say(axis, 0, number - ABOVE, f"{len(row.lane.to_server):,} messages, too many to mark each", ink)


def _write_on_bars(axis: Any, row: _Row, number: int, view: _View) -> None:
    """What each long enough stretch is, written on its longest part, in the colour of that part; and the summary."""
    letters = view.letters * view.scale * 0.95  # bold ones that fit into a second
    fine = row.spans if len(row.spans) <= FINE else []
    for begin, end, text, short in row.words:
        said = next((each for each in (text, short) if each and (end - begin) * letters > len(each)), "")
        if not said:
            continue
        parts = [(max(each.begin, begin), min(each.end, end), each.state) for each in fine]
        first, last, state = max(parts, key=lambda each: each[1] - each[0], default=(begin, end, IN_RECV))
        if (last - first) * letters < len(said):
            first, last = begin, end
        style = {"bbox": {"facecolor": state.colour, "edgecolor": "none", "pad": 2}, "zorder": 5, "clip_on": True}
        ink, middle = ON_DARK if state.dark else ON_LIGHT, view.at((first + last) / 2)
        say(axis, middle, number, said, ink, ha="center", weight="bold", **style)
    if row.summary:
        lines = row.summary if view.most <= AIRY else row.summary.partition("\n")[0]
        axis.text(1.01, number, lines, color=view.colours["ink"], transform=axis.get_yaxis_transform(), **TEXT)


def _quotes(axis: Any, messages: Sequence[SocketEvent], row: int, view: _View) -> None:
    """What was sent, beside its mark, as far as it fits before the next mark."""
    places = [view.at(event.began) for event in messages]
    free_from = float("-inf")
    for event, x, after in zip(messages, places, [*places, view.width][1:], strict=True):
        text = drawable(quote(event).split('" (')[0].strip('"'))
        room, before = (after - x) * view.letters - 3, (x - free_from) * view.letters - 4
        left = room < min(len(text), 6) and before > len(text)  # before its mark there is more room
        room = before if left else room
        free_from = max(free_from, x)
        if room < min(len(text), 3) or x < free_from:
            continue
        shown = cut(text, int(min(room, len(text))))
        style = TEXT | {"color": view.colours["ink"], "zorder": 5, "ha": "right" if left else "left"}
        axis.annotate(shown, (x, row - ABOVE), (-9 if left else 9, 0), textcoords="offset points", **style)
        if not left:
            free_from = x + (len(shown) + 3) / view.letters
