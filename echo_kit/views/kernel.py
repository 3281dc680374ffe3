"""The kernel's own table of TCP sockets: which connections of a listening socket no program has accepted yet.

Linux lists every TCP socket to any program that asks through a netlink socket (`man 7 sock_diag`; `ss` asks the same
way). One that no program has accepted yet has the inode 0. The list says how many of its bytes lie unread, and when the
connection was made. Other systems do not tell. (Nor does Linux where its tcp_diag module is missing, or where a
container forbids the question.)
"""

from __future__ import annotations

import ipaddress
import math
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from ..watch.events import Address, plain_address
from ..watch.observation import Observation

TICK = 0.01  # seconds: the longest tick of a Linux kernel, to which its times are exact
MANY = 4096  # bytes that every kernel takes at once, whatever its buffers
REPLY_TIME = 1.0  # seconds that the kernel has to send the table

# linux/tcp_states.h, linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
ESTABLISHED, SYN_SENT, SYN_RECV, CLOSE_WAIT, LISTEN = 1, 2, 3, 8, 10
_CONNECTED = bytes([ESTABLISHED, CLOSE_WAIT])
STATES = 1 << ESTABLISHED | 1 << SYN_RECV | 1 << CLOSE_WAIT | 1 << LISTEN
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, DUMP_REQUEST, TCP_INFO = 4, 20, 0x301, 2
ERROR, DONE = 2, 3
HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, sender
INTEGER = struct.Struct("=I")
LAST_DATA_SENT = 44  # where it stands in struct tcp_info
ACKED, LIMITED = 120, 176  # in it, too: bytes that the peer has taken; microseconds that others waited for room
UNACKED = 24  # of a listening socket, how many connections wait (tcp_get_info in net/ipv4/tcp.c)


class Row(NamedTuple):
    """A client that waits: `unread` bytes of it lie in the kernel, `seconds` since it connected (None: unknown)."""

    client: Address
    unread: int
    seconds: float | None
    left: bool  # it has closed, or shut down its side


class TcpSocket(NamedTuple):
    """One entry of the kernel's list. For a listening socket `unread` counts connections, and `room` is its backlog."""

    state: int
    here: Address
    there: Address
    unread: int
    room: int
    inode: int
    seconds: float  # since it sent data or, if it never has, since the connection was made

    @property
    def row(self) -> Row:
        left = self.state == CLOSE_WAIT  # the end of file counts as a byte
        return Row(self.there, max(0, self.unread - left), self.seconds, left)


@dataclass(slots=True)
class Table:
    """What the kernel says of one server's listening sockets."""

    rows: dict[tuple[Address, Address], Row] = field(default_factory=dict)  # by both addresses
    half: set[tuple[Address, Address]] = field(default_factory=set)
    sockets: int = 0
    queued: int = 0  # connections that accept would return, those that are broken off included
    limit: int = 0
    unanswered: int = 0
    full: bool = False

    @property
    def waiting(self) -> list[Row]:
        """Those that are in the backlog, the oldest first."""
        return sorted(self.rows.values(), key=lambda row: row.seconds or 0, reverse=True)

    @property
    def broken_off(self) -> int:
        return max(0, self.queued - len(self.rows))

    def add(self, sock: socket.socket) -> None:
        """Ask the kernel for one listening socket and those that wait at it."""
        own, inode = own_address(sock)[1], os.fstat(sock.fileno()).st_ino & 0xFFFFFFFF
        there = tcp_sockets(sock.family, STATES, port=own[1])
        listening = {each.inode: each for each in there if each.state == LISTEN}
        if inode not in listening:  # a container may hide the sockets of this process
            raise ValueError("the kernel does not list the socket of which we know that it listens")
        others = {each.here for each in listening.values()} - {own}
        here = [each for each in there if _reaches(each.here, own) and each.here not in others and not each.inode]
        self.rows |= {(each.here, each.there): each.row for each in here if each.state != SYN_RECV}
        self.half |= {(each.here, each.there) for each in here if each.state == SYN_RECV}
        self.sockets += 1
        self.queued += listening[inode].unread
        self.limit += listening[inode].room + 1
        if listening[inode].unread > listening[inode].room:
            self.full = True
            # A socket for both IPv6 and IPv4 has IPv4 clients, whose own sockets are of IPv4.
            families = {sock.family, socket.AF_INET} if _may_be_both(sock) else {sock.family}
            trying = [each for family in families for each in tcp_sockets(family, 1 << SYN_SENT, to_port=own[1])]
            self.unanswered += sum(_is_here(each) and _reaches(each.there, own) for each in trying)


