"""Where each thread stands: the student's own functions, with a mark on every line at which a thread is right now.

A snapshot is taken when it is asked for (`sys._current_frames`); the running server pays nothing for it. The text form
has no times, ports or ids, so that it can be compared.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import linecache
import re
import selectors
import sys
import time
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from types import CodeType, FrameType
from typing import Any

from ..watch.events import Connection
from ..watch.frames import is_student_code, source_line, source_lines, student_frame, thread_frames
from ..watch.observation import Call, Observation, Observed, Task, current_task
from ..watch.sockets import ready
from ..watch.text import visible

__all__ = ["CodeView", "Function", "Line", "Mark", "Place", "code_view", "where"]

STANDS, PAUSED, INSIDE, NOBODY, DIED = "stands", "paused", "inside", "nobody", "died"
SIGNS = {STANDS: "◀", PAUSED: "‖", INSIDE: "↳", NOBODY: "○", DIED: "✕"}
LONG = 40  # lines of a function that are shown whole; of a longer one, those around the marks
AROUND = 3
WIDE = 60  # columns of code beyond which the marks no longer stand in one column
CROWD = 6  # marks on one line that are told one by one
EXPRESSION = 40  # characters of what a thread waits in
LOOK_AGAIN = 0.03  # seconds from one look at a thread to the next; one that runs has moved by then
LOOKS = 3  # one that was quiet between two of them waits, whatever woke it before


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
    frame = student_frame(task.identity())
    if frame is None:
        return None
    return Place(frame.f_code.co_name, frame.f_lineno, source_line(frame))


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
        heads = [at for at, line in enumerate(self.lines) if _DEF.match(line.text)]
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
        margin = _margin(self.lines[at].text)
        for head in reversed(heads):
            if head < at and _margin(self.lines[head].text) < margin:
                margin = _margin(self.lines[head].text)
                yield head


_DEF = re.compile(r"\s*(async\s+)?def\s")


def _margin(text: str) -> int:
    return len(text) - len(text.lstrip())


def _threads(count: int) -> str:
    return f"{count:,} thread{'' if count == 1 else 's'}"


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
        said = [_threads(self.threads)] if self.threads and not self.note.startswith("stopped") else []
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
                    continue
                chips = [_chip(mark) for mark in crowd(line.marks)]
                standing = _STANDING if any(mark.kind in (STANDS, PAUSED) for mark in line.marks) else ""
                rows.append(f"<div{standing}>{'  '.join([escape(line.text) or ' ', *chips[:1]])}</div>")
                rows += [f"<div{standing}>{' ' * len(line.text)}  {chip}</div>" for chip in chips[1:]]
            parts.append(f'<pre style="{_CODE}">{"".join(rows)}</pre>')
        parts += [f"<div>{_chip(mark)}</div>" for mark in crowd(self.elsewhere)]
        return f'<div style="{_FRAME}">{"".join(parts)}</div>'


_FRAME = "max-width: 70em"
_TITLE = "font-weight: bold; margin: 4px 0"
_NAME = "opacity: 0.7"
_CODE = "line-height: 1.6; margin: 0 0 8px 0; padding: 6px 8px; border-left: 3px solid #0077BB; background: none"
_STANDING = ' style="background: rgba(0, 119, 187, 0.14)"'
_CHIPS = "font-family: sans-serif; font-weight: bold; padding: 1px 6px; border-radius: 4px; white-space: nowrap; "
_CHIP = {
    STANDS: _CHIPS + "background: #0077BB; color: #FFFFFF",
    PAUSED: _CHIPS + "border: 4px double #0077BB",
    INSIDE: _CHIPS + "border: 1px solid #0077BB",
    NOBODY: _CHIPS + "border: 2px dashed #EE7733",
    DIED: _CHIPS + "background: #1A1A1A; color: #FFFFFF",
}


def _chip(mark: Mark) -> str:
    return f'<span style="{_CHIP[mark.kind]}">{escape(str(mark))}</span>'


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


# -- the snapshot ----------------------------------------------------------------------------------------------------


def code_view(observation: Observation, names: Mapping[Connection, str], stopped: bool = False) -> CodeView:
    """Take the snapshot. `names` says what each connection's client is called."""
    return _made(observation, _stands(_tasks(observation, stopped), names), stopped)


