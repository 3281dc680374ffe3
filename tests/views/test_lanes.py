"""The one engine, fed with events that are made by hand, and two users of it that must tell the same story."""

import contextlib
import random
import socket
import sys
import threading

import pytest

import echo_kit
from echo_kit.live.feed import Live
from echo_kit.views.kernel import acked, short_of_room
from echo_kit.views.lanes import TRANSITIONS, Lanes, Pending, folded
from echo_kit.views.states import ACCEPTED, BACKLOG, CONNECTING, IN_ACCEPT, IN_RECV, IN_SEND, PAUSED, STATES, WORKS
from echo_kit.views.timeline import Timeline
from echo_kit.watch.events import KINDS, Connection, EventLog, SocketEvent
from echo_kit.watch.observation import Observation, Task

THREAD = "server thread"
MUCH = 1_000_000  # bytes: of so many, a send may wait for room


class Run:
    """Events of one connection, or of several, made by hand."""

    def __init__(self, name="alice", port=1):
        self.client, self.server = Connection(("127.0.0.1", port), name), Connection(("127.0.0.1", port))
        self.events = []

    def add(self, kind, began, ended, size=0, error="", thread=THREAD):
        ours = kind == "connect" or kind.startswith("client ")
        end, thread = (self.client, "") if ours else (self.server, thread)
        self.events.append(SocketEvent(kind, began, ended, end, thread, size, b"x" * size, error))
        return self

    def fold(self, *others, selects=False, missed=False):
        lanes = Lanes()
        lanes.selects = selects
        events = sorted(
            [*self.events, *(event for each in others for event in each.events)], key=lambda each: each.ended
        )
        lanes.fold(events, missed)
        return lanes


def served(name="alice", port=1):
    return Run(name, port).add("connect", 0, 1).add("accept", 0, 2)


def bar(lane, now=99.0):
    """(state, begin, end) of each stretch of a lane."""
    lane.last(now)
    return [span[:3] for span in (*lane.arrival(now), *lane.spans)]


def only(lanes):
    (lane,) = lanes.lanes.values()
    return lane


def test_a_conversation_is_told_without_a_gap():
    run = served().add("recv", 2, 5, 1).add("send", 6, 7, MUCH).add("recv", 8, 11).add("close", 12, 13)
    lanes = run.fold()
    assert bar(only(lanes)) == [
        (CONNECTING, 0, 1),
        (BACKLOG, 1, 2),
        (IN_RECV, 2, 5),
        (WORKS, 5, 6),
        (IN_SEND, 6, 7),
        (WORKS, 7, 8),
        (IN_RECV, 8, 11),
        (WORKS, 11, 12),
    ]
    assert [span[:3] for span in lanes.threads[THREAD]][:2] == [(IN_ACCEPT, 0, 2), (IN_RECV, 2, 5)]
    assert only(lanes).ending() == "left"


@pytest.mark.parametrize(
    ("began", "ended", "size", "kernel", "state"),
    [
        (4, 5, MUCH, None, IN_SEND),
        (4, 5, MUCH, 0.9, IN_SEND),
        (4, 5, MUCH, 0.0, WORKS),  # it waited for a processor, or for Python's lock
        (4, 5, 4096, None, WORKS),  # so much every kernel takes at once
        (4, 4.05, MUCH, None, WORKS),
    ],
)
def test_only_a_send_that_waited_for_room_is_said_to_wait(began, ended, size, kernel, state):
    run = served().add("recv", 2, 3, 1).add("send", began, ended, size)
    lanes = Lanes(room=lambda end: kernel if end is run.server else None)
    lanes.fold(run.events)
    assert bar(only(lanes), ended)[-1] == (state, began, ended)


def test_a_stretch_that_another_thread_has_cut_short_by_a_close_ends_there():
    run = served().add("recv", 2, 3, 1).add("recv", 4, 6, 1, thread="thread 1").add("close", 5, 6.5, thread="thread 2")
    assert bar(only(run.fold()))[2:] == [(IN_RECV, 2, 3), (ACCEPTED, 3, 4), (IN_RECV, 4, 5)]


def test_a_send_of_few_bytes_waits_for_room_behind_others_that_the_client_has_not_read():
    run = served().add("send", 2, 2.01, 4000).add("send", 3, 4, 100)
    assert bar(only(run.fold()), 4)[-1] == (IN_SEND, 3, 4)
    run.add("client recv", 2, 2.5, 4000)
    assert bar(only(run.fold()), 4)[-1] == (WORKS, 3, 4)


