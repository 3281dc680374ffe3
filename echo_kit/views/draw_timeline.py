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
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path

from ..watch.events import SocketEvent
from ..watch.patches import collector_paused
from ..watch.text import counted, cut, listed, visible
from .lane import Lane, Span
from .states import BACKLOG, IN_ACCEPT, IN_RECV, IN_SEND, PAUSED, STATES, USUAL, WORKS, State
from .story import quote
from .timeline import Timeline

LIGHT = {"paper": "#FFFFFF", "ink": "#1A1A1A", "faint": "#D5D5D5"}
DARK = {"paper": "#1E1E1E", "ink": "#F2F2F2", "faint": "#4A4A4A"}
ON_LIGHT, ON_DARK = "#1A1A1A", "#FFFFFF"  # words on bars
HATCHES = {"": None, "/": "///", "x": "xxx", ".": ".."}  # more of the same sign: matplotlib draws them closer
LABEL_LANES = 24  # up to so many lanes have room for words
INCHES_A_LANE = 0.85
WIDTH, BESIDE = 7.2, 5.2  # inches of a timeline, and of one of several: a page is only so wide
SUMMARY, MARGIN = 2.9, 0.6  # inches of what its lanes come to, and of what stands around
LETTERS, BOLD = 60, 57  # of a message, and of words on bars, that fit side by side into an axis of `WIDTH`
LETTER = 0.14  # inches of a letter of a lane's name, which widens the picture
ENTRY, SYMBOL = 0.102, 0.62  # inches of a letter in the legend, and of what stands before the words
HALF, ABOVE = 0.2, 0.35  # of a lane: half a bar, and how far above or below its middle the marks are
TITLE = 40  # characters of a server's name
LARGEST = 11.0  # inches, for any number of lanes
LINES = 1500  # lanes that are drawn: a picture has no more lines of pixels for them
PIXELS = 1000  # across a timeline
CHOSEN = 12  # lanes that are named where there is no room for all the names
SEEN = 0.004  # of the width: a stretch as wide as that needs a word in the legend
FINE = 300  # stretches of a lane that are drawn as they are; more of them are merged into pixels
AIRY = 14  # up to so many lanes have room for two lines of text
MARKS = 60  # messages of a lane that are marked one by one
RECTANGLE = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]


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


@dataclass
class _Panel:
    """One axis of the picture: its lanes, and from when on it shows how many seconds."""

    title: str
    start: float
    seconds: float
    rows: list[_Row]


@collector_paused()
def timeline_figure(timelines: Sequence[Timeline], dark: bool = False) -> Figure:
    """The timelines side by side: one lane for each client, each run from its own zero, all with the same scale.

    Bars say what the client or its server waits for; marks say sent and answered. More than `LABEL_LANES` lanes are
    thinner and have neither marks nor words; some of them are named.
    """
    return _figure([_panel(each, _client_rows(each, summaries=len(timelines) == 1)) for each in timelines], dark)


@collector_paused()
def threads_figure(timeline: Timeline, dark: bool = False) -> Figure:
    """One lane for each thread: where it waited, and for whom it worked."""
    rows = [_Row(label, spans) for label, spans in timeline.thread_spans.items()]
    for row in rows if len(rows) <= LABEL_LANES else ():
        for span in row.spans:  # who it is with, over all neighbouring stretches of the same client
            said = "waits in accept" if span.state == IN_ACCEPT else f"with {span.client}" if span.client else ""
            if span.state == PAUSED and not span.client:
                said = "paused before accept"
            if row.words and row.words[-1].text == said:
                row.words[-1] = row.words[-1]._replace(end=span.end)
            else:
                row.words.append(_Words(span.begin, span.end, said, span.client or "accept"))
    return _figure([_panel(timeline, rows)], dark)


@collector_paused()
def stacked_figure(timelines: Sequence[Timeline], dark: bool = False) -> Figure:
    """Several servers on one axis, below one another: what happened at one moment stands at one place."""
    rows: list[_Row] = []
    for timeline in timelines:
        rows += [_Row(timeline.server[:TITLE], [], heading=True), *_client_rows(timeline)]
    start = min((each.start for each in timelines), default=0.0)
    panel = _Panel("", start, max((each.now - start for each in timelines), default=0.0), rows)
    return _figure([panel] if timelines else [], dark)


def draw_timelines(figure: Any, timelines: Sequence[Timeline], dark: bool) -> None:
    """Draw them side by side into a figure or a part of one, without titles and without what each lane comes to."""
    panels = [_panel(each, _client_rows(each, summaries=False)) for each in timelines]
    _draw(figure, [replace(panel, title="") for panel in panels], dark)


# -- what there is to draw -------------------------------------------------------------------------------------------


