"""How the server's own code ends a socket: shutdown, close and detach; and dup, after which one close ends nothing."""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
from collections.abc import Iterable
from typing import Any

from . import calls
from .calls import now, plain_shutdown, record, seen_at
from .events import Address, plain_address
from .frames import library_name, student_place
from .handed import duplicate, hand_on, hold
from .observation import Observed, current_task, noting, observed, task_for
from .sockets import reset_on_close

plain_close = socket.socket.close
plain_detach = socket.socket.detach
plain_dup = socket.socket.dup
plain_sendmsg: Any = getattr(socket.socket, "sendmsg", None)


def _note_place(seen: Observed) -> None:
    """The line at which the server's own code closes it, the first time: a file of makefile() may end it much later."""
    if not seen.connection.closed_at and not seen.observation.stopping:
        with noting(seen.observation):
            seen.connection.closed_at = student_place(sys._getframe(2))


@functools.wraps(plain_shutdown)
def shutdown(self: socket.socket, how: int, /) -> None:
    seen = seen_at(id(self))
    began = None if seen is None else now(seen)
    plain_shutdown(self, how)
    if seen is not None and how != socket.SHUT_RD:  # of which the client learns nothing
        _note_place(seen)
        record(seen, None, "shutdown", began)


@functools.wraps(plain_close)
def close(self: socket.socket) -> None:
    seen = seen_at(id(self))
    if seen is None:
        return plain_close(self)
    if self is seen.held:
        observed.pop(id(self), None)
        return plain_close(self)
    observation, began, name, held = seen.observation, now(seen), None, None
    with noting(observation), contextlib.suppress(OSError):  # two threads may close it at once
        _note_place(seen)
        if observation.stopping and observation.abort:  # ask_to_stop may not have come to this one yet
            reset_on_close(self)
        held = duplicate(self, seen)
        name = self.getsockname()
    plain_close(self)
    with noting(observation):
        # A file of makefile() may keep it open.
        if self.fileno() == -1 and observed.pop(id(self), None) is not None:
            _closed(seen, began, name, held)
        elif held is not None:
            plain_close(held)


def _closed(seen: Observed, began: float | None, name: Address | None, held: socket.socket | None) -> None:
    """One socket of it is closed."""
    observation, connection = seen.observation, seen.connection
    task, last = task_for(observation), observation.last_of(connection)
    if last and not seen.listening and held is None and name is not None and not observation.stopping:
        with noting(observation):
            if not connection.handed_on:
                hand_on(observation, connection, plain_address(name))
    if not last:
        connection.closed_at = ""
    else:
        connection.closed = True
        if not connection.handed_on:
            record(seen, task, "close", began)
        if task.connection is connection:
            task.connection = None
    if held is not None:
        hold(seen, held)


@functools.wraps(plain_detach)
def detach(self: socket.socket) -> int:
    seen = seen_at(id(self))
    if seen is None:
        return plain_detach(self)
    observation, held = seen.observation, None
    with noting(observation):
        held = duplicate(self, seen) if seen.listening else None
    descriptor = plain_detach(self)
    with noting(observation):
        observed.pop(id(self), None)
        if held is not None:
            hold(seen, held)
        if not seen.listening:
            library = library_name(sys._getframe(1))
            seen.connection.handed_on = f"to {library or 'a file descriptor'}"
    return descriptor


@functools.wraps(plain_dup)
def dup(self: socket.socket) -> socket.socket:
    copy = plain_dup(self)
    seen = seen_at(id(self))
    if seen is not None:
        with noting(seen.observation):
            seen.observation.watch(copy, seen.connection, seen.listening)
    return copy


def sendmsg(self: socket.socket, buffers: Any, ancdata: Iterable[Any] = (), *rest: Any) -> int:
    """As send_fds calls it: with descriptors, that another process will have when it reads them."""
    ancdata = list(ancdata)
    sent: int = plain_sendmsg(self, buffers, ancdata, *rest)
    task = current_task()
    if task is not None:
        with noting(task.observation):
            rights = [data for level, kind, data in ancdata if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)]
            given = {number for data in rights for number in memoryview(data).cast("B").cast("i")}
            for sock, seen in task.observation.sockets(listening=False) if given else ():
                if sock.fileno() in given:
                    seen.connection.handed_on = "to another process"
    return sent


TWINS = calls.TWINS | {"shutdown": shutdown, "close": close, "detach": detach, "dup": dup}
if plain_sendmsg is not None:  # Windows has none
    TWINS["sendmsg"] = functools.wraps(plain_sendmsg)(sendmsg)
