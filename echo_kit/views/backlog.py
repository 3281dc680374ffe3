"""Who waits: the clients that the kernel has connected and the server has not accepted, from the kernel's own table.

Linux lists every TCP socket to whoever asks through a netlink socket (`man 7 sock_diag`; `ss` asks the same way). One
that no program has accepted yet has the inode 0. The list says how many bytes of it lie unread, and when the connection
was made. Other systems do not tell: there, only our own clients are known. (Nor does Linux where its tcp_diag module is
missing, or where a container forbids the question.)
"""

from __future__ import annotations

import ipaddress
import math
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple, Protocol

from ..watch.events import Address, Connection, plain_address
from ..watch.observation import Observation
from ..watch.sockets import ready
from ..watch.text import visible
from .lanes import NAME, TICK, lanes_of

__all__ = ["Backlog", "Waiting", "look"]

SHOWN = 20  # clients that are told one by one
REPLY_TIME = 1.0  # seconds that the kernel has to send the table
MANY = 4096  # bytes that every kernel takes at once, whatever its buffers
ARRIVAL = 0.5  # seconds at most that a view waits for what our own clients have sent to arrive

# linux/tcp_states.h, linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
_ESTABLISHED, _SYN_SENT, _SYN_RECV, _CLOSE_WAIT, _LISTEN = 1, 2, 3, 8, 10
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST, _TCP_INFO = 4, 20, 0x301, 2
_STATES = 1 << _ESTABLISHED | 1 << _SYN_RECV | 1 << _CLOSE_WAIT | 1 << _LISTEN
_ERROR, _DONE = 2, 3
_INTEGER = struct.Struct("=I")
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, sender
_LAST_DATA_SENT = 44  # where it stands in struct tcp_info


