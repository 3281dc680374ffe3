"""How a student's function becomes a server, serve(host, port); and what a check changes in the interpreter."""

from __future__ import annotations

import contextlib
import functools
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from ..servers import serve_single
from ..watch.frames import is_student_code
from ..watch.observe import current_task
from .trial import Trial

Serve = Callable[[str, int], object]


def as_it_is(serve: Callable[..., Any], trial: Trial) -> Serve:
    """The function is a server. The trial notes what it was given, and which threads were left when it returned."""

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
    """The function handles a client; the server around it is that of Part 1."""

    def run(conn: socket.socket, addr: Any) -> None:
        with conn:
            handle(conn, addr)

    return _accepting(run)


def a_thread_each(handle: Callable[..., Any], trial: Trial) -> Serve:
    """The function handles a client; the server around it is that of Part 2.

    Nobody would guess the names of its threads, but they are the same in each check, and so are the reports. The
    threads take turns after every instruction of the student's code: a race between two instructions is then lost.
    """
    numbers = random.Random(1969)

    def run(conn: socket.socket, addr: Any) -> None:
        with conn, taking_turns():
            handle(conn, addr)

    def begin(conn: socket.socket, addr: Any) -> None:
        threading.Thread(target=run, args=(conn, addr), name=f"waiter {numbers.getrandbits(24):06x}").start()

    return _accepting(begin)


def _accepting(each: Callable[[socket.socket, Any], None]) -> Serve:
    def serve(host: str, port: int) -> None:
        with socket.create_server((host, port)) as s:
            while True:
                each(*s.accept())

    return serve


def not_at_all(function: Callable[..., Any], trial: Trial) -> Serve:
    """The function is an experiment with a server: the finished one of Part 1."""
    return serve_single


# -- what changes the interpreter --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _for_now(change: Callable[[Any], object], now: Any, then: Any) -> Iterator[None]:
    """Change something of the interpreter, and in the end change it back."""
    change(now)
    try:
        yield
    finally:
        change(then)


def no_default_timeout() -> contextlib.AbstractContextManager[None]:
    """Undoes what a student's code says with `socket.setdefaulttimeout`, which holds for all sockets made later."""
    return _for_now(socket.setdefaulttimeout, None, socket.getdefaulttimeout())


def taking_turns() -> contextlib.AbstractContextManager[None]:
    """After each instruction of the student's code, this thread lets another one run."""
    return _for_now(sys.settrace, _take_turns, None)


def _take_turns(frame: FrameType, event: str, arg: object) -> Any:
    if not is_student_code(frame):
        return None
    frame.f_trace_opcodes = True
    if event == "opcode":
        time.sleep(0)  # gives the interpreter lock to a thread that waits for it
    return _take_turns


@contextlib.contextmanager
def closed_silently(sock: socket.socket) -> Iterator[socket.socket]:
    """Closes the socket in the end; threads that the student's function has left waiting in it then end silently."""
    before = set(threading.enumerate())
    yield sock
    plain = threading.excepthook

    def hook(died: threading.ExceptHookArgs) -> None:
        if died.thread in before or not isinstance(died.exc_value, OSError):
            plain(died)

    with _for_now(functools.partial(setattr, threading, "excepthook"), hook, plain):
        with sock, contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # wakes every thread that waits in it
        deadline = time.monotonic() + 1.0
        for thread in set(threading.enumerate()) - before:
            thread.join(max(0.0, deadline - time.monotonic()))
