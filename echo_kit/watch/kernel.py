"""What the kernel is asked about TCP sockets.

Linux lists every TCP socket to any program that asks through a netlink socket (`man 7 sock_diag`; `ss` asks the same
way), and says in /proc which processes have a descriptor of it. One that no program has accepted yet, or that all have
closed, has the inode 0. Other systems do not tell. (Nor does Linux where its tcp_diag module is missing, or where a
container forbids the question.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from .events import Address, plain_address

REPLY_TIME = 1.0  # seconds that the kernel has to send the table

# linux/tcp_states.h, linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
ESTABLISHED, SYN_SENT, SYN_RECV, TIME_WAIT, CLOSE_WAIT, LISTEN = 1, 2, 3, 6, 8, 10
ALL_STATES = 0xFFF  # those of /proc/net/tcp: not a socket that is bound only, which new kernels know as one more
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, REQUEST, DUMP_REQUEST, TCP_INFO = 4, 20, 1, 0x301, 2
ERROR, DONE = 2, 3
CONNECTED = bytes([ESTABLISHED, CLOSE_WAIT])
HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, sender
LAST_DATA_SENT = 44  # where it stands in struct tcp_info
SUBREAPER = 36  # linux/prctl.h


class TcpSocket(NamedTuple):
    """One entry of the kernel's list. For a listening socket `unread` counts connections, and `room` is its backlog."""

    state: int
    here: Address
    there: Address
    unread: int
    room: int
    inode: int
    seconds: float  # since it sent data or, if it never has, since the connection was made
    left: float = 0.0  # seconds until its timer ends: in TIME_WAIT, until it is gone


def tcp_sockets(family: int, states: int, port: int = 0, to_port: int = 0, accepted: bool = True) -> list[TcpSocket]:
    """The TCP sockets in these states, of that own port or to that port; without the `accepted` ones, if so asked."""
    return [*_answers(DUMP_REQUEST, family, states, port, to_port, accepted=accepted)]


def connection(here: Address, there: Address) -> TcpSocket | None:
    """The one between these addresses; None if it is gone. The kernel looks it up, without a walk through its list."""
    family = socket.AF_INET6 if ":" in here[0] else socket.AF_INET
    hosts = [socket.inet_pton(family, host.partition("%")[0]).ljust(16, b"\0") for host, _ in (here, there)]
    with contextlib.suppress(ValueError):  # its answer is an error
        found = next(_answers(REQUEST, family, ALL_STATES, here[1], there[1], hosts=b"".join(hosts)))
        return found if found.state != LISTEN else None  # where it is gone, the listening socket is found
    return None


def _answers(
    flags: int, family: int, states: int, *ports: int, hosts: bytes = bytes(32), accepted: bool = True
) -> Iterator[TcpSocket]:
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 1 << (TCP_INFO - 1), 0, states)
    request += struct.pack("!HH", *ports) + hosts + struct.pack("=Iii", 0, -1, -1)  # on any interface, of any age
    deadline = time.monotonic() + REPLY_TIME
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as asked:
        asked.sendall(HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, flags, 1, 0) + request)
        while (left := deadline - time.monotonic()) > 0:
            asked.settimeout(left)
            data = asked.recv(1 << 15)  # which Linux fills at most
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
                    return
                # An accepted one has an owner. There may be a thousand, and to read them takes longer than a tick.
                if accepted or message[1:2] not in CONNECTED or not any(message[68:72]):
                    yield parsed(message)
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
    expires, unread, room, _, inode = struct.unpack_from("=5I", message, 52)
    seconds, at = 0.0, 72
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == TCP_INFO and length >= 4 + LAST_DATA_SENT + 4:
            seconds = struct.unpack_from("=I", message, at + 4 + LAST_DATA_SENT)[0] / 1000
        at += max(4, length + 3 & ~3)
    return TcpSocket(state, here, there, unread, room, inode, seconds, expires / 1000)


def descriptors(process: int | str, inode: int) -> list[int]:
    """Those of a process that refer to that socket, as far as this user may see them."""
    found = []
    with contextlib.suppress(OSError):  # it has ended, or is another user's
        for name in os.listdir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.readlink(f"/proc/{process}/fd/{name}") == f"socket:[{inode}]":
                    found.append(int(name))
    return found


def descendants(process: int) -> Iterator[int]:
    """The processes that it has started, and those that these have."""
    parents = [process]
    while parents:
        process = parents.pop()
        with contextlib.suppress(OSError):  # it has ended
            for thread in os.listdir(f"/proc/{process}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{process}/task/{thread}/children") as file:
                    children = [int(each) for each in file.read().split()]
                    yield from children
                    parents += children


def adopt_orphans(yes: bool) -> None:
    """On Linux: whether orphans among the descendants of this process become its children, or the first process's."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, yes, 0, 0, 0)


@contextlib.contextmanager
def orphans_ended(within: float) -> Iterator[None]:
    """Afterwards, and within so many seconds, all that was started meanwhile is ended. (Only on Linux it is known.)"""
    before = set(descendants(os.getpid()))
    adopt_orphans(True)
    try:
        yield
    finally:
        deadline = time.monotonic() + within
        while (left := set(descendants(os.getpid())) - before) and time.monotonic() < deadline:
            for each in left:
                with contextlib.suppress(OSError):  # it has ended; or it is not this process's own child
                    os.kill(each, signal.SIGKILL)
                    os.waitpid(each, os.WNOHANG)
            time.sleep(0.001)
        adopt_orphans(False)


def tcp_info(sock: socket.socket, layout: str, at: int) -> tuple[int, ...]:
    """Some numbers of Linux's struct tcp_info; none from other systems, and of a closed socket."""
    try:
        known = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256) if sys.platform == "linux" else b""
        return struct.unpack_from(layout, known, at)
    except (OSError, struct.error):
        return ()
