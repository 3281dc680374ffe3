"""An exception is thrown into a thread only where it does no harm."""

import socket
import sysconfig
import threading
import time

import pytest

from echo_kit import Client, start
from echo_kit.watch import stopping
from echo_kit.watch.observation import Observation, ServerStopped

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
