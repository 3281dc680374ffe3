"""What is seen, whose it is, and where its prints go; a broken observer breaks nothing."""

import contextlib
import io
import re
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings

import pytest

from echo_kit import Client, ServerClosed, serve_single, serve_threaded, server as runner, start
from echo_kit.watch import observation, output
from echo_kit.watch.events import LINE_LENGTH, LOG_LINES, PREVIEW, EventLog

LONG = 20
WARNED = "your cell:5: UserWarning: mind the gap"


def talking(talk):
    """A threaded server that calls talk(conn) for each client."""

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                threading.Thread(target=closing, args=(s.accept()[0],)).start()

    def closing(conn):
        with conn:
            talk(conn)

    return serve


def logged(talk, name="alice"):
    """The lines and the whole log of a server that talks to one client until it hangs up."""
    with start(talking(talk)) as server:
        with Client(server, name=name) as client:
            with contextlib.suppress(ConnectionError):
                client.receive(timeout=LONG)
        server.settle()
        assert server.error is None
    return server.log.lines(client=name), str(server.log)


# -- prints ------------------------------------------------------------------------------------------------------------


def test_prints_of_every_kind(capsys):
    def talk(conn):
        print("one", "two", sep=", ")
        print("half", end="")
        print(" a line")
        sys.stdout.write("written\n")
        sys.stdout.writelines(["first\n", "second\n"])
        print("to stderr", file=sys.stderr, flush=True)
        print("\x1b[31mred\ttab\x00")
        print()
        print("not finished", end="")

    lines, text = logged(talk)
    expected = ["one, two", "half a line", "written", "first", "second", "to stderr", "\x1b[31mred\ttab\x00", ""]
    assert lines == [*expected, "not finished"]
    assert "\\x1b[31mred\\ttab\\x00" in text
    assert "\x1b" not in text
    assert capsys.readouterr() == ("", "")


def test_an_unfinished_line_is_shown_while_the_thread_waits():
    def talk(conn):
        print("Waiting for data ... ", end="")
        conn.recv(1)
        print("came")

    with start(talking(talk)) as server, Client(server, name="alice") as alice:
        server.settle()
        assert server.log.lines(client="alice") == ["Waiting for data ... "]
        alice.send("x")
        server.settle()
        assert server.log.lines(client="alice") == ["Waiting for data ... came"]


def test_threads_that_print_at_once_do_not_mix_their_lines(busy):
    def talk(conn):
        for number in range(200):
            print("a", "b", "c", number, sep="-")

    with busy(), start(talking(talk)) as server:
        clients = [Client(server, name=f"client {number}") for number in range(4)]
        for client in clients:
            with contextlib.suppress(ConnectionError), client:
                client.receive(timeout=LONG)
        server.settle()
    for client in clients:
        assert server.log.lines(client=client.name) == [f"a-b-c-{number}" for number in range(200)]


def test_a_thread_that_prints_for_ever_takes_bounded_memory():
    def talk(conn):
        for _ in range(2_000):
            print("no end of line " * 10, end="")
        print()
        for number in range(LOG_LINES + 100):
            print(number)

    lines, _ = logged(talk)
    assert len(lines) == LOG_LINES
    assert lines[-1] == str(LOG_LINES + 99)

    def long_line(conn):
        print("x" * 100_000)
        print("y" * 100_000, end="")

    for line in logged(long_line)[0]:
        assert len(line) == LINE_LENGTH
        assert line.endswith("…")


def test_streams_that_are_redirected(capsys):
    def talk(conn):
        while data := conn.recv(10):
            print("got", data.decode())
            conn.sendall(data)

    around, later = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(around):
        server = start(talking(talk))
        print("cell")
    with server, Client(server, name="alice") as alice:
        for _ in range(2):
            alice.send("x")
            alice.receive(timeout=LONG)
        print("between")
        with contextlib.redirect_stdout(later):
            print("cell")
            for _ in range(2):
                alice.send("y")
                alice.receive(timeout=LONG)
            print("cell")
        alice.send("z")
        alice.receive(timeout=LONG)
        server.settle()
        assert server.log.lines(client="alice") == ["got x", "got x", "got y", "got y", "got z"]
    assert (around.getvalue(), later.getvalue()) == ("cell\n", "cell\ncell\n")
    assert capsys.readouterr() == ("between\n", "")


