"""Where each thread stands: the student's own functions, with a mark on every line at which a thread is right now.

A snapshot is taken when it is asked for (`sys._current_frames`); the running server pays nothing for it. The text form
has no times, ports or ids, so that it can be compared.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from types import CodeType, FrameType
from typing import Any

from .events import Connection, visible
from .observe import Call, Observation, Observed, Task, call_in, is_student_code, ready, student_frame

__all__ = ["CodeView", "Function", "Line", "Mark", "Place", "code_view", "where"]

STANDS, INSIDE, NOBODY, DIED = "stands", "inside", "nobody", "died"
SIGNS = {STANDS: "◀", INSIDE: "↳", NOBODY: "○", DIED: "✕"}
LONG = 40  # lines of a function that are shown whole; of a longer one, those around the marks
AROUND = 3
WIDE = 60  # columns of code beyond which the marks no longer stand in one column
CROWD = 6  # marks on one line that are told one by one
EXPRESSION = 40  # characters of what a thread waits in
LOOK_AGAIN = 0.03  # seconds; a thread that runs has moved by then


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


@dataclass(frozen=True, slots=True)
class Mark:
    """What is said beside a line: `thread` stands here, is inside a function called here, died here; or nobody is."""

    kind: str  # STANDS, INSIDE, NOBODY, DIED
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
        near = {0} | {
            other for at, line in enumerate(self.lines) if line.marks for other in range(at - AROUND, at + AROUND + 1)
        }
        kept: list[Line | None] = []
        for at, line in enumerate(self.lines):
            if at in near:
                kept.append(line)
            elif kept[-1] is not None:
                kept.append(None)
        return kept


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
        said = [f"{self.threads:,} thread{'' if self.threads == 1 else 's'}"] if self.threads else []
        return f"{self.server}: {', '.join([*said, *([self.note] if self.note else [])]) or 'no thread is left'}"

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
        parts = [f'<div style="{_TITLE}">{escape(self.title)}</div>']
        for function in self.functions:
            rows = [f'<div style="{_NAME}"># {escape(function.name)}</div>'] if "." in function.name else []
            for line in function.shown():
                if line is None:
                    rows.append("<div>…</div>")
                else:
                    stands = any(mark.kind == STANDS for mark in line.marks)
                    chips = "".join(
                        f' <span style="{_CHIP[kind_of(mark)]}">{escape(mark)}</span>' for mark in crowd(line.marks)
                    )
                    code = escape(line.text) or " "
                    rows.append(f"<div{_STANDING if stands else ''}>{code}{' ' if chips else ''}{chips}</div>")
            parts.append(f'<pre style="{_CODE}">{"".join(rows)}</pre>')
        parts += [f'<div><span style="{_CHIP[STANDS]}">{escape(mark)}</span></div>' for mark in crowd(self.elsewhere)]
        return f'<div style="{_FRAME}">{"".join(parts)}</div>'


_FRAME = "max-width: 70em"
_TITLE = "font-weight: bold; margin: 4px 0"
_NAME = "opacity: 0.7"
_CODE = "line-height: 1.6; margin: 0 0 8px 0; padding: 6px 8px; border-left: 3px solid #0077BB; background: none"
_STANDING = ' style="background: rgba(0, 119, 187, 0.14)"'
_CHIPS = "font-family: sans-serif; font-weight: bold; padding: 1px 6px; border-radius: 4px; white-space: nowrap; "
_CHIP = {
    STANDS: _CHIPS + "background: #0077BB; color: #FFFFFF",
    INSIDE: _CHIPS + "border: 1px solid #0077BB",
    NOBODY: _CHIPS + "border: 2px dashed #EE7733",
    DIED: _CHIPS + "background: #1A1A1A; color: #FFFFFF",
}


def kind_of(mark: str) -> str:
    return next((kind for kind, sign in SIGNS.items() if mark.startswith(sign)), STANDS)


def crowd(marks: tuple[Mark, ...]) -> list[str]:
    """The marks of one line in words; of a crowd, the first few and how many more."""
    if len(marks) <= CROWD:
        return [str(mark) for mark in marks]
    return [*(str(mark) for mark in marks[: CROWD - 1]), f"{SIGNS[marks[0].kind]} and {len(marks) - CROWD + 1:,} more"]


# -- the snapshot ----------------------------------------------------------------------------------------------------


def code_view(observation: Observation, names: Mapping[Connection, str], stopped: bool = False) -> CodeView:
    """Take the snapshot. `names` says what each connection's client is called."""
    tasks = [] if stopped else observation.alive()
    marks: dict[tuple[CodeType, int], list[Mark]] = {}
    functions = dict(observation.functions)
    elsewhere: list[Mark] = []
    for mark, chain in _stands(tasks, names):
        for code, _ in reversed(chain):
            functions.setdefault(code)
        if not chain:
            elsewhere.append(mark)
            continue
        marks.setdefault(chain[0], []).append(mark)
        for inner, outer in itertools.pairwise(chain):
            inside = Mark(INSIDE, mark.thread, f"is inside {inner[0].co_name}", mark.client)
            marks.setdefault(outer, []).append(inside)
    note = "stopped" if stopped else ""
    if not stopped and observation.error is not None:
        note = _died(observation, marks, functions)
    if tasks:
        for code, line in observation.accepts.items():
            if not any(code is at and number == line for at, number in marks):
                marks[code, line] = [Mark(NOBODY, "", "nobody is here")]
    return CodeView(
        visible(observation.name),
        tuple(_function(code, marks) for code in functions),
        tuple(elsewhere),
        len(tasks),
        note,
    )