def _panel(timeline: Timeline, rows: list[_Row]) -> _Panel:
    title = drawable(timeline.server[:TITLE])
    if timeline.dropped and title:
        title += f" (the oldest {timeline.dropped:,} events are missing)"
    return _Panel(title, timeline.start, timeline.now - timeline.start if rows else 1.0, rows)


def _client_rows(timeline: Timeline, summaries: bool = True) -> list[_Row]:
    rows = [_Row(lane.name, timeline.spans[lane.name], lane=lane) for lane in timeline.lanes]
    if len(rows) > LABEL_LANES:
        return rows
    for row, lane, facts in zip(rows, timeline.lanes, timeline.table(), strict=True):
        waits = [each for each in row.spans[:2] if each.state == BACKLOG]
        row.words = [_Words(each.begin, each.end, BACKLOG.words, "waits") for each in waits]
        said = [f"waited {_duration(facts['seconds waited'])}"] if facts["seconds waited"] is not None else []
        if lane.accepted is not None:
            by = listed(lane.threads).replace("server thread", "the server thread") or "nobody yet"
            begin = max(lane.connected or lane.accepted, lane.accepted)
            end = timeline.now if lane.ended is None else lane.ended
            row.words.append(_Words(begin, end, f"served by {by}", "served"))
            said.append(f"served {_duration(facts['seconds served'])}")
        if summaries:
            row.summary = f"{', '.join(said)}\n{counted(facts['messages'], 'message')}, {facts['bytes sent']:,} B"
    return rows


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
    height = min(LARGEST, 1.9 + INCHES_A_LANE * max(1, *(len(panel.rows) for panel in panels)))
    names = max((len(row.name) for row in rows if not row.heading), default=0)
    axis = WIDTH if len(panels) == 1 else BESIDE
    width = (axis + LETTER * names + (SUMMARY if any(row.summary for row in rows) else 0)) * len(panels) + MARGIN
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=(DARK if dark else LIGHT)["paper"])
    _draw(figure, panels, dark, LETTERS * axis / WIDTH)
    return figure


def _draw(figure: Any, panels: list[_Panel], dark: bool, letters: float = LETTERS) -> None:
    colours = DARK if dark else LIGHT
    ink, most = colours["ink"], max(len(panel.rows) for panel in panels)
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
    longest = max(1e-6, *(panel.seconds for panel in panels))
    scale, unit = (1000.0, "milliseconds") if longest < 2 else (1.0, "seconds")
    wide: set[State] = set()
    for axis, panel in zip(axes, panels, strict=True):
        view = _View(panel.start, longest * 1.02, scale, letters, ink, colours["paper"], most)
        axis.set_xlim(0, view.seconds * scale)
        wide |= _draw_lanes(axis, panel.rows, view)
        if not panel.rows:
            place = {"transform": axis.transAxes, "ha": "center", "va": "center"}
            axis.text(0.5, 0.5, "no client came", fontsize=17, color=ink, **place)
        axis.set_title(panel.title, fontsize=17, fontweight="bold", color=ink, loc="left", parse_math=False)
        axis.set_xlabel(f"{unit} since the first client came", fontsize=13, color=ink)
        axis.set_facecolor(colours["paper"])
        axis.tick_params(axis="x", colors=ink, labelsize=13)
        axis.tick_params(axis="y", colors=ink, length=0)
        axis.grid(axis="x", color=colours["faint"], linewidth=0.8, zorder=0)
        for side, spine in axis.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(ink)
    rows = [row for panel in panels for row in panel.rows]
    handles = _legend(rows, wide, ink, most <= LABEL_LANES)
    columns = _columns([each.get_label() for each in handles], figure.bbox.width / figure.dpi)
    style = {"fontsize": 13, "frameon": False, "handlelength": 1.6, "handletextpad": 0.5, "columnspacing": 1.4}
    for text in figure.legend(handles=handles, loc="outside upper center", ncols=columns, **style).get_texts():
        text.set_color(ink)


def _legend(rows: list[_Row], wide: set[State], ink: str, words: bool) -> list[Any]:
    clients = not rows or any(row.lane is not None for row in rows)
    there = wide | {*(USUAL if clients else (IN_ACCEPT, IN_RECV, WORKS))}
    handles: list[Any] = []
    for each in (each for each in STATES if each in there):
        hatch = HATCHES[each.hatch]
        handles.append(Patch(facecolor=each.colour, edgecolor=ink, linewidth=0.5, hatch=hatch, label=each.legend))
    if words and any(row.lane and len(row.lane.to_server) <= MARKS for row in rows):
        handles += [
            Line2D([], [], marker="v", markersize=10, linestyle="", color=ink, label="client sends"),
            Line2D([], [], marker="^", markersize=10, ls="", mfc="none", mew=2, color=ink, label="server answers"),
        ]
    return handles


