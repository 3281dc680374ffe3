"""A server whose threads fork: the child owns nothing of it, what it prints reaches the log, and stop ends it."""

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import socketserver
import sys
import threading
import time

import pytest

from echo_kit import Client, ServerStuck, serve_single, server as runner, start
from echo_kit.watch import observation, patches, stopping
from echo_kit.watch.children import Children

from ..conftest import open_sockets

LONG = 20

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


def fails():
    1 / 0  # noqa: B018


def answers(conn):
    print("a child answers")
    sys.stdout.writelines(["in ", "capitals\n"])
    conn.sendall(conn.recv(100).upper())


def waits_on():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("I stay")
    while True:
        time.sleep(LONG)


def by_multiprocessing(host, port, job=fails, give=()):
    """As in a program that people write: a process for each client."""
    processes = []
    with socket.create_server((host, port)) as door:
        while True:
            conn, _ = door.accept()
            with conn:
                given = (conn,) if give else ()
                processes.append(multiprocessing.get_context("fork").Process(target=job, args=given))
                processes[-1].start()


def by_fork(host, port):
    """As in a textbook about Unix."""
    with socket.create_server((host, port)) as door:
        while True:
            conn, _ = door.accept()
            if os.fork() == 0:
                door.close()
                answers(conn)
                os._exit(0)
            conn.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)


def falls_out_of_serve(host, port):
    with socket.create_server((host, port)) as door:
        while True:
            conn, _ = door.accept()
            with conn:
                if os.fork() == 0:
                    raise ValueError("in the child")


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        answers(self.request)


def of_socketserver(host, port):
    with socketserver.ForkingTCPServer((host, port), Handler) as server:
        server.serve_forever()


def ask(server):
    with socket.create_connection(server.address, timeout=LONG) as alice:
        alice.sendall(b"hello")
        return alice.recv(100)


def logged(server, text):
    """Wait until the log has it."""
    deadline = time.monotonic() + LONG
    while text not in str(server.log):
        assert time.monotonic() < deadline, str(server.log)
    return str(server.log)


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_that_dies_leaves_its_parents_server_alone(capfd):
    with start(by_multiprocessing) as server:
        for number in range(1, 4):
            with socket.create_connection(server.address, timeout=LONG) as alice:
                assert alice.recv(1) == b""
            log = logged(server, f"client {number} (child process {number})\n    Process ForkProcess-")
            assert server.running
        assert log.count("ZeroDivisionError: division by zero") >= 2
        logged(server, "child process 3")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("serve", [by_fork, of_socketserver])
def test_children_serve_and_the_next_client_is_served_too(serve):
    with start(serve) as server:
        assert [ask(server) for _ in range(3)] == [b"HELLO"] * 3
        logged(server, "client 3 (child process 3)\n    a child answers\n    in capitals")
        assert server.running
    assert observation.running == []


def test_a_child_that_falls_out_of_serve_tells_the_log():
    with start(falls_out_of_serve) as server:
        for number in (1, 2):
            with socket.create_connection(server.address, timeout=LONG) as alice:
                assert alice.recv(1) == b""
            assert "ValueError: in the child" in logged(server, f"child process {number}")
        assert server.error is None


def test_stop_ends_the_children_that_go_on():
    with start(lambda host, port: by_multiprocessing(host, port, waits_on), name="it") as server:
        with socket.create_connection(server.address, timeout=LONG):
            logged(server, "I stay")
        with socket.create_connection(server.address, timeout=LONG):
            logged(server, "client 2")
        children = server.observation.children.alive()
        assert len(children) == 2
        address = server.address
    assert not any(lives(pid) for pid in children)
    assert multiprocessing.active_children() == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_child_that_cannot_be_ended_is_named(monkeypatch):
    left = [4711]
    monkeypatch.setattr(Children, "end", lambda self: (Children_end(self) and left) or left)
    server = start(by_fork, name="it")
    assert ask(server) == b"HELLO"
    with pytest.raises(ServerStuck) as error:
        server.stop()
    assert str(error.value) == (
        f"A child process of it (pid 4711) goes on, and may hold port {server.address[1]}: end it in a terminal, "
        "kill -9 4711."
    )


Children_end = Children.end


def test_a_child_of_a_cell_has_neither_patches_nor_servers():
    """The cell forks while a server runs; the child can start one of its own."""
    reader, writer = os.pipe()
    with start(serve_single) as server, Client(server) as alice:
        child = os.fork()
        if child == 0:
            try:
                told = [len(runner._servers), len(observation.running), len(observation.observed)]
                told.append(sys.stdout is sys.__stdout__ or not hasattr(sys.stdout, "_plain"))
                told.append(threading.Thread.start is patches.plain_start)
                os.write(writer, repr(told).encode())
                server.stop()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert os.read(reader, 1000) == b"[0, 0, 0, True, True]"
        alice.send("x")
        assert alice.receive() == "x"
    os.close(reader)
    os.close(writer)


def test_a_child_that_prints_much_does_not_wait_for_the_log():
    def talks(host, port):
        with socket.create_server((host, port)) as door:
            conn, _ = door.accept()
            if os.fork() == 0:
                for _ in range(200):
                    print("é" * 3000)
                conn.sendall(b"done")
                os._exit(0)
            conn.close()
            os.wait()

    with start(talks) as server:
        with socket.create_connection(server.address, timeout=LONG) as alice:
            assert alice.recv(10) == b"done"
        assert "é" * 100 in logged(server, "é")


def test_what_a_broken_pipe_of_ours_costs_is_the_log_only(monkeypatch):
    monkeypatch.setattr(os, "pipe", lambda: (_ for _ in ()).throw(OSError("no descriptors left")))
    with start(by_fork) as server:
        assert ask(server) == b"HELLO"


@pytest.mark.soak
def test_200_forked_children_leave_nothing():
    def memory():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    threads, sockets, before = threading.enumerate(), open_sockets(), patches.state()
    descriptors, began = len(os.listdir("/dev/fd")), memory()
    for serve in (by_multiprocessing, by_fork, of_socketserver) * 3:
        with start(serve) as server:
            for _ in range(23):
                with contextlib.suppress(ConnectionResetError):  # the child that dies leaves "hello" unread
                    ask(server)
        assert multiprocessing.active_children() == []
    assert (threading.enumerate(), open_sockets(), patches.state()) == (threads, sockets, before)
    assert len(os.listdir("/dev/fd")) == descriptors
    print(f"207 children: {(memory() - began) / 1e6:.1f} MB more")
    assert memory() - began < 20e6
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert stopping.end_children(server.observation) == []
