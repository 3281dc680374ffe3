"""What was seen: one record a socket call, the bounded log that holds the records, and a line that was printed.

In this file live plain data and nothing else. Times are seconds of one monotonic clock (`EventLog.clock`);
an event carries two: when the call began and when it came back. That pair is the bar "blocked in recv".
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from typing import Any, NamedTuple

PREVIEW = 40  # bytes of a message that a record keeps
CAPACITY = 250_000  # events that a log keeps unless told otherwise: less than 50 MB
KINDS = (
    *("listen", "accept", "recv", "send", "shutdown", "close"),  # on the server's side
    *("connect", "client send", "client recv", "client close"),  # on the side of our own clients
    "pause",  # no call: a thread of the server was held before one, step by step
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


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a server's thread printed."""

    thread: str
    connection: Connection | None
    text: str


# An event in the log is (connection, thread, packed): half of what a tuple with its numbers takes, with a message of 64
# bytes 184 bytes. What follows the head is the preview, or the name of the exception.
_HEAD = struct.Struct(
    ">"  # the most significant byte first: so records are sorted by `ended` without being unpacked
    "d"  # ended (no clock gives negative times)
    "Q"  # number of the event, and in the last byte what `_CODES` says
    "d"  # began
    "Q"  # size
)
_pack = _HEAD.pack
_CODES = {kind: 2 * number for number, kind in enumerate(KINDS)}  # and one more if the call failed
_PACKED = itemgetter(2)
_CODE_AT, _SIZE_AT, _NO_BYTES = 15, slice(24, 32), bytes(8)  # the number's last byte says what kind of call it was
_TRAFFIC_CODES = frozenset(_CODES[kind] for kind in ("recv", "send", "client send", "client recv"))
_Record = tuple[Connection, str, bytes]
TRAFFIC, OTHERS = 1_000, 100_000  # events that a tap keeps between two reads


class EventLog:
    """The newest `capacity` events, cheap to add to from any thread.

    `add` is the hot path: it takes no lock and makes no system call. What no longer fits is counted in `dropped`.
    """

    def __init__(self, capacity: int = CAPACITY, clock: Callable[[], float] = time.perf_counter) -> None:
        if capacity < 1:
            raise ValueError(f"an event log holds at least 1 event, not {capacity}")
        self.clock = clock
        self._records: deque[_Record] = deque(maxlen=capacity)
        self._append = self._records.append
        self._next = count(0, 256).__next__  # atomic in CPython, so that no lock is needed
        self._unpacked: deque[tuple[Any, ...]] = deque()  # at most one a thread
        # The same in a third of the time: (kind, began, connection, thread, size, message, ended) is kept as it is, and
        # added with the next `catch_up`. It is a method of the deque, because a function of ours takes as long again.
        self.add_later: Callable[[tuple[Any, ...]], None] = self._unpacked.append
        self._taps: tuple[Tap, ...] = ()

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
        record = connection, thread, _pack(ended, self._next() + code, began, size) + data
        self._append(record)  # looked up last: a tap that comes meanwhile is told, or finds it in the log

    def catch_up(self) -> None:
        """Add what `add_later` has left, whichever thread it came from."""
        while self._unpacked:
            try:
                kind, began, connection, thread, size, message, ended = self._unpacked.popleft()
            except IndexError:  # another thread took it
                return
            self.add(kind, began, connection, thread, size, message[:PREVIEW], ended=ended)

    def __iter__(self) -> Iterator[SocketEvent]:
        """The events in the order in which the calls ended."""
        return _events(self._snapshot())

    def tap(self) -> Tap:
        """A reader that gets what has happened so far, and then what comes, without going through the log again."""
        tap = Tap(self)
        self._taps += (tap,)
        self._append = self._append_and_tell  # a log without a tap pays nothing for taps
        return tap

    def _append_and_tell(self, record: _Record) -> None:
        for tap in self._taps:  # first: what a reader finds in the log, its tap has or has had
            tap._add(record)
        self._records.append(record)

    def _untap(self, tap: Tap) -> None:
        self._taps = tuple(each for each in self._taps if each is not tap)
        if not self._taps:
            self._append = self._records.append

    def __len__(self) -> int:
        self.catch_up()
        return len(self._records)

    @property
    def dropped(self) -> int:
        """How many events were lost because the log was full."""
        records = self._snapshot()
        # Of several threads that add at once, the one with the newest number may come last by a few.
        numbers = [_HEAD.unpack_from(packed)[1] >> 8 for _, _, packed in records[-1000:]]
        return max(numbers) + 1 - len(records) if numbers else 0

    def _snapshot(self) -> list[_Record]:
        self.catch_up()
        # A deque that grows while it is walked raises RuntimeError; copy() is one C call under the interpreter lock.
        return list(self._records.copy())


class Tap:
    """Reads a log while it grows. Of traffic (recv, send) it keeps the newest `TRAFFIC` events between two reads: a
    flood costs its reader no more than a brook. All others it keeps, up to `OTHERS`. For one reader.

    gap  whether events may be missing between the last read and the one before
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._traffic: deque[_Record] = deque(maxlen=TRAFFIC)
        self._others: deque[_Record] = deque(maxlen=OTHERS)
        self._begun = False
        self.gap = False

    def _add(self, record: _Record) -> None:  # from any thread
        packed = record[2]
        moves_bytes = packed[_CODE_AT] in _TRAFFIC_CODES and packed[_SIZE_AT] != _NO_BYTES  # else it is an end of file
        (self._traffic if moves_bytes else self._others).append(record)

    def read(self) -> list[SocketEvent]:
        """What has come since the last read, in the order in which the calls ended; at first, what the log holds."""
        self._log.catch_up()
        whole, self._begun = [] if self._begun else self._log._snapshot(), True
        known = {id(record) for record in whole}  # the log and its taps hold the same tuples
        records = whole
        self.gap = False
        for kept in (self._traffic, self._others):
            for _ in range(len(kept)):
                record = kept.popleft()
                # One that loses an event is full, until we take one out. Whoever adds need not count, and cannot miss.
                self.gap = self.gap or len(kept) + 1 == kept.maxlen
                if id(record) not in known:
                    records.append(record)
        return list(_events(records))

    def close(self) -> None:
        """The log no longer knows it. Calling it again does nothing."""
        self._log._untap(self)


def _events(records: list[_Record]) -> Iterator[SocketEvent]:
    new, cls, unpack, size_of_head = tuple.__new__, SocketEvent, _HEAD.unpack_from, _HEAD.size
    for connection, thread, packed in sorted(records, key=_PACKED):
        ended, number, began, size = unpack(packed)
        rest = packed[size_of_head:]
        data, error = (b"", rest.decode()) if number & 1 else (rest, "")
        yield new(cls, (KINDS[(number & 255) >> 1], began, ended, connection, thread, size, data, error))


def plain_address(address: Address) -> Address:
    """(host, port); a client that reaches an IPv6 server by IPv4 is called by its IPv4 address, as it calls itself."""
    return (address[0].removeprefix("::ffff:") if "." in address[0] else address[0], address[1])


def reachable(address: Address) -> Address:
    """Where a client on this machine connects to: 0.0.0.0 and :: are no places to go to."""
    return ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0]), *address[1:])


def visible(text: str) -> str:
    """`text` with control characters as escapes: what came from a client does not move anybody's cursor."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
