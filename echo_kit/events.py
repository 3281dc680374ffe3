"""What was seen: one record a socket call, and the bounded log that holds the records.

In this file live plain data and nothing else. Times are seconds of one monotonic clock (`EventLog.clock`);
an event carries two: when the call began and when it came back. That pair is the bar "blocked in recv".
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from typing import Any, NamedTuple

PREVIEW = 40  # bytes of a message that a record keeps
CAPACITY = 400_000  # events that a log keeps unless told otherwise: less than 50 MB
KINDS = (
    *("listen", "accept", "recv", "send", "shutdown", "close"),  # on the server's side
    *("connect", "client send", "client recv", "client close"),  # on the side of our own clients
)

Address = tuple[Any, ...]  # (host, port), or (host, port, flow, scope) for IPv6


class SocketEvent(NamedTuple):  # it takes a third of the time that a frozen dataclass takes to make
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
    """

    client: Address
    name: str = ""
    received: int = 0
    sent: int = 0
    messages: int = 0  # calls of recv (server) or send (client) that moved at least one byte
    closed: bool = False
    cut_off: bool = field(default=False)  # closed because the server was stopped
    waited: float | None = None  # seconds from the handshake to the accept, as the kernel says; None: it does not


# How the log keeps an event: packed, because a bytes object takes half the memory of a tuple with its numbers, and the
# garbage collector does not look at it. What follows the head is the preview, or the name of the exception.
_HEAD = struct.Struct(
    ">"  # the most significant byte first: so records are sorted by `ended` without being unpacked
    "d"  # ended (no clock gives negative times)
    "Q"  # number of the event, and in the last byte what `_CODES` says
    "d"  # began
    "I"  # number of the party
    "Q"  # size
)
_pack = _HEAD.pack
_CODES = {kind: 2 * number for number, kind in enumerate(KINDS)}  # and one more if the call failed
_NUMBER = itemgetter(slice(8, 16))

Party = tuple[Connection, str]  # who made a call: a connection's socket, used by the thread of that label


class EventLog:
    """The newest `capacity` events, cheap to add to from any thread.

    `add` is the hot path: it makes no system call, and takes no lock but for a party that is new to the log. What no
    longer fits is counted in `dropped`.
    """

    def __init__(self, capacity: int = CAPACITY, clock: Callable[[], float] = time.perf_counter) -> None:
        if capacity < 1:
            raise ValueError(f"an event log holds at least 1 event, not {capacity}")
        self.clock = clock
        self._records: deque[bytes] = deque(maxlen=capacity)
        self._append = self._records.append
        self._next = count(0, 256).__next__  # atomic in CPython, so that no lock is needed
        self._lock = threading.RLock()  # for the parties; a collected socket's last event may come in the middle
        self._numbers: dict[str, dict[Connection, int]] = {}  # thread -> connection -> number of the party
        self._parties: dict[int, Party] = {}  # number, as the records have it -> party
        self._next_party = count().__next__
        self._many = 1000  # parties: so many may be gone before it is worth a look

    def add(
        self,
        kind: str,
        began: float,
        connection: Connection,
        thread: str = "",
        size: int = 0,
        data: bytes = b"",
        error: str = "",
        ended: float | None = None,
    ) -> None:
        """Record a call that began at `began` and, unless told otherwise, ends now."""
        if ended is None:
            ended = self.clock()
        code = _CODES[kind]
        if error:
            code, data = code + 1, error.encode()
        numbers = self._numbers
        try:
            number = numbers[thread][connection]
        except KeyError:
            number = self._enter(connection, thread)
        self._append(_pack(ended, self._next() + code, began, number, size) + data)
        if self._numbers is not numbers:  # meanwhile parties were forgotten: this one perhaps, without this record
            with self._lock:
                self._parties[number] = connection, thread

    def __iter__(self) -> Iterator[SocketEvent]:
        """The events in the order in which the calls ended."""
        with self._lock:
            records, parties = self._snapshot(), self._parties.copy()
        records.sort()
        new, cls, unpack, size_of_head = tuple.__new__, SocketEvent, _HEAD.unpack_from, _HEAD.size
        for record in records:
            ended, number, began, party, size = unpack(record)
            if party in parties:  # else its `add` has not come back
                connection, thread = parties[party]
                kind, failed = KINDS[(number & 255) >> 1], number & 1
                rest = record[size_of_head:]
                data, error = (b"", rest.decode()) if failed else (rest, "")
                yield new(cls, (kind, began, ended, connection, thread, size, data, error))

    def __len__(self) -> int:
        return len(self._records)

    @property
    def dropped(self) -> int:
        """How many events were lost because the log was full."""
        records = self._snapshot()
        return (int.from_bytes(max(map(_NUMBER, records))) >> 8) + 1 - len(records) if records else 0

    def _snapshot(self) -> list[bytes]:
        # A deque that grows while it is walked raises RuntimeError; copy() is one C call under the interpreter lock.
        return list(self._records.copy())

    def _enter(self, connection: Connection, thread: str) -> int:
        """Give the party a number, unless another thread has just done so."""
        with self._lock:
            number = self._numbers.get(thread, {}).get(connection)
            if number is None:
                if len(self._parties) >= self._many:
                    self._forget_parties()
                number = self._next_party()
                self._parties[number] = connection, thread
                self._numbers.setdefault(thread, {})[connection] = number
            return number

    def _forget_parties(self) -> None:
        """Keep only parties that a record names: a server may have a million clients, one after the other."""
        self._numbers = {}  # before the look at the records: by it `add` sees that its record may be too late
        known = list(self._parties)
        named = {_HEAD.unpack_from(record)[3] for record in self._snapshot()}
        for number in known:
            if number not in named:
                del self._parties[number]
        self._many = max(1000, 2 * len(self._parties))


def plain_address(address: Address) -> Address:
    """(host, port); a client that reaches an IPv6 server by IPv4 is called by its IPv4 address, as it calls itself."""
    return (address[0].removeprefix("::ffff:") if "." in address[0] else address[0], address[1])


def visible(text: str) -> str:
    """`text` with control characters as escapes: what came from a client does not move anybody's cursor."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
