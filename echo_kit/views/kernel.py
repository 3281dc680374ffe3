"""Who waits at a listening socket, and has been accepted by no program: what the kernel says of one server."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from dataclasses import dataclass, field
from typing import NamedTuple

from ..watch.events import Address, plain_address
from ..watch.kernel import CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_RECV, SYN_SENT, TcpSocket, tcp_info, tcp_sockets
from ..watch.observation import Observation

TICK = 0.01  # seconds: the longest tick of a Linux kernel, to which its times are exact
MANY = 4096  # bytes that every kernel takes at once, whatever its buffers
STATES = 1 << ESTABLISHED | 1 << SYN_RECV | 1 << CLOSE_WAIT | 1 << LISTEN
ACKED, LIMITED = 120, 176  # in struct tcp_info: bytes that the peer has taken; microseconds that others waited for room
UNACKED = 24  # in it, too: of a listening socket, how many connections wait (tcp_get_info in net/ipv4/tcp.c)


class Row(NamedTuple):
    """A client that waits: `unread` bytes of it lie in the kernel, `seconds` since it connected (None: unknown)."""

    client: Address
    unread: int
    seconds: float | None
    left: bool  # it has closed, or shut down its side


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
        there = tcp_sockets(sock.family, STATES, port=own[1], accepted=False)
        listening = {each.inode: each for each in there if each.state == LISTEN}
        if inode not in listening:  # a container may hide the sockets of this process
            raise ValueError("the kernel does not list the socket of which we know that it listens")
        others = {each.here for each in listening.values()} - {own}
        here = [each for each in there if _reaches(each.here, own) and each.here not in others and not each.inode]
        for each in here:
            if each.state == SYN_RECV:
                self.half.add((each.here, each.there))
            else:
                left = each.state == CLOSE_WAIT  # the end of file counts as a byte
                row = Row(each.there, max(0, each.unread - left), each.seconds, left)
                self.rows[each.here, each.there] = row
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
        # One that was accepted may come again from the same port. Else it is the same one: of two looks, one was late.
        before = observation.sighted.get(row.client)
        again = before is None or (row.client in observation.accepted and arrived > before + 3 * TICK)
        if again and row.client not in ours:
            observation.sighted[row.client] = arrived
    return table


def queued(sock: socket.socket) -> int | None:
    """How many connections wait at a listening socket; None where the system does not say."""
    return next(iter(tcp_info(sock, "=I", UNACKED)), None)


def acked(conn: socket.socket) -> int | None:
    """How many bytes of ours the peer's kernel has taken; None where the system does not say."""
    return next(iter(tcp_info(conn, "=Q", ACKED)), None)


def short_of_room(conn: socket.socket) -> float | None:
    """Seconds for which sends waited because the peer's window or our own buffer was full; None: it does not say."""
    waits = tcp_info(conn, "=2Q", LIMITED)
    return sum(waits) / 1e6 if waits else None


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
