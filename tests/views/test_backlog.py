"""Who waits in the backlog, held against `ss` and /proc/net/tcp: two witnesses that do not ask as we ask."""

import contextlib
import html
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from echo_kit import Client, NoReply, free_port, serve_single, serve_threaded, start
from echo_kit.views import backlog, kernel
from echo_kit.views.backlog import Backlog
from echo_kit.views.kernel import look
from echo_kit.views.lanes import TICK
from echo_kit.watch import calls, kernel as sock_diag, sockets
from echo_kit.watch.events import Connection

from ..capture import Capture, not_here

LONG = 20  # seconds after which a test gives up; nothing comes near it
NEAR = 2 * TICK  # seconds: to the kernel's tick, at both ends
APART = 0.05  # seconds between two clients whose order the kernel's tick does not blur
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who waits in the backlog")
ESTABLISHED, SYN_SENT, SYN_RECV, CLOSE_WAIT, LISTEN = "01", "02", "03", "08", "0A"
STATES = {ESTABLISHED: "ESTAB", CLOSE_WAIT: "CLOSE-WAIT", SYN_RECV: "SYN-RECV", SYN_SENT: "SYN-SENT", LISTEN: "LISTEN"}


# -- the witnesses -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of /proc/net/tcp or /proc/net/tcp6, with the addresses as the kernel has them."""

    here: tuple
    there: tuple
    state: str
    unread: int
    inode: int


def proc_rows():
    """Every TCP socket. An IPv4 client of an IPv6 socket is called by its IPv4 address."""
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}") as file:
                rows = file.readlines()[1:]
        except FileNotFoundError:  # no IPv6 here
            continue
        for line in rows:
            _, here, there, state, queues, _, _, _, _, inode, *_ = line.split()
            yield Row(from_hex(here), from_hex(there), state, int(queues.split(":")[1], 16), int(inode))


