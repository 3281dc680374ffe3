"""Make the pictures in this folder anew, from real runs: `python img/make.py`."""

import socket
import time
from pathlib import Path
from threading import Thread

import echo_kit

HERE = Path(__file__).parent


def pause(seconds: float = 0.4) -> None:
    """People type slowly: without pauses all marks of a picture would lie on one another."""
    time.sleep(seconds)


def one_conversation(server: echo_kit.Server) -> None:
    with echo_kit.Client(server, name="alice") as alice:
        for message in ["hello", "news?", "bye"]:
            pause()
            alice.send(message)
            alice.receive()
        pause()


def two_clients(server: echo_kit.Server) -> None:
    with echo_kit.Client(server, name="alice") as alice:
        pause()
        alice.send("hello")
        alice.receive()
        pause()
        bob = echo_kit.Client(server, name="bob")
        pause()
        bob.send("hi")
        pause()
        alice.send("news?")
        alice.receive()
        pause()
        alice.send("bye")
        alice.receive()
        pause()
    if bob.unanswered:
        bob.receive()
    pause()
    bob.send("at last")
    bob.receive()
    pause()
    bob.close()


def handle_client(conn, addr):
    while True:
        data = conn.recv(1024)
        if not data:
            break
        conn.sendall(data)
    conn.close()


def one_thread(host, port):
    s = socket.create_server((host, port))
    while True:
        conn, addr = s.accept()
        handle_client(conn, addr)


# Short lines, for the picture:
# fmt: off
def thread_for_each(host, port):
    s = socket.create_server((host, port))
    while True:
        conn, addr = s.accept()
        thread = Thread(target=handle_client,
                        args=(conn, addr))
        thread.start()
# fmt: on


def while_bob_waits(serve, name: str) -> echo_kit.Snapshot:
    """Alice has her echo and stays; bob has sent "hi", and most of a second has passed."""
    with echo_kit.start(serve, name=name) as server, echo_kit.Client(server, name="alice") as alice:
        pause(0.3)
        alice.send("hello")
        alice.receive()
        pause(0.3)
        with echo_kit.Client(server, name="bob") as bob:
            pause(0.3)
            bob.send("hi")
            pause(0.8)
            return server.snapshot()


def run(serve, story) -> echo_kit.Timeline:
    with echo_kit.start(serve) as server:
        story(server)
        return server.timeline()


if __name__ == "__main__":
    single = run(echo_kit.serve_single, two_clients)
    threaded = run(echo_kit.serve_threaded, two_clients)
    moments = while_bob_waits(one_thread, "One thread"), while_bob_waits(thread_for_each, "A thread for each client")
    pictures = {
        "why_bob_waits": echo_kit.side_by_side(*moments),
        "one_conversation": run(echo_kit.serve_single, one_conversation),
        "two_clients_single": single,
        "two_clients_threaded": threaded,
        "single_and_threaded": echo_kit.side_by_side(single, threaded),
    }
    for name, picture in pictures.items():
        picture.figure().savefig(HERE / f"{name}.png", dpi=110, metadata={"Description": str(picture)})
        print(f"{name}.png\n{picture}")
