"""How a server's own code ends its sockets: from another thread, on which line, and what does not end with a close."""

import contextlib
import errno
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading

import pytest

from echo_kit import Client, start

LONG = 20
ANONYMOUS = "AECDH-AES256-SHA:@SECLEVEL=0"  # TLS without a certificate
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

    def __init__(self, threads, each=9):
        self.threads, self.each, self.ends, self.kept = threads, each, [], []
        self.now, self.done, self.over = (threading.Event() for _ in range(3))

    def __call__(self, host, port):
        door = socket.create_server((host, port))
        for _ in range(self.threads):
            threading.Thread(target=self.loop, args=(door,)).start()
        self.now.wait(LONG)
        self.kept.append(self.how(door))
        self.done.set()
        self.over.wait(LONG)
        door.close()

    def loop(self, door):
        try:
            for _ in range(self.each):
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
    door = Door(3, each=1)
    with door.running(lambda sock: sock.setblocking(False)) as server:
        for _ in range(3):
            assert welcomed(server.address) == b"welcome"
        server.settle()
        assert door.ends == []


@LINUX
def test_a_timeout_of_the_systems_ends_an_accept():
    """SO_RCVTIMEO, which Python does not know of."""
    ends, timed_out = [], threading.Event()

    def serve(host, port):
        with socket.create_server((host, port)) as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 20_000))
            with pytest.raises(BlockingIOError) as info:
                door.accept()
            ends.append(str(info.value))
            timed_out.set()
            door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
            with door.accept()[0] as conn:
                conn.sendall(b"welcome")

    with start(serve) as server:
        assert timed_out.wait(LONG)
        assert welcomed(server.address) == b"welcome"
        server.settle()
        assert server.error is None
    assert ends == ["[Errno 11] Resource temporarily unavailable"]


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


# -- which thread, on which line ---------------------------------------------------------------------------------------


def by_close(conn):
    conn.recv(9)
    conn.close()


def by_with(conn):
    with conn:
        conn.recv(9)


def by_closing(conn):
    with contextlib.closing(conn):
        conn.recv(9)


def by_exit_stack(conn):
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: conn.close())
        conn.recv(9)


def by_shutdown(conn):
    conn.recv(9)
    conn.shutdown(socket.SHUT_RDWR)
    conn.close()


def with_a_file_that_goes_later(conn):
    file = conn.makefile("rb")
    conn.close()
    file.read1(9)
    del file


def by_dropping_it(conn):
    conn.recv(9)


@contextlib.contextmanager
def serving(treat):
    """A server that accepts, and does this with each connection."""

    def serve(host, port):
        with socket.create_server((host, port)) as door:
            while True:
                treat(door.accept()[0])

    with start(serve) as server:
        yield server


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("treat", "place"),
    [
        (by_close, "line 2 of by_close"),
        (by_with, "line 1 of by_with"),
        (by_closing, "line 1 of by_closing"),
        (by_exit_stack, "line 2 of <lambda>"),
        (by_shutdown, "line 2 of by_shutdown"),
        (with_a_file_that_goes_later, "line 2 of with_a_file_that_goes_later"),
        (by_dropping_it, ""),
    ],
)
@pytest.mark.parametrize("stepwise", [False, True])
def test_the_line_on_which_a_connection_was_closed(treat, place, stepwise):
    with serving(treat) as server, Client(server) as client:
        server.settle()
        if stepwise:
            server.pause()
        client.send("hello")
        while stepwise and not connection_of(server).closed:
            server.step()
        with pytest.raises(ConnectionError):
            client.receive(timeout=LONG)
        server.settle()
        line = place.partition(" of")[0]
        found, first = connection_of(server).closed_at, treat.__code__.co_firstlineno
        assert found == place.replace(line, f"line {first + int(line[5:])}") if place else found == ""
        assert connection_of(server).handed_on == ""


def test_a_connection_that_stop_closes_has_no_line():
    with serving(lambda conn: conn.recv(9)) as server, Client(server):
        server.settle()
        server.stop()
        assert connection_of(server).cut_off
        assert connection_of(server).closed_at == ""


