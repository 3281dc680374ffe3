"""Each word that a view says, held against what the kernel says of the same thread and the same connection.

The kernel is asked by /proc in which system call a thread is and on which descriptor, and how long it was on a
processor; by ss for its table of TCP sockets. An outside witness, py-spy, names the lines at which all threads stand.
"""

import contextlib
import ctypes
import json
import os
import platform
import random
import re
import selectors
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from echo_kit import Client, serve_single, serve_threaded, start
from echo_kit.views.backlog import Backlog
from echo_kit.views.code import STANDS
from echo_kit.views.looks import code_view
from echo_kit.views.source import where
from echo_kit.views.timeline import Timeline
from echo_kit.watch.stopping import show_out

from ..capture import not_here
from ..watch.plain_servers import PEM, single

LONG = 20  # seconds after which a test gives up
MACHINES = {"x86_64": 0, "aarch64": 1}
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in MACHINES,
    reason="the witness is Linux's /proc, whose system calls have numbers that we know of two kinds of machines",
)


# -- the witness -----------------------------------------------------------------------------------------------------

NUMBERS = {  # of the system calls in which a thread of a server may wait, on x86_64 and on aarch64; None: it has none
    "read": (0, 63),
    "accept": (43, 202),
    "accept4": (288, 242),
    "recv": (45, 207),
    "send": (44, 206),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect": (270, 72),
    "epoll": (232, 22),
    "futex": (202, 98),
    "sleep": (230, 115),
    "some call again": (219, 128),  # after the system had woken it
}
ESTABLISHED, SYN_SENT, FIN_WAIT2, CLOSE_WAIT = "ESTAB", "SYN-SENT", "FIN-WAIT-2", "CLOSE-WAIT"  # as ss calls them
ZERO_WINDOW = "persist"  # the timer by which the kernel asks the peer again whether it has room


class InCall(NamedTuple):
    """In which system call a thread is, and on which descriptor; "runs" where it is in none."""

    name: str
    descriptor: int


def in_call(task):
    number, *arguments = Path(f"/proc/self/task/{task.thread.native_id}/syscall").read_text().split()
    if number in ("running", "-1"):
        return InCall("runs", -1)
    names = {each[MACHINES[platform.machine()]]: name for name, each in NUMBERS.items()}
    return InCall(names.get(int(number), number), int(arguments[0], 16))


class Row(NamedTuple):
    """A socket in the kernel's table. Of a listening one, `unread` counts clients that wait, `unsent` is the most."""

    state: str
    unread: int
    unsent: int
    timer: str
    inode: int  # 0 where no program has it


def kernel(port):
    """The kernel's table of TCP sockets, those from and to this port, by their own port and their peer's."""
    if shutil.which("ss") is None:
        not_here("there is no ss (Debian: apt-get install iproute2)")
    command = ["ss", "-tanHoe", f"sport = :{port} or dport = :{port}"]
    table = {}
    for line in subprocess.check_output(command, text=True, timeout=LONG).splitlines():
        state, unread, unsent, here, there, *more = line.split()
        ports = tuple(int(each.rpartition(":")[2].replace("*", "0")) for each in (here, there))
        timer, inode = (re.search(pattern, " ".join(more)) for pattern in (r"timer:\((\w+)", r"ino:(\d+)"))
        table[ports] = Row(state, int(unread), int(unsent), timer[1] if timer else "", int(inode[1]))
    return table


def ends(server, client):
    """The server's end of a connection and the client's, as the kernel has them; None where it has none."""
    here, there = server.address[1], client.connection.client[1]
    table = kernel(here)
    return table.get((here, there)), table.get((there, here))


def door(server):
    return kernel(server.address[1])[server.address[1], 0]


def is_at(descriptor, row):
    """Whether it is this process's descriptor of that socket."""
    return os.readlink(f"/proc/self/fd/{descriptor}") == f"socket:[{row.inode}]"


def task(server, label):
    return next(each for each in server.observation.alive() if each.label == label)


def said(server):
    """What the code view says of each thread."""
    return {mark.thread or mark.kind: mark.words for _, mark in server.where().marks if mark.kind != "inside"}


def switches(task):
    """How often a thread was switched: while it waits, never."""
    return task.status().partition(b"voluntary_ctxt_switches")[2]


