"""What the exercises of the surprises require: a clean goodbye, and much at once."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..watch.patches import silent_ends
from ..watch.sockets import any_ready, ready
from .called import result_of
from .report import NotYet
from .seems import SEND
from .trial import SILENCE, Guest, Serve, Trial

TWO = "recv(2): two bytes at most, and these go back"
MANY = 2_000_000  # bytes: more than the buffers between the client and this server hold
# Bytes that are asked for each of them. With a receive buffer of 16,384 the system drops packets that do not fit in it
# (`RcvQDrop` of nstat), and goes on slowly: on a busy machine a right answer then took up to 30 s.
BUFFERS = {socket.SO_SNDBUF: 16_384, socket.SO_RCVBUF: 49_152}
STILL = 1.5  # seconds without a byte after which the function of S.2 is stuck,
LONGEST = 30  # and in which it must return


def small_buffers(function: Callable[..., Any], trial: Trial) -> Serve:
    """The function is a client; the server is an echo server with small buffers, so that it is soon stuck."""

    def serve(host: str, port: int) -> None:
        with socket.create_server((host, port)) as s:
            shrink(s)  # the sockets that accept returns inherit it
            while True:
                conn, _ = s.accept()
                # Otherwise the rest of each echo waits for the client's acknowledgment: to send and to read by turns
                # would last a minute.
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with conn:
                    while data := conn.recv(999):  # so that the echo comes in other pieces than the data
                        conn.sendall(data)

    return serve


def shrink(sock: socket.socket) -> None:
    """Its buffers become small."""
    for buffer, size in BUFFERS.items():
        sock.setsockopt(socket.SOL_SOCKET, buffer, size)


def say_goodbye(trial: Trial) -> None:
    read = (
        "then read until the client has hung up, too: no bytes of it are unread then || recv until it returns no bytes"
    )
    for name, words, data, hint in (
        ("alice", '"he"', b"he", "say that you send no more, and read on || shutdown(socket.SHUT_WR)"),
        ("bob", '"hello"', b"hello", read),
        ("carol", "200,000 bytes", trial.letters(200_000), read),
        ("dave", "a space and bytes that are not text", b" \xff\r\xc3(\n", read),
        ("erin", "the same bytes", b" \xff\r\xc3(\n", read),
    ):
        guest = trial.tries(f"{name} sends {words}").guest(name).says(data).hears(data[:2], TWO)
        ends_well(trial, guest, hint, "no more than two bytes are sent back", TWO, silent=name == "carol")


def ends_well(trial: Trial, guest: Guest, hint: str, no_more: str, why: str, silent: bool = False) -> None:
    """After its answer the client gets an end of file, and no reset, also not later, when it has been `silent`. If
    further bytes come first, `no_more` was expected, and `why` is the hint.
    """
    guest.hears_nothing(why, no_more, may_end=True).is_hung_up(hint)
    trial.settle()
    there, sent = trial.server.observation.accepted[guest.client.connection.client], guest.client.connection.sent
    reset = isinstance(guest.client.ended, ConnectionResetError)
    trial.expects(f"{guest.name} gets a clean end of file", not reset, "it was a reset: bytes lay unread", hint)
    expected = f"the server reads what {guest.name} has sent, and waits until {guest.name} hangs up, too"
    # The system is asked: recv is one way to read, and recvmsg, os.read, … are others.
    socks = [sock for sock, seen in trial.server.observation.sockets(listening=False) if seen.connection is there]
    unread = any_ready((sock, selectors.EVENT_READ) for sock in socks)
    got = f"it has read {there.received:,} of {sent:,} bytes{', and has closed' if there.closed else ''}"
    trial.expects(expected, not unread and not there.closed, got, hint)
    if silent:
        trial.until(lambda: there.closed or trial.nothing_will_come(within=SILENCE), SILENCE)
        got = f"it has closed, although {guest.name} was still there, and silent for {SILENCE:g} s or less"
        hint = "a silence is no end of file: the client may say nothing for a while || recv until it returns no bytes"
        trial.expects(expected, not there.closed, got, hint)
    guest.leaves()
    trial.settle()
    closed = trial.until(lambda: there.closed)
    trial.expects(f"the server is done when {guest.name} has left", closed, "it is not", "your function must return")


def much_at_once(trial: Trial) -> None:
    trial.tries(f"your function sends {MANY:,} bytes to an echo server")
    data = trial.random.randbytes(MANY)
    hint = "read while you send: a thread that reads, or a small piece and then its echo, by turns"
    count = "the server does not hang up: count the bytes, and stop when all have come"
    sock = trial.at_the_end.enter_context(_closed_silently(socket.socket()))
    shrink(sock)
    sock.settimeout(LONGEST)  # with a limit send() takes a part of the bytes, as it may do always
    sock.connect(trial.server.address)
    sizes = _buffers(sock)
    there = trial.server.observation.accepted
    try:
        came = result_of(trial, sock, data, hint=hint, idle=count, still=STILL, most=LONGEST)
    except NotYet as problem:
        if problem.hint == count and sum(each.received for each in there.values()) < len(data):
            problem.hint = SEND
        raise
    expected = f"it returns all of the {len(data):,} bytes, in their order"
    is_bytes = isinstance(came, bytes | bytearray)
    trial.expects(expected, is_bytes, f"it returned {type(came).__name__}", "the last line: return, with the bytes")
    hint = "recv returns what is there, not all: a loop; and if a thread reads, wait for it || join()"
    trial.expects(expected, len(came) == len(data), f"it returned {len(came):,} bytes", hint)
    hint = "one thread sends, and one reads: with two that read, nobody knows whose bytes come first"
    trial.expects(expected, came == data, "they are in another order", hint)
    trial.settle()
    echoed = sum(each.sent for each in there.values())
    echo = "what you return is the echo: receive it, and put it together || recv in a loop; data itself is no echo"
    got = f"the server has echoed {echoed:,} bytes"
    trial.expects(f"the echo of all {len(data):,} bytes is received", echoed == len(data), got, echo)
    unread = False
    with contextlib.suppress(OSError):  # your function has closed it, or the server has hung up
        unread = ready(sock, selectors.EVENT_READ) and bool(sock.recv(1, socket.MSG_PEEK))
    trial.expects(f"the echo of all {len(data):,} bytes is received", not unread, "some of it is unread", echo)
    same = _buffers(sock) in (sizes, [])
    hint = "a larger buffer helps until the data is larger, too: read while you send"
    trial.expects("the buffers keep their sizes", same, "setsockopt has changed them", hint)


def _buffers(sock: socket.socket) -> list[int]:
    """Their sizes; none if the socket is closed."""
    with contextlib.suppress(OSError):
        return [sock.getsockopt(socket.SOL_SOCKET, each) for each in BUFFERS]
    return []


@contextlib.contextmanager
def _closed_silently(sock: socket.socket) -> Iterator[socket.socket]:
    """Closes the socket in the end; threads that the student's function has left waiting in it then end silently."""
    before = set(threading.enumerate())
    yield sock
    with silent_ends(lambda died: died.thread not in before and isinstance(died.exc_value, OSError)):
        with sock, contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # wakes every thread that waits in it
        deadline = time.monotonic() + 1.0
        for thread in set(threading.enumerate()) - before:
            thread.join(max(0.0, deadline - time.monotonic()))
