"""What `check` returns: whether a solution passed, and in words what was tried, what was expected and what
came."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from html import escape
from typing import Any

from ..views.code import CodeView
from ..views.snapshot import Snapshot
from ..watch.text import counted, cut, in_html, visible

LONGEST = 300  # characters of an error's message, or of a line of code, that a report shows
QUOTED = 60  # characters of a message that a report quotes
BEFORE = 10  # characters that a quotation shows before the first difference
LINE = "the line  "  # with this begins the part of a hint that is no advice, but says where
BOLD = "; font-weight: bold"
RED, GREEN = "var(--jp-error-color1, #c62828)", "var(--jp-success-color1, #2e7d32)"  # JupyterLab's, in each theme


class NotYet(Exception):
    """The first thing that was not as expected. `hint` names the idea, and after " || " also the call that does it."""

    def __init__(self, expected: str, got: str, hint: str) -> None:
        super().__init__(got)
        self.expected, self.got, self.hint = expected, got, hint

    def rows(self) -> dict[str, str]:
        """As a report shows it: the line on which an error came belongs to what it got, the rest is the advice."""
        lines = self.hint.split("\n")
        at = [f"at {each}" for each in lines if each.startswith(LINE)]
        advice = "\n".join(each for each in lines if not each.startswith(LINE))
        return {"expected": self.expected, "got": "\n".join([self.got, *at]), "hint": advice}


@dataclass(frozen=True)
class Step:
    """One thing that was tried."""

    text: str
    outcome: str  # "passed" or "failed"


@dataclass(frozen=True)
class Report:
    """Whether the solution `passed`, and why. `bool(report)` is `report.passed`."""

    number: str  # of the exercise
    title: str
    done: tuple[str, ...]  # what was tried and was as expected, in order
    tried: str = ""  # what was tried next
    problem: NotYet | None = None  # how that was not as expected
    view: Snapshot | CodeView | None = None  # the server at that moment
    known: int = 0  # how many steps a right answer passes; 0 where that is not known
    note: str = ""  # what a notebook shows below it

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return self.problem is None

    def __bool__(self) -> bool:
        return self.passed

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was tried, in order. Only the last one can have failed: a check stops there."""
        failed = () if self.passed else (Step(self.tried, "failed"),)
        return (*(Step(each, "passed") for each in self.done), *failed)

    @property
    def total(self) -> int:
        """How many steps the exercise has in all, also those that were not tried any more."""
        return max(self.known, len(self.steps))

    @property
    def points(self) -> float:
        """The part of all steps that passed: from 0.0 to 1.0, and 1.0 only if everything was as expected."""
        return 1.0 if self.passed else len(self.done) / self.total

    @property
    def first_wrong(self) -> str:
        """In one line: what was tried, what was expected, what it got. Empty if it passed."""
        if self.problem is None:
            return ""
        said = self.problem.rows()
        return f"{self.tried}: expected {said['expected']}; got {said['got']}".replace("\n", " ")

    def as_dict(self) -> dict[str, Any]:
        """All of it, but for the view, as plain data."""
        return {
            "exercise": self.number,
            "title": self.title,
            "passed": self.passed,
            "points": self.points,
            "total": self.total,
            "steps": [{"text": each.text, "outcome": each.outcome} for each in self.steps],
            "problem": {"tried": self.tried, **self.problem.rows()} if self.problem is not None else None,
            "first_wrong": self.first_wrong,
        }

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    @property
    def _title(self) -> str:
        return f"{'✔' if self else '✘'} {self.number} {self.title}: {'solved' if self else 'not yet'}"

    @property
    def _folded(self) -> str:
        return f"{len(self.done)} of {self.known} steps" if self.known else counted(len(self.done), "step")

    def _wrong(self) -> dict[str, str]:
        rows = {"tried": self.tried, **self.problem.rows()} if self.problem is not None else {}
        return {name: words for name, words in rows.items() if words}

    def __str__(self) -> str:
        rows = list(self._wrong().items())
        if self:
            rows = [("passed", each) for each in self.done]
        elif self.done:  # behind what failed, and short
            rows.append(("passed", f"{self._folded}: {'; '.join(self.done)}"))
        lines = [f"  {name:<8}  " + words.replace("\n", "\n" + " " * 12) for name, words in rows]
        return "\n".join([self._title, *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = GREEN if self else RED
        parts = [f'<div style="color: {colour}; font-weight: bold; font-size: 1.1em">{in_html(self._title)}</div>']
        rows = "".join(
            f'<tr><th style="text-align: left; vertical-align: top; white-space: nowrap">{name}</th>'
            f'<td style="text-align: left; white-space: pre-wrap{BOLD if name == "tried" else ""}">'
            f"{in_html(words)}</td></tr>"
            for name, words in self._wrong().items()
        )
        if rows:
            parts.append(f'<table style="margin: 4px 0">{rows}</table>')
        if self.done:
            steps = "".join(f"<li>{in_html(each)}</li>" for each in self.done)
            said = f"<summary>passed: {self._folded}</summary><ul>{steps}</ul>"
            parts.append(f'<details style="opacity: 0.75">{said}</details>')
        return f'<div style="border-left: 4px solid {colour}; padding-left: 10px">{"".join(parts)}</div>'

    def _ipython_display_(self) -> None:
        from IPython.display import display

        text, html = str(self), self._repr_html_()
        if self.note:
            text, html = f"{text}\n{self.note}", f"{html}<div>{in_html(self.note)}</div>"
        display({"text/plain": text, "text/html": html}, raw=True)
        if self.view is not None:
            display({"text/plain": str(self.view), "text/html": _seen(self.view)}, raw=True)


def _seen(view: Snapshot | CodeView) -> str:
    """The code with its marks, in the colours of the page, and below what else says something."""
    if isinstance(view, CodeView):
        return view._repr_html_()
    style = "white-space: pre-wrap; background: none"
    parts = [view.code._repr_html_()]
    if view.backlog.waiting:
        parts.append(f'<pre style="{style}">{escape(str(view.backlog))}</pre>')
    if view.timeline.lanes:
        timeline = f'<pre style="{style}">{escape(str(view.timeline))}</pre>'
        parts.append(f"<details><summary>What happened, client by client</summary>{timeline}</details>")
    return "".join(parts)


class NotSolved(AssertionError):
    """The report of an answer that is not right yet; `check(…, strict=True)` raises it."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: where in the check it was raised says nothing to a student."""
        return [f"{type(self).__name__}: {self}"]


def quoted(data: bytes, beside: bytes = b"") -> str:
    """Bytes as text in quotation marks; of many, the first ones and how many they are. Two that differ look different:
    of many bytes that begin like those `beside` them, the place is shown where they differ.
    """
    text = _escaped(data)
    if len(text) <= QUOTED:
        return f'"{text}"'
    same = next((at for at, (one, other) in enumerate(zip(data, beside, strict=False)) if one != other), 0)
    if same <= BEFORE:
        return f'"{text[: QUOTED // 2]}…" ({len(data):,} bytes)'
    part = _escaped(data[same - BEFORE : same + QUOTED // 2])
    return f'"…{part[: QUOTED - 1]}…" ({len(data):,} bytes), here from byte {same - BEFORE + 1:,} on'


def _escaped(data: bytes) -> str:
    r"""Bytes as text: `\n` for a newline, `\\` for a backslash, `\xc3` for a byte that is no text, `\u0301` for what
    a page would not show, or would draw onto the letter before.
    """
    plain = data.decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    return "".join(each if each.isprintable() and not unicodedata.combining(each) else _code(each) for each in plain)


def _code(char: str) -> str:
    number = ord(char)
    if number < 0x80:
        return ascii(char)[1:-1]
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no text
        return f"\\x{number - 0xDC00:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def died_of(error: BaseException) -> str:
    """The error with which the student's code ended, in words."""
    message = cut(visible(str(error)), LONGEST)
    name = "KeyboardInterrupt" if isinstance(error, KeyboardInterrupt) else type(error).__name__  # or ours for a stop
    return f"your code ended with {name}{': ' + message if message else ''}"
