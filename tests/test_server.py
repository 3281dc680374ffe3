"""`start` runs any blocking server unmodified, `stop` ends it whatever it does, and nothing is left of either."""

import _thread
import contextlib
import gc
import random
import re
import select
import selectors
import socket
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket as bound_before

import pytest

from echo_kit import Client, ServerStuck, free_port, serve_single, serve_threaded, server as runner, start
from echo_kit.views import lanes
from echo_kit.watch import calls, frames, observation as watched, sockets, stopping

LONG = 20  # seconds after which a test gives up; nothing comes near it


# -- servers as students write them ------------------------------------------------------------------------------------


def echo(conn):
    while data := conn.recv(1024):
        print("got", data.decode().strip())
        conn.sendall(data)


def handle(conn):
    with conn:
        echo(conn)


def plain(host, port):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port))
    s.listen()
    print("listening")
    while True:
        conn, _ = s.accept()
        echo(conn)
        conn.close()


def star_imported(host, port):
    s = bound_before(AF_INET, SOCK_STREAM)
    s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    s.bind((host, port))
    s.listen(5)
    print("listening")
    while True:
        handle(s.accept()[0])


def only_port(port):
    plain("127.0.0.1", port)


def port_first(port, host):
    plain(host, port)


def threads(host, port, handle=handle):
    with socket.create_server((host, port)) as s:
        print("listening")
        while True:
            threading.Thread(target=handle, args=(s.accept()[0],)).start()


def raw_threads(host, port):
    with socket.create_server((host, port)) as s:
        print("listening")
        while True:
            _thread.start_new_thread(handle, (s.accept()[0],))


def timeouts(host, port):
    def handle_in_turns(conn):
        conn.settimeout(0.02)
        with conn:
            while True:
                try:
                    data = conn.recv(1024)
                except TimeoutError:
                    continue
                if not data:
                    break
                print("got", data.decode().strip())
                conn.sendall(data)

    with socket.create_server((host, port)) as s:
        s.settimeout(0.02)
        print("listening")
        while True:
            try:
                conn, _ = s.accept()
            except TimeoutError:
                continue
            threading.Thread(target=handle_in_turns, args=(conn,)).start()


def text_files(host, port):
    def handle_lines(conn):
        with conn, conn.makefile("rw", newline="\n") as file:
            for line in file:
                print("got", line.strip())
                file.write(line)
                file.flush()

    threads(host, port, handle_lines)


def binary_files(host, port):
    def handle_lines(conn):
        reader, writer = conn.makefile("rb"), conn.makefile("wb", buffering=0)
        conn.close()  # the files keep the connection
        with reader, writer:
            for line in reader:
                print("got", line.decode().strip())
                writer.write(line)

    threads(host, port, handle_lines)


def into_a_buffer(host, port):
    def handle_buffer(conn):
        buffer = bytearray(1024)
        with conn:
            while size := conn.recv_into(buffer):
                print("got", buffer[:size].decode().strip())
                conn.send(memoryview(buffer)[:size])

    threads(host, port, handle_buffer)


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            print("got", line.decode().strip())
            self.wfile.write(line)


class Single(socketserver.TCPServer):
    allow_reuse_address = True


