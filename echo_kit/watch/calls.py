"""The methods of `socket.socket` as they are while a server runs: each calls the real one and records what it did.

Patching the methods and not the name also reaches `from socket import socket`, sockets made earlier, and everything
built on them: `makefile`, `socketserver`, pools. A socket that no server owns pays one dictionary look-up.

A broken observer must not break the observed: the real call is always made and its result is always returned. What is
done before and after it stands in `noting`. `recv`, `send` and `sendall`, for which a client waits, have a try of their
own that does the same; they take no lock, and call little.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import selectors
import socket
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from .events import PREVIEW, Address, Connection
from .observation import Observed, ServerStopped, Task, current_task, here, note_functions, noting, observed, task_for
from .output import Routed, route_streams
from .sockets import RESET_ON_CLOSE, waited

# On Linux and macOS shutdown() wakes a thread that is blocked in recv; on Windows recv first waits, also for the alarm.
WAIT_BEFORE_RECV = sys.platform == "win32"
FAMILIES = (socket.AF_INET, socket.AF_INET6)
PEEK = int(socket.MSG_PEEK)  # `&` of the enumeration itself takes microseconds

plain_accept = socket.socket.accept
plain_connect = socket.socket.connect
plain_close = socket.socket.close
plain_listen = socket.socket.listen
plain_recv = socket.socket.recv
plain_recv_into = socket.socket.recv_into
plain_send = socket.socket.send
plain_shutdown = socket.socket.shutdown
seen_at = observed.get


# -- the two that must be fast ---------------------------------------------------------------------------------------


@functools.wraps(plain_recv)
def recv(self: socket.socket, size: int, /, *flags: Any) -> Any:
    __tracebackhide__ = True  # IPython leaves this frame out of a student's traceback
    seen = seen_at(id(self))
    if seen is None:
        return plain_recv(self, size, *flags)
    observation = seen.observation
    if flags or WAIT_BEFORE_RECV or observation.keyboard is not None:
        return read(plain_recv, self, seen, size, *flags)
    log = observation.log
    try:
        task = here.task
        if task is None or task.observation is not observation:
            task = task_for(observation)
        began = log.clock()
        task.entered = ("recv", seen, began)
    except Exception as trouble:
        observation.trouble = trouble
        return plain_recv(self, size)
    try:
        if observation.stopping:
            return b""
        data = plain_recv(self, size)
    except OSError as error:
        if not observation.stopping:
            _record(seen, task, "recv", began, error=type(error))
            raise
    finally:
        task.entered = None
    if observation.stopping:  # to its code it looks as if the client hung up
        _record(seen, task, "recv", began, error=ServerStopped)
        return b""
    try:
        connection = task.connection = seen.connection
        if not connection.messages:  # once a client: which functions it has come to
            note_functions(observation)
        size = len(data)
        if size:
            connection.received += size
            connection.messages += 1
        log.append(("recv", began, log.clock(), connection, task.label, size, data[:PREVIEW], ""))
        log.count()
        if type(sys.stdout) is not Routed:
            route_streams()
    except Exception as trouble:
        observation.trouble = trouble
    return data


def _sender(plain: Callable[..., int | None]) -> Callable[..., int | None]:
    """send or sendall. The stamp "began" is from before the call: the peer may be faster than we are."""
    name = plain.__name__

    @functools.wraps(plain)
    def send(self: socket.socket, data: Any, /, *flags: Any) -> int | None:
        __tracebackhide__ = True
        seen = seen_at(id(self))
        if seen is None:
            return plain(self, data, *flags)
        observation = seen.observation
        log = observation.log
        try:
            task = here.task
            if task is None or task.observation is not observation:
                task = task_for(observation)
            if observation.most_sent is not None and plain is plain_send:
                data = memoryview(data).cast("B")[: observation.most_sent]
            began = log.clock()
            task.entered = (name, seen, began)
        except Exception as trouble:
            observation.trouble = trouble
            return plain(self, data, *flags)
        try:
            result = plain(self, data, *flags) if flags else plain(self, data)
        except OSError as error:
            _record(seen, task, "send", began, error=type(error))
            raise
        finally:
            task.entered = None
        try:
            connection = task.connection = seen.connection
            view: Any = data if type(data) is bytes else memoryview(data).cast("B")
            size = len(view) if result is None else result
            connection.sent += size
            first = view[: size if size < PREVIEW else PREVIEW]
            if view is not data:
                first = bytes(first)
            log.append(("send", began, log.clock(), connection, task.label, size, first, ""))
            log.count()
        except Exception as trouble:
            observation.trouble = trouble
        return result

    return send


# -- the others ------------------------------------------------------------------------------------------------------


@functools.wraps(plain_accept)
def accept(self: socket.socket) -> tuple[socket.socket, Address]:
    __tracebackhide__ = True
    seen = seen_at(id(self))
    if seen is None:
        owner = current_task()
        if owner is not None and self.family in FAMILIES:
            with noting(owner.observation):
                seen = owner.observation.watch_listener(self)  # it was listening before the server was started
    if seen is None or not seen.listening:  # of a connection it fails at once: wait would wait for its next bytes
        return plain_accept(self)
    observation = seen.observation
    with made("accept", seen) as (task, began):
        with noting(observation):
            note_functions(observation, accepts=True)
        try:
            # One thread at a time: another could take the client between select and accept, and no stop wakes a thread
            # that sleeps in accept. (With a timeout it would not sleep long.)
            with seen.turn if self.gettimeout() is None else contextlib.nullcontext():
                wait(seen, self)
                if observation.stopping:
                    raise ServerStopped
                conn, address = plain_accept(self)
        except OSError as error:
            if observation.stopping:
                raise ServerStopped from None
            _record(seen, task, "accept", began, error=type(error))
            raise
    with noting(observation):
        accepted = observation.watch_connection(conn, address)
        with noting(observation):
            accepted.connection.waited = waited(conn)
        _record(accepted, task, "accept", began)
    if observation.stopping:  # and it came after all were told to hang up
        if observation.abort:
            with contextlib.suppress(OSError):
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        conn.close()
        raise ServerStopped
    return conn, address


@functools.wraps(plain_listen)
def listen(self: socket.socket, /, *backlog: int) -> None:
    plain_listen(self, *backlog)
    task = current_task()
    if task is not None and self.family in FAMILIES:
        with noting(task.observation):
            _record(task.observation.watch_listener(self, *backlog), task, "listen", None)


@functools.wraps(plain_recv_into)
def recv_into(self: socket.socket, /, *args: Any, **named: Any) -> Any:
    __tracebackhide__ = True
    seen = seen_at(id(self))
    if seen is None:
        return plain_recv_into(self, *args, **named)
    return read(plain_recv_into, self, seen, *args, **named)


def read(plain: Callable[..., Any], sock: socket.socket, seen: Observed, *args: Any, **named: Any) -> Any:
    """Read as `plain` does: recv with flags, or recv_into, which returns a size."""
    __tracebackhide__ = True
    observation, into = seen.observation, plain is plain_recv_into
    nothing = 0 if into else b""
    with made(plain.__name__, seen) as (task, began):
        try:
            if WAIT_BEFORE_RECV or observation.keyboard is not None:
                wait(seen, sock)
            if observation.stopping:
                return nothing
            result = plain(sock, *args, **named)
        except OSError as error:
            if not observation.stopping:
                _record(seen, task, "recv", began, error=type(error))
                raise
    if observation.stopping:
        _record(seen, task, "recv", began, error=ServerStopped)
        return nothing
    with noting(observation):
        flags = args[1 + into] if len(args) > 1 + into else named.get("flags", 0)
        if not operator.index(flags) & PEEK:
            data = bytes(memoryview(args[0] if args else named["buffer"]).cast("B")[:result]) if into else result
            _record(seen, task, "recv", began, data)
    return result


@functools.wraps(plain_connect)
def connect(self: socket.socket, address: Any, /) -> None:
    __tracebackhide__ = True
    task, began = current_task(), time.perf_counter()  # the clock of every log
    if task is None or task.observation.keyboard is None or self.family not in FAMILIES:
        return plain_connect(self, address)
    observation = task.observation
    with noting(observation):
        note_functions(observation)
    seen = Observed(observation, weakref.ref(self), Connection(()), awaits=selectors.EVENT_WRITE)
    with made("connect", seen):
        interrupted = observation.alarm.connect(plain_connect, self, address, task, lambda: observation.stopping)
    if interrupted:
        raise ServerStopped
    with noting(observation):
        _record(observation.watch_client(self, began), task, "connect", began)


@functools.wraps(plain_shutdown)
def shutdown(self: socket.socket, how: int, /) -> None:
    seen = seen_at(id(self))
    began = None if seen is None else _now(seen)
    plain_shutdown(self, how)
    if seen is not None and how != socket.SHUT_RD:  # of which the other side learns nothing
        _record(seen, None, "shutdown", began)


@functools.wraps(plain_close)
def close(self: socket.socket) -> None:
    seen = seen_at(id(self))
    began = None if seen is None else _now(seen)
    plain_close(self)
    # A file of makefile() may keep it open.
    if seen is not None and self.fileno() == -1 and observed.pop(id(self), None) is not None:
        _record(seen, None, "close", began)
        seen.connection.closed = True
        with noting(seen.observation):
            task = task_for(seen.observation)
            if task.connection is seen.connection:
                task.connection = None


TWINS: dict[str, Callable[..., Any]] = {
    **{"accept": accept, "connect": connect, "listen": listen, "shutdown": shutdown, "close": close},
    **{"recv": recv, "recv_into": recv_into},
    **{"send": _sender(plain_send), "sendall": _sender(socket.socket.sendall)},
}


# -- what they are made of -------------------------------------------------------------------------------------------


def _now(seen: Observed) -> float | None:
    with noting(seen.observation):
        return seen.observation.log.clock()
    return None


@contextlib.contextmanager
def made(name: str, seen: Observed) -> Iterator[tuple[Task | None, float | None]]:
    """The thread's task says that it is in the call `name`. Gives the task, and when it began; None if that failed."""
    task, began = None, _now(seen)
    with noting(seen.observation):
        task = task_for(seen.observation)
        if seen.listening:
            task.connection = None
        if began is not None:
            task.entered = (name, seen, began)
    try:
        yield task, began
    finally:
        if task is not None:
            task.entered = None


