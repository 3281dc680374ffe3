"""An error that a future keeps is known, as long as nobody has asked for it."""

import concurrent.futures
import contextlib
import gc
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from echo_kit import Client, start

LONG = 20


def handle(conn):
    with conn:
        conn.recv(9) + "text"


class Pool:
    """A server that submits `handle` for each client, and does with the future what the test says."""

    def __init__(self, treat):
        self.treat = treat

    def __call__(self, host, port):
        with socket.create_server((host, port)) as door, ThreadPoolExecutor(2) as pool:
            while True:
                self.treat(pool, door.accept()[0])

    @contextlib.contextmanager
    def with_a_client(self):
        with start(self, name="pool") as server, Client(server, name="alice") as alice:
            alice.send("hello")
            with pytest.raises(ConnectionError):
                alice.receive(timeout=LONG)
            server.settle()
            yield server


def and_forget(pool, conn):
    pool.submit(handle, conn)


def and_keep(pool, conn):
    futures.append(pool.submit(handle, conn))


def and_wait(pool, conn):
    concurrent.futures.wait([pool.submit(handle, conn)])


def with_map(pool, conn):
    pool.map(handle, [conn])


futures = []


@pytest.mark.parametrize("treat", [and_forget, and_keep, and_wait, with_map])
def test_an_error_that_nobody_asks_for(treat):
    with Pool(treat).with_a_client() as server:
        (kept,) = server.observation.kept_errors
        line = handle.__code__.co_firstlineno + 2
        assert (kept.thread, kept.name, kept.place, kept.asked) == (
            "thread 1",
            "TypeError",
            (handle.__code__, line),
            False,
        )
        assert server.error is None  # as in a terminal, the program does not die of it
        assert server.log.lines() == []
        said = "✕ thread 1: ended here, TypeError (kept in the future: nobody asked for its result)"
        assert ('conn.recv(9) + "text"', said) in [(line, str(mark)) for line, mark in server.where().marks]
    futures.clear()


def and_ask(pool, conn):
    with contextlib.suppress(TypeError):
        pool.submit(handle, conn).result()


def and_look(pool, conn):
    pool.submit(handle, conn).add_done_callback(lambda future: print(future.exception()))


def and_take_the_results(pool, conn):
    with contextlib.suppress(TypeError):
        list(pool.map(handle, [conn]))


@pytest.mark.parametrize("treat", [and_ask, and_look, and_take_the_results])
def test_an_error_that_somebody_asks_for_is_told_by_nobody_else(treat):
    with Pool(treat).with_a_client() as server:
        assert [kept.asked for kept in server.observation.kept_errors] == [True]
        assert "kept in the future" not in str(server.where())


def test_the_mark_goes_when_somebody_asks_later():
    with Pool(and_keep).with_a_client() as server:
        assert "kept in the future" in str(server.where())
        assert isinstance(futures.pop().exception(), TypeError)
        assert "kept in the future" not in str(server.where())


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_known_holds_nothing_of_the_dead_function():
    """A socket that the code forgot to close is closed when its future goes, as without us."""

    def forgets(conn):
        conn.recv(9) + "text"

    def serve(host, port):
        with socket.create_server((host, port)) as door, ThreadPoolExecutor(1) as pool:
            while True:
                pool.submit(forgets, door.accept()[0])

    with start(serve) as server, Client(server) as alice:
        alice.send("hello")
        server.settle()
        gc.collect()
        with pytest.raises(ConnectionError):
            alice.receive(timeout=LONG)


def test_futures_of_others_are_left_alone():
    with start(Pool(and_forget), name="pool") as server, ThreadPoolExecutor(1) as pool:
        failed = pool.submit(lambda: 1 / 0)
        assert isinstance(failed.exception(), ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            failed.result(timeout=1)
        over = threading.Event()
        with pytest.raises(TimeoutError):
            pool.submit(over.wait).result(timeout=0.01)
        over.set()
        assert not server.observation.kept_errors