def test_the_stand_in_is_like_the_stream():
    with start(serve_single):
        assert isinstance(sys.stdout, output.Routed)
        assert sys.stdout.encoding == sys.__stdout__.encoding.lower() or sys.stdout.encoding
        assert sys.stdout.writable()
        sys.stdout.flush()


def test_warnings_of_a_handler_go_to_the_log():
    program = """
        import warnings, echo_kit

        def serve(host, port):
            import socket
            with socket.create_server((host, port)) as s:
                conn, addr = s.accept()
                with conn:
                    conn.recv(1)
                    warnings.warn("mind the gap")

        with echo_kit.start(serve) as server, echo_kit.Client(server, name="alice") as alice:
            alice.send("x")
            server.settle()
            assert "UserWarning: mind the gap" in server.log.lines("alice")[0], server.log
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=LONG, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_cell_that_prints_while_servers_run(capsys):
    with start(serve_single), start(serve_threaded):
        print("from the cell")
        print("error", file=sys.stderr)
        thread = threading.Thread(target=print, args=("from a thread of the cell",))
        thread.start()
        thread.join()
    assert capsys.readouterr() == ("from the cell\nfrom a thread of the cell\n", "error\n")


# -- threads -----------------------------------------------------------------------------------------------------------


def test_labels_of_threads():
    def talk(conn):
        with conn:
            conn.recv(1)

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            for name in ("Ada\x1b", "Thread-7", None, "x" * 99):
                threading.Thread(target=talk, args=(s.accept()[0],), name=name).start()

    with start(serve) as server:
        clients = [Client(server) for _ in range(4)]
        server.settle()
        assert server.threads == ["Ada\\x1b", "thread 1", "thread 2", "x" * 40]
        for client in clients:
            client.close()


def test_owned_threads_are_daemons_and_others_are_not():
    seen = []

    def talk(conn):
        seen.append(threading.current_thread().daemon)

    with start(talking(talk)) as server:
        with Client(server) as client, contextlib.suppress(ConnectionError):
            client.receive(timeout=LONG)
        thread = threading.Thread(target=lambda: seen.append(threading.current_thread().daemon))
        thread.start()
        thread.join()
    assert seen == [True, False]


def test_the_list_of_threads_does_not_grow():
    def talk(conn):
        conn.sendall(b"x")

    with start(talking(talk)) as server:
        for _ in range(100):
            with Client(server) as client:
                client.receive(timeout=LONG)
            server.settle()
        assert len(server.observation.tasks) <= 10  # the ended ones are dropped now and then


def test_what_a_new_thread_costs_does_not_grow_with_the_threads_there_are(monkeypatch):
    looks, ended = [], observation.Task.ended

    def counted(task):
        looks.append(task)
        return ended(task)

    monkeypatch.setattr(observation.Task, "ended", counted)
    number, over = 100, threading.Event()
    with start(talking(lambda conn: over.wait(LONG)), most_threads=number) as server:
        clients = [Client(server) for _ in range(number - 1)]
        server.settle()
        assert len(server.observation.alive()) == number
        assert len(looks) < 3 * number  # seen: each new thread looked at all others
        over.set()
        for client in clients:
            client.close()


def test_a_thread_of_the_thread_module_that_dies():
    program = """
        from _thread import start_new_thread
        import socket, echo_kit

        def handle(conn):
            conn.recv(1)
            raise LookupError("in a raw thread")

        def serve(host, port):
            with socket.create_server((host, port)) as s:
                while True:
                    start_new_thread(handle, (s.accept()[0],))

        with echo_kit.start(serve) as server, echo_kit.Client(server, name="alice") as alice:
            alice.send("x")
            try:
                alice.receive()
            except ConnectionError:
                pass
            assert isinstance(server.error, LookupError), server.error
            assert server.log.lines("alice")[-1] == "LookupError: in a raw thread", server.log
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=LONG, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- sockets -----------------------------------------------------------------------------------------------------------