def _record(
    seen: Observed, task: Task | None, kind: str, began: float | None, data: bytes = b"", error: type | None = None
) -> None:
    """The thread's task where `task` is None; now where `began` is None."""
    if error in (BlockingIOError, TimeoutError, InterruptedError):
        return
    observation, connection = seen.observation, seen.connection
    with noting(observation):
        if task is None:
            task = task_for(observation)
        if not seen.listening:
            task.connection = connection
        if kind == "recv" and not connection.messages:
            with noting(observation):
                note_functions(observation)
        if data:
            connection.received += len(data)
            connection.messages += 1
        ended, name = observation.log.clock(), "" if error is None else error.__name__
        began = ended if began is None else began
        observation.log.add(kind, began, connection, task.label, len(data), data[:PREVIEW], name, ended=ended)
        if type(sys.stdout) is not Routed:
            route_streams()  # something like redirect_stdout has replaced it, or put back what was there before


def wait(seen: Observed, sock: socket.socket) -> None:
    """Wait as a blocking read of `sock` would, with its timeout, and also for the server's stop, or Ctrl+C."""
    observation, timeout = seen.observation, sock.gettimeout()
    if timeout == 0 or sock.fileno() == -1 or observation.stopping:
        return  # the real call returns at once
    try:
        if not observation.alarm.wait(sock, timeout, current_task(), lambda: observation.stopping):
            return
    except TimeoutError:
        raise
    except Exception as trouble:
        observation.trouble = trouble
        return  # the real call says what is wrong, or waits
    raise ServerStopped
