"""The story of every connection: the same words in every run, figures that are right, nothing that was not seen."""

import contextlib
import csv
import io
import re
import select
import selectors
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from echo_kit import Client, NoReply, Reset, serve_single, serve_threaded, side_by_side, start
from echo_kit.views.shown import Timeline
from echo_kit.views.states import ACCEPTED, BACKLOG, CONNECTING, IN_ACCEPT, IN_RECV, IN_SEND, WORKS
from echo_kit.views.story import quote
from echo_kit.watch.events import Connection, EventLog
from echo_kit.watch.observation import Observation

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
    return {lane.name: re.sub(r"at line \d+ of \w+", "at its line", timeline.story(lane)) for lane in timeline.lanes}


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


@pytest.mark.soak
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
        assert stories(server)["alice"] == f'{SERVED} · sent "hello" · got "HELLO" · closed by the server at its line'
        alice.close()
        assert stories(server)["alice"].endswith("· closed by the server at its line")


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
        # On a busy machine it waits for its accept so long that the kernel's clock tells when it connected.
        assert text_of(server).replace("client 1  connected · ", "client 1  ") == (
            "serve_threaded: 2 connections\n"
            '  client 1  accepted · served by thread 1 · "hello\\n" echoed\n'
            '  alice     connected · accepted · served by thread 2 · "hi" echoed · left'
        )
        netcat.close()
        told = stories(server)["client 1"].removeprefix("connected · ")
        assert told == 'accepted · served by thread 1 · "hello\\n" echoed · left'


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
    monkeypatch.setattr("echo_kit.server.EventLog", lambda most: EventLog(capacity=capacity))


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


# -- parts of it, as data --------------------------------------------------------------------------------------------


def by_hand():
    """Two clients at one thread: alice from 10 to 14 s, bob from 13 s on; bob still waits at 20 s for an answer."""
    observation = Observation("by hand", EventLog(clock=lambda: 20.0))
    observation.close_all()
    log, thread = observation.log, "server thread"
    ends = {}
    for port, name, came in ((1, "alice", 10.0), (2, "bob", 13.0)):
        client = Connection(("127.0.0.1", port), name=name, sent=5, messages=1)
        ends[name] = client, Connection(client.client)
        log.add("connect", came, client, ended=came + 0.5)
        log.add("client send", came + 0.5, client, size=5, data=b"hello", ended=came + 0.5)
    alice, served = ends["alice"]
    alice.received = 5
    log.add("accept", 9.0, served, thread=thread, ended=11.0)
    log.add("recv", 11.0, served, thread=thread, size=5, data=b"hello", ended=11.5)
    log.add("send", 12.0, served, thread=thread, size=5, data=b"hello", ended=12.25)
    log.add("client recv", 12.25, alice, size=5, data=b"hello", ended=12.25)
    log.add("client close", 13.5, alice, ended=13.5)
    log.add("recv", 12.5, served, thread=thread, ended=13.5)
    log.add("close", 14.0, served, thread=thread, ended=14.0)
    _, served = ends["bob"]
    log.add("accept", 14.5, served, thread=thread, ended=15.0)
    log.add("recv", 15.0, served, thread=thread, size=5, data=b"hello", ended=15.0)
    log.add("send", 16.0, served, thread=thread, error="BrokenPipeError", ended=16.0)
    return Timeline.of(observation)


