"""What a server's threads print, warn and die of goes into the server's log, and not into a cell.

`sys.stdout` and `sys.stderr` get a stand-in, `threading.excepthook` and `sys.unraisablehook` (for threads of the
`_thread` module) another function. (ipykernel 7 would show what they say below whichever cell ran last.)
"""

from __future__ import annotations

import functools
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .borrowed import pool_workers
from .events import KeptError
from .frames import name_cells, student_frames, student_spot
from .observation import Observed, Task, current_task, here, lock, noting, observed, running, task_for, task_of

STREAMS = ("stdout", "stderr")

found: dict[str, Any] = {}  # what stood in the place of each of our patches, by name; None: it was inherited
below: dict[str, Any] = {}  # the same, where somebody put theirs over ours, calls ours from it, and we came above that
_kept: deque[tuple[float, object, object]] = deque()


class Routed:
    """Stands in for sys.stdout or sys.stderr: an owned thread's text goes to its server's log, all else through."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def write(self, text: str) -> int:
        task = _printing_task()
        if task is None:
            return int(self._plain.write(text))
        with noting(task.observation):
            if task.connection is None:  # pool workers serve many, one at a time
                seen = _socket_in_the_frames()
                if seen is not None and seen.observation is task.observation:
                    task.connection = seen.connection
            task.observation.write(task, name_cells(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if current_task() is None:
            self._plain.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


def route_streams() -> None:
    """While a server runs, put the stand-ins in place, also again after something replaced them; else take them away.

    print() takes sys.stdout without holding on to it. If another thread replaces it meanwhile, and nobody else has it,
    the process crashes (CPython issue 130163; fixed in 3.12.10 and 3.13.3, and not in 3.11). So both live on.
    """
    with lock:
        for name in STREAMS:
            before, now = getattr(sys, name), time.monotonic()
            if before is not None and isinstance(before, Routed) is not bool(running):
                after = Routed(before) if running else before._plain
                _kept.append((now, before, after))
                setattr(sys, name, after)
            while len(_kept) > 32 and _kept[0][0] < now - 5.0:  # no print takes so many seconds
                _kept.popleft()


def _socket_in_the_frames() -> Observed | None:
    """The connection that the calling code holds in a local variable."""
    values = (value for frame in student_frames(sys._getframe(2)) for value in frame.f_locals.values())
    sockets = (observed.get(id(value)) for value in values)
    return next((seen for seen in sockets if seen is not None and not seen.listening), None)


def _printing_task() -> Task | None:
    """The calling thread's; a worker of a pool that is older than the server is known by the socket that it holds."""
    task = current_task()
    if task is None and threading.current_thread() in pool_workers:
        seen = _socket_in_the_frames()
        return task_for(seen.observation) if seen is not None else None
    return task


def _pass_on(name: str, died: Any) -> None:
    """To what stood here before. If that calls ours again, to what stood here before it."""
    if here.passing_on:
        below.get(name, threading.__excepthook__ if name == "excepthook" else sys.__unraisablehook__)(died)
        return
    here.passing_on = True
    try:
        found[name](died)
    finally:
        here.passing_on = False


@functools.wraps(threading.__excepthook__)
def excepthook(args: threading.ExceptHookArgs, /) -> None:
    task = task_of(args.thread)
    if task is None or args.exc_value is None:
        _pass_on("excepthook", args)
    else:
        with noting(task.observation):
            task.observation.report(task, args.exc_value)


@functools.wraps(sys.__unraisablehook__)
def unraisablehook(unraisable: Any, /) -> None:
    task, error = here.raw, unraisable.exc_value
    if task is None or error is None or not str(unraisable.err_msg).startswith("Exception ignored in thread"):
        _pass_on("unraisablehook", unraisable)
    else:
        with noting(task.observation):
            task.observation.report(task, error)


# -- what a future keeps ---------------------------------------------------------------------------------------------


plain_set_exception = Future.set_exception
_errors: weakref.WeakKeyDictionary[Future[Any], KeptError] = weakref.WeakKeyDictionary()  # of those not asked for yet


@functools.wraps(plain_set_exception)
def set_exception(self: Future[Any], exception: BaseException | None) -> None:
    task = current_task()
    if task is not None and exception is not None and not task.observation.stopping:
        with noting(task.observation):  # not the exception: it holds the variables of the dead functions
            name, place = type(exception).__name__, student_spot(exception)
            _errors[self] = kept = KeptError(task.label, name, place)
            task.observation.kept_errors.append(kept)
    plain_set_exception(self, exception)


def _asker(plain: Callable[..., Any]) -> Callable[..., Any]:
    """result or exception: whoever calls it learns of the error."""

    @functools.wraps(plain)
    def ask(self: Future[Any], timeout: float | None = None) -> Any:
        __tracebackhide__ = True
        try:
            return plain(self, timeout)
        finally:
            kept = _errors.pop(self, None) if self.done() else None
            if kept is not None:
                kept.asked = True

    return ask


FUTURES: dict[str, Callable[..., Any]] = {
    "set_exception": set_exception,
    "result": _asker(Future.result),
    "exception": _asker(Future.exception),
}