def test_the_kernel_knows_how_long_a_connection_was_short_of_room():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as end:
        conn, _ = listener.accept()
        with conn:
            conn.sendall(b"hello" * 10_000)
            assert short_of_room(conn) in (None, 0.0) if sys.platform != "linux" else short_of_room(conn) < 0.01
            thread = threading.Thread(target=conn.sendall, args=(bytes(20_000_000),))
            thread.start()
            thread.join(0.3)
            assert thread.is_alive(), "nobody reads"
            assert sys.platform != "linux" or 0.1 < short_of_room(conn) < 1
            left = 20_050_000
            while left:
                left -= len(end.recv(1 << 20))
            thread.join()
        assert short_of_room(conn) is acked(conn) is None, "it is closed"


def test_a_message_is_kept_once_as_our_client_tells_it():
    run = served().add("client send", 2, 3, 1).add("recv", 2, 4, 1).add("send", 5, 6, MUCH).add("client recv", 6, 7, 1)
    lane = only(run.fold())
    assert [event.kind for event in lane.to_server + lane.to_client] == ["client send", "client recv"]
    assert [event.kind for event in lane.answers] == ["send"]


def test_a_close_right_after_a_send_says_nothing_of_the_time_between():
    """A recv that a stop has ended may have come between the two, without a record."""
    assert bar(only(served().add("recv", 2, 3, 1).add("send", 4, 5, MUCH).add("close", 9, 9).fold()))[-2:] == [
        (IN_SEND, 4, 5),
        (ACCEPTED, 5, 9),
    ]


def test_after_a_send_a_server_that_selects_may_be_anywhere():
    run = served().add("recv", 2, 3, 1).add("send", 4, 5, MUCH).add("recv", 8, 9, 1)
    assert bar(only(run.fold()), 9)[-2:] == [(WORKS, 5, 8), (IN_RECV, 8, 9)]
    assert bar(only(run.fold(selects=True)), 9)[-2:] == [(ACCEPTED, 5, 8), (IN_RECV, 8, 9)]


def test_work_counts_for_the_connection_of_both_calls_only():
    alice, bob = served(), served("bob", 2)
    alice.add("recv", 2, 3, 1)
    bob.add("recv", 5, 6, 1)
    lanes = alice.fold(bob)
    one, other = lanes.lanes.values()
    assert bar(one, 7) == [(CONNECTING, 0, 1), (BACKLOG, 1, 2), (IN_RECV, 2, 3), (ACCEPTED, 3, 7)]
    assert bar(other, 7)[-3:] == [(ACCEPTED, 2, 5), (IN_RECV, 5, 6), (ACCEPTED, 6, 7)]


def test_what_a_thread_was_held_for_is_no_work():
    run = served().add("recv", 2, 3, 1).add("pause", 4, 8).add("send", 8, 9, MUCH)
    assert bar(only(run.fold()), 9)[2:] == [(IN_RECV, 2, 3), (WORKS, 3, 4), (PAUSED, 4, 8), (IN_SEND, 8, 9)]


def test_nothing_lies_after_the_close():
    """Another thread closes while this one is in recv: its record comes last, and only the part before counts."""
    run = served().add("close", 5, 5.5, thread="thread 1").add("recv", 3, 8, error="OSError").add("send", 8, 9)
    assert bar(only(run.fold())) == [(CONNECTING, 0, 1), (BACKLOG, 1, 2), (ACCEPTED, 2, 3), (IN_RECV, 3, 5)]


def test_two_threads_at_one_connection_do_not_overlap():
    run = served().add("recv", 2, 6, 1, thread="thread 1").add("send", 3, 7, MUCH, thread="thread 2")
    assert bar(only(run.fold()), 7)[2:] == [(IN_RECV, 2, 6), (IN_SEND, 6, 7)]
    assert only(run.fold()).threads == ["thread 1", "thread 2"]