def _died(
    observation: Observation, marks: dict[tuple[CodeType, int], list[Mark]], functions: dict[CodeType, None]
) -> str:
    """Mark the line at which the first thread died; in words, what it died of."""
    error, place = observation.error, None
    link = error.__traceback__ if error is not None else None
    while link is not None:
        if is_student_code(link.tb_frame):
            place = link.tb_frame.f_code, link.tb_lineno
        link = link.tb_next
    name = type(error).__name__
    if place is not None:
        functions.setdefault(place[0])
        marks.setdefault(place, []).append(Mark(DIED, observation.error_thread, f"ended here, {name}"))
    return f"{observation.error_thread} ended with {name}"


Chain = list[tuple[CodeType, int]]  # (function, line) from the innermost to the outermost, of the student's code only


def _stands(tasks: list[Task], names: Mapping[Connection, str]) -> list[tuple[Mark, Chain]]:
    """Where each thread stands, from where it was called, and what it does there."""
    frames = sys._current_frames()
    looks = [_Look(task, frames.get(task.identity() or 0), names) for task in tasks]
    unsure = [look for look in looks if not look.words]
    if unsure:  # one wait for all of them
        before = [look.task.status() for look in unsure]
        time.sleep(LOOK_AGAIN)
        frames = sys._current_frames()
        for look, status in zip(unsure, before, strict=True):
            look.look_again(frames.get(look.task.identity() or 0), status)
    return [(Mark(STANDS, look.task.label, look.words, look.client), look.chain) for look in looks]


class _Look:
    """One thread in the snapshot. No `words`: it is in none of the calls that we know, so look again."""

    def __init__(self, task: Task, innermost: FrameType | None, names: Mapping[Connection, str]) -> None:
        self.task, self.innermost = task, innermost
        self.instruction = innermost.f_lasti if innermost is not None else 0
        self.expression = ""
        self.chain: Chain = []
        frame = innermost
        while frame is not None:
            if is_student_code(frame):
                self.expression = self.expression if self.chain else _expression(frame)
                self.chain.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back
        self.client = names.get(task.connection, "") if task.connection else ""
        call = call_in(innermost)
        if call is not None and not call.seen.listening:
            self.client = names.get(call.seen.connection, "")
        self.words = _words(call, self.client) if call is not None else _library_words(innermost, names)

    def look_again(self, frame: FrameType | None, before: bytes) -> None:
        """Does it run, or wait in something that is no socket call? What runs has moved since, or has switched."""
        after = self.task.status()
        moved = frame is not self.innermost or (frame is not None and frame.f_lasti != self.instruction)
        if moved or b"State:\tR" in after or _switches(before) != _switches(after):
            self.words = "runs"
        elif before:
            self.words = f"waits in {self.expression}" if self.expression else "waits"
        else:  # only Linux tells
            self.words = f"is in {self.expression}" if self.expression else "runs or waits"
        self.words += f", serving {self.client}" if self.client else ""


