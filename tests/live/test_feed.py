"""What a live view is told: the same as the three views say, though each look tells only what has changed."""

import contextlib
import dataclasses
import json
import random
import select
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

import echo_kit
from echo_kit.live import feed as live_module
from echo_kit.live.feed import TO_CLIENT, TO_SERVER, Live
from echo_kit.views import backlog, kernel, looks
from echo_kit.views.code import Mark
from echo_kit.views.states import ACCEPTED, BACKLOG, IN_RECV, IN_SEND, WORKS
from echo_kit.views.timeline import Timeline
from echo_kit.watch import calls, sockets
from echo_kit.watch.events import Connection, EventLog
from echo_kit.watch.frames import thread_frames
from echo_kit.watch.observation import Observation

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who waits in the backlog")


class Page:
    """Keeps what a page would keep: the whole picture first, then each change."""

    def __init__(self, live):
        self.live = live
        self.lanes, self.log, self.parts, self.size = {}, [], {}, 0
        self.look()

    def look(self):
        change = json.loads(json.dumps(self.live.look()))
        self.size = len(json.dumps(change))
        self.parts |= {name: part for name, part in change.items() if name not in ("lanes", "log", "gone")}
        for given in change.get("lanes", ()):
            lane = self.lanes.setdefault(given["id"], {"stretches": [], "marks": []})
            stretches, marks = given.pop("stretches", []), given.pop("marks", [])
            lane.update(given)
            lane["stretches"] = (lane["stretches"] + stretches)[-live_module.STRETCHES :]
            lane["marks"] = (lane["marks"] + marks)[-live_module.MARKS :]
        for number in change.get("gone", ()):
            del self.lanes[number]
        self.log = (self.log + change.get("log", []))[-live_module.LINES :]
        return change

    def lane(self, name):
        (lane,) = [lane for lane in self.lanes.values() if lane["name"] == name]
        return lane

    def state(self, name):
        """What lasts on that lane, or nothing."""
        return next((lane["since"][0] for lane in self.lanes.values() if lane["name"] == name and lane["since"]), None)

    def marks(self):
        """(the line, the words) of each mark in the code."""
        lines = [line for function in self.parts["code"]["functions"] for line in function["lines"] if line]
        return [
            (text.strip(), " ".join(filter(None, mark[1:])).replace(":", "")) for text, marks in lines for mark in marks
        ]

    def until(self, condition, expected=lambda: "", timeout=10):
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"expected {expected()}, shows {self.parts}, {self.lanes}")
            self.look()


@pytest.fixture
def page_of():
    opened = []

    def make(server):
        opened.append(Live(server.observation))
        return Page(opened[-1])

    return make


@pytest.fixture
def single():
    with echo_kit.start(echo_kit.serve_single, name="single") as server:
        yield server


@pytest.fixture
def threaded():
    with echo_kit.start(echo_kit.serve_threaded, name="threaded") as server:
        yield server


def code_of(server):
    """The title of the code view, and (the line, the words) of each mark in it."""
    view = server.where()
    return view.title, [
        (line.text.strip(), str(mark).replace(":", ""))
        for function in view.functions
        for line in function.lines
        for mark in line.marks
    ]


def agrees(page, server, at_once=False):
    """Whether the page shows what the three views say."""
    server.settle()
    page.look()
    # Whether a thread runs or waits is seen from a second look; and one that waits for a lock may have moved meanwhile.
    page.until(lambda: (page.parts["code"]["title"], page.marks()) == code_of(server), lambda: code_of(server))
    queue = server.backlog()
    page.until(lambda: [tuple(row[:2]) for row in page.parts["backlog"]["rows"]] == list(queue.lines()))
    assert page.parts["backlog"]["title"] == queue.title
    lanes = Timeline.of(server.observation).lanes
    shown = sorted(page.lanes.values(), key=lambda lane: lane["id"])
    if at_once:  # of those that connect at once, either may be the first
        shown, lanes = sorted(shown, key=lambda lane: lane["name"]), sorted(lanes, key=lambda lane: lane.name)
    assert [lane["name"] for lane in shown] == [lane.name for lane in lanes]
    zero = page.live.zero
    for lane, mine in zip(lanes, shown, strict=True):
        for name in ("connecting", "connected", "accepted", "ended"):
            exact, said = getattr(lane, name), mine[name]
            if name == "connected" and lane.client is None and exact is None:
                continue  # a stranger: whoever looks at the backlog all the time knows more
            assert (exact is None) == (said is None), (name, mine)
            if name == "connected" and exact is not None and lane.accepted is not None:
                exact = min(exact, lane.accepted)  # our client may be told of it later than the server
            # When a stranger connected, two looks at the kernel have found out: each as late as the machine is busy.
            apart = 0.5 if name == "connected" and lane.client is None else 0.02
            assert exact is None or abs(exact - zero - said) < apart, (name, mine)
    whole = json.loads(json.dumps(page.live.whole()))
    assert {lane["id"]: lane for lane in whole["lanes"]} == page.lanes
    assert whole["log"] == page.log
    assert all(whole[name] == page.parts[name] for name in ("words", "code", "backlog", "stopped"))


