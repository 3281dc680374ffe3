"""What stop closes and ends, and what it says of the rest. An exception is thrown only where it does no harm."""

import _thread
import contextlib
import functools
import gc
import os
import queue
import re
import selectors
import socket
import socketserver
import ssl
import sys
import sysconfig
import threading
import time
from concurrent.futures import Future

import pytest

from echo_kit import Client, ServerStuck, serve_single, serve_threaded, start
from echo_kit.watch import calls, ends, observation, patches, stopping
from echo_kit.watch.observation import Observation, ServerStopped
from echo_kit.watch.sockets import Alarm, descriptors_at, free_port

from ..conftest import open_sockets
from .certificate import PEM

LONG = 20

# A library's clean-up: it counts the exceptions that reach it, until it is told to end.
LIBRARY = """
def clean_up(entered, over, hit):
    while not over.is_set():
        try:
            entered.set()
            for _ in range(100):
                pass
        except BaseException as error:
            hit.append(error)
"""


@pytest.fixture
def library():
    """A module of an installed package."""
    names = {}
    exec(compile(LIBRARY, sysconfig.get_paths()["purelib"] + "/library.py", "exec"), names)
    return names["clean_up"]


def test_none_is_thrown_into_a_librarys_clean_up(library, monkeypatch):
    entered, over, hit, ended = threading.Event(), threading.Event(), [], []
    looks, look = [], stopping.throw_into

    def looks_often(task, *args, **named):
        looks.append(task.label)
        if len(looks) == 20:
            over.set()
        return look(task, *args, **named)

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                library(entered, over, hit)
                try:
                    while True:
                        time.sleep(0)
                except BaseException as error:
                    ended.append(error)
                    raise

    with start(serve) as server, Client(server):
        assert entered.wait(LONG)
        monkeypatch.setattr(stopping, "throw_into", looks_often)
        server.stop(timeout=LONG)
    assert hit == []
    assert [type(each) for each in ended] == [ServerStopped]
    assert len(looks) >= 20


@pytest.mark.parametrize("waits", ["in the student's code", "for an event"])
def test_a_thread_that_waits_is_interrupted(waits):
    reached, over, ended = threading.Event(), threading.Event(), []

    def wait():
        try:
            reached.set()
            while True:
                if waits == "for an event":
                    over.wait(0.01)
                else:
                    time.sleep(0.01)
        except BaseException as error:
            ended.append(error)

    thread, observation = threading.Thread(target=wait), Observation("it")
    observation.close_all()
    task = observation.adopt(thread)
    thread.start()
    assert reached.wait(LONG)
    assert stopping.throw_into(task, timeout=LONG)
    thread.join(LONG)
    assert [type(each) for each in ended] == [ServerStopped]
    assert not stopping.throw_into(task), "it has ended"


