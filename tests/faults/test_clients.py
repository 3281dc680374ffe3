"""Two faults that trouble no server by themselves: the classic client hangs or shows other replies, and ours do not."""

import sys

import pytest

from ..programs import LIMIT, Program
from ..terminals import PROGRAMS
from .scenes import CUT_OFF, GUEST, NO_ANSWER, Scene, play
from .targets import CLASSIC, PATIENCE, classic, in_a_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the battery's servers are ended by signals")

OURS = {"python -m echo_kit client": ("-m", "echo_kit", "client"), "programs/client.py": (PROGRAMS / "client.py",)}
LONG = "".join(f"{number:5}" for number in range(1000))


def an_empty_line(scene, client):
    client.type("\n")
    yield
    answers(scene, client, "hello")
    if GUEST not in scene.saw:  # or it waits for ever for a reply to nothing
        client.end()


def five_thousand_characters_in_a_line(scene, client):
    answers(scene, client, LONG)
    yield
    answers(scene, client, "short")
    client.end()


def answers(scene, client, line):
    """It shows this line's reply, whole, and asks for the next line."""
    client.type(f"{line}\n")
    try:
        client.expect(f"Received  :  {line}\n> ", scene.patience)
    except AssertionError:
        scene.saw.add(GUEST)


def become_of(script, python, scene):
    """What goes wrong while this client is the guest."""

    def fault(scene):
        client = scene.open.enter_context(Program("127.0.0.1", scene.program.port, python=python))
        client.expect("> ")
        yield from script(scene, client)

    with scene.open:
        return play(fault, scene)


each_script = pytest.mark.parametrize("script", [an_empty_line, five_thousand_characters_in_a_line])


@each_script
@pytest.mark.parametrize("server", ["server", "server-thread"])
@pytest.mark.parametrize("client", OURS)
def test_our_clients_show_each_reply(client, server, script):
    with in_a_process("command", server) as program:
        assert become_of(script, OURS[client], Scene(program, server == "server", LIMIT)) == set()
        program.interrupt()


@pytest.mark.parametrize(
    ("script", "server", "expected"),
    [
        (an_empty_line, "server", {GUEST, NO_ANSWER}),
        (an_empty_line, "server_thread", {GUEST}),
        (five_thousand_characters_in_a_line, "server", {GUEST, CUT_OFF}),  # it leaves with bytes unread: a reset
        (five_thousand_characters_in_a_line, "server_thread", {GUEST}),
    ],
)
def test_the_classic_client_does_not(script, server, expected):
    with classic(server) as program:
        assert become_of(script, (CLASSIC, "client"), Scene(program, server == "server", PATIENCE)) == expected