def _tasks(observation: Observation, stopped: bool) -> list[Task]:
    return [task for task in observation.alive() if not (stopped and task.idle())]


class Watch:
    """Looks at a server's threads again and again, and need not wait in between: it remembers the look before."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self._looks: dict[Task, tuple[object, _Look]] = {}
        self._seen: object = None
        self._view: CodeView | None = None

    def look(self, names: Mapping[Connection, str], stopped: bool = False) -> CodeView:
        """As `code_view`. The same object as before, if nothing has moved."""
        looks: dict[Task, tuple[object, _Look]] = {}
        tasks = _tasks(self.observation, stopped)
        calls, frames = _calls(tasks), thread_frames()
        for task in tasks:
            before, key = self._looks.get(task), None
            waiting = task.waiting
            if waiting is not None:  # in accept or recv, and where it was: nothing new is to be seen
                key = (waiting, _chain(frames.get(task.identity() or 0)), names.get(waiting.connection))
                if before is not None and before[0] == key:
                    looks[task] = before
                    continue
            look = _Look(task, names)
            if before is not None:
                look.before = before[1].before
            look.see(calls, frames)
            # It may have gone on since: what is kept must be what was seen of this call, at this place.
            same = key is not None and look.waits is waiting and look.chain == key[1]
            looks[task] = (key if same else None), look
        frames = {}  # a function that returns meanwhile lets go of its variables, as it would without us
        self._looks = looks
        observation = self.observation
        seen: list[object] = [stopped, observation.error, observation.gate.closed]
        seen += [len(observation.functions), observation.accepts.copy()]
        seen += [(task, *each[1].seen) for task, each in looks.items()]
        if self._view is None or seen != self._seen:
            self._seen, self._view = seen, _made(observation, [each[1] for each in looks.values()], stopped)
        return self._view


def _made(observation: Observation, looks: list[_Look], stopped: bool) -> CodeView:
    functions = dict.fromkeys((code.co_filename, code) for code in observation.functions.copy())
    marks: dict[Spot, list[Mark]] = {}
    elsewhere: list[Mark] = []
    for look in looks:
        for code, _ in reversed(look.chain):
            functions.setdefault((code.co_filename, code))
        if look.chain:
            marks.setdefault(_spot(*look.chain[0]), []).append(look.mark)
        else:
            elsewhere.append(look.mark)
        inside = Counter((outer, _called(inner[0])) for inner, outer in itertools.pairwise(look.chain))
        for (outer, name), times in inside.items():
            words = f"is inside {name}" + (f" ({times:,} calls deep)" if times > 1 else "")
            marks.setdefault(_spot(*outer), []).append(Mark(INSIDE, look.mark.thread, words, look.mark.client))
    note = "stopped" if stopped else ""
    if looks and stopped:
        note = f"stopped, but {_threads(len(looks))} did not end"
    asks = current_task()
    if asks is not None and asks.observation is observation and not stopped:
        note = f"{asks.label} asks for this, and is not shown"
    if looks and observation.gate.closed:
        note = f"step by step, {note}" if note else "step by step"
    if observation.error is not None:
        died, place = _died(observation)
        note = f"{note}, after {died}" if note else died
        if place is not None:
            functions.setdefault((place[0].co_filename, place[0]))
            words = f"ended here, {visible(type(observation.error).__name__)}"
            marks.setdefault(_spot(*place), []).append(Mark(DIED, observation.error_thread, words))
    # Who waits in select is ready for a new client, and nobody is missed at the accept.
    if looks and not stopped and not any(look.selects for look in looks):
        for code, line in observation.accepts.copy().items():
            marks.setdefault(_spot(code, line), [Mark(NOBODY, "", "nobody is here")])
    return CodeView(
        visible(observation.name),
        tuple(_functions([code for _, code in functions], marks)),
        tuple(elsewhere),
        len(looks),
        note,
    )


_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")

Chain = list[tuple[CodeType, int]]  # (function, line) from the innermost to the outermost, of the student's code only
Spot = tuple[str | CodeType, int]


def _spot(code: CodeType, line: int) -> Spot:
    """The line in its file. Without a source its number says little: two strings that were run both have a line 1."""
    return (code.co_filename if source_lines(code.co_filename) else code, line)


def _died(observation: Observation) -> tuple[str, tuple[CodeType, int] | None]:
    """What the first thread that died died of, in words; and the line at which it did."""
    error, place = observation.error, None
    link = error.__traceback__ if error is not None else None
    while link is not None:
        if is_student_code(link.tb_frame):
            place = link.tb_frame.f_code, link.tb_lineno
        link = link.tb_next
    return f"{observation.error_thread} ended with {visible(type(error).__name__)}", place


def _stands(tasks: list[Task], names: Mapping[Connection, str]) -> list[_Look]:
    """Where each thread stands, from where it was called, and what it does there."""
    looks = [_Look(task, names) for task in tasks]
    calls, frames = _calls(tasks), thread_frames()
    for look in looks:
        look.see(calls, frames)
    for _ in range(LOOKS):
        unsure = [look for look in looks if not look.words]
        if not unsure:
            break
        frames = {}  # a function that returns meanwhile lets go of its variables, as it would without us
        time.sleep(max(LOOK_AGAIN, 3 * sys.getswitchinterval()))  # one wait for all of them
        calls, frames = _calls([look.task for look in unsure]), thread_frames()
        for look in unsure:
            look.see(calls, frames)
    return [look for look in looks if look.words or look.task.alive()]  # who is unsure may have ended


def _calls(tasks: list[Task]) -> dict[Task, Call | None]:
    """Which call each is in: asked before the frames are taken, and again when one is looked at."""
    return {task: task.call for task in tasks}


class _Look:
    """One thread in the snapshot. No `words`: whether it runs or waits is to be seen from another look."""

    def __init__(self, task: Task, names: Mapping[Connection, str]) -> None:
        self.task, self.names = task, names
        self.words = self.client = self.expression = ""
        self.chain: Chain = []
        self.selects = False  # it waits for whichever of many sockets has something to say
        self.paused = False  # it is held before a call
        self.waits: Observed | None = None  # of which socket it is in accept or recv
        self.guessed = False  # what it is in is no call that we know
        self.before: tuple[object, bytes] | None = None

    @property
    def seen(self) -> tuple[object, ...]:
        return self.chain, self.words, self.client, self.expression, self.paused

    @property
    def mark(self) -> Mark:
        words = self.words or "runs"  # it moved from each look to the next
        if self.guessed and not self.chain:
            words += ", outside of your code"
        if self.guessed and self.client:
            words += f", serving {self.client}"
        return Mark(PAUSED if self.paused else STANDS, self.task.label, words, self.client)

    def see(self, calls: Mapping[Task, Call | None], frames: Mapping[int, FrameType]) -> None:
        innermost = frames.get(self.task.identity() or 0)
        self.chain, self.expression = _chain(innermost), ""
        served = self.task.connection
        self.client = self.names.get(served, "") if served is not None and not served.closed else ""
        held = self.task.paused
        call = held or self.task.call
        if held is None and call != calls[self.task]:
            call = None  # it has gone on meanwhile: its frame was of another call, or of none
        if call is not None and not call.seen.listening:
            self.client = self.names.get(call.seen.connection, "")
        self.paused = held is not None
        self.waits = call.seen if call is not None and held is None and call.kind in ("accept", "recv") else None
        if held is not None:
            self.words = _held(held, self.client)
        elif call is not None:
            self.words = _words(call, self.client)
        else:
            self._see_library(innermost)
        self.guessed = not self.words
        if self.words:
            return
        frame = innermost
        while frame is not None and not is_student_code(frame):
            frame = frame.f_back
        if frame is not None:
            self.expression = _expression(frame)
            self.selects = bool(_SELECT.search(self.expression))
            self.client = "" if self.selects else self.client
        self._judge((id(innermost), innermost.f_lasti if innermost is not None else 0, self.chain))

    def _see_library(self, innermost: FrameType | None) -> None:
        """What it waits for in a function of the standard library that we know: `select`, `join`, a pool's."""
        frame = innermost
        while frame is not None and not is_student_code(frame):
            module, name = frame.f_globals.get("__name__"), frame.f_code.co_name
            # The variables of no other function are looked at: before Python 3.13 the frame would keep what they hold.
            if module == "threading" and name == "join":
                thread = frame.f_locals.get("self")
                task = getattr(thread, "_echo_kit_task", None)
                label = task.label if task else visible(getattr(thread, "name", "a thread"))[:40]
                self.words, self.client = f"waits in join for {label}", ""
            elif module == "selectors" and name == "select":
                self.words, self.client = f"waits in select for {self._selected(frame.f_locals.get('self'))}", ""
                self.selects = True
            elif module == "concurrent.futures.thread" and name == "_worker" and frame is innermost:
                self.words, self.client = "has nothing to do (an idle worker of the pool)", ""
            else:
                frame = frame.f_back
                continue
            return

    def _selected(self, selector: Any) -> str:
        """Whom a selector waits for."""
        observation = self.task.observation
        known = {sock.fileno(): seen for listening in (True, False) for sock, seen in observation.sockets(listening)}
        try:
            seen = [known[key.fd] for key in (selector.get_map() or {}).values() if key.fd in known]
        except (AttributeError, KeyError, RuntimeError):  # not one of `selectors`; it changed while we looked
            seen = []
        who = ["a new client"] if any(each.listening for each in seen) else []
        clients = [self.names.get(each.connection, "a client") for each in seen if not each.listening]
        if len(clients) > CROWD:
            clients = [*clients[: CROWD - 1], f"{len(clients) - CROWD + 1:,} more clients"]
        who += clients
        return ", ".join(who[:-1]) + (" or " if who[1:] else "") + who[-1] if who else "none of its clients"

    def _judge(self, stand: object) -> None:
        """Does it run, or wait in something that is no socket call? It waits if it has been quiet since the last look:
        it stands where it stood, and has not been on a processor.

        Who waits for Python's lock sleeps, too, but wakes every few milliseconds to ask for it. Each time counts as a
        switch, on a machine however busy (else it is "R": it would run if there were a processor). Its time on the
        processor says less: it is next to nothing, for one who asks for the lock as for one who has just woken.
        """
        status = self.task.status()
        quiet = self.before is not None and self.before[0] == stand and b"State:\tR" not in status
        if quiet and self.before is not None and _switches(self.before[1]) == _switches(status):
            verb = "waits" if status else "is"  # only Linux tells
            if self.expression:
                self.words = f"{verb} {'at' if self.expression.startswith('with ') else 'in'} {self.expression}"
            else:
                self.words = "waits" if status else "runs or waits"
        self.before = stand, status


