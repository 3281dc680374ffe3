"""The three programs of notebooks/programs, run as a student runs them, in terminals, with real clients and faults."""

import ast
import os
import re
import socket
import subprocess
import sys

import pytest

import echo_kit

from .programs import ask, read_to_end, reset
from .terminals import CTRL_C, CTRL_D, LIMIT, NO_PTY, PROGRAMS, Terminal

NAMES = ["server.py", "client.py", "server_thread.py"]
SERVERS = ["server.py", "server_thread.py"]
each_program = pytest.mark.parametrize("name", NAMES)
each_server = pytest.mark.parametrize("name", SERVERS)
in_a_terminal = pytest.mark.skipif(sys.platform == "win32", reason=NO_PTY)


# -- as a text ---------------------------------------------------------------------------------------------------------


@each_program
def test_it_has_30_to_40_lines_and_needs_three_modules_at_most(name):
    text = (PROGRAMS / name).read_text("utf-8")
    assert 30 <= sum(bool(line.strip()) for line in text.splitlines()) <= 40
    tree = ast.parse(text)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= {"socket", "sys", "threading"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


@each_program
def test_it_has_the_shape_that_students_know(name):
    text = (PROGRAMS / name).read_text("utf-8")
    assert text.startswith("#!/usr/bin/env python3\n")
    assert text.endswith('\n\nif __name__ == "__main__":\n    main()\n')
    assert f'print("Use ./{name} HOST PORT for non default args")' in text
    assert "sys.argv" in text
    assert "except KeyboardInterrupt" in text or "except (KeyboardInterrupt, EOFError)" in text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such bit")
@each_program
def test_it_can_be_called_by_its_name(name):
    assert os.access(PROGRAMS / name, os.X_OK)


@pytest.mark.parametrize(("system", "reuse"), [("linux", True), ("darwin", True), ("win32", False)])
@each_server
def test_a_port_is_taken_over_from_nobody_on_windows(name, system, reuse):
    """Where SO_REUSEADDR means that two servers may listen on one port."""
    code = """
import runpy, socket, sys
class Socket(socket.socket):
    def listen(self, *_):
        print(self.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))
        raise KeyboardInterrupt
socket.socket, sys.platform = Socket, sys.argv.pop()
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
    program, port = PROGRAMS / name, echo_kit.free_port()
    done = subprocess.run(
        [sys.executable, "-c", code, program, "127.0.0.1", str(port), system],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    assert (done.stdout.split()[0] != "0") == reuse


# -- in a terminal -----------------------------------------------------------------------------------------------------


def start(name, port=None):
    """A server in a terminal, once it listens; its `port`."""
    port = port or echo_kit.free_port()
    terminal = Terminal(PROGRAMS / name, "127.0.0.1", port)
    terminal.port = port
    try:
        terminal.expect(f"Listening on ('127.0.0.1', {port})\n")
    except BaseException:
        terminal.__exit__()
        raise
    return terminal


def client_of(server):
    terminal = Terminal(PROGRAMS / "client.py", "127.0.0.1", server.port)
    try:
        terminal.expect("> ")
    except BaseException:
        terminal.__exit__()
        raise
    return terminal


def connection(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT)


def talk(client, line):
    client.enter(line)
    return client.expect("\n> ").removesuffix("\n> ")


def press_ctrl_c(terminal, call=""):
    """It ends, in good order; what it says after that."""
    terminal.wait_in(call)
    before = len(terminal.text)
    terminal.type(CTRL_C)
    code, text = terminal.ended()
    assert code == 0
    assert "Traceback" not in text
    return text[before:]


@in_a_terminal
@each_program
def test_without_arguments_it_says_how_to_give_some_and_takes_port_8000(name):
    """Whether somebody uses that port is not our business: either way it says which one it has tried."""
    with Terminal(PROGRAMS / name) as terminal:
        assert terminal.expect("\n") == f"Use ./{name} HOST PORT for non default args\n"
        if name == "client.py":
            return
        said = terminal.expect("\n")
        in_use = f"Cannot serve: [Errno {98 if sys.platform == 'linux' else 48}] Address already in use."
        assert said.startswith(("Listening on ('127.0.0.1', 8000)", in_use))


@each_program
def test_the_default_is_127_0_0_1_8000(name):
    assert 'host, port = sys.argv[1:] or ("127.0.0.1", 8000)' in (PROGRAMS / name).read_text("utf-8")


@in_a_terminal
@each_server
def test_one_client_talks_to_it_and_both_end_by_ctrl_c(name):
    with start(name) as server, client_of(server) as client:
        assert talk(client, "hello") == "Received  :  hello"
        seen = server.expect("\n")
        assert re.fullmatch(r"Received data from \('127\.0\.0\.1', \d+\) : hello\n", seen)
        assert talk(client, "é and 🐍") == "Received  :  é and 🐍"
        server.expect(" : é and 🐍\n")
        assert press_ctrl_c(client) == "^C\n"
        with connection(server) as after:
            assert ask(after, b"still here") == b"still here"
            server.expect(" : still here\n")
        press_ctrl_c(server, "" if name == "server.py" else "accept")


@in_a_terminal
def test_end_of_input_ends_the_client_quietly():
    with start("server.py") as server, client_of(server) as client:
        talk(client, "hello")
        client.type(CTRL_D)
        code, text = client.ended()
        assert code == 0
        assert text.endswith("\n> \n")


@in_a_terminal
def test_the_single_server_lets_the_second_client_wait_until_the_first_has_left():
    with start("server.py") as server, client_of(server) as alice, client_of(server) as bob:
        talk(alice, "hello")
        bob.enter("hi")
        assert talk(alice, "news?") == "Received  :  news?"
        assert bob.text == "> hi\n"
        press_ctrl_c(alice)
        bob.expect("Received  :  hi\n> ")


@in_a_terminal
def test_ctrl_c_ends_a_client_that_waits_for_its_reply():
    with start("server.py") as server, client_of(server) as alice, client_of(server) as bob:
        talk(alice, "hello")
        bob.enter("hi")
        assert press_ctrl_c(bob) == "^C\n"
        assert talk(alice, "news?") == "Received  :  news?"


@in_a_terminal
def test_the_threaded_server_answers_both():
    with start("server_thread.py") as server, client_of(server) as alice, client_of(server) as bob:
        for _ in range(2):
            assert talk(alice, "hello") == "Received  :  hello"
            assert talk(bob, "hi") == "Received  :  hi"


@in_a_terminal
@each_server
def test_a_client_that_resets_costs_nobody_else_anything(name):
    with start(name) as server:
        for _ in range(2):
            crashes = connection(server)
            ask(crashes, b"x")
            reset(crashes)
            server.expect(" : x\nLost ('127.0.0.1', ")
            assert "Connection reset by peer" in server.expect("\n")
        with connection(server) as after:
            assert ask(after, b"y") == b"y"
        server.expect(" : y\n")
        assert "Traceback" not in server.text


@in_a_terminal
@each_server
def test_bytes_that_are_no_text_are_echoed_and_shown_as_escapes(name):
    every = bytes(range(128, 256))
    with start(name) as server, connection(server) as client:
        assert ask(client, every) == every
        server.expect(" : \\x80\\x81")
        server.expect("\\xff\n")


@in_a_terminal
@each_server
def test_a_character_that_is_cut_in_two(name):
    """At the 1,024th byte. The server shows two halves, the client the whole."""
    line = "x" * 1023 + "é"
    with start(name) as server, client_of(server) as client:
        assert talk(client, line) == f"Received  :  {line}"
        server.expect("\\xc3\n")
        server.expect(" : \\xa9\n")


@in_a_terminal
@each_server
def test_a_long_line_has_a_long_reply_and_the_next_reply_is_the_next_ones(name):
    line = "".join(f"{number:5}" for number in range(700))
    with start(name) as server, client_of(server) as client:
        assert talk(client, line) == f"Received  :  {line}"
        assert talk(client, "short") == "Received  :  short"


@in_a_terminal
def test_a_reply_that_comes_in_pieces_is_put_together():
    with socket.create_server(("127.0.0.1", echo_kit.free_port())) as listener:
        with Terminal(PROGRAMS / "client.py", *listener.getsockname()) as client:
            listener.settimeout(LIMIT)
            conn, _ = listener.accept()
            with conn:
                conn.settimeout(LIMIT)
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.expect("> ")
                client.enter("a é b")
                data = conn.recv(1024)
                assert data == "a é b".encode()
                for number in range(len(data)):
                    conn.sendall(data[number : number + 1])
                client.expect("Received  :  a é b\n> ")


@in_a_terminal
def test_a_reply_that_is_no_text_is_shown_as_escapes():
    with socket.create_server(("127.0.0.1", echo_kit.free_port())) as listener:
        with Terminal(PROGRAMS / "client.py", *listener.getsockname()) as client:
            listener.settimeout(LIMIT)
            conn, _ = listener.accept()
            with conn:
                client.expect("> ")
                client.enter("abc")
                conn.sendall(b"\xff\xc3a")
                client.expect("Received  :  \\xff\\xc3a\n> ")


@in_a_terminal
@each_server
def test_an_empty_line_sends_nothing_and_blocks_nobody(name):
    with start(name) as server, client_of(server) as client:
        client.enter("")
        assert client.expect("> ") == "> "
        assert talk(client, "hello") == "Received  :  hello"


@in_a_terminal
def test_when_the_server_has_left_the_client_says_so_and_ends():
    with start("server_thread.py") as server, client_of(server) as client:
        talk(client, "hello")
        press_ctrl_c(server, "accept")
        client.enter("anybody?")
        code, text = client.ended()
        assert code == 1
        assert re.search(
            r"> anybody\?\n(The server has left|Connection failed: \[Errno \d+\] [\w ]+\. Use .*)\n$", text
        )


@in_a_terminal
def test_where_nobody_listens_the_client_says_so():
    with Terminal(PROGRAMS / "client.py", "127.0.0.1", echo_kit.free_port()) as client:
        code, text = client.ended()
    assert code == 1
    assert re.fullmatch(r"Connection failed: \[Errno \d+\] Connection refused\. Use \./client\.py HOST PORT\n", text)


@in_a_terminal
@each_server
def test_a_busy_port_is_one_line(name):
    with start(name) as first, Terminal(PROGRAMS / name, "127.0.0.1", first.port) as second:
        code, text = second.ended()
        assert code == 1
        assert re.fullmatch(rf"Cannot serve: \[Errno \d+\] Address already in use\. Use \./{name} HOST PORT\n", text)
        with connection(first) as client:
            assert ask(client, b"mine") == b"mine"


WRONG = [
    ["8000"],
    ["127.0.0.1", "port"],
    ["127.0.0.1", "-1"],
    ["127.0.0.1", "65536"],
    ["127.0.0.1", "8000", "9000"],
    ["not..a-host", "8000"],
]


@in_a_terminal
@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
@each_program
def test_wrong_arguments_are_one_line(name, arguments):
    with Terminal(PROGRAMS / name, *arguments) as terminal:
        code, text = terminal.ended()
    assert code == 1
    begin = "Connection failed" if name == "client.py" else "Cannot serve"
    assert re.fullmatch(rf"{begin}: .+\. Use \./{re.escape(name)} HOST PORT\n", text), text


@in_a_terminal
@each_server
def test_it_can_be_started_again_at_once(name):
    """It ends with a client connected: its side of the connection closes first, and the port stays in TIME_WAIT."""
    with start(name) as server, connection(server) as client:
        ask(client, b"x")
        server.expect(" : x\n")
        press_ctrl_c(server, "" if name == "server.py" else "accept")
        assert read_to_end(client) == b""
    with start(name, server.port) as again, connection(again) as client:
        assert ask(client, b"y") == b"y"


@in_a_terminal
def test_ctrl_c_ends_the_threaded_server_with_silent_clients():
    with start("server_thread.py") as server:
        silent = [connection(server) for _ in range(5)]
        try:
            for client in silent:
                ask(client, b"x")
                server.expect(" : x\n")
            assert press_ctrl_c(server, "accept") == "^C"
            assert [read_to_end(client) for client in silent] == [b""] * 5
        finally:
            for client in silent:
                client.close()


@in_a_terminal
def test_ctrl_c_ends_the_threaded_server_with_a_client_that_never_reads():
    with start("server_thread.py") as server, connection(server) as client:
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):  # its buffers are full, and ours: it waits in sendall
            client.sendall(b"x" * 100_000_000)
        said = press_ctrl_c(server, "accept")
        assert "Lost ('127.0.0.1', " in said  # the last words of a thread that was waited for


def with_peers(program):
    """What server_thread.py prints in its last line if `program` comes before it, with four connections in `peers`."""
    code = f"""
import runpy, socket, sys, threading
pairs = [socket.socketpair() for _ in range(4)]
peers = [theirs for _, theirs in pairs]
class Socket(socket.socket):
    def accept(self):
        look(sys._getframe(1).f_locals["clients"])
        if not peers:
            raise KeyboardInterrupt
        return peers.pop(), "somebody"
class Thread(threading.Thread):
{program}
socket.socket, threading.Thread = Socket, Thread
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, PROGRAMS / "server_thread.py", "127.0.0.1", str(echo_kit.free_port())],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def test_the_threaded_server_remembers_no_client_that_has_left():
    """Each client here has left, and its thread has ended, before the next one is accepted."""
    program = """
    def start(self):
        super().start()
        self.join()
for ours, _ in pairs:
    ours.close()
def look(clients):
    print(len(clients), end=" ", flush=True)
"""
    assert with_peers(program) == "0 1 1 1 1 "


def test_the_threaded_server_waits_for_each_thread():
    program = """
    def join(self, *args):
        super().join(*args)
        print("ended:", not self.is_alive(), end=" ")
def look(clients):
    pass
"""
    assert with_peers(program).count("ended: True") == 4
