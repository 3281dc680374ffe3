"""Watches socket code that knows nothing of it; the only file that touches the standard library while it runs.

`begin(observation)` puts the patches in when the first server starts, `end(observation)` takes them out with the last:

* The methods of `socket.socket` (`accept`, `recv`, `sendall`, …) get a twin that calls the real method and adds one
  record. Patching the methods and not the name also reaches `from socket import socket`, sockets made earlier, and
  everything built on them: `makefile`, `socketserver`, pools. A socket that no server owns pays one dictionary look-up.
* `Thread.start` hands ownership on: what an owned thread starts is owned by the same server.
* `sys.stdout` and `sys.stderr` get a stand-in that sends what an owned thread prints to that server's log, and
  `threading.excepthook` and `sys.unraisablehook` (for threads of the `_thread` module) send its last words there.
  (ipykernel 7 would show them below whichever cell ran last.)

While a server runs step by step, each twin stands behind a wrapper that first waits at the server's gate. The twins
themselves know nothing of it, so that it costs nothing when it is off.

A broken observer must not break the observed: the real call always comes first and its result is always returned.
"""

from __future__ import annotations

import concurrent.futures.thread
import contextlib
import functools
import itertools
import operator
import re
import selectors
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, NamedTuple

from .events import PREVIEW, Address, Connection, EventLog, Line, plain_address, reachable
from .frames import forget_variables, is_asked_for, is_student_code, student_traceback, thread_frames
from .gate import Gate, after
from .sockets import RESET_ON_CLOSE, Alarm, ready, waited
from .streams import keep
from .text import visible

# shutdown() wakes a thread that is blocked in recv on Linux and macOS. On Windows the twin of recv first waits for
# data or for the server's wake-up socket.
WAIT_BEFORE_RECV = sys.platform == "win32"
LOG_LINES = 10_000  # printed lines that a server keeps
LINE_LENGTH = 2_000  # characters of a printed line that are kept

_NOT_WORTH_A_RECORD = (BlockingIOError, TimeoutError, InterruptedError)
_WAITS = ("accept", "recv", "recv_into")
_GIVEN_BY_PYTHON = re.compile(r"Thread-\d+( \(.*\))?|.*ThreadPoolExecutor-\d+_\d+")


class ServerStopped(KeyboardInterrupt):
    """What `accept` raises in a server that is being stopped.

    To the code it looks like Ctrl+C: `except OSError` and `except Exception` do not swallow it, and the clean-up that
    was written for Ctrl+C runs.
    """


@dataclass(eq=False)
class Task:
    """A thread that belongs to a server."""

    observation: Observation
    label: str  # "server thread", "thread 1", …: the same in every run
    thread: threading.Thread | None  # None for one started by _thread.start_new_thread
    ident: int | None = None
    native_id: int | None = None  # of such a thread: what the system calls it
    life: Callable[[], object | None] = lambda: None  # of such a thread: gives None when it has ended
    connection: Connection | None = None  # the one it is serving
    partial: Line | None = None  # printed, and the line is not finished yet
    starting: bool = False  # Thread.start() has been called and has not come back
    entered: tuple[str, Observed, float] | None = None  # the fields of `call`: one plain tuple, put down in one step

    @property
    def call(self) -> Call | None:
        """The socket call that it is in: it has been made, and has not returned."""
        entered = self.entered
        return None if entered is None else Call(*entered)

    @property
    def waiting(self) -> Observed | None:
        """The socket on which it is in accept or recv."""
        entered = self.entered
        return entered[1] if entered is not None and entered[0] in _WAITS else None

    @property
    def paused(self) -> Call | None:
        """The call before which it is held, step by step."""
        return self.observation.gate.what(self)

    def identity(self) -> int | None:
        return self.thread.ident if self.thread else self.ident

    def alive(self) -> bool:
        return self.thread.is_alive() if self.thread else self.life() is not None

    def status(self) -> bytes:
        """What Linux says of the thread: one that wants to run is "R", or runs again and again to ask for Python's
        lock, which its count of switches shows. Empty elsewhere.
        """
        native_id = self.thread.native_id if self.thread else self.native_id
        try:
            with open(f"/proc/self/task/{native_id}/status", "rb") as file:
                return file.read()
        except OSError:
            return b""

    def idle(self) -> bool:
        """Whether it is a pool's worker that has nothing to do. The pool may be older than the server: let it be."""
        frame = thread_frames().get(self.identity() or 0)
        return self.thread in _pool_workers and frame is not None and frame.f_code is _idle_code