_SELECT = re.compile(r"(^|\.)(select|poll|control)\(")  # control: of kqueue, on macOS


def _chain(frame: FrameType | None) -> Chain:
    """The student's functions that a frame is in. A comprehension is a part of the function in which it is written:
    from Python 3.12 on it has no frame of its own.
    """
    chain: Chain = []
    while frame is not None:
        if is_student_code(frame):
            code = frame.f_code
            inner = chain[-1][0] if chain else None
            if inner is not None and inner.co_name in _COMPREHENSIONS and any(inner is each for each in code.co_consts):
                chain[-1] = code, chain[-1][1]
            else:
                chain.append((code, frame.f_lineno))
        frame = frame.f_back
    return chain


def _switches(status: bytes) -> bytes:
    return status.partition(b"voluntary_ctxt_switches")[2]


def _words(call: Call, client: str) -> str:
    sock = call.seen.ref()
    if sock is not None and sock.gettimeout() == 0:
        return ""  # the call comes back at once: who is seen in it asks again and again
    if call.kind == "accept":
        return "waits in accept for a new client"
    if call.kind == "recv":
        return f"waits in recv for {client or 'its client'}"  # also where a file object calls recv_into
    if sock is not None and not ready(sock, selectors.EVENT_WRITE):
        return f"waits in {call.name}: {client or 'its client'} does not read"
    return f"is in {call.name} to {client or 'its client'}"


