"""A server's code that never waits: what it does again and again is one record, and what came before it stays."""

import contextlib
import socket
import threading

import pytest

from echo_kit import Client, start
from echo_kit.watch.events import LOG_LENGTH

LONG = 20


class Loop:
    """A server that makes this call again and again when its first client has left, and tells when it has made many."""

    def __init__(self, call):
        self.call, self.many, self.over = call, threading.Event(), threading.Event()

    def __call__(self, host, port):
        with socket.create_server((host, port)) as door:
            for _ in range(2):
                conn = door.accept()[0]
                threading.Thread(target=self.talk, args=(conn,)).start()
            door.accept()

    def talk(self, conn):
        times = 0
        with conn:
            while not self.over.is_set():
                with contextlib.suppress(OSError):
                    self.call(conn)
                times += 1
                if times == 3_000:
                    self.many.set()


def echo(conn):
    conn.sendall(conn.recv(1024))


def echo_all(conn):
    while data := conn.recv(1024):
        conn.sendall(data)


def echo_into(conn):
    buffer = bytearray(100)
    conn.send(memoryview(buffer)[: conn.recv_into(buffer)])


def echo_or_answer(conn):
    conn.sendall(conn.recv(1024) or b"are you there?")


@pytest.mark.parametrize("call", [echo, echo_all, echo_into, echo_or_answer])
def test_what_ends_in_the_same_way_again_and_again_is_one_record(call):
    serve = Loop(call)
    with start(serve, name="loop", most_events=1000) as server, Client(server, name="bob") as bob:
        bob.send("stays")
        assert bob.receive(timeout=LONG) == "stays"
        with Client(server, name="alice") as alice:
            alice.send("hello")
            assert alice.receive(timeout=LONG) == "hello"
        assert serve.many.wait(LONG)
        log = server.observation.log
        assert log.dropped == 0
        assert len(log) < 30
        (task,) = [each for each in server.observation.tasks if each.label == "thread 2"]
        again = task.again
        assert again.connection.client == server.observation.clients[-1].client
        assert again.times > 2_000
        assert (again.kind, again.error) in [("recv", ""), ("send", "BrokenPipeError")]
        lines = str(server.timeline()).splitlines()
        assert lines[1] == '  bob    connected · accepted · served by thread 1 · "stays" echoed'
        assert lines[2].startswith('  alice  connected · accepted · served by thread 2 · "hello" echoed · ')
        serve.over.set()


def test_an_accept_that_fails_again_and_again_is_one_record_until_one_succeeds():
    resource = pytest.importorskip("resource")
    failed, over = threading.Event(), threading.Event()

    def serve(host, port):
        times = 0
        with socket.create_server((host, port)) as door:
            while not over.is_set():
                try:
                    conn, _ = door.accept()
                except OSError:
                    times += 1
                    if times % 500 == 0:
                        failed.set()
                else:
                    with conn:
                        conn.sendall(b"x")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with start(serve) as server, socket.socket() as client, socket.socket() as other:
        for each in (client, other):
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            each.connect(server.address)
            came = failed.wait(LONG)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert came
            each.settimeout(LONG)
            assert each.recv(1) == b"x"
            failed.clear()
        over.set()
        events = [(event.kind, event.error) for event in server.observation.log if event.thread]
        assert events.count(("accept", "OSError")) == 2
        assert events.count(("accept", "")) == 2


def test_recv_of_no_bytes_is_no_end_of_file():
    def talk(conn):
        assert (conn.recv(0), conn.recv(0, 0), conn.recv_into(bytearray())) == (b"", b"", 0)
        conn.sendall(conn.recv(9))

    def serve(host, port):
        with socket.create_server((host, port)) as door:
            while True:
                with door.accept()[0] as conn:
                    talk(conn)

    with start(serve) as server, Client(server, name="alice") as alice:
        alice.send("hello")
        assert alice.receive(timeout=LONG) == "hello"
        server.settle()
        assert [event.size for event in server.observation.log if event.kind == "recv"] == [5]


def test_the_log_of_a_loop_that_prints_has_a_length_that_is_stated():
    def serve(host, port):
        with socket.create_server((host, port)) as door:
            with door.accept()[0]:
                for number in range(20_000):
                    print("got", number, "x" * 90)
            with door.accept()[0]:
                print("hello")

    with start(serve) as server, Client(server) as first, contextlib.suppress(ConnectionError):
        first.receive(timeout=LONG)
    log = str(server.log)
    assert len(log) < LOG_LENGTH * 1.1
    kept = len(server.log.lines())
    assert log.splitlines()[0] == f"(the log keeps the newest {kept:,} of 20,000 lines)"
    assert server.log.lines()[-1] == f"got 19999 {'x' * 90}"
    assert sum(map(len, server.log.lines())) <= LOG_LENGTH
