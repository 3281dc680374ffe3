"""The log: bounded, ordered, counts what it drops, and can be read while threads write to it."""

import threading
import tracemalloc

import pytest

from echo_kit.watch import events
from echo_kit.watch.events import CAPACITY, KINDS, PREVIEW, Connection, EventLog, SocketEvent
from echo_kit.watch.text import visible

ALICE = Connection(("127.0.0.1", 1), name="alice")


def test_an_event_is_frozen_and_has_the_stamps_it_was_given():
    times = iter([5.0])
    log = EventLog(clock=lambda: next(times))
    log.add("recv", 1.0, ALICE, thread="thread 1", size=3, data=b"abc")
    log.add("send", 2.0, ALICE, ended=3.0, error="TimeoutError")
    sent, received = log
    assert (received.kind, received.began, received.ended) == ("recv", 1.0, 5.0)
    assert (received.thread, received.size, received.data) == ("thread 1", 3, b"abc")
    assert (sent.kind, sent.began, sent.ended, sent.error) == ("send", 2.0, 3.0, "TimeoutError")
    with pytest.raises(AttributeError):
        sent.size = 1


def test_an_event_comes_out_as_it_was_added():
    log, others = EventLog(), [Connection(ALICE.client, name=ALICE.name) for _ in range(3)]  # alike, but not the same
    added = [
        SocketEvent(kind, 0.1 * n, 0.1 * n + 1e-9, others[n % 3], f"thread {n % 4}", 2**40, b"\x00" * n)
        for n, kind in enumerate(KINDS)
    ]
    added.append(SocketEvent("recv", 0.0, 2e9, ALICE, "Tür 世", 0, b"", "ConnectionResetError"))
    for event in added:
        log.add(event.kind, event.began, *event[3:], ended=event.ended)
    assert list(log) == added
    assert [event.connection for event in log] == [event.connection for event in added]
    with pytest.raises(KeyError):
        log.add("no such call", 0.0, ALICE)


def test_events_that_end_at_once_keep_their_order():
    log = EventLog(clock=lambda: 0.0)
    for size in range(600):
        log.add("send" if size % 2 else "recv", 0.0, ALICE, size=size)
    assert [event.size for event in log] == list(range(600))


def test_memory():
    """100,000 messages of 64 bytes in less than 20 MB, a full log in less than 50 MB."""
    log = EventLog()
    tracemalloc.start()
    try:
        for number in range(CAPACITY + 1):
            log.add("recv", log.clock(), ALICE, "thread 1", 64, (b"%064d" % number)[:PREVIEW])
            if number == 99_999:
                first = tracemalloc.get_traced_memory()[0]
        full = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (len(log), log.dropped) == (CAPACITY, 1)
    assert first < 20e6
    assert full < 50e6


def test_what_is_added_later_is_there_when_it_is_looked_at():
    log = EventLog(capacity=2)
    log.add_later(("recv", 1.0, ALICE, "thread 1", 3, b"abc", 2.0))
    assert list(log) == [SocketEvent("recv", 1.0, 2.0, ALICE, "thread 1", 3, b"abc")]
    log.add_later(("recv", 3.0, ALICE, "thread 1", 2 * PREVIEW, b"x" * 2 * PREVIEW, 4.0))
    log.add("send", 5.0, ALICE, ended=6.0)
    assert (len(log), log.dropped) == (2, 1)
    assert [event.data for event in log] == [b"x" * PREVIEW, b""]


def test_threads_that_bring_new_connections_at_once(busy):
    log = EventLog(capacity=30_000)
    shared = [Connection(("127.0.0.1", number)) for number in range(1500)]

    def write(label):
        for size, connection in enumerate(shared):
            log.add_later(("recv", log.clock(), connection, label, size, b"", log.clock()))
            log.add("recv", log.clock(), Connection(("own", label, size)), label, size)

    threads = [threading.Thread(target=write, args=(f"thread {number}",)) for number in range(4)]
    with busy():
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for event in log:
                assert event.connection.client in [("127.0.0.1", event.size), ("own", event.thread, event.size)]
        for thread in threads:
            thread.join(20)
    assert (len(list(log)), log.dropped) == (4 * 2 * 1500, 0)
    for number in range(4):
        mine = [event.connection for event in log if event.thread == f"thread {number}"]
        assert mine[::2] == shared


def test_events_come_in_the_order_in_which_the_calls_ended():
    log = EventLog()
    for ended in (3.0, 1.0, 2.0):
        log.add("recv", 0.0, ALICE, ended=ended)
    assert [event.ended for event in log] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("capacity", "added"), [(3, 0), (3, 3), (3, 10), (1, 2)])
def test_the_newest_are_kept_and_the_others_counted(capacity, added):
    log, kept = EventLog(capacity), min(capacity, added)
    for number in range(added):
        log.add("recv", 0.0, ALICE, size=number, ended=float(number))
    assert (len(log), log.dropped) == (kept, added - kept)
    assert [event.size for event in log] == list(range(added))[-kept:] if kept else not list(log)