def test_calls_and_table_have_the_right_figures():
    timeline = by_hand()
    sent = {"thread": "", "call": "client send", "bytes": 5, "data": b"hello", "error": ""}
    thread = {"thread": "server thread", "error": ""}
    calls = timeline.calls()
    assert calls[:4] == [
        {"seconds": 0.0, "took": 0.5, "client": "alice", **sent, "call": "connect", "bytes": 0, "data": b""},
        {"seconds": 0.5, "took": 0.0, "client": "alice", **sent},
        {"seconds": -1.0, "took": 2.0, "client": "alice", **thread, "call": "accept", "bytes": 0, "data": b""},
        {"seconds": 1.0, "took": 0.5, "client": "alice", **thread, "call": "recv", "bytes": 5, "data": b"hello"},
    ]
    assert calls[-1]["error"] == "BrokenPipeError"
    assert len(calls) == len(timeline.events) == 14
    alice, bob = timeline.table()
    assert alice == {
        "client": "alice",
        "seconds waited": 0.5,
        "seconds served": 3.0,
        "seconds busy": 0.5 + 0.25 + 0.25 + 0.5,  # before, in and after sendall, and before it closes
        "messages": 1,
        "bytes sent": 5,
        "bytes back": 5,
        "threads": "server thread",
        "closed by": "server thread",
        "closed at": "",
        "sends per recv": [],  # the ends by hand have not counted
    }
    assert (bob["seconds waited"], bob["seconds served"], bob["seconds busy"]) == (1.5, 5.0, 1.0)


@pytest.mark.parametrize("rows", ["calls", "table"])
def test_rows_can_be_written_as_csv(rows):
    with start(serve_threaded) as server, Client(server, name='alice, "a"') as alice:
        echoed(alice, "hello")
        made = getattr(server.timeline(), rows)()
    assert all(type(row) is dict and row.keys() == made[0].keys() for row in made)
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=made[0])
    writer.writeheader()
    writer.writerows(made)
    file.seek(0)
    back = list(csv.DictReader(file))
    assert back == [{key: str(value) for key, value in row.items()} for row in made]
    assert back[0]["client"] == 'alice, "a"'


def test_stretches_follow_from_the_calls():
    timeline = by_hand()
    assert [(state, begin, end) for state, begin, end, *_ in timeline.spans["alice"]] == [
        (CONNECTING, 10.0, 10.5),
        (BACKLOG, 10.5, 11.0),
        (IN_RECV, 11.0, 11.5),
        (WORKS, 11.5, 12.0),
        (WORKS, 12.0, 12.25),
        (WORKS, 12.25, 12.5),
        (IN_RECV, 12.5, 13.5),
        (WORKS, 13.5, 14.0),
    ]
    spans = timeline.thread_spans["server thread"]
    assert [(span.state, span.client) for span in spans[:2]] == [(IN_ACCEPT, ""), (IN_RECV, "alice")]
    assert all(before.end <= after.begin for before, after in pairwise(spans))
    assert all(span.begin < span.end or span.client == "bob" for span in spans)


def test_from_the_last_answer_until_a_stop_the_thread_waits_in_recv():
    """It was in a recv, which the stop has ended."""
    with start(serve_threaded) as server, Client(server, name="alice") as alice:
        echoed(alice, "hello")
        assert server.settle()  # the thread is in recv
        with pytest.raises(NoReply):
            alice.receive(timeout=0.1)
        server.stop()
        longest = max(server.timeline().spans["alice"], key=lambda span: span.end - span.begin)
    assert longest.state == IN_RECV
    assert longest.end - longest.begin > 0.1


def check_spans(timeline):
    """The stretches of a lane are in order, touch each other, and go from its beginning to its end."""
    for lane in timeline.lanes:
        spans = timeline.spans[lane.name]
        begins = [time for time in (lane.connecting, lane.connected, lane.accepted) if time is not None]
        assert spans[0].begin == begins[0]
        assert spans[-1].end == (timeline.now if lane.ended is None else lane.ended)
        assert all(span.begin < span.end for span in spans[lane.connecting is not None :])
        assert all(before.end == after.begin for before, after in pairwise(spans))
        assert {span.client for span in spans} == {lane.name}
    for label, spans in timeline.thread_spans.items():
        assert all(before.end <= after.begin for before, after in pairwise(spans)), label
        assert {span.thread for span in spans} <= {label}


@pytest.mark.parametrize("serve", [serve_single, serve_threaded])
def test_the_stretches_of_a_lane_cover_it(serve):
    with start(serve) as server, Client(server, name="alice") as alice:
        for number in range(20):
            echoed(alice, f"m{number}")
        with Client(server, name="bob") as bob, socket.create_connection(server.address) as stranger:
            bob.send("hi")
            stranger.sendall(b"hello")
            check_spans(server.timeline())
            alice.close()
            assert bob.receive(timeout=LONG) == "hi"
            check_spans(server.timeline())
    assert len(server.timeline().lanes) == 3
    check_spans(server.timeline())


