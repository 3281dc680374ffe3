"""Whatever of the observer breaks, the watched server goes on, and it can be stopped."""

import socket
import sys
import threading

import pytest

from echo_kit import Client, start
from echo_kit.watch import calls, ends, output
from echo_kit.watch.events import EventLog
from echo_kit.watch.observation import Observation, noting

LONG = 20

# What the patched functions use: on a module, on the class, or on the one log of this server.
PARTS = {
    "the clock": ("log", "clock"),
    "the log's append": ("log", "append"),
    "the log's count": ("log", "count"),
    "the log's add": (EventLog, "add"),
    "whose thread it is": (calls, "task_for"),
    "a thread that is started": (Observation, "adopt"),
    "where the code stands": (calls, "note_functions"),
    "what is done again and again": (calls, "again"),
    "the line of a close": (ends, "student_place"),
    "who is in a call on it": (ends, "duplicate"),
    "who has it besides": (ends, "hand_on"),
    "how long a client waited": (calls, "waited"),
    "a new connection": (Observation, "watch_connection"),
    "a listener": (Observation, "watch_listener"),
    "the listener's address": (socket.socket, "getsockname"),
    "the streams": (calls, "route_streams"),
    "what is printed": (Observation, "write"),
    "the socket of a thread that prints": (output, "_socket_in_the_frames"),
}


def broken(*args, **named):
    raise ArithmeticError("the observer is broken")


@pytest.mark.parametrize("part", PARTS)
def test_a_broken_part_breaks_nothing(part, monkeypatch, capsys):
    going_on, started = threading.Event(), []

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            going_on.wait(LONG)
            listener.listen(5)
            while True:
                started.append(threading.Thread(target=talk, args=listener.accept()))
                started[-1].start()

    def talk(conn, _):
        with conn:
            conn.sendall(conn.recv(100))
            buffer = bytearray(100)
            size = conn.recv_into(buffer)
            print("got", size)
            conn.send(memoryview(buffer)[:size])
            conn.recv(1, 0)
            conn.sendall(b"")
            conn.shutdown(socket.SHUT_WR)

    with start(serve) as server:
        owner, name = PARTS[part]
        owner = server.observation.log if owner == "log" else owner
        monkeypatch.setattr(owner, name, broken, raising=False)
        if part == "the streams":
            monkeypatch.setattr(sys, "stdout", sys.__stdout__)
        going_on.set()
        for _ in range(2):
            with socket.create_connection(server.address, timeout=LONG) as client:
                for message in (b"hello", b"again"):
                    client.sendall(message)
                    assert client.recv(100) == message
                client.sendall(b"!")
                assert client.recv(100) == b""
        server.stop()
        for thread in started:  # where Thread.start is broken, the server knows nothing of them
            thread.join(LONG)
        monkeypatch.undo()
        assert server.error is None
        assert not server.running
        trouble = server.observation.trouble
        if part == "the socket of a thread that prints":
            assert trouble is None  # it is asked only where the connection is not known
        else:
            assert isinstance(trouble, ArithmeticError)


def test_a_broken_report_of_a_death_breaks_nothing(monkeypatch, capsys):
    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            while True:
                threading.Thread(target=dies, args=(listener.accept()[0],)).start()

    def dies(conn):
        with conn:
            raise ValueError

    with start(serve) as server:
        monkeypatch.setattr(Observation, "report", broken)
        for _ in range(2):
            with Client(server):
                server.settle()
        assert server.running
        assert isinstance(server.observation.trouble, ArithmeticError)
    assert capsys.readouterr() == ("", "")


def test_the_guard_lets_ctrl_c_through():
    watched = Observation("it")
    watched.close_all()
    with pytest.raises(KeyboardInterrupt), noting(watched):
        raise KeyboardInterrupt
    with noting(watched):
        broken()
    assert isinstance(watched.trouble, ArithmeticError)