@pytest.mark.parametrize(
    ("calls", "ending"),
    [
        ([("recv", 3, 4, 0, "ConnectionResetError")], "broke off (reset)"),
        ([("send", 3, 4, 0, "BrokenPipeError")], "broke off (reset)"),
        ([("recv", 3, 4, 0, "")], "left"),
        ([("recv", 3, 4, 0, "ServerStopped")], ""),
        ([("client close", 3, 4, 0, "")], "left"),
        ([("close", 3, 4, 0, "")], "closed by the server thread"),
        ([("close", 3, 4, 0, ""), ("client close", 5, 6, 0, "")], "closed by the server thread"),
        (
            [("close", 3, 4, 0, ""), ("client recv", 5, 6, 0, "ConnectionResetError")],
            "broken off by the server (reset)",
        ),
        ([("recv", 2, 3, 1, ""), ("shutdown", 3, 4, 0, "")], "closed by the server"),
        ([("recv", 3, 4, 0, "OSError")], ""),
        ([("recv", 2, 4, 0, ""), ("shutdown", 3, 5, 0, "")], "closed by the server"),
    ],
)
def test_how_it_ended(calls, ending):
    run = served()
    for kind, began, ended, size, error in calls:
        run.add(kind, began, ended, size, error)
    assert only(run.fold()).ending() == ending


def test_the_accept_may_be_told_before_the_connect():
    run = Run().add("accept", 0, 2).add("connect", 0, 3).add("client send", 3, 4, 1).add("recv", 2, 5, 1)
    lane = only(run.fold())
    assert (lane.name, lane.connected, lane.accepted) == ("alice", 2, 2)
    assert [event.kind for event in lane.to_server] == ["client send"]


def test_the_next_client_from_the_same_port_has_a_lane_of_its_own():
    first, second = served("first").add("close", 3, 4), Run("second").add("connect", 5, 6).add("accept", 5, 7)
    assert [lane.name for lane in first.fold(second).lanes.values()] == ["first", "second"]


def test_a_call_that_lasts_is_told_until_now_and_again_when_it_has_ended():
    run = served().add("recv", 2, 3, 1)
    lanes = run.fold()
    for now in (9, 10):
        (span,) = lanes.lasting([Pending(THREAD, "recv", run.server, 5.0)], now)
        assert span[:3] == (IN_RECV, 5, now)
    assert [span[:3] for span in only(lanes).spans] == [(IN_RECV, 2, 3), (WORKS, 3, 5)]
    lanes.fold([SocketEvent("recv", 5.0, 11.0, run.server, THREAD)])
    assert bar(only(lanes), 12)[-3:] == [(WORKS, 3, 5), (IN_RECV, 5, 11), (ACCEPTED, 11, 12)]


def test_in_no_call_it_works_for_the_one_of_its_last_call():
    run = served().add("recv", 2, 3, 1)
    lanes = run.fold()
    (span,) = lanes.lasting([Pending(THREAD, "", None, 0.0)], 9)
    assert (span.state, span.begin, span.end, span.client) == (WORKS, 3, 9, "alice")
    assert lanes.lasting([Pending("thread 1", "", None, 0.0)], 9) == []


def test_a_call_that_has_ended_since_it_was_noted_is_not_told_as_lasting():
    run = served().add("recv", 2, 6, 1)
    assert run.fold().lasting([Pending(THREAD, "recv", run.server, 2.0)], 9) == []


def test_where_events_are_missing_nothing_is_said_of_the_time_between():
    run = served().add("recv", 2, 3, 1)
    lanes = run.fold()
    lanes.fold([SocketEvent("send", 8, 9, run.server, THREAD, 1, b"x")], missed=True)
    assert bar(only(lanes), 9)[-2:] == [(IN_RECV, 2, 3), (IN_SEND, 8, 9)]
    later = Run("bob", 2).add("connect", 9, 10).add("accept", 9, 11).add("recv", 20, 21, 1).fold(missed=True)
    assert bar(only(later), 21) == [(CONNECTING, 9, 10), (BACKLOG, 10, 11), (IN_RECV, 20, 21)]


def test_what_the_log_has_dropped_is_made_up_for():
    alice, bob, carol, gone = Run(), Run("bob", 2), Run("carol", 3), Run("gone", 4)
    observation = Observation("by hand", EventLog(capacity=2))
    observation.close_all()
    observation.clients += [alice.client, bob.client, carol.client, gone.client]
    observation.accepted |= {each.server.client: each.server for each in (alice, bob, gone)}
    carol.client.closed = gone.client.closed = gone.server.closed = True
    for event in gone.add("accept", 0, 1).events + alice.add("recv", 5, 6, 1).events + bob.add("accept", 7, 8).events:
        observation.log.append(tuple(event))
        observation.log.count()
    told = {
        lane.name: (lane.connected, lane.accepted, lane.left)
        for lane in folded(observation, list(observation.log)).lanes.values()
    }
    assert told == {"alice": (5, 5, None), "bob": (5, 8, None), "carol": (5, None, 5)}
    assert [span.state for span in folded(observation, list(observation.log)).lanes[1].spans] == [IN_RECV], (
        "nothing is said of the time before"
    )


