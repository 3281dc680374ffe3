"""How a server's own code ends its sockets: from another thread, on which line, and what does not end with a close."""

import contextlib
import errno
import os
import socket
import sys
import threading

import pytest

from echo_kit import Client, start

LONG = 20
LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="what other systems do with a call on a closed socket varies"
)


def connection_of(server):
    (connection,) = server.observation.accepted.values()
    return connection


def kinds(server):
    """The calls on its connections: what, and which thread made it."""
    log = server.observation.log
    return [(event.kind, event.thread) for event in log if event.connection.name != "listener"]


class Door:
    """A server with threads that wait in accept; the first does with the listener what the test says."""

    def __init__(self, threads):
        self.threads, self.ends, self.kept = threads, [], []
        self.now, self.done, self.over = (threading.Event() for _ in range(3))

    def __call__(self, host, port):
        door = socket.create_server((host, port))
        for _ in range(self.threads):
            threading.Thread(target=self.loop, args=(door,)).start()
        self.now.wait(LONG)
        self.kept.append(self.how(door))
        self.done.set()
        self.over.wait(LONG)

    def loop(self, door):
        try:
            while True:
                conn, _ = door.accept()
                with conn:
                    conn.sendall(b"welcome")
        except OSError as error:
            self.ends.append(errno.errorcode.get(error.errno, type(error).__name__))

    @contextlib.contextmanager
    def running(self, how):
        """A server, all of whose threads waited in accept when the listener was treated."""
        self.how = how
        with start(self, name="door") as server:
            assert server.settle()
            self.now.set()
            assert self.done.wait(LONG)
            try:
                yield server
            finally:
                self.over.set()
        for each in filter(None, self.kept):
            os.close(each) if isinstance(each, int) else each.close()


def welcomed(address):
    with socket.create_connection(address, timeout=LONG) as client:
        return client.recv(100)


def close(door):
    door.close()


def detach(door):
    return door.detach()


def close_and_use_the_number_again(door):
    """The new listener has the descriptor's number of the old one."""
    number = door.fileno()
    door.close()
    other = socket.create_server(("127.0.0.1", 0))
    assert other.fileno() == number
    return other


@LINUX
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("how", [close, close_and_use_the_number_again, detach])
def test_each_thread_in_accept_takes_one_more_client_when_another_closes_the_listener(how, threads):
    """As without us: the kernel has the socket open until they return (seen: none did)."""
    door = Door(threads)
    with door.running(how) as server:
        for _ in range(threads):
            assert welcomed(server.address) == b"welcome"
        server.settle()
        assert door.ends == ["EBADF"] * threads
        if how is not detach:
            with pytest.raises(ConnectionRefusedError):
                welcomed(server.address)


def test_a_listener_that_another_thread_shuts_down_ends_each_accept():
    door = Door(3)
    with door.running(lambda sock: sock.shutdown(socket.SHUT_RDWR)) as server:
        server.settle()
        assert door.ends == ["EINVAL"] * 3


def test_a_timeout_that_another_thread_sets_is_for_the_next_accept():
    """Also for the two that wait for their turn: in the kernel all three are in accept."""
    door = Door(3)
    with door.running(lambda sock: sock.setblocking(False)) as server:
        for _ in range(3):
            assert welcomed(server.address) == b"welcome"
        server.settle()
        assert door.ends == ["EAGAIN"] * 3


@LINUX
@pytest.mark.parametrize("how", [close, detach])
def test_stop_ends_threads_in_accept_on_a_closed_listener(how):
    door = Door(2)
    with door.running(how) as server:
        door.over.set()
        server.stop()
        assert not server.running
        assert server.observation.trouble is None
    assert door.ends == []  # they were interrupted, as by Ctrl+C


# -- a connection that another thread closes ---------------------------------------------------------------------------


class ClosesAtOnce:
    """The main thread closes the connection while the client's thread is in its call on it."""

    def __init__(self, call):
        self.call, self.now, self.closed, self.got = call, threading.Event(), threading.Event(), []

    def __call__(self, host, port):
        with socket.create_server((host, port)) as door:
            while True:
                conn, _ = door.accept()
                threading.Thread(target=self.talk, args=(conn,)).start()
                self.now.wait(LONG)
                conn.close()
                self.closed.set()

    def talk(self, conn):
        with contextlib.suppress(ConnectionError):
            self.got.append(self.call(conn))
        try:
            conn.sendall(b"!")
        except OSError as error:
            self.got.append(errno.errorcode[error.errno])

    @contextlib.contextmanager
    def running(self):
        with start(self, name="closes") as server, Client(server, name="alice") as alice:
            server.settle()
            self.now.set()
            assert self.closed.wait(LONG)
            yield server, alice


def receive_into(conn):
    buffer = bytearray(9)
    return bytes(buffer[: conn.recv_into(buffer)])


@LINUX
@pytest.mark.parametrize("call", [lambda conn: conn.recv(9), receive_into, lambda conn: conn.recv(9, 0)])
def test_a_recv_goes_on_when_another_thread_closes_the_connection(call):
    serve = ClosesAtOnce(call)
    with serve.running() as (server, alice):
        alice.send("hi")
        with pytest.raises(ConnectionError):
            alice.receive(timeout=LONG)  # the end of file comes when recv has returned, and not with the close
        server.settle()
        assert serve.got == [b"hi", "EBADF"]
        connection = connection_of(server)
        assert (connection.received, connection.handed_on) == (2, "")
        assert [kind for kind in kinds(server) if kind[1]] == [
            *(("accept", "server thread"), ("close", "server thread"), ("recv", "thread 1"))
        ]


@LINUX
@pytest.mark.parametrize("call", [lambda conn: conn.recv(9), lambda conn: conn.sendall(bytes(50_000_000))])
def test_stop_ends_a_call_on_a_connection_that_another_thread_has_closed(call):
    serve = ClosesAtOnce(call)
    with serve.running() as (server, _):
        server.stop()
        assert not server.running
        assert server.observation.trouble is None