WAITS = {
    "Queue.get": lambda: queue.Queue().get(),
    "Queue.get with a timeout": lambda: queue.Queue().get(timeout=LONG),
    "Event.wait": lambda: threading.Event().wait(),
    "Semaphore.acquire": lambda: threading.Semaphore(0).acquire(),
    "Barrier.wait": lambda: threading.Barrier(9).wait(),
    "Future.result": lambda: Future().result(),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_workers_that_wait_for_work_end_at_once(wait):
    """As with Ctrl+C in a terminal, where such workers are daemons: nobody is needed to wake them."""
    ended = []

    def work():
        try:
            wait()
        finally:
            ended.append(threading.current_thread())

    def serve(host, port):
        workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        with socket.create_server((host, port)) as door:
            for worker in workers:
                worker.start()
            while True:
                with door.accept()[0] as conn:
                    conn.sendall(conn.recv(100))

    server = start(serve)
    while len(server.threads) < 5:
        server.settle()
    with Client(server) as client:
        client.send("x")
        assert client.receive(timeout=LONG) == "x"
    server.stop()  # and it raises no ServerStuck
    assert len(ended) == 4


def test_who_waits_beside_a_worker_goes_on_waiting():
    """An Event of the cell, for which the server waits, too: the cell's own wait is not over."""
    shared, over = threading.Event(), []
    mine = threading.Thread(target=lambda: over.append(shared.wait(LONG)))

    def serve(host, port):
        with socket.create_server((host, port)):
            shared.wait()

    server = start(serve)
    mine.start()
    server.settle()
    server.stop()
    assert over == []
    shared.set()
    mine.join(LONG)
    assert over == [True]


def test_none_is_thrown_into_a_close():
    """The socket would stay open, and nobody would know it."""
    may_be = {}

    def note(frame, *_):
        may_be[frame.f_code] = stopping.may_be_interrupted(frame)

    before = sys.gettrace()
    with start(serve_single), socket.create_server(("127.0.0.1", free_port())) as listener:
        listener.setblocking(False)
        sys.settrace(note)
        try:
            with contextlib.suppress(BlockingIOError):
                listener.accept()
            listener.close()
        finally:
            sys.settrace(before)
    assert may_be[calls.accept.__code__]
    assert not may_be[ends.close.__code__]


def test_a_thread_that_waits_for_another_is_not_interrupted():
    """Python 3.11 would take the other one for ended."""
    over, observation = threading.Event(), Observation("it")
    observation.close_all()
    other = threading.Thread(target=over.wait, args=(LONG,))
    thread = threading.Thread(target=other.join)
    task = observation.adopt(thread)
    other.start()
    thread.start()
    try:
        assert not stopping.throw_into(task, timeout=0.05)
        assert other.is_alive()
        assert thread.is_alive()
    finally:
        over.set()
        thread.join(LONG)
        other.join(LONG)


def test_an_exception_that_was_taken_back_holds_up_no_thread_with_a_trace_function(monkeypatch):
    """CPython 3.11 looks for it at each instruction, until some thread takes one."""
    looks = iter([True, False])  # it has gone on between the two

    def traced():
        sys.settrace(lambda *_: None)
        done.set()

    done = threading.Event()
    with start(serve_single) as server:
        server.settle()
        (task,) = server.observation.alive()
        with monkeypatch.context() as patch:
            patch.setattr(stopping, "may_be_interrupted", lambda frame: next(looks, False))
            assert not stopping.throw_into(task)
        threading.Thread(target=traced, daemon=True).start()
        assert done.wait(LONG)


def test_an_interrupt_lasts_until_the_thread_has_left_its_accept(monkeypatch):
    """Else whoever looks then sees a server that waits in accept, as if it had not heard of Ctrl+C."""
    has_it, go_on, take = threading.Event(), threading.Event(), Alarm.take

    def takes_slowly(self, task):
        taken = take(self, task)
        if taken and threading.current_thread() is not presses:
            has_it.set()
            go_on.wait(LONG)
        return taken

    monkeypatch.setattr(Alarm, "take", takes_slowly)
    with start(serve_single) as server:
        presses = threading.Thread(target=server.interrupt)
        presses.start()
        assert has_it.wait(LONG)
        presses.join(0.2)
        assert presses.is_alive()
        go_on.set()
        presses.join(LONG)
        server.settle()
        assert not server.running


def test_whom_a_nudge_woke_leaves_the_others_their_ctrl_c():
    with contextlib.closing(Alarm()) as alarm:
        with alarm.waiting("a socket"):
            alarm.nudge("a socket")
            alarm.interrupt("a thread")
        here, there = socket.socketpair()
        with here, there:
            assert alarm.wait(here, LONG, "a thread", lambda: False)
            there.send(b"!")
            assert not alarm.wait(here, LONG, "a thread", lambda: False)


def test_a_thread_is_not_interrupted_again_at_once():
    """Its clean-up takes a while."""
    ended = []

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            try:
                while True:
                    pass
            except KeyboardInterrupt:
                before = time.monotonic()
                while time.monotonic() < before + stopping.GRACE / 2:
                    pass
                conn.close()
                ended.append("in good order")

    with start(serve) as server, Client(server):
        server.settle(0.05)
        server.stop(timeout=LONG)
    assert ended == ["in good order"]


# -- what it closes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path):
    (tmp_path / "pem").write_text(PEM)
    return tmp_path / "pem"


def trusting(certificate):
    context = ssl.create_default_context(cafile=certificate)
    return context


def tls_threads(certificate):
    """A thread for each client, as in CASES; the socket is wrapped by the one that accepts, or in the thread."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def talk(conn):
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)

    def wraps_and_talks(raw):
        talk(context.wrap_socket(raw, server_side=True))

    def serve(host, port):
        with socket.create_server((host, port)) as door:
            while True:
                raw, _ = door.accept()
                threading.Thread(target=talk, args=(context.wrap_socket(raw, server_side=True),)).start()

    def serve_in_the_thread(host, port):
        with socket.create_server((host, port)) as door:
            while True:
                threading.Thread(target=wraps_and_talks, args=(door.accept()[0],)).start()

    def wrapped_door(host, port):
        with socket.socket() as plain, context.wrap_socket(plain, server_side=True) as door:
            door.bind((host, port))  # and no SO_REUSEADDR
            door.listen()
            while True:
                threading.Thread(target=talk, args=(door.accept()[0],)).start()

    return {"serve": serve, "in the thread": serve_in_the_thread, "a wrapped listener": wrapped_door}


@pytest.mark.parametrize("which", ["serve", "in the thread", "a wrapped listener"])
def test_a_server_with_tls_ends_at_once(certificate, which):
    server = start(tls_threads(certificate)[which])
    with (
        socket.create_connection(server.address, timeout=LONG) as plain,
        trusting(certificate).wrap_socket(plain, server_hostname="127.0.0.1") as alice,
    ):
        alice.sendall(b"hello")
        assert alice.recv(100) == b"hello"
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 1.0, "without ServerStuck after 2 s"
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert alice.recv(100) == b""
    assert descriptors_at(server.address[1]) in ([], None)


def udp_beside_tcp(host, port, reached):
    with socket.create_server((host, port)) as door:
        side = socket.socket(type=socket.SOCK_DGRAM)
        side.bind((host, port))

        def loop():
            while True:
                side.recvfrom(1024)

        threading.Thread(target=loop).start()
        reached()
        door.accept()


def two_kinds_of_sockets_and_no_loop(host, port, reached):
    """Opened, forgotten in a list, and in nobody's call."""
    kept = [socket.socket(type=kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
    kept += socket.socketpair()
    with socket.create_server((host, port)) as door:
        reached()
        door.accept()


def asks_another_server(host, port, reached):
    """A proxy: it waits for one that says nothing."""
    with socket.create_server((host, 0)) as silent, socket.create_server((host, port)) as door:
        with socket.create_connection(silent.getsockname()) as other:
            threading.Thread(target=other.recv, args=(1,)).start()
            reached()
            door.accept()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="nothing wakes a call on such a socket there")
@pytest.mark.parametrize("serve", [udp_beside_tcp, two_kinds_of_sockets_and_no_loop, asks_another_server])
def test_sockets_that_no_view_shows_are_closed_too(serve):
    before, opened = open_sockets(), threading.Event()
    server = start(lambda host, port: serve(host, port, opened.set), name="it")
    assert opened.wait(LONG)
    server.settle()
    server.stop(timeout=LONG)
    assert observation.running == []
    assert open_sockets() == before, "without the help of the garbage collector"


@contextlib.contextmanager
def sleeping(name):
    """A function of the student's that no exception ends."""
    release, threads = threading.Event(), []

    def sleep():
        threads.append(threading.current_thread())
        sleep.entered.set()
        while not release.is_set():
            with contextlib.suppress(BaseException):
                release.wait(LONG)

    sleep.__name__, sleep.entered = name, threading.Event()
    try:
        yield sleep
    finally:
        release.set()
        for thread in threads:
            thread.join(LONG)


@pytest.mark.parametrize("how", ["makefile", "StreamRequestHandler", "close() of its own"])
def test_its_sockets_are_closed_is_what_the_kernel_says(how):
    class Own(socket.socket):
        def close(self):
            """It forgets to."""

    with sleeping("sleep") as sleep:

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                for _ in self.rfile:
                    sleep()

        def serve(host, port):
            if how == "StreamRequestHandler":
                with socketserver.ThreadingTCPServer((host, port), Handler) as made:
                    made.serve_forever()
            with socket.create_server((host, port)) as door:
                conn, _ = door.accept()
                if how == "makefile":
                    for _ in conn.makefile("rwb"):
                        sleep()
                own = Own(fileno=conn.detach())
                sleep()
                own.recv(1)

        server = start(serve)
        with socket.create_connection(server.address, timeout=LONG) as alice:
            alice.sendall(b"hello\n")
            assert sleep.entered.wait(LONG)  # the server is not told that bytes are on their way
            server.settle()
            own = server.observation.tasks[0].thread
            with pytest.raises(ServerStuck, match=r"Its sockets are closed\. To be rid of the thread") as error:
                server.stop(timeout=0.3)
            assert descriptors_at(server.address[1]) in ([], None)
            with contextlib.suppress(ConnectionResetError):
                assert alice.recv(1) == b""
        del error
    own.join(LONG)  # of socketserver: it waits for its handlers


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the system does not list the file descriptors")
def test_a_descriptor_that_python_does_not_know_is_named():
    numbers = []
    with sleeping("sleep") as sleep:

        def serve(host, port):
            with socket.create_server((host, port)) as door:
                numbers.append(door.accept()[0].detach())
                sleep()

        server = start(serve)
        with socket.create_connection(server.address, timeout=LONG):
            server.settle()
            with pytest.raises(ServerStuck) as error:
                server.stop(timeout=0.3)
        os.close(numbers[0])
    port = server.address[1]
    assert re.fullmatch(
        r"serve did not end within 0\.3 s: server thread stands at line \d+ of sleep: release\.wait\(LONG\)\. "
        rf"Its port {port} is still held by file descriptor {numbers[0]} of this process, which no socket of Python's "
        r"owns\. To be rid of the thread, restart the kernel\.",
        str(error.value),
    )
    del error


def sends_for_ever(host, port):
    with socket.create_server((host, port)) as listener, listener.accept()[0] as conn, contextlib.suppress(OSError):
        while True:
            conn.sendall(b"more " * 200)


@pytest.mark.parametrize("how", ["stopped", "shown out"])
def test_a_send_that_we_have_ended_is_no_reset_of_the_client(how):
    with start(sends_for_ever) as server, socket.create_connection(server.address, timeout=LONG) as alice:
        assert alice.recv(1)
        if how == "shown out":
            (end,) = server.observation.accepted.values()
            assert stopping.show_out(server.observation, end)
            for task in server.observation.alive():
                task.thread.join(LONG)
        else:
            server.stop()
        (lane,) = server.timeline().lanes
        assert lane.ending() == ("shown out" if how == "shown out" else "cut off: the server was stopped")


def floods_without_so_reuseaddr(host, port):
    with socket.socket() as listener:
        listener.bind((host, port))
        listener.listen()
        with listener.accept()[0] as conn:
            while True:
                conn.sendall(bytes(1_000_000))


def test_a_thread_that_waits_for_room_is_woken_where_connections_end_by_a_reset():
    with start(floods_without_so_reuseaddr) as server, socket.create_connection(server.address, timeout=LONG) as alice:
        assert alice.recv(1)
        assert server.settle(LONG), "it waits in sendall: alice reads no more"
        assert "waits in sendall" in str(server.where())
        server.stop()
        assert not server.running


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the system does not list the file descriptors")
def test_a_descriptor_that_the_server_forgets_ends_for_its_client():
    numbers = []

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            numbers.append(listener.accept()[0].detach())
            os.read(numbers[0], 1)

    with start(serve) as server, socket.create_connection(server.address, timeout=LONG) as alice:
        server.settle()
        server.stop()
        assert alice.recv(1) == b"", "it is not closed, but shut down"
    os.close(numbers[0])


def selects(host, port, served):
    with socket.create_server((host, port)) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            selector.select()
            with listener.accept()[0] as conn:
                conn.recv(1)
            served.set()


def a_raw_thread_that_ends_last(host, port, served):
    def handle(conn):
        with conn:
            conn.recv(1)
            served.set()  # now it is known
            conn.recv(1)
            threading.Event().wait(0.1)  # the other one has ended by then

    with socket.create_server((host, port)) as listener:
        while True:
            _thread.start_new_thread(handle, listener.accept()[:1])


@pytest.mark.parametrize(("serve", "most"), [(selects, 0.8 * stopping.GRACE), (a_raw_thread_that_ends_last, 0.8)])
def test_a_stop_waits_for_nothing_but_the_threads(serve, most):
    took = []
    for _ in range(5):
        served = threading.Event()
        with start(functools.partial(serve, served=served)) as server, Client(server) as alice:
            alice.send("x")
            assert served.wait(LONG)
            server.settle()
            began = time.monotonic()
            server.stop()
            took.append(time.monotonic() - began)
    assert min(took) < most, took


# -- again and again ---------------------------------------------------------------------------------------------------


def resources():
    gc.collect()
    descriptors = sorted(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else []
    return descriptors, open_sockets(), threading.enumerate(), patches.state(), dict(observation.observed)


def memory():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cycle(serve):
    with start(serve) as server:
        clients = [Client(server, f"client {number}") for number in range(1 if serve is serve_single else 10)]
        for client in clients:
            client.send("hello")
        for client in clients:
            assert client.receive() == "hello"
        for client in clients:
            client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is asked of Linux")
@pytest.mark.soak
def test_a_thousand_cycles_leave_nothing():
    for _ in range(20):
        cycle(serve_threaded)
    before, began = resources(), memory()
    for _ in range(1000):
        cycle(serve_threaded)
    assert resources() == before
    grown = memory() - began
    print(f"1,000 cycles of start, ten clients, stop: {grown / 1e6:.1f} MB more")
    assert grown < 10e6


class Died(Exception):
    pass


def dies_in_serve(host, port):
    with socket.create_server((host, port)) as door:
        door.accept()
        raise Died


def dies_before_it_listens(host, port):
    kept = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    raise Died(len(kept))


def dies_in_a_thread(host, port):
    def handle(conn):
        raise Died

    with socket.create_server((host, port)) as door:
        while True:
            threading.Thread(target=handle, args=(door.accept()[0],)).start()


def dies_while_it_is_stopped(host, port):
    door = socket.create_server((host, port))
    try:
        door.accept()
        door.accept()
    except KeyboardInterrupt:
        raise Died from None


def dies(serve):
    with contextlib.suppress(Died), start(serve) as server:
        with contextlib.suppress(OSError), socket.create_connection(server.address, timeout=LONG) as alice:
            alice.recv(1) if serve in (dies_in_serve, dies_in_a_thread) else server.settle()


@pytest.mark.parametrize("cycles", [2, pytest.param(50, marks=pytest.mark.soak)])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_servers_that_end_by_an_exception_leave_nothing(cycles):
    programs = (dies_in_serve, dies_before_it_listens, dies_in_a_thread, dies_while_it_is_stopped)
    for serve in programs:
        dies(serve)
    before = resources()
    for _ in range(cycles):
        for serve in programs:
            dies(serve)
    assert resources() == before
