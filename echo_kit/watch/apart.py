"""Work that Ctrl+C must not break off, and that two threads must not do at once: starting and stopping a server."""

from __future__ import annotations

import contextlib
import threading
from _thread import allocate_lock, start_new_thread  # Ctrl+C in Thread.start or Event.wait leaves them half done
from collections.abc import Callable, Iterator
from typing import TypeVar
from weakref import WeakValueDictionary

from .borrowed import forget_thread
from .observation import current_task, lock

SLICE = 0.1  # seconds after which the main thread looks for Ctrl+C by itself: on Windows, no wait is ended by one
PATIENCE = 1.0  # seconds that Ctrl+C waits for the work to end
TURN = 30.0  # seconds at most that a start or a stop waits for another one of that name to be done

Result = TypeVar("Result")

_turns: WeakValueDictionary[str, threading.RLock] = WeakValueDictionary()  # who starts or stops a server of that name


class ServerStuck(TimeoutError):
    """A thread of the server did not end, or did not come to listen; the message says on which line it stands."""


class Asker:
    """Who asked for a piece of work. `gone`: by Ctrl+C; the events are set then, so that the work waits no longer."""

    def __init__(self) -> None:
        self.gone = False
        self.wakes: list[threading.Event] = []


def apart(work: Callable[[Asker], Result]) -> Result:
    """Do `work` as a whole. Python raises KeyboardInterrupt at any instruction, but only in the main thread: there, the
    work is done in a thread of its own, and Ctrl+C ends the waiting for it.
    """
    __tracebackhide__ = True
    asker, busy = Asker(), allocate_lock()
    if threading.get_ident() != threading.main_thread().ident:
        return work(asker)
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        # A thread that `threading` does not know, and that closes a server's socket, would be taken for the server's.
        threading.current_thread().name = threading.main_thread().name
        try:
            results.append(work(asker))
        except BaseException as error:
            errors.append(error)
        finally:
            forget_thread()
            busy.release()

    busy.acquire()
    try:
        start_new_thread(run, ())
        while not busy.acquire(timeout=SLICE):
            pass
    except RuntimeError:  # no thread is to be had
        return work(asker)
    except BaseException:
        asker.gone = True
        for each in asker.wakes:
            each.set()
        if not (results or errors):
            busy.acquire(timeout=PATIENCE)
        raise
    if errors:
        raise errors.pop()
    return results.pop()


@contextlib.contextmanager
def turn(name: str) -> Iterator[bool]:
    """One start, stop or restart of a name at a time. Gives False where somebody else is at it, who may wait for the
    calling thread: it is one of such a server.
    """
    here = current_task()
    own = here is not None and here.observation.name == name
    with lock:
        mine = _turns.setdefault(name, threading.RLock())
    if mine.acquire(timeout=0 if own else TURN):
        try:
            yield True
        finally:
            mine.release()
    elif own:
        yield False
    else:
        raise ServerStuck(
            f"another thread has been starting or stopping {name} for {TURN:g} s, and goes on. Wait for it, or start "
            "the server under another name."
        )