def from_hex(text):
    host, port = text.split(":")
    words = struct.pack("=" + "I" * (len(host) // 8), *(int(host[at : at + 8], 16) for at in range(0, len(host), 8)))
    if len(words) == 16 and words.startswith(bytes(10) + b"\xff\xff"):
        words = words[12:]
    return socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words), int(port, 16)


def in_the_queue(server):
    """Client -> its row, for those that no program has accepted."""
    port = server.address[1]
    return {
        row.there: row
        for row in proc_rows()
        if row.here[1] == port and not row.inode and row.state in (ESTABLISHED, CLOSE_WAIT)
    }


def from_ss(port, *options):
    """(state, here, there, unread, room) of every socket with that port of its own."""
    if shutil.which("ss") is None:
        not_here("there is no ss (Debian: apt-get install iproute2)")
    done = subprocess.run(
        ["ss", "-tanHO", *options, f"sport = :{port}"], capture_output=True, text=True, timeout=LONG, check=True
    )
    for line in done.stdout.splitlines():
        state, unread, room, here, there, *rest = line.split()
        yield state, plain(here), plain(there), int(unread), int(room), " ".join(rest)


def plain(text):
    host, _, port = text.rpartition(":")
    host = host.strip("[]").removeprefix("::ffff:") if "." in host else host.strip("[]")
    return ("::" if host == "*" else host), (int(port) if port != "*" else 0)


def agreed(server, hosts=None):
    """The server's backlog, after it was compared with what the kernel says. `hosts`: where the server listens."""
    told = server.backlog()
    port = server.address[1]
    clients = {each.client: each.unread + each.left for each in told.waiting}  # the end of file counts as a byte
    assert len(clients) == len(told.waiting)
    queue = {there: row for there, row in in_the_queue(server).items() if hosts is None or row.here[0] in hosts}
    assert clients == {there: row.unread for there, row in queue.items()}
    said = list(from_ss(port))
    by_ss = {(state, there): unread for state, here, there, unread, *_ in said if hosts is None or here[0] in hosts}
    assert clients == {there: by_ss[STATES[row.state], there] for there, row in queue.items()}
    assert {each.client for each in told.waiting if each.left} == {
        there for there, row in queue.items() if row.state == CLOSE_WAIT
    }
    listening = [
        (unread, room)
        for state, here, _, unread, room, _ in said
        if state == "LISTEN" and (hosts is None or here[0] in hosts)
    ]
    assert len(told) == sum(unread for unread, _ in listening)
    assert told.limit == sum(room + 1 for _, room in listening)
    assert told.complete
    assert told.listens
    assert told.full is any(unread > room for unread, room in listening)
    names = {lane.address: lane.name for lane in server.timeline().lanes if lane.server is None}
    assert [(each.name, each.client) for each in told.waiting] == [
        (name, address) for address, name in names.items() if address in clients
    ]
    return told


def until(condition):
    """Wait until it is true: of what the kernel does by itself, nothing tells when it is done."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "the kernel did not get there"


def until_unread(server, *counts):
    """Wait until so many bytes lie unread at those that wait, as /proc/net/tcp counts them."""
    until(lambda: sorted(row.unread for row in in_the_queue(server).values()) == sorted(counts))


# -- servers and clients -----------------------------------------------------------------------------------------------


def listening(*backlog, family=socket.AF_INET, address=None, options=()):
    """A server for one client at a time, that calls listen(*backlog)."""

    def serve(host, port):
        with socket.socket(family) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for option in options:
                s.setsockopt(*option)
            s.bind((address or host, port))
            s.listen(*backlog)
            while True:
                with s.accept()[0] as conn, contextlib.suppress(ConnectionResetError):
                    while data := conn.recv(1024):
                        conn.sendall(data)

    return serve


def echoed(client, text):
    client.send(text)
    assert client.receive(timeout=LONG) == text


@contextmanager
def alice_at(serve, **options):
    """A server, and alice, whom it serves: everybody else waits."""
    with start(serve, **options) as server, Client(server, name="alice") as alice:
        echoed(alice, "hello")
        yield server, alice


def some_time(alice, seconds=APART):
    """Let time go by, as somebody does who waits for an answer."""
    with pytest.raises(NoReply):
        alice.receive(timeout=seconds)


@contextmanager
def netcat(server, words=b""):
    """A netcat that waits in the backlog, with `words` typed."""
    if shutil.which("nc") is None:
        not_here("there is no nc (Debian: apt-get install netcat-openbsd)")
    before = set(in_the_queue(server))
    host, port = server.address
    process = subprocess.Popen(["nc", host, str(port)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0)
    try:
        process.stdin.write(words)
        until(lambda: [r.unread for c, r in in_the_queue(server).items() if c not in before] == [len(words)])
        yield process
    finally:
        process.kill()
        process.wait(LONG)
        process.stdin.close()


def reset(sock):
    sockets.reset_on_close(sock)
    sock.close()


def title(server, who, room):
    return f"backlog of {server}: {who} (room for {room + 1:,}: the {room:,} of listen, and Linux adds one)"


def lines(told):
    return str(told).splitlines()[1:]


# -- who waits ---------------------------------------------------------------------------------------------------------


@ON_LINUX
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_at_the_single_server_all_but_the_first_wait(count):
    expected = [
        "  bob       2 bytes unread",
        "  client 3  6 bytes unread",
        "  carol     nothing to read",
        "  client 5  nothing to read",
        "  dave      1 byte unread",
    ][:count]
    if count == 1:
        expected = ["  bob  2 bytes unread"]
    with alice_at(serve_single) as (server, alice), ExitStack() as stack:
        for name, words in [("bob", "hi"), ("", b"hello\n"), ("carol", ""), ("", b""), ("dave", "x")][:count]:
            some_time(alice)
            if name:
                stack.enter_context(Client(server, name=name)).send(words)
            else:
                stack.enter_context(netcat(server, words))
        told = agreed(server)
        who = {0: "nobody waits", 1: "1 client waits"}.get(count, f"{count} clients wait")
        assert str(told).splitlines() == [title("serve_single", who, 1024), *expected]
        assert len(told) == count
        assert repr(told) == str(told)


@ON_LINUX
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_at_the_threaded_server_nobody_waits(count):
    with start(serve_threaded) as server, ExitStack() as stack:
        for number in range(count):
            echoed(stack.enter_context(Client(server)), f"hello {number}")
            stack.enter_context(socket.create_connection(server.address)).sendall(b"hi")
        until(lambda: not in_the_queue(server))
        assert str(agreed(server)) == title("serve_threaded", "nobody waits", 1024)


@ON_LINUX
def test_who_is_accepted_waits_no_longer():
    with alice_at(serve_single) as (server, alice):
        with Client(server, name="bob") as bob, ExitStack() as stack:
            some_time(alice)
            stranger = stack.enter_context(socket.create_connection(server.address))
            bob.send("hi")
            stranger.sendall(b"hey")
            until_unread(server, 2, 3)
            assert lines(agreed(server)) == ["  bob       2 bytes unread", "  client 3  3 bytes unread"]
            assert [each.client for each in agreed(server).waiting] == [bob.sock.getsockname(), stranger.getsockname()]
            alice.close()
            assert bob.receive(timeout=LONG) == "hi"
            assert lines(agreed(server)) == ["  client 3  3 bytes unread"]
            bob.close()
            assert stranger.recv(100) == b"hey"
            assert str(agreed(server)) == title("serve_single", "nobody waits", 1024)


@ON_LINUX
@pytest.mark.parametrize("ours", ["first", "last"])
def test_the_order_in_which_ours_and_others_came(ours):
    with alice_at(serve_single) as (server, alice), ExitStack() as stack:
        kinds = ["ours", "other", "ours", "other"] if ours == "first" else ["other", "ours", "other", "ours"]
        came = []
        for kind in kinds:
            some_time(alice)
            if kind == "ours":
                came.append(stack.enter_context(Client(server)).sock.getsockname())
            else:
                came.append(stack.enter_context(socket.create_connection(server.address)).getsockname())
        told = agreed(server)
        assert [each.client for each in told.waiting] == came
        ages = [each.seconds for each in told.waiting]
        assert ages == sorted(ages, reverse=True)


@ON_LINUX
def test_how_long_each_has_waited_as_ss_says():
    def ages(port):
        return {
            there: int(about.split("lastsnd:")[1].split()[0])
            for state, _, there, _, _, about in from_ss(port, "-i")
            if state == "ESTAB" and "lastsnd:" in about
        }

    with alice_at(serve_single) as (server, alice), socket.create_connection(server.address) as stranger:
        some_time(alice, 0.1)
        before = ages(server.address[1])[stranger.getsockname()]
        (waiting,) = agreed(server).waiting
        assert 100 - 1000 * TICK <= before <= waiting.seconds * 1000 <= ages(server.address[1])[stranger.getsockname()]


# -- what lies unread --------------------------------------------------------------------------------------------------


@ON_LINUX
@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "nothing to read"),
        (1, "1 byte unread"),
        (2, "2 bytes unread"),
        (5000, "5,000 bytes unread"),
        (60_000, "60,000 bytes unread"),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_bytes_unread(size, words, ours):
    with alice_at(serve_single) as (server, _):
        if ours:
            with Client(server, name="bob") as bob:
                bob.send("x" * size)
                until_unread(server, size)
                assert lines(agreed(server)) == [f"  bob  {words}"]
        else:
            with socket.create_connection(server.address) as stranger:
                stranger.sendall(b"x" * size)
                until_unread(server, size)
                assert lines(agreed(server)) == [f"  client 2  {words}"]


@ON_LINUX
def test_more_bytes_than_the_kernel_takes():
    with alice_at(serve_single) as (server, _), Client(server, name="bob") as bob:
        with pytest.raises(NoReply, match="and no more within"):
            bob.send(b"x" * 50_000_000, timeout=0.3)
        (told,) = agreed(server).waiting
        assert 4096 <= told.unread < bob.unanswered  # the rest waits at bob's side
        assert lines(server.backlog()) == [f"  bob  {told.unread:,} bytes unread"]


# -- who does not wait for it ------------------------------------------------------------------------------------------


@ON_LINUX
def test_a_client_that_closed_before_it_was_accepted():
    with alice_at(serve_single) as (server, alice):
        with Client(server, name="bob"):
            pass
        with Client(server, name="carol") as carol:
            carol.send("hi")
        some_time(alice)
        stranger = socket.create_connection(server.address)
        stranger.sendall(b"h")
        stranger.close()
        until_unread(server, 0 + 1, 2 + 1, 1 + 1)
        assert str(agreed(server)).splitlines() == [
            title("serve_single", "3 clients wait", 1024),
            "  bob       nothing to read, has closed its side",
            "  carol     2 bytes unread, has closed its side",
            "  client 4  1 byte unread, has closed its side",
        ]
        alice.close()
        until(lambda: not in_the_queue(server))
        assert lines(agreed(server)) == []


@ON_LINUX
def test_a_client_that_has_said_all_and_waits_for_the_answer():
    with alice_at(serve_single) as (server, alice), socket.create_connection(server.address) as stranger:
        stranger.sendall(b"hi")
        stranger.shutdown(socket.SHUT_WR)
        until_unread(server, 3)
        assert lines(agreed(server)) == ["  client 2  2 bytes unread, has closed its side"]
        alice.close()
        assert stranger.recv(100) == b"hi"  # so it had not left


@ON_LINUX
def test_a_client_that_broke_off_has_a_place_in_the_queue_all_the_same():
    with alice_at(listening(3)) as (server, alice), Client(server, name="bob") as bob:
        bob.send("hi")
        stranger = socket.create_connection(server.address)
        stranger.sendall(b"hey")
        assert len(agreed(server)) == 2
        reset(stranger)
        assert str(agreed(server)).splitlines() == [
            title("serve", "1 client waits, 1 has broken off", 3),
            "  bob    2 bytes unread",
            "  and 1  broken off, and not yet accepted",
        ]
        bob.vanish()
        told = agreed(server)
        assert str(told).splitlines() == [
            title("serve", "nobody waits, 2 have broken off", 3),
            "  2  broken off, and not yet accepted",
        ]
        assert (told.waiting, told.broken_off, len(told)) == ((), 2, 2)
        alice.close()
        until(lambda: all(unread == 0 for state, _, _, unread, *_ in from_ss(server.address[1]) if state == "LISTEN"))
        assert str(agreed(server)) == title("serve", "nobody waits", 3)


@ON_LINUX
def test_who_is_accepted_while_we_look_has_not_broken_off(monkeypatch):
    """The kernel lists the listening socket first, and its clients later: one may be accepted in between."""
    real, looks = kernel.tcp_sockets, []

    def accepted_meanwhile(*args, **named):
        looks.append(real(*args, **named))
        return [each for each in looks[-1] if each.inode] if len(looks) == 1 else looks[-1]

    monkeypatch.setattr(kernel, "tcp_sockets", accepted_meanwhile)
    with alice_at(serve_single) as (server, _), socket.create_connection(server.address):
        assert agreed(server).broken_off == 0
        assert len(looks) >= 2


@pytest.mark.parametrize(
    ("sent", "closed", "row", "seen"),
    [
        (2, False, None, False),
        (2, False, (1, False), False),
        (2, False, (2, False), True),
        (50_000_000, False, (4095, False), False),
        (50_000_000, False, (65_000, False), True),
        (2, True, None, True),  # it broke off
        (2, True, (2, False), False),
        (2, True, (1, True), False),
        (2, True, (2, True), True),
        (50_000_000, True, (65_000, False), True),  # its end of file comes after the bytes that wait at its side
    ],
)
def test_whether_the_kernel_has_seen_what_our_client_did(sent, closed, row, seen):
    address, table = ("127.0.0.1", 4711), kernel.Table()
    if row is not None:
        table.rows[("127.0.0.1", 7), address] = kernel.Row(address, row[0], 0.0, row[1])
    assert backlog._has_all(table, {address: Connection(address, sent=sent, closed=closed)}) is seen


# -- a backlog that is full --------------------------------------------------------------------------------------------


@contextmanager
def trying_to_connect(address, count, family=socket.AF_INET):
    """Sockets that the kernel lets wait for an answer."""
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.socket(family))
            sock.setblocking(False)
            sock.connect_ex(address)
        until(lambda: sum(r.state == SYN_SENT and r.there[1] == address[1] for r in proc_rows()) == count)
        yield


@ON_LINUX
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_listen_n_holds_one_more(asked):
    with alice_at(listening(asked)) as (server, _), ExitStack() as stack:
        for number in range(asked + 1):
            assert not agreed(server).full
            stack.enter_context(Client(server, name=f"c{number}"))
        told = agreed(server)
        who = "1 client waits" if asked == 0 else f"{asked + 1} clients wait"
        full = title("serve", who, asked)[:-1] + "; it is full)"
        rows = [f"  c{number}  nothing to read" for number in range(asked + 1)]
        assert str(told).splitlines() == [full, *rows]
        assert told.full
        with trying_to_connect(server.address, 1):
            note = "  1 more client tries to connect, and the kernel does not answer"
            assert str(agreed(server)).splitlines() == [full, *rows, note]
            with pytest.raises(NoReply, match="its backlog full"):
                Client(server, timeout=0.05)
        with trying_to_connect(server.address, 3):
            note = "  3 more clients try to connect, and the kernel does not answer"
            assert str(agreed(server)).splitlines() == [full, *rows, note]


@ON_LINUX
def test_who_tries_to_connect_elsewhere_is_not_counted(monkeypatch):
    real = kernel.tcp_sockets

    def and_one_more(family, states, port=0, to_port=0, **named):
        found = real(family, states, port, to_port, **named)
        if to_port:
            found += [kernel.TcpSocket(2, (here, 999), (there, to_port), 0, 0, 7, 0.0) for here, there in elsewhere]
        return found

    elsewhere = [("192.0.2.7", "192.0.2.1")]
    with alice_at(listening(0, address="0.0.0.0")) as (server, _), Client(server, name="bob"):
        monkeypatch.setattr(kernel, "tcp_sockets", and_one_more)
        assert (agreed(server).full, agreed(server).unanswered) == (True, 0)
        elsewhere += [("192.0.2.1", "192.0.2.1"), ("127.0.0.1", "127.0.0.9")]  # an address of this machine, and another
        assert agreed(server).unanswered == 2


def somaxconn():
    with open("/proc/sys/net/core/somaxconn") as file:
        return int(file.read())


@ON_LINUX
def test_listen_with_more_than_the_system_allows():
    most, asked = somaxconn(), somaxconn() + 1000
    with alice_at(listening(asked)) as (server, _):
        expected = f"nobody waits (listen asked for {asked:,}, this system has room for {most + 1:,})"
        assert str(agreed(server)) == f"backlog of serve: {expected}"


@ON_LINUX
def test_listen_without_a_number():
    room = min(socket.SOMAXCONN, 128, somaxconn()) + 1
    with alice_at(listening()) as (server, _):
        assert str(agreed(server)) == f"backlog of serve: nobody waits (room for {room})"
        assert server.backlog().asked is None


@ON_LINUX
def test_a_negative_number_is_zero():
    with alice_at(listening(-1)) as (server, _):
        assert str(agreed(server)) == title("serve", "nobody waits", 0)


# -- no server, no clients ---------------------------------------------------------------------------------------------


@ON_LINUX
def test_before_anyone_came_and_after_the_stop():
    with start(serve_single) as server:
        assert str(agreed(server)) == title("serve_single", "nobody waits", 1024)
        with Client(server, name="alice"), Client(server, name="bob"):
            assert len(agreed(server)) == 1
            server.stop()
            told = server.backlog()
            assert str(told) == "backlog of serve_single: it no longer listens, nobody can wait"
            assert (told.waiting, len(told), told.full, told.limit, told.listens) == ((), 0, False, None, False)


def dies_of_the_first(host, port):
    with socket.create_server((host, port), backlog=1) as s:
        with s.accept()[0] as conn:
            conn.recv(1)
            raise ValueError("it was only a test")


@ON_LINUX
def test_a_server_that_died(monkeypatch):
    with start(dies_of_the_first) as server, Client(server, name="alice") as alice, Client(server, name="bob"):
        assert lines(agreed(server)) == ["  bob  nothing to read"]
        alice.send("x")
        until(lambda: not server.running)
        monkeypatch.setattr(backlog, "ARRIVAL", LONG)  # there is nothing to wait for
        began = time.monotonic()
        told = server.backlog()
        assert time.monotonic() - began < LONG / 2
        assert str(told) == "backlog of dies_of_the_first: it no longer listens, nobody can wait"
        assert (told.waiting, len(told), told.full, told.limit, told.listens) == ((), 0, False, None, False)
        monkeypatch.setattr(kernel, "sys", SimpleNamespace(platform="darwin"))
        assert str(server.backlog()) == "backlog of dies_of_the_first: it no longer listens, nobody can wait"


# -- where it listens --------------------------------------------------------------------------------------------------


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


WITH_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
DUAL = {"family": socket.AF_INET6, "options": [(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)]}


def by(server, host):
    """The same server, reached at another of its addresses."""
    return SimpleNamespace(address=(host, server.address[1]), observation=server.observation)


@ON_LINUX
def test_a_server_on_all_addresses():
    with alice_at(listening(5, address="0.0.0.0")) as (server, alice):
        with Client(by(server, "127.0.0.3"), name="bob") as bob:
            bob.send("hi")
            some_time(alice)
            with socket.create_connection(("127.0.0.2", server.address[1])) as stranger:
                stranger.sendall(b"x")
                until_unread(server, 1, 2)
                assert lines(agreed(server)) == ["  bob       2 bytes unread", "  client 3  1 byte unread"]


@ON_LINUX
@WITH_IPV6
def test_a_server_on_ipv6():
    with alice_at(listening(5, family=socket.AF_INET6), host="::1") as (server, alice):
        with Client(server, name="bob") as bob:
            bob.send("hi")
            some_time(alice)
            with netcat(server, b"hello\n"):
                assert lines(agreed(server)) == ["  bob       2 bytes unread", "  client 3  6 bytes unread"]
                assert [each.client[0] for each in agreed(server).waiting] == ["::1", "::1"]


@ON_LINUX
@WITH_IPV6
def test_a_server_for_ipv6_and_ipv4():
    with alice_at(listening(2, **DUAL), host="::") as (server, alice):
        with Client(by(server, "127.0.0.1"), name="bob") as bob, Client(server, name="carol") as carol:
            bob.send("hi")
            carol.send("x")
            some_time(alice)
            with socket.create_connection(("127.0.0.1", server.address[1])) as stranger:
                told = agreed(server)
                assert lines(told) == [
                    "  bob       2 bytes unread",
                    "  carol     1 byte unread",
                    "  client 4  nothing to read",
                ]
                assert [each.client[0] for each in told.waiting] == ["127.0.0.1", "::1", "127.0.0.1"]
                assert told.full
                with trying_to_connect(("127.0.0.1", server.address[1]), 2):
                    assert agreed(server).unanswered == 2
                with trying_to_connect(("::1", server.address[1]), 1, socket.AF_INET6):
                    assert agreed(server).unanswered == 1
                alice.close()
                assert bob.receive(timeout=LONG) == "hi"
                assert bob.connection.client in server.observation.accepted
                bob.close()
                assert carol.receive(timeout=LONG) == "x"
                carol.close()
                stranger.sendall(b"y")
                assert stranger.recv(10) == b"y"
            lanes = server.timeline().lanes
            assert [lane.name for lane in lanes] == ["alice", "bob", "carol", "client 4"]
            assert all(lane.server is not None for lane in lanes)


@ON_LINUX
@WITH_IPV6
def test_a_server_on_the_ipv6_name_of_an_ipv4_address():
    serve = listening(2, address="::ffff:127.0.0.1", **DUAL)
    with start(serve) as server, ExitStack() as stack:
        first = stack.enter_context(Client(by(server, "127.0.0.1"), name="alice"))
        echoed(first, "hello")
        stack.enter_context(Client(by(server, "127.0.0.1"), name="bob")).send("hi")
        assert lines(agreed(server)) == ["  bob  2 bytes unread"]


@ON_LINUX
def test_two_listening_sockets():
    def serve(host, port):
        with (
            socket.create_server((host, port), backlog=0) as one,
            socket.create_server((host, free_port()), backlog=5) as other,
        ):
            ports.append(other.getsockname()[1])
            with one.accept()[0] as conn:
                conn.recv(1)
                with other.accept()[0] as second:
                    conn.sendall(b"now")
                    second.recv(1)
                    conn.recv(1)

    ports = []
    with start(serve) as server, Client(server, name="alice") as alice, ExitStack() as stack:
        until(lambda: ports)
        bob = stack.enter_context(Client(server, name="bob"))
        bob.send("hi")
        second = SimpleNamespace(address=("127.0.0.1", ports[0]), observation=server.observation)
        carol = stack.enter_context(Client(second, name="carol"))
        until_unread(server, 2)
        told = server.backlog()
        assert str(told).splitlines() == [
            "backlog of serve: 2 clients wait (room for 7 at 2 listening sockets; one of them is full)",
            "  bob    2 bytes unread",
            "  carol  nothing to read",
        ]
        counts = [
            (unread, room)
            for port in (server.address[1], *ports)
            for s, _, _, unread, room, _ in from_ss(port)
            if s == "LISTEN"
        ]
        assert counts == [(1, 0), (1, 5)]
        assert (told.asked, told.limit, told.full) == (None, 7, True)
        with trying_to_connect(server.address, 1):
            assert server.backlog().unanswered == 1
        alice.send("x")
        assert alice.receive(size=3, timeout=LONG) == "now"
        assert lines(server.backlog()) == ["  bob  2 bytes unread"]
        alice.close()
        carol.close()


@ON_LINUX
@pytest.mark.parametrize("ours", ["127.0.0.1", "0.0.0.0"])
def test_another_program_that_listens_at_the_same_port(ours):
    shared = [(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)]
    with alice_at(listening(5, address=ours, options=shared)) as (server, _), ExitStack() as stack:
        other = stack.enter_context(socket.socket())
        other.setsockopt(*shared[0])
        other.bind(("127.0.0.2", server.address[1]))
        other.listen(7)
        for _ in range(3):
            stack.enter_context(socket.create_connection(other.getsockname())).sendall(b"hello")
        stack.enter_context(Client(server, name="bob")).send("hi")
        until_unread(server, 2, 5, 5, 5)
        assert str(agreed(server, hosts=[ours, "127.0.0.1"])).splitlines() == [
            title("serve", "1 client waits", 5),
            "  bob  2 bytes unread",
        ]


# -- what the server does meanwhile ------------------------------------------------------------------------------------


@ON_LINUX
def test_a_handler_that_is_stuck_in_sendall():
    def serve(host, port):
        with socket.create_server((host, port), backlog=5) as s:
            while True:
                with s.accept()[0] as conn:
                    conn.sendall(b"x" * 50_000_000)

    with start(serve) as server, Client(server, name="alice"), Client(server, name="bob") as bob:
        until(lambda: len(in_the_queue(server)) == 1)
        bob.send("hi")
        assert str(agreed(server)).splitlines() == [title("serve", "1 client waits", 5), "  bob  2 bytes unread"]


@ON_LINUX
def test_a_handler_that_computes():
    def serve(host, port):
        with socket.create_server((host, port), backlog=5) as s:
            while True:
                with s.accept()[0] as conn:
                    while conn.recv(1):
                        while not over.is_set():
                            sum(range(100))

    over = threading.Event()
    with start(serve) as server, Client(server, name="alice") as alice, Client(server, name="bob") as bob:
        alice.send("!")
        bob.send("hi")
        assert str(agreed(server)).splitlines() == [title("serve", "1 client waits", 5), "  bob  2 bytes unread"]
        over.set()


# -- a client that the kernel has not connected yet --------------------------------------------------------------------


@ON_LINUX
def test_a_client_in_limbo_is_told_and_holds_nobody_up(monkeypatch):
    """With TCP_DEFER_ACCEPT the kernel completes a connection when the first byte comes: until then, only the client
    believes that it is connected.
    """
    monkeypatch.setattr(backlog, "ARRIVAL", 0.2)
    defer = (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, LONG)
    with start(listening(3, options=[defer])) as server, Client(server, name="alice") as alice:
        began = time.monotonic()
        told = Backlog.of(server.observation)
        assert 0.2 <= time.monotonic() - began < LONG / 4
        assert str(told).splitlines() == [
            title("serve", "nobody waits", 3),
            "  1 client is half connected: the kernel has not completed the handshake",
        ]
        assert [state for state, _, there, *_ in from_ss(server.address[1]) if there == alice.connection.client] == [
            "SYN-RECV"
        ]
        echoed(alice, "hello")
        with Client(server, name="bob") as bob, socket.create_connection(server.address):
            bob.send("hi")
            assert str(server.backlog()).splitlines() == [
                title("serve", "1 client waits", 3),
                "  bob  2 bytes unread",
                "  1 more client is half connected: the kernel has not completed the handshake",
            ]


# -- where the kernel does not tell ------------------------------------------------------------------------------------


def other_system(patch):
    patch.setattr(kernel, "sys", SimpleNamespace(platform="darwin"))
    patch.setattr(kernel, "queued", lambda _: None)


def no_such_family(patch):
    patch.setattr(socket, "AF_NETLINK", 9999)


def no_sock_diag(patch):
    patch.setattr(sock_diag, "NETLINK_SOCK_DIAG", 99)


def not_understood(patch):
    patch.setattr(sock_diag, "SOCK_DIAG_BY_FAMILY", 99)  # the kernel answers with an error


def hidden(patch):
    patch.setattr(kernel, "tcp_sockets", lambda *_, **__: [])


NOT_KNOWN = "  (of 1 of them it is not known who: the kernel's list could not be asked for)"
NOT_TOLD = "  (only clients of echo_kit: this system does not tell of others)"


@pytest.mark.parametrize("why", [other_system, no_such_family, no_sock_diag, not_understood, hidden])
def test_where_the_kernel_cannot_be_asked_only_ours_are_known(why, monkeypatch):
    with alice_at(listening(2)) as (server, _), ExitStack() as stack:
        with monkeypatch.context() as patch:
            if sys.platform == "linux":
                why(patch)
            asked = "backlog of serve: nobody waits (listen asked for 2)"
            assert str(server.backlog()).splitlines() == [asked, NOT_TOLD]
            stack.enter_context(Client(server, name="bob")).send("hi")
            stack.enter_context(socket.create_connection(server.address)).sendall(b"hello")
            with Client(server, name="carol"):
                pass
            told = server.backlog()
            nobody_tells = sys.platform != "linux" or why is other_system
            note = NOT_TOLD if nobody_tells else NOT_KNOWN
            assert str(told).splitlines() == [
                f"backlog of serve: {2 if nobody_tells else 3} clients wait (listen asked for 2)",
                "  bob    2 bytes unread",
                "  carol  nothing to read, has closed its side",
                note,
            ]
            assert (told.complete, told.full, told.limit, told.unanswered) == (False, False, None, 0)
            assert html.escape(note.strip()) in told._repr_html_()
            assert look(server.observation) is None
            assert [lane.name for lane in server.timeline().lanes] == ["alice", "bob", "carol"]
        if sys.platform == "linux":
            assert len(agreed(server)) == 3
        server.stop()
        assert NOT_TOLD not in str(server.backlog())


NO_DESCRIPTORS = """
import contextlib, os, resource, socket, time
import echo_kit

def serve(host, port):
    with socket.create_server((host, port)) as door:
        while True:
            with contextlib.suppress(OSError):
                kept.append(door.accept()[0])

kept = []
server = echo_kit.start(serve)
clients = [socket.socket() for _ in range(4)]
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for client in clients:
    client.connect(server.address)
for look in (server.where, server.backlog):
    began = time.monotonic()
    told = str(look())
    print(told, time.monotonic() - began < 0.9, sep="\\n")
"""


@ON_LINUX
def test_who_waits_while_no_file_descriptor_is_left_is_counted():
    """`accept` fails at once, again and again: the queue is as long as before."""
    ended = subprocess.run([sys.executable, "-c", NO_DESCRIPTORS], capture_output=True, text=True, timeout=LONG)
    assert ended.stdout.splitlines()[-4:] == [
        "True",
        "backlog of serve: 4 clients wait",
        "  (of 4 of them it is not known who: the kernel's list could not be asked for)",
        "True",
    ], ended.stderr
    assert "◀ server thread: runs: accept raises OSError again and again" in ended.stdout


def test_where_accept_says_that_a_client_has_broken_off_it_waits_no_longer(monkeypatch):
    """macOS (ECONNABORTED) and Windows (WSAECONNRESET) do; Linux returns the connection."""
    other_system(monkeypatch)
    real = calls.plain_accept

    def accept(sock):
        conn, address = real(sock)
        if conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            conn.close()
            raise ConnectionAbortedError
        return conn, address

    monkeypatch.setattr(calls, "plain_accept", accept)

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                with contextlib.suppress(ConnectionAbortedError), s.accept()[0] as conn:
                    while data := conn.recv(1024):
                        conn.sendall(data)

    with alice_at(serve) as (server, alice):
        Client(server, name="dave").vanish()
        assert [each.name for each in server.backlog().waiting] == ["dave"]
        alice.close()
        assert str(server.backlog()).splitlines() == ["backlog of serve: nobody waits", NOT_TOLD]


@ON_LINUX
def test_a_kernel_without_tcp_diag_ends_its_empty_list_with_an_error(monkeypatch):
    monkeypatch.setattr(socket, "IPPROTO_TCP", 254)  # nobody lists the sockets of such a protocol
    with pytest.raises((ValueError, OSError)):
        kernel.tcp_sockets(socket.AF_INET, kernel.STATES, port=1)


# -- answers that are broken -------------------------------------------------------------------------------------------


def netlink(kind, payload, length=None):
    return struct.pack("=IHHII", 16 + len(payload) if length is None else length, kind, 2, 1, 0) + payload


def entry(state=1, family=socket.AF_INET, unread=0, room=0, inode=0, port=7, info=bytes(64)):
    """A struct inet_diag_msg, and the attribute with the struct tcp_info."""
    return (
        struct.pack("=BBBB", family, state, 0, 0)
        + struct.pack("!HH", port, 4711)
        + socket.inet_aton("127.0.0.1").ljust(16, b"\0") * 2
        + bytes(16)  # interface, cookie, expires
        + struct.pack("=4I", unread, room, 0, inode)
        + struct.pack("=HH", 4 + len(info), 2)
        + info
    )


DONE = netlink(3, bytes(4))
BROKEN = {
    "empty": [b""],
    "half a header": [b"\x10\0\0\0\x14\0"],
    "no payload": [netlink(20, b""), DONE],
    "half a socket": [netlink(20, entry()[:40]), DONE],
    "a socket without its last number": [netlink(20, entry()[:68]), DONE],
    "cut off": [netlink(20, entry(), length=2000), DONE],
    "longer than all": [netlink(20, entry(), length=0xFFFFFFFF), DONE],
    "length 0": [netlink(20, entry(), length=0), DONE],
    "length 15": [netlink(20, entry(), length=15), DONE],
    "error": [netlink(2, struct.pack("=i", -1) + bytes(16))],
    "error in the middle": [netlink(20, entry()) + netlink(2, bytes(4))],
    "ends with an error": [netlink(20, entry()), netlink(3, struct.pack("=i", -2))],
    "a family that nobody knows": [netlink(20, entry(family=77)), DONE],
    "no end": [netlink(20, entry())] * 3,
    "silence": [],
}
OF_OTHERS = {"other sockets only": [netlink(20, entry(port=1, inode=5, state=10)), DONE], "nothing": [DONE]}


@contextmanager
def answering(patch, answers):
    """A kernel that gives these answers to every question."""

    def fake(*_):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for answer in answers:
            theirs.send(answer)
        kept.append(theirs)
        return ours

    kept = []
    with patch.context() as context:
        context.setattr(sock_diag, "socket", SimpleNamespace(**{**vars(socket), "socket": fake}))
        context.setattr(sock_diag, "REPLY_TIME", 0.1)
        try:
            yield kept
        finally:
            for each in kept:
                each.close()


@ON_LINUX
@pytest.mark.parametrize("answers", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_an_error(answers, monkeypatch):
    with answering(monkeypatch, answers), pytest.raises((ValueError, struct.error, OSError)):
        kernel.tcp_sockets(socket.AF_INET, kernel.STATES, port=7)


@ON_LINUX
@pytest.mark.parametrize("answers", [*BROKEN.values(), *OF_OTHERS.values()], ids=[*BROKEN, *OF_OTHERS])
def test_a_broken_answer_is_none(answers, monkeypatch):
    with alice_at(listening(2)) as (server, _), Client(server, name="bob") as bob:
        bob.send("hi")
        with answering(monkeypatch, answers) as asked:
            began = time.monotonic()
            told = server.backlog()
            assert time.monotonic() - began < LONG / 4
            assert asked
            expected = ["backlog of serve: 1 client waits (listen asked for 2)", "  bob  2 bytes unread", NOT_TOLD]
            assert str(told).splitlines() == expected
            assert [lane.name for lane in server.timeline().lanes] == ["alice", "bob"]
        assert len(agreed(server)) == 1


@ON_LINUX
def test_an_answer_without_end_is_given_up(monkeypatch):
    def talk():
        last = time.monotonic() + LONG / 4
        while not over.is_set() and time.monotonic() < last:
            for each in list(asked):
                with contextlib.suppress(OSError):  # its buffer is full, or nobody listens any more
                    each.send(netlink(20, entry()), socket.MSG_DONTWAIT)

    over = threading.Event()
    with answering(monkeypatch, []) as asked:
        thread = threading.Thread(target=talk)
        thread.start()
        try:
            began = time.monotonic()
            with pytest.raises((ValueError, TimeoutError)):  # whether or not there was one more to be read
                kernel.tcp_sockets(socket.AF_INET, kernel.STATES, port=7)
            assert time.monotonic() - began < LONG / 5
        finally:
            over.set()
            thread.join()


@ON_LINUX
def test_an_answer_that_is_right_in_several_parts(monkeypatch):
    odd = entry(unread=3, inode=9) + b"\x05\0\x63\0x"  # an attribute that nobody knows, of 5 bytes: 3 more fill up
    parts = [netlink(20, entry(unread=1)) + netlink(20, odd) + bytes(3), netlink(20, entry(unread=2)) + DONE]
    with answering(monkeypatch, parts):
        found = kernel.tcp_sockets(socket.AF_INET, kernel.STATES, to_port=7)
    assert [(each.unread, each.inode, each.here, each.there) for each in found] == [
        (unread, inode, ("127.0.0.1", 7), ("127.0.0.1", 4711)) for unread, inode in ((1, 0), (3, 9), (2, 0))
    ]


@ON_LINUX
@pytest.mark.parametrize("state", [kernel.ESTABLISHED, kernel.CLOSE_WAIT])
def test_those_that_were_accepted_are_left_out(state, monkeypatch):
    """They have an owner, as the listening socket has."""
    entries = [entry(state), entry(state, inode=9), entry(kernel.LISTEN, inode=8)]
    with answering(monkeypatch, [b"".join(netlink(20, each) for each in entries) + DONE]):
        found = kernel.tcp_sockets(socket.AF_INET, kernel.STATES, port=7, accepted=False)
    assert [(each.state, each.inode) for each in found] == [(state, 0), (kernel.LISTEN, 8)]


def test_the_seconds_are_those_of_the_right_attribute():
    """Each begins with its length and its kind. Older kernels know less of a connection: the attribute is shorter."""
    times = [struct.pack("=HH44xI", 52, kind, 1000 * kind) for kind in (3, 2, 9)]  # 2 is the struct tcp_info
    entries = {b"".join(times): 2.0, times[0] + times[2]: 0.0, struct.pack("=HH44x", 48, 2): 0.0}
    waits = bytearray(entry())[:72]
    waits[52:56] = struct.pack("=I", 59_500)
    for attributes, seconds in entries.items():
        assert sock_diag.parsed(waits + attributes)[-2:] == (seconds, 59.5)


def test_whatever_comes_is_a_socket_or_an_error():
    dice = random.Random(1)
    whole = entry(unread=5, info=struct.pack("=44xI16x", 1500))
    assert sock_diag.parsed(whole).seconds == 1.5
    broken = [whole[:size] for size in range(len(whole))] + [dice.randbytes(dice.randrange(200)) for _ in range(2000)]
    broken += [bytes([2, 1]) + dice.randbytes(dice.randrange(70, 300)) for _ in range(2000)]
    for message in broken:
        try:
            seen = sock_diag.parsed(message)
        except (ValueError, struct.error, OSError):
            continue
        assert len(message) >= 72
        assert seen.seconds >= 0
    with pytest.raises(ValueError, match="less of a socket"):
        sock_diag.parsed(whole[:71])


# -- the text and the picture ------------------------------------------------------------------------------------------


def test_names_do_not_break_the_view():
    def serve(host, port):
        listening(5)(host, port)

    names = ["<b>bob</b>", "a\x1b[2J\nb", "x" * 100, "&amp;", "\u202egnp.exe"]
    with alice_at(serve, name="<i>s\x1b[2Jerver</i>") as (server, _), ExitStack() as stack:
        for name in names:
            stack.enter_context(Client(server, name=name))
        told = server.backlog()
    shown = ["<b>bob</b>", "a\\x1b[2J\\nb", "x" * 24, "&amp;", "\\u202egnp.exe"]
    assert [each.name for each in told.waiting] == shown
    assert str(told).splitlines()[1:6] == [f"  {name:<24}  nothing to read" for name in shown]
    assert told.title.startswith("backlog of <i>s\\x1b[2Jerver</i>: 5 clients wait")
    html = told._repr_html_()
    assert "\x1b" not in html + str(told)
    assert "<b>&lt;b&gt;bob&lt;/b&gt;</b><br>nothing to read" in html
    assert "&amp;amp;" in html
    assert "&lt;i&gt;s" in html
    assert "<i>" not in html


@ON_LINUX
def test_of_many_the_first_are_shown_and_the_rest_is_counted():
    with alice_at(listening(100)) as (server, _), ExitStack() as stack:
        clients = [stack.enter_context(Client(server, name=f"c{number}")) for number in range(22)]
        rows = [f"  c{number:<9}  nothing to read" for number in range(19)]
        assert lines(agreed(server)) == [*rows, "  and 3 more  nothing to read"]
        clients[20].send("x")
        assert lines(agreed(server)) == [*rows, "  and 3 more  1 byte unread"]
        clients[21].send("y" * 1000)
        assert lines(agreed(server)) == [*rows, "  and 3 more  1,001 bytes unread"]
        clients[19].close()
        clients[21].vanish()
        clients[0].vanish()
        rows = [f"  c{number:<4}  nothing to read" for number in range(1, 19)]
        left = ["  c19    nothing to read, has closed its side", "  c20    1 byte unread"]
        assert lines(agreed(server)) == [*rows, *left, "  and 2  broken off, and not yet accepted"]


@ON_LINUX
def test_the_picture_shows_the_same_as_the_text():
    with alice_at(listening(0)) as (server, _):
        assert server.backlog()._repr_html_().endswith("accept ◀</span> (empty)</div>")
        with Client(server, name="bob") as bob, trying_to_connect(server.address, 1):
            bob.send("hi")
            told = server.backlog()
            html = told._repr_html_()
            assert "<b>bob</b><br>2 bytes unread</span>" in html
            assert html.endswith("<div>1 more client tries to connect, and the kernel does not answer</div>")
            assert told.title in html
    html = server.backlog()._repr_html_()
    assert "it no longer listens" in html
    assert "accept" not in html


@pytest.mark.soak
@ON_LINUX
def test_the_words_are_the_same_in_20_runs_on_a_busy_machine(busy):
    with busy():
        for _ in range(20):
            with alice_at(listening(3)) as (server, alice), Client(server, name="bob") as bob:
                bob.send("hi")
                with Client(server, name="carol") as carol:
                    carol.send("x")
                with Client(server, name="dave") as dave:
                    assert str(server.backlog()).splitlines() == [
                        title("serve", "3 clients wait", 3),
                        "  bob    2 bytes unread",
                        "  carol  1 byte unread, has closed its side",
                        "  dave   nothing to read",
                    ]
                    dave.vanish()
                    assert lines(server.backlog()) == [
                        "  bob    2 bytes unread",
                        "  carol  1 byte unread, has closed its side",
                        "  and 1  broken off, and not yet accepted",
                    ]
                alice.close()
                assert bob.receive(timeout=LONG) == "hi"


# -- for the timeline --------------------------------------------------------------------------------------------------


def waited_for_alice(server):
    """The lane of a stranger who waits for alice for 0.3 s, and between which times of our clock it connected."""
    with Client(server, name="alice") as alice:
        echoed(alice, "hello")
        began = server.observation.log.clock()
        with socket.create_connection(server.address) as stranger:
            connected = server.observation.log.clock()
            some_time(alice, 0.3)
            leaves = server.observation.log.clock()
            alice.close()
            stranger.sendall(b"hi")
            assert stranger.recv(10) == b"hi"
            answered = server.observation.log.clock()
            _, lane = server.timeline().lanes
    assert lane.name == "client 2"
    assert began - NEAR <= lane.connected <= connected + NEAR
    assert leaves - connected - NEAR <= lane.accepted - lane.connected <= answered - began + NEAR
    return lane


@ON_LINUX
def test_since_when_an_accepted_client_had_waited():
    with start(listening(5)) as server:
        waited_for_alice(server)
        assert not server.observation.sighted  # nobody looked into the backlog meanwhile


@ON_LINUX
def test_since_when_an_accepted_client_had_waited_as_tcpdump_saw_it():
    with start(listening(5)) as server, Capture(server.address[1]) as capture:
        lane = waited_for_alice(server)
    first_ack = next(each for each in capture.packets if (each.source, each.flags) == (lane.address[1], "A"))
    assert abs(capture.epoch(lane.connected) - first_ack.time) <= NEAR


@ON_LINUX
def test_since_when_a_client_waits_that_is_not_accepted_yet():
    with alice_at(listening(5)) as (server, alice):
        clock = server.observation.log.clock
        began = clock()
        with socket.create_connection(server.address):
            connected = clock()
            some_time(alice, 0.3)
            _, lane = server.timeline().lanes
            assert began - NEAR <= lane.connected <= connected + NEAR
            some_time(alice)
            assert server.timeline().lanes[1].connected == lane.connected  # it does not move


@ON_LINUX
def test_two_strangers_do_not_change_their_names_while_they_wait():
    """On a busy machine the kernel may answer late, and then its clients seem to have waited longer than they have."""
    with alice_at(listening(5)) as (server, _):
        with socket.create_connection(server.address) as first, socket.create_connection(server.address) as second:
            sighted = server.observation.sighted
            assert len(server.backlog()) == 2
            sighted[first.getsockname()] = sighted[second.getsockname()] - 1.0  # that look was late by a second
            before = dict(sighted)
            for view in (server.timeline, server.backlog, server.snapshot):
                assert view()
                assert sighted == before


@ON_LINUX
def test_a_client_that_comes_again_from_the_same_port():
    """As `nc -p 5000` does."""

    def from_port(port):
        sock = stack.enter_context(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.connect(server.address)
        return sock

    with ExitStack() as stack, alice_at(listening(5)) as (server, alice):
        first = from_port(0)
        address = first.getsockname()
        some_time(alice)
        assert lines(agreed(server)) == ["  client 2  nothing to read"]
        alice.close()
        first.sendall(b"hi")
        assert first.recv(10) == b"hi"
        assert [lane.name for lane in server.timeline().lanes] == ["alice", "client 2"]
        reset(first)
        with Client(server, name="bob") as bob:
            echoed(bob, "hello")
            second = from_port(address[1])
            second.sendall(b"x")
            until_unread(server, 1)
            some_time(bob)
            (waiting,) = agreed(server).waiting
            assert (waiting.name, waiting.client) == ("client 4", address)
            bob.close()
            assert second.recv(10) == b"x"
            assert str(agreed(server)) == title("serve", "nobody waits", 5)
            assert [lane.name for lane in server.timeline().lanes] == ["alice", "client 2", "bob", "client 4"]


@pytest.mark.parametrize(("waited", "seen"), [(None, False), (0.0, False), (0.004, False), (TICK, False), (0.3, True)])
def test_who_did_not_wait_longer_than_a_tick_has_no_time_in_the_backlog(waited, seen, monkeypatch):
    monkeypatch.setattr(calls, "waited", lambda _: waited)
    with start(serve_threaded) as server, socket.create_connection(server.address) as stranger:
        stranger.sendall(b"hi")
        assert stranger.recv(10) == b"hi"
        (lane,) = server.timeline().lanes
        (row,) = server.timeline().table()
        assert (lane.connected is not None) is seen
        assert row["seconds waited"] == (pytest.approx(waited - TICK) if seen else None)


# -- what it costs -----------------------------------------------------------------------------------------------------


@ON_LINUX
def test_the_kernel_is_asked_for_one_port_only(monkeypatch):
    real, seen = kernel.tcp_sockets, []

    def spy(*args, **named):
        seen.append(real(*args, **named))
        return seen[-1]

    monkeypatch.setattr(kernel, "tcp_sockets", spy)
    with alice_at(serve_single) as (server, _), ExitStack() as stack:
        other = stack.enter_context(socket.create_server(("127.0.0.1", free_port())))
        for _ in range(20):
            stack.enter_context(socket.create_connection(other.getsockname()))
            stack.enter_context(other.accept()[0])
        clients = [stack.enter_context(socket.create_connection(server.address)) for _ in range(30)]
        assert len(agreed(server)) == 30
        assert all(len(each) <= len(clients) + 2 for each in seen)  # and the listening socket, and alice's
        assert {entry.here for entry in seen[-1]} == {server.address}


@ON_LINUX
def test_no_descriptor_is_left_open(monkeypatch):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    with alice_at(serve_single) as (server, _), Client(server, name="bob"):
        before = descriptors()
        for _ in range(100):
            assert look(server.observation) is not None
        monkeypatch.setattr(sock_diag, "SOCK_DIAG_BY_FAMILY", 99)
        for _ in range(100):
            assert look(server.observation) is None
        assert descriptors() == before


@ON_LINUX
def test_psutil_sees_the_same():
    psutil = pytest.importorskip("psutil", reason="psutil is one more witness, where it is installed")
    with alice_at(serve_single) as (server, _), Client(server), socket.create_connection(server.address) as stranger:
        stranger.shutdown(socket.SHUT_WR)
        until_unread(server, 0, 1)
        seen = {
            tuple(each.raddr): each.status == psutil.CONN_CLOSE_WAIT
            for each in psutil.net_connections("tcp")
            if each.laddr == server.address and each.pid is None and each.raddr
        }
        assert {each.client: each.left for each in agreed(server).waiting} == seen