def test_to_shut_down_the_reading_side_ends_nothing():
    def treat(conn):
        with conn:
            conn.shutdown(socket.SHUT_RD)
            conn.sendall(b"x")
            over.wait(LONG)

    over = threading.Event()
    with serving(treat) as server, Client(server) as client:
        assert client.receive(timeout=LONG) == "x"
        assert ("shutdown", "server thread") not in kinds(server)
        assert connection_of(server).closed_at == ""
        over.set()


# -- what a close does not end -----------------------------------------------------------------------------------------


def echo(conn):
    while data := conn.recv(100):
        conn.sendall(data)


def wrapped(conn):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ANONYMOUS)
    with context.wrap_socket(conn, server_side=True) as safe:
        echo(safe)


def by_its_number(conn):
    with socket.socket(fileno=conn.detach()) as same:
        echo(same)


def from_its_number(conn):
    with socket.fromfd(conn.fileno(), conn.family, conn.type) as same:
        conn.close()
        echo(same)


def by_the_system(conn):
    same = os.dup(conn.fileno())
    conn.close()
    while data := os.read(same, 100):
        os.write(same, data)
    os.close(same)


def in_a_child(conn):
    child = os.fork()
    if child == 0:
        echo(conn)
        os._exit(0)
    conn.close()
    children.append(child)


def in_a_program(conn):
    programs.append(subprocess.Popen(["cat"], stdin=conn, stdout=conn))
    conn.close()


def to_whoever_reads_it(conn):
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"here"], [conn.fileno()])
    conn.close()  # nobody has it now: it lies in the other socket
    _, (same,), _, _ = socket.recv_fds(theirs, 9, 1)
    ours.close()
    theirs.close()
    with socket.socket(fileno=same) as other:
        other.sendall(other.recv(100))


children, programs = [], []


@LINUX
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("treat", "where"),
    [
        (wrapped, "to ssl"),
        (by_its_number, "to a file descriptor"),
        (from_its_number, "to another file descriptor"),
        (by_the_system, "to another file descriptor"),
        (in_a_child, "to a child process"),
        (in_a_program, "to a child process"),
        (to_whoever_reads_it, "to another process"),
    ],
)
def test_a_connection_that_goes_on_elsewhere_is_handed_on_and_not_closed(treat, where):
    with serving(treat) as server, socket.create_connection(server.address, timeout=LONG) as plain:
        client = plain
        if treat is wrapped:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ANONYMOUS)
            client = context.wrap_socket(plain)
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        server.settle()
        assert connection_of(server).handed_on == where
        assert [kind for kind, _ in kinds(server)] == ["accept"]
        server.stop()  # also where a thread of it reads what we do not see
        assert server.observation.trouble is None
        client.close()
    while children:  # stop has ended it
        with pytest.raises(ChildProcessError):
            os.waitpid(children.pop(), 0)
    while programs:
        programs.pop().wait(LONG)


@LINUX
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_child_that_has_ended_holds_nothing():
    def treat(conn):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        conn.close()

    with serving(treat) as server, Client(server) as client:
        with pytest.raises(ConnectionError):
            client.receive(timeout=LONG)
        server.settle()
        assert connection_of(server).handed_on == ""
        assert ("close", "server thread") in kinds(server)


def test_a_duplicate_is_watched_and_the_last_close_counts():
    def treat(conn):
        with conn.dup() as same:
            conn.close()
            echo(same)

    with serving(treat) as server, Client(server) as client:
        client.send("hello")
        assert client.receive(timeout=LONG) == "hello"
        server.settle()
        assert [kind for kind, thread in kinds(server) if thread] == ["accept", "recv", "send"]
        client.close()
        server.settle()
        first = treat.__code__.co_firstlineno
        assert (connection_of(server).closed_at, connection_of(server).handed_on) == (f"line {first + 1} of treat", "")
        assert ("close", "server thread") in kinds(server)