def _columns(labels: list[str], width: float) -> int:
    """In how many columns the legend fits into so many inches."""
    for columns in range(len(labels), 1, -1):
        size, more = divmod(len(labels), columns)  # as matplotlib does: the first columns have one more
        starts = [size * each + min(each, more) for each in range(columns + 1)]
        widest = [max(map(len, labels[begin:end])) for begin, end in itertools.pairwise(starts)]
        if sum(ENTRY * letters + SYMBOL for letters in widest) <= width:
            return columns
    return 1


def drawable(text: str) -> str:
    """`text` with a box for each character that the font lacks: matplotlib would warn of it whenever it draws."""
    fonts = [get_font(findfont(FontProperties(weight=weight))) for weight in ("normal", "bold")]
    return "".join(char if all(font.get_char_index(ord(char)) for font in fonts) else "□" for char in visible(text))


# -- lanes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """How an axis shows its lanes: from `start` on `seconds`, which stand on it in units of 1 / `scale` seconds."""

    start: float
    seconds: float
    scale: float
    letters: float  # that fit side by side
    ink: str
    paper: str
    most: int  # lanes of an axis of this picture

    def at(self, time: float) -> float:
        return (time - self.start) * self.scale


def _draw_lanes(axis: Any, rows: list[_Row], view: _View) -> set[State]:
    """The states that are wide enough to be looked up in the legend."""
    words = view.most <= LABEL_LANES
    lanes = f"{LINES:,} of " * (len(rows) > LINES) + f"{counted(len(rows), 'lane')}"
    rows = _evenly(rows, LINES)
    wide = _draw_bars(axis, rows, view, HALF if words else 0.4 if len(rows) <= 100 else 0.5)
    if words:
        _draw_marks(axis, rows, view)
        for number, row in enumerate(rows):
            _write_on_bars(axis, row, number, view)
            if row.summary:
                said = row.summary if view.most <= AIRY else row.summary.partition("\n")[0]
                place = {"transform": axis.get_yaxis_transform(), "va": "center"}
                axis.text(1.01, number, said, fontsize=13, color=view.ink, **place)
        axis.set_ylim(max(view.most, 1) - 0.3, -0.75)
        named = range(len(rows))
    else:
        axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axis.set_ylabel(f"{lanes}, the first on top", fontsize=14, color=view.ink)
        named = _evenly(range(len(rows)), CHOSEN)
    names, size = [drawable(rows[each].name) for each in named], 16 if words else 14
    ticks = axis.set_yticks(named, names, fontsize=size, color=view.ink, parse_math=False)
    for tick, each in zip(ticks, named, strict=True):
        tick.label1.set_fontweight("bold" if rows[each].heading else "normal")
    return wide


def _evenly(items: Sequence[Any], most: int) -> Any:
    """The first, the last, and of those between so many that there are `most`."""
    if len(items) <= most:
        return items
    return [items[round(each * (len(items) - 1) / (most - 1))] for each in range(most)]