def test_a_lane_that_is_forgotten_leaves_nothing():
    run = served()
    lanes = run.fold()
    lanes.forget(only(lanes))
    lanes.keep_threads(set())
    left = {name: part for name, part in vars(lanes).items() if hasattr(part, "__len__") and len(part)}
    assert left == {}


def test_every_kind_of_call_of_a_server_has_a_transition():
    told = {kind for kind in KINDS if not kind.startswith("client ")} - {"listen", "connect"}
    assert set(TRANSITIONS) == told
    used = {state for rule in TRANSITIONS.values() for state in (rule.during, rule.after) if state is not None}
    assert used | {CONNECTING, BACKLOG, ACCEPTED} == set(STATES)
    assert len({state.name for state in STATES}) == len(STATES)


# -- the same run, told by both users --------------------------------------------------------------------------------


class Recorded:
    """A run that is over, played back event by event: all of its threads are there, and in no call that is known."""

    def __init__(self, observation, events):
        self.log = EventLog(clock=observation.log.clock)
        self.played = Observation(observation.name, self.log)
        self.played.close_all()
        self.played.clients, self.played.accepted = observation.clients, observation.accepted
        self.played.functions = observation.functions
        tasks = [Task(self.played, label, None) for label in {event.thread for event in events} - {""}]
        self.played.alive = lambda: tasks
        self.events = events

    def play(self, count):
        """The next `count` events; False when there are no more."""
        for event in self.events[:count]:
            self.log.append(tuple(event))
            self.log.count()
        del self.events[:count]
        return bool(self.events)


def told_by_the_feed(observation, events, chance):
    """What a page has at the end: for each name the times, the words of its end, and the stretches that are sent."""
    recorded = Recorded(observation, events)
    live = Live(recorded.played)
    lanes = {}
    more = True
    while more:
        more = recorded.play(chance.randint(1, 40))
        if not more:
            recorded.played.stopping = True
        for given in live.look().get("lanes", ()):
            lane = lanes.setdefault(given["id"], {"stretches": []})
            lane["stretches"] += given.pop("stretches", [])
            lane.update(given)
    return {lane["name"]: lane for lane in lanes.values()}, live.zero


