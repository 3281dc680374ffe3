"""Takes the snapshot: on which line each thread stands (`sys._current_frames`), and what it does there, in words.

The running server pays nothing for it: it costs only when it is asked for.
"""

from __future__ import annotations

import itertools
import re
import selectors
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from traceback import walk_stack
from types import FrameType
from typing import Any

from ..watch.events import Connection
from ..watch.frames import is_student_code, source_line, student_frames, student_spot, thread_frames
from ..watch.observation import Call, Observation, Task, current_task, running, task_of
from ..watch.sockets import ready
from ..watch.text import counted, listed, visible
from .code import CROWD, DIED, INSIDE, NOBODY, PAUSED, STANDS, CodeView, Mark
from .kernel import acked
from .source import Chain, Spot, called, chain_of, expression, functions_of, spot
from .story import quote

LOOK_AGAIN = 0.03  # seconds from one look at a thread to the next; one that runs has moved by then
RUNS = 0.01  # seconds on a processor between two looks: it runs
LOOKS = 3  # a thread that was quiet between two of them waits, whatever woke it before
NEWEST = 64  # events that say what a thread that runs does
KEPT = " (kept in the future: nobody asked for its result)"
_LINE = re.compile(r"\breadlines?\(|^for |\bnext\(")
_PLACE = re.compile(r"\.acquire\(|^with ")  # of a semaphore or a lock
_SELECT = re.compile(r"(^|\.)(select|poll|control)\(")  # control: of kqueue, on macOS

Names = Mapping[Connection, str]  # what each connection's client is called


def code_view(observation: Observation, names: Names, stopped: bool = False) -> CodeView:
    """Take the snapshot."""
    looks = [_Look(task) for task in _tasks(observation, stopped)]
    for again in range(1 + LOOKS):
        unsure = [look for look in looks if look.unsure]
        if again and unsure:
            time.sleep(max(LOOK_AGAIN, 3 * sys.getswitchinterval()))  # one wait for all of them
        _see(unsure, names)
    looks = [look for look in looks if look.words or look.task.alive()]  # one without words may have ended
    return _made(observation, looks, stopped)


