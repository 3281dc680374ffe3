"""The story of every connection: the same words in every run, figures that are right, nothing that was not seen."""

import contextlib
import socket
import threading
import time

import pytest

from echo_kit import Client, NoReply, serve_single, serve_threaded, side_by_side, start
from echo_kit.events import Connection, EventLog
from echo_kit.observe import Observation
from echo_kit.timeline import Timeline, quote

LONG = 20


def answering(answer, once=False):
    """A server for one client at a time that sends answer(data) for what it gets."""

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                conn, _ = s.accept()
                with conn:
                    while data := conn.recv(1024):
                        conn.sendall(answer(data))
                        if once:
                            break

    return serve


def echoed(client, text):
    client.send(text)
    assert client.receive(timeout=LONG) == text


def text_of(server):
    return str(server.timeline())


def stories(server):
    timeline = server.timeline()
    return {lane.name: timeline.story(lane) for lane in timeline.lanes}


SERVED = "connected · accepted · served by the server thread"


def test_nobody_came():
    with start(serve_single) as server:
        assert text_of(server) == "serve_single: 0 connections"
        assert server.timeline().table() == []
    assert text_of(server) == "serve_single: 0 connections"


def test_one_conversation():
    with start(serve_single) as server:
        with Client(server, name="alice") as alice:
            assert text_of(server) == f"serve_single: 1 connection\n  alice  {SERVED}"
            echoed(alice, "hello")
            echoed(alice, "again")
            assert text_of(server) == f'serve_single: 1 connection\n  alice  {SERVED} · "hello" echoed · "again" echoed'
        told = f'serve_single: 1 connection\n  alice  {SERVED} · "hello" echoed · "again" echoed · left'
        assert text_of(server) == told
    assert text_of(server) == told


SINGLE_BEFORE = f"""serve_single: 3 connections
  alice  {SERVED} · "hello" echoed
  bob    connected · waits in the backlog behind alice · "hi" unread
  carol  connected · waits in the backlog behind alice"""
SINGLE_AFTER = f"""serve_single: 3 connections
  alice  {SERVED} · "hello" echoed · left
  bob    connected · waited in the backlog for alice · accepted · served by the server thread · "hi" echoed
  carol  connected · waits in the backlog behind bob"""
SINGLE_DONE = """serve_single: 3 connections
  alice  connected · accepted · served by the server thread · "hello" echoed · left
  bob    connected · waited in the backlog for alice · accepted · served by the server thread · "hi" echoed · left
  carol  connected · waited in the backlog for alice and bob · accepted · served by the server thread · "hey" echoed"""
THREADED = """serve_threaded: 3 connections
  alice  connected · accepted · served by thread 1 · "hello" echoed
  bob    connected · accepted · served by thread 2 · "hi" echoed
  carol  connected · accepted · served by thread 3"""


def three_at_the_single_server():
    with start(serve_single) as server, Client(server, name="alice") as alice:
        echoed(alice, "hello")
        with Client(server, name="bob") as bob, Client(server, name="carol") as carol:
            bob.send("hi")
            with pytest.raises(NoReply):
                bob.receive(timeout=0)
            assert text_of(server) == SINGLE_BEFORE
            alice.close()
            assert bob.receive(timeout=LONG) == "hi"
            assert text_of(server) == SINGLE_AFTER
            bob.close()
            echoed(carol, "hey")
            assert text_of(server) == SINGLE_DONE
    assert text_of(server) == SINGLE_DONE + " · left"


def three_at_the_threaded_server():
    with start(serve_threaded) as server, Client(server, name="alice") as alice:
        echoed(alice, "hello")
        with Client(server, name="bob") as bob, Client(server, name="carol"):
            echoed(bob, "hi")
            assert text_of(server) == THREADED
            alice.close()
        assert text_of(server) == THREADED.replace("\n", " · left\n").replace("s · left", "s") + " · left"


@pytest.mark.parametrize("tell", [three_at_the_single_server, three_at_the_threaded_server])
def test_bob_and_carol_come_while_alice_is_served(tell):
    tell()


@pytest.mark.parametrize("tell", [three_at_the_single_server, three_at_the_threaded_server])
def test_the_words_are_the_same_in_20_runs_on_a_busy_machine(tell, busy):
    with busy():
        for _ in range(20):
            tell()