def crowd(server, chance):
    def talks(number):
        for turn in range(2):
            with echo_kit.Client(server, f"{number}.{turn}") as client:
                with contextlib.suppress(echo_kit.EchoError):  # a server may hang up after one answer
                    for _ in range(chance.randint(0, 3)):
                        client.send("x" * chance.randint(1, 2000))
                        client.receive(timeout=30)
                if chance.random() < 0.3:
                    client.vanish()

    threads = [threading.Thread(target=talks, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve_slowly(host, port):
    """One client at a time, with work that is long enough to be seen."""
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                try:
                    while data := conn.recv(1024):
                        threading.Event().wait(0.012)
                        conn.sendall(data)
                except ConnectionError:
                    pass


def serve_once(host, port):
    """One answer each; between it and the close, no thread is seen at the connection."""
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                with contextlib.suppress(ConnectionError):
                    conn.sendall(conn.recv(2000))
                threading.Event().wait(0.012)


@pytest.mark.parametrize("serve", [echo_kit.serve_single, echo_kit.serve_threaded, serve_slowly, serve_once])
def test_the_timeline_and_the_stage_tell_the_same_of_a_recorded_run(serve, monkeypatch):
    monkeypatch.setattr("echo_kit.live.feed.SHORTEST", 0.0)
    chance = random.Random(7)
    with echo_kit.start(serve) as server:
        crowd(server, chance)
        server.settle()
    observation = server.observation
    timeline = Timeline.of(observation)
    pages, zero = told_by_the_feed(observation, list(observation.log), chance)
    assert pages.keys() == {lane.name for lane in timeline.lanes}
    for lane in timeline.lanes:
        page = pages[lane.name]
        times = (lane.connecting, lane.connected, lane.accepted, lane.left, lane.ended)
        told = [page[name] for name in ("connecting", "connected", "accepted", "left", "ended")]
        assert told == pytest.approx([time - zero for time in times], abs=0.0002)
        assert page["words"].endswith(lane.ending())
        spans = [span for span in timeline.spans[lane.name] if span.state not in (CONNECTING, BACKLOG, IN_RECV)]
        assert [each[0] for each in page["stretches"]] == [span.state.name for span in spans]
        for (_, begin, end), span in zip(page["stretches"], spans, strict=True):
            assert [begin, end] == pytest.approx([span.begin - zero, span.end - zero], abs=0.0002)


@pytest.mark.parametrize("to", ["to ssl", "to a child process"])
def test_what_was_handed_on_is_neither_closed_nor_unread(to):
    observation = Observation("serve", EventLog(clock=lambda: 9.0))
    observation.close_all()
    run = served().add("close", 3, 4)
    run.server.handed_on, run.client.sent = to, 1
    observation.clients.append(run.client)
    for event in [*run.events, SocketEvent("client send", 5, 6, run.client, "", 1, b"x")]:
        observation.log.append(tuple(event))
        observation.log.count()
    timeline = Timeline.of(observation)
    assert [timeline.story(lane) for lane in timeline.lanes] == [
        f'connected · accepted · handed on {to}: not seen from here · "x" sent'
    ]
    run.client.sent, run.client.received = 1, 1
    observation.log.add("client recv", 6.5, run.client, size=1, data=b"x", ended=7.0)
    observation.log.add("client close", 8.0, run.client, ended=8.0)
    timeline = Timeline.of(observation)
    assert [timeline.story(lane) for lane in timeline.lanes] == [
        f'connected · accepted · handed on {to}: not seen from here · "x" echoed · left'
    ]


def told(run, sizes, reads, closed_at=""):
    """The story and the row of a client that sends so many bytes each time, of whom the recvs return so many."""
    observation = Observation("serve", EventLog(clock=lambda: 99.0))
    observation.close_all()
    observation.clients.append(run.client)
    run.client.sent, run.server.received, run.server.closed_at = sum(sizes), sum(reads), closed_at
    for number, size in enumerate(sizes):
        run.add("client send", 2 + number, 2.5 + number, size)
    for number, size in enumerate(reads):
        run.add("recv", 20 + number, 20.5 + number, size)
    run.add("close", 40, 41)
    for event in sorted(run.events, key=lambda each: each.ended):
        observation.log.append(tuple(event))
        observation.log.count()
    timeline = Timeline.of(observation)
    (lane,), (row,) = timeline.lanes, timeline.table()
    return timeline.story(lane), row["sends per recv"], row["closed by"], row["closed at"]


@pytest.mark.parametrize(
    ("sizes", "reads", "words", "counts"),
    [
        ([1, 2], [1, 2], "", [1, 1]),
        ([1, 2], [3], ' · one recv returned "x" and "xx"', [2]),
        ([4], [2, 2], "", [1, 1]),
        ([1, 2, 3, 4], [10], ' · one recv returned "x", "xx", "xxx" and "xxxx"', [4]),
        ([1, 2, 3, 4, 5], [15], ' · one recv returned "x", "xx", … 2 more … and "xxxxx"', [5]),
        ([1] * 6, [2, 2, 2], ' · one recv returned "x" and "x"' * 3, [2, 2, 2]),
        ([3, 3], [2, 3, 1], ' · one recv returned "xxx" and "xxx"', [1, 2, 1]),
    ],
)
def test_which_sends_one_recv_returned(sizes, reads, words, counts):
    story, per_recv, closer, line = told(served(), sizes, reads)
    assert story.endswith(f"read, not answered{words} · closed by the server")
    assert (per_recv, closer, line) == (counts, THREAD, "")


def test_who_closed_it_at_which_line():
    story, _, closer, line = told(served(), [2], [2], closed_at="line 6 of serve")
    assert story.endswith('"xx" read, not answered · closed by the server at line 6 of serve')
    assert (closer, line) == (THREAD, "line 6 of serve")
    story, *_ = told(served(), [2], [], closed_at="line 6 of serve")
    assert story == ('connected · accepted · "xx" sent, never read · closed by the server thread at line 6 of serve')