def test_a_log_without_room_is_refused():
    with pytest.raises(ValueError, match="at least 1 event, not 0"):
        EventLog(0)


def test_threads_write_while_it_is_read():
    log, gate = EventLog(capacity=500), threading.Barrier(5)

    def write():
        gate.wait(20)
        for _ in range(5000):
            log.add("recv", log.clock(), ALICE)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.wait(20)
    while any(thread.is_alive() for thread in threads):
        assert len(list(log)) <= 500
        assert log.dropped >= 0
    for thread in threads:
        thread.join()
    assert log.dropped == 4 * 5000 - 500


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 世 😀", "plain é 世 😀"),
        ("a\tb\r\n", "a\\tb\\r\\n"),
        ("\x1b[2J\x00\x7f", "\\x1b[2J\\x00\\x7f"),
        ("\u202e\u200b\ud800", "\\u202e\\u200b\\ud800"),
    ],
)
def test_what_came_from_a_client_does_not_move_the_cursor(text, shown):
    assert visible(text) == shown


def test_a_tap_gets_what_was_before_and_then_what_comes_each_once():
    log = EventLog()
    for number in range(3):
        log.add("recv", float(number), Connection(()), size=number + 1)
    tap = log.tap()
    log.add("close", 3.0, Connection(()))
    log.add_later(("recv", 4.0, Connection(()), "", 5, b"hello", log.clock()))
    assert [event.began for event in tap.read()] == [0, 1, 2, 3, 4]
    assert tap.read() == []
    log.add("send", 5.0, Connection(()), size=1)
    log.add("recv", 6.0, Connection(()))  # the end of file
    assert [(event.kind, event.began) for event in tap.read()] == [("send", 5), ("recv", 6)]
    tap.close()
    log.add("send", 7.0, Connection(()), size=1)
    assert tap.read() == []
    tap.close()


def test_a_log_without_a_tap_pays_nothing_for_taps():
    log = EventLog()
    plain = log._append
    one, other = log.tap(), log.tap()
    assert log._append != plain
    one.close()
    assert log._append != plain
    other.close()
    assert log._append == plain


def test_a_tap_bounds_the_traffic_and_keeps_all_else(monkeypatch):
    monkeypatch.setattr(events, "TRAFFIC", 10)
    log = EventLog(capacity=5)
    tap = log.tap()
    tap.read()
    log.add("accept", 0.0, Connection(()))
    for number in range(100):
        log.add("recv", 1.0 + number, Connection(()), size=1)
    log.add("recv", 101.0, Connection(()))
    log.add("send", 102.0, Connection(()), error="BrokenPipeError")
    kinds = [(event.kind, event.began) for event in tap.read()]
    assert kinds[0] == ("accept", 0)
    assert kinds[1:11] == [("recv", began) for began in range(91, 101)]
    assert kinds[11:] == [("recv", 101), ("send", 102)]
    assert tap.gap
    log.add("recv", 103.0, Connection(()), size=1)
    assert [event.began for event in tap.read()] == [103]
    assert not tap.gap
    tap.close()


def test_a_tap_that_comes_while_an_event_is_added_gets_it():
    log, numbers, got = EventLog(), iter([0, 256]), []

    def in_between():
        got.append(log.tap())
        assert got[0].read() == []
        return next(numbers)

    log._next = in_between
    log.add("close", 1.0, Connection(()))
    assert [event.began for event in log] == [1]
    assert [event.began for event in got[0].read()] == [1]
    got[0].close()


def test_a_tap_says_where_events_may_be_missing(monkeypatch):
    monkeypatch.setattr(events, "TRAFFIC", 10)
    monkeypatch.setattr(events, "OTHERS", 5)
    log = EventLog()
    tap = log.tap()
    for kind, size, room in (("recv", 1, 10), ("close", 0, 5)):
        tap.read()
        for count, gap in ((room - 1, False), (room + 1, True), (0, False), (room + 3, True), (1, False)):
            for number in range(count):
                log.add(kind, float(number), Connection(()), size=size)
            if count:
                assert tap.gap is False or count == 1  # nothing is said before it is read
            tap.read()
            assert tap.gap is gap
    tap.close()


def test_a_tap_loses_nothing_while_threads_add(busy):
    log = EventLog()
    for number in range(500):
        log.add("close", 0.0, Connection(("before", number)))
    taps = [log.tap() for _ in range(2)]

    def add(who):
        for number in range(2_000):
            log.add("close", 0.0, Connection((who, number)))

    threads = [threading.Thread(target=add, args=(who,)) for who in range(4)]
    got = [[], []]
    with busy():
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for each, tap in zip(got, taps, strict=True):
                each.extend(tap.read())
        for each, tap in zip(got, taps, strict=True):
            each.extend(tap.read())
            tap.close()
    for each in got:
        clients = [event.connection.client for event in each]
        assert len(clients) == len(set(clients)) == 500 + 4 * 2_000
        for who in range(4):
            assert [number for whose, number in clients if whose == who] == list(range(2_000))