def until(true):
    """Wait until it is true: the kernel's table follows a call by some microseconds."""
    deadline = time.monotonic() + LONG
    while not (found := true()):
        assert time.monotonic() < deadline, "the kernel never said so"
        time.sleep(0.001)
    return found


def serving(talk):
    """A server that calls talk(conn) for each client, in a thread of its own, and lets talk close it."""

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            while True:
                conn, _ = listener.accept()
                threading.Thread(target=talk, args=(conn,)).start()

    return serve


# -- where a thread stands -------------------------------------------------------------------------------------------


def test_waits_in_accept():
    with start(serve_threaded) as server:
        assert said(server) == {"server thread": "waits in accept for a new client"}
        assert in_call(task(server, "server thread")).name in ("accept", "accept4", "poll", "ppoll")
        assert door(server).unread == 0


def by_recv(conn):
    conn.recv(1024)


def by_recv_into(conn):
    conn.recv_into(bytearray(10))


def by_peek(conn):
    conn.recv(10, socket.MSG_PEEK)


def by_readline(conn):
    with conn.makefile("r") as file:
        file.readline()


def with_timeout(conn):
    conn.settimeout(LONG)
    conn.recv(1024)


@pytest.mark.parametrize("read", [by_recv, by_recv_into, by_peek, by_readline, with_timeout])
def test_waits_in_recv(read):
    def talk(conn):
        with conn:
            read(conn)

    with start(serving(talk)) as server, Client(server, "alice") as alice, Client(server, "bob") as bob:
        words = said(server)
        for client, label in ((alice, "thread 1"), (bob, "thread 2")):
            assert words[label] == f"waits in recv for {client.name}"
            call, (row, _) = in_call(task(server, label)), ends(server, client)
            assert row[:3] == (ESTABLISHED, 0, 0)  # nothing has come
            if read is with_timeout:
                assert call.name in ("poll", "ppoll")  # Python waits in it for what has a timeout
            else:
                assert call.name == "recv"
                assert is_at(call.descriptor, row)


def flood(conn):
    with conn:
        conn.sendall(bytes(50_000_000))


def flood_by_send(conn):
    with conn:
        while conn.send(bytes(1_000_000)):
            pass


@pytest.mark.parametrize(("talk", "call"), [(flood, "sendall"), (flood_by_send, "send")])
def test_waits_in_sendall(talk, call):
    with start(serving(talk)) as server, Client(server, "alice") as alice:
        until(lambda: ends(server, alice)[0].timer == ZERO_WINDOW)
        assert said(server)["thread 1"] == f"waits in {call}: alice does not read"
        kernels, (row, hers) = in_call(task(server, "thread 1")), ends(server, alice)
        assert kernels.name == "send"
        assert is_at(kernels.descriptor, row)
        assert row.unsent > 0
        assert hers.unread > 0
        assert "is in sendall to alice" in str(server.timeline().by_thread())
        alice.vanish()


def computes(over):
    while not over.is_set():
        sum(range(1000))


def spins(over, conn):
    while not over.is_set():
        conn.recv(1024)


def processor_time(task):
    return sum(
        map(int, Path(f"/proc/self/task/{task.thread.native_id}/stat").read_text().rpartition(")")[2].split()[11:13])
    )


def runs(spin):
    """What is said in some looks at a thread that is on a processor all the time."""
    over = threading.Event()

    def talk(conn):
        with conn:
            spin(over, conn)

    with start(serving(talk)) as server, Client(server, "alice") as alice:
        until(lambda: len(server.observation.alive()) == 2)
        names = server.client_names()
        alice.close()  # she has said all
        busy = until(lambda: [each for each in server.observation.alive() if each.label == "thread 1"])[0]
        words = []
        try:
            for _ in range(8):
                before = processor_time(busy)
                until(lambda before=before: processor_time(busy) > before)
                view = code_view(server.observation, names)
                words += [mark.words for _, mark in view.marks if mark.thread == "thread 1" and mark.kind == STANDS]
        finally:
            over.set()
        return words


def test_runs():
    assert {words.partition(",")[0] for words in runs(lambda over, _: computes(over))} == {"runs"}


def without_blocking(over, conn):
    conn.setblocking(False)
    conn.send(b"x")  # alice has closed: from now on there is nothing, or an error
    while not over.is_set():
        with contextlib.suppress(OSError):
            conn.recv(1024)