class Threading(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


def socketserver_single(host, port):
    with Single((host, port), Handler) as server:
        print("listening")
        server.serve_forever()


def socketserver_threads(host, port):
    with Threading((host, port), Handler) as server:
        print("listening")
        server.serve_forever()


def pool(host, port):
    with ThreadPoolExecutor(max_workers=8) as workers, socket.create_server((host, port)) as s:
        print("listening")
        while True:
            workers.submit(handle, s.accept()[0])


def selectors_loop(host, port):
    with selectors.DefaultSelector() as selector, socket.create_server((host, port)) as s:
        print("listening")
        s.setblocking(False)
        selector.register(s, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is s:
                    conn, _ = s.accept()
                    selector.register(conn, selectors.EVENT_READ)
                elif data := key.fileobj.recv(1024):
                    print("got", data.decode().strip())
                    key.fileobj.sendall(data)
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


def select_loop(host, port):
    with socket.create_server((host, port)) as s:
        print("listening")
        known = [s]
        while True:
            for each in select.select(known, [], [])[0]:
                if each is s:
                    known.append(s.accept()[0])
                elif data := each.recv(1024):
                    print("got", data.decode().strip())
                    each.sendall(data)
                else:
                    known.remove(each)
                    each.close()


def two_acceptors(host, port):
    def accepting():
        while True:
            handle(s.accept()[0])

    with socket.create_server((host, port)) as s:
        print("listening")
        acceptors = [threading.Thread(target=accepting, name=f"acceptor {number}") for number in (1, 2)]
        for acceptor in acceptors:
            acceptor.start()
        for acceptor in acceptors:
            acceptor.join()


class Application:
    def run(self, host, port):
        threads(host, port, self.handle)

    def handle(self, conn):
        handle(conn)


def grandchildren(host, port):
    """A thread for each client, that has one more thread do the work."""

    def supervise(conn):
        worker = threading.Thread(target=handle, args=(conn,))
        worker.start()
        worker.join()

    threads(host, port, supervise)


SINGLE = [plain, star_imported, only_port, port_first, socketserver_single]
THREADED = [threads, raw_threads, timeouts, text_files, binary_files, into_a_buffer, socketserver_threads, pool]
ALL = SINGLE + THREADED + [Application().run, selectors_loop, select_loop, two_acceptors, grandchildren]


def stop_quickly(server, within=1.0):
    began = time.perf_counter()
    server.stop()
    assert time.perf_counter() - began < within
    assert not server.running
    assert server.threads == []


def converse(server, one_at_a_time=False):
    """alice and bob each say their name and get it back; both leave."""
    clients = []
    for name in ("alice", "bob"):
        clients.append(client := Client(server, name=name))
        client.send(f"{name}\n")
        assert client.receive(timeout=LONG) == f"{name}\n"
        if one_at_a_time:
            client.close()
    for client in clients:
        client.close()


def check(server, capsys, serving=("the server thread",) * 2, announced="listening", one_at_a_time=False):
    """The conversation, the timeline and the log that it makes, the stop."""
    converse(server, one_at_a_time)
    alice, bob = serving
    assert str(server.timeline()).splitlines() == [
        f"{server.name}: 2 connections",
        f'  alice  connected · accepted · served by {alice} · "alice\\n" echoed · left',
        f'  bob    connected · accepted · served by {bob} · "bob\\n" echoed · left',
    ]
    assert server.error is None
    stop_quickly(server)
    expected = ["server thread", f"    {announced}"] if announced else []
    for name, thread in (("alice", alice), ("bob", bob)):
        expected += [f"{name} ({thread.removeprefix('the ')})", f"    got {name}"]
        assert server.log.lines(client=name) == [f"got {name}"]
    assert str(server.log).splitlines() == expected
    assert server.error is None
    assert capsys.readouterr() == ("", "")


# -- start -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serve", ALL, ids=lambda serve: serve.__name__)
def test_any_server_runs_unmodified(serve, capsys):
    server = start(serve)
    assert server.running
    if serve is two_acceptors:  # which of them gets alice is no fact
        converse(server)
        assert server.threads == ["server thread", "acceptor 1", "acceptor 2"]
        text = re.sub("acceptor [12]", "an acceptor", str(server.timeline()))
        assert text.count("· accepted · served by an acceptor ·") == 2
        return stop_quickly(server)
    serving = ("thread 1", "thread 2") if serve in THREADED or serve.__name__ == "run" else ("the server thread",) * 2
    if serve is grandchildren:
        serving = ("thread 2", "thread 4")
    check(server, capsys, serving, one_at_a_time=serve in SINGLE)


@pytest.mark.parametrize("serve", ALL, ids=lambda serve: serve.__name__)
@pytest.mark.parametrize("platform", ["linux", "windows", "macos"])
def test_stop_with_clients_connected_on_any_platform(serve, platform, monkeypatch, capsys):
    real = calls.plain_shutdown
    if platform != "linux":  # there, shutdown wakes nobody who waits for a client to come

        def shutdown(sock, how):
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError("not connected")
            real(sock, how)

        monkeypatch.setattr(calls, "plain_shutdown", shutdown)
    monkeypatch.setattr(calls, "WAIT_BEFORE_RECV", platform == "windows")
    server = start(serve)
    with Client(server, name="alice") as alice, socket.create_connection(server.address) as other:
        alice.send("hello\n")
        assert alice.receive(timeout=LONG) == "hello\n"
        if serve not in SINGLE:
            other.sendall(b"hello\n")
            assert other.recv(100) == b"hello\n"
        stop_quickly(server)
        assert server.error is None
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("how", ["object", "bound"])
@pytest.mark.parametrize("kind", [Single, Threading])
def test_a_socketserver_made_before_the_start(kind, how, capsys):
    made = kind(("127.0.0.1", free_port()), Handler)
    server = start(made if how == "object" else made.serve_forever)
    assert server.name == kind.__name__
    assert server.address == made.server_address
    serving = ("thread 1", "thread 2") if kind is Threading else ("the server thread",) * 2
    check(server, capsys, serving, announced="", one_at_a_time=kind is Single)
    made.server_close()


def test_ipv6(capsys):
    server = start(plain, host="::1")
    assert server.address[0] == "::1"
    check(server, capsys, one_at_a_time=True)


@pytest.mark.parametrize(
    ("host", "local", "shown", "more"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:", ""),
        ("localhost", "127.0.0.1", "127.0.0.1:", ""),
        ("127.9.8.7", "127.9.8.7", "127.9.8.7:", ""),
        ("::1", "::1", "[::1]:", ""),
        ("0.0.0.0", "127.0.0.1", "0.0.0.0:", "; other computers can connect, too"),
        ("::", "::1", "[::]:", "; other computers can connect, too"),
    ],
)
def test_a_server_shows_what_it_has_bound_and_who_can_connect(host, local, shown, more):
    with start(plain, host=host, name="a\x1b[2Jb" + "x" * 100) as server:
        assert server.address[0] == local
        at = f"<Server a\\x1b[2Jb{'x' * 30}… at {shown}{server.address[1]}"
        assert repr(server) == f"{at}, running{more}>"
        with Client(server, name="al\x1b[2Jice\n" + "y" * 100) as client:
            end = local if ":" not in local else f"[{local}]"
            assert repr(client) == f"<Client al\\x1b[2Jice\\n{'y' * 25}… connected to {end}:{server.address[1]}>"
    assert repr(server) == f"{at}, stopped>"


def test_a_server_that_has_died_shows_of_what():
    def serve(host, port):
        with socket.create_server((host, port)):
            raise LookupError("no such thing")

    with start(serve) as server:
        server.settle()
        assert repr(server) == f"<Server serve at 127.0.0.1:{server.address[1]}, ended with LookupError>"


def test_every_interface():
    with start(threads, host="0.0.0.0") as server:
        assert server.address[0] == "127.0.0.1"
        with Client(server) as client:
            client.send("x")
            assert client.receive(timeout=LONG) == "x"


def test_a_listening_socket_made_before_the_start(capsys):
    listener = socket.create_server(("127.0.0.1", free_port()))

    def main():
        while True:
            handle(listener.accept()[0])

    server = start(main)
    assert server.address == listener.getsockname()
    check(server, capsys, announced="", one_at_a_time=True)
    assert listener.fileno() == -1


@pytest.mark.parametrize("reuse", [True, False])
def test_a_program_that_reads_the_command_line(reuse, capsys, monkeypatch):
    port = free_port()
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])

    def main():
        host, number = ("127.0.0.1", port) if len(sys.argv) != 3 else (sys.argv[1], int(sys.argv[2]))
        with socket.socket() as s:
            if reuse:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((host, number))
            s.listen()
            print("listening")
            while True:
                handle(s.accept()[0])

    for _ in range(3):
        server = start(main)
        assert server.address == ("127.0.0.1", port)
        converse(server, one_at_a_time=True)
    converse(server, one_at_a_time=True)
    assert sys.argv[1:] == ["-f", "kernel.json"]
    stop_quickly(server)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("warm", [False, True])
