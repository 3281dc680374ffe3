"""What a live view is told: the same as the three views say, though each look tells only what has changed."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import echo_kit
from echo_kit import live as live_module
from echo_kit.live import TO_CLIENT, TO_SERVER, Live
from echo_kit.timeline import ACCEPTED, BACKLOG, IN_RECV, IN_SEND, WORKS, Timeline


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

    def until(self, condition, timeout=10):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, (self.parts, self.lanes)
            self.look()


@pytest.fixture
def page_of():
    opened = []

    def make(server):
        opened.append(Live(server._observation))
        return Page(opened[-1])

    yield make
    for live in opened:
        live.close()
        assert live.observation.log._append == live.observation.log._records.append


@pytest.fixture
def single():
    with echo_kit.start(echo_kit.serve_single, name="single") as server:
        yield server


@pytest.fixture
def threaded():
    with echo_kit.start(echo_kit.serve_threaded, name="threaded") as server:
        yield server


def agrees(page, server):
    """Whether the page shows what the three views say."""
    server.settle()
    page.look()
    view, queue = server.where(), server.backlog()
    marks = [
        (line.text.strip(), str(mark).replace(":", ""))
        for function in view.functions
        for line in function.lines
        for mark in line.marks
    ]
    assert page.marks() == marks
    assert page.parts["code"]["title"] == view.title
    page.until(lambda: [tuple(row[:2]) for row in page.parts["backlog"]["rows"]] == list(queue.lines()))
    assert page.parts["backlog"]["title"] == queue.title
    lanes = Timeline.of(server._observation).lanes
    shown = sorted(page.lanes.values(), key=lambda lane: lane["id"])
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
            assert exact is None or abs(exact - zero - said) < 0.02, (name, mine)
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
        page.until(lambda: page.state("alice"))
        state, began = page.lane("alice")["since"]
        page.until(lambda: page.parts["now"] - began > 0.05)
        assert state == WORKS
        released.set()
        alice.receive()
        page.until(lambda: page.state("alice") is None)
        server.settle()
        page.look()
        (works,) = page.lane("alice")["stretches"]
        timeline = server.timeline()
        (span,) = [span for span in timeline.spans["alice"] if span.state == WORKS and span.end - span.begin > 0.04]
        assert works[0] == WORKS
        assert works[1:] == pytest.approx([span.begin - page.live.zero, span.end - page.live.zero], abs=0.001)


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
            page.until(lambda: page.state("client 1") == IN_SEND)
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
            page.until(lambda: page.state("bob") == ACCEPTED)
            assert page.state("alice") is None
            page.until(lambda: page.parts["now"] - page.lane("bob")["since"][1] > 0.05)
            alice.close()
            page.until(lambda: page.state("bob") is None)
            page.until(lambda: [each[0] for each in page.lane("bob")["stretches"]] == [ACCEPTED])


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
        assert page.lane("alice")["stretches"] == []


def test_the_end_of_a_client_is_not_lost_in_a_flood(threaded, page_of, monkeypatch):
    monkeypatch.setattr("echo_kit.events.TRAFFIC", 10)
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
        assert len(page.lanes) == len(page.live._lanes) == 5
        assert page.lane("stays")["ended"] is None
        assert page.parts["words"] == "1 served · 0 waiting · 31 messages"
        assert len(page.live._by_end) + len(page.live._names) <= 3 * 5
        assert not page.live._waiting


def test_while_nobody_looks_no_more_is_kept(threaded, page_of, monkeypatch):
    monkeypatch.setattr(live_module, "LANES", 5)
    page = page_of(threaded)
    for _ in range(40):
        echo_kit.Client(threaded, "alice").close()
        threaded.settle()
        page.live.read()
        assert len(page.live._lanes) <= 11
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
            sizes.append({name: len(part) for name, part in vars(page.live).items() if hasattr(part, "__len__")})
        assert len(page.lanes) == 10
        first, second = (
            sum(each.values()) - each["_lines"] for each in sizes
        )  # what is printed has a bound of its own
        assert second <= first + 3, sizes