def test_a_server_that_drops_a_byte():
    with start(answering(lambda data: data[:-1])) as server, Client(server, name="alice") as alice:
        alice.send("hello")
        assert alice.receive(size=4, timeout=LONG) == "hell"
        assert stories(server)["alice"] == f'{SERVED} · "hello" 4 of 5 bytes echoed'


def test_a_server_that_answers_something_else():
    with start(answering(bytes.upper)) as server, Client(server, name="alice") as alice:
        for text in ("hello", "again"):
            alice.send(text)
            assert alice.receive(timeout=LONG) == text.upper()
        told = f'{SERVED} · sent "hello" · got "HELLO" · sent "again" · got "AGAIN"'
        assert stories(server)["alice"] == told


def test_an_answer_in_pieces_is_one_answer():
    def serve(host, port):
        with socket.create_server((host, port)) as s:
            with s.accept()[0] as conn:
                while data := conn.recv(100):
                    conn.sendall(b"you said: ")
                    go_on.wait(LONG)
                    conn.sendall(data)

    go_on = threading.Event()
    with start(serve) as server, Client(server, name="alice") as alice:
        alice.send("hi")
        with pytest.raises(NoReply):
            alice.receive(size=12, timeout=0.05)
        go_on.set()
        assert alice.receive(size=12, timeout=LONG) == "you said: hi"
        assert stories(server)["alice"] == f'{SERVED} · sent "hi" · got "you said: hi"'


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda data: data, '"hello" answered, and the client has not read it yet'),
        (lambda data: data[:-1], '"hello" answered, and the client has not read it yet'),
        (lambda data: b"", '"hello" read, not answered'),
    ],
)
def test_an_answer_that_the_client_has_not_read(answer, told):
    with start(answering(answer)) as server, Client(server, name="alice") as alice:
        alice.send("hello")
        assert stories(server)["alice"] == f"{SERVED} · {told}"
        with contextlib.suppress(NoReply):
            alice.receive(timeout=0.05)


def test_a_client_that_vanishes():
    with start(serve_single) as server, Client(server, name="alice") as alice:
        echoed(alice, "hello")
        alice.vanish()
        assert stories(server)["alice"] == f'{SERVED} · "hello" echoed · broke off (reset)'


def test_a_server_that_closes_first():
    with start(answering(bytes.upper, once=True)) as server, Client(server, name="alice") as alice:
        alice.send("hello")
        assert alice.receive(timeout=LONG) == "HELLO"
        assert stories(server)["alice"] == f'{SERVED} · sent "hello" · got "HELLO" · closed by the server'
        alice.close()
        assert stories(server)["alice"].endswith("· closed by the server")


def test_a_server_that_is_stopped():
    with start(serve_single) as server, Client(server, name="alice") as alice, Client(server, name="bob") as bob:
        echoed(alice, "hello")
        bob.send("hi")
        server.stop()
        assert stories(server) == {
            "alice": f'{SERVED} · "hello" echoed · cut off: the server was stopped',
            "bob": 'connected · was never accepted · "hi" unread',
        }
        with pytest.raises(ConnectionError):
            bob.receive(timeout=LONG)


def test_a_client_that_gives_up_waiting():
    with start(serve_single) as server, Client(server, name="alice"):
        server.settle()
        with Client(server, name="bob"):
            assert stories(server)["bob"] == "connected · waits in the backlog behind alice"
        assert stories(server)["bob"] == "connected · was never accepted · left"


def test_a_client_that_is_not_ours():
    with start(serve_threaded) as server, socket.create_connection(server.address) as netcat:
        netcat.sendall(b"hello\n")
        assert netcat.recv(100) == b"hello\n"
        with Client(server, name="alice") as alice:
            echoed(alice, "hi")
        assert text_of(server) == (
            "serve_threaded: 2 connections\n"
            '  client 1  accepted · served by thread 1 · "hello\\n" echoed\n'
            '  alice     connected · accepted · served by thread 2 · "hi" echoed · left'
        )
        netcat.close()
        assert stories(server)["client 1"] == 'accepted · served by thread 1 · "hello\\n" echoed · left'