def test_a_pool_that_outlives_its_servers(warm, capsys):
    with ThreadPoolExecutor(max_workers=1) as workers:
        if warm:
            workers.submit(int).result()

        def with_a_global_pool(host, port):
            def work(conn):
                print("working")
                handle(conn)

            with socket.create_server((host, port)) as s:
                while True:
                    workers.submit(work, s.accept()[0])

        for name in ("alice", "bob"):
            server = start(with_a_global_pool)
            with Client(server, name=name) as client:
                client.send("hello")
                assert client.receive(timeout=LONG) == "hello"
            assert '· served by thread 1 · "hello" echoed · left' in str(server.timeline())
            assert server.log.lines(client=name) == ["working", "got hello"]
            stop_quickly(server)
        workers.submit(print, "not the server's").result()
        with start(serve_single):
            workers.submit(print, "nor this").result()
    assert capsys.readouterr() == ("not the server's\nnor this\n", "")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # these servers leave their sockets to the garbage collector
def test_what_serve_raises_before_it_listens_is_raised():
    def broken(host, port):
        s = socket.socket()
        s.bind((host, port))
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        start(broken)

    def done_at_once(host, port):
        pass

    with pytest.raises(RuntimeError, match=r"done_at_once\(\) returned before it listened"):
        start(done_at_once)


def test_a_server_that_never_listens_is_named_with_its_line():
    release = threading.Event()

    def waits(host, port):
        release.wait()  # for nobody

    before = threading.enumerate()
    with pytest.raises(ServerStuck) as info:
        start(waits, timeout=0.3)
    said = r"waits\(\) did not listen within 0.3 s; it stood at line \d+ of waits: release.wait\(\)  # for nobody\. "
    assert re.match(said, str(info.value))
    release.set()
    for thread in set(threading.enumerate()) - set(before):
        thread.join(LONG)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda one: None, "needs 1 argument: one"),
        (lambda one, two, three: None, "needs 3 arguments: one, two, three"),
        (42, "needs the function that serves"),
        (None, "needs the function that serves"),
    ],
)
def test_what_start_cannot_call(wrong, says):
    with pytest.raises(TypeError, match=says):
        start(wrong)


def test_a_port_that_was_taken_meanwhile(monkeypatch):
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        ports = [taken.getsockname()[1], taken.getsockname()[1], free_port()]
        monkeypatch.setattr(runner, "free_port", lambda host: ports.pop(0))
        with start(threads) as server:
            assert ports == []
            assert server.address != taken.getsockname()


def test_the_port_is_none_that_systems_give_away_by_themselves():
    """There a stranger may come: a program goes on connecting to a peer that had that port before."""
    with start(plain) as server:
        assert 20_000 <= server.address[1] < 32_768


def test_where_all_those_ports_are_taken_the_system_chooses(monkeypatch):
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        monkeypatch.setattr(sockets, "PORTS", range(taken.getsockname()[1], taken.getsockname()[1] + 1))
        with start(plain) as server:
            assert server.address[1] != taken.getsockname()[1]


def test_choosing_a_port_does_not_disturb_a_students_random_numbers():
    random.seed(1)
    expected = random.random()
    random.seed(1)
    free_port()
    assert random.random() == expected