def test_bob_waits_and_is_served_when_alice_leaves(single, page_of):
    page = page_of(single)
    assert page.parts["words"] == "0 served · 0 waiting · 0 messages"
    alice = echo_kit.Client(single, "alice")
    alice.send("hello")
    alice.receive()
    with echo_kit.Client(single, "bob") as bob:
        bob.send("hi")
        agrees(page, single)
        assert page.parts["words"] == "1 served · 1 waiting · 1 message"
        assert page.lane("bob")["words"] == "waits in the backlog"
        assert page.lane("alice")["words"] == "server thread · 1 message"
        assert page.parts["backlog"]["rows"][0][0] == "bob"
        assert page.parts["backlog"]["rows"][0][2] == page.lane("bob")["connected"]
        assert [mark[1:] for mark in page.lane("alice")["marks"]] == [[TO_SERVER, '"hello"'], [TO_CLIENT, '"hello"']]
        assert [mark[1:] for mark in page.lane("bob")["marks"]] == [[TO_SERVER, '"hi"']]
        alice.close()
        bob.receive()
        agrees(page, single)
        assert page.parts["words"] == "1 served · 0 waiting · 2 messages"
        assert page.lane("alice")["words"] == "1 message · left"
    agrees(page, single)
    assert page.parts["words"] == "0 served · 0 waiting · 2 messages"
    assert [text for _, text in page.log] == single.log.lines()
    assert page.log[1][0] == "alice (server thread)"
    single.stop()
    page.look()
    assert page.parts["stopped"]


def test_the_picture_of_the_end_stays(single, page_of):
    page = page_of(single)
    echo_kit.Client(single, "alice").close()
    page.until(lambda: page.lanes and page.lane("alice")["ended"] is not None)
    single.stop()
    end = page.look()["now"]
    log = single.observation.log
    later = log.clock() + 2 * live_module.KEPT
    log.clock = lambda: later
    assert page.look() == {"now": end}
    assert page.lane("alice")


def test_a_look_that_finds_nothing_new_is_small(threaded, page_of):
    with echo_kit.Client(threaded, "alice") as alice:
        alice.send("hello")
        alice.receive()
        page = page_of(threaded)
        threaded.settle()
        page.look()
        assert set(page.look()) == {"now"}


def test_what_happened_before_the_first_look_is_shown(threaded, page_of):
    with echo_kit.Client(threaded, "alice") as alice, echo_kit.Client(threaded, "bob"):
        alice.send("hello")
        alice.receive()
        agrees(page_of(threaded), threaded)


def test_strangers_are_seen_in_the_backlog_and_keep_their_lane(single, page_of):
    page = page_of(single)
    with echo_kit.Client(single, "alice"):
        with socket.create_connection(single.address) as stranger:
            stranger.sendall(b"hi")
            page.until(lambda: page.parts["backlog"]["rows"])
            if not single.backlog().complete:
                pytest.skip("this system does not tell of strangers")
            page.until(lambda: page.parts["backlog"]["rows"][0][1] == "2 bytes unread")
            (lane,) = [lane for lane in page.lanes.values() if lane["name"] != "alice"]
            assert page.parts["backlog"]["rows"][0][0] == lane["name"] == "client 2"
            assert lane["connected"] is not None
        # It has left; the kernel keeps it until it is accepted.
        page.until(lambda: "has closed its side" in page.parts["backlog"]["rows"][0][1])
    page.until(lambda: page.lane("client 2")["ended"] is not None)
    assert len(page.lanes) == 2
    agrees(page, single)


def test_a_stranger_that_breaks_off_waits_no_longer(single, page_of):
    page = page_of(single)
    with echo_kit.Client(single, "alice"):
        stranger = socket.create_connection(single.address)
        page.until(lambda: page.parts["backlog"]["rows"])
        if not single.backlog().complete:
            stranger.close()
            pytest.skip("this system does not tell of strangers")
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stranger.close()
        page.until(lambda: "1 broken off" in page.parts["words"])
        page.until(lambda: page.lane("client 2")["ended"] is not None)
        assert page.lane("client 2")["words"] == "left, was never accepted"
        assert page.lane("client 2")["left"] < page.parts["now"]


def invents_nothing(page, name, server):
    """Each stretch that is drawn is one of the timeline's, too. (On a loaded machine, anything may last.)"""
    zero = page.live.zero
    spans = [(span.state.name, span.begin - zero, span.end - zero) for span in server.timeline().spans[name]]
    for state, *times in page.lane(name)["stretches"]:
        assert any(state == span[0] and times == pytest.approx(span[1:], abs=0.001) for span in spans), (state, times)


