"""What of private names is used: CPython's, read in 3.11, 3.12 and 3.13, and ipykernel's, read in 7.4.0. Where a name
is gone, the package still works; each row says what is lost then, and a test looks for each name.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread as pool
import contextlib
import ctypes
import functools
import selectors
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from threading import get_ident
from types import CodeType, FrameType
from typing import Any

_active: MutableMapping[int, threading.Thread] | None = getattr(threading, "_active", None)

# Whether this Python, of a special build of 3.13 or newer, runs without the interpreter lock. Without it: no.
free_threaded: bool = not getattr(sys, "_is_gil_enabled", lambda: True)()

# The workers of all thread pools. Without it, a pool that is older than the server serves unseen.
pool_workers: Mapping[Any, Any] = getattr(pool, "_threads_queues", {})

# What a worker without work runs. Without it, stop() waits for such a worker, in vain.
idle_worker: CodeType | None = getattr(getattr(pool, "_worker", None), "__code__", None)

# Where a thread waits in the standard library: for a lock (Event.wait, Queue.get and others call Condition.wait) and
# for sockets. Each is written to be left by Ctrl+C. (Until 3.12, Thread.join then takes the other thread for ended.)
waits: set[CodeType] = {
    threading.Condition.wait.__code__,
    *(each.select.__code__ for each in vars(selectors).values() if isinstance(each, type) and hasattr(each, "select")),
}

_raise: Callable[..., int] | None = getattr(getattr(ctypes, "pythonapi", None), "PyThreadState_SetAsyncExc", None)


def go_on(frame: FrameType) -> None:
    """Have a thread that is in Condition.wait go on, and in Queue.get, Event.wait and others with it: an exception that
    was raised in it comes now. `waiter` is the lock for which that thread alone waits, and none but it goes on. Without
    the name, the exception comes when somebody wakes the thread.
    """
    waiter = frame.f_locals.get("waiter") if frame.f_code is threading.Condition.wait.__code__ else None
    if waiter is not None:
        with contextlib.suppress(RuntimeError):  # it goes on already
            waiter.release()


def calling_thread() -> threading.Thread | None:
    """The calling thread; None for one that `threading` does not know. (Without the name, a dummy that it keeps.)"""
    return threading.current_thread() if _active is None else _active.get(get_ident())


def forget_thread() -> None:
    """The calling thread, which `threading` has not started, ends: until 3.12 a dummy would stay in the list of threads
    for it. Without the name, it stays.
    """
    if _active is not None:
        _active.pop(get_ident(), None)


def raise_in(ident: int, exception: type[BaseException] | None) -> None:
    """Raise `exception` in the thread at its next Python instruction; None: take back what has not been raised yet.
    Without the name, stop() only asks.
    """
    if _raise is not None:
        _raise(ctypes.c_ulong(ident), None if exception is None else ctypes.py_object(exception))


def seems_no_daemon(thread: threading.Thread) -> None:
    """The threads that it starts are no daemons, unless they ask to be. Without the name, they are."""
    thread._daemonic = False  # type: ignore[attr-defined]


@functools.cache
def before_exit(call: Callable[[], None]) -> None:
    """Have `call` made, once, before the interpreter waits for its threads, also for the pools' (whose hook was made
    first, and runs later). Of several, the last one registered comes first. Without the name: only after it has waited.
    """
    getattr(threading, "_register_atexit", atexit.register)(call)


def answer_in_any_loop(comm: Any) -> None:
    """Let any loop of the kernel that is free take the page's messages for a widget's `comm`. `_reply_subshell_id` is
    the loop to which the page answers, at first that which runs the cells: else nobody hears it while a cell runs.
    """
    with contextlib.suppress(AttributeError):
        del comm._reply_subshell_id


def answer_nobody() -> None:
    """Let what this thread sends be the answer to no cell. `_shell_parent` is the request that a thread answers, else
    that of the running cell: without this, `answer_in_any_loop` is undone once such a thread has sent.
    """
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    parent = getattr(kernel, "_shell_parent", None)
    if isinstance(parent, ContextVar):
        parent.set({})
