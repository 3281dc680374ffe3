"""`run`: a client program, unmodified, with its input typed, at real servers in this process and in another one."""

import contextlib
import io
import select
import selectors
import socket
import subprocess
import sys
import threading
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
            assert repr(bob) == "> hi\n[it waits in recv for the server: nothing has come]"
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
        assert line.endswith("◀ main thread: waits in recv for the server: nothing has come")


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


# -- client programs that people asked about ---------------------------------------------------------------------------
# Short forms, rewritten, of programs whose authors asked why they hang: two of each kind.


def stands(program):
    """The code on which its threads stand, and the words for it."""
    lines = [line.split("◀") for line in str(program.where()).splitlines() if "◀" in line]
    return [(code.strip(), words.strip()) for code, words in lines]


def here():
    return sys.argv[1], int(sys.argv[2])


def by_lines(host, port):
    """Answers each line, by its number of characters; one after the other."""
    with socket.create_server((host, port)) as s:
        while True:
            conn, _ = s.accept()
            with conn, conn.makefile("rw") as file, contextlib.suppress(ConnectionError):
                for line in file:
                    file.write(f"{len(line)}\n")
                    file.flush()


def by_connection(host, port):
    """Answers when all has come, as a server of HTTP 1.0 or `wc` do."""
    with socket.create_server((host, port)) as s:
        while True:
            conn, _ = s.accept()
            with conn, contextlib.suppress(ConnectionError):
                data = b""
                while more := conn.recv(1024):
                    data += more
                conn.sendall(str(len(data)).encode())


NOTHING = "main thread: waits in recv for the server: nothing has come"
NO_MORE = "main thread: waits in recv for the server: nothing more has come"


def listens_first():
    with socket.create_connection(here()) as s:
        greeting = s.recv(1024)
        print(greeting)
        s.sendall(input("> ").encode())


def asks_in_the_wrong_order():
    s = socket.socket()
    s.connect(here())
    with s:
        for question in ("a", "b"):
            answer = s.recv(4)
            s.send(question.encode())
            print(answer)


@pytest.mark.parametrize(
    ("wrong", "line"), [(listens_first, "greeting = s.recv(1024)"), (asks_in_the_wrong_order, "answer = s.recv(4)")]
)
def test_recv_before_send_where_the_server_waits_too(server, wrong, line):
    with echo_kit.run(wrong, *server.address) as program:
        assert stands(program) == [(line, NOTHING)]
        assert f"server thread: waits in recv for {wrong.__name__}" in str(server.where())
        assert program.interrupt().ended


def sends_without_end_of_line():
    with socket.create_connection(here()) as s:
        s.sendall(input("> ").encode())
        print(s.recv(1024).decode())


def forgets_to_flush():
    with socket.create_connection(here()) as s, s.makefile("rw") as file:
        file.write(input("> ") + "\n")
        print(file.readline())


