"""What is known of a server that is watched: its threads, its sockets, its events, what it printed.

Nothing here changes the interpreter; `patches.py` does. The patched functions find out by `current_task` and `observed`
whose thread and whose socket they have, and write down here what they see. The threads of a server write their own
`Task` and the `Connection` that they serve; lists that several threads change are changed under `lock`.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import selectors
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, NamedTuple

from .borrowed import calling_thread, idle_worker, pool_workers
from .events import (
    Address,
    Again,
    Bind,
    Connection,
    EventLog,
    KeptError,
    Line,
    Printed,
    forget_ends,
    plain_address,
    reachable,
)
from .frames import forget_variables, student_frames, student_traceback, thread_frames, told_by_linux
from .gate import Gate
from .sockets import Alarm, Opened, close_whole
from .text import visible

KEPT_ERRORS = 100  # of futures, that are known
FEW = 200  # ends of connections that are kept without a look at which of them are over
WAITS = ("accept", "recv", "recv_into", "input", "stdin", "connect")  # calls that wait for somebody else
GIVEN_BY_PYTHON = re.compile(r"Thread-\d+( \(.*\))?|.*ThreadPoolExecutor-\d+_\d+")  # a thread's name


class ServerStopped(KeyboardInterrupt):
    """What `accept` raises in a server that is being stopped: it runs the clean-up that was written for Ctrl+C, and
    `except OSError` and `except Exception` do not swallow it.
    """


class Call(NamedTuple):
    """A socket call that has not returned, or before which a thread is held."""

    name: str  # of a call in WAITS, or send, sendall; of one that is still to come also close
    seen: Observed
    began: float  # in seconds of the log's clock

    @property
    def kind(self) -> str:
        return {"recv_into": "recv", "sendall": "send"}.get(self.name, self.name)


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
    misused: str = ""  # the error of its last recv or send on the listening socket
    again: Again | None = None  # what it has done more than once in a row, and got nothing
    partial: Line | None = None  # printed, and the line is not finished yet
    holds: bool = False  # it asked to be no daemon: its program does not end before it does
    starting: bool = False  # Thread.start() has been called and has not returned
    entered: tuple[str, Observed, float] | None = None  # the fields of `call`: one plain tuple, put down in one step

    @property
    def call(self) -> Call | None:
        """The socket call that it is in: it has been made, and has not returned."""
        return None if (entered := self.entered) is None else Call(*entered)

    @property
    def waiting(self) -> Observed | None:
        """The socket on which it is in accept or recv, or the keyboard from which it reads a line."""
        entered = self.entered
        return entered[1] if entered is not None and entered[0] in WAITS else None

    @property
    def paused(self) -> Call | None:
        """The call before which it is held, step by step."""
        held: Call | None = self.observation.gate.what(self)
        return held

    def identity(self) -> int | None:
        return self.thread.ident if self.thread else self.ident

    def alive(self) -> bool:
        return self.thread.is_alive() if self.thread else self.life() is not None

    def ended(self) -> bool:
        """One that is being started has an ident before it is alive."""
        return not self.alive() and not self.starting and bool(not self.thread or self.thread.ident)

    def status(self) -> bytes:
        """What Linux says of the thread, elsewhere nothing: one that wants to run is "R", or runs again and again to
        ask for Python's lock, which its count of switches shows.
        """
        return self._told("status")

    def processor_time(self, in_line: bool = False) -> float:
        """Seconds that it has spent on a processor, or (`in_line`) in line for one, too; 0.0 where none is told."""
        return sum(map(int, self._told("schedstat").split()[: 1 + in_line])) / 1e9

    def _told(self, name: str) -> bytes:
        return told_by_linux(self.thread.native_id if self.thread else self.native_id, name)

    def idle(self) -> bool:
        """Whether it is an idle worker of a pool. The pool may be older than the server, so its workers stay."""
        frame = thread_frames().get(self.identity() or 0) if self.thread in pool_workers else None
        return frame is not None and frame.f_code is idle_worker


@dataclass(eq=False, slots=True)
class Observed:
    """An observed socket: a listening one, an end of a connection, or what stands in for a program's keyboard."""

    observation: Observation
    ref: weakref.ref[socket.socket]
    connection: Connection
    listening: bool = False
    turn: threading.Lock = field(default_factory=threading.Lock)  # one thread at a time waits for a client
    refused: set[Task | None] = field(default_factory=set)  # the threads that were told in accept that the server stops
    over: bool = False  # the server stops, or the socket was closed: a call that returns now looks twice
    again: dict[tuple[str, str, str], Again] = field(default_factory=dict)  # by kind of call, thread and error
    held: socket.socket | None = None  # of a closed one, while a thread is still in a call on it: see `hold`
    awaits: int = selectors.EVENT_READ  # what ends a wait for it