def works_for(client_says, released):
    """A server that works on `client_says` until `released` is set."""

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            while True:
                conn, _ = listener.accept()
                with conn:
                    while data := conn.recv(1024):
                        if data == client_says:
                            released.wait(10)
                        conn.sendall(data)

    return serve


def test_work_is_drawn_while_it_lasts_and_when_it_is_over(page_of):
    released = threading.Event()
    with echo_kit.start(works_for(b"work", released)) as server, echo_kit.Client(server, "alice") as alice:
        page = page_of(server)
        alice.send("work")
        page.until(lambda: page.state("alice") == WORKS.name)
        began = page.lane("alice")["since"][1]
        page.until(lambda: page.parts["now"] - began > 0.05)
        released.set()
        alice.receive()
        page.until(lambda: page.state("alice") is None)
        server.settle()
        page.look()
        (works,) = [each for each in page.lane("alice")["stretches"] if each[0] == WORKS.name]
        timeline = server.timeline()
        spans = [span for span in timeline.spans["alice"] if span.state == WORKS]
        (span,) = [span for span in spans if span.end - span.begin > 0.04]
        _, begin, end = works
        assert begin == pytest.approx(span.begin - page.live.zero, abs=0.001)
        # On a busy machine sendall lasts, too, and is drawn as the same work.
        assert span.end - 0.001 <= end + page.live.zero <= spans[-1].end + 0.001


def test_a_sendall_that_waits_is_told(page_of):
    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                conn.recv(10)
                conn.sendall(bytes(50_000_000))

    with echo_kit.start(serve) as server:
        page = page_of(server)
        with socket.create_connection(server.address) as client:
            client.sendall(b"x")
            page.until(lambda: page.state("client 1") == IN_SEND.name)
            page.until(lambda: any("waits in sendall" in words for _, words in page.marks()))
            agrees(page, server)


def test_accepted_and_no_thread_is_there(page_of):
    def serve(host, port):
        with socket.create_server((host, port)) as listener, ThreadPoolExecutor(1) as pool:
            while True:
                conn, _ = listener.accept()
                pool.submit(handle, conn)

    def handle(conn):
        with conn:
            while conn.recv(10):
                pass

    with echo_kit.start(serve) as server:
        page = page_of(server)
        with echo_kit.Client(server, "alice") as alice, echo_kit.Client(server, "bob"):
            alice.send("x")
            page.until(lambda: page.state("bob") == ACCEPTED.name)
            assert page.state("alice") is None
            page.until(lambda: page.parts["now"] - page.lane("bob")["since"][1] > 0.05)
            alice.close()
            page.until(lambda: page.state("bob") is None)
            page.until(lambda: [each[0] for each in page.lane("bob")["stretches"]] == [ACCEPTED.name])


def test_after_a_gap_it_does_not_say_what_it_cannot_know(threaded, page_of, monkeypatch):
    """In a flood the events of bob are lost, too: between his last and his next nobody knows what his thread did."""
    monkeypatch.setattr(live_module, "TRAFFIC", 10)
    page = page_of(threaded)
    with echo_kit.Client(threaded, "alice") as alice, echo_kit.Client(threaded, "bob") as bob:
        for client in (bob, alice):
            client.send("x")
            client.receive()
        threaded.settle()
        page.look()
        for client in [bob] + [alice] * 50:
            client.send("x")
            client.receive()
        threaded.settle()
        page.live.read()
        assert page.live._reader.missed
        assert page.live._lanes.lanes[page.lane("bob")["id"]].seen is None
        bob.send("again")
        bob.receive()
        threaded.settle()
        page.look()
        invents_nothing(page, "bob", threaded)


def test_what_is_too_short_to_be_seen_does_not_flicker(page_of):
    """A thread that is seen between two calls is not said to work before it has done so for a while."""
    released = threading.Event()
    with echo_kit.start(works_for(b"work", released)) as server, echo_kit.Client(server, "alice") as alice:
        page = page_of(server)
        now = page.live.observation.log.clock
        alice.send("work")
        page.until(lambda: page.state("alice"))
        sent = page.live._sent[page.live._lanes.lanes[1]]
        assert sent.since[1] <= now() - live_module.SHORTEST
        calls = live_module.pending_calls(page.live.observation)
        page.live._see_what_lasts(calls, sent.since[1] + live_module.SHORTEST / 2)
        assert sent.since is None
        released.set()
        alice.receive()


def test_a_flood_is_thinned_and_counted_exactly(threaded, page_of):
    page = page_of(threaded)
    with echo_kit.Client(threaded, "alice") as alice:
        for _ in range(3_000):
            alice.send("x")
            alice.receive()
        threaded.settle()
        change = page.look()
        assert page.parts["words"] == "1 served · 0 waiting · 3,000 messages"
        assert page.parts["thinned"]
        assert len(page.lane("alice")["marks"]) <= live_module.MARKS
        assert page.size < 30_000, change
        invents_nothing(page, "alice", threaded)