class Known(Protocol):
    """What is known of a client: a `Lane`, or what a live view keeps."""

    name: str
    address: Address
    client: Connection | None
    server: Connection | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A client in the backlog: `unread` bytes of it lie in the kernel, `seconds` since it connected (None: unknown)."""

    name: str
    client: Address
    unread: int
    seconds: float | None = None
    left: bool = False  # it has closed, or shut down its side, which nobody can tell; it will be accepted all the same

    def __str__(self) -> str:
        return _unread(self.unread) + (", has closed its side" if self.left else "")


def _unread(count: int) -> str:
    return f"{count:,} byte{'' if count == 1 else 's'} unread" if count else "nothing to read"


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

    @classmethod
    def of(cls, observation: Observation) -> Backlog:
        """Ask the kernel. Where our own clients have just connected or sent, wait until it has seen that, too."""
        deadline = time.monotonic() + ARRIVAL
        before: object = None
        while True:
            table = look(observation)
            lanes = lanes_of(observation)
            ours = {lane.address: lane.client for lane in lanes if lane.server is None and lane.client is not None}
            if table is None or not table.sockets or time.monotonic() > deadline:
                break
            # The kernel does not list all at one moment: a client that is accepted meanwhile has not broken off.
            now = (table.queued, {row.client for row in table.waiting})
            if _has_all(table, ours) and (not table.broken_off or now == before):
                break
            before = now
            time.sleep(0.001)
        return cls._made(observation, table, lanes)

    @classmethod
    def _made(cls, observation: Observation, table: _Table | None, lanes: Collection[Known]) -> Backlog:
        ours = {lane.address: lane.client for lane in lanes if lane.server is None and lane.client is not None}
        listeners = [] if observation.stopping else [sock for sock, _ in observation.sockets(listening=True)]
        # What the log no longer knows, our clients do. A port may be used again: the newest is the one that waits.
        names = {end.client: visible(end.name)[:NAME] for end in observation.clients}
        names |= {lane.address: lane.name for lane in lanes}
        order = {lane.address: number for number, lane in enumerate(lanes)}
        if table is not None:
            rows = sorted(table.waiting, key=lambda row: order.get(row.client, len(order)))
        else:
            # One that has broken off may be gone from the queue, and no accept has told us so. An empty queue is known.
            empty = not any(ready(sock, selectors.EVENT_READ) for sock in listeners)
            open_ends = [(address, end) for address, end in ours.items() if not (end.closed and empty)]
            rows = [_Row(address, end.sent, None, end.closed) for address, end in open_ends if listeners]
        return cls(
            visible(observation.name),
            tuple(
                Waiting(names.get(row.client, "a client"), row.client, row.unread, row.seconds, row.left)
                for row in rows
            ),
            table.broken_off if table else 0,
            table.unanswered if table else 0,
            len(table.half) if table else 0,
            observation.backlog if len(listeners) == 1 and _own(listeners[0])[0] == observation.address else None,
            table.limit if table and table.sockets else None,
            table.sockets if table else len(listeners),
            table is not None and table.full,
            table is not None,
        )

    def __len__(self) -> int:
        return len(self.waiting) + self.broken_off

    @property
    def listens(self) -> bool:
        return self.sockets > 0

    @property
    def title(self) -> str:
        if not self.listens:
            return f"backlog of {self.server}: it no longer listens, nobody can wait"
        count = len(self.waiting)
        who = "nobody waits" if not count else f"{count:,} client{' waits' if count == 1 else 's wait'}"
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
        shown = self.waiting if len(self.waiting) <= SHOWN else self.waiting[: SHOWN - 1]
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
            who = "1 more client tries" if self.unanswered == 1 else f"{self.unanswered:,} more clients try"
            yield f"{who} to connect, and the kernel does not answer"
        if self.half:
            more = " more" if len(self) else ""
            who = f"1{more} client is" if self.half == 1 else f"{self.half:,}{more} clients are"
            yield f"{who} half connected: the kernel has not completed the handshake"
        if not self.complete and self.listens:
            yield "(only clients of echo_kit: this system does not tell of others)"

    def __str__(self) -> str:
        rows = list(self.lines())
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(
            [
                self.title,
                *(f"  {name:<{width}}  {said}" for name, said in rows),
                *(f"  {note}" for note in self.notes()),
            ]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        boxes = [f'<span style="{_BOX}"><b>{escape(name)}</b><br>{escape(said)}</span>' for name, said in self.lines()]
        queue = f'<span style="{_DOOR}">accept ◀</span>{"".join(boxes) or " (empty)"}' if self.listens else ""
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes())
        return f'<div style="font-weight: bold; margin: 4px 0">{escape(self.title)}</div><div>{queue}</div>{notes}'


_BOX = "display: inline-block; margin: 2px 4px; padding: 4px 10px; border: 2px solid #EE7733; border-radius: 4px"
_DOOR = "display: inline-block; margin: 2px 4px; font-weight: bold"


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

    def look(self, lanes: Collection[Known]) -> Backlog:
        """The backlog now. `lanes` are those of the clients that are known, whoever has accepted them."""
        began = time.monotonic()
        listening = [] if self.observation.stopping else [s for s, _ in self.observation.sockets(listening=True)]
        before, queued = self._backlog, [_queued(sock) for sock in listening]
        quiet = queued == self._queued and None not in queued and not any(queued)
        quiet = quiet and before is not None and not (len(before) or before.half or before.unanswered)
        if before is not None and len(queued) == len(self._queued) and (began < self._due or quiet):
            return before
        self.asked = self.observation.log.clock()
        self._backlog = Backlog._made(self.observation, look(self.observation), lanes)
        self._queued = queued
        self._due = time.monotonic() + 20 * (time.monotonic() - began)
        return self._backlog


def _queued(sock: socket.socket) -> int | None:
    """How many connections wait to be accepted; None where the system does not say.

    Linux gives a listening socket's queue in the field tcpi_unacked (tcp_get_info in net/ipv4/tcp.c).
    """
    try:
        return _INTEGER.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), 24)[0]
    except (OSError, AttributeError, struct.error):
        return None


# -- the kernel's table ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    client: Address
    unread: int
    seconds: float | None
    left: bool


@dataclass(slots=True)
class _Table:
    """What the kernel says of one server's listening sockets."""

    rows: dict[tuple[Address, Address], _Row] = field(default_factory=dict)  # by both addresses
    half: set[tuple[Address, Address]] = field(default_factory=set)
    sockets: int = 0
    queued: int = 0  # connections that accept would return, those that are broken off included
    limit: int = 0
    unanswered: int = 0
    full: bool = False

    @property
    def waiting(self) -> list[_Row]:
        """Those that are in the backlog, the oldest first."""
        return sorted(self.rows.values(), key=lambda row: row.seconds or 0, reverse=True)

    @property
    def broken_off(self) -> int:
        return max(0, self.queued - len(self.rows))

    def add(self, sock: socket.socket) -> None:
        """Ask the kernel for one listening socket and those that wait at it."""
        own, inode = _own(sock)[1], os.fstat(sock.fileno()).st_ino & 0xFFFFFFFF
        there = _sockets(sock.family, _STATES, port=own[1])
        listening = {each.inode: each for each in there if each.state == _LISTEN}
        if inode not in listening:  # it looked away: a container may hide the sockets of this process
            raise ValueError("the kernel does not list the socket of which we know that it listens")
        others = {each.here for each in listening.values()} - {own}
        here = [each for each in there if _reaches(each.here, own) and each.here not in others and not each.inode]
        self.rows |= {(each.here, each.there): _row(each) for each in here if each.state != _SYN_RECV}
        self.half |= {(each.here, each.there) for each in here if each.state == _SYN_RECV}
        self.sockets += 1
        self.queued += listening[inode].unread
        self.limit += listening[inode].room + 1
        if listening[inode].unread > listening[inode].room:
            self.full = True
            # A socket for both IPv6 and IPv4 has IPv4 clients, whose own sockets are of IPv4.
            families = {sock.family, socket.AF_INET} if _may_be_both(sock) else {sock.family}
            trying = [each for family in families for each in _sockets(family, 1 << _SYN_SENT, to_port=own[1])]
            self.unanswered += sum(_is_here(each) and _reaches(each.there, own) for each in trying)