def test_a_given_port_in_use_is_an_error():
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        with pytest.raises(OSError, match="in use"):
            start(threads, port=taken.getsockname()[1])


def test_ctrl_c_while_start_waits(monkeypatch):
    release = threading.Event()
    wait = threading.Event.wait

    def interrupted(event, timeout=None):
        if timeout == 5.0:  # start's own
            raise KeyboardInterrupt
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", interrupted)

    def slow(host, port):
        while not release.is_set():
            pass

    with pytest.raises(KeyboardInterrupt):
        start(slow)


def test_running_it_again_stops_the_first():
    first = start(threads)
    with Client(first) as alice, start(threads, name="another") as another:
        second = start(threads)
        assert (first.running, second.running, another.running) == (False, True, True)
        assert repr(first).endswith("stopped>")
        assert runner.newest("threads") is second
        with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
            alice.receive(timeout=LONG)
        second.stop()


def no_reuse(host, port, handle=handle):
    with socket.socket() as s:
        s.bind((host, port))
        s.listen()
        while True:
            conn, _ = s.accept()
            threading.Thread(target=handle, args=(conn,)).start()


def no_reuse_no_close(host, port):
    no_reuse(host, port, echo)


def no_reuse_slow_goodbye(host, port):
    def handle_slowly(conn):
        with conn:
            echo(conn)
            time.sleep(2 * runner.GRACE)

    no_reuse(host, port, handle_slowly)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("serve", [no_reuse, no_reuse_no_close, no_reuse_slow_goodbye, serve_single, serve_threaded])
def test_running_it_again_on_the_same_port_with_clients_connected(serve):
    def leave_at_once(sock):
        with sock, contextlib.suppress(ConnectionError):
            while sock.recv(1024):
                pass

    port, leaving = free_port(), []
    with contextlib.ExitStack() as stack:
        for _ in range(3 if serve is no_reuse_slow_goodbye else 8):
            server = start(serve, port=port)
            alice = stack.enter_context(Client(server))
            alice.send("hello")
            assert alice.receive(timeout=LONG) == "hello"
            stack.enter_context(socket.create_connection(server.address))
            for _ in range(4):
                thread = threading.Thread(target=leave_at_once, args=(socket.create_connection(server.address),))
                thread.start()
                leaving.append(thread)
            server.settle()
        server.stop()
        for thread in leaving:
            thread.join(LONG)
            assert not thread.is_alive()


# -- stop --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serve", [serve_single, serve_threaded])
def test_stop_takes_at_most_100_ms_with_100_clients(serve):
    took = []
    for _ in range(5):
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(start(serve))
            for _ in range(100):
                stack.enter_context(Client(server))
            server.settle(timeout=LONG)
            assert len(server.threads) == (101 if serve is serve_threaded else 1)
            began = time.perf_counter()
            server.stop()
            took.append(time.perf_counter() - began)
    assert min(took) < 0.1, took