class _Here(threading.local):
    """What the calling thread knows of itself; it goes when the thread ends."""

    task: Task | None = None  # the newest that `task_for` found, for the two calls that must be fast
    raw: Task | None = None  # of a thread that `threading` does not know
    life: set[object] | None = None  # of such a thread: held as long as it lives
    passing_on = False  # what it died of, to a hook that is not ours


here = _Here()
lock = threading.RLock()
running: list[Observation] = []  # the observations that have begun and not ended
observed: dict[int, Observed] = {}  # by id(socket); an entry goes before its id can be used again


class Observation:
    """All that is seen of one server."""

    def __init__(self, name: str, log: EventLog | None = None) -> None:
        self.name = name
        self.log = log if log is not None else EventLog()  # an empty one is false
        self.printout = Printed()
        self.tasks: list[Task] = []
        self.clients: list[Connection] = []  # our own clients' ends, in the order in which they connected
        self.accepted: dict[Address, Connection] = {}  # client's address -> the newest connection from there
        self._most_ends = FEW  # of those two, until the next look
        self.address: Address | None = None
        self.backlog: int | None = None
        self.listening = threading.Event()
        self.stopping = False
        self.binds: deque[Bind] = deque(maxlen=16)  # the newest calls of bind by its threads
        self.gate = Gate()  # where its threads are held, step by step
        self.most_threads: int | None = None  # alive at once; with it, none is started while the server is stopped
        self.most_sent: int | None = None  # bytes that one send() takes at most: fewer than asked for, as it may
        self.abort = False  # end connections by a reset: the port must be free again at once
        self.error: BaseException | None = None
        self.error_thread = self.error_cause = ""  # the label of the thread that died of it; the cause, if it is known
        self.introductions = False  # whether a client that is not ours may say its name: see `events.introduced`
        self.kept_errors: deque[KeptError] = deque(maxlen=KEPT_ERRORS)
        self.functions: dict[CodeType, None] = {}  # of the student, in which a thread has made a call; as first seen
        self.accepts: dict[CodeType, int] = {}  # those that have called accept, and on which line
        self.sighted: dict[Address, float] = {}  # clients not ours, seen in the backlog: when they had connected
        self.trouble: BaseException | None = None  # the observer's own last error
        self.alarm = Alarm()
        self.keyboard: Observed | None = None  # of a client program, whose connections are observed; servers have none
        self.servers: dict[Connection, Observation | None] = {}  # to which that program has connected; None: not ours
        self.opened = Opened()  # the sockets that its threads have made, also those that no view shows
        self.children: Any = None  # the processes that its threads have forked: a `children.Children`, or None
        self.kept: list[socket.socket] = []  # while it is stopped, so that nobody's last reference closes one
        self._look_at = 8  # how many tasks there are when the ended ones are looked for
        self._numbers = itertools.count(1)

    # -- threads ---------------------------------------------------------------------------------------------------

    def adopt(self, thread: threading.Thread | None, label: str = "", starts_it: Task | None = None) -> Task:
        """Make `thread` (None: the calling thread, unknown to `threading`) one of this server's."""
        if not label:
            given = visible(thread.name)[:40] if thread else ""
            label = given if given and not GIVEN_BY_PYTHON.fullmatch(given) else f"thread {next(self._numbers)}"
        task = Task(self, label, thread)
        if starts_it is not None:
            task.connection, task.starting = starts_it.connection, True
        if thread is None:
            here.raw, here.life = task, set()  # a set: a weak reference can point to it
            task.ident, task.native_id = threading.get_ident(), threading.get_native_id()
            task.life = weakref.ref(here.life)
        else:
            thread._echo_kit_task = task  # type: ignore[attr-defined]
        with lock:  # several threads may accept, and start a thread each
            # One server may start a thread for each of a million clients. To look for those that have ended takes as
            # long as there are threads: so once for as many new ones.
            most = self.most_threads
            if len(self.tasks) >= (self._look_at if most is None else min(most, self._look_at)):
                self.drop([each for each in self.tasks if each.ended()])
                self._look_at = 2 * len(self.tasks) + 8
            self.tasks.append(task)
        return task

    def drop(self, tasks: list[Task]) -> None:
        """Forget these: they have ended, or are workers of a pool, and the server is stopped."""
        self.printout.add(each.partial for each in tasks if each.partial)
        gone = set(tasks)
        self.tasks = [each for each in self.tasks if each not in gone]
        for each in tasks:
            if each.thread is not None and task_of(each.thread) is each:
                del each.thread._echo_kit_task  # type: ignore[attr-defined]

    def alive(self) -> list[Task]:
        """Its threads that have not ended, without the calling one."""
        mine = threading.get_ident()
        return [task for task in self.tasks if task.identity() != mine and task.alive()]

    # -- sockets ---------------------------------------------------------------------------------------------------

    def watch_listener(self, sock: socket.socket, backlog: int | None = None) -> Observed:
        address = sock.getsockname()
        seen = self.watch(sock, Connection(address, name="listener"), listening=True)
        if self.address in (None, address):  # listen may be called again, with another number
            self.address, self.backlog = address, backlog
        # Without SO_REUSEADDR a port stays taken for a minute after the server closed a connection first.
        if sys.platform != "win32" and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR):
            self.abort = True
        self.listening.set()
        return seen

    def watch_connection(self, sock: socket.socket, address: Address) -> Observed:
        with lock:
            connection = self.accepted[plain_address(address)] = Connection(plain_address(address))
        self._forget_ends()
        return self.watch(sock, connection)

    def add_client(self, end: Connection) -> None:
        """One of our own clients has connected."""
        with lock:
            self.clients.append(end)
        self._forget_ends()

    def _forget_ends(self) -> None:
        """The look into the log is only taken when there are twice as many as it left the last time."""
        if len(self.clients) + len(self.accepted) > self._most_ends:
            with lock, noting(self):
                self.clients = forget_ends(self.clients, self.accepted, self.log)
                self._most_ends = FEW + 2 * (len(self.clients) + len(self.accepted))

    def watch_client(self, sock: socket.socket, began: float) -> Observed:
        """The socket of a client program, which is connected now. A server of ours then knows its name."""
        connection = Connection(plain_address(sock.getsockname()), self.name)
        server = observation_at(sock.getpeername())
        if server is not None:
            server.add_client(connection)
            server.log.add("connect", began, connection)
        self.servers[connection] = server
        return self.watch(sock, connection)

    def last_of(self, connection: Connection) -> bool:
        """One of its sockets goes: whether it was the last."""
        with lock:
            connection.sockets -= 1
            return not connection.sockets

    def watch(self, sock: socket.socket, connection: Connection, listening: bool = False) -> Observed:
        key = id(sock)

        def forget(_: object) -> None:  # the last reference went, and with it the socket
            if observed.pop(key, None) is not None:
                with noting(self):
                    if self.last_of(connection):
                        connection.closed = True
                        self.log.add("close", self.log.clock(), connection)

        connection.sockets += 1
        seen = observed[key] = Observed(self, weakref.ref(sock, forget), connection, listening)
        seen.over = self.stopping  # now: after a stop that did not find it
        return seen

    def sockets(self, listening: bool) -> Iterator[tuple[socket.socket, Observed]]:
        for seen in list(observed.values()):
            sock = seen.ref()
            if seen.observation is self and seen.listening is listening and sock is not None:
                yield sock, seen

    def others(self) -> list[socket.socket]:
        """The open sockets that are not observed: for UDP, for TLS, a client's, …"""
        return [each for each in self.opened.now() if id(each) not in observed]

    def all_sockets(self) -> list[socket.socket]:
        return [*(sock for listening in (False, True) for sock, _ in self.sockets(listening)), *self.others()]

    def close_sockets(self) -> None:
        """Close what the server's own code left open."""
        for sock in self.all_sockets():
            close_whole(sock)

    def close_all(self) -> None:
        """Close also our own two."""
        self.close_sockets()
        self._most_ends = 0
        self._forget_ends()
        self.kept.clear()
        self.alarm.close()

    # -- what it printed -------------------------------------------------------------------------------------------

    def write(self, task: Task, text: str) -> None:
        task.partial = self.printout.write(text, task.partial, task.label, task.connection)

    def printed(self) -> list[Line]:
        """All that was printed, as far as it is kept; last what has no end of line yet."""
        of_children = self.children.read() if self.children else []
        return [*self.printout.kept(), *(task.partial for task in self.tasks if task.partial), *of_children]

    def report(self, task: Task, error: BaseException) -> None:
        """A thread died of `error`: remember the first one, and log its traceback without our own frames."""
        if not isinstance(error, (SystemExit, ServerStopped)) and not self.stopping:
            if self.error is None:
                self.error, self.error_thread = error, task.label
                if task.misused == type(error).__name__:
                    self.error_cause = "on the listening socket, not on the one that accept returned"
            self.write(task, "".join(student_traceback(error)))
        forget_variables(error)


