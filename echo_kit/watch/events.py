"""What was seen: one record a socket call, the bounded log that keeps the records, and a line that was printed.

Plain data and nothing else. Times are seconds of one monotonic clock (`EventLog.clock`); an event carries two: when
the call began and when it returned.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from types import CodeType
from typing import Any, NamedTuple

from .borrowed import free_threaded
from .text import cut, visible

INTRODUCED, NAME = b"I am ", 20  # how a client that is not ours gives its name, and letters of it that are kept
PREVIEW = 40  # bytes of a message that a record keeps
LOG_LINES = 10_000  # printed lines that a server keeps,
LOG_LENGTH = 100_000  # and how many characters they have together
LINE_LENGTH = 2_000  # characters of a printed line that are kept
CAPACITY = 250_000  # events that a log keeps unless told otherwise: less than 75 MB
TRAFFIC = ("recv", "send", "client send", "client recv")  # kinds of calls that move bytes
KINDS = (
    *("listen", "accept", "recv", "send", "shutdown", "close"),  # on the server's side
    *("connect", "client send", "client recv", "client shutdown", "client close"),  # on the side of our own clients
    "pause",  # no call: a thread of the server was held before one, step by step
)

Address = tuple[Any, ...]  # (host, port), or (host, port, flow, scope) for IPv6


class SocketEvent(NamedTuple):
    """One socket call that has ended.

    kind        one of `KINDS`
    connection  whose socket it was
    thread      the label of the thread that made the call ("server thread", "thread 1", …; "" for clients)
    size        how many bytes the call moved
    data        the first `PREVIEW` of them; none where there is an error
    error       the name of the exception that the call raised, or ""
    """

    kind: str
    began: float
    ended: float
    connection: Connection
    thread: str = ""
    size: int = 0
    data: bytes = b""
    error: str = ""


@dataclass(eq=False, slots=True)
class Connection:
    """One end of one TCP connection, as long as anyone asks for it: on the server's side or on a client's.

    client    the address of the client's socket; it pairs the two ends
    received  bytes that this end's `recv` has returned, exact also where the log has dropped events
    sent      bytes that this end handed to the kernel
    messages  calls of recv (server) or send (client) that moved at least one byte
    name      of our own client; or the one that another client has given itself, see `introduced`
    cut_off   closed because the server was stopped
    shown_out  its client was shown out: the server reads an end of file that the client has not sent
    waited    seconds from the handshake to the accept, as the kernel says; None: it does not
    handed_on  where it went, and is not seen any more: "to ssl", "to a child process"; "": nowhere
    closed_at  where the server's own code closed it: "line 6 of serve"; "": not known
    sockets   how many of ours refer to it: dup() makes a second one
    """

    client: Address
    name: str = ""
    received: int = 0
    sent: int = 0
    messages: int = 0
    closed: bool = False
    cut_off: bool = False
    shown_out: bool = False
    waited: float | None = None
    handed_on: str = ""
    closed_at: str = ""
    sockets: int = 0


@dataclass(eq=False, slots=True)
class Again:
    """A call that moves nothing and ends each time in the same way: the log has the first one, and this the others.

    times  how often it was made, with the first
    last   when it ended the last time, in seconds of the log's clock
    """

    kind: str
    connection: Connection
    error: str
    times: int = 1
    last: float = 0.0


@dataclass(eq=False, slots=True)
class KeptError:
    """What a thread's work for a future ended with: the future keeps it until somebody asks for its result.

    place  the innermost line of the student's code: which function, and the line's number
    asked  whether somebody has asked
    """

    thread: str
    name: str
    place: tuple[CodeType, int] | None
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a server's thread printed."""

    thread: str
    connection: Connection | None
    text: str


class Printed:
    """What a server's threads printed: the newest `lines`, of `ever` that there were."""

    def __init__(self) -> None:
        self.lines: deque[Line] = deque()
        self.ever = 0
        self._length = 0
        self._lock = threading.RLock()  # what is cleaned up meanwhile may print, too

    def add(self, lines: Iterable[Line]) -> None:
        with self._lock:
            for line in lines:
                self.lines.append(line)
                self.ever += 1
                self._length += len(line.text)
                while len(self.lines) > LOG_LINES or self._length > LOG_LENGTH:
                    self._length -= len(self.lines.popleft().text)

    def kept(self) -> list[Line]:
        with self._lock:  # without the interpreter lock, a copy of what grows meanwhile raises
            return [*self.lines]

    def write(self, text: str, begun: Line | None, thread: str, connection: Connection | None) -> Line | None:
        """Add what a thread has printed, which goes on with the line that it had begun; the line that it begins now."""
        *whole, rest = ((begun.text if begun else "") + text).split("\n")
        self.add(Line(thread, connection, cut(line, LINE_LENGTH)) for line in whole)
        return Line(thread, connection, cut(rest, LINE_LENGTH)) if rest else None


@dataclass(eq=False, slots=True)
class Bind:
    """A call of `bind`, as it was made: what a server does that does not come to listen is explained by it."""

    ref: weakref.ref[socket.socket]
    family: int
    kind: int  # SOCK_STREAM or another
    address: Any
    error: str = ""  # the name of the exception that it raised: the exception itself would keep the socket
    errno: int | None = None


Record = tuple[str, float, float, Connection, str, int, bytes, str]  # the fields of a SocketEvent, as a plain tuple