def swallows_exception(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            try:
                handle(s.accept()[0])
            except Exception:
                continue


def swallows_oserror(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            try:
                conn, _ = s.accept()
                while True:
                    try:
                        if not conn.recv(10):
                            break
                    except OSError:
                        continue
            except OSError:
                continue


def computes(host, port):
    def handle(conn):
        while True:
            pass

    threads(host, port, handle)


def computes_in_the_server_thread(host, port):
    with socket.create_server((host, port)) as s:
        s.accept()
        while True:
            pass


def sends_for_ever(host, port):
    def handle(conn):
        with conn:
            while True:
                conn.sendall(bytes(100_000))

    threads(host, port, handle)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "serve", [swallows_exception, swallows_oserror, computes, computes_in_the_server_thread, sends_for_ever]
)
def test_stop_ends_what_does_not_want_to_end(serve, capsys):
    server = start(serve)
    with Client(server), socket.create_connection(server.address):
        server.settle()
        stop_quickly(server)
        assert server.error is None
    assert str(server.log) in ("(nothing printed)", "server thread\n    listening")
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def last_words(monkeypatch, capsys):
    """Python's own report of a thread that dies, not pytest's; there was none."""
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    yield
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("how", ["waits", "sleeps"])
def test_a_thread_that_will_not_end_is_named_with_its_line(how, last_words):
    release, entered = threading.Lock(), []  # nothing but its release ends a wait for a lock
    release.acquire()

    def stubborn(conn):
        entered.append(threading.current_thread())
        if how == "waits":
            release.acquire()
        else:
            time.sleep(0.9)

    def serve(host, port):
        threads(host, port, stubborn)

    server = start(serve)
    with Client(server):
        server.settle()
        with pytest.raises(ServerStuck) as info:
            server.stop(timeout=0.3)
    line = "release.acquire()" if how == "waits" else "time.sleep(0.9)"
    said = rf"serve did not end within 0.3 s: thread 1 stands at line \d+ of stubborn: {re.escape(line)}\."
    assert re.search(said, str(info.value))
    assert "Its sockets are closed" in str(info.value)
    server.stop()  # once more does nothing
    release.release()
    entered[0].join(LONG)
    assert not entered[0].is_alive()


def test_a_thread_with_a_trace_function_runs_beside_a_stuck_server(last_words):
    """On CPython 3.11 it did not: an exception that waits for another thread stops it at each instruction."""
    release, entered, traced = threading.Lock(), [], threading.Event()
    release.acquire()

    def stubborn(conn):
        entered.append(threading.current_thread())
        release.acquire()

    def serve(host, port):
        threads(host, port, stubborn)

    def runs():
        sys.settrace(lambda *_: None)
        runs_on()
        sys.settrace(None)
        traced.set()

    def runs_on():
        return 1

    server = start(serve)
    with Client(server):
        server.settle()
        with pytest.raises(ServerStuck):
            server.stop(timeout=0.3)
    thread = threading.Thread(target=runs)
    thread.start()
    came = traced.wait(LONG)
    release.release()
    entered[0].join(LONG)
    thread.join(LONG)
    assert came


def test_starting_again_beside_a_stuck_server_warns(last_words):
    release, entered = threading.Event(), []

    def stubborn(conn):
        entered.append(threading.current_thread())
        while not release.is_set():
            with contextlib.suppress(BaseException):
                release.wait()

    def serve(host, port):
        threads(host, port, stubborn)

    with Client(start(serve)) as client:
        runner.newest("serve").settle()
        with pytest.warns(RuntimeWarning, match="the earlier server was left behind: serve did not end"):
            again = start(serve)
        assert client
    again.stop()
    release.set()
    entered[0].join(LONG)


def test_the_clean_up_for_ctrl_c_runs():
    def tidy(host, port):
        with socket.create_server((host, port)) as s:
            try:
                while True:
                    handle(s.accept()[0])
            except KeyboardInterrupt:
                print("Stopped by Ctrl+C")
            finally:
                print("closing")

    server = start(tidy)
    with Client(server, name="alice"):
        server.settle()
        stop_quickly(server)
    assert server.log.lines() == ["Stopped by Ctrl+C", "closing"]
    assert str(server.log) == "server thread\n    Stopped by Ctrl+C\n    closing"


def test_stop_from_several_threads_returns_when_all_is_done(capsys):
    server = start(threads)
    gate, running = threading.Barrier(6), []

    def stop():
        gate.wait(LONG)
        server.stop()
        running.append(server.running or bool(server.threads) or server.observation in watched.running)

    stoppers = [threading.Thread(target=stop) for _ in range(6)]
    with Client(server), Client(server):
        server.settle()
        for thread in stoppers:
            thread.start()
        for thread in stoppers:
            thread.join(LONG)
    assert running == [False] * 6
    server.stop()
    with server:
        pass


def test_stop_from_the_servers_own_thread():
    def quits(conn):
        with conn:
            conn.recv(1)
            servers[0].stop()
            ended.set()

    def serve(host, port):
        threads(host, port, quits)

    ended = threading.Event()
    servers = [start(serve)]
    owned = servers[0].observation.tasks[0].thread
    with Client(servers[0]) as client:
        client.send("x")
        assert ended.wait(LONG)
    for task in servers[0].observation.tasks:
        task.thread.join(LONG)
    assert not owned.is_alive()
    assert not servers[0].running


@pytest.mark.parametrize("serve", [serve_single, threads, pool])
def test_stop_while_clients_are_connecting(serve, capsys):
    for _ in range(5):
        server = start(serve)
        over, some = threading.Event(), threading.Semaphore(0)

        def connect(address=server.address, over=over, some=some):
            socks = []
            while not over.is_set():
                try:
                    socks.append(socket.create_connection(address, timeout=0.2))
                except OSError:
                    break
                some.release()
            for sock in socks:
                sock.close()

        burst = [threading.Thread(target=connect) for _ in range(3)]
        for thread in burst:
            thread.start()
        for _ in range(20):
            assert some.acquire(timeout=LONG)
        stop_quickly(server, within=2.0)
        over.set()
        for thread in burst:
            thread.join(LONG)
        assert server.error is None
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("serve", [serve_single, no_reuse])
def test_a_client_that_is_accepted_while_all_are_told_to_hang_up(serve, monkeypatch):
    plain = calls.plain_accept

    def accept(sock):
        accepted = plain(sock)
        stopping.ask_to_stop(server.observation)
        return accepted

    server = start(serve)
    monkeypatch.setattr(calls, "plain_accept", accept)
    with pytest.raises(ConnectionError), Client(server) as client:
        client.receive(timeout=LONG)
    stop_quickly(server)
    start(serve, port=server.address[1]).stop()


def test_ctrl_c_while_stop_waits(monkeypatch):
    server = start(threads)
    thread = server.observation.tasks[0].thread

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stopping, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.stop()
    thread.join(LONG)


# -- what it dies of ---------------------------------------------------------------------------------------------------


def dies_in_a_thread(host, port):
    threads(host, port, chained)


def dies_in_the_server_thread(host, port):
    with socket.create_server((host, port)) as s:
        print("listening")
        chained(s.accept()[0])


def chained(conn):
    try:
        conn.recv(100).decode("ascii")
    except UnicodeDecodeError as error:
        raise ValueError("not for me") from error


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("serve", [dies_in_a_thread, dies_in_the_server_thread])
def test_the_error_and_its_traceback(serve, capsys):
    server = start(serve)
    with Client(server, name="alice") as alice:
        alice.send("é")
        with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
            alice.receive(timeout=LONG)  # as without echo_kit: the connection goes with the thread that held it
        server.settle()
        assert isinstance(server.error, ValueError)
        assert server.running is (serve is dies_in_a_thread)
        stop_quickly(server)
    assert isinstance(server.error, ValueError)
    lines = server.log.lines(client="alice")
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: not for me"
    assert "The above exception was the direct cause of the following exception:" in lines
    assert '    raise ValueError("not for me") from error' in lines
    own, stdlib = frames._HERE, threading.__file__
    assert not [line for line in lines if own in line or stdlib in line]
    assert str(server.log).splitlines()[2] == f"alice ({'thread 1' if serve is dies_in_a_thread else 'server thread'})"
    assert capsys.readouterr() == ("", "")


def test_an_error_of_the_socket_shows_none_of_our_frames():
    def serve(host, port):
        with socket.create_server((host, port)) as s:
            with s.accept()[0] as conn:
                conn.recv(10)

    server = start(serve)
    client = Client(server)
    server.settle()
    client.vanish()
    server.settle()
    assert isinstance(server.error, ConnectionResetError)
    lines = [line for line in server.log.lines() if line.startswith("  File")]
    assert len(lines) == 1
    assert "in serve" in lines[0]
    server.stop()


@pytest.mark.parametrize("threaded", [True, False])
def test_sys_exit_in_a_handler_is_no_error(threaded):
    def handle(conn):
        with conn:
            sys.exit("bye")

    def one(host, port):
        with socket.create_server((host, port)) as s:
            handle(s.accept()[0])

    def many(host, port):
        threads(host, port, handle)

    with start(many if threaded else one) as server, Client(server) as client:
        with pytest.raises(ConnectionAbortedError):
            client.receive(timeout=LONG)
        server.settle()
        assert server.error is None
        assert server.running is threaded


# -- settle ------------------------------------------------------------------------------------------------------------


HUNTED = [pytest.param(each, marks=pytest.mark.soak) for each in (serve_single, threads, selectors_loop)]  # 200 rounds


@pytest.mark.parametrize("serve", [*HUNTED, pool], ids=lambda serve: serve.__name__)
def test_a_view_taken_at_once_tells_the_finished_story(serve, busy):
    rounds = 200 if serve in (serve_single, threads) else 5  # the others have to be watched for 50 ms each time
    with busy(), start(serve) as server:
        for number in range(rounds):
            with Client(server, name="alice") as alice:
                story = story_of_the_newest(server)
                assert re.fullmatch(r"connected · accepted( · served by .*)?", story), number
                alice.send("hello")
                server.settle()
                assert alice.receive(timeout=LONG) == "hello"
                assert story_of_the_newest(server).endswith('· "hello" echoed'), number
            assert story_of_the_newest(server).endswith('· "hello" echoed · left'), number
            assert server.timeline().lanes[-1].closed is not None, number


def story_of_the_newest(server):
    timeline = server.timeline()
    return timeline.story(timeline.lanes[-1])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_settle_is_bounded():
    with start(computes) as server, Client(server):
        began = time.perf_counter()
        server.settle(timeout=0.2)
        assert time.perf_counter() - began < 1


def polls_for_clients(host, port):
    with bound_before() as s:
        s.bind((host, port))
        s.listen()
        s.setblocking(False)
        while True:
            with contextlib.suppress(BlockingIOError):
                s.accept()[0].close()
            time.sleep(0.01)


def polls_after_the_end(host, port):
    with socket.create_server((host, port)) as s:
        conn, _ = s.accept()
        while True:
            conn.recv(100)
            time.sleep(0.01)


@pytest.mark.parametrize("serve", [polls_for_clients, polls_after_the_end])
def test_nobody_waits_long_for_a_loop_that_asks_and_sleeps(serve):
    def seconds():
        began = time.monotonic()
        server.settle()
        return time.monotonic() - began

    with start(serve) as server:
        with Client(server):
            pass  # it has left, and the server goes on
        assert min(seconds() for _ in range(5)) < 0.5


@pytest.fixture
def many_files():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.soak
def test_a_look_at_a_thousand_clients_is_quick(many_files):
    """Seconds on a processor, of the best of a few looks: 0.15 where nobody else wants it, and twice as much or more
    where others share its caches.
    """

    def seconds(look):
        began = time.thread_time()
        look()
        return time.thread_time() - began

    if many_files < 2_500:
        pytest.skip("the system allows too few open files")
    with start(serve_threaded) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(1_000)]
        for each in clients:
            each.send("hi")
        for each in clients:
            each.receive(timeout=LONG)
        for look in (server.where, server.backlog, server.timeline, server.snapshot):
            assert min(seconds(look) for _ in range(4)) < 0.5, look.__name__
        assert len(server.client_names()) == 1_000


