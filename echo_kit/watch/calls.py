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

from .events import PREVIEW, Address, Again, Bind, Connection, introduced, preview
from .handed import release
from .observation import Observed, ServerStopped, Task, current_task, here, note_functions, noting, observed, task_for
from .output import Routed, route_streams
from .sockets import system_timeout, waited
from .waiting import open_part, wait

# On Linux and macOS shutdown() wakes a thread that is blocked in recv; on Windows recv first waits, also for the alarm.
WAIT_BEFORE_RECV = sys.platform == "win32"
FAMILIES = (socket.AF_INET, socket.AF_INET6)
PEEK = int(socket.MSG_PEEK)  # `&` of the enumeration itself takes microseconds

plain_accept = socket.socket.accept
plain_bind = socket.socket.bind
plain_connect = socket.socket.connect
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
        if seen.over and observation.stopping:
            return b""
        data = plain_recv(self, size)
    except OSError as error:
        task.entered = None
        _release(seen)
        if not observation.stopping:
            record(seen, task, "recv", began, error=type(error))
            raise
    finally:
        task.entered = None
    if seen.over:
        _release(seen)
        if observation.stopping:  # to its code it looks as if the client hung up
            record(seen, task, "recv", began, error=ServerStopped)
            return b""
    try:
        connection = task.connection = seen.connection
        if not connection.messages:  # once a client: which functions it has come to, and how it calls itself
            note_functions(observation)
            if observation.introductions:
                connection.name = introduced(data)
        count = len(data)
        if count:
            connection.received += count
            connection.messages += 1
        elif not size or again(seen, task, "recv"):  # recv(0) is no end of file
            return data
        first = data[:PREVIEW] if count > PREVIEW else b"%b" % data  # a copy: see preview
        log.append(("recv", began, log.clock(), connection, task.label, count, first, ""))
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
            task.entered = None
            _release(seen)
            record(seen, task, "send", began, error=ServerStopped if seen.connection.cut_off else type(error))
            raise
        finally:
            task.entered = None
        if seen.over:
            _release(seen)
        try:
            connection = task.connection = seen.connection
            view: Any = data if type(data) is bytes else memoryview(data).cast("B")
            size = len(view) if result is None else result
            connection.sent += size
            if size <= PREVIEW:
                if not size and again(seen, task, "send"):
                    return result
                first = b"%b" % view[:size]  # a copy: see preview
            else:
                first = view[:PREVIEW]
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
        if owner is not None and self.family in FAMILIES and self.fileno() != -1:
            with noting(owner.observation):
                if self.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    seen = owner.observation.watch_listener(self)  # it was listening before the server was started
    if seen is None or not seen.listening:  # of a connection it fails at once: wait would wait for its next bytes
        return plain_accept(self)
    observation, timeout = seen.observation, self.gettimeout()  # now: another thread may change it, or close the socket
    kernels = system_timeout(self) if timeout is None else None
    with made("accept", seen) as (task, began):
        with noting(observation):
            note_functions(observation, accepts=True)
        try:
            # One thread at a time: another could take the client between select and accept, and no stop wakes a thread
            # that sleeps in accept. (With a timeout it would not sleep long.)
            with seen.turn if timeout is None else contextlib.nullcontext():
                wait(seen, self, timeout, kernels)
                if observation.stopping:
                    raise stopped(seen, task)
                conn, address = plain_accept(open_part(seen, self, timeout))
            seen.again.clear()  # what failed before has ended
        except OSError as error:
            if observation.stopping:
                raise stopped(seen, task) from None
            record(seen, task, "accept", began, error=type(error))
            raise
    with noting(observation):
        accepted = observation.watch_connection(conn, address)
        with noting(observation):
            accepted.connection.waited = waited(conn)
        record(accepted, task, "accept", began)
    if observation.stopping:  # and it came after all were told to hang up
        conn.close()
        raise stopped(seen, task)
    return conn, address


def stopped(seen: Observed, task: Task | None) -> BaseException:
    """What accept raises in a server that is being stopped: Ctrl+C. A thread that goes on all the same, and calls it
    again, gets what `except KeyboardInterrupt` does not swallow: else it runs round until an exception hits elsewhere.
    """
    again = task in seen.refused
    seen.refused.add(task)
    return SystemExit() if again else ServerStopped()