def _draw_bars(axis: Any, rows: list[_Row], view: _View, half: float) -> set[State]:
    """One collection for each state, in it one path for each lane: many small objects would take long to draw."""
    shapes: defaultdict[State, list[Any]] = defaultdict(list)
    words, wide = view.most <= LABEL_LANES, set()
    for number, row in enumerate(rows):
        merged = len(row.spans) > FINE
        corners: defaultdict[State, list[Any]] = defaultdict(list)
        for state, begin, end in _merged(row.spans, view) if merged else _stretches(row.spans, view):
            low, high = (number - half / 2, number + half / 2) if state.thin else (number - half, number + half)
            corners[state] += ((begin, low), (end, low), (end, high), (begin, high), (begin, low))
            if end - begin > SEEN * view.seconds * view.scale:
                wide.add(state)
        for state, each in corners.items():
            shapes[state].append((each, RECTANGLE * (len(each) // len(RECTANGLE)), words and not merged))
    for state in (each for each in STATES if each in shapes):
        edge, width = (view.ink, 1.0) if state.hatch else (state.colour, 0.8)  # a hatch has the colour of the edge
        paths, codes, outlined = zip(*shapes[state], strict=True)
        bars = PolyCollection([], facecolors=state.colour, edgecolors=edge, zorder=2)
        bars.set(linewidths=[width * each for each in outlined], hatch=HATCHES[state.hatch] if words else None)
        bars.set_verts_and_codes(paths, codes)
        axis.add_collection(bars, autolim=False)
    return wide


def _stretches(spans: list[Span], view: _View) -> Iterator[tuple[State, float, float]]:
    """(state, begin, end) on the axis. A sendall that does not wait is a part of the work."""
    start, scale, short = view.start, view.scale, view.seconds / PIXELS
    for state, begin, end, _, _ in spans:
        works = state is IN_SEND and end - begin < short
        yield WORKS if works else state, (begin - start) * scale, (end - start) * scale


def _merged(spans: list[Span], view: _View) -> list[tuple[State, float, float]]:
    """The same of a lane with more stretches than can be seen: at most one for each pixel.

    A pixel gets the state that took most of its time: a server that works for a tenth of the time is not drawn as one
    that works all the time, only because each of its pixels has some work in it.
    """
    width = view.seconds * view.scale / PIXELS
    taken: dict[int, dict[State, float]] = {}
    for state, begin, end in _stretches(spans, view):
        begin, end = begin / width, end / width
        for pixel in range(int(begin), math.ceil(end)):
            parts = taken.setdefault(pixel, {})
            parts[state] = parts.get(state, 0.0) + min(end, pixel + 1) - max(begin, pixel)
    found: list[tuple[State, int, int]] = []
    for pixel, parts in sorted(taken.items()):
        most = max(parts, key=parts.__getitem__)
        goes_on = found and found[-1][0] is most and found[-1][2] == pixel
        found.append((most, found.pop()[1] if goes_on else pixel, pixel + 1))
    return [(state, begin * width, end * width) for state, begin, end in found]


def _draw_marks(axis: Any, rows: list[_Row], view: _View) -> None:
    """When each client sent and was answered, with what it sent; and where a thread goes from one to the next."""
    for number, row in enumerate(rows):
        if row.lane is None:
            changes = [view.at(each.begin) for each in row.words[:FINE]]
            axis.vlines(changes, number - HALF, number + HALF, color=view.paper, linewidth=2.5, zorder=3)
        elif len(row.lane.to_server) <= MARKS:
            asked, answered = (
                [view.at(each.began) for each in both] for both in (row.lane.to_server, row.lane.answers)
            )
            style = {"s": 90, "edgecolors": view.ink, "linewidths": 2, "zorder": 4, "clip_on": False}
            axis.scatter(asked, [number - ABOVE] * len(asked), marker="v", facecolors=view.ink, **style)
            axis.scatter(answered, [number + ABOVE] * len(answered), marker="^", facecolors="none", **style)
            _quotes(axis, row.lane.to_server, number, view)
        elif view.most <= AIRY:
            said = f"{len(row.lane.to_server):,} messages, too many to mark each"
            axis.text(0, number - ABOVE, said, va="center", fontsize=13, color=view.ink)


def _write_on_bars(axis: Any, row: _Row, number: int, view: _View) -> None:
    """What each long enough stretch is, written on its longest part, in the colour of that part."""
    letters = view.letters * BOLD / LETTERS / view.seconds  # that fit into a second
    for begin, end, text, short in row.words:
        said = next((each for each in (text, short) if each and (end - begin) * letters > len(each)), "")
        if not said:
            continue
        inside = [each for each in row.spans if each.begin < end and each.end > begin] if len(row.spans) <= FINE else []
        parts = [(max(each.begin, begin), min(each.end, end), each.state) for each in inside]
        first, last, state = max(parts, key=lambda each: each[1] - each[0], default=(begin, end, IN_RECV))
        if (last - first) * letters < len(said):
            first, last = begin, end
        box = {"facecolor": state.colour, "edgecolor": "none", "pad": 2}
        style = {"ha": "center", "va": "center", "fontsize": 13, "fontweight": "bold", "zorder": 5, "clip_on": True}
        ink, middle = ON_DARK if state.dark else ON_LIGHT, view.at((first + last) / 2)
        axis.text(middle, number, drawable(said), color=ink, bbox=box, parse_math=False, **style)


def _quotes(axis: Any, messages: Sequence[SocketEvent], row: int, view: _View) -> None:
    """What was sent, beside its mark, as far as it fits before the next mark."""
    places = [view.at(event.began) for event in messages]
    letters = view.letters / (view.seconds * view.scale)  # how many fit into one unit of the axis
    free_from = float("-inf")
    for event, x, after in zip(messages, places, [*places, view.seconds * view.scale][1:], strict=True):
        text = drawable(quote(event).split('" (')[0].strip('"'))
        room, before = (after - x) * letters - 3, (x - free_from) * letters - 4
        left = room < min(len(text), 6) and before > len(text)  # before its mark there is more room
        room = before if left else room
        free_from = max(free_from, x)
        if room < min(len(text), 3) or x < free_from:
            continue
        shown = cut(text, int(min(room, len(text))))
        style = {"va": "center", "fontsize": 13, "color": view.ink, "zorder": 5, "parse_math": False}
        style |= {"xytext": (-9 if left else 9, 0), "textcoords": "offset points", "ha": "right" if left else "left"}
        axis.annotate(shown, (x, row - ABOVE), **style)
        if not left:
            free_from = x + (len(shown) + 3) / letters
