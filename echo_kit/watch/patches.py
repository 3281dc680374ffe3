"""Everything that changes the interpreter, in one table: what, and why.

`begin(observation)` puts the stand-ins in when the first server starts, `end(observation)` takes them out with the
last. What is changed for a moment only is changed by a context manager below, or by `step_by_step`. When no server runs
and none of these is open, `state()` is what it was before.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, NamedTuple

from . import output
from .apart import apart
from .borrowed import pool_workers, seems_no_daemon
from .ends import TWINS
from .frames import is_asked_for, is_student_code, student_frames
from .observation import Call, Observation, ServerStopped, Task, current_task, lock, noting, observed, running, task_for

MOST_LATE = 10.0  # seconds that a thread waits before it begins, if nobody lets it begin
SOON = 0.02  # seconds after which each time limit is over, where they end soon
LIMITED = (  # what waits with a time limit. What else does so in `threading` and `queue` calls one of these, or C
    *((threading.Thread, "join"), (threading.Condition, "wait"), (threading.Condition, "wait_for")),
    *((threading.Semaphore, "acquire"), (queue.Queue, "get"), (time, "sleep")),
)

plain_init = socket.socket.__init__
plain_start = threading.Thread.start


@functools.wraps(plain_init)
def init(self: socket.socket, *args: Any, **named: Any) -> None:
    plain_init(self, *args, **named)
    task = current_task()
    if task is not None:
        with noting(task.observation):
            task.observation.opened.add(self)


@functools.wraps(plain_start)
def start(self: threading.Thread) -> None:
    task = current_task()
    if task is None or self.ident is not None:
        return plain_start(self)
    # A thread that is blocked in recv would hold up the end of the kernel, which waits for all but daemons.
    daemon, self.daemon = self.daemon, True
    observation = task.observation
    mine: list[Task] = []  # empty where observing has failed
    if observation.stopping and observation.most_threads is not None:
        raise ServerStopped  # its threads might start others faster than they can be ended
    try:
        with lock:  # counted and entered at once: many may start threads at the same time
            with noting(observation):
                mine = [observation.adopt(self, starts_it=task)]
                mine[0].holds = not daemon
                if observation.gate.late is not None:
                    _begin_late(self, observation.gate.late)
            if observation.most_threads is not None and len(observation.tasks) > observation.most_threads:
                observation.drop(mine)
                raise RuntimeError("can't start new thread")  # Python's own words, when the system has no more
        plain_start(self)
        if mine and mine[0].holds:
            seems_no_daemon(self)
    except BaseException:
        with lock:
            observation.drop(mine)
        raise
    finally:
        for child in mine:
            child.starting = False


def _begin_late(thread: threading.Thread, late: threading.Event) -> None:
    """It runs, and comes to the student's code when `late` is set: what it then finds in a variable of the thread that
    started it may be new. On a busy machine that happens by chance.
    """
    run = thread.run

    def wait_and_run() -> None:
        del thread.run  # else the two refer to each other, and a socket stays open
        late.wait(MOST_LATE)
        run()

    thread.run = wait_and_run  # type: ignore[method-assign]


# -- step by step ----------------------------------------------------------------------------------------------------


def _pause(name: str, sock: socket.socket) -> None:
    """Hold the calling thread before it calls `name`, if it is one of the server's and the server's code calls."""
    seen = observed.get(id(sock))
    if seen is None or not seen.observation.gate.closed:
        return
    observation = seen.observation
    with noting(observation):
        task = current_task()
        if task is None or task.thread in pool_workers:
            task = task_for(observation)
        if task.observation is not observation or task is not current_task():
            return  # a cell that uses the server's socket, or a thread of another server
        if name in ("send", "close") and not is_asked_for(sys._getframe(2)):
            return  # by the destructor of a file of makefile(), or to clean up
        task.connection = None if seen.listening else seen.connection
        began = observation.log.clock()
        observation.gate.wait(task, Call(name, seen, began))
        observation.log.add("pause", began, seen.connection, task.label)


def _held(twin: Callable[..., Any]) -> Callable[..., Any]:
    """`twin`, before which a thread stops. A function of its own, so that it costs nothing when it is off."""

    @functools.wraps(twin)
    def call(self: socket.socket, *args: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        _pause(twin.__name__, self)
        return twin(self, *args, **named)

    return call


HELD = {name: _held(TWINS[name]) for name in ("accept", "recv", "recv_into", "send", "sendall", "close")}


def step_by_step(observation: Observation, on: bool) -> None:
    """Hold the server's threads before each of their calls from now on, or let all of them go.

    What somebody has patched over one of our patches stays, and such calls are not held.
    """
    with lock:
        if on and not observation.stopping:
            observation.gate.closed = True
        else:
            observation.gate.open()
        stepping = any(each.gate.closed for each in running)
        for name, held in HELD.items():
            before, after = (TWINS[name], held) if stepping else (held, TWINS[name])
            if vars(socket.socket).get(name) is before:
                setattr(socket.socket, name, after)


def let_go(observation: Observation, thread: str | None) -> list[str]:
    """Let each thread that is held make its call, or only the one called `thread`; the labels of those."""
    gate = observation.gate
    held = [task for task in observation.alive() if task.paused]
    if thread is not None:
        named = [task for task in held if task.label == thread]
        if not named:
            names = ", ".join(task.label for task in held) or "no thread"
            hint = "" if gate.closed else f"; {observation.name} does not run step by step, pause() makes it do so"
            raise ValueError(f"step() finds no paused thread {thread!r}: paused now: {names}{hint}")
        held = named
    return [task.label for task in held if gate.let_go(task)]


# -- the table -------------------------------------------------------------------------------------------------------


class Patch(NamedTuple):
    owner: Any
    name: str  # of the attribute that is replaced, or of the function that tells what is set
    why: str
    stand_in: Callable[..., Any] | None = None  # while a server runs; None: for a moment, or put in otherwise


TABLE = (
    *(Patch(socket.socket, name, "records the calls (calls.py)", twin) for name, twin in TWINS.items()),
    *(Patch(socket.socket, name, "holds a thread before the call (step_by_step)") for name in HELD),
    Patch(socket.socket, "__init__", "stop closes all that a server's threads have opened", init),
    Patch(threading.Thread, "start", "a server owns what its threads start", start),
    Patch(threading, "excepthook", "what a thread dies of goes into its server's log (output.py)", output.excepthook),
    Patch(sys, "unraisablehook", "the same for threads of the _thread module (output.py)", output.unraisablehook),
    *(
        Patch(Future, name, "what a future keeps of its thread's error (output.py)", each)
        for name, each in output.FUTURES.items()
    ),
    *(Patch(sys, name, "what a thread prints goes into its server's log (output.py)") for name in output.STREAMS),
    Patch(sys, "stdin", "a client program reads the lines that are typed for it (keyboard.py)"),
    Patch(sys, "argv", "program_arguments(): while a server or a client program starts"),
    Patch(threading, "excepthook", "silent_ends(): while a check closes the socket at which threads wait"),
    Patch(sys, "gettrace", "turns_after_each_instruction(): in the threads of some checks"),
    *(Patch(owner, name, "limits_end_soon(): while a check tries who relies on them") for owner, name in LIMITED),
    Patch(socket, "getdefaulttimeout", "no_default_timeout(): while a check runs"),
    Patch(gc, "isenabled", "collector_paused(): while a timeline is made"),
)
_in_place: set[Callable[..., Any]] = set()  # stand-ins that have been put in and not taken out
TOLD_BY = ("gettrace", "isenabled", "getdefaulttimeout")  # functions that say what is set


def state() -> dict[str, object]:
    """What stands now at each place of the table."""
    now = {(owner, name): vars(owner).get(name) for owner, name, *_ in TABLE}
    now |= {(sys, name): isinstance(getattr(sys, name), output.Routed) for name in output.STREAMS}  # others replace it
    return {f"{owner.__name__}.{name}": value() if name in TOLD_BY else value for (owner, name), value in now.items()}


def begin(observation: Observation) -> None:
    """Start to observe; the first observation puts the stand-ins in."""
    apart(lambda _: _change(observation, running.append))


def end(observation: Observation) -> None:
    """Stop to observe; with the last observation the stand-ins go. Calling it again does nothing."""
    apart(lambda _: _change(observation, _leave))


def _leave(observation: Observation) -> None:
    step_by_step(observation, False)
    if observation in running:
        running.remove(observation)
    # A thread that is stuck stays its own, and goes on printing into its log.
    observation.drop([task for task in observation.tasks if task.idle() or not task.alive()])


def _change(observation: Observation, how: Callable[[Observation], None]) -> None:
    with lock:
        before = len(running)
        how(observation)
        put(first=not before)


def put(first: bool = False) -> None:
    """Put the stand-ins in if a server runs, else take them out, where that is not so already. What somebody has put
    over one of ours while a server runs stays, and passes on to ours; only the `first` server puts ours over it.
    """
    for owner, name, _, stand_in in TABLE:
        now = vars(owner).get(name)
        if stand_in is None:
            continue
        if now is stand_in:
            if not running:
                _put_back(owner, name)
                _in_place.discard(stand_in)
        elif running and (first or stand_in not in _in_place):  # never over itself
            if stand_in in _in_place:
                output.below[name] = output.found[name]
            output.found[name] = now
            setattr(owner, name, stand_in)
            _in_place.add(stand_in)
    output.route_streams()


def _put_back(owner: Any, name: str) -> None:
    if output.found[name] is None:
        delattr(owner, name)
    else:
        setattr(owner, name, output.found[name])


# -- for a moment ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _for_now(get: Callable[[], Any], put: Callable[[Any], object], value: Any) -> Iterator[None]:
    kept = get()
    put(value)
    try:
        yield
    finally:
        put(kept)


_arguments: list[list[str]] = []  # what sys.argv was, then what it is for each server that starts now


@contextlib.contextmanager
def program_arguments(*argv: str) -> Iterator[None]:
    """A main() that reads sys.argv must not take the kernel's own arguments for its HOST and PORT."""
    mine = [*argv]
    with lock:  # several may start at once, and end in any order
        _arguments.extend([mine] if _arguments else [sys.argv, mine])
        sys.argv = mine
    try:
        yield
    finally:
        with lock:
            _arguments[:] = [each for each in _arguments if each is not mine]
            sys.argv = _arguments[-1]
            if len(_arguments) == 1:
                _arguments.clear()


