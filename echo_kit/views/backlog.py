"""The backlog: the clients that the kernel has connected and the server has not accepted; as data, text and HTML.

The kernel's table says who waits, whatever program the clients are. Where it does not tell, only our own are known.
"""

from __future__ import annotations

import math
import selectors
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..watch.events import Address, Connection
from ..watch.observation import Observation
from ..watch.sockets import ready
from ..watch.text import counted, in_html, visible
from . import kernel
from .kernel import MANY
from .lane import Lane
from .lanes import NAME, lanes_of
from .states import BACKLOG

TOLD = 20  # clients that are told one by one
ARRIVAL = 0.5  # seconds at most that a view waits for what our own clients have sent to arrive


class Waiting(NamedTuple):
    """A client in the backlog: its name, and what the kernel's `Row` says of it."""

    name: str
    client: Address
    unread: int
    seconds: float | None = None
    left: bool = False  # which nobody can tell: it will be accepted all the same

    def __str__(self) -> str:
        return _unread(self.unread) + (", has closed its side" if self.left else "")


def _unread(count: int) -> str:
    return f"{counted(count, 'byte')} unread" if count else "nothing to read"


@dataclass(frozen=True)
class Backlog:
    """The queue of one server, as far as is known in the order in which the clients came."""

    server: str
    waiting: tuple[Waiting, ...]
    broken_off: int  # accept will still return these, but their clients have broken off
    unanswered: int  # on this machine, try to connect, and get no answer because the backlog is full
    half: int  # have begun to connect, or believe that they are connected, and the kernel has not completed it
    asked: int | None  # for how many the server asked in listen(); None: as many as Python asks for
    limit: int | None  # for how many the kernel has room: on Linux one more than asked. None: it does not say
    sockets: int  # how many listening sockets the server has: mostly 1, and 0 when it no longer listens
    full: bool  # a listening socket has no room left
    complete: bool  # the kernel was asked; else only our own clients are known
    unknown: int = 0  # then: how many more wait, of whom the kernel tells nothing else

    @classmethod
    def of(cls, observation: Observation) -> Backlog:
        """Ask the kernel. Where our own clients have just connected or sent, wait until it has seen that, too."""
        deadline = time.monotonic() + ARRIVAL
        before: object = None
        while True:
            table = kernel.look(observation)
            lanes = lanes_of(observation)
            if table is None or not table.sockets or time.monotonic() > deadline:
                break
            # The kernel does not list all at one moment: a client that is accepted meanwhile has not broken off.
            now = (table.queued, {row.client for row in table.waiting})
            if _has_all(table, _ours(lanes)) and (not table.broken_off or now == before):
                break
            before = now
            time.sleep(0.001)
        return cls._made(observation, table, lanes)

    @classmethod
    def _made(cls, observation: Observation, table: kernel.Table | None, lanes: Collection[Lane]) -> Backlog:
        listeners, unknown = _listeners(observation), 0
        # What the log no longer knows, our clients do. A port may be used again: the newest is the one that waits.
        names = {end.client: visible(end.name)[:NAME] for end in observation.clients}
        names |= {lane.address: lane.name for lane in lanes}
        order = {lane.address: number for number, lane in enumerate(lanes)}
        if table is not None:
            rows = sorted(table.waiting, key=lambda row: order.get(row.client, len(order)))
        else:
            # One that has broken off may be gone from the queue, and no accept has told us so. An empty queue is known.
            some = any(ready(sock, selectors.EVENT_READ) for sock in listeners)
            open_ends = [each for each in _ours(lanes).items() if listeners and (some or not each[1].closed)]
            rows = [kernel.Row(address, end.sent, None, end.closed) for address, end in open_ends]
            unknown = max(0, sum(kernel.queued(sock) or 0 for sock in listeners) - len(rows))
        told, asked = table or kernel.Table(), None
        if len(listeners) == 1 and kernel.own_address(listeners[0])[0] == observation.address:
            asked = observation.backlog
        return cls(
            server=visible(observation.name),
            waiting=tuple(Waiting(names.get(row.client, "a client"), *row) for row in rows),
            broken_off=told.broken_off,
            unanswered=told.unanswered,
            half=len(told.half),
            asked=asked,
            limit=told.limit if told.sockets else None,
            sockets=len(listeners) if table is None else told.sockets,
            full=told.full,
            complete=table is not None,
            unknown=unknown,
        )

    def __len__(self) -> int:
        return len(self.waiting) + self.broken_off + self.unknown

    @property
    def listens(self) -> bool:
        return self.sockets > 0

    @property
    def title(self) -> str:
        if not self.listens:
            return f"backlog of {self.server}: it no longer listens, nobody can wait"
        count = len(self.waiting) + self.unknown
        who = f"{counted(count, 'client')} wait{'s' if count == 1 else ''}" if count else "nobody waits"
        if self.broken_off:
            who += f", {self.broken_off:,} {'has' if self.broken_off == 1 else 'have'} broken off"
        return f"backlog of {self.server}: {who}{self._room()}"

    def _room(self) -> str:
        asked = None if self.asked is None else max(self.asked, 0)  # Python takes -1 for 0
        if self.limit is None:
            return "" if asked is None else f" (listen asked for {asked:,})"
        place = f"room for {self.limit:,}"
        if self.sockets > 1:
            place += f" at {self.sockets:,} listening sockets"
        elif asked is not None and asked + 1 > self.limit:
            place = f"listen asked for {asked:,}, this system has room for {self.limit:,}"
        elif asked is not None and asked + 1 == self.limit:
            place += f": the {asked:,} of listen, and Linux adds one"
        full = "" if not self.full else "; it is full" if self.sockets == 1 else "; one of them is full"
        return f" ({place}{full})"

    def lines(self) -> Iterator[tuple[str, str]]:
        """Who waits, and what is to be said of it; of many, the first and how many more."""
        shown = self.waiting if len(self.waiting) <= TOLD else self.waiting[: TOLD - 1]
        for each in shown:
            yield each.name, str(each)
        if len(shown) < len(self.waiting):
            rest = self.waiting[len(shown) :]
            yield f"and {len(rest):,} more", _unread(sum(each.unread for each in rest))
        if self.broken_off:
            yield f"and {self.broken_off:,}" if shown else f"{self.broken_off:,}", "broken off, and not yet accepted"

    def notes(self) -> Iterator[str]:
        """What else is to be said: clients that are not connected, or not known."""
        if self.unanswered:
            tries = "tries" if self.unanswered == 1 else "try"
            yield f"{counted(self.unanswered, 'more client')} {tries} to connect, and the kernel does not answer"
        if self.half:
            clients = counted(self.half, "more client" if len(self) else "client")
            are = "is" if self.half == 1 else "are"
            yield f"{clients} {are} half connected: the kernel has not completed the handshake"
        if self.unknown:
            yield f"(of {self.unknown:,} of them it is not known who: the kernel's list could not be asked for)"
        elif not self.complete and self.listens:
            yield "(only clients of echo_kit: this system does not tell of others)"

    def __str__(self) -> str:
        rows = list(self.lines())
        width = max((len(name) for name, _ in rows), default=0)
        told = [*(f"{name:<{width}}  {said}" for name, said in rows), *self.notes()]
        return "\n".join([self.title, *(f"  {line}" for line in told)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [(in_html(name), in_html(said)) for name, said in self.lines()]
        boxes = "".join(f'<span style="{_BOX}"><b>{name}</b><br>{said}</span>' for name, said in rows)
        queue = f'<span style="{_DOOR}">accept ◀</span>{boxes or " (empty)"}' if self.listens else ""
        notes = "".join(f"<div>{in_html(note)}</div>" for note in self.notes())
        return f'<div style="font-weight: bold; margin: 4px 0">{in_html(self.title)}</div><div>{queue}</div>{notes}'


_SPACED = "display: inline-block; margin: 2px 4px;"
_DOOR = f"{_SPACED} font-weight: bold"
_BOX = f"{_SPACED} padding: 4px 10px; border: 2px solid {BACKLOG.colour}; border-radius: 4px"


class Watch:
    """Looks at one server's backlog again and again; a twentieth of the time goes into that at most.

    That nobody waits is known without the kernel's table, from a number that each listening socket has.
    """

    def __init__(self, observation: Observation) -> None:
        self.asked = -math.inf  # when the backlog that `look` returns was seen, on the log's clock
        self.observation = observation
        self._due = 0.0  # when the table may be asked for again
        self._backlog: Backlog | None = None
        self._queued: list[int | None] = []  # how many waited at each listening socket

    def look(self, lanes: Collection[Lane]) -> Backlog:
        """The backlog now. `lanes` are those of the clients that are known, whoever has accepted them."""
        began = time.monotonic()
        before, queued = self._backlog, [kernel.queued(sock) for sock in _listeners(self.observation)]
        quiet = queued == self._queued and None not in queued and not any(queued)
        quiet = quiet and before is not None and not (len(before) or before.half or before.unanswered)
        if before is not None and len(queued) == len(self._queued) and (began < self._due or quiet):
            return before
        self.asked = self.observation.log.clock()
        self._backlog = Backlog._made(self.observation, kernel.look(self.observation), lanes)
        self._queued = queued
        self._due = time.monotonic() + 20 * (time.monotonic() - began)
        return self._backlog


def _listeners(observation: Observation) -> list[socket.socket]:
    return [] if observation.stopping else [sock for sock, _ in observation.sockets(listening=True)]


def _ours(lanes: Collection[Lane]) -> dict[Address, Connection]:
    """Our own clients' ends that nobody has accepted, by their addresses."""
    return {lane.address: lane.client for lane in lanes if lane.server is None and lane.client is not None}


def _has_all(table: kernel.Table, ours: dict[Address, Connection]) -> bool:
    """Whether the kernel has seen what our clients did. One that has closed may also have broken off."""
    rows = {row.client: row for row in table.rows.values()}
    for address, end in ours.items():
        row = rows.get(address)
        if row is None:
            if not end.closed:
                return False
        # Of many bytes, some wait at the sender, and its end of file after them.
        elif row.unread < min(end.sent, MANY) or (end.closed and not row.left and end.sent <= MANY):
            return False
    return True