def test_the_end_of_a_client_is_not_lost_in_a_flood(threaded, page_of, monkeypatch):
    monkeypatch.setattr(live_module, "TRAFFIC", 10)
    page = page_of(threaded)
    with echo_kit.Client(threaded, "alice") as alice:
        with echo_kit.Client(threaded, "bob"):
            pass
        for _ in range(200):
            alice.send("x")
            alice.receive()
        threaded.settle()
        agrees(page, threaded)
        assert page.lane("bob")["words"] == "left"


def test_lanes_that_have_ended_are_forgotten_and_their_messages_counted(threaded, page_of, monkeypatch):
    monkeypatch.setattr(live_module, "LANES", 5)
    page = page_of(threaded)
    with echo_kit.Client(threaded, "stays") as stays:
        stays.send("x")
        stays.receive()
        for number in range(30):
            with echo_kit.Client(threaded, f"client {number}") as client:
                client.send("x")
                client.receive()
            threaded.settle()
            page.look()
        page.look()
        assert len(page.lanes) == len(page.live._lanes.lanes) == 5
        assert page.lane("stays")["ended"] is None
        assert page.parts["words"] == "1 served · 0 waiting · 31 messages"
        assert len(page.live._lanes._by_end) <= 2 * 5
        assert len(page.live._sent) <= 5
        assert not page.live._lanes.waiting()


def test_while_nobody_looks_no_more_is_kept(threaded, page_of, monkeypatch):
    monkeypatch.setattr(live_module, "LANES", 5)
    page = page_of(threaded)
    for _ in range(40):
        echo_kit.Client(threaded, "alice").close()
        threaded.settle()
        page.live.read()
        assert len(page.live._lanes.lanes) <= 11
    page.look()
    assert len(page.lanes) <= 5


def test_a_lane_is_kept_for_as_long_as_it_can_be_seen(threaded, page_of, monkeypatch):
    page = page_of(threaded)
    echo_kit.Client(threaded, "alice").close()
    threaded.settle()
    page.look()
    assert page.lane("alice")["ended"] is not None
    monkeypatch.setattr(live_module, "KEPT", 0.0)
    assert page.look()["gone"]
    assert not page.lanes


def test_printed_lines_come_once_and_are_bounded(page_of, monkeypatch):
    monkeypatch.setattr(live_module, "LINES", 10)

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            while True:
                conn, _ = listener.accept()
                with conn:
                    while data := conn.recv(1024):
                        for number in range(int(data)):
                            print("line", number, "\x1b[31m<b>" + "x" * 1000)
                        conn.sendall(data)

    with echo_kit.start(serve) as server, echo_kit.Client(server, "alice") as alice:
        page = page_of(server)
        for count in (3, 2, 50):
            alice.send(str(count))
            alice.receive()
            change = page.look()
            assert len(change["log"]) == min(count, 10)
        assert "log" not in page.look()
        assert [text.split()[1] for _, text in page.log] == [str(number) for number in range(40, 50)]
        assert all(text.split()[2].startswith("\\x1b[31m<b>x") and len(text) == 300 for _, text in page.log)


def test_two_of_one_name_are_told_apart(threaded, page_of):
    page = page_of(threaded)
    with echo_kit.Client(threaded, "alice"), echo_kit.Client(threaded, "alice"):
        agrees(page, threaded)
        assert {lane["name"] for lane in page.lanes.values()} == {"alice", "alice (2)"}


def test_connecting_waiting_and_served_add_up(single, page_of):
    """The stretches that a page draws from the times of a lane are those of the timeline."""
    page = page_of(single)
    with echo_kit.Client(single, "alice") as alice:
        with echo_kit.Client(single, "bob") as bob:
            alice.close()
            bob.send("x")
            bob.receive()
            agrees(page, single)
            spans = {span.state: span for span in single.timeline().spans["bob"]}
            lane, zero = page.lane("bob"), page.live.zero
            waited = [spans[BACKLOG].begin - zero, spans[BACKLOG].end - zero]
            assert [lane["connected"], lane["accepted"]] == pytest.approx(waited, abs=0.001)
            assert IN_RECV in spans


def test_many_at_once_under_load(threaded, page_of, busy):
    """Whatever order the threads' records come in, the page ends with what the views say."""
    page = page_of(threaded)
    with busy():
        clients = []
        for round_ in range(5):
            clients += [echo_kit.Client(threaded, f"{round_}-{number}") for number in range(6)]
            for client in clients:
                client.send("hello")
            page.look()
            for client in clients:
                client.receive()
            clients.pop(0).close()
            page.look()
        for client in clients:
            client.close()
        threaded.settle(timeout=10)
    page.until(lambda: all(lane["ended"] is not None for lane in page.lanes.values()))
    agrees(page, threaded)


