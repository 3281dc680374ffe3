"""A class that types all the time while its server changes, and a class of 300 in both modes."""

import random
import socket
import threading
import time

import pytest
import websocket

import echo_kit

from ..phones import Voter

pytestmark = pytest.mark.soak

PHONES, CHANGES = 20, 20


def test_twenty_changes_under_load_lose_no_line():
    """Every phone types all the time; half of the changes are to a server that serves one at a time."""
    over, found, troubles = threading.Event(), [], []

    def typing(number):
        try:
            with Voter(room._room.rehearsal_url, f"phone {number}") as phone:
                chance, heard, said = random.Random(number), {}, {}
                while not over.is_set():
                    if len(said) - len(heard) < 20:
                        text = f"{number}: {chance.random()}"
                        said[phone.types(text)] = text
                    take(phone, heard)
                    over.wait(chance.uniform(0.2, 0.4))
                finish.wait(60)
                while len(heard) < len(said):
                    message = phone.take()
                    if "echo" in message:
                        heard[message["echo"]] = message["text"]
                found.append((said, heard))
        except BaseException as error:
            troubles.append(error)
            raise

    def take(phone, heard):
        """What has come so far."""
        phone.socket.settimeout(0.01)
        try:
            while True:
                message = phone.take()
                if "echo" in message:
                    heard[message["echo"]] = message["text"]
        except websocket.WebSocketTimeoutException:
            phone.socket.settimeout(60)

    finish = threading.Event()
    with echo_kit.start(echo_kit.serve_single, name="hall") as server:
        port = server.address[1]
        room = echo_kit.Classroom(server, echo_kit.serve_threaded)
        threads = [threading.Thread(target=typing, args=(number,)) for number in range(PHONES)]
        for thread in threads:
            thread.start()
        took = []
        for number in range(CHANGES):
            over.wait(0.7)
            began = time.perf_counter()
            room.change([echo_kit.serve_threaded, echo_kit.serve_single][number % 2])
            while room._room.phones() and not any(phone.state == "served" for phone in room._room.phones()):
                over.wait(0.005)
            took.append(time.perf_counter() - began)
        over.set()
        room.change(echo_kit.serve_threaded)
        finish.set()
        for thread in threads:
            thread.join(90)
        assert not troubles
        assert server.address[1] == port
        lost = sum(said != heard for said, heard in found)
        print(f"{sum(len(said) for said, _ in found)} lines, {CHANGES} changes, {lost} phones with a difference;")
        took.sort()
        print(f"served again after {took[len(took) // 2] * 1000:.0f} ms (median), {took[-1] * 1000:.0f} at most")
        assert (len(found), lost) == (PHONES, 0)
        room.close()


@pytest.mark.parametrize("serve", [echo_kit.serve_single, echo_kit.serve_threaded], ids=["single", "threaded"])
def test_a_class_of_300_gets_every_byte_and_leaves_nothing(serve):
    whole_class(300, 15, serve)


def whole_class(students, seconds, serve):
    """It comes, talks and leaves, while the stage is live; prints how it went."""
    with echo_kit.start(serve, name="hall") as server:
        room = echo_kit.Classroom(server)
        stage = echo_kit.ServerPanel(server)
        sent = []
        stage.send = lambda content, buffers=None: sent.append(content)
        stage._on_message(stage, {"do": "hello"}, [])
        report = room.rehearse(students, seconds)
        busy, last = time.process_time(), time.monotonic()
        while report.running:
            for panel in (stage, room):
                panel._on_message(panel, {"do": "look"}, [])
            threading.Event().wait(0.5)
        took = time.monotonic() - last
        print(
            report,
            f"the kernel took {(time.process_time() - busy) / took:.0%} of a core, {len(sent)} pictures",
            sep="\n",
        )
        assert not report.trouble
        assert [report.count(each) for each in ("connected", "lost", "wrong", "refused")] == [students, 0, 0, 0]
        assert report.count("right") == report.count("messages") > students / 2
        stage.close()
        room.close()
    with pytest.raises(OSError, match=r"refused|reset"):
        socket.create_connection(server.address).close()