def events_of(server, *kinds):
    log = server.observation.log
    return [(event.kind, event.size, event.data, event.error) for event in log if event.kind in kinds]


def test_what_is_recorded_of_each_call():
    def talk(conn):
        assert conn.recv(3, socket.MSG_PEEK) == b"hel"
        buffer = bytearray(5)
        conn.recv_into(buffer)
        assert conn.send(memoryview(buffer)) == 5
        conn.sendall(b"!" * 100)
        conn.settimeout(0.01)
        with pytest.raises(TimeoutError):
            conn.recv(1)
        conn.setblocking(False)
        with pytest.raises(BlockingIOError):
            conn.recv(1)
        conn.shutdown(socket.SHUT_WR)

    with start(talking(talk)) as server, Client(server) as client:
        client.send("hello")
        assert len(client.receive(size=105, timeout=LONG)) == 105
        with pytest.raises(ServerClosed):
            client.receive(timeout=LONG)
        server.settle()
        assert events_of(server, "recv", "send", "shutdown") == [
            ("recv", 5, b"hello", ""),
            ("send", 5, b"hello", ""),
            ("send", 100, b"!" * 40, ""),
            ("shutdown", 0, b"", ""),
        ]
        assert server.error is None


def test_every_way_to_call_recv_and_send():
    def talk(conn):
        buffer = bytearray(3)
        assert conn.recv_into(buffer, 1, socket.MSG_PEEK) == 1
        assert conn.recv_into(buffer=buffer, nbytes=2) == 2
        assert conn.recv_into(buffer, flags=socket.MSG_PEEK) == 3
        assert conn.recv(1, 0) == b"l"
        assert conn.recv(100) == b"lo" + b"." * 50
        conn.sendall(b"1", 0)
        conn.sendall(bytearray(b"2" * 50))
        assert conn.send(b"3") == 1

    with start(talking(talk)) as server, Client(server) as client:
        client.send("hello" + "." * 50)
        assert client.receive(size=52, timeout=LONG) == "1" + "2" * 50 + "3"
        server.settle()
        assert events_of(server, "recv", "send") == [
            ("recv", 2, b"he", ""),
            ("recv", 1, b"l", ""),
            ("recv", 52, b"lo" + b"." * 38, ""),
            ("send", 1, b"1", ""),
            ("send", 50, b"2" * 40, ""),
            ("send", 1, b"3", ""),
        ]
        assert server.error is None
        (connection,) = server.observation.accepted.values()
        assert (connection.received, connection.sent, connection.messages) == (55, 52, 3)


def test_a_record_keeps_nothing_of_the_room_that_recv_made():
    """Not even the very bytes that it returned: the room around them could not be used again as long as they are kept.
    (2,100 bytes were lost with each record at recv(65536).)
    """
    seen = []

    def talk(conn):
        for receive in (conn.recv, lambda size: conn.recv(size, 0)):
            for _ in sizes:
                seen.append(receive(65536))
                conn.sendall(seen[-1])
                conn.send(seen[-1])

    sizes = (PREVIEW - 10, PREVIEW, PREVIEW + 1)
    with start(talking(talk)) as server, Client(server) as client:
        for size in sizes * 2:
            client.send("x" * size)
            assert client.receive(size=2 * size, timeout=LONG) == "xx" * size
        server.settle()
        log = list(server.observation.log)
        assert server.error is None
    kept = [event.data for event in log if event.kind in ("recv", "send")]
    assert [len(each) for each in kept] == ([PREVIEW - 10] * 3 + [PREVIEW] * 6) * 2
    assert not {id(each) for each in kept} & {id(each) for each in seen}


def test_an_error_of_a_call_is_recorded_and_raised():
    def talk(conn):
        with pytest.raises(ConnectionResetError):
            conn.recv(1)
        with pytest.raises(BrokenPipeError):
            conn.sendall(b"x")

    with start(talking(talk)) as server:
        client = Client(server)
        server.settle()
        client.vanish()
        server.settle()
        assert events_of(server, "recv", "send") == [
            ("recv", 0, b"", "ConnectionResetError"),
            ("send", 0, b"", "BrokenPipeError"),
        ]


