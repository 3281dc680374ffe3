"""One connection, as far as it is known: facts, messages, and the stretches of time that its bar is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..watch.events import Address, Connection, SocketEvent
from ..watch.text import visible
from .states import ACCEPTED, BACKLOG, CONNECTING, State


class Span(NamedTuple):
    """A stretch of a lane, or of a thread, in seconds of the log's clock. `lane` is the client's, if any."""

    state: State
    begin: float
    end: float
    thread: str = ""
    lane: Lane | None = None

    @property
    def client(self) -> str:
        """The name of the client's lane; "" without one."""
        return "" if self.lane is None else self.lane.name


@dataclass(eq=False)
class Lane:
    """One connection. Times are seconds of the log's clock; None: it has not happened, or nobody could see it."""

    number: int
    name: str
    address: Address  # the client's
    client: Connection | None = None  # our own client's end
    server: Connection | None = None  # the end that the server accepted
    connecting: float | None = None
    connected: float | None = None
    accepted: float | None = None
    accepter: str = ""  # the label of the thread that accepted it
    threads: list[str] = field(default_factory=list)  # that read from it or wrote to it, or are about to
    thread: str = ""  # that is at it now, or was last
    finished: float | None = None  # our client has shut down its sending side: it still reads
    left: float | None = None  # the client closed
    seen_off: float | None = None  # the server read the end of file
    closed: float | None = None  # the server closed, or shut down its side
    closer: str = ""  # the label of the thread that did so
    reset: bool = False  # the client broke off, as the server noticed
    rejected: bool = False  # the server broke off, as our client noticed: it closed with bytes unread
    owed: int = 0  # bytes that the server has sent, and that the client was not seen to read
    last_used: float = 0.0  # when the server's last recv or send on it returned
    introduced: bool = False  # its client is not ours, and has given its name
    seen: float | None = None  # until when its stretches are known; None: events are missing before the next one
    spans: list[Span] = field(default_factory=list)  # after the accept
    to_server: list[SocketEvent] = field(default_factory=list)
    to_client: list[SocketEvent] = field(default_factory=list)
    reads: list[SocketEvent] = field(default_factory=list)  # what the server's recvs returned
    answers: list[SocketEvent] = field(default_factory=list)  # what the server sent, whether or not it was read
    client_then: Connection | None = None  # copies of the two ends, made by `freeze`: the ends themselves go on
    server_then: Connection | None = None

    @property
    def place(self) -> tuple[bool, float]:
        """Sorts lanes by arrival: accept returns the clients in the order in which they connected. When `connect`
        returned says less: of many that connect at once, any may be the next to run.
        """
        return (False, self.accepted) if self.accepted is not None else (True, self.connected or 0.0)

    @property
    def called(self) -> str:
        """The name of our client, or the one that another client has given itself; "" without one."""
        end = self.client or self.server
        return "" if end is None else visible(end.name)

    @property
    def gone(self) -> float | None:
        """When the client left, as far as that is known; else when the server closed."""
        return next((time for time in (self.left, self.seen_to_leave, self.closed) if time is not None), None)

    @property
    def seen_to_leave(self) -> float | None:
        """When the server read the end of file, unless that was a client of ours that has only finished sending."""
        return self.seen_off if self.finished is None else None

    @property
    def over(self) -> bool:
        """Whether the server has seen that the client left, or has closed the connection."""
        return self.seen_to_leave is not None or self.closed is not None or self.reset

    @property
    def ended(self) -> float | None:
        """When the server was done with it (or the client gave up before it was accepted)."""
        return self.closed if self.accepted is not None else self.left

    def ending(self) -> str:
        """How the connection ended, in words; "" while it lasts."""
        if self.reset:
            return "broke off (reset)"
        server = self.server_then or self.server
        if server is not None and server.shown_out:
            return "shown out"
        if self.seen_to_leave is not None:
            return "left"
        if server is not None and server.handed_on:  # whatever its client did, nobody here has seen it
            return f"handed on {server.handed_on}: not seen from here"
        if self.left is not None and (self.closed is None or self.left <= self.closed):
            return "left"
        if server is not None and server.cut_off:
            return "cut off: the server was stopped"
        if self.closed is not None:
            where = f" at {server.closed_at}" if server is not None and server.closed_at else ""
            return ("broken off by the server (reset)" if self.rejected else f"closed by {self._who_closed()}") + where
        return ""

    def _who_closed(self) -> str:
        """The thread is named where another one than that which served the client did it."""
        if not self.closer or self.threads == [self.closer]:
            return "the server"
        return "the server thread" if self.closer == "server thread" else self.closer

    @property
    def came(self) -> float | None:
        """When it is first known of."""
        return next((time for time in (self.connecting, self.connected, self.accepted) if time is not None), None)

    def last(self, now: float) -> bool:
        """Say that no thread was seen at it since its last stretch, until `now` or the close. Whether that is new."""
        until = now if self.closed is None else self.closed
        if self.seen is not None and self.seen < until:
            self.spans.append(Span(ACCEPTED, self.seen, until, lane=self))
            self.seen = until
            return True
        return False

    def freeze(self) -> None:
        """Keep what the two ends have moved until now."""
        self.client_then = replace(self.client) if self.client is not None else None
        self.server_then = replace(self.server) if self.server is not None else None

    def arrival(self, now: float) -> Iterator[Span]:
        """The stretches before the accept, or until now."""
        if self.connecting is not None and self.connected is not None:
            yield Span(CONNECTING, self.connecting, self.connected, lane=self)
        until = self.accepted if self.accepted is not None else self.left if self.left is not None else now
        if self.connected is not None and until > self.connected:
            yield Span(BACKLOG, self.connected, until, lane=self)

    def note(self, event: SocketEvent) -> None:
        """Keep a message, as our client tells of it or, where the client is not ours, as the server does; and what the
        client's calls say of its end.
        """
        kind = event.kind
        if not event.size:
            if kind == "client close":
                self.left = event.began  # if it waits, accept will return it all the same
            elif kind == "client shutdown":
                self.finished = event.began
            elif kind == "client recv":
                self.rejected = self.rejected or event.error == "ConnectionResetError"
        elif kind == "client send":
            self.to_server.append(event)
        elif kind == "recv":
            self.reads.append(event)
            if self.client is None:
                self.to_server.append(event)
        elif kind == "client recv":
            self.to_client.append(event)
            self.owed -= event.size
        elif kind == "send":
            self.owed += event.size
            self.answers.append(event)
            if self.client is None:
                self.to_client.append(event)

    def add(self, span: Span) -> None:
        """Put a stretch behind the others: cut where it overlaps, and with a stretch of nobody's in a gap before it."""
        _, begin, end, _, _ = span
        seen = self.seen
        if self.closed is not None:
            if begin >= self.closed:
                return  # its thread learned of the end after another one had closed the socket
            end = min(end, self.closed)
        if seen is not None and begin != seen:
            if begin > seen:
                self.spans.append(Span(ACCEPTED, seen, begin, lane=self))
            begin = max(begin, seen)
        if end > begin:
            self.spans.append(span if (begin, end) == span[1:3] else span._replace(begin=begin, end=end))
        self.seen = end if seen is None or end > seen else seen

    def close(self, time: float, thread: str = "") -> None:
        """The server has closed it, or shut down its side; only the first time counts."""
        if self.closed is not None:
            return
        self.closed, self.closer = time, thread
        if self.seen_off is not None and self.seen_off > time:
            self.seen_off = None  # this is what ended the recv, and not the client
        if self.spans and self.spans[-1].end > time:
            last = self.spans.pop()
            self.spans += [last._replace(end=time)] if last.begin < time else []
            self.seen = time


class Names:
    """Gives each lane a name that no other one has."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def take(self, name: str) -> str:
        """`name`, or with a number behind it if it is taken."""
        self._given[name] += 1
        return name if self._given[name] == 1 else f"{name} ({self._given[name]})"

    def change(self, before: str, name: str) -> str:
        """`take` in the place of a name that was taken before."""
        self.give_back(before)
        return self.take(name)

    def give_back(self, name: str) -> None:
        """A name that was taken once is free again."""
        if self._given[name] == 1:
            del self._given[name]