@pytest.mark.parametrize(
    ("wrong", "line", "unread"),
    [
        (sends_without_end_of_line, "print(s.recv(1024).decode())", '"hello" read, not answered'),
        (forgets_to_flush, "print(file.readline())", "served by the server thread"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the file cannot be flushed any more
def test_no_end_of_line_for_a_server_that_reads_lines(wrong, line, unread):
    with echo_kit.start(by_lines) as server, echo_kit.run(wrong, *server.address, typed=["hello"]) as program:
        assert stands(program) == [(line, NOTHING)]
        assert str(server.timeline()).endswith(unread)


def reads_to_the_end(*, finish=False):
    with socket.create_connection(here()) as s:
        s.sendall(input("> ").encode())
        if finish:
            s.shutdown(socket.SHUT_WR)
        answer = b""
        while data := s.recv(1024):
            answer += data
        print(answer.decode())


def reads_a_file_to_the_end(*, finish=False):
    with socket.create_connection(here()) as s, s.makefile("rb") as file:
        s.sendall(input("> ").encode())
        if finish:
            s.shutdown(socket.SHUT_WR)
        print(file.read().decode())


@pytest.mark.parametrize("read", [reads_to_the_end, reads_a_file_to_the_end])
def test_both_wait_for_the_end_of_the_other_and_a_half_close_cures_it(read):
    with echo_kit.start(by_connection) as server:
        with echo_kit.run(read, *server.address, typed=["hello"]) as program:
            ((_, words),) = stands(program)
            assert words == NOTHING
            assert str(server.timeline()).endswith('"hello" read, not answered')
            assert f"waits in recv for {program.name}, which waits in recv, too" in str(server.where())

        def cured():
            read(finish=True)

        with echo_kit.run(cured, *server.address, typed=["hello"]) as program:
            assert program.screen == "> hello\n5"
            assert program.ended
        told = str(server.timeline()).splitlines()[-1]
        assert told.startswith("  cured")
        assert 'sent "hello" · finished sending · got "5" · closed by the server at line ' in told


def takes_two_for_one():
    with socket.create_connection(here()) as s:
        s.sendall(b"hello")
        head = s.recv(1024)
        body = s.recv(1024)
        print(head, body)


def reads_an_exact_size():
    with socket.create_connection(here()) as s:
        s.sendall(b"hello")
        data = b""
        while len(data) < 8:
            data += s.recv(8 - len(data))
        print(data)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [(takes_two_for_one, "body = s.recv(1024)"), (reads_an_exact_size, "data += s.recv(8 - len(data))")],
)
def test_two_recvs_for_one_message(server, wrong, line):
    with echo_kit.run(wrong, *server.address) as program:
        assert stands(program) == [(line, NO_MORE)]


def chats():
    def receive():
        while data := s.recv(1024):
            print("\ngot", data.decode())

    with socket.create_connection(here()) as s:
        threading.Thread(target=receive, daemon=True).start()
        while True:
            s.sendall(input("> ").encode())


def chats_by_a_class():
    class Receiver(threading.Thread):
        def __init__(self, sock):
            super().__init__(name="receiver", daemon=True)
            self.sock = sock

        def run(self):
            while True:
                data = self.sock.recv(1024)
                if not data:
                    break
                print("\ngot", data.decode())

    with socket.create_connection(here()) as s:
        Receiver(s).start()
        for line in sys.stdin:
            s.sendall(line.strip().encode())


@pytest.mark.parametrize(
    ("chat", "line", "waits", "name"),
    [
        (chats, 's.sendall(input("> ").encode())', "input", "thread 1"),
        (chats_by_a_class, "for line in sys.stdin:", "sys.stdin", "receiver"),
    ],
)
def test_a_thread_that_receives_beside_a_loop_that_reads_lines(server, chat, line, waits, name):
    with echo_kit.run(chat, *server.address, typed=["hello"]) as program:
        assert "got hello" in program.screen
        shown = stands(program)
        assert (line, f"main thread: waits in {waits} for a line") in shown
        assert f"{name}: waits in recv for the server: nothing more has come" in [words for _, words in shown]
        said = f"[it waits in {waits} for a line; {name} waits in recv for the server: nothing more has come]"
        assert repr(program).endswith(said)
        assert "got more" in program.type("more").screen
    assert program.ended


def selects():
    with socket.create_connection(here()) as s:
        while True:
            readable, _, _ = select.select([sys.stdin, s], [], [])
            if s in readable:
                data = s.recv(1024)
                if not data:
                    break
                print("got", data.decode())
            if sys.stdin in readable:
                line = sys.stdin.readline()
                if not line:
                    break
                s.sendall(line.strip().encode())


def selects_by_selectors():
    with socket.create_connection(here()) as s, selectors.DefaultSelector() as selector:
        selector.register(s, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is s:
                    print("got", s.recv(1024).decode())
                elif not (line := sys.stdin.readline()):
                    return
                else:
                    s.sendall(line.strip().encode())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no select on the standard input")
@pytest.mark.parametrize("chat", [selects, selects_by_selectors])
def test_select_on_what_is_typed_and_on_the_socket(server, chat):
    with echo_kit.run(chat, *server.address, typed=["hello"]) as program:
        assert program.screen == "hello\ngot hello"
        assert program.type("more").screen == "hello\ngot hello\nmore\ngot more"
        ((_, words),) = stands(program)
        assert words.startswith("main thread: waits in select")
        assert program.type(None).ended
    program = echo_kit.run(chat, *server.address)
    assert program.interrupt().ended
    assert isinstance(program.error, KeyboardInterrupt)
    with echo_kit.run(chat, *server.address) as program:
        pass
    assert program.ended


def reads_lines_of_a_file():
    with socket.create_connection(here()) as s, s.makefile("rw") as file:
        for line in sys.stdin:
            file.write(line)
            file.flush()
            print("got", file.readline().strip())


def reads_all_that_is_typed():
    with socket.create_connection(here()) as s, s.makefile("rw") as file:
        text = sys.stdin.read()
        print(text.upper(), file=file, flush=True)
        print("got", file.readline().strip())


def takes_the_next_lines():
    with socket.create_connection(here()) as s, s.makefile("rw") as file:
        for line in (next(sys.stdin), *sys.stdin.readlines(), next(sys.stdin, "none is left")):
            print(line.strip(), file=file, flush=True)
            print("got", file.readline().strip())


def test_a_client_with_a_file_and_lines_from_the_standard_input():
    with echo_kit.start(by_lines) as server:
        with echo_kit.run(reads_lines_of_a_file, *server.address, typed=["ab", "abc"]) as program:
            assert program.screen == "ab\ngot 3\nabc\ngot 4"
            assert program.type(None).ended
            assert program.error is None
        with echo_kit.run(reads_all_that_is_typed, *server.address, typed=["ab"]) as program:
            assert stands(program) == [("text = sys.stdin.read()", "main thread: waits in sys.stdin for a line")]
            assert program.type(None).screen.splitlines()[-1] == "got 3"
        with echo_kit.run(takes_the_next_lines, *server.address, typed=["ab", "abc", None, None]) as program:
            assert program.screen.splitlines()[-3:] == ["got 3", "got 4", "got 13"]  # with the end of its line
            assert program.ended
            assert program.error is None


def tries_again():
    for attempt in range(3):
        try:
            socket.create_connection(here()).close()
            print("connected")
            return
        except ConnectionRefusedError as error:
            print(attempt, error.strerror)
    sys.exit("gave up")


def tries_another_port():
    s = socket.socket()
    try:
        s.connect(here())
    except OSError as error:
        print(type(error).__name__, error)
    finally:
        s.close()


def test_a_refused_connection_is_what_it_is_in_a_terminal():
    program = echo_kit.run(tries_again, "127.0.0.1", closed_port())
    assert program.screen == "0 Connection refused\n1 Connection refused\n2 Connection refused\ngave up"
    program = echo_kit.run(tries_another_port, "127.0.0.1", closed_port())
    assert program.screen == "ConnectionRefusedError [Errno 111] Connection refused"


def connects():
    with socket.create_connection(here()) as s:
        print("connected", s.recv(10))


def connects_with_a_timeout():
    with socket.create_connection(here(), timeout=0.2) as s:
        print("connected", s)


@pytest.fixture
def full():
    """A server whose backlog is full: it does not answer who connects."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as without us: a socket is garbage
@pytest.mark.skipif(sys.platform != "linux", reason="another system may refuse")
def test_a_connect_that_gets_no_answer(full):
    with echo_kit.run(connects, *full.getsockname()) as program:
        assert "with socket.create_connection(here()) as s:" in [code for code, _ in stands(program)]
        assert repr(program).endswith("[it waits in connect: the server has not answered]")
        assert program.interrupt().ended
        assert isinstance(program.error, KeyboardInterrupt)
    with echo_kit.run(connects, *full.getsockname()) as program:
        pass
    assert program.ended, "stop ends it, too"
    program = echo_kit.run(connects_with_a_timeout, *full.getsockname())
    program._thread.join(10)
    assert repr(program.error) == "TimeoutError('timed out')"


def test_the_cells_input_is_their_own_again(server, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("of the cell\n"))
    before = sys.stdin
    with echo_kit.run(selects, *server.address), echo_kit.run(chats_by_a_class, *server.address):
        assert sys.stdin is not before
        assert sys.stdin.readline() == "of the cell\n"
        assert [*sys.stdin] == []
    assert sys.stdin is before


def leaves_a_thread():
    def talk():
        with socket.create_connection(address) as s:
            for number in range(3):
                s.sendall(input(f"{number}> ").encode())
                print(s.recv(10))

    address = here()
    threading.Thread(target=talk).start()
    print("main ends")


def leaves_a_daemon():
    def talk():
        with socket.create_connection(address) as s:
            connected.set()
            s.recv(10)
            print("never")

    address, connected = here(), threading.Event()
    threading.Thread(target=talk, daemon=True).start()
    connected.wait()
    print("main ends")


def test_a_program_ends_with_its_last_thread_that_is_no_daemon(server):
    with echo_kit.run(leaves_a_thread, *server.address, typed=["a", "b"]) as program:
        assert program.screen.replace("main ends\n", "") == "0> a\nb'a'\n1> b\nb'b'\n2> "
        assert repr(program).endswith("[it waits in join for thread 1; thread 1 waits in input for a line]")
        assert not program.ended
        assert program.type("c").ended
        assert program.error is None
    with echo_kit.run(leaves_a_thread, *server.address) as program:
        pass
    assert program.ended, "stop does not wait for it"
    with echo_kit.run(leaves_a_daemon, *server.address) as program:
        assert program.ended
        assert program.screen == "main ends"
