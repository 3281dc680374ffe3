"""Ctrl+C once, twice and three times in a terminal; and the port of a server that was killed."""

import contextlib
import os
import signal
import sys

import pytest

from echo_kit import free_port

from ..programs import LIMIT, ask, connect, read_to_end
from ..terminals import CTRL_C, NO_PTY, Terminal
from .targets import CLASSIC, PATIENCE, RUN

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason=NO_PTY)

FINISHED = {
    "python -m echo_kit server": (RUN, 60, "command", "server"),
    "python -m echo_kit server-thread": (RUN, 60, "command", "server-thread"),
}
times = pytest.mark.parametrize("times", [1, 2, 3])


@contextlib.contextmanager
def in_a_terminal(*command, port=None):
    """A server that listens, in a terminal."""
    port = port or free_port()
    with Terminal(sys.executable, *command, "127.0.0.1", port) as terminal:
        terminal.expect("Listening on ")
        terminal.expect("\n")
        terminal.port = port
        yield terminal


@contextlib.contextmanager
def clients_of(terminal):
    """alice has talked; bob is silent, and waits in the backlog of a single server."""
    with connect(terminal) as alice, connect(terminal) as bob:
        assert ask(alice, b"hello") == b"hello"
        yield alice, bob


@times
@pytest.mark.parametrize("server", FINISHED)
def test_ctrl_c_in_a_terminal_ends_it_in_good_order(server, times):
    """All its clients are hung up on, nothing is printed but its last words, and the port is free at once."""
    with in_a_terminal(*FINISHED[server]) as terminal, clients_of(terminal) as clients:
        press(terminal, times)
        code, text = terminal.ended()
        assert (code, "Traceback" in text) == (0, False), text
        assert [ended(client) for client in clients] == [True, True]
        with in_a_terminal(*FINISHED[server], port=terminal.port) as again, connect(again) as carol:
            assert ask(carol, b"next") == b"next"


def press(terminal, times):
    """Ctrl+C, and again as soon as the terminal has passed it on, unless the program has ended meanwhile."""
    terminal.wait_in()
    with contextlib.suppress(AssertionError):
        for _ in range(times):
            terminal.type(CTRL_C)
            terminal.expect("^C")


def ended(sock):
    """Nothing came but the end, or, of one that was never accepted, a reset."""
    try:
        return read_to_end(sock) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(("times", "ends"), [(1, False), (2, False), (3, True)])
def test_the_classic_threaded_server_needs_three(times, ends):
    """It waits for each client's thread, then Python does, and the third one ends it with a traceback."""
    with in_a_terminal(CLASSIC, "server_thread") as terminal, clients_of(terminal):
        for call, says in [("accept", "^C"), ("futex", "Stopped"), ("futex", "^C")][:times]:
            terminal.wait_in(call)  # or two of them could become one
            terminal.type(CTRL_C)
            terminal.expect(says)
        assert terminal.has_ended(LIMIT if ends else PATIENCE) == ends
        assert ("Traceback" in terminal.text) == ends


@pytest.mark.parametrize("server", ["server", "server_thread"])
def test_the_port_of_a_classic_server_stays_in_use(server):
    """Its side of the connection closes first: TIME_WAIT."""
    with in_a_terminal(CLASSIC, server) as terminal:
        with connect(terminal) as alice:
            ask(alice, b"hello")
            os.kill(terminal.pid, signal.SIGKILL)
            assert ended(alice)
        with Terminal(sys.executable, CLASSIC, server, "127.0.0.1", terminal.port) as again:
            assert "Address already in use" in again.ended()[1]