def _switches(status: bytes) -> bytes:
    return status.partition(b"voluntary_ctxt_switches")[2]


def _words(call: Call, client: str) -> str:
    if call.kind == "accept":
        return "waits in accept for a new client"
    if call.kind == "recv":
        return f"waits in {call.name} for {client or 'its client'}"
    sock = call.seen.ref()
    if sock is not None and not ready(sock, 2):
        return f"waits in {call.name}: {client or 'its client'} does not read"
    return f"is in {call.name} to {client or 'its client'}"


def _library_words(frame: FrameType | None, names: Mapping[Connection, str]) -> str:
    """What it waits for in a function of the standard library that we know: `select`, and `join`."""
    while frame is not None and not is_student_code(frame):
        module, name, me = frame.f_globals.get("__name__"), frame.f_code.co_name, frame.f_locals.get("self")
        if module == "threading" and name == "join":
            task = getattr(me, "_echo_kit_task", None)
            return f"waits in join for {task.label if task else getattr(me, 'name', 'a thread')}"
        if module == "selectors" and name == "select":
            return f"waits in select for {_selected(me, names)}"
        if module == "concurrent.futures.thread" and name == "_worker":
            return "has nothing to do: it is an idle worker of the pool"
        frame = frame.f_back
    return ""


def _selected(selector: Any, names: Mapping[Connection, str]) -> str:
    """Whom a selector waits for."""
    from .observe import _observed

    seen: list[Observed] = []
    for key in list((selector.get_map() or {}).values()):
        known = _observed.get(id(key.fileobj)) or _observed.get(id(getattr(key.fileobj, "socket", None)))
        if known is not None:
            seen.append(known)
    who = ["a new client"] if any(each.listening for each in seen) else []
    clients = [names.get(each.connection, "a client") for each in seen if not each.listening]
    who += clients if len(clients) <= CROWD else [*clients[: CROWD - 1], f"{len(clients) - CROWD + 1:,} more clients"]
    return ", ".join(who[:-1]) + (" or " if who[1:] else "") + who[-1] if who else "something that is no socket of its"


def _expression(frame: FrameType) -> str:
    """The call that a frame is in, as it is written: `time.sleep(5)`."""
    positions = list(frame.f_code.co_positions())
    at = frame.f_lasti // 2
    line, end_line, begin, end = positions[at] if 0 <= at < len(positions) else (None, None, None, None)
    if line is None or begin is None or end is None:
        return ""
    source = linecache.getline(frame.f_code.co_filename, line).encode()
    text = visible((source[begin:] if end_line != line else source[begin:end]).decode(errors="replace").strip())
    return text if len(text) <= EXPRESSION else text[: EXPRESSION - 1] + "…"


def _function(code: CodeType, marks: Mapping[tuple[CodeType, int], list[Mark]]) -> Function:
    here = {line: tuple(marks[at, line]) for at, line in marks if at is code}
    name = code.co_qualname.rpartition("<locals>.")[2]
    lines = linecache.getlines(code.co_filename)
    first = max(1, code.co_firstlineno)
    source = lines[first - 1 :] if code.co_name == "<module>" else inspect.getblock(lines[first - 1 :])
    if not source or max(here, default=first) >= first + len(source):
        missing = [Line(first, f"{name}(…)  # its source is not at hand")]
        return Function(name, (*missing, *(Line(line, f"# line {line}", said) for line, said in here.items())))
    texts = [visible(line.rstrip().expandtabs()) for line in source]
    margin = min((len(text) - len(text.lstrip()) for text in texts if text), default=0)
    return Function(
        name, tuple(Line(number, text[margin:], here.get(number, ())) for number, text in enumerate(texts, first))
    )
