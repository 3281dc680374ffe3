"""What the exercises of the surprises require: a clean goodbye, and much at once."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..server import Server
from ..watch.patches import silent_ends
from .trial import Exercise, Guest, Serve, Trial, one_at_a_time

__all__ = ["SURPRISES"]

TWO = "recv(2): two bytes at most, and these go back"
MANY = 2_000_000  # bytes: more than the buffers between the client and this server hold
BUFFER = 65_536  # bytes that are asked for each of them


def _echo_with_small_buffers(function: Callable[..., Any], trial: Trial) -> Serve:
    """It is a client's function: the server is an echo server with small buffers, so that it is soon stuck."""

    def serve(host: str, port: int) -> None:
        with socket.create_server((host, port)) as s:
            _shrink(s)  # what accept returns has the same
            while True:
                conn, _ = s.accept()
                # Or the rest of each echo waits for the client's acknowledgment, which takes its time, too: to send and
                # to read by turns would last a minute.
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with conn:
                    while data := conn.recv(999):  # so that the echo comes in other pieces than the data
                        conn.sendall(data)

    return serve


def _shrink(sock: socket.socket) -> None:
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, buffer, BUFFER)


def _say_goodbye(trial: Trial) -> None:
    trial.tries('alice sends "he"')
    alice = trial.guest("alice").says("he").hears("he", TWO)
    _ends_well(trial, alice, "shutdown(socket.SHUT_WR) says: I send no more")
    read = "after shutdown: recv until it returns no bytes. Only then nothing of the client's is unread"
    trial.tries('bob sends "hello"')
    bob = trial.guest("bob").says("hello").hears("he", TWO)
    _ends_well(trial, bob, read)
    trial.tries("carol sends 200,000 bytes")
    carol = trial.guest("carol").says(b"x" * 200_000).hears("xx", TWO)
    _ends_well(trial, carol, read)


def _ends_well(trial: Trial, guest: Guest, look: str) -> None:
    """The client gets its two bytes and an end of file, and no reset, also not later."""
    guest.hears_no_more("no more than two bytes come back", TWO)
    guest.is_hung_up(look)
    trial.settle()
    there = trial.server.observation.accepted[guest.client.connection.client]
    if isinstance(guest.client.ended, ConnectionResetError):
        raise trial.not_yet(f"{guest.name} gets a clean end of file", "it was a reset: bytes lay unread", look)
    if there.closed or there.received < guest.client.connection.sent:
        raise trial.not_yet(
            f"the server reads what {guest.name} has sent, and waits until {guest.name} hangs up, too",
            f"it has read {there.received:,} of {guest.client.connection.sent:,} bytes"
            + (", and has closed" if there.closed else ""),
            look,
        )
    guest.leaves()
    trial.settle()
    if not trial.until(lambda: there.closed):
        raise trial.not_yet(f"the server is done when {guest.name} has left", "it is not", "your function comes back")


def _much_at_once(trial: Trial) -> None:
    trial.tries(f"your function sends {MANY:,} bytes to an echo server")
    data = (bytes(range(251)) * (MANY // 250))[:MANY]
    look = "who sends much must read meanwhile: a thread that reads, or a piece to send and its echo, by turns"
    count = "the server does not hang up: count the bytes, and stop when all have come"
    sock = trial.at_the_end.enter_context(_closed_silently(socket.socket()))
    _shrink(sock)
    sock.connect(trial.server.address)
    came = trial.result_of(sock, data, look=look, idle=count, still=1.5)
    expected = f"it returns all of the {len(data):,} bytes, in their order"
    if not isinstance(came, bytes | bytearray):
        raise trial.not_yet(expected, f"it returned {type(came).__name__}", "the last line: return, with the bytes")
    if len(came) != len(data):
        raise trial.not_yet(
            expected,
            f"it returned {len(came):,} bytes",
            "recv returns what is there, not all: a loop; and join, if a thread reads",
        )
    if came != data:
        raise trial.not_yet(expected, "they are in another order", "one thread sends, one reads")


@contextlib.contextmanager
def _closed_silently(sock: socket.socket) -> Iterator[socket.socket]:
    """The socket, until it is closed; then threads that the student's function has left waiting at it end silently."""
    before = set(threading.enumerate())
    yield sock
    with silent_ends(lambda died: died.thread not in before and isinstance(died.exc_value, OSError)):
        with sock, contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # this wakes the threads that wait in it
        deadline = time.monotonic() + 1.0
        for thread in set(threading.enumerate()) - before:
            thread.join(max(0.0, deadline - time.monotonic()))


SURPRISES = (
    Exercise("3.1", "A clean goodbye", ("conn", "addr"), one_at_a_time, _say_goodbye),
    Exercise("3.2", "Much at once", ("sock", "data"), _echo_with_small_buffers, _much_at_once, Server.where),
)