@functools.wraps(plain_bind)
def bind(self: socket.socket, /, *address: Any) -> None:
    __tracebackhide__ = True
    task = current_task()
    if task is None:
        return plain_bind(self, *address)
    call = Bind(weakref.ref(self), self.family, self.type, address[0] if len(address) == 1 else address)
    task.observation.binds.append(call)
    try:
        plain_bind(self, *address)
    except BaseException as error:
        call.error, call.errno = type(error).__name__, getattr(error, "errno", None)
        raise
    if self.family not in FAMILIES or self.type != socket.SOCK_STREAM:
        task.observation.listening.set()  # start() looks whether it serves that, or goes on to listen


@functools.wraps(plain_listen)
def listen(self: socket.socket, /, *backlog: int) -> None:
    plain_listen(self, *backlog)
    task = current_task()
    if task is not None and self.family in FAMILIES:
        with noting(task.observation):
            record(task.observation.watch_listener(self, *backlog), task, "listen", None)


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
    observation, into, timeout = seen.observation, plain is plain_recv_into, sock.gettimeout()
    nothing = 0 if into else b""
    with made(plain.__name__, seen) as (task, began):
        try:
            if WAIT_BEFORE_RECV or observation.keyboard is not None:
                wait(seen, sock, timeout)
            if observation.stopping:
                return nothing
            result = plain(open_part(seen, sock, timeout), *args, **named)
        except OSError as error:
            if not observation.stopping:
                record(seen, task, "recv", began, error=type(error))
                raise
    if observation.stopping:
        record(seen, task, "recv", began, error=ServerStopped)
        return nothing
    with noting(observation):
        flags = args[1 + into] if len(args) > 1 + into else named.get("flags", 0)
        if not operator.index(flags) & PEEK:
            room = memoryview(args[0] if args else named["buffer"]).cast("B") if into else args[0]
            data = bytes(room[:result]) if into else result
            if data or room:  # recv(0) is no end of file
                record(seen, task, "recv", began, data)
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
        record(observation.watch_client(self, began), task, "connect", began)


TWINS: dict[str, Callable[..., Any]] = {
    **{"bind": bind, "accept": accept, "connect": connect, "listen": listen},
    **{"recv": recv, "recv_into": recv_into},
    **{"send": _sender(plain_send), "sendall": _sender(socket.socket.sendall)},
}


# -- what they are made of -------------------------------------------------------------------------------------------


def now(seen: Observed) -> float | None:
    """By the log's clock; None if that failed."""
    with noting(seen.observation):
        return seen.observation.log.clock()
    return None


@contextlib.contextmanager
def made(name: str, seen: Observed) -> Iterator[tuple[Task | None, float | None]]:
    """The thread's task says that it is in the call `name`. Gives the task, and when it began; None if that failed."""
    task, began = None, now(seen)
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
        _release(seen)


def _release(seen: Observed) -> None:
    """A call has returned: on a socket that was closed meanwhile it may have been the last."""
    if seen.held is not None:
        with noting(seen.observation):
            release(seen)


def again(seen: Observed, task: Task, kind: str, error: str = "") -> bool:
    """Whether this thread has made this call before with this end, which moved nothing: it is counted."""
    key = kind, task.label, error
    before = seen.again.get(key)
    if before is None:
        seen.again[key] = Again(kind, seen.connection, error)
        return False
    before.times += 1
    before.last = seen.observation.log.clock()
    if error or kind != "send":  # of what recv has returned: that says more
        task.again = before
    return True


def record(
    seen: Observed, task: Task | None, kind: str, began: float | None, data: bytes = b"", error: type | None = None
) -> None:
    """The thread's task where `task` is None; now where `began` is None."""
    if error in (BlockingIOError, TimeoutError, InterruptedError):
        return
    observation, connection = seen.observation, seen.connection
    name = "" if error is None else error.__name__
    with noting(observation):
        if task is None:
            task = task_for(observation)
        if not data and (name if kind == "accept" else kind in ("recv", "send")) and again(seen, task, kind, name):
            return
        if not seen.listening:
            task.connection = connection
        elif name and kind != "accept":  # no client has to do with it
            task.connection, task.misused = None, name
        if kind == "recv" and not connection.messages:
            with noting(observation):
                note_functions(observation)
                if observation.introductions:
                    connection.name = introduced(data)
        if data:
            connection.received += len(data)
            connection.messages += 1
        ended = observation.log.clock()
        began = ended if began is None else began
        observation.log.add(kind, began, connection, task.label, len(data), preview(data), name, ended=ended)
        if type(sys.stdout) is not Routed:
            route_streams()  # something like redirect_stdout has replaced it, or put back what was there before
