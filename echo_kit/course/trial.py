"""What `check` stands on: a student's server is tried by real clients, and what it did is told in a student's words.

An exercise (`exercises.py`) says what is tried and what must come back, with a `Trial` and its `Guest`s. The first
thing that is not as it must be ends the trial. Nothing that a server does can hold it up: every wait has a bound, the
server may not have more than `THREADS` threads, and in the end it is stopped.
"""

from __future__ import annotations

import contextlib
import html
import inspect
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..client import Client, EchoError, Refused, Reset
from ..server import Server, ServerStuck, start
from ..servers import serve_single
from ..views.code import DIED, STANDS, CodeView, Mark
from ..views.snapshot import Snapshot
from ..watch.frames import source_line, student_frame, student_traceback
from ..watch.observation import Task, current_task
from ..watch.patches import turns_after_each_instruction
from ..watch.text import visible

__all__ = [
    "Exercise",
    "Guest",
    "NotYet",
    "Report",
    "Serve",
    "Trial",
    "a_thread_each",
    "as_it_is",
    "carry_out",
    "not_at_all",
    "one_at_a_time",
    "quoted",
]

PATIENCE = 3.0  # seconds that a server has for each answer; where it is certain that none will come, less
THREADS = 100  # that a server on trial may have
EVENTS = 10_000  # the newest, that the views of a server on trial know: one that never waits makes thousands a second
MUCH = 2000  # times 64 KB: more than any system keeps for a server that does not read
PART = 100  # bytes of which one send() takes no more: it may, anywhere, and only sendall() goes on
MOMENT = 0.05  # seconds from one look to the next
RESTLESS = 0.2  # seconds that a server may take to come to rest, if it is likely that it never does
WIDEST = 300  # characters of an error's words, or of a line of code
SHOWN = 60  # characters of a message that a report quotes
KINDS = {("conn", "addr"), ("host", "port"), ("sock", "data")}  # of functions that an exercise may ask for
ORDER = "bind, listen, accept, in this order"


class NotYet(Exception):
    """The first thing that was not as it must be."""

    def __init__(self, expected: str, happened: str, look: str) -> None:
        super().__init__(happened)
        self.expected, self.happened, self.look = expected, happened, look


Serve = Callable[[str, int], object]


@dataclass(frozen=True)
class Exercise:
    """`number` and `title` as in the notebook; `takes` are the parameters of the student's function.

    serve     makes a server of it, serve(host, port)
    requires  what is tried and what must come back
    shows     what a report shows of the server when something was not
    """

    number: str
    title: str
    takes: tuple[str, ...]
    serve: Callable[[Callable[..., Any], Trial], Serve]
    requires: Callable[[Trial], None]
    shows: Callable[[Server], Snapshot | CodeView] = Server.snapshot


@dataclass(frozen=True)
class Report:
    """What `check` returns: whether the solution `passed`, and in words what was tried and what happened.

    `view` is the server as it was when the first thing was not as it must be.
    """

    exercise: str
    done: tuple[str, ...]  # what was as it must be
    tried: str = ""
    problem: NotYet | None = None
    view: Snapshot | CodeView | None = None

    @property
    def passed(self) -> bool:
        """Whether all was as it must be."""
        return self.problem is None

    @property
    def _title(self) -> str:
        return f"{'✔' if self.passed else '✘'} {self.exercise}: {'solved' if self.passed else 'not yet'}"

    def _rows(self) -> Iterator[tuple[str, str]]:
        for each in self.done:
            yield "right", each
        if self.problem is not None:
            yield "tried", self.tried
            yield "expected", self.problem.expected
            yield "happened", self.problem.happened
            if self.problem.look:
                yield "look at", self.problem.look

    def __str__(self) -> str:
        lines = [self._title]
        for name, words in self._rows():
            first, *more = words.split("\n")
            lines += [f"  {name:<8}  {first}", *(f"  {'':<8}  {each}" for each in more)]
        return "\n".join(lines)

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