@contextlib.contextmanager
def noting(observation: Observation) -> Iterator[None]:
    """Around all that observing does: whatever fails in it is kept in `trouble`, and the watched program goes on."""
    try:
        yield
    except Exception as trouble:
        observation.trouble = trouble


def observation_at(address: Address) -> Observation | None:
    """What observes the server that listens at `address`, if it runs in this process."""
    for each in list(running):
        if each.address is not None and each.address[1] == address[1]:
            everywhere = reachable(each.address) != each.address
            if address[0] in (each.address[0], "localhost") or (everywhere and address[0] in ("127.0.0.1", "::1")):
                return each
    return None


# -- whose thread is this? -------------------------------------------------------------------------------------------


def current_task() -> Task | None:
    """The task of the calling thread, or None where it belongs to no server."""
    thread = calling_thread()
    return here.raw if thread is None else task_of(thread)


def task_of(thread: threading.Thread | None) -> Task | None:
    """The task of a thread that `threading` knows, or None where it belongs to no server."""
    return getattr(thread, "_echo_kit_task", None)


def task_for(observation: Observation) -> Task:
    """The task of a thread that makes a call on one of `observation`'s sockets."""
    task, thread = current_task(), calling_thread()
    if task is None or task.observation is not observation:
        if thread is not None and task is None and thread not in pool_workers:
            return Task(observation, thread.name, thread)  # a cell that uses the server's socket: seen, not owned
        task = observation.adopt(thread)  # unknown to `threading`, or a worker of a pool that is older than this server
    if thread not in pool_workers:  # such a worker may outlive the server, and would keep its log
        here.task = task
    return task


def note_functions(observation: Observation, accepts: bool = False) -> None:
    """Remember the student's functions that the calling thread is in, the outermost first."""
    frames = [*student_frames(sys._getframe(1))]
    if accepts and frames:
        observation.accepts[frames[0].f_code] = frames[0].f_lineno
    for frame in reversed(frames):
        observation.functions.setdefault(frame.f_code)
