"""What `check` returns: whether a solution passed, and in words what was tried, what was expected and what
came."""

from __future__ import annotations

import html
from dataclasses import dataclass

from ..views.code import CodeView
from ..views.snapshot import Snapshot
from ..watch.text import cut, visible

LONGEST = 300  # characters of an error's message, or of a line of code, that a report shows
QUOTED = 60  # characters of a message that a report quotes


class NotYet(Exception):
    """The first thing that was not as expected. `hint` names the idea, and after " || " also the call that does it."""

    def __init__(self, expected: str, got: str, hint: str) -> None:
        super().__init__(got)
        self.expected, self.got, self.hint = expected, got, hint


@dataclass(frozen=True)
class Report:
    """Whether the solution `passed`, and why."""

    exercise: str  # its number and title
    done: tuple[str, ...]  # what was tried and was as expected, in order
    tried: str = ""  # what was tried next
    problem: NotYet | None = None  # how that was not as expected
    view: Snapshot | CodeView | None = None  # the server at that moment

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return self.problem is None

    @property
    def _title(self) -> str:
        return f"{'✔' if self.passed else '✘'} {self.exercise}: {'solved' if self.passed else 'not yet'}"

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("passed", each) for each in self.done]
        if self.problem is not None:
            rows += [("tried", self.tried), ("expected", self.problem.expected), ("got", self.problem.got)]
            rows += [("hint", self.problem.hint)] if self.problem.hint else []
        return rows

    def __str__(self) -> str:
        rows = [f"  {name:<8}  " + words.replace("\n", "\n" + " " * 12) for name, words in self._rows()]
        return "\n".join([self._title, *rows])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left;vertical-align:top;white-space:nowrap">{name}</th>'
            f'<td style="text-align:left;white-space:pre-wrap">{html.escape(words)}</td></tr>'
            for name, words in self._rows()
        )
        return f"<div><b>{html.escape(self._title)}</b></div><table>{rows}</table>"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display({"text/plain": str(self), "text/html": self._repr_html_()}, raw=True)
        if self.view is not None:
            display(self.view)


def quoted(data: bytes) -> str:
    """Bytes as text in quotation marks; of many, the first ones and how many they are."""
    text = visible(data.decode("utf-8", "backslashreplace"))
    return f'"{text}"' if len(text) <= QUOTED else f'"{text[: QUOTED // 2]}…" ({len(data):,} bytes)'


def died_of(error: BaseException) -> str:
    """The error with which the student's code ended, in words."""
    message = cut(visible(str(error)), LONGEST)
    name = "KeyboardInterrupt" if isinstance(error, KeyboardInterrupt) else type(error).__name__  # or ours for a stop
    return f"your code ended with {name}{': ' + message if message else ''}"