class Watch:
    """Looks at a server's threads again and again, and need not wait in between: it remembers the look before."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self._looks: dict[Task, _Look] = {}
        self._seen: object = None
        self._view: CodeView | None = None

    def look(self, names: Names, stopped: bool = False) -> CodeView:
        """As `code_view`. The same object as before, if nothing has moved."""
        observation, tasks = self.observation, _tasks(self.observation, stopped)
        self._looks = {task: self._looks.get(task) or _Look(task) for task in tasks}
        looks = list(self._looks.values())
        _see(looks, names)
        seen: list[object] = [stopped, observation.error, observation.gate.closed, len(observation.functions)]
        seen += [observation.accepts.copy(), *((look.task, look.chain, look.mark, look.selects) for look in looks)]
        if self._view is None or seen != self._seen:
            self._seen, self._view = seen, _made(observation, looks, stopped)
        return self._view


def _tasks(observation: Observation, stopped: bool) -> list[Task]:
    return [task for task in observation.alive() if not (stopped and task.idle())]


def _see(looks: list[_Look], names: Names) -> None:
    calls = [look.task.call for look in looks]  # before the frames are taken, and again when one is looked at
    frames = thread_frames() if looks else {}
    for look, call in zip(looks, calls, strict=True):
        look.see(call, frames.get(look.task.identity() or 0), names)


def _made(observation: Observation, looks: list[_Look], stopped: bool) -> CodeView:
    functions = dict.fromkeys((code.co_filename, code) for code in observation.functions.copy())
    marks: defaultdict[Spot, list[Mark]] = defaultdict(list)
    elsewhere: list[Mark] = []
    for look in looks:
        for code, _ in reversed(look.chain):
            functions.setdefault((code.co_filename, code))
        (marks[spot(*look.chain[0])] if look.chain else elsewhere).append(look.mark)
        inside = Counter((outer, called(inner[0])) for inner, outer in itertools.pairwise(look.chain))
        for (outer, name), times in inside.items():
            words = f"is inside {name}" + (f" ({times:,} calls deep)" if times > 1 else "")
            marks[spot(*outer)].append(Mark(INSIDE, look.mark.thread, words, look.mark.client))
    error = observation.error
    cause = f" ({observation.error_cause})" if observation.error_cause else ""
    ends = [] if error is None else [(student_spot(error), observation.error_thread, type(error).__name__, cause)]
    unasked = [each for each in observation.kept_errors.copy() if not each.asked]
    ends += [(each.place, each.thread, each.name, KEPT) for each in unasked]
    for place, thread, name, kept in dict.fromkeys(ends):
        if place is not None:
            functions.setdefault((place[0].co_filename, place[0]))
            marks[spot(*place)].append(Mark(DIED, thread, f"ended here, {visible(name)}{kept}"))
    # A thread in select is ready for a new client, so nobody is missing at the accept.
    if looks and not stopped and not any(look.selects for look in looks):
        for code, line in observation.accepts.copy().items():
            marks.setdefault(spot(code, line), [Mark(NOBODY, "", "nobody is here")])
    shown = tuple(functions_of([code for _, code in functions], marks))
    note = _note(observation, len(looks), stopped)
    return CodeView(visible(observation.name), shown, tuple(elsewhere), len(looks), note)


def _note(observation: Observation, threads: int, stopped: bool) -> str:
    """What the title says besides the number of threads."""
    asks, note = current_task(), ""
    if stopped:
        note = f"stopped, but {counted(threads, 'thread')} did not end" if threads else "stopped"
    elif asks is not None and asks.observation is observation:
        note = f"{asks.label} asks for this, and is not shown"
    if threads and observation.gate.closed:
        note = f"step by step, {note}" if note else "step by step"
    if observation.error is not None:
        died = f"{observation.error_thread} ended with {visible(type(observation.error).__name__)}"
        note = f"{note}, after {died}" if note else died
    return note


class _Look:
    """One thread in the snapshot. No `words`: whether it runs or waits is to be seen from another look."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.words = self.client = ""
        self.chain: Chain = []
        self.selects = False  # it waits for whichever of many sockets has something to say
        self.paused = False  # it is held before a call
        self.unsure = True  # whether it runs or waits, or whether its client reads, is to be seen from another look
        self.guessed = False  # what it is in is no call that we know
        self.again = ""  # what it does again and again, and gets nothing
        self._key: object = None  # in which accept or recv it waited, and for whom
        self._used = 0.0  # the time on a processor
        self._full: object = None  # at the last look: in which such send, and how much its client had taken
        self._before: tuple[object, bytes] | None = None  # at the last look: where it stood, how often it was switched

    @property
    def mark(self) -> Mark:
        words = self.words or "runs"  # it moved from each look to the next
        if self.again and not self.words:
            words += f": {self.again}"
        elif self.guessed:
            words += "" if self.chain else ", outside of your code"
            if self.client and self.task.observation.keyboard is None:  # a client program serves nobody
                words += f", serving {self.client}"
        return Mark(PAUSED if self.paused else STANDS, self.task.label, words, self.client)

    def see(self, before: Call | None, innermost: FrameType | None, names: Names) -> None:
        """Look at it. `before`: the call that it was in before its frame was taken."""
        entered = self.task.entered
        key = (entered, names.get(entered[1].connection)) if entered is not None else None
        if key is not None and key == self._key:
            return  # it waits in the accept or recv in which it was: nothing new is to be seen
        self.chain, self.words, self.selects, self.unsure = chain_of(innermost), "", False, False
        served = self.task.connection
        self.client = names.get(served, "") if served is not None and not served.closed else ""
        held = self.task.paused
        call = held or self.task.call
        if held is None and call != before:
            call = None  # it has gone on meanwhile: its frame was of another call, or of none
        if call is not None:
            self.client = self.client if call.seen.listening else names.get(call.seen.connection, "")
            asks = next(student_frames(innermost), None)
            self.words = _held(call, self.client) if held else self._words(call, self.client, asks)
        self.again = "" if held or (call and call.kind != "send" and self.words) else _again(self.task, names)
        if self.again:
            self.words = ""
        self.paused = held is not None
        # What is kept must be what was seen of this call, at this place.
        same = held is None and call == entered and call is not None and call.kind in ("accept", "recv")
        self._key = key if same and self.words else None
        frame = innermost
        while frame is not None and not self.words and not is_student_code(frame):
            if call is None:  # else it is our own select, before a call
                self._see_library(frame, frame is innermost, names)
            frame = frame.f_back
        self.guessed = not self.words
        if self.guessed:
            written = expression(frame) if frame is not None else ""
            untouched = served is not None and not (served.messages or served.sent)
            accepts = any(code in self.task.observation.accepts for code, _ in self.chain)
            if accepts and untouched and _PLACE.search(written):
                self.client = ""  # it waits for a place, before it or another thread serves the client
            if _SELECT.search(written):
                self.selects, self.client = True, ""
            tried = self.task.again
            if self.again and tried is not None and self.task.observation.log.clock() - tried.last < LOOK_AGAIN:
                return  # it has just done it once more: it runs
            self._judge(written, (id(innermost), innermost.f_lasti if innermost is not None else 0, self.chain))

    def _see_library(self, frame: FrameType, innermost: bool, names: Names) -> None:
        """What it waits for in a function of the standard library that we know: `select`, `join`, a pool's."""
        # The variables of no other function are looked at: before Python 3.13 the frame would keep what they hold.
        module, name = frame.f_globals.get("__name__"), frame.f_code.co_name
        if module == "threading" and name == "join":
            thread = frame.f_locals.get("self")
            task = task_of(thread)
            label = task.label if task else visible(getattr(thread, "name", "a thread"))[:40]
            self.words, self.client = f"waits in join for {label}", ""
        elif module == "selectors" and name == "select":
            self.words, self.client = f"waits in select for {self._selected(frame.f_locals.get('self'), names)}", ""
            self.selects = True
        elif str(module).startswith("ipykernel.") and name in ("raw_input", "getpass"):  # what input is in a kernel
            self.words, self.client = _waits_in_line(frame), ""
        elif module == "socketserver" and name == "shutdown":
            own = any(each.f_code.co_name == "serve_forever" for each, _ in walk_stack(frame))
            self.words = _waits_in_line(frame)
            self.words += ": it returns when serve_forever has ended, and that runs this handler" if own else ""
        elif module == "concurrent.futures.thread" and name == "_worker" and innermost:
            self.words, self.client = "has nothing to do (an idle worker of the pool)", ""

    def _selected(self, selector: Any, names: Names) -> str:
        """Whom a selector waits for."""
        observation = self.task.observation
        known = {sock.fileno(): seen for listening in (True, False) for sock, seen in observation.sockets(listening)}
        try:
            seen = [known[key.fd] for key in (selector.get_map() or {}).values() if key.fd in known]
        except (AttributeError, KeyError, RuntimeError):  # not one of `selectors`; it changed while we looked
            seen = []
        clients = [names.get(each.connection, "a client") for each in seen if not each.listening]
        if len(clients) > CROWD:
            clients = [*clients[: CROWD - 1], f"{len(clients) - CROWD + 1:,} more clients"]
        new = ["a new client"] if any(each.listening for each in seen) else []
        return listed(new + clients, last="or") or "none of its clients"

    def _judge(self, written: str, stand: object) -> None:
        """Does it run, or wait in something that is not a socket call? It waits if it has been quiet since the last
        look: it stands where it stood, and has not been on a processor.

        A thread that waits for Python's lock sleeps, too, but wakes every few milliseconds to ask for the lock. Linux
        counts a switch each time, or says "R" while the thread would run and all processors are busy. The time on the
        processor says less: asking for the lock takes as little of it as waking up.
        """
        status = self.task.status()
        before, self._before = self._before, (stand, status.partition(b"voluntary_ctxt_switches")[2])
        if before == self._before and b"State:\tR" not in status:
            verb = "waits" if status else "is" if written else "runs or waits"  # only Linux tells
            place = f" {'at' if written.startswith('with ') else 'in'} {written}" if written else ""
            self.words = verb + place
        used, self._used = self._used, self.task.processor_time()
        self.unsure = not self.words and not 0 < used < self._used - RUNS

    def _words(self, call: Call, client: str, asks: FrameType | None) -> str:
        sock, who = call.seen.ref(), client or "its client"
        if sock is not None and sock.gettimeout() == 0:
            return ""  # the call returns at once: a thread that is seen in it asks again and again
        if call.kind in ("input", "stdin"):
            return f"waits in {'sys.' if call.kind == 'stdin' else ''}{call.kind} for a line"
        if call.kind == "connect":
            return "waits in connect: the server has not answered"
        if call.kind in ("accept", "recv") and sock is not None and ready(sock, selectors.EVENT_READ):
            return ""  # it does not wait: there is something to be had, or the end
        if call.kind == "accept":
            return "waits in accept for a new client"
        if call.kind == "recv":
            came = "" if call.seen.observation.keyboard is None else ": nothing has come"
            if came and call.seen.connection.received:
                came = ": nothing more has come"
            elif not came and call.name == "recv_into" and asks is not None:  # which a file of makefile() calls
                came = _begun(call, source_line(asks))
            if not came and _waits_too(call):
                came = ", which waits in recv, too"
            return f"waits in recv for {who}{came}"
        if sock is not None and not ready(sock, selectors.EVENT_WRITE):
            before, self._full = self._full, (call, acked(sock))
            self.unsure = before is None
            if before == self._full:
                return f"waits in {call.name}: {who} does not read"
        return f"is in {call.name} to {who}"