@contextlib.contextmanager
def exit_as_in_python(names: dict[str, Any]) -> Iterator[None]:
    """In a notebook's global names, exit() and quit() are IPython's, and end the kernel: Python's own end a program."""
    theirs = {each: names[each] for each in ("exit", "quit") if type(names.get(each)).__module__.startswith("IPython")}
    names.update(dict.fromkeys(theirs, sys.exit))
    try:
        yield
    finally:
        names.update(theirs)


def no_default_timeout() -> AbstractContextManager[None]:
    """A student's code may set a timeout for all sockets that are made later: also for those of the next check."""
    return _for_now(socket.getdefaulttimeout, socket.setdefaulttimeout, None)


def silent_ends(expected: Callable[[threading.ExceptHookArgs], bool]) -> AbstractContextManager[None]:
    """Threads that die of something `expected` do so without a word."""
    tell = threading.excepthook

    def hook(died: threading.ExceptHookArgs) -> None:
        if not expected(died):
            tell(died)

    return _for_now(lambda: tell, lambda each: setattr(threading, "excepthook", each), hook)


def turns_after_each_instruction() -> AbstractContextManager[None]:
    """The calling thread lets another one run after every instruction of the student's code, so that what may go wrong
    between two of them does.
    """
    return _for_now(sys.gettrace, sys.settrace, take_turns)


