"""Watched equals plain: each program of `plain_servers.py` runs twice, in a process of its own and watched here. The
same clients do the same, and must see the same: every byte, every error, every end.
"""

import contextlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import echo_kit

from . import plain_servers as programs

LIMIT = 10  # seconds that anything may take: long, because nothing does
SILENCE = 0.1  # seconds in which nothing comes where nothing must come
BIG = bytes(range(256)) * 400

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="these programs rely on Linux: epoll, fork, /proc"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # some forget to close, as people do
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


class TookTooLong(Exception):
    """What a client waits for does not come: the script ends here."""


class World:
    """A server's address, what its clients have seen so far, and how to press Ctrl+C."""

    def __init__(self, port, interrupt, process=None):
        self.port, self.interrupt, self.process = port, interrupt, process
        self.seen, self.open = [], contextlib.ExitStack()

    def client(self, name, beside=0, tls=False):
        """A client that connects, as soon as somebody listens."""
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                sock = socket.create_connection(("127.0.0.1", self.port + beside), timeout=LIMIT)
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    self.note(name, "nobody listens")
                    raise TookTooLong from None
        self.open.enter_context(sock)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = self.open.enter_context(context.wrap_socket(sock))
        return Client(self, name, sock)

    def note(self, name, *what):
        self.seen.append((name, *what))

    def refuses(self):
        """Wait until nobody listens any more."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT).close()
            except ConnectionRefusedError:
                return self.note("a newcomer", "is refused")
            except ConnectionResetError:  # the listener went while it connected
                continue
        self.note("a newcomer", "is not refused")
        raise TookTooLong


class Client:
    """A client that writes down all that it sees."""

    def __init__(self, world, name, sock):
        self.world, self.name, self.sock = world, name, sock

    def _note(self, *what):
        self.world.note(self.name, *what)

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError as error:
            self._note("cannot send", type(error).__name__)

    def take(self, size):
        """Wait for `size` bytes, or the end, whatever comes first."""
        data = b""
        try:
            while len(data) < size:
                more = self.sock.recv(min(65536, size - len(data)))
                if not more:
                    return self._note("got", data, "end of file")
                data += more
        except TimeoutError:
            self._note("got", data, "took too long")
            raise TookTooLong from None
        except OSError as error:
            return self._note("got", data, type(error).__name__)
        self._note("got", data)

    def echo(self, data):
        self.send(data)
        self.take(len(data))

    def end(self):
        """Take all that comes until the end."""
        self.take(1 << 30)

    def silence(self):
        """Nothing comes for a moment."""
        self.sock.settimeout(SILENCE)
        try:
            self._note("got", self.sock.recv(1024), "where nothing must come")
        except TimeoutError:
            self._note("got nothing")
        except OSError as error:
            self._note("got nothing", type(error).__name__)
        self.sock.settimeout(LIMIT)

    def finish(self):
        """Say that no more comes from here, and read on."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def hang_up(self):
        self.finish()  # closed only, it would last as long as a child that was forked here has it, too
        self.sock.close()

    def vanish(self):
        """As a crash: the server gets a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


# -- what the clients do ---------------------------------------------------------------------------------------------


def one_by_one(world):
    alice = world.client("alice")
    alice.echo(b"hello")
    bob = world.client("bob")
    bob.send(b"hi")
    bob.silence()
    alice.echo(BIG)
    alice.finish()
    alice.end()
    bob.take(2)
    bob.hang_up()
    carol = world.client("carol")
    carol.echo(b"\x00\xff")
    carol.finish()
    carol.end()


def at_once(world):
    alice, bob = world.client("alice"), world.client("bob")
    bob.echo(b"hi")
    alice.echo(b"hello")
    bob.echo(BIG)
    alice.finish()
    alice.end()
    carol = world.client("carol")
    bob.echo(b"still here")
    carol.echo(b"\x00\xff")
    carol.hang_up()
    bob.finish()
    bob.end()


def lines(world):
    alice, bob = world.client("alice"), world.client("bob")
    alice.send(b"one\ntwo\nth")
    alice.take(8)
    bob.send("grüße\n".encode())
    bob.take(8)
    bob.hang_up()
    alice.silence()
    alice.send(b"ree\nno end")
    alice.take(6)
    alice.finish()
    alice.end()


def asks_for_capitals(world):
    for name in ("alice", "bob"):
        client = world.client(name)
        client.echo(b"hello")
        client.echo(b"world")
        client.finish()  # the pool's processes have the connection, too: no end comes


def lines_one_by_one(world):
    for name in ("alice", "bob"):
        client = world.client(name)
        client.send(b"one\ntwo\nth")
        client.take(8)
        client.send(b"ree\n")
        client.take(6)
        client.finish()
        client.end()


def over_tls(world):
    for name in ("alice", "bob"):
        client = world.client(name, tls=True)
        client.echo(b"hello")
        client.echo(BIG[:20_000])
        with contextlib.suppress(OSError):  # it takes what is left, and the server's goodbye
            client.sock.settimeout(LIMIT)
            client.sock = client.sock.unwrap()
        client.end()
    plain = world.client("one who does not speak TLS")
    plain.send(b"hello, this is no TLS at all\n")
    plain.take(2)
    plain.hang_up()
    carol = world.client("carol", tls=True)
    carol.echo(b"hello")


def asks(*messages, ends=True):
    """A script: for each message a client that sends it and takes all that comes until the end."""

    def script(world):
        for number, message in enumerate(messages, 1):
            client = world.client(f"client {number}")
            if message:
                client.send(message)
            if ends:
                client.finish()
            client.end()

    return script


def divides(world):
    """The second one asks for too much: it dies, the others live."""
    alice = world.client("alice")
    alice.send(b"3\n")
    alice.take(2)
    bob = world.client("bob")
    bob.send(b"0\n")
    bob.end()
    carol = world.client("carol")
    carol.send(b"4\n")
    carol.take(2)


def ends_by_itself(world):
    alice = world.client("alice")
    alice.send(b"go on\n")
    alice.end()
    bob, carol = world.client("bob"), world.client("carol")
    bob.send(b"end\n")
    bob.end()
    carol.hang_up()
    world.refuses()


def browses(world):
    alice = world.client("alice")
    for path in (b"/", b"/a/b?c=d"):
        alice.send(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        alice.take(len(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\nyou asked for ") + len(path))
    alice.silence()
    bob = world.client("bob")
    bob.send(b"GET /x HTTP/1.0\r\n\r\n")
    bob.end()


def slowly(world):
    alice = world.client("alice")
    for message in (b"at once", b"after a while"):
        alice.echo(message)
        alice.take(len(b"are you there?"))
        alice.silence()
    alice.finish()
    alice.end()
    world.client("bob").echo(b"hello")


def falls_silent(world):
    for name in ("alice", "bob"):
        client = world.client(name)
        client.echo(b"hello")
        client.end()


def datagram_like(world):
    alice = world.client("alice")
    alice.echo(b"one")
    alice.echo(b"two")
    alice.echo(b"three")
    alice.finish()
    alice.end()


def in_frames(world):
    alice = world.client("alice")
    alice.send(b"\0\0")
    alice.silence()
    alice.send(b"\0\5hel")
    alice.silence()
    alice.send(b"lo\0\0\0\2hi")
    alice.take(15)
    alice.send(b"\0\1")
    alice.finish()
    alice.end()


def in_messages(world):
    alice = world.client("alice")
    alice.send(b"hello")
    alice.take(len(b"hello|(0, None)\n"))
    alice.send(b"abcdef")
    alice.take(len(b"ab|cdef"))
    alice.finish()
    alice.end()


def say_nothing(world):
    """Three who only listen, one after the other."""
    for name in ("alice", "bob", "carol"):
        world.client(name).end()


def is_reset(world):
    alice = world.client("alice")
    alice.echo(b"hello")
    alice.send(b"x")
    alice.end()
    world.client("bob").echo(b"hello")


def leaves_bytes_unread(world):
    alice = world.client("alice")
    alice.send(b"01234")
    alice.silence()
    alice.send(b"56789")
    alice.end()


def kept(world):
    """Each is let go of when the next one has come."""
    alice = world.client("alice")
    alice.take(5)
    alice.silence()
    bob = world.client("bob")
    alice.end()
    bob.take(5)
    bob.silence()


def asks_who_is_there(world):
    alice, bob = world.client("alice"), world.client("bob")
    alice.send(b"1")
    alice.end()
    bob.send(b"2")
    bob.end()


def kills_it(world):
    alice = world.client("alice")
    alice.send(b"3")
    alice.take(1)
    bob = world.client("bob")
    alice.send(b"0")
    alice.end()
    bob.end()
    world.refuses()


def ends_it(world):
    world_ends = world.client("alice")
    world_ends.send(b"go on")
    world_ends.end()
    bob = world.client("bob")
    bob.send(b"exit")
    bob.end()
    world.refuses()


def vanishes(world):
    alice = world.client("alice")
    alice.take(5)
    alice.echo(b"hi")
    alice.vanish()
    world.refuses()


def vanishes_and_others_ask(world):
    alice = world.client("alice")
    alice.take(8)
    alice.vanish()
    bob = world.client("bob")
    bob.take(len("ConnectionResetError 104 [Errno 104] Connection reset by peer\n"))
    bob.send(b"x")
    bob.end()
    carol = world.client("carol")
    carol.take(len("TimeoutError None timed out\n"))
    carol.hang_up()
    world.client("dora").take(4)


def asks_for_a_close(world):
    """The listener is closed while a thread waits in accept; the next one comes after that."""
    alice = world.client("alice")
    alice.take(len(b"wait\nclosed\n"))
    bob = world.client("bob")
    bob.end()
    alice.send(b"x")
    alice.end()
    world.refuses()


def is_shut_out(world):
    alice = world.client("alice")
    alice.end()
    world.refuses()


def is_closed_elsewhere(world):
    alice = world.client("alice")
    alice.take(len(b"nothing\nclose\n"))
    alice.silence()
    alice.send(b"hi")
    alice.end()
    bob = world.client("bob")
    bob.take(len(b"[b'hi', 'OSError 9']\n"))


def pushes_out(world):
    alice = world.client("alice")
    alice.take(6)
    alice.echo(b"hi")
    bob = world.client("bob")
    alice.end()
    bob.take(6)
    bob.echo(b"hi")


def at_two_ports(first, second):
    """A script: each port answers, with these words before."""

    def script(world):
        for name, beside, words in (("bob", 1, second), ("alice", 0, first), ("carol", 1, second)):
            client = world.client(name, beside)
            client.send(b"hi")
            client.take(len(words + b"hi"))
            client.finish()
            client.end()

    return script


def children_serve(world):
    alice, bob = world.client("alice"), world.client("bob")
    alice.echo(b"hello")
    bob.echo(b"hi")
    for each in (alice, bob):
        each.finish()
        each.end()
    carol, last = world.client("carol"), world.client("one who ends it", beside=1)
    carol.echo(b"hello")
    last.send(b"x")
    for each in (last, carol):
        each.end()
    world.refuses()


def the_child_serves(world):
    starts_it = world.client("one who lets the child accept", beside=1)  # the child is there
    alice = world.client("alice")  # the thread has her
    alice.take(10)
    starts_it.send(b"x")
    for name in ("bob", "carol"):
        world.client(name).end()
    starts_it.end()
    alice.send(b"x")
    alice.end()
    world.refuses()


def starts_twice(world):
    alice = world.client("alice")
    alice.echo(b"hello")
    alice.send(b"again")
    alice.end()


def by_datagram_too(world):
    alice = world.client("alice")
    alice.echo(b"hello")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT)
        for data in (b"hi", b"end"):
            sock.sendto(data, ("127.0.0.1", world.port))
            world.note("bob", sock.recv(100))
            alice.echo(b"again")


def chats(world):
    alice = world.client("alice")
    alice.take(len(b"hello client 1\n"))
    bob = world.client("bob")
    bob.take(len(b"hello client 2\n"))
    alice.send(b"good morning\n")
    for each in (alice, bob):
        each.take(len(b"client 1: good morning\n"))
    bob.hang_up()
    alice.take(len(b"client 2 left\n"))
    alice.finish()
    alice.end()


def three(world):
    alice, bob = world.client("alice"), world.client("bob")
    alice.silence()
    for each in (world.client("carol"), bob, alice):
        each.end()


def among_many(world):
    alice = world.client("alice")
    for message in (b"hello", b"end"):
        alice.send(message)
        alice.take(len(message) + len(b" and 500"))


def lets_it_print(count, times=1):
    def script(world):
        alice = world.client("alice")
        for number in [0, 1] + [count] * times:
            alice.echo(b"%d" % number)
        alice.finish()
        alice.end()

    return script


def presses_ctrl_c(world):
    alice = world.client("alice")
    alice.echo(b"hello")
    world.interrupt()
    alice.take(3)
    bob = world.client("bob")
    bob.echo(b"hello")  # it has left its `except`: now it may be interrupted again
    world.interrupt()
    for each in (alice, bob):
        each.take(3)
        each.echo(b"still here")


def ends_it_by_ctrl_c(world):
    alice, bob = world.client("alice"), world.client("bob")
    for each in (alice, bob):
        each.take(5)
    world.interrupt()
    for each in (alice, bob):
        each.end()
    world.refuses()


# -- the table -------------------------------------------------------------------------------------------------------

TABLE = [
    (programs.single, one_by_one),
    (programs.without_reuse, one_by_one),
    (programs.threaded, at_once),
    (programs.thread_module, at_once),
    (programs.pool, at_once),
    (programs.queue_of_clients, at_once),
    (programs.several_accept, at_once),
    (programs.class_based, at_once),
    (programs.own_socket_class, at_once),
    (programs.tcp_server, one_by_one),
    (programs.threading_tcp_server, at_once),
    (programs.mixed_in, at_once),
    (programs.stream_handler, lines),
    (programs.handler_that_raises, divides),
    (programs.handle_request, one_by_one),
    (programs.shut_down_by_its_handler, ends_by_itself),
    (programs.forking_tcp_server, at_once),
    (programs.web, browses),
    (programs.select_loop, at_once),
    (programs.poll_loop, at_once),
    (programs.epoll_loop, at_once),
    (programs.selectors_loop, at_once),
    (programs.busy_loop, at_once),
    (programs.with_timeouts, slowly),
    (programs.gives_up_on_silence, falls_silent),
    (programs.times_out_by_the_system, say_nothing),
    (programs.recv_times_out_by_the_system, say_nothing),
    (programs.asyncio_streams, at_once),
    (programs.asyncio_sockets, at_once),
    (programs.makefile, lines),
    (programs.makefile_outlives_its_socket, lines_one_by_one),
    (programs.recv_into, at_once),
    (programs.recvfrom, datagram_like),
    (programs.peeks, lines_one_by_one),
    (programs.waits_for_all, in_frames),
    (programs.messages, in_messages),
    (programs.send_file, asks(b"0 100000", b"5 10", b"99999 1")),
    (programs.all_kinds_of_bytes, say_nothing),
    (programs.parts, in_frames),
    (programs.tls, over_tls),
    (programs.tls_listener, over_tls),
    (programs.detached, at_once),
    (programs.descriptors_passed, one_by_one),
    (programs.os_read_and_write, at_once),
    (programs.forks, at_once),
    (programs.processes, one_by_one),
    (programs.processes_that_fail, say_nothing),
    (programs.child_that_exits, say_nothing),
    (programs.process_pool, asks_for_capitals),
    (programs.children_accept, children_serve),
    (programs.a_child_accepts_beside_a_thread, the_child_serves),
    (programs.inetd, at_once),
    (programs.proxy, at_once),
    (programs.half_close, asks(b"hello", b"", BIG)),
    (programs.says_it_is_done, asks(b"hello", b"you", b"")),
    (programs.closes_first, say_nothing),
    (programs.resets, is_reset),
    (programs.closes_with_bytes_unread, leaves_bytes_unread),
    (programs.forgets_to_close, say_nothing),
    (programs.keeps_until_the_next, kept),
    (programs.knows_who_is_there, asks_who_is_there),
    (programs.thread_dies, divides),
    (programs.dies, kills_it),
    (programs.exits, ends_it),
    (programs.dies_of_a_reset, vanishes),
    (programs.says_which_error, vanishes_and_others_ask),
    (programs.wrong_calls, asks(b"x", ends=False)),
    (programs.closes_the_listener_elsewhere, asks_for_a_close),
    (programs.shuts_the_listener_down_elsewhere, is_shut_out),
    (programs.closes_a_connection_elsewhere, is_closed_elsewhere),
    (programs.shuts_a_connection_down_elsewhere, say_nothing),
    (programs.threads_of_its_own_kind, starts_twice),
    (programs.hangs_up_on_others, pushes_out),
    (programs.two_listeners, at_two_ports(b"first: ", b"second: ")),
    (programs.two_listeners_in_select, at_two_ports(b"0: ", b"1: ")),
    (programs.udp_beside, by_datagram_too),
    (programs.chat, chats),
    (programs.waits_for_three, three),
    (programs.five_hundred_threads, among_many),
    (programs.thread_per_message, one_by_one),
    (programs.prints_a_lot, lets_it_print(5_000)),
    (programs.ignores_ctrl_c, presses_ctrl_c),
    (programs.says_goodbye, ends_it_by_ctrl_c),
]


@pytest.mark.parametrize(("program", "script"), [pytest.param(*row, id=row[0].__name__) for row in TABLE])
def test_watched_equals_plain(program, script):
    with plain(program) as there:  # it begins while the other one runs
        with watched(program, there.process) as here:
            seen_here = play(script, here)
        seen_there = play(script, there)
    assert short(seen_here) == short(seen_there)
    assert seen_here == seen_there


@pytest.mark.soak
def test_a_million_lines():
    test_watched_equals_plain(programs.prints_a_lot, lets_it_print(25_000, times=40))


@contextlib.contextmanager
def plain(program):
    """The program in a process of its own."""
    port = echo_kit.free_port()
    process = subprocess.Popen(
        [sys.executable, "-I", programs.__file__, program.__name__, str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(said := tempfile.TemporaryFile()),  # noqa: SIM115
        start_new_session=True,  # its children, too, are to be ended
    )
    try:
        world = World(port, lambda: process.send_signal(signal.SIGINT), process.pid)
        yield world
        if late(world.seen):
            said.seek(0)
            pytest.fail(f"the script does not fit the program (exit code {process.poll()}): {world.seen} {said.read()}")
    finally:
        said.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT)


@contextlib.contextmanager
def watched(program, beside):
    """The program in this process; the children that it leaves are ended, and not the process that runs beside it."""
    before = {*children(), beside}
    try:
        with echo_kit.start(program) as server:
            yield World(server.address[1], server.interrupt)
            server.stop(timeout=LIMIT)
    finally:
        for child in children() - before:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def children():
    """The processes that this one has started."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if int(file.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(file.parent.name))
    return found


def play(script, world):
    """What the clients saw."""
    with world.open, contextlib.suppress(TookTooLong):
        script(world)
    return world.seen


def late(seen):
    return [each for each in seen if {"took too long", "nobody listens", "is not refused"} & {*map(str, each)}]


def short(seen):
    """What can be read when it fails."""
    return [tuple(f"{len(part):,} bytes" if len(part) > 200 else part for part in each) for each in seen]