def test_the_wrong_arguments_get_pythons_own_error():
    def talk(conn):
        for wrong in (lambda: conn.recv("x"), lambda: conn.recv(), lambda: conn.sendall("text"), lambda: conn.send(1)):
            with pytest.raises(TypeError):
                wrong()
        for wrong in (lambda: conn.send(data=b"x"), lambda: conn.sendall(data=b"x"), lambda: conn.shutdown(how=2)):
            with pytest.raises(TypeError):
                wrong()
        with pytest.raises(ValueError, match="negative"):
            conn.recv(-1)

    assert logged(talk)[0] == []


def test_flags_that_are_a_number_only_when_asked():
    class Flags:
        def __index__(self):
            return 0

    def talk(conn):
        assert conn.recv(2, Flags()) == b"ab"
        buffer = bytearray(2)
        assert (conn.recv_into(buffer, 2, Flags()), buffer) == (2, b"cd")

    with start(talking(talk)) as server, Client(server) as client:
        client.send("abcd")
        server.settle()
        assert server.error is None
        assert [data for _, _, data, _ in events_of(server, "recv")] == [b"ab", b"cd"]


def test_a_socket_that_is_dropped_counts_as_closed():
    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                conn = s.accept()[0]
                conn.sendall(b"x")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    del conn

    with start(serve) as server, Client(server, name="alice") as alice:
        assert alice.receive(timeout=LONG) == "x"
        with pytest.raises(ConnectionError):
            alice.receive(timeout=LONG)
        assert str(server.timeline()).endswith("closed by the server")


def test_the_servers_own_connections_elsewhere_are_not_watched():
    """A server that asks another server, and uses a socket pair."""

    def proxy(host, port):
        a, b = socket.socketpair()
        with a, b, socket.create_server((host, port)) as s:
            a.sendall(b"1")
            assert b.recv(1) == b"1"
            while True:
                with s.accept()[0] as conn, socket.create_connection(behind.address) as other:
                    while data := conn.recv(100):
                        other.sendall(data)
                        conn.sendall(other.recv(100))

    with start(serve_threaded) as behind, start(proxy) as server:
        with Client(server, name="alice") as alice:
            alice.send("hello")
            assert alice.receive(timeout=LONG) == "hello"
        assert str(server.timeline()).endswith('served by the server thread · "hello" echoed · left')
        assert str(behind.timeline()).endswith('client 1  accepted · served by thread 1 · "hello" echoed · left')