def test_what_is_kept_of_connections_that_are_gone_does_not_grow(page_of, monkeypatch):
    monkeypatch.setattr(live_module, "LANES", 10)
    with echo_kit.start(echo_kit.serve_threaded) as server:
        page = page_of(server)
        sizes = []
        for _ in range(2):
            for _ in range(30):
                with socket.create_connection(server.address) as client:
                    client.sendall(b"hi")
                    assert client.recv(10) == b"hi"
                    page.until(lambda: [lane["since"] for lane in page.lanes.values() if not lane["ended"]] == [None])
                page.until(lambda: all(lane["ended"] for lane in page.lanes.values()))
            parts = vars(page.live) | vars(page.live._lanes)
            sizes.append({name: len(part) for name, part in parts.items() if hasattr(part, "__len__")})
        assert len(page.lanes) == 10
        first, second = (
            sum(each.values()) - each["_lines"] for each in sizes
        )  # what is printed has a bound of its own
        assert second <= first + 3, sizes


def test_a_function_that_is_called_from_two_places(page_of):
    def read(conn):
        return conn.recv(10)

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                read(conn)
                while read(conn):
                    pass

    with echo_kit.start(serve) as server, echo_kit.Client(server, "alice") as alice:
        page = page_of(server)
        agrees(page, server)
        alice.send("x")
        agrees(page, server)
        assert ("while read(conn):", "↳ server thread is inside read") in page.marks()


def test_a_thread_that_goes_on_while_it_is_looked_at(page_of, monkeypatch):
    """What was seen of its next call is not taken for what it does when it is back where it was."""

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                while conn.recv(10):
                    conn.sendall(bytes(20_000_000))

    with echo_kit.start(serve) as server, socket.create_connection(server.address) as client:
        page = page_of(server)
        client.sendall(b"x")
        page.until(lambda: any("waits in sendall" in words for _, words in page.marks()))

        def goes_on():
            frames = thread_frames()
            left = 20_000_000
            while left:
                left -= len(client.recv(left))
            server.settle()
            return frames

        with monkeypatch.context() as patch:
            patch.setattr(looks, "thread_frames", goes_on)
            page.look()
        agrees(page, server)
        assert any("waits in recv" in words for _, words in page.marks())


@pytest.fixture
def small_log(monkeypatch):
    monkeypatch.setattr("echo_kit.server.EventLog", lambda most: EventLog(capacity=30))


def test_a_full_log_has_forgotten_how_they_came(small_log, page_of):
    with echo_kit.start(echo_kit.serve_threaded) as server:
        with echo_kit.Client(server, "gone"), socket.create_connection(server.address) as stranger:
            with echo_kit.Client(server, "alice") as alice, echo_kit.Client(server, "bob"):
                stranger.sendall(b"x")
                for _ in range(30):
                    alice.send("hello")
                    alice.receive()
                server.settle()
                page = page_of(server)
                assert page.parts["words"] == "4 served · 0 waiting · 31 messages"
                assert page.parts["thinned"]
                names = [lane["name"] for lane in page.lanes.values()]
                assert sorted(names) == ["alice", "bob", "client 2", "gone"]
                assert sum("waits in recv for" in words for _, words in page.marks()) == 4
                assert page.lane("alice")["marks"]
                assert page.lane("alice")["accepted"] == 0
        page.until(lambda: all(lane["ended"] is not None for lane in page.lanes.values()))


def test_a_full_log_has_forgotten_who_waits(small_log, page_of):
    with echo_kit.start(echo_kit.serve_single) as server:
        with echo_kit.Client(server, "alice") as alice, echo_kit.Client(server, "bob"):
            with echo_kit.Client(server, "early"):
                pass
            for _ in range(30):
                alice.send("hello")
                alice.receive()
            page = page_of(server)
            page.until(lambda: page.parts["backlog"]["rows"])
            assert page.parts["backlog"]["rows"] == [
                ["bob", "nothing to read", 0],
                ["early", "nothing to read, has closed its side", 0],
            ]
            assert page.lane("early")["words"] == "left, was never accepted"
            assert page.lane("bob")["words"] == "waits in the backlog"
            alice.close()
            page.until(lambda: page.lane("bob")["accepted"] is not None)


def test_a_full_log_has_forgotten_who_connected_and_knows_who_was_accepted(small_log, single, page_of):
    with echo_kit.Client(single, "alice") as alice, echo_kit.Client(single, "bob") as bob:
        for _ in range(30):
            alice.send("hello")
            alice.receive()
        alice.close()
        bob.send("hi")
        bob.receive()
        single.settle()
        assert [event.connection.client for event in single.observation.log if event.kind == "accept"]
        assert not [event for event in single.observation.log if event.kind == "connect"]
        page = page_of(single)
        (lane,) = [lane for lane in page.lanes.values() if lane["ended"] is None]
        assert lane["name"] == "bob"
        assert lane["accepted"] > lane["connected"] == 0


