"""Where a thread stands: the line of the student's own code that it is at right now."""

from __future__ import annotations

import linecache
from dataclasses import dataclass

from .observe import Task, student_frame


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the student's code: the function, the line's number in its file or cell, and its text."""

    function: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line} of {self.function}: {self.text}"


def where(task: Task) -> Place | None:
    """The innermost line of student code that the thread is in; None when it is in none (an idle worker of a pool)."""
    frame = student_frame(task)
    if frame is None:
        return None
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return Place(frame.f_code.co_name, frame.f_lineno, text)