def test_a_thread_that_notices_late_that_its_socket_was_closed():
    observation = Observation("by hand", EventLog(clock=lambda: 9.0))
    end, log = Connection(("127.0.0.1", 1)), observation.log
    log.add("accept", 0.0, end, "server thread", ended=1.0)
    log.add("recv", 2.0, end, "thread 1", error="ServerStopped", ended=5.0)
    log.add("close", 4.0, end, ended=4.5)
    log.add("send", 6.0, end, "thread 1", error="BrokenPipeError", ended=7.0)
    timeline = Timeline.of(observation)
    observation.close_all()
    check_spans(timeline)
    assert [(span.state, span.end) for span in timeline.spans["client 1"]] == [(ACCEPTED, 2.0), (IN_RECV, 4.0)]


def test_a_timeline_is_a_picture_of_one_moment():
    """Nothing of it changes when the server goes on, or is stopped."""

    def said(timeline):
        return str(timeline), str(timeline.by_thread()), timeline.table(), timeline.calls(), timeline.spans

    with start(serve_single) as server, Client(server, name="alice") as alice, Client(server, name="bob") as bob:
        echoed(alice, "hello")
        bob.send("hi")
        timeline, same = server.timeline(), server.timeline()
        before = said(timeline)
        echoed(alice, "again")
        alice.close()
        assert bob.receive(timeout=LONG) == "hi"
        assert said(timeline) == before
        server.stop()
        assert said(timeline) == before
        later = same  # what is worked out only when it is asked for
        assert (str(later), str(later.by_thread())) == before[:2]
        assert [row["bytes sent"] for row in later.table()] == [5, 2]


# -- one lane a thread -----------------------------------------------------------------------------------------------


def threads_of(server):
    return str(server.timeline().by_thread())


def test_what_the_only_thread_does():
    with start(serve_single) as server:
        assert threads_of(server) == "serve_single: 1 thread\n  server thread  waits in accept"
        with Client(server, name="alice") as alice, Client(server, name="bob") as bob:
            echoed(alice, "hello")
            echoed(alice, "again")
            told = "serve_single: 1 thread\n  server thread  accepted alice · served alice"
            assert threads_of(server) == f"{told} · waits in recv for alice"
            alice.vanish()
            echoed(bob, "hi")
            assert threads_of(server) == f"{told} · accepted bob · served bob · waits in recv for bob"
        assert threads_of(server).endswith("served bob · waits in accept")
    assert threads_of(server) == f"{told} · accepted bob · served bob · ended"


def test_what_a_thread_for_each_client_does():
    with start(serve_threaded) as server, Client(server, name="alice") as alice, Client(server, name="bob") as bob:
        echoed(alice, "hello")
        assert threads_of(server) == (
            "serve_threaded: 3 threads\n"
            "  server thread  accepted alice · accepted bob · waits in accept\n"
            "  thread 1       served alice · waits in recv for alice\n"
            "  thread 2       waits in recv for bob"
        )
        echoed(bob, "hi")
        alice.close()
        assert threads_of(server).splitlines()[2:] == [
            "  thread 1       served alice · ended",
            "  thread 2       served bob · waits in recv for bob",
        ]


def test_threads_are_told_in_the_order_of_their_numbers():
    with start(serve_threaded) as server, contextlib.ExitStack() as stack:
        for number in range(11):
            echoed(stack.enter_context(Client(server, name=f"c{number}")), "x")
        labels = list(server.timeline().thread_spans)
    assert labels == ["server thread", *(f"thread {number}" for number in range(1, 12))]


def test_threads_with_names_of_their_own_come_last():
    def serve(host, port):
        with socket.create_server((host, port)) as s:
            for name in ("a worker", None):
                threading.Thread(target=s.accept, name=name).start()
            s.accept()

    with start(serve) as server:
        server.settle()
        assert list(server.timeline().thread_spans) == ["server thread", "thread 1", "a worker"]