def from_port(port, address):
    """A client from a port of its own choice (0: any). From 127.0.0.1 somebody else may use that port by now."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.83.65.75", port))
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def break_off(sock):
    sockets.reset_on_close(sock)
    sock.close()


def catches(host, port):
    """Serves one client at a time, and outlives one that breaks off."""
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn, contextlib.suppress(ConnectionError):
                while data := conn.recv(1024):
                    conn.sendall(data)


@ON_LINUX
def test_a_stranger_that_comes_again_from_the_same_port(page_of):
    with echo_kit.start(catches) as server:
        page = page_of(server)
        first = from_port(0, server.address)
        port = first.getsockname()[1]
        page.until(lambda: page.lanes and page.lane("client 1")["accepted"] is not None)
        break_off(first)
        page.until(lambda: page.lane("client 1")["ended"] is not None)
        later = time.monotonic() + 0.03  # the kernel tells to its tick, 10 ms at most, when a client has arrived
        page.until(lambda: time.monotonic() > later)
        with echo_kit.Client(server, "alice") as alice:
            again = from_port(port, server.address)
            page.until(lambda: any(lane["name"] == "client 3" for lane in page.lanes.values()))
            assert page.lane("client 3")["words"] == "waits in the backlog"
            row = ["client 3", page.lane("client 3")["connected"]]
            page.until(lambda: [row[::2] for row in page.parts["backlog"]["rows"]] == [row])
            break_off(again)
            page.until(lambda: page.lane("client 3")["ended"] is not None)
            third = from_port(port, server.address)
            page.until(lambda: any(lane["name"] == "client 4" for lane in page.lanes.values()))
            alice.close()
            page.until(lambda: page.lane("client 4")["accepted"] is not None)
            break_off(third)
        page.until(lambda: page.lane("client 4")["ended"] is not None)


@ON_LINUX
def test_a_stranger_that_is_being_accepted_has_not_left(single, page_of, monkeypatch):
    """The kernel has given it out, and the thread that took it waits for Python's lock."""
    taken, goes_on, plain = threading.Event(), threading.Event(), calls.plain_accept

    def accept(listener):
        pair = plain(listener)
        taken.set()
        assert goes_on.wait(10)
        return pair

    page = page_of(single)
    with echo_kit.Client(single, "alice") as alice, socket.create_connection(single.address):
        page.until(lambda: page.parts["backlog"]["rows"])
        monkeypatch.setattr(calls, "plain_accept", accept)
        alice.close()
        assert taken.wait(10)
        for _ in range(5):
            page.look()
        goes_on.set()
        page.until(lambda: page.lane("client 2")["accepted"] is not None)
        assert len(page.lanes) == 2
        assert page.lane("client 2")["left"] is None


def test_nothing_is_remembered_of_threads_that_have_ended(page_of):
    """They need not say that they end: these do not close."""
    kept = []

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            while True:
                threading.Thread(target=handle, args=listener.accept()[:1]).start()

    def handle(conn):
        kept.append(conn)
        conn.recv(10)
        conn.recv(10)

    with echo_kit.start(serve) as server:
        page = page_of(server)
        for number in range(10):
            with echo_kit.Client(server, f"client {number}") as client:
                client.send("x")
                page.until(lambda: page.live._lanes._last)
            server.settle()
            page.look()
            assert not page.live._lanes._last


def test_names_of_strangers_are_not_kept(threaded, page_of, monkeypatch):
    monkeypatch.setattr(live_module, "LANES", 5)
    page = page_of(threaded)
    for _ in range(20):
        socket.create_connection(threaded.address).close()
        threaded.settle()
        page.look()
    assert len(page.live._lanes._names._given) <= 6
    with echo_kit.Client(threaded, "client 22") as named, socket.create_connection(threaded.address):
        page.until(lambda: "client 22 (2)" in [lane["name"] for lane in page.lanes.values()])
        assert page.lane("client 22")["ended"] is None
        named.close()


def test_after_a_stop_nobody_waits(single, page_of):
    page = page_of(single)
    with echo_kit.Client(single, "alice"), echo_kit.Client(single, "bob"):
        agrees(page, single)
        single.stop()
        page.look()
        assert page.lane("bob")["words"] == "was never accepted"
        assert page.lane("alice")["words"].endswith("cut off: the server was stopped")
    page.look()
    assert page.lane("bob")["words"] == "left, was never accepted"


def test_a_line_that_is_printed_during_a_look_has_its_client(threaded, page_of, monkeypatch):
    page, opened = page_of(threaded), []
    read = page.live.read

    def read_and_then_it_connects():
        read()
        if not opened:
            opened.append(echo_kit.Client(threaded, "alice"))
            threaded.settle()

    monkeypatch.setattr(page.live, "read", read_and_then_it_connects)
    page.look()
    page.look()
    assert opened.pop().close() is None
    assert [who for who, text in page.log if text.startswith("Connected by")] == ["alice (thread 1)"]