def test_for_names_the_log_is_only_folded_again_when_something_has_happened(monkeypatch):
    real, folds = lanes.folded, []
    monkeypatch.setattr(lanes, "folded", lambda *given: folds.append(given) or real(*given))
    with start(serve_single) as server, Client(server, name="alice") as alice:
        for _ in range(2):
            server.settle()
            assert list(server.client_names().values()) == ["alice"]
            server.where()
            server.backlog()
            server.snapshot()
        assert len(folds) == 1  # the timeline's own is another
        with Client(server, name="bob"):
            alice.close()
            server.settle()
            assert list(server.client_names().values()) == ["alice", "bob"]
            assert len(folds) == 2


# -- the end of the kernel ---------------------------------------------------------------------------------------------


def test_the_process_ends_by_itself():
    program = """
        import socket
        from concurrent.futures import ThreadPoolExecutor
        import echo_kit

        def pool(host, port):
            def handle(conn):
                with conn:
                    while data := conn.recv(10):
                        conn.sendall(data)
            with ThreadPoolExecutor() as workers, socket.create_server((host, port)) as s:
                while True:
                    workers.submit(handle, s.accept()[0])

        clients = []
        for serve in (echo_kit.serve_single, echo_kit.serve_threaded, pool):
            server = echo_kit.start(serve)
            clients += [echo_kit.Client(server), socket.create_connection(server.address)]
            clients[-2].send("x")
            assert clients[-2].receive() == "x"
        print("done")
    """
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=LONG, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert time.perf_counter() - began < 5