def look(observation: Observation) -> Table | None:
    """Ask the kernel who waits, and remember the clients that are not ours for the timeline. None: it does not tell."""
    if sys.platform != "linux" or observation.stopping:
        return None
    for _ in range(3):  # on a busy machine the answer may be late, and says less of the time at which it was asked for
        now = observation.log.clock()  # before the kernel looks: who is accepted after this was seen to wait before
        table = Table()
        for sock, _ in observation.sockets(listening=True):
            try:
                table.add(sock)
            except (OSError, struct.error, ValueError):  # not allowed here, or a kernel that answers in another way
                if sock.fileno() != -1:
                    return None  # else the server has just closed it
        if observation.log.clock() - now < TICK:
            break
    ours = {each.client for each in observation.clients}
    for row in table.waiting:
        arrived = now - max(0.0, (row.seconds or 0) - TICK)
        # A client may come again from the same port.
        if row.client not in ours and arrived > observation.sighted.get(row.client, -math.inf) + 3 * TICK:
            observation.sighted[row.client] = arrived
    return table


def queued(sock: socket.socket) -> int | None:
    """How many connections wait at a listening socket; None where the system does not say."""
    try:
        return int(INTEGER.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), UNACKED)[0])
    except (OSError, AttributeError, struct.error):
        return None


def acked(conn: socket.socket) -> int | None:
    """How many bytes of ours the peer's kernel has taken; None where the system does not say."""
    counts = _numbers(conn, ACKED, 1)
    return counts[0] if counts else None


def short_of_room(conn: socket.socket) -> float | None:
    """Seconds for which sends waited because the peer's window or our own buffer was full; None: it does not say."""
    waits = _numbers(conn, LIMITED, 2)
    return sum(waits) / 1e6 if waits else None


def _numbers(conn: socket.socket, at: int, count: int) -> tuple[int, ...]:
    """Some of the long numbers of Linux's struct tcp_info; none from other systems, and of a closed socket."""
    try:
        known = conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256) if sys.platform == "linux" else b""
        return struct.unpack_from(f"={count}Q", known, at)
    except (OSError, struct.error):
        return ()


def own_address(sock: socket.socket) -> tuple[Address, Address]:
    """The address of a listening socket, as it says and as (host, port)."""
    try:
        address = sock.getsockname()
    except OSError:  # closed meanwhile
        return (), ()
    return address, plain_address(address)


def _reaches(address: Address, listener: Address) -> bool:
    return address == listener or (ipaddress.ip_address(listener[0]).is_unspecified and address[1] == listener[1])


def _is_here(trying: TcpSocket) -> bool:
    """Whether it connects to this machine: then its two addresses are the same, or the other one is 127.0.0.1."""
    return trying.here[0] == trying.there[0] or ipaddress.ip_address(trying.there[0]).is_loopback


def _may_be_both(sock: socket.socket) -> bool:
    return sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def tcp_sockets(family: int, states: int, port: int = 0, to_port: int = 0) -> list[TcpSocket]:
    """The TCP sockets in these states, to that port or of that own port: of these, only those that nobody accepted."""
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 1 << (TCP_INFO - 1), 0, states)
    request += struct.pack("!HH", port, to_port) + bytes(44)
    found: list[TcpSocket] = []
    deadline = time.monotonic() + REPLY_TIME
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as asked:
        asked.sendall(HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, DUMP_REQUEST, 1, 0) + request)
        while (left := deadline - time.monotonic()) > 0:
            asked.settimeout(left)
            data = asked.recv(1 << 18)
            at = 0
            while at < len(data):
                length, kind, *_ = HEADER.unpack_from(data, at)
                message = data[at + HEADER.size : at + length]
                if kind == ERROR or length != HEADER.size + len(message):
                    raise ValueError("the kernel did not understand the question, or we do not understand its answer")
                if kind == DONE:
                    # Without the module that knows TCP, the list is empty and ends with the error.
                    if any(message[:4]):
                        raise ValueError("the kernel does not list its TCP sockets")
                    return found
                # One that was accepted has an owner. There may be a thousand, and to read them takes longer than TICK.
                if not (port and message[1:2] in _CONNECTED and any(message[68:72])):
                    found.append(parsed(message))
                at += length + 3 & ~3
    raise ValueError("the kernel did not end its list of sockets in time")


def parsed(message: bytes) -> TcpSocket:
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
        if kind == TCP_INFO and length >= 4 + LAST_DATA_SENT + 4:
            seconds = struct.unpack_from("=I", message, at + 4 + LAST_DATA_SENT)[0] / 1000
        at += max(4, length + 3 & ~3)
    return TcpSocket(state, here, there, unread, room, inode, seconds)
