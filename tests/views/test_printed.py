"""The printed log: one thread's lines in their order, those of different threads by client, and never too long."""

import socket
import threading

from echo_kit import Client, start
from echo_kit.views.printed import LETTERS, TOLD_LINES

LONG = 20


def test_the_lines_of_one_thread_stay_in_their_order():
    def serve(host, port):
        door = socket.create_server((host, port))
        print("1 waiting")
        while True:
            conn, _ = door.accept()
            print("2 somebody came")
            with conn:
                print("3 he says", conn.recv(100))
            print("4 he is gone")

    with start(serve) as server:
        for name in ("alice", "bob"):
            with Client(server, name=name) as client:
                client.send("hi")
            server.settle()
        assert str(server.log) == (
            "server thread\n    1 waiting\n"
            "alice (server thread)\n    2 somebody came\n    3 he says b'hi'\n"
            "server thread\n    4 he is gone\n"
            "bob (server thread)\n    2 somebody came\n    3 he says b'hi'\n"
            "server thread\n    4 he is gone"
        )


def test_a_thread_that_goes_from_client_to_client_is_told_in_its_order():
    """A loop over two clients: what it says of the first again stands behind what it said of the second."""

    def serve(host, port):
        with socket.create_server((host, port)) as door:
            conns = [door.accept()[0] for _ in range(2)]
            for conn in (*conns, conns[0]):
                print("got", conn.recv(2))
            for conn in conns:
                conn.close()

    with start(serve) as server, Client(server, name="alice") as alice, Client(server, name="bob") as bob:
        alice.send("a1a2")
        bob.send("b1")
        server.settle()
        told = str(server.log).splitlines()
    assert told == [
        *("alice (server thread)", "    got b'a1'"),
        *("bob (server thread)", "    got b'b1'"),
        *("alice (server thread)", "    got b'a2'"),
    ]


def test_a_traceback_stands_below_what_led_to_it():
    def serve(host, port):
        with socket.create_server((host, port)) as door:
            print("listening")
            conn, _ = door.accept()
            with conn:
                print("got", conn.recv(100))
            raise ValueError("no more")

    with start(serve) as server:
        with Client(server, name="alice") as alice:
            alice.send("hi")
        server.settle()
        told = str(server.log).splitlines()
    assert told[:5] == ["server thread", "    listening", "alice (server thread)", "    got b'hi'", "server thread"]
    assert (told[5], told[-1]) == ("    Traceback (most recent call last):", "    ValueError: no more")


def test_different_threads_are_told_by_client_whichever_was_faster():
    def talk(conn, first, turn):
        with conn:
            conn.recv(100)
            if not first:
                turn.wait(LONG)
            print("done")
            turn.set()

    def serve(host, port):
        turn = threading.Event()
        with socket.create_server((host, port)) as door:
            for number in range(2):
                threading.Thread(target=talk, args=(door.accept()[0], number == 1, turn)).start()
            door.accept()

    with start(serve) as server, Client(server, name="alice") as alice, Client(server, name="bob") as bob:
        alice.send("x")
        bob.send("x")
        server.settle()
        told = str(server.log)
    assert told == "alice (thread 1)\n    done\nbob (thread 2)\n    done"


def test_a_long_log_is_cut():
    def serve(host, port):
        with socket.create_server((host, port)) as door:
            for number in range(1_000):
                print(number, "x" * (1_000 if number > 980 else 50))
            door.accept()

    with start(serve) as server:
        while server.observation.tasks[0].waiting is None:
            server.settle()
        told = str(server.log).splitlines()
        assert len(server.log.lines()) == 1_000
    assert len(told) == TOLD_LINES + 1
    assert told[TOLD_LINES // 2] == f"… {1_001 - TOLD_LINES:,} more lines: log.lines() has all that is kept …"
    assert max(map(len, told[1:])) == len(told[-1]) == LETTERS + 4
    assert told[-1].startswith("    999 xxx")