@dataclass
class Trial:
    """One run of a student's server, and what has been tried so far."""

    function: Callable[..., Any]
    server: Server = None  # type: ignore[assignment]  # there is one as soon as it listens
    called_with: tuple[str, int] = ("", 0)
    returned: bool = False  # the student's serve came back
    left: tuple[str, ...] = ()  # the threads that were alive then
    done: list[str] = field(default_factory=list)
    trying: str = "the server is started"
    guests: list[Guest] = field(default_factory=list)
    restless: bool = False  # the server never waits for long: it looks again and again
    at_the_end: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # what is closed when all is over

    def tries(self, words: str) -> None:
        """What was tried until now was right. Next come `words`."""
        self.done.append(self.trying)
        self.trying = words

    def settle(self, seconds: float = 1.0) -> bool:
        """Wait until the server has come to rest; not for long, if it is one that never does."""
        rested = self.server.settle(min(seconds, RESTLESS) if self.restless else seconds)
        self.restless = not rested
        return rested

    def guest(self, name: str, look: str = "the loop around accept: it never ends", settle: float = 1.0) -> Guest:
        """A client that has connected. `settle`: seconds in which the server may come to rest, before and after."""
        self.settle(settle)  # or it would connect to a server that is about to end, or not: as it happens
        try:
            guest = Guest(self, Client(self.server, name=name, timeout=PATIENCE))
        except EchoError as error:
            happened = "nobody listens any more" if isinstance(error, Refused) else "nobody answered"
            if isinstance(error, Reset):
                happened = f"the server hung up on {name}"
            raise self.not_yet(f"{name} can connect", happened, look) from None
        self.guests.append(guest)
        self.settle(settle)  # what the server does by itself is done before the client speaks
        return guest

    def not_yet(self, expected: str, happened: str, look: str) -> NotYet:
        """With what has become of the server: it ended with an error, and on which line, or where its threads stand."""
        view = self.server.where()  # this waits until the server has come to rest: what it dies of, it has died of then
        error = self.server.error
        if error is not None:
            died = [f"the line  {_cut(text)}" for text, mark in _marks(view) if mark.kind == DIED]
            return NotYet(expected, f"{happened}; {_died_of(error)}", "\n".join([*died[:1], *filter(None, [look])]))
        if self._reads_nothing():
            look = "recv returns no bytes when its client has left, each time it is called: leave the loop then"
        return NotYet(expected, f"{happened}\n({self._stands(view)})", look)

    def _reads_nothing(self) -> bool:
        """Whether the server goes on calling recv on a connection that has ended."""
        events = self.server.observation.log
        ends = Counter(
            id(each.connection) for each in events if each.kind == "recv" and not each.size | bool(each.error)
        )
        return max(ends.values(), default=0) > 2

    def _stands(self, view: CodeView) -> str:
        """Where the threads of the server stand, in one sentence."""
        if not self.settle():
            return "your server is busy all the time: it never waits"
        marks = [mark for _, mark in _marks(view) if mark.kind == STANDS]
        marks += [mark for mark in view.elsewhere if mark.kind == STANDS]
        return "; ".join(f"{mark.thread} {mark.words}" for mark in marks[:4]) or "no thread of your server is left"

    def nothing_will_come(self) -> bool:
        """Whether every thread of the server waits, without a time limit, for a client that has nothing to say."""
        if not self.server.settle(RESTLESS):
            return False
        return all(map(_waits_without_limit, self.server.observation.alive()))

    def result_of(self, *arguments: Any, look: str, idle: str = "", still: float = 3 * PATIENCE) -> Any:
        """What the student's function returns. It may wait for ever, so it runs in a thread of its own; it has, as soon
        as the server has neither read nor sent a byte for `still` seconds.

        Otherwise `look` says where to look, or `idle` does where the server, too, waits for the function.
        """
        result: list[Any] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                result.append(self.function(*arguments))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        moved, since = -1, 0.0
        while thread.is_alive() and (moved < 0 or time.monotonic() - since < still):
            thread.join(MOMENT)
            now = sum(each.received + each.sent for each in self.server.observation.accepted.values())
            if now != moved:
                moved, since = now, time.monotonic()
        if thread.is_alive():
            frame = student_frame(thread.ident)
            line = source_line(frame) if frame is not None else ""
            look = idle if idle and self.nothing_will_come() else look
            raise self.not_yet("your function comes back", f"it still stands at  {line}", look)
        if failed:
            look = look if isinstance(failed[0], OSError) else ""
            raise self.not_yet("your function comes back", f"it{_died_of(failed[0]).removeprefix('your code')}", look)
        return result[0]

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait for what no call of ours waits for. False: it was not so within `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)
        return condition()


class Guest:
    """A client of a trial. Each method raises `NotYet` when the server does not do what it must."""

    def __init__(self, trial: Trial, client: Client) -> None:
        self.trial, self.client, self.name = trial, client, client.name
        self._came = b""  # what no method has been told of yet

    def says(self, data: bytes | str) -> Guest:
        """Send it. That the server has hung up, says who waits for an answer."""
        data = data.encode() if isinstance(data, str) else data
        try:
            self.client.send(data, timeout=PATIENCE)
        except EchoError:
            if not self.has_ended():
                expected = f"the server takes what {self.name} sends: {quoted(data)}"
                look = "the loop around recv: it goes on until recv returns no bytes"
                raise self._not_yet(expected, "the server did not take it all", look) from None
        return self

    def hears(self, data: bytes | str, look: str = "", instead: Mapping[bytes, str] | None = None) -> Guest:
        """Wait for exactly these bytes. `look` says where to look otherwise; `instead`, for a certain wrong answer.

        What comes on top of them is for the next call.
        """
        data = data.encode() if isinstance(data, str) else data
        self._wait_for(len(data))
        if self._came[: len(data)] != data:
            wrong = {began: words for began, words in (instead or {}).items() if self._came.startswith(began)}
            raise self._wrong(f"{self.name} gets {quoted(data)}", wrong[max(wrong, key=len)] if wrong else look)
        self._came = self._came[len(data) :]
        return self

    def hears_line(self, look: str = "") -> str:
        """Wait for a line, and return it without its end."""
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._came and self._wait_for(len(self._came) + 1, deadline):
            pass
        line, end, rest = self._came.partition(b"\n")
        if not end:
            raise self._wrong(f"{self.name} gets a line, with \\n at its end", look)
        self._came = rest
        return line.decode("utf-8", "backslashreplace")

    def hears_nothing(self, look: str = "") -> Guest:
        """Nothing (more) comes, not even the end, until the server has come to rest."""
        self.hears_no_more(f"{self.name} gets nothing more", look)
        if self.has_ended():
            raise self._wrong(
                "the connection stays open", "the loop around recv: it goes on until recv returns no bytes"
            )
        return self

    def hears_no_more(self, expected: str, look: str) -> None:
        """No more bytes come, until the server has come to rest; it may hang up."""
        self.trial.settle()
        deadline = time.monotonic() + PATIENCE
        self._read()
        while self._is_on_its_way() and not self._came and self.client.wait(deadline, to_write=False):
            self._read()
        if self._came:
            raise self._wrong(expected, look)

    def is_hung_up(self, look: str, seconds: float = PATIENCE) -> Guest:
        """The server hangs up within `seconds`, without another byte."""
        deadline = time.monotonic() + seconds
        while not self.has_ended() and time.monotonic() < deadline:
            self.client.wait(min(deadline, time.monotonic() + MOMENT), to_write=False)
        self._read()
        if self._came or not self.has_ended():
            raise self._wrong(f"the server hangs up on {self.name} within {seconds:g} s", look)
        return self

    def has_ended(self) -> bool:
        """Whether the server has hung up."""
        return self.client.ended is not None

    def is_accepted(self) -> bool:
        """Whether the server has taken this client out of the backlog."""
        return self.client.connection.client in self.trial.server.observation.accepted

    def fills_up(self) -> None:
        """Send without reading, until the server takes no more: then it waits in its sendall, if it echoes."""
        with contextlib.suppress(EchoError):
            self.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for _ in range(MUCH):
                if not self.client.offer(bytes(65536)):
                    self.trial.settle()
                    if not self.client.offer(bytes(65536)):
                        return

    def leaves(self) -> None:
        """Hang up in good order."""
        self.client.close()

    def vanishes(self) -> None:
        """Break the connection off: the server gets a reset."""
        self.client.vanish()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        with contextlib.suppress(EchoError):
            self._came += self.client.pending()

    def _is_on_its_way(self) -> bool:
        """Whether the server has sent more than has come, or hung up: on a busy machine that takes a while."""
        there = self.trial.server.observation.accepted.get(self.client.connection.client)
        owed = there is not None and (there.sent > self.client.connection.received or there.closed)
        return owed and not self.has_ended()

    def _wait_for(self, size: int, deadline: float | None = None) -> bool:
        """Wait until so many bytes are there. False: it ended, time is up, or it is certain that none will come."""
        deadline = time.monotonic() + PATIENCE if deadline is None else deadline
        while True:
            self._read()
            if len(self._came) >= size or self.has_ended() or time.monotonic() >= deadline:
                return len(self._came) >= size
            comes = self.client.wait(min(deadline, time.monotonic() + MOMENT), to_write=False)
            if not comes and self.trial.nothing_will_come():
                self._read()
                if not self._is_on_its_way():
                    return len(self._came) >= size

    def _wrong(self, expected: str, look: str) -> NotYet:
        if self._came:
            happened = f"{self.name} got {quoted(self._came)}"
        elif self.has_ended():
            happened = f"the server hung up on {self.name}"
        else:
            happened = f"nothing came to {self.name}"
        return self._not_yet(expected, happened, look)

    def _not_yet(self, expected: str, happened: str, look: str) -> NotYet:
        return self.trial.not_yet(expected, happened, look)


def quoted(data: bytes) -> str:
    """Bytes as text in quotation marks; of many, the first ones and how many they are."""
    text = visible(data.decode("utf-8", "backslashreplace"))
    return f'"{text}"' if len(text) <= SHOWN else f'"{text[: SHOWN // 2]}…" ({len(data):,} bytes)'


def _marks(view: CodeView) -> Iterator[tuple[str, Mark]]:
    for function in view.functions:
        for line in function.lines:
            for mark in line.marks:
                yield line.text.strip(), mark


def _waits_without_limit(task: Task) -> bool:
    sock = task.waiting.ref() if task.waiting is not None else None
    return sock is not None and sock.gettimeout() is None


# -- how a student's function becomes a server -----------------------------------------------------------------------


def as_it_is(serve: Callable[..., Any], trial: Trial) -> Serve:
    """It is a server. Note what it was called with, and what was left when it came back."""

    def run(host: str, port: int) -> None:
        trial.called_with = (host, port)
        try:
            serve(host, port)
        finally:
            task = current_task()
            trial.left = tuple(each.label for each in task.observation.alive()) if task is not None else ()
            trial.returned = True

    return run


def one_at_a_time(handle: Callable[..., Any], trial: Trial) -> Serve:
    """It handles a client: the server of Part 1 around it."""

    def serve(host: str, port: int) -> None:
        with socket.create_server((host, port)) as s:
            while True:
                conn, addr = s.accept()
                with conn:
                    handle(conn, addr)

    return serve


def a_thread_each(handle: Callable[..., Any], trial: Trial) -> Serve:
    """It handles a client: the server of Part 2 around it. Its threads have names that nobody would guess, the same in
    each check, so that a report is; and they take turns after every instruction of the student's, so that what may go
    wrong between two of them does.
    """
    numbers = random.Random(1969)

    def run(conn: socket.socket, addr: Any) -> None:
        with conn, turns_after_each_instruction():
            handle(conn, addr)

    def serve(host: str, port: int) -> None:
        with socket.create_server((host, port)) as s:
            while True:
                conn, addr = s.accept()
                threading.Thread(target=run, args=(conn, addr), name=f"waiter {numbers.getrandbits(24):06x}").start()

    return serve


def not_at_all(function: Callable[..., Any], trial: Trial) -> Serve:
    """It is an experiment: the server is the finished one of Part 1."""
    return serve_single


# -- from the function to the report ---------------------------------------------------------------------------------


def carry_out(exercise: Exercise, function: Any) -> Report:
    """Try the student's function. What it does wrong is in the report, never an exception."""
    name = f"{exercise.number} {exercise.title}"
    problem = _no_function(exercise, function)
    if problem is not None:
        return Report(name, (), "your function is called", problem)
    trial = Trial(function)
    view: Snapshot | CodeView | None = None
    limit = socket.getdefaulttimeout()  # a student's code may set it, for all sockets to come: also those of the next
    socket.setdefaulttimeout(None)
    try:
        _begin(exercise, trial)
        exercise.requires(trial)
        if trial.server.error is not None:
            raise trial.not_yet("no thread of your server ends with an error", "one did", "")
    except NotYet as found:
        problem = found
        view = exercise.shows(trial.server) if trial.server is not None else None
    except Exception as error:  # of the check itself: its clients, too, use what a student's code may have replaced
        happened = f"the check ended with {type(error).__name__}: {_cut(visible(str(error)))}"
        problem = NotYet("your server can be tried", happened, "does your code change what all code uses?")
    finally:
        stuck = _end(trial)
        socket.setdefaulttimeout(limit)
    if stuck is not None:
        if problem is None:
            trial.tries("Ctrl+C is pressed")
            look = "a loop that goes on after an error, or waits without a limit"
            problem = NotYet("the server ends", str(stuck), look)
        else:
            problem.happened += f"\nAnd then it could not be ended: {_cut(str(stuck))}"
    if problem is None:
        trial.done.append(trial.trying)
    return Report(name, tuple(trial.done), trial.trying, problem, view)


def _no_function(exercise: Exercise, function: Any) -> NotYet | None:
    wanted = f"({', '.join(exercise.takes)})"
    look = f'the last line of the cell: check("{exercise.number}", …) takes the name of your function, without brackets'
    if not callable(function):
        try:
            given = repr(function)
        except Exception:  # it is the student's
            given = f"an object of {type(function).__name__}"
        return NotYet(f"a function {wanted}", f"check() was given {visible(given)[:SHOWN]}", look)
    name = getattr(function, "__name__", "your function")
    try:
        signature = inspect.signature(function)
        signature.bind(*exercise.takes)
    except (TypeError, ValueError):
        return NotYet(f"def {name}{wanted}", f"{name} takes something else", f"the line  def {name}")
    names = tuple(signature.parameters)
    if names in KINDS and names != exercise.takes:  # else an error deep in a socket call would be all there is
        return NotYet(f"def {name}{wanted}", f"{name} takes ({', '.join(names)})", f"the line  def {name}")
    return None


def _begin(exercise: Exercise, trial: Trial) -> None:
    name = getattr(trial.function, "__name__", "your function")
    expected = "your server comes to listen"
    serve = exercise.serve(trial.function, trial)
    try:
        title = f"check of {name}"
        trial.server = start(serve, name=title, timeout=PATIENCE, most_threads=THREADS, most_events=EVENTS)
    except (KeyboardInterrupt, NotYet):
        raise
    except ServerStuck as stuck:
        raise NotYet(expected, str(stuck), f"{ORDER}: are they all there?") from None
    except RuntimeError as error:
        look = "after listen, a loop around accept"
        raise NotYet(expected, f"{name} came back at once" if trial.returned else str(error), look) from None
    except BaseException as error:  # SystemExit, too
        line = [each.strip() for each in "".join(student_traceback(error)).splitlines()[1:-1]]
        raise NotYet(expected, _died_of(error), f"the line  {_cut(line[-1])}" if line else "") from None
    trial.server.observation.most_sent = PART
    trial.settle()
    if not trial.server.running:
        look = f"{ORDER}; and a loop around accept, that never ends"
        raise trial.not_yet("your server waits for clients", "it has ended before one came", look)


def _end(trial: Trial) -> ServerStuck | None:
    for guest in reversed(trial.guests):  # or those who wait are served, while the server ends
        guest.leaves()
    with contextlib.suppress(OSError):
        trial.at_the_end.close()
    try:
        if trial.server is not None:
            trial.server.stop()
    except ServerStuck as stuck:
        return stuck
    return None


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _died_of(error: BaseException) -> str:
    said = _cut(visible(str(error)))
    return f"your code ended with {type(error).__name__}{': ' + said if said else ''}"