def test_restart_begins_the_same_again_at_the_same_port():
    with start(serve_single, name="first") as server:
        address = server.address
        with Client(server, "alice") as alice:
            alice.send("x")
            alice.receive()
            server.restart()
            with pytest.raises(OSError, match=r"closed|reset"):
                alice.receive(timeout=LONG)
        assert (server.name, server.address) == ("first", address)
        assert runner.newest("first") is server
        with Client(server, "bob") as bob:
            bob.send("hi")
            assert bob.receive() == "hi"
            assert str(server.timeline()).count("connected") == 1  # nothing of what was before
        server.stop()
        assert not server.running
        server.restart()  # after a stop, too
        assert server.running
        assert server.address == address


def test_restart_takes_another_port_if_somebody_has_taken_that_one():
    with start(serve_single) as server:
        address = server.address
        server.stop()
        with socket.create_server(address):
            server.restart()
            assert server.running
            assert server.address[1] != address[1]


def test_a_server_that_does_not_start_again_stays_stopped():
    began = threading.Event()

    def serve(host, port):
        if began.is_set():
            raise ValueError("only once")
        began.set()
        serve_single(host, port)

    with start(serve) as server:
        with pytest.raises(ValueError, match="only once"):
            server.restart()
        assert not server.running
        assert "stopped" in repr(server)


def test_restart_of_a_socketserver_says_that_it_cannot_and_leaves_it_running():
    with socketserver.TCPServer(("127.0.0.1", free_port()), socketserver.StreamRequestHandler) as made:
        with start(made) as server:
            with pytest.raises(RuntimeError, match=r"TCPServer cannot be started again.*Make a new one"):
                server.restart()
            assert server.running


# -- another function in its place -----------------------------------------------------------------------------------


def test_another_function_takes_its_place_at_the_same_port():
    with start(serve_single, name="hall") as server:
        address = server.address
        with Client(server, "alice") as alice:
            alice.send("x")
            alice.receive()
            for serve in (serve_threaded, serve_single, serve_threaded):
                server.replace(serve)
                assert (server.name, server.address, server.running) == ("hall", address, True)
                assert runner.newest("hall") is server
        with Client(server, "alice") as alice, Client(server, "bob") as bob:
            bob.send("hi")
            assert bob.receive() == "hi"
            assert "thread 2" in str(server.where())
            assert alice.address == address
        server.stop()
        assert not server.running
        server.restart()
        assert "thread" in str(server.where())  # the newest one


def hangs_up(host, port):
    with socket.socket() as listener:  # no SO_REUSEADDR
        listener.bind((host, port))
        listener.listen()
        listener.accept()[0].close()  # the side that ends first keeps the port
        listener.accept()


def test_one_that_cannot_bind_the_port_again_gets_another():
    with start(hangs_up, name="hall") as server:
        with socket.create_connection(server.address) as client:
            assert client.recv(1) == b""
            port = server.address[1]
            server.replace(hangs_up)
            assert server.running
            assert server.address[1] != port


def test_one_that_does_not_start_leaves_the_name_to_the_earlier_one():
    def fails(host, port):
        raise ValueError("not I")

    with start(serve_single) as server:
        with pytest.raises(ValueError, match="not I"):
            server.replace(fails)
        assert not server.running
        server.restart()
        assert server.running


# -- Ctrl+C alone ------------------------------------------------------------------------------------------------------


def tidy(host, port):
    """Notes what it does about Ctrl+C, and goes on."""
    with socket.create_server((host, port)) as s:
        while True:
            try:
                threading.Thread(target=handle, args=(s.accept()[0],)).start()
            except KeyboardInterrupt:
                print("Ctrl+C")