def test_our_client_waits_for_one_that_is_not_ours():
    with start(serve_single) as server, socket.create_connection(server.address) as netcat:
        netcat.sendall(b"hello")
        assert netcat.recv(100) == b"hello"
        with Client(server, name="alice") as alice:
            assert stories(server)["alice"] == "connected · waits in the backlog behind client 1"
            netcat.close()
            echoed(alice, "hi")
            assert stories(server)["alice"].startswith("connected · waited in the backlog for client 1 · accepted")


def test_two_clients_by_one_name_and_names_that_need_care():
    with start(serve_threaded) as server:
        for name in ("alice", "alice", "a\nb\x1b[2J", "n" * 100, ""):
            with Client(server, name=name) as client:
                echoed(client, "x")
        names = [lane.name for lane in server.timeline().lanes]
    assert names == ["alice", "alice (2)", "a\\nb\\x1b[2J", "n" * 24, ""]
    assert "\x1b" not in text_of(server)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ('say "hi"', '"say "hi""'),
        ("tab\there\x1b[31m\n", '"tab\\there\\x1b[31m\\n"'),
        ("é" * 24, f'"{"é" * 24}"…'),
        ("x" * 3000, f'"{"x" * 24}…" (3,000 bytes)'),
        ("世" * 20, '"世世世世世世世世世世世世世…" (60 bytes)'),  # 40 bytes are kept: 13 characters and a third
        (b"\xff\x00", '"\\xff\\x00"'),
        ("x" * 24, f'"{"x" * 24}"'),
        ("x" * 25, f'"{"x" * 24}…" (25 bytes)'),
    ],
)
def test_how_a_message_is_quoted(sent, shown):
    if shown.endswith('"…'):  # fits exactly, but not into what is kept
        shown = f'"{"é" * 20}…" (48 bytes)'
    with start(serve_single) as server, Client(server, name="alice") as alice:
        echoed(alice, sent)
        assert stories(server)["alice"] == f"{SERVED} · {shown} echoed"


def test_of_many_messages_the_first_and_the_last_are_shown():
    with start(serve_single) as server, Client(server, name="alice") as alice:
        for number in range(100):
            echoed(alice, f"m{number}")
        told = " · ".join(f'"m{number}" echoed' for number in range(4))
        assert stories(server)["alice"] == f'{SERVED} · {told} · … 95 more … · "m99" echoed'
        assert server.timeline().table()[0]["messages"] == 100


def test_bytes_and_messages_are_exact():
    with start(serve_threaded) as server, Client(server, name="alice") as alice, Client(server, name="bob") as bob:
        for size in (1, 1024, 5000, 100_000):
            echoed(alice, b"x" * size)
        bob.send(b"y" * 7)
        bob.receive(timeout=LONG, size=3)
        table = {row["client"]: row for row in server.timeline().table()}
        server.stop()
    total = 1 + 1024 + 5000 + 100_000
    alice, bob = table["alice"], table["bob"]
    assert (alice["messages"], alice["bytes sent"], alice["bytes back"]) == (4, total, total)
    assert (bob["messages"], bob["bytes sent"], bob["bytes back"]) == (1, 7, 7)
    assert (alice["threads"], bob["threads"]) == ("thread 1", "thread 2")


def test_the_seconds_agree_with_the_clock_of_the_test():
    clock = time.perf_counter
    with start(serve_single) as server:
        before_alice = clock()
        with Client(server, name="alice") as alice:
            echoed(alice, "hello")
            alice_served = clock()
            before_bob = clock()
            with Client(server, name="bob") as bob:
                bob_connected = clock()
                bob.send("hi")
                with pytest.raises(NoReply):
                    bob.receive(timeout=0.1)
                before_leaving = clock()
                alice.close()
                assert bob.receive(timeout=LONG) == "hi"
                bob_served = clock()
        table = server.timeline().table()
        after = clock()
    alice, bob = table
    assert bob["seconds waited"] >= 0.1
    assert before_leaving - bob_connected <= bob["seconds waited"] <= bob_served - before_bob
    assert before_leaving - alice_served <= alice["seconds served"] <= bob_served - before_alice
    assert 0 <= alice["seconds waited"] <= alice_served - before_alice
    assert 0 <= bob["seconds served"] <= after - before_leaving
    total = sum(row["seconds waited"] + row["seconds served"] for row in table)
    assert total <= 2 * (after - before_alice)
    # alice was served and bob waited for the same time, but for what lies between two calls of each
    assert abs(bob["seconds waited"] + bob["seconds served"] - (after - bob_connected)) <= after - before_leaving


