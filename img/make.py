"""Make the pictures in this folder anew, from real runs: `python img/make.py`."""

import time
from pathlib import Path

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


def run(serve, story) -> echo_kit.Timeline:
    with echo_kit.start(serve) as server:
        story(server)
        return server.timeline()


if __name__ == "__main__":
    single = run(echo_kit.serve_single, two_clients)
    threaded = run(echo_kit.serve_threaded, two_clients)
    pictures = {
        "one_conversation": run(echo_kit.serve_single, one_conversation),
        "two_clients_single": single,
        "two_clients_threaded": threaded,
        "single_and_threaded": echo_kit.side_by_side(single, threaded),
    }
    for name, picture in pictures.items():
        picture.figure().savefig(HERE / f"{name}.png", dpi=110, metadata={"Description": str(picture)})
        print(f"{name}.png\n{picture}")
