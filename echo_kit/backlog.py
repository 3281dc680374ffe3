"""Who waits: the clients that the kernel has connected and the server has not accepted, from the kernel's own table.

Linux lists every TCP socket to whoever asks through a netlink socket (`man 7 sock_diag`; `ss` asks the same way). One
that no program has accepted yet has the inode 0. The list says how many bytes of it lie unread, and when the connection
was made. Other systems do not tell: there, only our own clients are known.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from .events import Address, Connection, plain_address, visible
from .lanes import TICK, lanes_of
from .observe import Observation

__all__ = ["Backlog", "Waiting", "look"]

SHOWN = 20  # clients that are told one by one
REPLY_TIME = 1.0  # seconds that the kernel has to send the table
ARRIVAL = 0.5  # seconds at most that a view waits for what our own clients have sent to arrive

# linux/tcp_states.h, linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
_ESTABLISHED, _SYN_SENT, _CLOSE_WAIT, _LISTEN = 1, 2, 8, 10
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST, _TCP_INFO = 4, 20, 0x301, 2
_STATES = 1 << _ESTABLISHED | 1 << _CLOSE_WAIT | 1 << _LISTEN
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, sender
_LAST_DATA_SENT = 44  # where it stands in struct tcp_info


@dataclass(frozen=True, slots=True)
class Waiting:
    """A client in the backlog: `unread` bytes of it lie in the kernel, `seconds` since it connected (None: unknown)."""

    name: str
    client: Address
    unread: int
    seconds: float | None = None
    left: bool = False  # it has closed already, and will be accepted all the same

    def __str__(self) -> str:
        unread = f"{self.unread:,} byte{'' if self.unread == 1 else 's'} unread" if self.unread else "nothing to read"
        return unread + (", has left already" if self.left else "")


@dataclass(frozen=True)
class Backlog:
    """The queue of one server, as far as is known in the order in which the clients came."""

    server: str
    waiting: tuple[Waiting, ...]
    broken_off: int  # accept will still return these, but their clients have broken off
    unanswered: int  # on this machine, try to connect, and get no answer because the backlog is full
    asked: int | None  # for how many the server asked in listen(); None: as many as Python asks for
    limit: int | None  # for how many the kernel has room: on Linux one more than asked. None: it does not say
    listens: bool
    complete: bool  # the kernel was asked; else only our own clients are known

    @classmethod
    def of(cls, observation: Observation) -> Backlog:
        """Ask the kernel. Where our own clients have just connected or sent, wait until it has seen that, too."""
        deadline = time.monotonic() + ARRIVAL
        while True:
            table = look(observation)
            lanes = [lane for lane in lanes_of(observation) if lane.server is None]
            ours = {lane.address: lane.client for lane in lanes if lane.client is not None}
            if table is None or _has_all(table, ours) or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        names = {lane.address: lane.name for lane in lanes}
        if table is not None:
            order = {address: number for number, address in enumerate(names)}
            rows = sorted(table.waiting, key=lambda row: order.get(row.client, len(order)))
        elif observation.stopping:
            rows = []
        else:
            rows = [_Row(address, end.sent, None, end.closed) for address, end in ours.items()]
        return cls(
            visible(observation.name),
            tuple(
                Waiting(names.get(row.client, "a client"), row.client, row.unread, row.seconds, row.left)
                for row in rows
            ),
            max(0, table.queued - len(rows)) if table else 0,
            table.unanswered if table else 0,
            observation.backlog,
            table.limit if table else None,
            any(True for _ in observation.sockets(listening=True)) and not observation.stopping,
            table is not None,
        )

    def __len__(self) -> int:
        return len(self.waiting) + self.broken_off

    @property
    def full(self) -> bool:
        return self.limit is not None and len(self) >= self.limit

    @property
    def title(self) -> str:
        if not self.listens:
            return f"backlog of {self.server}: it no longer listens, nobody can wait"
        count = len(self)
        who = "nobody waits" if not count else f"{count:,} client{' waits' if count == 1 else 's wait'}"
        return f"backlog of {self.server}: {who}{self._room()}"

    def _room(self) -> str:
        if self.limit is None:
            return f" (listen asked for {self.asked:,})" if self.asked is not None else ""
        place = f"room for {self.limit:,}"
        if self.asked is not None and max(self.asked, 0) + 1 != self.limit:
            place = f"listen asked for {self.asked:,}, this system allows {self.limit:,}"
        elif self.asked is not None and self.asked < 16:
            place += f": the {max(self.asked, 0):,} of listen, and Linux adds one"
        return f" ({place}{'; it is full' if self.full else ''})"

    def lines(self) -> Iterator[tuple[str, str]]:
        """Who waits, and what is to be said of it; of many, the first and how many more."""
        shown = self.waiting if len(self.waiting) <= SHOWN else self.waiting[: SHOWN - 1]
        for each in shown:
            yield each.name, str(each)
        if len(shown) < len(self.waiting):
            rest = self.waiting[len(shown) :]
            yield f"and {len(rest):,} more", f"{sum(each.unread for each in rest):,} bytes unread"
        if self.broken_off:
            yield f"and {self.broken_off:,}", "broken off already"

    def _notes(self) -> Iterator[str]:
        if self.unanswered:
            who = "1 more client tries" if self.unanswered == 1 else f"{self.unanswered:,} more clients try"
            yield f"{who} to connect, and the kernel does not answer"
        if not self.complete and self.listens:
            yield "(only clients of echo_kit: this system does not tell of others)"

    def __str__(self) -> str:
        rows = list(self.lines())
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(
            [
                self.title,
                *(f"  {name:<{width}}  {said}" for name, said in rows),
                *(f"  {note}" for note in self._notes()),
            ]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        boxes = [f'<span style="{_BOX}"><b>{escape(name)}</b><br>{escape(said)}</span>' for name, said in self.lines()]
        queue = f'<span style="{_DOOR}">accept ◀</span>{"".join(boxes) or " (empty)"}' if self.listens else ""
        notes = "".join(f"<div>{escape(note)}</div>" for note in self._notes())
        return f'<div style="font-weight: bold; margin: 4px 0">{escape(self.title)}</div><div>{queue}</div>{notes}'


_BOX = "display: inline-block; margin: 2px 4px; padding: 4px 10px; border: 2px solid #EE7733; border-radius: 4px"
_DOOR = "display: inline-block; margin: 2px 4px; font-weight: bold"


# -- the kernel's table ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    client: Address
    unread: int
    seconds: float | None
    left: bool


@dataclass(frozen=True, slots=True)
class _Table:
    """What the kernel says of one server's listening sockets."""

    waiting: list[_Row]
    queued: int  # connections that accept would return, those that are broken off included
    limit: int
    unanswered: int


