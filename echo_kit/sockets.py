"""What a socket can be asked without disturbing it, and how it is told to end in a reset."""

from __future__ import annotations

import selectors
import socket
import struct
import sys

__all__ = ["RESET_ON_CLOSE", "Selector", "ready", "waited"]

# select.select cannot take descriptors from 1024 up; poll can, and needs no descriptor of its own as epoll does.
Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)
RESET_ON_CLOSE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # SO_LINGER: close sends a reset
_MILLISECONDS = struct.Struct("=I")


def ready(sock: socket.socket, event: int) -> bool:
    """Whether a read of `sock` (an accept, a write) would return at once."""
    try:
        with Selector() as selector:
            selector.register(sock, event)
            return bool(selector.select(0))
    except (OSError, ValueError):
        return False  # closed meanwhile


def waited(conn: socket.socket) -> float | None:
    """Seconds since the connection was made, if the kernel tells: to the tick (1 to 10 ms), and only before a send.

    Linux stamps "last data sent" when the handshake is complete (tcp_create_openreq_child), long before the accept.
    """
    if sys.platform != "linux":
        return None
    try:
        return _MILLISECONDS.unpack_from(conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), 44)[0] / 1000
    except (OSError, struct.error):  # broken off already, or a kernel that tells less
        return None