def test_a_thread_that_has_made_no_socket_call_is_there():
    over = threading.Event()

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            threading.Thread(target=over.wait, args=(LONG,)).start()
            s.accept()

    with start(serve) as server:
        server.settle()
        lines = threads_of(server).splitlines()
        over.set()
    assert lines[1:] == ["  server thread  waits in accept", "  thread 1       is in no call that is recorded"]


def test_what_the_workers_of_a_pool_do():
    def handle(conn):
        with conn:
            while data := conn.recv(100):
                conn.sendall(data)

    def serve(host, port):
        with ThreadPoolExecutor(max_workers=1) as pool, socket.create_server((host, port)) as s:
            while True:
                pool.submit(handle, s.accept()[0])

    with start(serve) as server, Client(server, name="alice") as alice, Client(server, name="bob") as bob:
        echoed(alice, "hello")
        bob.send("hi")
        accepted = "serve: 2 threads\n  server thread  accepted alice · accepted bob · waits in accept\n"
        assert threads_of(server) == accepted + "  thread 1       served alice · waits in recv for alice"
        assert stories(server)["bob"] == 'connected · accepted · "hi" unread'
        alice.close()
        assert bob.receive(timeout=LONG) == "hi"
        served = "  thread 1       served alice · served bob"
        assert threads_of(server) == f"{accepted}{served} · waits in recv for bob"
        bob.close()
        assert threads_of(server) == f"{accepted}{served} · is in no call that is recorded"
        check_spans(server.timeline())


def test_what_a_loop_over_select_does():
    def serve(host, port):
        with selectors.DefaultSelector() as chosen, socket.create_server((host, port)) as s:
            chosen.register(s, selectors.EVENT_READ)
            while True:
                for key, _ in chosen.select():
                    if key.fileobj is s:
                        chosen.register(s.accept()[0], selectors.EVENT_READ)
                    elif data := key.fileobj.recv(100):
                        key.fileobj.sendall(data)
                    else:
                        chosen.unregister(key.fileobj)
                        key.fileobj.close()

    with start(serve) as server, Client(server, name="alice") as alice:
        echoed(alice, "hello")
        with Client(server, name="bob") as bob:
            echoed(bob, "hi")
            echoed(alice, "again")
            timeline = server.timeline()
            assert str(timeline.by_thread()) == (
                "serve: 1 thread\n  server thread  accepted alice · served alice · accepted bob · served bob · "
                "served alice · is in no call that is recorded"
            )
            check_spans(timeline)
            assert not [span for spans in timeline.spans.values() for span in spans if span.state == IN_SEND]
            # It waits in select: nobody works for them.
            assert [spans[-1].state for spans in timeline.spans.values()] == [ACCEPTED, ACCEPTED]


def hands_on_by_its_number(host, port):
    with socket.create_server((host, port)) as door, socket.socket(fileno=door.accept()[0].detach()) as same:
        while data := same.recv(1024):
            same.sendall(data)
        door.accept()


def test_who_leaves_after_the_connection_was_handed_on_is_said_to_have_left_once():
    with start(hands_on_by_its_number, name="serve") as server, Client(server, name="alice") as alice:
        echoed(alice, "one")
        told = 'connected · accepted · "one" echoed · handed on to a file descriptor: not seen from here'
        assert stories(server)["alice"] == told
        alice.close()
        assert stories(server)["alice"] == f"{told} · left"


def closes_too_early(host, port, closed, ended):
    def talk(conn):
        closed.wait(LONG)
        with contextlib.suppress(OSError):
            conn.recv(1024)
        ended.set()

    with socket.create_server((host, port)) as door:
        while True:
            conn, _ = door.accept()
            with conn:
                threading.Thread(target=talk, args=(conn,)).start()
            closed.set()


def test_in_the_order_in_which_it_happened_and_who_closed():
    """The bug is in the order, and in the thread that closed."""
    closed, ended = threading.Event(), threading.Event()
    with (
        start(lambda host, port: closes_too_early(host, port, closed, ended), name="serve") as server,
        Client(server, name="alice") as alice,
    ):
        assert closed.wait(LONG)
        assert ended.wait(LONG)
        assert stories(server)["alice"] == "connected · accepted · closed by the server thread at its line"
        alice.offer(b"hi")
        assert stories(server)["alice"] == (
            'connected · accepted · closed by the server thread at its line · "hi" sent, never read'
        )