def _begun(call: Call, line: str) -> str:
    """Where the student's code waits for a line of text: what has come of it."""
    log, connection = call.seen.observation.log, call.seen.connection
    reads = (each for each in log.newest(NEWEST) if each.connection is connection and each.kind == "recv")
    last = next(reads, None) if _LINE.search(line) else None
    unended = last is not None and 0 < last.size == len(last.data) and not last.data.endswith(b"\n")
    return f": {quote(last)} has come, and no end of the line" if last is not None and unended else ""


def _waits_too(call: Call) -> bool:
    """Whether the client is a program that `run` runs, and waits in recv on the same connection."""
    client = call.seen.connection.client
    theirs = (task.call for each in running if each.keyboard is not None for task in each.alive())
    return any(other.kind == "recv" and other.seen.connection.client == client for other in theirs if other is not None)


def _waits_in_line(frame: FrameType) -> str:
    """The student's own expression in which a function of a library waits."""
    asks = next(student_frames(frame), None)
    return "" if asks is None else f"waits in {expression(asks)}"


def _again(task: Task, names: Names) -> str:
    """What the thread does again and again without getting anything; "" for nothing."""
    again, call = task.again, task.call
    if again is None or (call is not None and call.seen.connection is not again.connection):
        return ""
    if any(each.thread == task.label and each.ended > again.last for each in task.observation.log.newest(NEWEST)):
        return ""  # it has gone on to something else
    if again.error:
        return f"{again.kind} raises {again.error} again and again"
    ours = [end for end in task.observation.clients.copy() if end.client == again.connection.client]
    ended = "has left" if ours and ours[-1].closed else "sends no more"
    return f'recv returns b"" again and again, {names.get(again.connection, "its client")} {ended}'


def _held(call: Call, client: str) -> str:
    """Before which call a thread is held, step by step."""
    who = client or "its client"
    objects = {"recv": f" for {who}", "send": f" to {who}", "close": f" of {client or 'a client'}'s connection"}
    if call.seen.listening:
        objects = {"close": " of the listening socket"}
    return f"paused before {'recv' if call.kind == 'recv' else call.name}{objects.get(call.kind, '')}"
