"""Ports that cannot be had, while the clients of another server talk. (The command line's words: tests/test_main.py.)

`start` says in words what is wrong. The classic servers show Python's own error, below a traceback.
"""

import contextlib
import sys
from pathlib import Path

import pytest

import echo_kit

from ..programs import LIMIT, Program
from ..test_main import WITHOUT_RIGHTS
from .scenes import Scene
from .targets import CLASSIC, RUN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a program give away its rights")


@contextlib.contextmanager
def in_use():
    """By a server with two clients, who lose nothing."""
    with echo_kit.start(echo_kit.serve_threaded, name="holder") as holder:
        holder.port = holder.address[1]
        scene = Scene(holder, False, LIMIT)
        with scene.open:
            scene.before()
            yield holder.port
            scene.during(full=False)
            scene.after()


@contextlib.contextmanager
def out_of_range():
    yield 65_536


@contextlib.contextmanager
def privileged():
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1:
        pytest.skip("this machine lets every user have port 1")
    yield 1


# What the server says: one that is started, a classic one.
SAYS = {
    in_use: ("is held by", "OSError: [Errno 98] Address already in use"),
    out_of_range: ("65535", "OverflowError: bind(): port must be 0-65535."),
    privileged: ("is not allowed", "PermissionError: [Errno 13] Permission denied"),
}
each_fault = pytest.mark.parametrize("fault", SAYS, ids=lambda fault: fault.__name__)


def said_at(fault, *command):
    """The server's last words. root may have any port: the right to it is given away first."""
    with fault() as port, Program("127.0.0.1", port, python=("-c", WITHOUT_RIGHTS, *command)) as program:
        code, complaints = program.end()
    assert code == 1
    return complaints


@each_fault
@pytest.mark.parametrize("serve", ["serve_single", "serve_threaded"])
def test_start_says_what_is_wrong_with_the_port(serve, fault):
    assert SAYS[fault][0] in said_at(fault, RUN, 60, "started", serve).splitlines()[-1]


@each_fault
@pytest.mark.parametrize("server", ["server", "server_thread"])
def test_a_classic_server_does_not(server, fault):
    complaints = said_at(fault, CLASSIC, server)
    assert complaints.startswith("Traceback")
    assert complaints.splitlines()[-1] == SAYS[fault][1]