def test_what_was_sent_before_the_close_is_told_before_it():
    closes, closed = threading.Event(), threading.Event()

    def watchdog(conn):
        closes.wait(LONG)
        conn.shutdown(socket.SHUT_RDWR)
        conn.close()
        closed.set()

    def serve(host, port):
        with socket.create_server((host, port)) as door:
            conn, _ = door.accept()
            threading.Thread(target=watchdog, args=(conn,), name="watchdog").start()
            with contextlib.suppress(OSError):
                while data := conn.recv(1024):
                    conn.sendall(data)
            closed.wait(LONG)

    with start(serve) as server, Client(server, name="alice") as alice:
        echoed(alice, "one")
        closes.set()
        assert closed.wait(LONG)
        alice.offer(b"two")
        assert (
            stories(server)["alice"]
            == f'{SERVED} · "one" echoed · closed by watchdog at its line · "two" sent, never read'
        )
        closes.set()


def drawn_soon_after_the_first_event(times):
    """The words of the legends of so many timelines, drawn 1 to 100 ms after the first event."""
    for number in range(times):
        with start(serve_threaded) as server, Client(server, name="alice") as alice:
            echoed(alice, "hello" * (1 + 400 * (number % 2)))
            due = next(iter(server.observation.log)).began + (1 + number % 100) / 1000
            threading.Event().wait(max(0.0, due - server.observation.log.clock()))
            yield [text.get_text() for text in server.timeline().figure().legends[0].get_texts()]


def test_a_client_that_reads_is_not_said_not_to_read():
    assert not any(IN_SEND.legend in words for words in drawn_soon_after_the_first_event(times=20))


@pytest.mark.soak
@pytest.mark.parametrize("loaded", [False, True])
def test_a_client_that_reads_is_not_said_not_to_read_in_400_timelines(loaded, busy):
    with busy() if loaded else contextlib.nullcontext():
        wrong = sum(IN_SEND.legend in words for words in drawn_soon_after_the_first_event(times=200))
    assert not wrong


def test_a_send_that_waited_for_room_is_told_also_afterwards():
    """The client reads late, and all of it: the kernel knows for how long its window was closed."""
    with start(answering(lambda data: data * 10_000_000)) as server, Client(server, name="alice") as alice:
        alice.send("x")
        assert server.timeline().spans["alice"][-1].state == IN_SEND
        threading.Event().wait(0.3)  # as long as it is to be told afterwards
        assert alice.receive(timeout=LONG, size=10_000_000) == "x" * 10_000_000
        timeline = server.timeline()
        (waited,) = [span for span in timeline.spans["alice"] if span.state == IN_SEND]
        assert waited.end - waited.begin > 0.2
        assert IN_SEND.legend in [text.get_text() for text in timeline.figure().legends[0].get_texts()]


def test_what_a_handler_that_is_stuck_in_sendall_does():
    with start(answering(lambda data: data * 10_000_000)) as server, Client(server, name="alice") as alice:
        alice.send("x")
        timeline = server.timeline()
        assert str(timeline.by_thread()) == (
            "serve: 1 thread\n  server thread  accepted alice · served alice · is in sendall to alice"
        )
        last = timeline.spans["alice"][-1]
        assert (last.state, last.end, last.thread) == (IN_SEND, timeline.now, "server thread")
        assert timeline.thread_spans["server thread"][-1] == last
        check_spans(timeline)
    assert str(server.timeline().by_thread()).endswith("served alice · ended")