def small_log(monkeypatch, capacity):
    monkeypatch.setattr(Observation.__init__, "__defaults__", (EventLog(capacity=capacity),))


def test_a_log_that_was_too_small_says_so(monkeypatch):
    small_log(monkeypatch, 20)
    with start(serve_threaded) as server:
        with Client(server, name="alice") as alice, Client(server, name="bob") as bob:
            echoed(alice, "hello")
            for number in range(20):
                echoed(bob, f"m{number}")
            timeline = server.timeline()
            assert timeline.dropped == 1 + 2 * 2 + 4 * 21 - 20  # listen; connect, accept; send, recv on both sides
            *_, bobs, last = str(timeline).splitlines()
            assert last == f"  (the log was full: the oldest {timeline.dropped:,} events are missing)"
            assert "waits in the backlog" not in str(timeline)
            assert bobs.endswith('"m19" echoed')
            assert "unread" not in bobs
            row = timeline.table()[-1]
            assert row["bytes sent"] == row["bytes back"] == 10 * 2 + 10 * 3
            bob.send("last")
            assert stories(server)["bob"].endswith('"last" answered, and the client has not read it yet')
            assert bob.receive(timeout=LONG) == "last"


@pytest.mark.parametrize("capacity", range(1, 12))
def test_no_capacity_makes_up_a_client_that_waits(capacity, monkeypatch):
    small_log(monkeypatch, capacity)
    with start(serve_threaded) as server:
        with Client(server, name="alice") as alice:
            echoed(alice, "hello")
            assert "backlog" not in text_of(server)
        assert "backlog" not in text_of(server)
        server.timeline().table()


def test_side_by_side():
    with start(serve_single) as one, start(serve_threaded) as two:
        both = side_by_side(one.timeline(), two.timeline())
    assert str(both) == "serve_single: 0 connections\nserve_threaded: 0 connections"
    assert repr(both) == str(both)


def test_a_stopped_servers_timeline_stands_still():
    with start(serve_single) as server, Client(server, name="alice") as alice:
        echoed(alice, "hello")
    once, again = server.timeline(), server.timeline()
    assert (once.now, once.table()) == (again.now, again.table())
    assert once.stopped


def test_from_events_alone_with_a_clock_of_our_own():
    """Whole figures, from a log that the test writes."""
    observation = Observation("by hand", EventLog(clock=lambda: 9.0))
    alice, bob = Connection(("127.0.0.1", 1), name="alice"), Connection(("127.0.0.1", 2), name="bob")
    served = Connection(alice.client)
    log = observation.log
    log.add("connect", 1.0, alice, ended=2.0)
    log.add("accept", 0.5, served, thread="server thread", ended=3.0)
    log.add("connect", 4.0, bob, ended=5.0)
    log.add("close", 7.0, served, ended=7.5)
    timeline = Timeline.of(observation)
    observation.close_all()
    rows = [(row["seconds waited"], row["seconds served"]) for row in timeline.table()]
    assert rows == [(1.0, 4.0), (4.0, 0.0)]
    assert (timeline.start, timeline.now) == (1.0, 9.0)
    assert quote(next(iter(log))) == '""'


def test_lanes_are_in_the_order_in_which_the_system_gave_the_clients_out():
    """Whoever connected first may be the last who is told so, when many connect at once."""
    observation = Observation("by hand")
    ends = {name: Connection(("127.0.0.1", port), name=name) for port, name in enumerate(("alice", "bob", "carol"))}
    for name, connected, accepted in (("alice", 6.0, 3.0), ("carol", 2.0, None), ("bob", 1.0, 4.0)):
        observation.log.add("connect", 0.0, ends[name], ended=connected)
        if accepted is not None:
            observation.log.add("accept", 0.0, Connection(ends[name].client), ended=accepted)
    stranger = Connection(("127.0.0.1", 9))
    observation.log.add("accept", 0.0, stranger, ended=5.0)
    names = [lane.name for lane in Timeline.of(observation).lanes]
    observation.close_all()
    assert names == ["alice", "bob", "client 3", "carol"]
