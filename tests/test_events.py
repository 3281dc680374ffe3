"""The log: bounded, ordered, counts what it drops, and can be read while threads write to it."""

import dataclasses
import threading

import pytest

from echo_kit.events import Connection, EventLog, visible

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
    with pytest.raises(dataclasses.FrozenInstanceError):
        sent.size = 1


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