@pytest.mark.parametrize("answers_first", [False, True])
def test_what_a_handler_that_computes_does(answers_first):
    computes, over = threading.Event(), threading.Event()

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            conn, _ = s.accept()
            with conn:
                data = conn.recv(100)
                if answers_first:
                    conn.sendall(data)
                while not over.is_set():
                    computes.set()
                    sum(range(1000))
                conn.recv(100)

    with start(serve) as server, Client(server, name="alice") as alice:
        try:
            alice.send("hello")
            assert computes.wait(LONG)
            timeline = server.timeline()
        finally:
            over.set()
    assert str(timeline.by_thread()) == (
        "serve: 1 thread\n  server thread  accepted alice · served alice · is in no call that is recorded"
    )
    last = timeline.spans["alice"][-1]
    assert (last.state, last.end) == (WORKS, timeline.now)
    assert timeline.table()[0]["seconds busy"] >= last.end - last.begin
    check_spans(timeline)


# -- clients that are not ours ---------------------------------------------------------------------------------------

STRANGER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.sendall(b"knock")
    print("connected", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def stranger(server):
    """A client in a process of its own, which has connected and sent something; it leaves when its input ends."""
    command = [sys.executable, "-c", STRANGER, str(server.address[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert select.select([process.stdout], [], [], LONG)[0], "it did not connect"
            assert process.stdout.readline() == "connected\n"
            yield process
            process.stdin.close()
            assert process.wait(LONG) == 0
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who waits")
def test_a_stranger_that_waits_is_seen_and_how_long_it_waited_is_known():
    with start(serve_single) as server, Client(server, name="alice") as alice:
        echoed(alice, "hello")
        before = server.timeline().now
        with stranger(server):
            waiting = server.timeline()
            assert waiting.story(waiting.lanes[-1]) == "connected · waits in the backlog behind alice"
            (span,) = waiting.spans["client 2"]
            assert (span.state, span.end) == (BACKLOG, waiting.now)
            assert before <= span.begin <= waiting.now
            check_spans(waiting)
            with pytest.raises(NoReply):
                alice.receive(timeout=0.1)
            alice.close()
            server.settle()
            accepted = server.timeline()
            told = (
                'connected · waited in the backlog for alice · accepted · served by the server thread · "knock" echoed'
            )
            assert accepted.story(accepted.lanes[-1]) == told
            row = accepted.table()[-1]
            assert 0.08 <= row["seconds waited"] <= accepted.now - before  # to a tick of the kernel
            check_spans(accepted)
    assert str(waiting).endswith("waits in the backlog behind alice")


def test_a_client_that_the_server_breaks_off():
    """It closes with bytes unread, which resets the connection: our client notices, a stranger tells nobody."""

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                conn, _ = s.accept()
                with conn:
                    conn.recv(1)

    with start(serve) as server, Client(server, name="alice") as alice, stranger(server):
        alice.send("hello")
        with pytest.raises(Reset):
            alice.receive(timeout=LONG)
        server.settle()
        told = stories(server)
    assert told["alice"] == f'{SERVED} · "hello" 1 of 5 bytes read · broken off by the server (reset) at its line'
    assert told["client 2"].endswith("· closed by the server at its line")


def test_what_cannot_be_drawn_is_refused_when_it_is_asked_for():
    with start(serve_single) as server, Client(server, name="alice"):
        timeline = server.timeline()
        for wrong in (server, [timeline], timeline.by_thread()):
            with pytest.raises(TypeError, match="takes timelines or snapshots, all of one kind, not"):
                side_by_side(timeline, wrong)


def test_of_thousands_the_text_tells_some():
    observation = Observation("serve", EventLog(clock=lambda: 9999.0))
    for number in range(1000):
        end = Connection(("127.0.0.1", number))
        observation.log.add("accept", float(number), end, "server thread", ended=number + 0.5)
        observation.log.add("recv", number + 0.5, end, f"thread {number + 1}", ended=number + 0.7)
    timeline = Timeline.of(observation)
    observation.close_all()
    for view, last in ((timeline, "  client 1000"), (timeline.by_thread(), "  thread 1000")):
        title, *lines = str(view).splitlines()
        assert title.startswith("serve: 1,00")
        assert len(lines) == 200
        assert lines[-2] in ("  … 801 more …", "  … 802 more …")
        assert lines[-1].startswith(last)


def test_nothing_cannot_be_put_together():
    with pytest.raises(TypeError, match="takes timelines"):
        side_by_side()
