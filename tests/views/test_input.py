"""A server that asks the keyboard: in a kernel, `input` is a function of ipykernel's that looks again and again."""

import getpass
import socket
import sysconfig
import threading

import pytest

from echo_kit import Client, start

LONG = 20
KERNEL = """
def raw_input(prompt=""):
    return ask(prompt)

getpass = raw_input

def ask(prompt):
    asked.set()
    while not over.wait(0.001):
        pass
    return "typed"
"""


@pytest.fixture
def kernel():
    """The functions of ipykernel's that ask the page, without a page."""
    names = {"__name__": "ipykernel.kernelbase", "asked": threading.Event(), "over": threading.Event()}
    exec(compile(KERNEL, sysconfig.get_paths()["purelib"] + "/ipykernel/kernelbase.py", "exec"), names)
    yield names
    names["over"].set()


@pytest.mark.parametrize("name", ["raw_input", "getpass"])
def test_a_thread_that_asks_the_keyboard_in_a_kernel_is_said_to_wait_for_it(kernel, monkeypatch, name):
    def serve(host, port):
        with socket.create_server((host, port)) as door, door.accept()[0] as conn:
            conn.recv(9)
            conn.sendall(input("say > ").encode() if name == "raw_input" else getpass.getpass("say > ").encode())

    monkeypatch.setattr("builtins.input" if name == "raw_input" else "getpass.getpass", kernel[name])
    written = 'input("say > ")' if name == "raw_input" else 'getpass.getpass("say > ")'
    with start(serve) as server, Client(server, name="alice") as alice:
        alice.send("hello")
        assert kernel["asked"].wait(LONG)
        (said,) = [str(mark) for _, mark in server.where().marks if mark.kind == "stands"]
        assert said == f"◀ server thread: waits in {written}"
        kernel["over"].set()
        assert alice.receive(timeout=LONG) == "typed"