def _held(call: Call, client: str) -> str:
    """Before which call a thread is held, step by step."""
    who = client or "its client"
    objects = {"recv": f" for {who}", "send": f" to {who}", "close": f" of {client or 'a client'}'s connection"}
    if call.seen.listening:
        objects = {"close": " of the listening socket"}
    return f"paused before {'recv' if call.kind == 'recv' else call.name}{objects.get(call.kind, '')}"


def _expression(frame: FrameType) -> str:
    """The call that a frame is in, as it is written: `time.sleep(5)`."""
    positions = itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None)
    line, end_line, begin, end = next(positions, (None, None, None, None))
    if line is None or end_line is None or begin is None or end is None:
        return ""
    lines = [each.encode() for each in source_lines(frame.f_code.co_filename)[line - 1 : end_line]] or [b""]
    statement = lines[0].decode(errors="replace").strip()
    lines[-1] = lines[-1][:end]  # columns are counted in bytes
    lines[0] = lines[0][begin:]
    text = b"".join(lines).decode(errors="replace").strip()
    if end_line != line:
        try:
            text = ast.unparse(ast.parse(f"({text})", mode="eval"))  # on one line, without comments
        except (SyntaxError, ValueError):
            text = text.partition("\n")[0].strip() + " …"
    if statement.startswith("with ") and (text.startswith("with ") or not text.endswith(")")):
        text = statement.partition(":")[0]  # a lock that is taken: the statement, or what stands in it
    text = visible(text)
    return text if len(text) <= EXPRESSION else text[: EXPRESSION - 1] + "…"