def test_which_thread_is_at_it_now(page_of):
    turns = [threading.Semaphore(1), threading.Semaphore(0)]

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                other = threading.Thread(target=takes_turns, args=(conn, 1))
                other.start()
                takes_turns(conn, 0)
                other.join()

    def takes_turns(conn, mine):
        data = b"x"
        while data:
            turns[mine].acquire(timeout=10)
            data = conn.recv(10)
            turns[1 - mine].release()

    with echo_kit.start(serve) as server, echo_kit.Client(server, "alice") as alice:
        page = page_of(server)
        for count, thread in enumerate(["server thread", "thread 1", "server thread", "thread 1"]):
            page.until(lambda thread=thread: page.lane("alice")["words"].startswith(thread))
            if count == 1:
                assert page.lane("alice")["words"] == "thread 1 · 1 message"
            alice.send("x")


@pytest.fixture
def by_hand():
    """A live view of events that a test makes up."""
    observation = Observation("made up")
    live = Live(observation)
    yield live, observation.log
    observation.close_all()


def test_nobody_is_connected_after_it_was_accepted(by_hand):
    """Our client was told of it later than the server, and its record came first."""
    live, log = by_hand
    log.add("connect", 1.0, Connection(("127.0.0.1", 1), "alice"), ended=2.0)
    live.read()
    log.add("accept", 0.0, Connection(("127.0.0.1", 1)), "server thread", ended=1.5)
    (lane,) = live.look()["lanes"]
    assert (lane["connecting"], lane["connected"], lane["accepted"]) == (0, 0.5, 0.5)


def test_who_comes_while_a_full_log_is_read_comes_once(small_log, by_hand):
    live, log = by_hand
    ends = Connection(("127.0.0.1", 1)), Connection(("127.0.0.1", 1), "alice")
    for _ in range(31):
        log.add("listen", 0.0, Connection(()))
    live.observation.accepted[ends[0].client] = ends[0]
    live.observation.clients.append(ends[1])
    live.read()
    log.add("accept", 0.0, ends[0])
    log.add("connect", 0.0, ends[1])
    assert [lane["name"] for lane in live.look()["lanes"]] == ["alice"]


def test_a_table_is_asked_for_only_so_often(single):
    watch = backlog.Watch(single.observation)
    with echo_kit.Client(single, "alice"):
        single.settle()
        watch.look([])
        watch._due = float("inf")
        first = watch.look([])
        with echo_kit.Client(single, "bob"):
            assert watch.look([]) is first
            watch._due = 0.0
            assert len(watch.look([])) == 1
            watch._due = float("inf")
            single.stop()
            assert not watch.look([]).listens


@ON_LINUX
@pytest.mark.parametrize("who", ["half", "unanswered", "broken_off"])
def test_an_empty_backlog_is_looked_at_again_if_somebody_was_near_it(single, who):
    watch = backlog.Watch(single.observation)
    quiet = watch.look([])
    watch._due = 0.0
    assert watch.look([]) is quiet
    watch._backlog = dataclasses.replace(quiet, **{who: 1})
    assert getattr(watch.look([]), who) == 0


