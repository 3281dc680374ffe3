"""Sockets: asking one without disturbing it, closing one by a reset, waking a thread that waits for one."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import stat
import struct
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from .kernel import LAST_DATA_SENT, tcp_info

PORTS = range(20_000, 32_768)  # from which servers get theirs

plain_detach = socket.socket.detach
# select.select cannot take descriptors from 1024 up; poll can, and needs no descriptor of its own as epoll does.
Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody uses, and that the system gives to nobody who asks for any port (with port 0).

    Linux gives those from 32768 on, others from 49152 on (RFC 6335). There, programs may go on connecting to an owner
    that has ended, as JupyterLab does to a kernel (ZeroMQ tries without end): the server would get such a stranger.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(100):
        port = PORTS.start + secrets.randbelow(len(PORTS))  # not `random`: a student may have called random.seed
        with socket.socket(family) as probe, contextlib.suppress(OSError):  # taken, or kept by the system
            probe.bind((host, port))
            return port
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def reset_on_close(sock: socket.socket) -> None:
    """Its close sends a reset and no end of file: the port is free at once, and the peer takes it for a crash."""
    with contextlib.suppress(OSError):  # closed already
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        )


def ready(sock: socket.socket, event: int) -> bool:
    """Whether a read of `sock` (an accept, a write) would return at once."""
    try:
        with Selector() as selector:
            selector.register(sock, event)
            return bool(selector.select(0))
    except (OSError, ValueError):
        return False  # closed meanwhile


def any_ready(socks: Iterable[tuple[socket.socket, int]]) -> bool:
    """Whether a read (or what else the event says) of any would return at once: one question costs less than many."""
    with Selector() as selector:
        for file, event in {sock.fileno(): event for sock, event in socks}.items():  # two threads may read one
            try:
                selector.register(file, event)
            except (OSError, ValueError):
                return True  # closed meanwhile
        return bool(selector.select(0))


def system_timeout(sock: socket.socket) -> float | None:
    """Seconds after which a blocking read of it fails all the same (SO_RCVTIMEO); None: never. Not on Windows."""
    if sys.platform == "win32":
        return None
    try:
        told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.calcsize("ll"))
        seconds, microseconds = struct.unpack("ll", told)
    except (OSError, struct.error):  # closed meanwhile
        return None
    return seconds + microseconds / 1e6 or None


def waited(conn: socket.socket) -> float | None:
    """Seconds since the connection was made, if the kernel tells: to the tick (1 to 10 ms), and only before a send, for
    Linux stamps "last data sent" first when the handshake is complete (tcp_create_openreq_child).
    """
    told = tcp_info(conn, "=I", LAST_DATA_SENT)
    return told[0] / 1000 if told else None


class Opened:
    """Sockets, as long as they are open and somebody has them."""

    def __init__(self) -> None:
        self._by_id: dict[int, weakref.ref[socket.socket]] = {}  # an entry goes before its id can be used again

    def add(self, sock: socket.socket) -> None:
        key, entries = id(sock), self._by_id
        entries[key] = weakref.ref(sock, lambda _: entries.pop(key, None))

    def now(self) -> list[socket.socket]:
        sockets = [each() for each in list(self._by_id.values())]
        return [each for each in sockets if each is not None and each.fileno() != -1]

    def clear(self) -> None:
        self._by_id.clear()


def close_whole(sock: socket.socket) -> None:
    """Close it also where a file of makefile(), or a close() of the student's own, would leave it open."""
    with contextlib.suppress(Exception):
        sock.close()
    with contextlib.suppress(OSError):
        descriptor = plain_detach(sock)  # -1 if it is closed
        socket.socket.close(sock)
        if descriptor != -1:
            socket.close(descriptor)


def descriptors_at(port: int) -> list[int] | None:
    """This process's file descriptors of sockets whose own port that is; None: the system does not list them."""
    try:
        descriptors = [int(each) for each in os.listdir("/dev/fd")]
    except (OSError, ValueError):
        return None
    found = []
    for each in descriptors:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(each).st_mode):
                with socket.socket(fileno=os.dup(each)) as sock:
                    if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[1] == port:
                        found.append(each)
    return found


class Alarm:
    """Wakes threads that wait for a socket: all of them, once it rings, or one of them, with Ctrl+C."""

    def __init__(self) -> None:
        self.meant: object | None = None  # the thread that gets Ctrl+C
        self._lock = threading.RLock()
        self._waiting: Counter[object] = Counter()  # how many threads wait for each socket, by whatever stands for it
        self._nudged: set[object] = set()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)

    def ring(self) -> None:
        with contextlib.suppress(OSError):  # a server that closes all sockets that it can find closes ours, too
            self._writer.send(b"!")

    def interrupt(self, task: object) -> None:
        """From now on until it is taken, there is a Ctrl+C for `task`."""
        with self._lock:
            if self.meant is None:
                self.meant = task
                self.ring()

    def take(self, task: object | None) -> bool:
        """Whether there is one for `task`. There is none any more."""
        with self._lock:
            if task is None or self.meant is not task:
                return False
            self.meant = None
            with contextlib.suppress(OSError):
                self._reader.recv(1)
            return True

    def wait(
        self,
        sock: socket.socket,
        timeout: float | None,
        task: object | None,
        rings: Callable[[], bool],
        event: int = selectors.EVENT_READ,
    ) -> bool:
        """Wait until `sock` can be read (or another `event`), or it `rings`. True: there was a Ctrl+C for `task`."""
        with Selector() as selector:
            selector.register(sock, event)
            selector.register(self._reader, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select(timeout)]
                if not ready:
                    raise TimeoutError("timed out")
                if sock in ready or rings():
                    return False
                if self.take(task):
                    return True
                time.sleep(0.001)  # it is for another thread, that takes it in a moment

    @contextlib.contextmanager
    def waiting(self, what: object) -> Iterator[None]:
        """Around a `wait`, so that a `nudge` for `what` ends it."""
        with self._lock:
            self._waiting[what] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[what] -= 1
                if not self._waiting[what]:
                    del self._waiting[what]
                    if what in self._nudged:
                        self._nudged.remove(what)
                        with contextlib.suppress(OSError):
                            self._reader.recv(1)

    def nudge(self, what: object) -> None:
        """Wake those who wait for it until the last one has left its `wait`: what it `rings` for has changed."""
        with self._lock:
            if what in self._waiting and what not in self._nudged:
                self._nudged.add(what)
                self.ring()

    def connect(
        self, plain: Callable[..., None], sock: socket.socket, address: object, task: object, rings: Callable[[], bool]
    ) -> bool:
        """Connect as the `plain` method does. True: it rang first, or there was a Ctrl+C for `task`."""
        timeout = sock.gettimeout()
        if timeout == 0:
            plain(sock, address)
            return False
        sock.settimeout(0)
        try:
            plain(sock, address)
            return False
        except BlockingIOError:
            pass  # it has begun
        finally:
            sock.settimeout(timeout)
        if self.wait(sock, timeout, task, rings, selectors.EVENT_WRITE) or rings():
            return True
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        return False

    def close(self) -> None:
        self._writer.close()
        self._reader.close()
