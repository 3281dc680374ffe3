"""What was seen: one record a socket call, and the bounded log that holds the records.

In this file live plain data and nothing else. Times are seconds of one monotonic clock (`EventLog.clock`);
an event carries two: when the call began and when it came back. That pair is the bar "blocked in recv".
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

PREVIEW = 40  # bytes of a message that a record keeps
CAPACITY = 100_000  # events that a log keeps unless told otherwise

Address = tuple[Any, ...]  # (host, port), or (host, port, flow, scope) for IPv6


@dataclass(frozen=True, slots=True)
class SocketEvent:
    """One socket call that has ended.

    kind        "listen", "accept", "recv", "send", "shutdown", "close" on the server's side;
                "connect", "client send", "client recv", "client close" on the side of our own clients
    connection  whose socket it was
    thread      the label of the thread that made the call ("server thread", "thread 1", …; "" for clients)
    size        how many bytes the call moved
    data        the first `PREVIEW` of them
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


class EventLog:
    """The newest `capacity` events, cheap to add to from any thread.

    `add` is the hot path: it takes no lock and makes no system call. What no longer fits is counted in `dropped`.
    """

    def __init__(self, capacity: int = CAPACITY, clock: Callable[[], float] = time.perf_counter) -> None:
        if capacity < 1:
            raise ValueError(f"an event log holds at least 1 event, not {capacity}")
        self.clock = clock
        self._records: deque[tuple[Any, ...]] = deque(maxlen=capacity)
        self._append = self._records.append
        self._next = count().__next__  # atomic in CPython, so that no lock is needed

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
        ended = self.clock() if ended is None else ended
        self._append((self._next(), kind, began, ended, connection, thread, size, data, error))

    def __iter__(self) -> Iterator[SocketEvent]:
        """The events in the order in which the calls ended."""
        for record in sorted(self._snapshot(), key=lambda record: record[3]):
            yield SocketEvent(*record[1:])

    def __len__(self) -> int:
        return len(self._records)

    @property
    def dropped(self) -> int:
        """How many events were lost because the log was full."""
        records = self._snapshot()
        return max(record[0] for record in records) + 1 - len(records) if records else 0

    def _snapshot(self) -> list[tuple[Any, ...]]:
        # A deque that grows while it is walked raises RuntimeError; copy() is one C call under the interpreter lock.
        return list(self._records.copy())


def plain_address(address: Address) -> Address:
    """(host, port); a client that reaches an IPv6 server by IPv4 is called by its IPv4 address, as it calls itself."""
    return (address[0].removeprefix("::ffff:") if "." in address[0] else address[0], address[1])


def visible(text: str) -> str:
    """`text` with control characters as escapes: what came from a client does not move anybody's cursor."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