def test_where_the_system_does_not_tell_ours_are_known(single, page_of, monkeypatch):
    monkeypatch.setattr(kernel, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(kernel, "queued", lambda _: None)
    page = page_of(single)
    with echo_kit.Client(single, "alice") as alice, socket.create_connection(single.address):
        with echo_kit.Client(single, "bob") as bob:
            bob.send("hi")
            agrees(page, single)
            assert [row[:2] for row in page.parts["backlog"]["rows"]] == [["bob", "2 bytes unread"]]
            assert page.parts["backlog"]["rows"][0][2] == page.lane("bob")["connected"]
            assert page.parts["backlog"]["notes"] == ["(only clients of echo_kit: this system does not tell of others)"]
            assert [lane["name"] for lane in page.lanes.values()] == ["alice", "bob"]
            alice.close()
            page.until(lambda: len(page.lanes) == 3)
            assert page.lane("client 3")["accepted"] is not None


def serve_pool(host, port):
    with socket.create_server((host, port)) as listener, ThreadPoolExecutor(2) as pool:
        while True:
            pool.submit(serve_one, listener.accept()[0])


def serve_one(conn):
    with conn, contextlib.suppress(ConnectionError):
        while data := conn.recv(1024):
            if data == b"work":
                time.sleep(0.03)
            conn.sendall(data)


def serve_select(host, port):
    with socket.create_server((host, port)) as listener:
        conns = []
        while True:
            for sock in select.select([listener, *conns], [], [])[0]:
                if sock is listener:
                    conns.append(listener.accept()[0])
                    continue
                try:
                    data = sock.recv(1024)
                    if data == b"work":
                        time.sleep(0.03)
                    sock.sendall(data)
                except ConnectionError:
                    data = b""
                if not data:
                    conns.remove(sock)
                    sock.close()


def serve_each(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=serve_one, args=listener.accept()[:1]).start()


def serve_in_turn(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            serve_one(listener.accept()[0])


def test_what_happens_in_the_middle_of_a_look_is_not_lost(page_of, monkeypatch):
    """A look first notes who is in which call. Noted after the reading, a later call hid what had come before it."""
    with echo_kit.start(serve_in_turn) as server, echo_kit.Client(server, "alice") as alice:
        page = page_of(server)
        server.settle()
        page.look()
        read = page.live.read

        def slow():
            read()
            alice.send("work")
            assert alice.receive(timeout=10) == "work"
            server.settle()

        monkeypatch.setattr(page.live, "read", slow)
        page.look()
        monkeypatch.undo()
        page.look()
        assert [state for state, begin, end in page.lane("alice")["stretches"] if end - begin >= 0.03] == [WORKS.name]


LOOK = 0.02  # seconds; a shorter stretch can be missed, and is part of its neighbour then


def seen_by_the_eye(spans):
    """Those of the stretches (state, begin, end) that last longer than a look can miss."""
    return [each for each in spans if each[0] in (WORKS.name, IN_SEND.name) and each[2] - each[1] > LOOK]


def alike(one, other):
    """Whether they are the same stretch, as far as looks can tell."""
    return one[0] == other[0] and all(abs(a - b) <= LOOK for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("serve", [serve_in_turn, serve_each, serve_pool, serve_select])
def test_whatever_happens_it_ends_with_what_the_views_say(serve, seed, page_of, busy):
    chance = random.Random(seed)

    def one(name, acts):
        client = echo_kit.Client(server, name)
        for act in acts:
            client.send(act)
        if acts[-1] == "hello":
            client.close()
        elif acts[-1] == "x":
            client.vanish()
        else:
            stay.append(client)

    with echo_kit.start(serve) as server, contextlib.ExitStack() as stack:
        page, stay = page_of(server), []
        if seed:
            stack.enter_context(busy())
        for round_ in range(3):
            plans = [chance.choices(["hello", "work", "x"], k=chance.randint(1, 3)) for _ in range(3)]
            threads = [threading.Thread(target=one, args=(f"{round_}-{n}", plan)) for n, plan in enumerate(plans)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                page.look()
            for client in stay[chance.randint(0, len(stay)) :]:
                client.close()
        stack.close()
        assert server.settle(timeout=10)
        agrees(page, server, at_once=True)
        for client in stay:
            client.close()
        page.until(lambda: all(lane["ended"] is not None for lane in page.lanes.values()))
        agrees(page, server, at_once=True)
        for name, spans in server.timeline().spans.items():
            zero = page.live.zero
            told = [(state.name, begin - zero, end - zero) for state, begin, end, *_ in spans]
            shown = [tuple(each) for each in page.lane(name)["stretches"]]
            for one, other in ((told, shown), (shown, told)):
                assert all(any(alike(each, its) for its in other) for each in seen_by_the_eye(one)), (name, one, other)


def test_a_crowd_on_a_line_is_counted_and_those_that_differ_are_named():
    recv = [Mark("stands", f"thread {n}", f"waits in recv for recv {n}", f"recv {n}") for n in range(1, 31)]
    other = Mark("stands", "thread 31", "waits in recv for dave: nothing has come", "dave")
    held = [Mark("paused", f"thread {n}", f"paused before close of {n}'s connection", f"{n}") for n in range(40, 48)]
    inside = [Mark("inside", f"thread {n}", "is inside handle", "") for n in range(3)]
    assert [str(mark) for mark in live_module._crowd((*recv, other, *held, *inside))] == [
        "◀ 30 threads: each waits in recv for its client",
        "‖ 8 threads: each is paused before close of its client's connection",
        "◀ thread 31: waits in recv for dave: nothing has come",
        *(f"↳ thread {n}: is inside handle" for n in range(3)),
    ]


def test_of_a_long_backlog_some_are_told_and_all_are_counted(single, page_of):
    with contextlib.ExitStack() as clients:
        for number in range(backlog.TOLD + 6):
            clients.enter_context(echo_kit.Client(single, name=f"client {number}"))
        page = page_of(single)
        page.until(lambda: page.parts["backlog"]["waiting"] == backlog.TOLD + 5)
        queue = page.parts["backlog"]
        assert queue["told"] == backlog.TOLD - 1
        assert queue["rows"][queue["told"]][0] == "and 6 more"


def test_since_when_all_lanes_are_kept_is_told(threaded, page_of, monkeypatch):
    page = page_of(threaded)
    page.look()
    assert page.parts["since"] == 0
    monkeypatch.setattr(live_module, "LANES", 2)
    for number in range(4):
        echo_kit.Client(threaded, name=f"client {number}").close()
    page.until(lambda: page.parts["since"] > 0)
    assert page.parts["since"] <= page.parts["now"]