class EventLog:
    """The newest `capacity` events, cheap to add to from any thread: a bounded deque of plain tuples.

    The patched calls that must be fast call `append` and `count`, everybody else `add`: no lock and no system call, for
    in CPython each of the two is one atomic step under the interpreter lock. Where there is none, we take our own.
    """

    def __init__(self, capacity: int = CAPACITY, clock: Callable[[], float] = time.perf_counter) -> None:
        if capacity < 1:
            raise ValueError(f"an event log holds at least 1 event, not {capacity}")
        self.clock = clock
        self._records: deque[Record] = deque(maxlen=capacity)
        self._counter = itertools.count()
        self._peeks = 0  # how often `total` has counted itself
        self._peeking = threading.Lock()
        self.append: Callable[[Record], None] = self._records.append
        self.count: Callable[[], int] = self._counter.__next__  # after each `append`
        self._copy = self._records.copy  # one C call under the interpreter lock: walked while it grows, a deque raises
        if free_threaded:
            lock = threading.RLock()  # what is cleaned up meanwhile adds to the log, too
            self.append, self.count, self._copy = (alone(lock, call) for call in (self.append, self.count, self._copy))

    def add(
        self, kind: str, began: float, connection: Connection, *rest: Any, ended: float | None = None, **named: Any
    ) -> None:
        """Record a call that began at `began` and, unless told otherwise, ends now. The rest are a SocketEvent's."""
        ended = self.clock() if ended is None else ended
        self.append(SocketEvent(kind, began, ended, connection, *rest, **named))
        self.count()

    def __iter__(self) -> Iterator[SocketEvent]:
        """The events in the order in which the calls ended."""
        return iter(in_order(self.records()))

    def __len__(self) -> int:
        return len(self._records)

    @property
    def total(self) -> int:
        """How many events were ever added."""
        with self._peeking:
            total = self.count() - self._peeks
            self._peeks += 1
        return total

    @property
    def dropped(self) -> int:
        """How many events were lost because the log was full."""
        return max(0, self.total - len(self._records))

    def records(self) -> deque[Record]:
        """What the log holds now, in the order in which it was added."""
        return self._copy()

    def newest(self, most: int) -> list[SocketEvent]:
        """The last ones that were added, the newest first: cheap, and some may be missing where many are added."""
        found: dict[int, Record] = {}  # by id: while the log grows, the same is found twice
        with contextlib.suppress(IndexError):
            for back in range(1, most + 1):
                record = self._records[-back]
                found[id(record)] = record
        return [SocketEvent(*record) for record in found.values()]

    def reader(self) -> Reader:
        return Reader(self)


class Reader:
    """Reads a log while it grows, and remembers where it was. For one thread."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._last: Record | None = None
        self.missed = False  # whether events may be missing between the last read and the one before

    def read(self, most: int | None = None) -> list[SocketEvent]:
        """What has come since the last read, in the order in which the calls ended; at first, what the log holds.

        most  of the calls that move bytes, only so many of the newest: a flood then costs its reader no more than a
              brook. `missed` says so.
        """
        kept, last = self._log.records(), self._last
        new, moved, skipped = [], 0, False
        ends: dict[Connection, Record] = {}  # the first end of file says more than the next thousand
        for record in reversed(kept):
            if record is last:
                break
            if most is not None and record[0] in TRAFFIC and not record[7]:
                moved += 1
                if moved > most:
                    skipped = True
                    if record[0] == "recv" and not record[5]:
                        ends[record[3]] = record
                    continue
            new.append(record)
        self.missed = skipped or (last is not None and len(new) == len(kept))
        self._last = kept[-1] if kept else last
        return in_order([*ends.values(), *reversed(new)])


def alone(lock: threading.RLock, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, by one thread at a time."""

    def locked(*arguments: Any) -> Any:
        with lock:
            return call(*arguments)

    return locked


def in_order(records: Iterable[Record]) -> list[SocketEvent]:
    """The records as events, in the order in which the calls ended."""
    new = tuple.__new__  # half the time of SocketEvent(*record), of which there may be hundreds of thousands
    return [new(SocketEvent, record) for record in sorted(records, key=itemgetter(2))]


def preview(data: bytes) -> bytes:
    """What a record keeps of `data`: a copy. `recv` returns the beginning of the room that it made for all it might
    get; as long as that is kept, the rest is wasted (measured: 2,100 bytes a record at `recv(65536)`, 250 with copies).
    """
    return data[:PREVIEW] if len(data) > PREVIEW else b"%b" % data


def introduced(data: bytes) -> str:
    """The name that a client gives itself in its first message, where that begins with a line like "I am alice"."""
    line = data[:200].partition(b"\n")[0]
    return (
        cut(visible(line[len(INTRODUCED) :].decode(errors="replace").strip()), NAME)
        if line.startswith(INTRODUCED)
        else ""
    )


def plain_address(address: Address) -> Address:
    """(host, port); a client that reaches an IPv6 server by IPv4 is called by its IPv4 address, as it calls itself."""
    return (address[0].removeprefix("::ffff:") if "." in address[0] else address[0], address[1])


def reachable(address: Address) -> Address:
    """Where a client on this machine connects to: nobody can connect to 0.0.0.0 or ::."""
    return ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0]), *address[1:])


def shown(address: Address) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def open_to(host: str) -> str:
    """Who can connect to a server that has bound that address, if that is more than this machine; else ""."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a name: what it stands for is not known here
        return "" if host == "localhost" else "other computers can connect, too"
    return "" if address.is_loopback else "other computers can connect, too"


def forget_ends(clients: list[Connection], accepted: dict[Address, Connection], log: EventLog) -> list[Connection]:
    """Let go of connections that are over and of which the log has nothing more: it is the only memory. Takes them out
    of `accepted`, and returns what is left of `clients`.
    """
    told = {record[3] for record in log.records()}
    ours = {end.client: end for end in clients}
    for address, end in accepted.copy().items():
        client = ours.get(address)
        if end.closed and end not in told and (client is None or (client.closed and client not in told)):
            del accepted[address]
            ours.pop(address, None)
    return [end for end in clients if end in told or ours.get(end.client) is end]