def look(observation: Observation) -> _Table | None:
    """Ask the kernel who waits, and remember the clients that are not ours for the timeline. None: it does not tell."""
    if sys.platform != "linux" or observation.stopping:
        return None
    now = observation.log.clock()  # before the kernel looks: who is accepted after this was seen to wait before
    table = _Table()
    for sock, _ in observation.sockets(listening=True):
        try:
            table.add(sock)
        except (OSError, struct.error, ValueError):  # not allowed here, or a kernel that answers in another way
            if sock.fileno() != -1:
                return None  # else the server has just closed it
    ours = {each.client for each in observation.clients}
    for row in table.waiting:
        arrived = now - max(0.0, (row.seconds or 0) - TICK)
        # A client may come again from the same port.
        if row.client not in ours and arrived > observation.sighted.get(row.client, -math.inf) + 3 * TICK:
            observation.sighted[row.client] = arrived
    return table


def _own(sock: socket.socket) -> tuple[Address, Address]:
    """The address of a listening socket, as it says and as (host, port)."""
    try:
        address = sock.getsockname()
    except OSError:  # closed meanwhile
        return (), ()
    return address, plain_address(address)


def _reaches(address: Address, listener: Address) -> bool:
    return address == listener or (ipaddress.ip_address(listener[0]).is_unspecified and address[1] == listener[1])


def _is_here(trying: _Socket) -> bool:
    """Whether it tries to connect to this machine: one that does so comes from where it goes to, or from 127.0.0.1."""
    return trying.here[0] == trying.there[0] or ipaddress.ip_address(trying.there[0]).is_loopback


def _may_be_both(sock: socket.socket) -> bool:
    return sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def _row(entry: _Socket) -> _Row:
    left = entry.state == _CLOSE_WAIT  # the end of file counts as a byte
    return _Row(entry.there, max(0, entry.unread - left), entry.seconds, left)


def _has_all(table: _Table, ours: dict[Address, Connection]) -> bool:
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


class _Socket(NamedTuple):
    """One entry of the kernel's list. For a listening socket `unread` counts connections, and `room` is its backlog."""

    state: int
    here: Address
    there: Address
    unread: int
    room: int
    inode: int
    seconds: float  # since it sent data or, if it never has, since the connection was made


def _sockets(family: int, states: int, port: int = 0, to_port: int = 0) -> list[_Socket]:
    """The TCP sockets in these states, of that own port or to that port."""
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 1 << (_TCP_INFO - 1), 0, states)
    request += struct.pack("!HH", port, to_port) + bytes(44)
    found: list[_Socket] = []
    deadline = time.monotonic() + REPLY_TIME
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as asked:
        asked.settimeout(REPLY_TIME)
        asked.sendall(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST, 1, 0) + request)
        while (left := deadline - time.monotonic()) > 0:
            asked.settimeout(left)
            data = asked.recv(1 << 18)
            at = 0
            while at < len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                message = data[at + _HEADER.size : at + length]
                if kind == _ERROR or length != _HEADER.size + len(message):
                    raise ValueError("the kernel did not understand the question, or we do not understand its answer")
                if kind == _DONE:
                    # Without the module that knows TCP, the list is empty and ends with the error.
                    if any(message[:4]):
                        raise ValueError("the kernel does not list its TCP sockets")
                    return found
                found.append(_parsed(message))
                at += length + 3 & ~3
    raise ValueError("the kernel did not end its list of sockets in time")


def _parsed(message: bytes) -> _Socket:
    """A struct inet_diag_msg with its attributes. Raises ValueError or struct.error for anything shorter."""
    if len(message) < 72:
        raise ValueError("the kernel tells less of a socket than we need")
    family, state = message[0], message[1]
    ports = struct.unpack_from("!HH", message, 4)
    size = 4 if family == socket.AF_INET else 16
    here, there = (
        plain_address((socket.inet_ntop(family, message[at : at + size]), port))
        for at, port in zip((8, 24), ports, strict=True)
    )
    unread, room, _, inode = struct.unpack_from("=4I", message, 56)
    seconds, at = 0.0, 72
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == _TCP_INFO and length >= 4 + _LAST_DATA_SENT + 4:
            seconds = struct.unpack_from("=I", message, at + 4 + _LAST_DATA_SENT)[0] / 1000
        at += max(4, length + 3 & ~3)
    return _Socket(state, here, there, unread, room, inode, seconds)
