"""Everything that changes the interpreter, in one table: what, and why.

`begin(observation)` puts the stand-ins in when the first server starts, `end(observation)` takes them out with the
last. What is changed for a moment only is changed by a context manager below, or by `stepping.py`. When no server runs
and none of these is open, `state()` is what it was before.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from . import output
from .calls import TWINS
from .frames import is_student_code
from .observation import Observation, ServerStopped, current_task, lock, noting, running
from .output import Routed, restore_streams, route_streams
from .stepping import HELD, step_by_step

plain_start = threading.Thread.start


@functools.wraps(plain_start)
def start(self: threading.Thread) -> None:
    task = current_task()
    if task is None or self.ident is not None:
        return plain_start(self)
    # A thread that is blocked in recv would hold up the end of the kernel, which waits for all but daemons.
    self.daemon = True
    observation, child = task.observation, None
    if observation.stopping and observation.most_threads is not None:
        raise ServerStopped  # its threads might start others faster than they can be ended
    with lock:  # counted and entered at once: many may start threads at the same time
        with noting(observation):
            child = observation.adopt(self, parent=task)
            child.starting = True
        most = observation.most_threads
        if most is not None and len(observation.tasks) > most:
            observation.drop([child] if child is not None else [])
            raise RuntimeError("can't start new thread")  # Python's own words, when the system has no more
    try:
        plain_start(self)
    except BaseException:
        with lock:
            observation.drop([child] if child is not None else [])
        raise
    finally:
        if child is not None:
            child.starting = False


class Patch(NamedTuple):
    owner: Any
    name: str  # of the attribute that is replaced, or of the function that tells what is set
    why: str
    stand_in: Callable[..., Any] | None = None  # while a server runs; None: for a moment, or put in otherwise


TABLE = (
    *(Patch(socket.socket, name, "records the calls (calls.py)", twin) for name, twin in TWINS.items()),
    *(Patch(socket.socket, name, "holds a thread before the call (stepping.py)") for name in HELD),
    Patch(threading.Thread, "start", "a server owns what its threads start", start),
    Patch(threading, "excepthook", "what a thread dies of goes into its server's log (output.py)", output.excepthook),
    Patch(sys, "unraisablehook", "the same for threads of the _thread module (output.py)", output.unraisablehook),
    *(Patch(sys, name, "what a thread prints goes into its server's log (output.py)") for name in output.STREAMS),
    Patch(sys, "argv", "no_program_arguments(): while a server starts"),
    Patch(threading, "excepthook", "silent_ends(): while a check closes the socket at which threads wait"),
    Patch(sys, "gettrace", "turns_after_each_instruction(): in the threads of some checks"),
    Patch(socket, "getdefaulttimeout", "no_default_timeout(): while a check runs"),
    Patch(gc, "isenabled", "collector_paused(): while a timeline is made"),
)
TOLD_BY = ("gettrace", "isenabled", "getdefaulttimeout")  # functions that say what is set
_found: dict[Patch, Any] = {}  # what stood there before; None: it was inherited


def state() -> dict[str, object]:
    """What stands now at each place of the table."""
    now: dict[str, object] = {}
    for owner, name, *_ in TABLE:
        value = vars(owner).get(name)
        if name in output.STREAMS:
            value = isinstance(value, Routed)  # others replace it, too
        now[f"{owner.__name__}.{name}"] = value() if name in TOLD_BY else value
    return now


def begin(observation: Observation) -> None:
    """Start to observe; the first observation puts the stand-ins in."""
    with lock:
        if not running:
            for patch in TABLE:
                if patch.stand_in is not None:
                    _found[patch] = output.found[patch.name] = vars(patch.owner).get(patch.name)
                    setattr(patch.owner, patch.name, patch.stand_in)
        running.append(observation)
        route_streams()


def end(observation: Observation) -> None:
    """Stop to observe; with the last observation the stand-ins go. Calling it again does nothing."""
    with lock:
        if observation not in running:
            return
        step_by_step(observation, False)
        running.remove(observation)
        # A thread that is stuck stays its own, and goes on printing into its log.
        observation.drop([task for task in observation.tasks if task.idle() or not task.alive()])
        if running:
            return
        for patch, before in _found.items():
            if vars(patch.owner).get(patch.name) is not patch.stand_in:
                continue  # somebody has patched our patch: it stays, and passes on what is not ours
            if before is None:
                delattr(patch.owner, patch.name)
            else:
                setattr(patch.owner, patch.name, before)
        restore_streams()


# -- for a moment ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_program_arguments() -> Iterator[None]:
    """A main() that reads sys.argv must not take the kernel's own arguments for its HOST and PORT."""
    kept = sys.argv
    sys.argv = kept[:1]
    try:
        yield
    finally:
        sys.argv = kept


@contextlib.contextmanager
def no_default_timeout() -> Iterator[None]:
    """A student's code may set a timeout for all sockets that are made later: also for those of the next check."""
    kept = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)
    try:
        yield
    finally:
        socket.setdefaulttimeout(kept)


@contextlib.contextmanager
def silent_ends(expected: Callable[[threading.ExceptHookArgs], bool]) -> Iterator[None]:
    """Threads that die of something `expected` do so without a word."""
    kept = threading.excepthook

    def hook(died: threading.ExceptHookArgs) -> None:
        if not expected(died):
            kept(died)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = kept


@contextlib.contextmanager
def turns_after_each_instruction() -> Iterator[None]:
    """The calling thread lets another one run after every instruction of the student's code, so that what may go wrong
    between two of them does.
    """
    kept = sys.gettrace()
    sys.settrace(take_turns)
    try:
        yield
    finally:
        sys.settrace(kept)


def take_turns(frame: FrameType, event: str, _: object) -> Any:
    if not is_student_code(frame):
        return None
    frame.f_trace_opcodes = True
    if event == "opcode":
        time.sleep(0)  # lets go of Python's lock: another thread that wants to run does
    return take_turns


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Hundreds of thousands of stretches are made, and all stay: the garbage collector would look through them, and
    through all else that there is, again and again. (Three quarters of the time that it takes to make them.)
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