def test_interrupt_is_ctrl_c_in_accept_and_nothing_else(capsys):
    with start(tidy) as server, Client(server, name="alice") as alice:
        alice.send("hello")
        assert alice.receive(timeout=LONG) == "hello"
        for number in (1, 2):
            server.interrupt()
            server.settle()
            assert server.log.lines().count("Ctrl+C") == number
        alice.send("still there?")
        assert alice.receive(timeout=LONG) == "still there?"
        with Client(server, name="bob") as bob:
            bob.send("and me?")
            assert bob.receive(timeout=LONG) == "and me?"
        assert server.error is None
    assert capsys.readouterr() == ("", "")


def test_a_server_that_catches_ctrl_c_and_goes_on_ends_at_its_next_accept():
    with start(tidy) as server:
        pass
    assert server.log.lines() == ["Ctrl+C"]


def test_each_thread_that_accepts_gets_ctrl_c_once():
    """Its clean-up for Ctrl+C runs."""

    def several(host, port):
        def accepts():
            try:
                s.accept()
            except KeyboardInterrupt:
                print("cleans up")

        with socket.create_server((host, port)) as s:
            threads = [threading.Thread(target=accepts) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    with start(several) as server:
        server.settle()
    assert server.log.lines() == ["cleans up"] * 3


def test_interrupt_ends_a_server_that_does_nothing_about_it(capsys):
    with start(threads) as server, Client(server) as alice:
        server.settle()
        server.interrupt()
        server.observation.tasks[0].thread.join(LONG)
        assert not server.observation.tasks[0].thread.is_alive()
        assert server.threads == ["thread 1"]
        assert server.error is None
        alice.send("hello")  # her thread goes on
        assert alice.receive(timeout=LONG) == "hello"


def test_interrupt_while_a_handler_runs_comes_when_its_call_has_come_back(capsys):
    caught = threading.Event()

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            with s.accept()[0] as conn:
                try:
                    echo(conn)
                except KeyboardInterrupt:
                    caught.set()

    with start(serve) as server, Client(server) as alice:
        server.interrupt()
        assert not caught.is_set()
        alice.send("x")
        assert caught.wait(LONG)


def test_interrupt_on_a_stopped_server_does_nothing():
    server = start(threads)
    server.stop()
    server.interrupt()
    assert not server.running


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of an earlier test's threads
def test_interrupt_again_and_again_leaves_nothing(capsys):
    with start(tidy) as server:
        server.interrupt()
        server.settle()
        before = len(gc.get_objects())
        for _ in range(50):
            server.interrupt()
        server.settle()
        assert server.log.lines() == ["Ctrl+C"] * 51
        assert len(server.observation.tasks) == 1
        assert len(gc.get_objects()) - before < 500
        with Client(server) as client:
            client.send("x")
            assert client.receive(timeout=LONG) == "x"


# -- most_threads ------------------------------------------------------------------------------------------------------


def test_one_thread_more_than_it_may_have_raises_as_the_system_does(capsys):
    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                conn, _ = s.accept()
                try:
                    threading.Thread(target=handle, args=(conn,)).start()
                except RuntimeError as error:
                    print(error)
                    conn.close()

    with start(serve, most_threads=3) as server, Client(server) as alice, Client(server):
        assert server.threads == ["server thread", "thread 1", "thread 2"]
        with Client(server) as carol, pytest.raises(OSError, match="closed"):
            carol.receive(timeout=LONG)
        assert server.log.lines() == ["can't start new thread"]
        alice.close()
        server.settle()
        with Client(server) as dave:  # who has ended makes room
            dave.send("x")
            assert dave.receive(timeout=LONG) == "x"
        server.restart()
        assert server.observation.most_threads == 3


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_threads_that_start_threads_for_ever_are_few_and_end(capsys):
    most = []

    def fork():
        while True:
            most.append(len(server.observation.alive()))
            try:
                threading.Thread(target=fork).start()
            except RuntimeError:
                with contextlib.suppress(OSError):
                    time.sleep(0.001)

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            s.accept()
            fork()

    server = start(serve, most_threads=20)
    with Client(server):
        deadline = time.monotonic() + LONG
        while max(most, default=0) < 19 and time.monotonic() < deadline:
            time.sleep(0.01)
        server.stop(timeout=LONG)
    assert max(most) == 19  # and the calling one


def test_a_thread_that_is_being_started_is_not_taken_for_one_that_has_ended():
    """It has an ident before it is alive."""
    observation = watched.Observation("it")
    thread = threading.Thread(target=print)
    task = observation.adopt(thread)
    task.starting, thread._ident = True, 1
    others = [
        observation.adopt(threading.Thread(target=print)) for _ in range(20)
    ]  # ended ones are looked for meanwhile
    assert observation.tasks == [task, *others]
    task.starting = False  # it came and went
    others += [observation.adopt(threading.Thread(target=print)) for _ in range(50)]
    assert observation.tasks == others
    observation.close_all()


def test_few_events_are_kept_where_few_are_asked_for():
    with start(serve_single, most_events=10) as server, Client(server) as client:
        for _ in range(10):
            client.send("x")
            client.receive(timeout=LONG)
        assert len(server.observation.log) == 10
        server.restart()
        assert server.observation.log._records.maxlen == 10