def test_more_descriptors_than_select_can_take():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("this machine allows fewer than 2,000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(1100):
                stack.enter_context(open("/dev/null"))
            with start(serve_threaded) as server, Client(server) as client:
                client.send("x")
                assert client.receive(timeout=LONG) == "x"
                assert server.settle()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- a broken observer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serve", [serve_single, serve_threaded])
def test_a_broken_log_breaks_nothing(serve, monkeypatch):
    def broken(*args, **named):
        raise RuntimeError("the observer is broken")

    monkeypatch.setattr(EventLog, "add", broken)
    with start(serve) as server:
        for _ in range(3):
            with socket.create_connection(server.address) as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
        server.settle()
        assert str(server.timeline()) == f"{serve.__name__}: 0 connections"
        assert server.error is None
        assert isinstance(server.observation.trouble, RuntimeError)


def test_a_traceback_names_the_cell_and_not_its_file():
    source = "def broken():\n    raise ValueError('no')\n"
    namespace = {}
    exec(compile(source, "/tmp/ipykernel_123/456.py", "exec"), namespace)
    with pytest.raises(ValueError, match="no") as info:
        namespace["broken"]()
    text = "".join(observation.student_traceback(info.value))
    assert 'File "your cell", line 2, in broken' in text
    assert not re.search(r"ipykernel_\d", text)
    assert runner.newest("nobody") is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other errors for it")
@pytest.mark.parametrize(
    ("misuse", "error"),
    [
        (lambda door, conn: door.sendall(conn.recv(9)), "BrokenPipeError"),
        (lambda door, conn: door.send(conn.recv(9)), "BrokenPipeError"),
        (lambda door, conn: conn.sendall(door.recv(9)), "OSError"),
        (lambda door, conn: door.recv_into(bytearray(9)), "OSError"),
    ],
)
def test_what_fails_on_the_listening_socket_is_no_clients(misuse, error):
    def serve(host, port):
        with socket.create_server((host, port)) as door:
            conn, _ = door.accept()
            with conn:
                print("serves")
                misuse(door, conn)

    with start(serve) as server, Client(server, name="alice") as alice:
        with contextlib.suppress(ConnectionError):  # some end before they have read it
            alice.send("hello")
        with pytest.raises(ConnectionError):
            alice.receive(timeout=LONG)
        server.settle()
        assert server.log.lines("alice") == ["serves"]
        assert server.log.lines()[-1].startswith(error)
        (died,) = [str(mark) for _, mark in server.where().marks if mark.kind == "died"]
        cause = "on the listening socket, not on the one that accept returned"
        assert died == f"✕ server thread: ended here, {error} ({cause})"
        assert "broke off" not in str(server.timeline())


def test_another_error_after_one_on_the_listening_socket_has_no_cause():
    def serve(host, port):
        with socket.create_server((host, port)) as door:
            conn, _ = door.accept()
            with conn:
                with contextlib.suppress(OSError):
                    door.sendall(b"x")
                print("goes on", conn.recv(9))
                raise LookupError

    with start(serve) as server, Client(server, name="alice") as alice:
        alice.send("hello")
        with pytest.raises(ConnectionError):
            alice.receive(timeout=LONG)
        server.settle()
        assert server.log.lines("alice")[0] == "goes on b'hello'"
        (died,) = [str(mark) for _, mark in server.where().marks if mark.kind == "died"]
        assert died == "✕ server thread: ended here, LookupError"


@pytest.mark.parametrize(
    ("say", "line"),
    [
        ("sys.stderr.write(warnings.formatwarning('mind the gap', UserWarning, FILE, 5))", WARNED),
        ("logging.lastResort.emit(logging.makeLogRecord({'msg': f'see {FILE}, line 5'}))", "see your cell, line 5"),
        ("traceback.print_stack(limit=1)", '  File "your cell", line 5, in talk'),
    ],
)
@pytest.mark.parametrize("file", ["/tmp/ipykernel_123/456.py", tempfile.gettempdir() + "/ipykernel_9/1234567890.py"])
def test_what_a_thread_prints_names_the_cell_and_not_its_file(say, line, file):
    source = f"import logging, sys, traceback, warnings\n\ndef talk(conn):\n    conn.recv(1)\n    {say}\n"
    namespace = {"FILE": file}
    exec(compile(source, file, "exec"), namespace)
    with start(talking(namespace["talk"])) as server, Client(server, name="alice") as alice:
        alice.send("x")
        with pytest.raises(ConnectionError):
            alice.receive(timeout=LONG)
        server.settle()
        assert server.log.lines(client="alice")[0] == line


def test_accept_on_a_connection_fails_at_once():
    def talk(conn):
        try:
            conn.accept()
        except OSError as error:
            print(error.strerror)

    assert logged(talk)[0] == ["Invalid argument"]


def test_streams_may_be_replaced_while_a_thread_of_the_server_prints():
    """print() does not hold on to sys.stdout: the process crashes if the stream goes meanwhile (CPython 130163)."""
    program = """
        import contextlib, io, socket, sys, threading
        import echo_kit
        from echo_kit.watch import output

        over = threading.Event()

        def serve(host, port):
            with socket.create_server((host, port)) as listener:
                threading.Thread(target=talk).start()
                listener.accept()

        def talk():
            while not over.is_set():
                print(*range(20))

        sys.setswitchinterval(1e-5)
        server = echo_kit.start(serve)
        for _ in range(50_000):
            with contextlib.redirect_stdout(io.StringIO()):
                output.route_streams()
        over.set()
        server.stop()
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
