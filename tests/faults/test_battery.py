"""Every fault at every server: the finished ones serve on, the classic ones do not, and `start` makes none worse.

`faults.py` has the faults, `scenes.py` the clients, `classic.py` the classic servers.
"""

import contextlib
import sys

import pytest

from ..programs import LIMIT
from .faults import FAULTS
from .scenes import CUT_OFF, DIED, GOES_ON, GUEST, NO_ANSWER, Scene, play
from .targets import PATIENCE, classic, died, in_a_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets the limits of another process")

IDLE = {"silent clients": 3, "client that never reads": 3}  # seconds: the finished servers' limit; else it is 60

# The server, the way in which it is run, and whether it has one client at a time.
FINISHED = {
    "python -m echo_kit server": ("command", "server", True),
    "python -m echo_kit server-thread": ("command", "server-thread", False),
    "start(serve_single)": ("started", "serve_single", True),
    "start(serve_threaded)": ("started", "serve_threaded", False),
}

# What goes wrong at the classic servers: the single one, the threaded one. NONE: this fault is none for it. (5,000
# bytes and the empty message are faults for the classic client: see test_clients.py.)
NONE, ENDS = frozenset(), {CUT_OFF, DIED}
CLASSIC = {
    "reset while the server reads": (ENDS, {DIED}),
    "reset in the backlog": (ENDS, {DIED}),
    "empty message": (NONE, NONE),
    "silent clients": ({NO_ANSWER}, {GOES_ON}),
    "client that never reads": ({NO_ANSWER}, {GOES_ON}),
    "invalid utf 8": ({GUEST} | ENDS, {GUEST, DIED}),
    "character cut at byte 1024": ({GUEST} | ENDS, {GUEST, DIED}),
    "five thousand bytes at once": (NONE, NONE),
    "half close with 300 kb in flight": (NONE, NONE),
    "queue of 150 at a backlog of 128": ({GUEST, NO_ANSWER}, {GUEST}),
    "a thousand at once": ({GUEST, NO_ANSWER}, {GUEST}),
    "one client takes every descriptor": (NONE, ENDS),
    "no descriptor left": ({GUEST} | ENDS, {GUEST} | ENDS),
    "no thread to be had": (NONE, {GUEST} | ENDS),
}

# Servers as people write them, of tests/watch/plain_servers.py, and whether they have few clients at a time.
WRITTEN = {
    "single": True,
    "threaded": False,
    "pool": True,
    "threading_tcp_server": False,
    "select_loop": False,
    "selectors_loop": False,
    "asyncio_streams": False,
}

each_fault = pytest.mark.parametrize("fault", FAULTS)
WITHOUT_ONE = "no descriptor left"  # the single server needs one, and no client can take it away: it ends


@pytest.mark.parametrize(
    ("server", "fault"),
    [(name, fault) for name in FINISHED for fault in FAULTS if not (FINISHED[name][2] and fault == WITHOUT_ONE)],
)
def test_a_finished_server_serves_on(server, fault):
    way, name, one_at_a_time = FINISHED[server]
    with in_a_process(way, name, IDLE.get(fault, 60)) as program:
        scene = Scene(program, one_at_a_time, LIMIT, hangs_up=True)
        with scene.open:
            assert play(FAULTS[fault], scene) == set()
        program.interrupt(prompt=LIMIT)
        assert not died(program), program.out


def test_without_a_descriptor_the_single_server_ends_and_says_why():
    with in_a_process("command", "server") as program:
        scene = Scene(program, True, LIMIT)
        with scene.open:
            assert play(FAULTS[WITHOUT_ONE], scene) == {GUEST, CUT_OFF}
        code, complaints = program.end()
    assert (code, complaints) == (2, f"echo_kit: cannot serve at 127.0.0.1:{program.port}: Too many open files\n")


@each_fault
@pytest.mark.parametrize("kind", ["server", "server_thread"])
def test_the_classic_server_does_not(kind, fault):
    expected = CLASSIC[fault][kind == "server_thread"]
    patience = PATIENCE if expected & {NO_ANSWER, GOES_ON, GUEST} else LIMIT
    with contextlib.ExitStack() as clients, classic(kind) as program:
        scene = Scene(program, kind == "server", patience)
        clients.push(scene.open)  # they leave last, so that nothing dies of that
        saw = play(FAULTS[fault], scene)
        if kind == "server" and CUT_OFF in saw:
            program.end()  # by itself: Ctrl+C might come before its traceback
        elif not program.ends_by_ctrl_c(patience):
            saw.add(GOES_ON)
    if died(program):
        saw.add(DIED)
    assert saw == expected, program.complaints


@pytest.mark.parametrize("fault", [each for each in FAULTS if each != WITHOUT_ONE])  # when they ask for it is chance
@pytest.mark.parametrize("name", WRITTEN)
def test_a_started_server_does_what_it_does_without_us(name, fault):
    alone = become_of("plain", name, fault, PATIENCE)
    started = become_of("started", name, fault, PATIENCE if alone else LIMIT)
    assert started == alone


def become_of(way, name, fault, patience):
    with contextlib.ExitStack() as clients, in_a_process(way, name) as program:
        scene = Scene(program, WRITTEN[name], patience)
        clients.push(scene.open)  # they leave last, so that nothing dies of that
        saw = play(FAULTS[fault], scene)
        if way == "started":  # its process lives on, whatever has become of the server, and can stop it
            assert program.ends_by_ctrl_c(LIMIT)
            assert program.end()[0] == 0, program.complaints
    if CUT_OFF in saw:
        return {CUT_OFF}  # it ends: how far it has come with its guest by then, and with its last words, is chance
    return saw | {DIED} if died(program) else saw