# -- the source ------------------------------------------------------------------------------------------------------


def _functions(codes: list[CodeType], marks: Mapping[Spot, list[Mark]]) -> Iterator[Function]:
    """Each with its lines and their marks. One that is written inside another is shown there, and only there."""
    for filename in {code.co_filename for code in codes}:
        linecache.checkcache(filename)
    extents = [_extent(code) for code in codes]
    for at, (code, extent) in enumerate(zip(codes, extents, strict=True)):
        if extent is None:
            yield _without_source(code, marks)
            continue
        around = (
            other is not None
            and codes[number].co_filename == code.co_filename
            and other[0] <= extent[0]
            and extent[1] <= other[1]
            and (other != extent or number < at)
            for number, other in enumerate(extents)
        )
        if not any(around):
            yield _function(code, extent, marks)


def _extent(code: CodeType) -> tuple[int, int] | None:
    """The first and the last line of a function in its file; None where the file does not hold it."""
    lines = source_lines(code.co_filename)
    first, reach = max(1, code.co_firstlineno), _reach(code)
    if reach > len(lines):
        return None
    if code.co_name == "<module>":
        return 1, len(lines)
    if code.co_name.startswith("<"):
        return first, reach
    try:
        source = inspect.getblock(lines[first - 1 :])  # more than what is compiled: also what is never reached
    except (SyntaxError, tokenize.TokenError):
        return None
    known = any(re.match(rf"\s*(async\s+)?(def|class)\s+{re.escape(code.co_name)}\b", line) for line in source)
    return (first, first + len(source) - 1) if known and reach < first + len(source) else None


def _reach(code: CodeType) -> int:
    """The last line that anything in the function was compiled from."""
    lines = [end_line or 0 for _, end_line, _, _ in code.co_positions()]
    return max([*lines, *(_reach(each) for each in code.co_consts if isinstance(each, CodeType))], default=0)


def _without_source(code: CodeType, marks: Mapping[Spot, list[Mark]]) -> Function:
    lines = range(code.co_firstlineno, max(code.co_firstlineno, _reach(code)) + 1)
    here = sorted(line for at, line in marks if at in (code, code.co_filename) and line in lines)
    name = _called(code) if code.co_name.startswith("<") else f"{_name(code)}(…)"
    missing = Line(code.co_firstlineno, f"{name}  # its source is not at hand")
    return Function(_name(code), (missing, *(Line(line, f"# line {line}", _at(marks, code, line)) for line in here)))


def _function(code: CodeType, extent: tuple[int, int], marks: Mapping[Spot, list[Mark]]) -> Function:
    first, last = extent
    source = source_lines(code.co_filename)[first - 1 : last]
    texts = [visible(line.rstrip().expandtabs()) for line in source]
    margin = min((_margin(text) for text in texts if text), default=0)
    lines = (Line(number, text[margin:], _at(marks, code, number)) for number, text in enumerate(texts, first))
    return Function(_name(code), tuple(lines))


def _called(code: CodeType) -> str:
    nameless = {"<lambda>": "a lambda", "<genexpr>": "a generator expression"}
    nameless["<module>"] = f"code of {visible(code.co_filename)}"
    return nameless.get(code.co_name, code.co_name)


def _name(code: CodeType) -> str:
    return code.co_qualname.rpartition("<locals>.")[2]


def _at(marks: Mapping[Spot, list[Mark]], code: CodeType, line: int) -> tuple[Mark, ...]:
    return tuple(marks.get(_spot(code, line), ()))
