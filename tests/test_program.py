"""`run`: a client program, unmodified, with its input typed, at real servers in this process and in another one."""

import contextlib
import socket
import subprocess
import sys
from contextlib import closing

import pytest

import echo_kit


def handle(conn):
    with conn, contextlib.suppress(ConnectionError):  # a program that ends may leave bytes unread
        while data := conn.recv(1024):
            conn.sendall(data)


def serve(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, _ = s.accept()
            handle(conn)


def talk():
    host, port = sys.argv[1], int(sys.argv[2])
    with socket.create_connection((host, port)) as s:
        try:
            while True:
                line = input("> ")
                s.sendall(line.encode())
                data = s.recv(1024)
                print("Received  : ", data.decode())
        except KeyboardInterrupt:
            print("bye")


@pytest.fixture
def server():
    with echo_kit.start(serve) as server:
        yield server


def test_the_screen_is_that_of_a_terminal(server):
    with echo_kit.run(talk, *server.address, typed=["hello", "é"]) as program:
        assert program.screen == "> hello\nReceived  :  hello\n> é\nReceived  :  é\n> "
        assert repr(program).endswith("\n[it waits in input for a line]")
        assert program.type("more").screen.endswith("> more\nReceived  :  more\n> ")
        assert not program.ended
    assert program.ended
    assert program.error is None


def test_the_server_knows_it_by_its_name(server):
    with echo_kit.run(talk, *server.address, typed=["hello"], name="alice") as program:
        assert str(server.timeline()).endswith(
            'alice  connected · accepted · served by the server thread · "hello" echoed'
        )
        assert "waits in recv for alice" in str(server.where())
        with echo_kit.run(talk, *server.address, typed=["hi"], name="bob") as bob:
            assert "bob  2 bytes unread" in str(server.backlog())
            assert repr(bob) == "> hi\n[it waits in recv for the server]"
            program.interrupt()
            assert bob.settle()
            assert bob.screen == "> hi\nReceived  :  hi\n> "
    assert "alice" in str(server.timeline())
    assert "left" in str(server.timeline())


def test_where_shows_its_line(server):
    with echo_kit.run(talk, *server.address, typed=[""]) as program:
        view = str(program.where())
        assert "data = s.recv(1024)" in view
        (line,) = [line for line in view.splitlines() if "◀" in line]
        assert line.strip().startswith("data = s.recv(1024)")
        assert line.endswith("◀ main thread: waits in recv for the server")


@pytest.mark.parametrize("typed", [[], [""]], ids=["in input", "in recv"])
def test_ctrl_c_comes_at_once_wherever_it_waits(server, typed):
    program = echo_kit.run(talk, *server.address, typed=typed)
    program.interrupt()
    assert program.ended
    assert program.error is None
    assert program.screen.endswith("^Cbye")


def careless():
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
        s.sendall(input("name: ").encode())
        print(len(s.recv(1024)))


def test_an_uncaught_ctrl_c_and_the_end_of_the_input_are_what_they_are_in_a_terminal(server):
    program = echo_kit.run(careless, *server.address).interrupt()
    assert isinstance(program.error, KeyboardInterrupt)
    assert program.screen == "name: ^C\nKeyboardInterrupt"
    program = echo_kit.run(careless, *server.address, typed=[None])
    assert isinstance(program.error, EOFError)
    assert program.screen.splitlines()[-1].startswith("EOFError")
    assert repr(program).endswith("[it ended with EOFError]")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # as without us: its socket is garbage
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_it_dies_of_is_on_its_screen_and_its_socket_is_closed(server):
    def crashes():
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
        s.sendall(b"x")
        s.recv(1)
        raise ValueError("a reason")

    program = echo_kit.run(crashes, *server.address)
    assert isinstance(program.error, ValueError)
    assert program.screen.splitlines()[-1] == "ValueError: a reason"
    assert "ended here, ValueError" in str(program.where())
    assert "left" in str(server.timeline())


def test_exit_is_no_error_and_its_words_are_shown():
    def leaves():
        sys.exit(f"usage: {sys.argv[0]} HOST PORT")

    program = echo_kit.run(leaves)
    assert program.ended
    assert program.error is None
    assert program.screen == "usage: leaves HOST PORT"


def test_a_file_is_run_as_a_program(server, tmp_path):
    path = tmp_path / "client.py"
    path.write_text(
        "import socket, sys\n"
        "def main():\n"
        "    s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "    s.sendall(input('> ').encode())\n"
        "    print(s.recv(1024))\n"
        "    s.close()\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    with echo_kit.run(path, *server.address) as program:
        assert "    s.sendall(input('> ').encode())" in str(program.where())
        assert program.type("hi").screen == "> hi\nb'hi'"
        assert program.ended
    assert "client" in str(server.timeline())


def test_input_is_the_programs_only_while_it_runs(server):
    with echo_kit.run(talk, *server.address):
        assert "input" in globals()
        with echo_kit.run(talk, *server.address, name="other"):
            pass
        assert "input" in globals()
    assert "input" not in globals()


def test_a_program_of_the_same_name_takes_the_place_of_the_first(server):
    first = echo_kit.run(talk, *server.address)
    with echo_kit.run(talk, *server.address) as second:
        assert first.ended
        assert not second.ended


def test_a_server_in_another_process_is_waited_for_too():
    code = (
        "import socket\n"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "conn, addr = s.accept()\n"
        "while data := conn.recv(1024): conn.sendall(data)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        port = process.stdout.readline().strip()
        with echo_kit.run(talk, "127.0.0.1", port, typed=["hello"]) as program:
            assert program.screen == "> hello\nReceived  :  hello\n> "
        assert process.wait(timeout=10) == 0


def test_no_program_is_said_in_words(tmp_path):
    with pytest.raises(TypeError, match=r"run\(\) needs a function without arguments or the path of a file, not 7"):
        echo_kit.run(7)
    with pytest.raises(FileNotFoundError):
        echo_kit.run(tmp_path / "none.py")
    assert echo_kit.run(talk, "127.0.0.1", closed_port()).error.__class__ is ConnectionRefusedError


def closed_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as s:
        return s.getsockname()[1]


def test_stop_looks_like_a_server_that_left_and_ctrl_c(server):
    seen = []

    def stubborn():
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
        try:
            seen.append(s.recv(1024))
            input()
        except KeyboardInterrupt:
            seen.append("Ctrl+C")
        s.close()

    program = echo_kit.run(stubborn, *server.address)
    program.stop()
    assert program.ended
    assert seen == [b"", "Ctrl+C"]
    program.stop()  # once more does nothing


def test_a_program_that_waits_for_a_line_is_at_rest_although_bytes_lie_unread(server):
    with echo_kit.run(talk, *server.address, typed=["x" * 2048, "next"]) as program:
        assert program.settle(timeout=2)
        assert [len(line) for line in program.screen.splitlines() if "Received" in line] == 2 * [
            len("Received  :  ") + 1024
        ]
