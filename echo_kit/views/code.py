"""The student's own functions, with a mark on every line at which a thread is right now; as data, text and HTML.

The text form has no times, ports or ids, so that it can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from ..watch.text import counted, in_html
from .states import BACKLOG

STANDS, PAUSED, INSIDE, NOBODY, DIED = "stands", "paused", "inside", "nobody", "died"
SIGNS = {STANDS: "◀", PAUSED: "‖", INSIDE: "↳", NOBODY: "○", DIED: "✕"}
BLUE, BLACK = "#0077BB", "#1A1A1A"
BADGES = {  # (colour, border) of what a mark is written on; "" for one that is filled and has white letters
    STANDS: (BLUE, ""),
    PAUSED: (BLUE, "4px double"),
    INSIDE: (BLUE, "1px solid"),
    NOBODY: (BACKLOG.colour, "2px dashed"),
    DIED: (BLACK, ""),
}
LONG = 40  # lines of a function that are shown whole; of a longer one, those around the marks
AROUND = 3
WIDE = 60  # columns of code beyond which the marks no longer stand in one column
CROWD = 6  # marks on one line that are told one by one


@dataclass(frozen=True, slots=True)
class Mark:
    """What is said beside a line: `thread` stands here, is held before the call here, is inside a function called here,
    died here; or nobody is.
    """

    kind: str  # STANDS, PAUSED, INSIDE, NOBODY, DIED
    thread: str
    words: str
    client: str = ""  # whom the thread serves

    def __str__(self) -> str:
        return f"{SIGNS[self.kind]} {self.thread + ': ' if self.thread else ''}{self.words}"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of source. `number` counts from 1 in its file or cell."""

    number: int
    text: str
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the student's; no lines where its source is not at hand."""

    name: str
    lines: tuple[Line, ...]

    def shown(self) -> list[Line | None]:
        """The lines to be shown; None stands for those that are left out of a long function."""
        if len(self.lines) <= LONG:
            return list(self.lines)
        heads = [at for at, line in enumerate(self.lines) if re.match(r"\s*(async\s+)?def\s", line.text)]
        near = set(range(heads[0] + 1 if heads else 1))  # decorators stand above the first `def`
        for at, line in enumerate(self.lines):
            if line.marks:
                near |= {*range(at - AROUND, at + AROUND + 1), *self._above(at, heads)}
        kept: list[Line | None] = []
        for at, line in enumerate(self.lines):
            if at in near or {at - 1, at + 1} <= near:  # a single line takes no more room than the dots
                kept.append(line)
            elif kept[-1] is not None:
                kept.append(None)
        return kept

    def _above(self, at: int, heads: list[int]) -> Iterator[int]:
        """The lines `def …` of the nested functions that line `at` is in."""
        inner = margin(self.lines[at].text)
        for head in reversed(heads):
            if head < at and margin(self.lines[head].text) < inner:
                inner = margin(self.lines[head].text)
                yield head


def margin(text: str) -> int:
    """How many spaces stand before it."""
    return len(text) - len(text.lstrip())


@dataclass(frozen=True)
class CodeView:
    """The student's functions that a thread of the server is in, or has been in, and where each thread stands."""

    server: str
    functions: tuple[Function, ...]
    elsewhere: tuple[Mark, ...]  # threads that are in no code of the student's
    threads: int
    note: str = ""

    @property
    def title(self) -> str:
        threads = counted(self.threads, "thread") if self.threads and not self.note.startswith("stopped") else ""
        return f"{self.server}: {', '.join(filter(None, (threads, self.note))) or 'no thread is left'}"

    @property
    def marks(self) -> list[tuple[str, Mark]]:
        """Each mark with the line at which it stands; with "" those of threads in no code of the student's."""
        at_lines = [(line.text.strip(), mark) for each in self.functions for line in each.lines for mark in line.marks]
        return [*at_lines, *(("", mark) for mark in self.elsewhere)]

    def __str__(self) -> str:
        text = [self.title]
        every = [line for function in self.functions for line in function.shown() if line is not None]
        width = max((len(line.text) for line in every if len(line.text) <= WIDE), default=0)
        for function in self.functions:
            text.append("")
            if "." in function.name:
                text.append(f"    # {function.name}")
            for line in function.shown():
                if line is None:
                    text.append("    …")
                    continue
                said = crowd(line.marks)
                text.append(f"    {line.text:<{width}}  {said[0]}" if said else f"    {line.text}".rstrip())
                text += [f"    {'':<{width}}  {mark}" for mark in said[1:]]
        if self.elsewhere:
            text += ["", *(f"    {mark}" for mark in crowd(self.elsewhere))]
        return "\n".join(text)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f'<div style="font-weight: bold; margin: 4px 0">{in_html(self.title)}</div>']
        for function in self.functions:
            rows = [f'<div style="opacity: 0.7"># {escape(function.name)}</div>'] if "." in function.name else []
            for line in function.shown():
                if line is None:
                    rows.append("<div>…</div>")
                    continue
                chips = [_chip(mark) for mark in crowd(line.marks)]
                standing = _STANDING if any(mark.kind in (STANDS, PAUSED) for mark in line.marks) else ""
                rows.append(f"<div{standing}>{'  '.join([escape(line.text) or ' ', *chips[:1]])}</div>")
                rows += [f"<div{standing}>{' ' * len(line.text)}  {chip}</div>" for chip in chips[1:]]
            parts.append(f'<pre style="{_CODE}">{"".join(rows)}</pre>')
        parts += [f"<div>{_chip(mark)}</div>" for mark in crowd(self.elsewhere)]
        return f'<div style="max-width: 70em">{"".join(parts)}</div>'


_CODE = f"line-height: 1.6; margin: 0 0 8px 0; padding: 6px 8px; border-left: 3px solid {BLUE}; background: none"
_STANDING = ' style="background: rgba(0, 119, 187, 0.14)"'
_CHIP = "font-family: sans-serif; font-weight: bold; padding: 1px 6px; border-radius: 4px; white-space: nowrap; "


def _chip(mark: Mark) -> str:
    colour, border = BADGES[mark.kind]
    style = f"border: {border} {colour}" if border else f"background: {colour}; color: #FFFFFF"
    return f'<span style="{_CHIP}{style}">{in_html(str(mark))}</span>'


def crowd(marks: tuple[Mark, ...]) -> list[Mark]:
    """The marks of one line; of a crowd that does the same kind of thing, the first few and how many more."""
    shown: list[Mark] = []
    for kind in dict.fromkeys(mark.kind for mark in marks):
        same = [mark for mark in marks if mark.kind == kind]
        first = same if len(same) <= CROWD else same[: CROWD - 1]
        shown += first
        if len(first) < len(same):
            shown.append(Mark(kind, "", f"and {len(same) - len(first):,} more"))
    return shown
