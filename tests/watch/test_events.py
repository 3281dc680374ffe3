"""The log: bounded, ordered, counts what it drops, and can be read while threads write to it."""

import threading
import tracemalloc

import pytest

from echo_kit.watch.events import KINDS, PREVIEW, Connection, EventLog, Line, Printed, SocketEvent
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


def test_events_that_end_at_once_keep_their_order():
    log = EventLog(clock=lambda: 0.0)
    for size in range(600):
        log.add("send" if size % 2 else "recv", 0.0, ALICE, size=size)
    assert [event.size for event in log] == list(range(600))


def test_memory():
    """100,000 messages of 64 bytes in less than 30 MB, and each one more takes the place of an old one."""
    log = EventLog(capacity=100_000)
    tracemalloc.start()
    try:
        for number in range(100_000):
            log.add("recv", log.clock(), ALICE, "thread 1", 64, (b"%064d" % number)[:PREVIEW])
        full = tracemalloc.get_traced_memory()[0]
        for number in range(20_000):
            log.add("recv", log.clock(), ALICE, "thread 1", 64, (b"%064d" % number)[:PREVIEW])
        later = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (len(log), log.dropped) == (100_000, 20_000)
    assert full < 30e6
    assert later < full + 1e5


def test_what_the_patched_calls_append_is_in_the_log():
    """They call `append` with a plain tuple, and `count`."""
    log = EventLog(capacity=2)
    for ended in (2.0, 4.0, 6.0):
        log.append(("recv", ended - 1, ended, ALICE, "thread 1", 3, b"abc", ""))
        log.count()
    assert list(log)[1] == SocketEvent("recv", 5.0, 6.0, ALICE, "thread 1", 3, b"abc")
    assert (len(log), log.total, log.dropped) == (2, 3, 1)
    assert (log.total, log.dropped) == (3, 1)  # to ask does not count


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


def began(events):
    return [event.began for event in events]


def test_a_reader_gets_what_was_before_and_then_what_comes_each_once():
    log = EventLog()
    for number in range(3):
        log.add("recv", float(number), Connection(()), size=number + 1)
    reader = log.reader()
    log.add("close", 3.0, Connection(()))
    assert began(reader.read()) == [0, 1, 2, 3]
    assert (reader.read(), reader.missed) == ([], False)
    log.add("send", 4.0, Connection(()), size=1)
    log.add("recv", 5.0, Connection(()))  # the end of file
    later = log.reader()
    assert [(event.kind, event.began) for event in reader.read()] == [("send", 4), ("recv", 5)]
    assert reader.read() == []
    assert began(later.read()) == [0, 1, 2, 3, 4, 5]  # each reader has a place of its own


def test_a_reader_gets_events_in_the_order_in_which_the_calls_ended():
    log = EventLog()
    reader = log.reader()
    for ended in (3.0, 1.0, 2.0):
        log.add("recv", 0.0, ALICE, ended=ended)
    assert [event.ended for event in reader.read()] == [1.0, 2.0, 3.0]


def test_a_reader_bounds_the_traffic_and_keeps_all_else():
    log = EventLog()
    reader = log.reader()
    reader.read(most=10)
    log.add("accept", 0.0, Connection(()))
    for number in range(100):
        log.add("recv", 1.0 + number, Connection(()), size=1)
    log.add("recv", 101.0, Connection(()))
    log.add("send", 102.0, Connection(()), error="BrokenPipeError")
    kinds = [(event.kind, event.began) for event in reader.read(most=10)]
    assert kinds[0] == ("accept", 0)
    assert kinds[1:10] == [("recv", number) for number in range(92, 101)]
    assert kinds[10:] == [("recv", 101), ("send", 102)]
    assert reader.missed
    log.add("recv", 103.0, Connection(()), size=1)
    assert began(reader.read(most=10)) == [103]
    assert not reader.missed


def test_a_reader_says_where_events_may_be_missing():
    log = EventLog(capacity=10)
    reader = log.reader()
    log.add("recv", 0.0, Connection(()), size=1)
    assert (len(reader.read()), reader.missed) == (1, False)
    for count, got, missed in ((9, 9, False), (10, 10, True), (0, 0, False), (13, 10, True), (1, 1, False)):
        for number in range(count):
            log.add("recv", float(number), Connection(()), size=1)
        assert (len(reader.read()), reader.missed) == (got, missed)


def test_readers_lose_nothing_while_threads_add(busy):
    log = EventLog()
    for number in range(500):
        log.add("close", 0.0, Connection(("before", number)))
    readers = [log.reader() for _ in range(2)]

    def add(who):
        for number in range(2_000):
            log.add("close", 0.0, Connection((who, number)))

    threads = [threading.Thread(target=add, args=(who,)) for who in range(4)]
    got = [[], []]
    with busy():
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for each, reader in zip(got, readers, strict=True):
                each.extend(reader.read())
                assert not reader.missed
        for each, reader in zip(got, readers, strict=True):
            each.extend(reader.read())
    assert (log.total, log.dropped) == (500 + 4 * 2_000, 0)
    for each in got:
        clients = [event.connection.client for event in each]
        assert len(clients) == len(set(clients)) == 500 + 4 * 2_000
        for who in range(4):
            assert [number for whose, number in clients if whose == who] == list(range(2_000))


def test_what_is_cleaned_up_while_a_line_is_kept_may_print():
    """Python collects garbage at any moment, and what it finds may warn: in the middle of another line."""
    printed = Printed()

    def lines():
        printed.add([Line("thread 1", None, "cleaned up")])
        yield Line("thread 1", None, "done")

    thread = threading.Thread(target=printed.add, args=(lines(),), daemon=True)
    thread.start()
    thread.join(20)
    assert [line.text for line in printed.lines] == ["cleaned up", "done"]