def look(observation: Observation) -> _Table | None:
    """Ask the kernel who waits, and remember the clients that are not ours for the timeline. None: it does not tell."""
    if sys.platform != "linux" or observation.stopping:
        return None
    waiting: list[_Row] = []
    queued = limit = unanswered = 0
    try:
        for sock, _ in observation.sockets(listening=True):
            own = sock.getsockname()[:2] if sock.fileno() != -1 else ("", 0)
            here = [each for each in _sockets(sock.family, _STATES, port=own[1]) if _reaches(each.here, own)]
            listening = [each for each in here if each.state == _LISTEN]
            queued += sum(each.unread for each in listening)
            limit += sum(each.room + 1 for each in listening)
            waiting += [_row(each) for each in here if each.inode == 0 and each.state != _LISTEN]
            if queued >= limit:
                trying = _sockets(sock.family, 1 << _SYN_SENT, to_port=own[1])
                unanswered += sum(_reaches(each.there, own) for each in trying)
    except (OSError, struct.error, ValueError):  # not allowed here, or a kernel that answers in another way
        return None
    waiting.sort(key=lambda row: row.seconds or 0, reverse=True)
    ours = {each.client for each in observation.clients}
    now = observation.log.clock()
    for row in waiting:
        if row.client not in ours:
            observation.sighted.setdefault(row.client, now - max(0.0, (row.seconds or 0) - TICK))
    return _Table(waiting, queued, limit, unanswered)


def _reaches(address: Address, listener: Address) -> bool:
    return address == listener or (ipaddress.ip_address(listener[0]).is_unspecified and address[1] == listener[1])


def _row(entry: _Socket) -> _Row:
    left = entry.state == _CLOSE_WAIT  # the end of file counts as a byte
    return _Row(entry.there, max(0, entry.unread - left), entry.seconds, left)


def _has_all(table: _Table, ours: dict[Address, Connection]) -> bool:
    unread = {row.client: row.unread for row in table.waiting}
    # A closed client may have broken off; of many bytes, some wait at the sender.
    return all(unread.get(each, -1) >= min(end.sent, 4096) for each, end in ours.items() if not end.closed)


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
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as asked:
        asked.settimeout(REPLY_TIME)
        asked.sendall(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST, 1, 0) + request)
        deadline = time.monotonic() + REPLY_TIME
        while time.monotonic() < deadline:
            data = asked.recv(1 << 18)
            at = 0
            while at < len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind == _DONE:
                    return found
                if kind == _ERROR or length < _HEADER.size:
                    raise ValueError("the kernel did not understand the question")
                found.append(_parsed(data[at + _HEADER.size : at + length]))
                at += length + 3 & ~3
    raise ValueError("the kernel did not end its list of sockets in time")


def _parsed(message: bytes) -> _Socket:
    """A struct inet_diag_msg with its attributes."""
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
