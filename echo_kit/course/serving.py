"""How a student's function becomes a server, serve(host, port), for an exercise's trial."""

from __future__ import annotations

import contextlib
import functools
import random
import socket
import threading
from collections.abc import Callable
from typing import Any

from ..servers import serve_single
from ..watch import patches
from ..watch.observation import current_task
from .trial import Serve, Trial


@functools.cache
def check_host() -> str:
    """Not 127.0.0.1, where this machine has another one: an answer that ignores the host that it is given is seen."""
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.2", 0)) as s:
        socket.create_connection(s.getsockname(), timeout=1).close()
        return "127.0.0.2"
    return "127.0.0.1"


def as_it_is(serve: Callable[..., Any], trial: Trial) -> Serve:
    """The function is a server. The trial notes what it was called with, and the threads left when it returned."""

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
            trial.result = handle(conn, addr)

    return _accepting(run)


def a_thread_each(handle: Callable[..., Any], trial: Trial) -> Serve:
    """The function handles a client; the server around it is that of Part 2.

    Nobody would guess the names of its threads, but they are the same in each check, and so are the reports. The
    threads take turns after every instruction of the student's code: a race between two instructions is then lost.
    """
    numbers = random.Random(1969 + trial.seed)

    def run(conn: socket.socket, addr: Any) -> None:
        with conn, patches.turns_after_each_instruction():
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