@contextlib.contextmanager
def limits_end_soon(observation: Observation) -> Iterator[None]:
    """A sleep of the server's, or a wait with a time limit, ends soon; a wait for as long as it takes does not."""

    def soon(value: Any) -> Any:
        return SOON if isinstance(value, int | float) and value > SOON else value  # True stays true

    def call(plain: Callable[..., Any], args: Iterable[Any], named: dict[str, Any]) -> Any:
        task = current_task()
        if task is not None and task.observation is observation and any(student_frames(sys._getframe())):
            args, named = map(soon, args), {name: soon(each) for name, each in named.items()}
        return plain(*args, **named)

    with contextlib.ExitStack() as stack:
        for owner, name in LIMITED:
            get, put = functools.partial(getattr, owner, name), functools.partial(setattr, owner, name)
            plain = get()
            stack.enter_context(_for_now(get, put, lambda *args, plain=plain, **named: call(plain, args, named)))
        yield


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Where hundreds of thousands of objects are made, and all stay: the collector would look through them again and
    again, for three quarters of the time that it takes to make them.
    """
    with _for_now(gc.isenabled, lambda on: gc.enable() if on else gc.disable(), False):
        yield


def take_turns(frame: FrameType, event: str, _: object) -> Any:
    if not is_student_code(frame):
        return None
    frame.f_trace_opcodes = True
    if event == "opcode":
        time.sleep(0)  # lets go of Python's lock: another thread that wants to run does
    return take_turns