@dataclass(eq=False, slots=True)
class Observed:
    """An observed socket: a listening one, or the server's end of a connection."""

    observation: Observation
    ref: weakref.ref[socket.socket]
    connection: Connection
    listening: bool = False
    turn: threading.Lock = field(default_factory=threading.Lock)  # one thread at a time waits for a client


class Observation:
    """All that is seen of one server: its threads, its sockets, its events, what it printed."""

    def __init__(self, name: str, log: EventLog | None = None) -> None:
        self.name = name
        self.log = log if log is not None else EventLog()  # an empty one is false
        self.lines: deque[Line] = deque(maxlen=LOG_LINES)
        self.tasks: list[Task] = []
        self.clients: list[Connection] = []  # our own clients' ends, in the order in which they connected
        self.accepted: dict[Address, Connection] = {}  # client's address -> the newest connection from there
        self.address: Address | None = None
        self.backlog: int | None = None
        self.listening = threading.Event()
        self.stopping = False
        self.gate = Gate()  # where its threads are held, step by step
        self.most_threads: int | None = None  # that may be alive at once; and none is started once it is being stopped
        self.most_sent: int | None = None  # bytes that one send() takes at most: fewer than asked for, as it may
        self.abort = False  # end connections by a reset: the port must be free again at once
        self.error: BaseException | None = None
        self.error_thread = ""  # the label of the thread that died of it
        self.functions: dict[CodeType, None] = {}  # of the student, in which a thread has made a call; as first seen
        self.accepts: dict[CodeType, int] = {}  # those that have called accept, and on which line
        self.sighted: dict[Address, float] = {}  # clients not ours, seen in the backlog: when they had connected
        self.trouble: BaseException | None = None  # the observer's own last error
        self._numbers = itertools.count(1)
        self.alarm = Alarm()
        self._kept: list[socket.socket] = []

    # -- threads ---------------------------------------------------------------------------------------------------

    def adopt(self, thread: threading.Thread | None, label: str = "", parent: Task | None = None) -> Task:
        """Make `thread` (None: the calling thread, unknown to `threading`) one of this server's."""
        if not label:
            given = visible(thread.name)[:40] if thread else ""
            label = given if given and not _GIVEN_BY_PYTHON.fullmatch(given) else f"thread {next(self._numbers)}"
        task = Task(self, label, thread)
        if parent is not None:
            task.connection = parent.connection
        if thread is None:
            _raw.task, _raw.life = task, _Life()
            task.ident, task.native_id = threading.get_ident(), threading.get_native_id()
            task.life = weakref.ref(_raw.life)
        else:
            thread._echo_kit_task = task  # type: ignore[attr-defined]
        with _lock:  # several threads may accept, and start a thread each
            # The list holds live threads only: one server may start a thread for each of a million clients.
            # (One that is being started has an ident before it is alive.)
            ended = [each for each in self.tasks if not each.alive() and not each.starting]
            self.drop([each for each in ended if not each.thread or each.thread.ident])
            self.tasks.append(task)
        return task

    def drop(self, tasks: list[Task]) -> None:
        """These have ended, or are a pool's workers of which the server is stopped."""
        self.lines.extend(each.partial for each in tasks if each.partial)
        self.tasks = [each for each in self.tasks if each not in tasks]
        for each in tasks:
            if getattr(each.thread, "_echo_kit_task", None) is each:
                del each.thread._echo_kit_task

    def alive(self) -> list[Task]:
        """Its threads that have not ended, without the calling one."""
        here = threading.get_ident()
        return [task for task in self.tasks if task.identity() != here and task.alive()]

    # -- sockets ---------------------------------------------------------------------------------------------------

    def watch_listener(self, sock: socket.socket, backlog: int | None = None) -> Observed:
        address = sock.getsockname()
        seen = self._watch(sock, Connection(address, name="listener"), listening=True)
        if self.address in (None, address):  # listen may be called again, with another number
            self.address, self.backlog = address, backlog
        # Without SO_REUSEADDR a port stays taken for a minute after the server closed a connection first.
        if sys.platform != "win32" and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR):
            self.abort = True
        self.listening.set()
        return seen

    def watch_connection(self, sock: socket.socket, address: Address) -> Observed:
        connection = Connection(plain_address(address))
        self.accepted[connection.client] = connection
        return self._watch(sock, connection)

    def _watch(self, sock: socket.socket, connection: Connection, listening: bool = False) -> Observed:
        key = id(sock)

        def forget(_: object, log: EventLog = self.log) -> None:  # the last reference went, and with it the socket
            if _observed.pop(key, None) is not None:
                connection.closed = True
                with contextlib.suppress(Exception):
                    log.add("close", log.clock(), connection)

        seen = _observed[key] = Observed(self, weakref.ref(sock, forget), connection, listening)
        return seen

    def sockets(self, listening: bool) -> Iterator[tuple[socket.socket, Observed]]:
        for seen in list(_observed.values()):
            sock = seen.ref()
            if seen.observation is self and seen.listening is listening and sock is not None:
                yield sock, seen

    # -- the end ---------------------------------------------------------------------------------------------------

    def ask_to_stop(self) -> None:
        """Wake every thread that is blocked in a socket call: to the server it looks as if all clients hung up."""
        # First, before any thread wakes: some hang up by themselves, some end and leave their sockets to close_all.
        for _, seen in self.sockets(listening=False):
            seen.connection.cut_off = True
        self._kept = [sock for listening in (True, False) for sock, _ in self.sockets(listening)]
        self.stopping = True
        self.alarm.ring()  # never read: it goes on waking whoever waits in accept
        for sock, _ in self.sockets(listening=True):
            _quietly(_plain_shutdown, sock, socket.SHUT_RDWR)  # on Linux this wakes select() on it, too
        for sock, _ in self.sockets(listening=False):
            if self.abort:  # no end of file before the reset: a client that closed on it would keep the port busy
                _quietly(sock.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            _quietly(_plain_shutdown, sock, socket.SHUT_RD if self.abort else socket.SHUT_RDWR)
        step_by_step(self, False)  # last, so that who is held comes to sockets that are shut down

    def insist(self) -> None:
        """Wake also who waits in sendall for a client that does not read, or in select() where shutdown wakes none."""
        for sock, _ in self.sockets(listening=False):
            if not (self.abort and ready(sock, selectors.EVENT_WRITE)):  # no end of file: see ask_to_stop
                _quietly(_plain_shutdown, sock, socket.SHUT_RDWR)
        for sock, _ in self.sockets(listening=True):
            _quietly(lambda sock=sock: socket.create_connection(reachable(sock.getsockname())[:2], timeout=0.1).close())

    def close_sockets(self) -> None:
        """Close what the server's own code left open."""
        for listening in (False, True):
            for sock, _ in self.sockets(listening):
                _quietly(sock.close)

    def close_all(self) -> None:
        """Close its sockets, and our own two."""
        self.close_sockets()
        self._kept.clear()
        self.alarm.close()

    # -- what it printed -------------------------------------------------------------------------------------------

    def write(self, task: Task, text: str) -> None:
        if task.connection is None:  # pool workers serve many, one at a time
            seen = _socket_in_the_frames()
            task.connection = seen.connection if seen is not None and seen.observation is self else None
        *whole, rest = ((task.partial.text if task.partial else "") + text).split("\n")
        self.lines.extend(Line(task.label, task.connection, _cut(line)) for line in whole)
        task.partial = Line(task.label, task.connection, _cut(rest)) if rest else None

    def printed(self) -> list[Line]:
        """All that was printed, as far as it is kept; last what has no end of line yet."""
        return [*self.lines.copy(), *(task.partial for task in self.tasks if task.partial)]

    def report(self, task: Task, error: BaseException) -> None:
        """A thread died of `error`: remember the first one, and log its traceback without our own frames."""
        if not isinstance(error, (SystemExit, ServerStopped)) and not self.stopping:
            if self.error is None:
                self.error, self.error_thread = error, task.label
            self.write(task, "".join(student_traceback(error)))
        forget_variables(error)


def _cut(line: str) -> str:
    return line if len(line) <= LINE_LENGTH else line[: LINE_LENGTH - 1] + "…"


# -- whose thread is this? -------------------------------------------------------------------------------------------

_observed: dict[int, Observed] = {}  # id(socket) -> what we know; an entry goes before its id can be used again
_raw = threading.local()  # .task and .life of a thread that `threading` does not know; they go when it ends
_pool_workers: Any = getattr(concurrent.futures.thread, "_threads_queues", {})
_idle_code = getattr(getattr(concurrent.futures.thread, "_worker", None), "__code__", None)  # of a worker without work
# Read directly: current_thread() would make, and keep, a dummy for a thread that `threading` does not know.
_active: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
_get_ident = threading.get_ident


class _Life:
    """What a thread holds as long as it lives."""


def current_task() -> Task | None:
    """The task of the calling thread, or None where it belongs to no server."""
    thread = _active.get(threading.get_ident())
    return getattr(_raw, "task", None) if thread is None else getattr(thread, "_echo_kit_task", None)


def _task_for(observation: Observation) -> Task:
    """The task of a thread that makes a call on one of `observation`'s sockets; "" if it is not the server's thread."""
    try:  # nearly always
        task = _active[_get_ident()]._echo_kit_task  # type: ignore[attr-defined]
        if task.observation is observation:
            return task
    except (KeyError, AttributeError):
        pass
    task = current_task()
    if task is not None and task.observation is observation:
        return task
    thread = _active.get(threading.get_ident())
    if thread is None or task is not None or thread in _pool_workers:
        # Started behind the back of `threading`, or a worker of a pool that is older than this server.
        return observation.adopt(thread)
    return Task(observation, thread.name, thread)  # a cell that uses the server's socket: seen, not owned


def _socket_in_the_frames() -> Observed | None:
    """The connection that the calling code holds in a local variable."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if is_student_code(frame):
            for value in frame.f_locals.values():
                seen = _observed.get(id(value))
                if seen is not None and not seen.listening:
                    return seen
        frame = frame.f_back
    return None


def _printing_task() -> Task | None:
    """The task of a thread that prints; a worker of a pool older than the server is known by the socket it holds."""
    task = current_task()
    if task is None and threading.current_thread() in _pool_workers:
        seen = _socket_in_the_frames()
        return _task_for(seen.observation) if seen is not None else None
    return task


def _quietly(call: Callable[..., object], *args: object) -> None:
    with contextlib.suppress(OSError):  # closed already, or the peer is gone: nothing is left to be done
        call(*args)


# -- the twins of socket.socket's methods ----------------------------------------------------------------------------

_plain_accept = socket.socket.accept
_plain_close = socket.socket.close
_plain_listen = socket.socket.listen
_plain_send = socket.socket.send
_plain_shutdown = socket.socket.shutdown
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_PEEK = int(socket.MSG_PEEK)


def _record(
    seen: Observed,
    task: Task | None,  # None: the calling thread's
    kind: str,
    began: float,
    size: int | None = 0,  # None: all of `data`
    data: Any = b"",  # whatever send and recv_into take
    error: BaseException | None = None,
) -> None:
    observation, connection = seen.observation, seen.connection
    try:
        if task is None:
            task = _task_for(observation)
        if not seen.listening:
            task.connection = connection
        view = data if type(data) is bytes else memoryview(data).cast("B")
        if size is None:
            size = len(view)
        if kind == "recv" and not connection.messages:
            _note_functions(observation)
        if size:
            if kind == "recv":
                connection.received += size
                connection.messages += 1
            else:
                connection.sent += size
        name = "" if error is None else type(error).__name__
        observation.log.add(kind, began, connection, task.label, size, bytes(view[: min(size, PREVIEW)]), name)
        if type(sys.stdout) is not _Routed:
            route_streams()  # something like redirect_stdout has replaced it, or put back what was there before
    except Exception as trouble:  # never the observed program's problem
        observation.trouble = trouble


def _wait(seen: Observed, sock: socket.socket) -> None:
    """Wait as a blocking read of `sock` would, and also for the server's stop, or Ctrl+C. TimeoutError as `sock` has it
    set.
    """
    timeout = sock.gettimeout()
    if timeout == 0 or sock.fileno() == -1 or seen.observation.stopping:
        return  # the real call says at once what it has to say
    if seen.observation.alarm.wait(sock, timeout, current_task(), lambda: seen.observation.stopping):
        raise ServerStopped


def _note_functions(observation: Observation, accepts: bool = False) -> None:
    """Remember the student's functions that the calling thread is in, the outermost first."""
    try:
        chain = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if is_student_code(frame):
                chain.append(frame.f_code)
                if accepts and len(chain) == 1:
                    observation.accepts[frame.f_code] = frame.f_lineno
            frame = frame.f_back
        for code in reversed(chain):
            observation.functions.setdefault(code)
    except Exception as trouble:  # never the observed program's problem
        observation.trouble = trouble


def _accept(self: socket.socket) -> tuple[socket.socket, Address]:
    __tracebackhide__ = True
    seen = _observed.get(id(self))
    if seen is None:
        task = current_task()
        if task is None or self.family not in _FAMILIES:
            return _plain_accept(self)
        seen = task.observation.watch_listener(self)  # it was listening before the server was started
    elif not seen.listening:
        return _plain_accept(self)  # of a connection: it fails at once, where _wait would wait for its next bytes
    observation = seen.observation
    task = _task_for(observation)
    task.connection = None
    _note_functions(observation, accepts=True)
    began = observation.log.clock()
    task.entered = ("accept", seen, began)
    try:
        # One thread at a time: between select and accept another could take the client, and this one would then
        # sleep in accept, where a stop does not wake it. (With a timeout it would not sleep long.)
        with seen.turn if self.gettimeout() is None else contextlib.nullcontext():
            _wait(seen, self)
            if observation.stopping:
                raise ServerStopped
            conn, address = _plain_accept(self)
    except OSError as error:
        if observation.stopping:
            raise ServerStopped from None
        if not isinstance(error, _NOT_WORTH_A_RECORD):
            _record(seen, task, "accept", began, error=error)
        raise
    finally:
        task.entered = None
    accepted = observation.watch_connection(conn, address)
    accepted.connection.waited = waited(conn)
    _record(accepted, task, "accept", began)
    if observation.stopping:  # and it came after all were told to hang up
        if observation.abort:
            _quietly(conn.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        conn.close()
        raise ServerStopped
    return conn, address


def _listen(self: socket.socket, *backlog: int) -> None:
    _plain_listen(self, *backlog)
    task = current_task()
    if task is not None and self.family in _FAMILIES:
        seen = task.observation.watch_listener(self, backlog[0] if backlog else None)
        _record(seen, task, "listen", task.observation.log.clock())


def _reader(plain: Callable[..., Any], into: bool) -> Callable[..., Any]:
    """The twin of recv, or of recv_into, which puts what it reads `into` its first argument and returns the size."""
    nothing = 0 if into else b""  # what they return at the end of file
    flags_at = 2 if into else 1  # the flags' place among the arguments
    name = plain.__name__

    def read(self: socket.socket, *args: Any, **named: Any) -> Any:
        __tracebackhide__ = True  # IPython leaves this frame out of a student's traceback
        seen = _observed.get(id(self))
        if seen is None:
            return plain(self, *args, **named)
        observation = seen.observation
        try:
            task = _task_for(observation)
            began = observation.log.clock()
        except Exception as trouble:
            observation.trouble = trouble
            return plain(self, *args, **named)
        task.entered = (name, seen, began)
        try:
            if WAIT_BEFORE_RECV:
                _wait(seen, self)
            if observation.stopping:
                return nothing
            result = plain(self, *args, **named) if named else plain(self, *args)
        except OSError as error:
            if observation.stopping:
                _record(seen, task, "recv", began, error=ServerStopped())
                return nothing
            if not isinstance(error, _NOT_WORTH_A_RECORD):
                _record(seen, task, "recv", began, error=error)
            raise
        finally:
            task.entered = None
        if observation.stopping:
            _record(seen, task, "recv", began, error=ServerStopped())
            return nothing
        if into or named or len(args) > 1:
            if not operator.index(args[flags_at] if len(args) > flags_at else named.get("flags", 0)) & _PEEK:
                data = (args[0] if args else named.get("buffer")) if into else result
                _record(seen, task, "recv", began, result if into else len(result), data)
            return result
        # recv(size), as nearly every server has it. The client waits for what happens from here to the next sendall.
        try:
            connection = task.connection = seen.connection
            if not connection.messages:  # once a client: which functions it has come to
                _note_functions(observation)
            size = len(result)
            if size:
                connection.received += size
                connection.messages += 1
            log = observation.log
            log.append(("recv", began, log.clock(), connection, task.label, size, result[:PREVIEW], ""))
            log.count()
            if type(sys.stdout) is not _Routed:
                route_streams()
        except Exception as trouble:
            observation.trouble = trouble
        return result

    return read


def _sender(plain: Callable[..., int | None]) -> Callable[..., int | None]:
    """The twin of send or sendall. Its stamp "began" is from before the call: the peer may be faster than we.

    The peer waits for what happens before the call, and not for what happens after it: so all else comes after.
    """

    name = plain.__name__

    def send(self: socket.socket, data: Any, /, *args: Any) -> int | None:
        __tracebackhide__ = True
        seen = _observed.get(id(self))
        if seen is None:
            return plain(self, data, *args)
        observation = seen.observation
        try:
            task = _task_for(observation)
            began = observation.log.clock()
            if observation.most_sent is not None and plain is _plain_send:
                data = memoryview(data).cast("B")[: observation.most_sent]
            task.entered = (name, seen, began)
        except Exception as trouble:
            observation.trouble = trouble
            return plain(self, data, *args)
        try:
            result = plain(self, data, *args)
        except OSError as error:
            if not isinstance(error, _NOT_WORTH_A_RECORD):
                _record(seen, task, "send", began, error=error)
            raise
        finally:
            task.entered = None
        _record(seen, task, "send", began, result, data)
        return result

    return send


def _shutdown(self: socket.socket, how: int, /) -> None:
    seen = _observed.get(id(self))
    if seen is None:
        return _plain_shutdown(self, how)
    began = seen.observation.log.clock()
    _plain_shutdown(self, how)
    _record(seen, _task_for(seen.observation), "shutdown", began)


def _close(self: socket.socket) -> None:
    key = id(self)
    seen = _observed.get(key)
    if seen is None:
        return _plain_close(self)
    began = seen.observation.log.clock()
    _plain_close(self)
    if self.fileno() == -1 and _observed.pop(key, None) is not None:  # else a file of makefile() keeps it open
        task = _task_for(seen.observation)
        _record(seen, task, "close", began)
        seen.connection.closed = True
        if task.connection is seen.connection:
            task.connection = None


class Call(NamedTuple):
    """A socket call that has not returned, or before which a thread is held: since `began` in the log's clock.

    `name` is accept, recv or recv_into, send or sendall; of one that is still to come also close.
    """

    name: str
    seen: Observed
    began: float

    @property
    def kind(self) -> str:
        return "recv" if self.name == "recv_into" else "send" if self.name == "sendall" else self.name


_TWINS: dict[str, Callable[..., Any]] = {
    "accept": _accept,
    "listen": _listen,
    "recv": _reader(socket.socket.recv, into=False),
    "recv_into": _reader(socket.socket.recv_into, into=True),
    "send": _sender(socket.socket.send),
    "sendall": _sender(socket.socket.sendall),
    "shutdown": _shutdown,
    "close": _close,
}


# -- step by step ----------------------------------------------------------------------------------------------------


def _pause(name: str, sock: socket.socket) -> None:
    """Hold the calling thread before it calls `name`, if it is one of the server's and the server's code calls."""
    seen = _observed.get(id(sock))
    if seen is None or not seen.observation.gate.closed:
        return
    observation = seen.observation
    try:
        task = current_task()
        if task is None or task.thread in _pool_workers:
            task = _task_for(observation)
        if task.observation is not observation or task is not current_task():
            return  # a cell that uses the server's socket, or a thread of another server
        if name in ("send", "close") and not is_asked_for(sys._getframe(2)):
            return  # by the destructor of a file of makefile(), or to clean up
        task.connection = None if seen.listening else seen.connection
        began = observation.log.clock()
        observation.gate.wait(task, Call(name, seen, began))
        observation.log.add("pause", began, seen.connection, task.label)
    except Exception as trouble:  # never the observed program's problem
        observation.trouble = trouble


_HELD = ("accept", "recv", "recv_into", "send", "sendall", "close")
_STEPPING = {name: after(functools.partial(_pause, name), _TWINS[name]) for name in _HELD}


def step_by_step(observation: Observation, on: bool) -> None:
    """Hold the server's threads before each of their calls from now on, or let all of them go.

    What somebody has patched over one of our patches stays, and such calls are not held.
    """
    with _lock:
        if on and not observation.stopping:
            observation.gate.close()
        else:
            observation.gate.open()
        stepping = any(each.gate.closed for each in _running)
        for name, pausing in _STEPPING.items():
            before, after = (_TWINS[name], pausing) if stepping else (pausing, _TWINS[name])
            if vars(socket.socket).get(name) is before:
                setattr(socket.socket, name, after)


# -- threads, streams, last words ------------------------------------------------------------------------------------


def _start(self: threading.Thread) -> None:
    task = current_task()
    if task is None or self.ident is not None:
        return _found[threading.Thread, "start"](self)
    observation = task.observation
    with _lock:  # counted and entered at once: many may start threads at the same time
        child = observation.adopt(self, parent=task)
        most = observation.most_threads
        if most is not None and (observation.stopping or len(observation.tasks) > most):
            observation.drop([child])
            raise RuntimeError("can't start new thread")  # Python's own words, when the system has no more
        child.starting = True
    # A thread that is blocked in recv would hold up the end of the kernel, which waits for all but daemons.
    self.daemon = True
    try:
        _found[threading.Thread, "start"](self)
    except BaseException:
        with _lock:
            observation.tasks.remove(child)
        raise
    finally:
        child.starting = False


class _Routed:
    """Stands in for sys.stdout or sys.stderr: an owned thread's text goes to its server's log, all else through."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def write(self, text: str) -> int:
        task = _printing_task()
        if task is None:
            return self._plain.write(text)
        task.observation.write(task, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if current_task() is None:
            self._plain.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


def _excepthook(args: threading.ExceptHookArgs) -> None:
    task = getattr(args.thread, "_echo_kit_task", None)
    if task is None or args.exc_value is None:
        _found[threading, "excepthook"](args)
    else:
        task.observation.report(task, args.exc_value)


def _unraisablehook(args: Any) -> None:
    task = getattr(_raw, "task", None)
    if task is None or args.exc_value is None or not str(args.err_msg).startswith("Exception ignored in thread"):
        _found[sys, "unraisablehook"](args)
    else:
        task.observation.report(task, args.exc_value)


_PATCHES: list[tuple[Any, str, Callable[..., Any]]] = [
    *((socket.socket, name, twin) for name, twin in _TWINS.items()),
    (threading.Thread, "start", _start),
    (threading, "excepthook", _excepthook),
    (sys, "unraisablehook", _unraisablehook),
]
_found: dict[tuple[Any, str], Any] = {}  # what stood there before; None: it was inherited
_lock = threading.RLock()
_running: list[Observation] = []


def begin(observation: Observation) -> None:
    """Start to observe; the first observation puts the patches in."""
    with _lock:
        if not _running:
            for owner, name, twin in _PATCHES:
                _found[owner, name] = vars(owner).get(name)
                setattr(owner, name, twin)
        _running.append(observation)
        route_streams()


def end(observation: Observation) -> None:
    """Stop to observe; with the last observation the patches go. Calling it again does nothing."""
    with _lock:
        if observation not in _running:
            return
        step_by_step(observation, False)
        _running.remove(observation)
        # A thread that is stuck stays its own, and goes on printing into its log.
        observation.drop([task for task in observation.tasks if task.idle() or not task.alive()])
        if _running:
            return
        for owner, name, twin in _PATCHES:
            if vars(owner).get(name) is not twin:
                continue  # somebody has patched our patch: it stays, and passes on what is not ours
            if _found[owner, name] is None:
                delattr(owner, name)
            else:
                setattr(owner, name, _found[owner, name])
        for stream in ("stdout", "stderr"):
            if isinstance(getattr(sys, stream), _Routed):
                setattr(sys, stream, keep(getattr(sys, stream))._plain)


def observation_at(address: Address) -> Observation | None:
    """What observes the server that listens at `address`, if it runs in this process."""
    for each in list(_running):
        if each.address is not None and each.address[1] == address[1]:
            everywhere = reachable(each.address) != each.address
            if address[0] in (each.address[0], "localhost") or (everywhere and address[0] in ("127.0.0.1", "::1")):
                return each
    return None


def route_streams() -> None:
    """Put the stand-ins for sys.stdout and sys.stderr in place, also again after something replaced them."""
    with _lock:
        for stream in ("stdout", "stderr"):
            if _running and getattr(sys, stream) is not None and not isinstance(getattr(sys, stream), _Routed):
                setattr(sys, stream, keep(_Routed(getattr(sys, stream))))