@pytest.mark.parametrize("spin", [spins, without_blocking])
def test_what_never_waits_is_not_said_to_wait(spin):
    assert [words for words in runs(spin) if not words.startswith("runs")] == []


def test_waits_in_join():
    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            while True:
                conn, _ = listener.accept()
                worker = threading.Thread(target=by_recv, args=(conn,))
                worker.start()
                worker.join()
                conn.close()

    with start(serve) as server, Client(server, "alice"):
        assert said(server)["server thread"] == "waits in join for thread 1"
        assert in_call(task(server, "server thread")).name == "futex"
        assert task(server, "thread 1").thread.native_id in map(int, os.listdir("/proc/self/task"))


def test_waits_in_select():
    selector, clients = selectors.EpollSelector(), []

    def serve(host, port):
        with selector, socket.create_server((host, port)) as listener:
            selector.register(listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is listener:
                        clients.append(listener.accept()[0])
                        selector.register(clients[-1], selectors.EVENT_READ)
                    else:
                        selector.unregister(key.fileobj)  # it has said enough, and stays connected

    with start(serve) as server, Client(server, "alice") as alice, Client(server, "bob") as bob:
        assert said(server)["server thread"] == "waits in select for a new client, alice or bob"
        call = in_call(task(server, "server thread"))
        assert call == ("epoll", selector.fileno())
        assert sorted(waited_for(call.descriptor)) == sorted(
            [door(server).inode, ends(server, alice)[0].inode, ends(server, bob)[0].inode]
        )
        alice.send("enough")
        until(lambda: len(waited_for(call.descriptor)) == 2)
        assert said(server)["server thread"] == "waits in select for a new client or bob"
        server.stop()
    for conn in clients:
        conn.close()


def waited_for(descriptor):
    """The sockets that an epoll descriptor waits for, by their inodes."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    numbers = [int(line.split()[1]) for line in lines if line.startswith("tfd:")]
    return [os.stat(f"/proc/self/fd/{number}").st_ino for number in numbers]


def test_waits_in_other_calls():
    """Three threads that wait in no socket call: for a lock, for an event, in a sleep; and a worker of a pool."""
    over, lock = threading.Event(), threading.Lock()

    def for_lock(conn):
        with lock:
            conn.close()

    def for_event(conn):
        over.wait()
        conn.close()

    def in_sleep(conn):
        while not over.is_set():
            time.sleep(0.25)
        conn.close()

    def serve(host, port):
        with ThreadPoolExecutor(1) as pool, socket.create_server((host, port)) as listener:
            pool.submit(int).result()
            for talk in (for_lock, for_event, in_sleep):
                threading.Thread(target=talk, args=listener.accept()[:1], name=talk.__name__).start()
            listener.accept()

    with lock, start(serve) as server, Client(server), Client(server), Client(server):
        until(lambda: len(server.observation.alive()) == 5)
        words = said(server)
        words = {label: each.partition(",")[0] for label, each in words.items()}
        calls = {each.label: in_call(each).name for each in server.observation.alive()}
        over.set()
        lock.release()
        until(lambda: len(server.observation.alive()) == 2)
        lock.acquire()
    assert words["for_lock"] == "waits at with lock"
    assert words["for_event"] == "waits in over.wait()"
    assert words["in_sleep"] == "waits in time.sleep(0.25)"
    assert words["thread 1"] == "has nothing to do (an idle worker of the pool)"
    assert calls == {
        **{"server thread": calls["server thread"], "thread 1": "futex", "for_lock": "futex", "for_event": "futex"},
        "in_sleep": "sleep",
    }


def test_paused():
    with start(serve_threaded) as server, Client(server, "alice") as alice:
        server.pause()
        alice.send("hello")
        until(lambda: said(server)["thread 1"] == "paused before sendall to alice")
        assert in_call(task(server, "thread 1")).name == "futex"
        assert ends(server, alice)[1].unread == 0  # it has not sent
        server.step("thread 1")
        until(lambda: said(server)["thread 1"] == "paused before recv for alice")
        assert in_call(task(server, "thread 1")).name == "futex"
        assert ends(server, alice)[1].unread == 5
        alice.send("more")
        assert until(lambda: ends(server, alice)[0].unread) == 4  # it is not in recv
        server.resume()


def test_nobody_is_here():
    with start(single) as server, Client(server, "alice") as alice, Client(server, "bob"):
        assert said(server) == {"server thread": "waits in recv for alice", "nobody": "nobody is here"}
        assert door(server).unread == 1  # bob, whom nobody accepts
        row, _ = ends(server, alice)
        assert [is_at(in_call(each).descriptor, row) for each in server.observation.alive()] == [True]


def test_ended_here():
    def talk(conn):
        with conn:
            raise ValueError(threading.get_native_id())

    with start(serving(talk)) as server, Client(server, "alice"):
        until(lambda: server.error)
        assert said(server)["thread 1"] == "ended here, ValueError"
        until(lambda: str(server.error) not in os.listdir("/proc/self/task"))


# -- who waits in the backlog ----------------------------------------------------------------------------------------


def test_the_backlog():
    with start(serve_single) as server, Client(server, "alice"):
        bob, carol, dora = (Client(server, name) for name in ("bob", "carol", "dora"))
        bob.send("12345")
        carol.close()
        dora.vanish()
        text = str(server.backlog()).splitlines()[1:]
        assert text == [
            "  bob    5 bytes unread",
            "  carol  nothing to read, has closed its side",
            "  and 1  broken off, and not yet accepted",
        ]
        assert ends(server, bob)[0] == (ESTABLISHED, 5, 0, "", 0)  # no program has it: no inode
        assert ends(server, carol)[0] == (CLOSE_WAIT, 1, 0, "", 0)  # the end of file counts as a byte
        assert ends(server, dora) == (None, None)
        assert door(server).unread == 3
        story = str(server.timeline())
        assert 'bob    connected · waits in the backlog behind alice · "12345" unread' in story
        bob.close()


def test_a_full_backlog():
    over = threading.Event()

    def serve(host, port):
        with socket.create_server((host, port), backlog=1):
            over.wait()

    with start(serve) as server, Client(server, "alice"), Client(server, "bob"), socket.socket() as carol:
        carol.setblocking(False)
        assert carol.connect_ex(server.address) != 0
        port = server.address[1]
        until(lambda: kernel(port)[carol.getsockname()[1], port].state == SYN_SENT)
        assert str(server.backlog()) == (
            "backlog of serve: 2 clients wait (room for 2: the 1 of listen, and Linux adds one; it is full)\n"
            "  alice  nothing to read\n"
            "  bob    nothing to read\n"
            "  1 more client tries to connect, and the kernel does not answer"
        )
        assert door(server)[1:3] == (2, 1)
        over.set()


# -- what became of each connection ----------------------------------------------------------------------------------


def ending(server, name):
    """What the timeline says of one client after it was accepted."""
    lines = [line.split()[0:1] + line.split(" · ")[1:] for line in str(server.timeline()).splitlines()[1:]]
    return next(" · ".join(rest) for who, *rest in lines if who == name)


def test_what_became_of_a_message():
    """Unread, read and not answered, answered and not read, echoed: the bytes lie where the view says they do."""
    go_on = threading.Semaphore(0)

    def talk(conn):
        with conn:
            go_on.acquire()
            data = conn.recv(1024)
            go_on.acquire()
            conn.sendall(data)
            conn.recv(1024)

    with start(serving(talk)) as server, Client(server, "alice") as alice:
        alice.send("hello")
        until(lambda: len(server.observation.alive()) == 2)
        for words, (here, there) in (
            ('"hello" unread', (5, 0)),
            ('"hello" read, not answered', (0, 0)),
            ('"hello" answered, and the client has not read it yet', (0, 5)),
        ):
            until(lambda here=here, there=there: [each.unread for each in ends(server, alice)] == [here, there])
            assert ending(server, "alice") == f"accepted · served by thread 1 · {words}"
            go_on.release()
        assert alice.receive() == "hello"
        assert [each.unread for each in ends(server, alice)] == [0, 0]
        assert ending(server, "alice") == 'accepted · served by thread 1 · "hello" echoed'


def test_left():
    held = threading.Event()

    def talk(conn):
        conn.recv(1024)
        held.wait()
        conn.close()

    with start(serving(talk)) as server, Client(server, "alice") as alice:
        alice.close()
        until(lambda: ends(server, alice)[0].state == CLOSE_WAIT)
        assert ending(server, "alice").endswith(" · left")
        held.set()


def test_closed_by_the_server():
    def talk(conn):
        conn.close()

    with start(serving(talk)) as server, Client(server, "alice") as alice:
        # Each of the two learns a moment after the other what has happened, and the log after both.
        until(lambda: [each.state for each in ends(server, alice)] == [FIN_WAIT2, CLOSE_WAIT])
        server.settle()
        assert re.search("closed by (the server|thread 1)", ending(server, "alice"))


def test_broke_off():
    def talk(conn):
        with conn:
            conn.recv(1024)

    with start(serving(talk)) as server, Client(server, "alice") as alice:
        server.where()
        alice.vanish()
        until(lambda: server.error)
        assert ending(server, "alice").endswith("broke off (reset)")
        assert ends(server, alice) == (None, None)  # a reset leaves nothing, not even TIME_WAIT


def test_broken_off_by_the_server():
    def talk(conn):
        conn.recv(1, socket.MSG_PEEK)
        conn.close()  # with bytes unread

    with start(serving(talk)) as server, Client(server, "alice") as alice:
        alice.send("hello")
        with pytest.raises(ConnectionResetError):
            alice.receive()
        until(lambda: "broken off by the server (reset)" in ending(server, "alice"))
        assert ends(server, alice) == (None, None)


def test_cut_off():
    server = start(serve_threaded)
    with Client(server, "alice") as alice:
        server.where()
        server.stop()
        assert ending(server, "alice").endswith("cut off: the server was stopped")
        here, there = ends(server, alice)
        assert there.state == CLOSE_WAIT
        assert here.inode == 0  # no program has the server's end


def test_shown_out():
    with start(serve_threaded) as server, Client(server, "alice") as alice:
        server.where()
        (connection,) = server.client_names()
        assert show_out(server.observation, connection)
        until(lambda: ending(server, "alice").endswith("shown out"))
        assert ends(server, alice)[1].state == CLOSE_WAIT  # the server has hung up, and the client has not


# -- what goes where we cannot look ----------------------------------------------------------------------------------


def to_ssl(conn, folder):
    (pem := folder / "server.pem").write_text(PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context.wrap_socket(conn, server_side=True, do_handshake_on_connect=False)


def to_another_object(conn, _):
    return socket.socket(fileno=conn.detach())


def to_a_copy(conn, _):
    return conn.dup()


def to_a_child(conn, _):
    return subprocess.Popen(["cat"], stdin=conn, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("hand_on", [to_ssl, to_another_object, to_a_copy, to_a_child])
def test_handed_on(hand_on, tmp_path):
    """Whoever has the connection now, nobody has closed it, so that nobody is said to have."""
    handed, over = threading.Event(), threading.Event()

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            other = hand_on(conn, tmp_path)
            conn.close()
            del conn
            handed.set()
            over.wait()
            with other:
                getattr(other, "kill", other.close)()

    def nobody_closed_it(server):
        return not re.search(r"closed by|unread|broke|\bleft\b", ending(server, "alice"))

    with start(serve) as server, Client(server, "alice") as alice:
        try:
            assert handed.wait(LONG)
            assert [each.state for each in ends(server, alice)] == [ESTABLISHED, ESTABLISHED]  # nobody has closed it
            assert ends(server, alice)[0].inode
            assert nobody_closed_it(server), ending(server, "alice")
        finally:
            over.set()


# -- at random moments -----------------------------------------------------------------------------------------------


MOMENTS = [10, pytest.param(50, marks=pytest.mark.soak)]


@pytest.mark.parametrize("moments", MOMENTS)
def test_random_moments_of_a_busy_run(moments):
    """Clients that talk, think, do not read, and leave; a server whose threads do all that threads do. Whatever the
    kernel saw a thread in from before a look until after it, the view must have said.
    """
    chance, over, lock = random.Random(13), threading.Event(), threading.Lock()

    def talk(conn):
        with conn:
            while data := conn.recv(1024):
                if data == b"compute":
                    until_then = time.monotonic() + 0.02
                    while time.monotonic() < until_then:
                        sum(range(100))
                elif data == b"lock":
                    with lock:
                        over.wait(0.02)
                elif data == b"flood":
                    try:
                        conn.sendall(bytes(20_000_000))
                    except OSError:
                        return
                conn.sendall(data)

    def come_and_go(number):
        mine = random.Random(number)
        while not over.is_set():
            with socket.create_connection(server.address) as sock:
                for _ in range(mine.randrange(1, 6)):
                    what = mine.choice([b"compute", b"lock", b"hello", b"hello"])
                    sock.sendall(what)
                    sock.recv(1024)
                    over.wait(mine.random() / 10)
                if mine.random() < 0.3:
                    sock.sendall(b"flood")
                    over.wait(mine.random() / 5)

    held, seen, endings = Counter(), [], []
    with start(serving(talk)) as server:
        clients = [threading.Thread(target=come_and_go, args=(number,)) for number in range(5)]
        for client in clients:
            client.start()
        try:
            for _ in range(moments):
                over.wait(chance.random() / 20)
                lasting, names = connected(server), server.client_names()
                before, view, after = witness(server), code_view(server.observation, names), witness(server)
                timeline, lasting = Timeline.of(server.observation), lasting & connected(server)
                words = {mark.thread: mark.words for _, mark in view.marks if mark.kind == STANDS}
                by_port = {end.client[1]: name for end, name in names.items()}
                for label, (call, port, count) in before.items():
                    if after.get(label) == (call, port, count) and call.name not in ("runs", "some call again"):
                        held[call.name] += 1
                        seen.append((call, words.get(label, "nothing at all"), by_port.get(port, "its client")))
                newest = {lane.address[1]: lane for lane in timeline.lanes}  # a port may be used again
                endings += [newest[port].ending() for port in lasting if port in newest]
        finally:
            over.set()
            for client in clients:
                client.join(LONG)
    accepts = ["waits in accept for a new client"]
    fits = {
        "recv": ["waits in recv for {}"],
        "send": ["waits in sendall: {} does not read", "is in sendall to {}"],  # there is room, and it will wake
        **dict.fromkeys(("poll", "accept", "accept4"), accepts),
    }
    wrong = [
        (call, words, client)
        for call, words, client in seen
        if not (
            fits_a_lock(words) if call.name == "futex" else words in [each.format(client) for each in fits[call.name]]
        )
    ]
    assert not wrong, wrong
    assert set(endings) == {""}  # of a connection that both ends have open
    assert len(endings) >= moments
    assert sum(held.values()) >= moments, held
    if moments >= 50:
        assert {"recv", "send"} < {*held}, held


def fits_a_lock(words):
    """It waits, and not for a socket."""
    return re.match("waits (at|in) ", words) and not re.match("waits in (accept|recv|send|sendall)\\b", words)


def peer(descriptor):
    """The port of the client at the other end."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        return sock.getpeername()[1]


@pytest.mark.parametrize("moments", MOMENTS)
def test_random_moments_of_a_backlog(moments):
    """Clients that come, send and leave, at a server that serves one after the other: whoever waits in the kernel's
    table from before a look until after it, with as many bytes, is in the view, and nobody else.
    """
    chance, over = random.Random(31), threading.Event()

    def come_and_go(number):
        mine = random.Random(number)
        while not over.is_set():
            with socket.create_connection(server.address) as sock:
                for _ in range(mine.randrange(1, 4)):
                    sock.sendall(bytes(mine.randrange(1, 1000)))
                    over.wait(mine.random() / 3)

    def only_reads(host, port):
        with socket.create_server((host, port)) as listener:
            while True:
                conn, _ = listener.accept()
                with conn:
                    while conn.recv(1024):
                        pass

    checked = 0
    with start(only_reads) as server:
        clients = [threading.Thread(target=come_and_go, args=(number,)) for number in range(6)]
        for client in clients:
            client.start()
        try:
            for _ in range(moments):
                over.wait(chance.random() / 20)
                before, served = waiting(server), accepted(server)
                told = {(each.client[1], each.unread, each.left) for each in Backlog.of(server.observation).waiting}
                after = waiting(server)
                missing = (before & after) - told
                assert not missing, (before, told, after)
                assert not served & {port for port, *_ in told}, "somebody who had been accepted"
                checked += len(before & after)
        finally:
            over.set()
            for client in clients:
                client.join(LONG)
    assert checked >= moments / 2, checked


def waiting(server):
    """Those that nobody has accepted: their ports, how many bytes are unread, whether they have ended their side."""
    return {
        (port, row.unread - (row.state == CLOSE_WAIT), row.state == CLOSE_WAIT)
        for (here, port), row in kernel(server.address[1]).items()
        if here == server.address[1] and not row.inode and row.state in (ESTABLISHED, CLOSE_WAIT)
    }


def accepted(server):
    """The ports of clients that a program has accepted."""
    return {port for (here, port), row in kernel(server.address[1]).items() if here == server.address[1] and row.inode}


def connected(server):
    """The ports of clients whose connections both ends have open."""
    here = server.address[1]
    table = kernel(here)
    return {
        port
        for (own, port), row in table.items()
        if own == here and row.inode and row.state == ESTABLISHED and table.get((port, here), (None,))[0] == ESTABLISHED
    }


def witness(server):
    """In which call each thread is, for the client at which port, and how often it has been switched so far."""
    found = {}
    for each in server.observation.alive():
        try:
            call = in_call(each)
            found[each.label] = call, peer(call.descriptor) if call.name in ("recv", "send") else 0, switches(each)
        except (OSError, ValueError):  # it has ended meanwhile, or its client left
            continue
    return found


# -- an outside witness ----------------------------------------------------------------------------------------------

ANY, SET_PTRACER = ctypes.c_ulong(-1), 0x59616D61  # linux/prctl.h


@pytest.fixture
def py_spy():
    """Asks py-spy at which line of this file each of our threads stands: {its id in the system: (function, line)}."""
    program = shutil.which("py-spy") or shutil.which("py-spy", path=Path(sys.executable).parent)
    if program is None:
        not_here("there is no py-spy (pip install py-spy)")
    command = [program, "dump", "--nonblocking", "--json", "--pid", str(os.getpid())]
    tell = ctypes.CDLL(None).prctl
    tell(SET_PTRACER, ANY, 0, 0, 0)  # else Yama lets a process look into its children only
    if (tried := subprocess.run(command, capture_output=True, text=True, timeout=LONG)).returncode:
        not_here(f"py-spy may not look into processes here: {tried.stderr.strip()}")

    def dump():
        stands = {}
        for thread in json.loads(subprocess.check_output(command, text=True, timeout=LONG)):
            ours = [frame for frame in thread["frames"] if frame["filename"] == __file__]
            if ours:
                stands[thread["os_thread_id"]] = ours[0]["name"].rpartition(".")[2], ours[0]["line"]
        return stands

    yield dump
    tell(SET_PTRACER, 0, 0, 0, 0)


def test_py_spy_names_the_same_lines(py_spy):
    """Threads in accept, recv, recv_into, sendall, join, a lock, and deep in calls of the student's own."""
    over, lock = threading.Event(), threading.Lock()

    def deep(conn, depth):
        if depth:
            deep(conn, depth - 1)
        else:
            conn.recv(1024)

    def joins(_):
        inner = threading.Thread(target=over.wait)
        inner.start()
        inner.join()

    def locks(_):
        with lock:
            pass

    ways = iter([by_recv, by_recv_into, by_readline, flood, joins, locks, lambda conn: deep(conn, 3)])

    def talk(conn):
        with conn, contextlib.suppress(OSError):
            next(ways)(conn)

    with lock, start(serving(talk)) as server:
        clients = []
        try:
            for count in range(1, 8):
                clients.append(Client(server))
                until(lambda count=count: len(server.client_names()) == count)
                server.settle()
            until(lambda: ends(server, clients[3])[0].timer == ZERO_WINDOW)
            view, tasks = server.where(), server.observation.alive()
            told = {
                (mark.thread, line.number)
                for each in view.functions
                for line in each.lines
                for mark in line.marks
                if mark.kind == STANDS
            }
            functions = {each.label: place.function for each in tasks if (place := where(each))}
            witnessed = py_spy()
        finally:
            for client in clients:
                client.vanish()
            over.set()
            lock.release()
            server.stop()
            lock.acquire()
    labels = {each.thread.native_id: each.label for each in tasks}
    witnessed = {(labels[number], *stands) for number, stands in witnessed.items() if number in labels}
    assert len(witnessed) == 8  # the thread that waits in over.wait() is in no line of this file
    assert witnessed == {(label, functions[label], line) for label, line in told}
