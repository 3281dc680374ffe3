"""What is still open of a socket that the server's own code has closed, or handed on.

`close` ends a connection only with the last descriptor that refers to it: a child process may have one. And on Linux
the kernel keeps a socket open for the threads that are in a call on it, until they return; accept then takes one more
client. Elsewhere than on Linux a close is taken for the end.
"""

from __future__ import annotations

import os
import socket
import sys
import weakref

from . import kernel
from .events import Address, Connection
from .observation import Observation, Observed, observed

# -- by a thread that is in a call on it -------------------------------------------------------------------------------


def duplicate(sock: socket.socket, seen: Observed) -> socket.socket | None:
    """Before `sock` is closed: what we wait for instead, or shut down, where threads are in a call on it."""
    seen.over = True
    if sys.platform == "linux" and _inside(seen):
        return socket.fromfd(sock.fileno(), sock.family, sock.type, sock.proto)
    return None


def hold(seen: Observed, held: socket.socket) -> None:
    """Let the duplicate stand for the socket, as long as threads are in a call on it."""
    seen.held, seen.ref = held, weakref.ref(held)
    observed[id(held)] = seen
    seen.observation.alarm.nudge(seen)  # poll does not notice that its descriptor is another's
    release(seen)  # they may have returned meanwhile


def release(seen: Observed) -> None:
    """A call on a closed socket has returned: with the last one the kernel closes it, and so do we."""
    held = seen.held
    if held is not None and not _inside(seen):
        seen.held = None
        observed.pop(id(held), None)
        held.close()


def _inside(seen: Observed) -> bool:
    calls = [task.entered for task in seen.observation.tasks]
    return any(call is not None and call[1] is seen for call in calls)


# -- by another process, or by a descriptor that nobody saw ------------------------------------------------------------


def hand_on(observation: Observation, connection: Connection, server: Address) -> None:
    """After its last socket of ours was closed: say where it has gone, if it has not ended."""
    found = kernel.connection(server, connection.client) if sys.platform == "linux" else None
    if not found or not found.inode:  # no descriptor refers to it
        return
    if any(kernel.descriptors(child, found.inode) for child in kernel.descendants(os.getpid())):
        connection.handed_on = "to a child process"
    elif kernel.descriptors("self", found.inode):  # else a call of another thread holds it, and it ends with that
        connection.handed_on = "to another file descriptor"
