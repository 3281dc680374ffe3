"""Draws snapshots with matplotlib: code with its marks, the backlog as a queue, the timeline. Never through pyplot."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..watch.text import cut
from .code import BADGES, CodeView, crowd, margin
from .draw_text import say
from .draw_timeline import DARK, INCHES_A_LANE, LABEL_LANES, LIGHT, ON_DARK, ON_LIGHT, draw_timelines
from .snapshot import Snapshot
from .states import BACKLOG

ROW = 0.36  # inches of a line of code, or of a mark
COLUMN, EDGE = 7.6, 0.1  # inches of one snapshot, and left free on either side
ROOM = COLUMN - 2 * EDGE
INDENT = 0.25  # inches before the code
LETTER, BADGE = 0.131, 0.122  # inches of a letter of code, and of a badge
HEADLINE, NARROW = 44, 30  # letters of a line of the headline, and of the server's name above it
FIRST = 5  # row of the code's first line
BOX = 1.9  # inches of a waiting client
BOXES = 3  # of them
NAME = 11  # letters of a name in a box

BORDERS = {"4px double": ":", "1px solid": "-", "2px dashed": "--", "": "-"}  # as matplotlib draws them


def snapshot_figure(snapshots: Sequence[Snapshot], dark: bool = False) -> Figure:
    """The snapshots side by side: a headline, the code with its marks, the backlog as a queue, the timeline below."""
    if not snapshots:
        raise ValueError("there is no snapshot to draw: give at least one")
    colours = DARK if dark else LIGHT
    rows = [_code_rows(each.code) for each in snapshots]
    above = (FIRST + max(map(len, rows)) + 4.2) * ROW
    lanes = max(len(each.timeline.lanes) for each in snapshots)
    below = 2.6 + INCHES_A_LANE * max(1, min(lanes, LABEL_LANES))
    figure = Figure(figsize=(COLUMN * len(snapshots), above + below), layout="constrained", facecolor=colours["paper"])
    parts: Any = figure.subfigures(2, 1, height_ratios=(above, below))
    upper, lower = parts
    for part in (upper, lower):
        part.set_facecolor(colours["paper"])
    for number, (snapshot, mine) in enumerate(zip(snapshots, rows, strict=True)):
        # Outside of the layout, in which a long line would make the axis narrower: an inch stays an inch.
        whole = COLUMN * len(snapshots)
        axis = upper.add_axes(((number * COLUMN + EDGE) / whole, 0, ROOM / whole, 1))
        axis.set_xlim(0, ROOM)
        axis.set_ylim(above / ROW, 0)
        axis.axis("off")
        _draw_code(axis, snapshot, mine, colours)
        _draw_backlog(axis, snapshot, above / ROW - 3.2, colours)
    draw_timelines(lower, [each.timeline for each in snapshots], dark)
    return figure


def _code_rows(code: CodeView) -> list[tuple[str, str]]:
    """(kind, text) of each row: a line of code (""), or one of the marks that stand below it, indented like it."""
    rows: list[tuple[str, str]] = []
    for function in code.functions:
        rows += [("", "")] if rows else []
        for line in function.shown():
            rows.append(("", line.text if line is not None else "…"))
            if line is not None:
                left = " " * margin(line.text)
                rows += [(mark.kind, f"{left}{mark}") for mark in crowd(line.marks)]
    return rows + [(mark.kind, str(mark)) for mark in crowd(code.elsewhere)]


def _draw_code(axis: Any, snapshot: Snapshot, rows: list[tuple[str, str]], colours: dict[str, str]) -> None:
    ink = colours["ink"]
    say(axis, 0, 0.9, snapshot.code.server[:NARROW], ink, size=24, weight="bold")
    for number, line in enumerate(textwrap.wrap(snapshot.headline, HEADLINE)[:2]):
        say(axis, 0, 2.2 + 1.05 * number, line, ink, size=19)
    room = int((ROOM - INDENT) / LETTER)
    for number, (kind, text) in enumerate(rows, FIRST):
        if not kind:
            say(axis, INDENT, number, cut(text, room), ink, family="monospace", size=15)
            continue
        colour, border = BADGES[kind]
        said = cut(text.strip(), int((ROOM - EDGE) / BADGE))
        indent = INDENT + (margin(text) + 2) * LETTER
        at = max(EDGE, min(indent, ROOM - len(said) * BADGE))  # a long one begins further left
        box = {"boxstyle": "round,pad=0.18", "linewidth": 2, "linestyle": BORDERS[border]}
        box |= {"edgecolor": colour, "facecolor": "none" if border else colour}
        say(axis, at, number, said, ink if border else ON_DARK, size=14, weight="bold", bbox=box)


def _draw_backlog(axis: Any, snapshot: Snapshot, top: float, colours: dict[str, str]) -> None:
    backlog, ink = snapshot.backlog, colours["ink"]
    heading = "Connected, not accepted yet (the backlog):"
    if backlog.listens and not backlog.complete:  # this system does not tell of others
        heading = "Clients of echo_kit in the backlog:"
    say(axis, 0, top, heading, ink, size=19, weight="bold")
    boxes = list(backlog.lines())
    if len(boxes) > BOXES:
        boxes = [*boxes[: BOXES - 1], (f"and {len(backlog) - BOXES + 1:,} more", "")]
    if not boxes:
        say(axis, INDENT, top + 1.5, "nobody" if backlog.listens else "(it no longer listens)", ink, size=19)
    for number, (name, said) in enumerate(boxes):
        at = INDENT + number * (BOX + 0.35)
        axis.add_patch(Rectangle((at, top + 0.75), BOX, 1.9, facecolor=BACKLOG.colour, edgecolor=ink, lw=1.5))
        middle = at + BOX / 2
        say(axis, middle, top + 1.4, cut(name, NAME), ON_LIGHT, size=18, weight="bold", ha="center")
        say(axis, middle, top + 2.2, said.split(",")[0], ON_LIGHT, size=13, ha="center")
