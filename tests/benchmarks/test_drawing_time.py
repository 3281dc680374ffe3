"""How long 100,000 messages take from the records to the picture, against a bare scatter plot of them by matplotlib.

The clients are other processes, as 1,000 of them would be: a message is two records, read and answered. All fit into
the log. The peer is what a student would write: it walks through the same records, draws a point for each, and saves a
picture of the same size, with no lane, word or legend.
"""

import io
import time

import pytest
from matplotlib.figure import Figure

from echo_kit.views.shown import Timeline
from echo_kit.watch.events import Connection, EventLog
from echo_kit.watch.observation import Observation

AIM = 2.0  # times as long as the bare scatter: 1.7 to 2.2 are usual, and 2.6 beside eight busy loops
RECORDS = 2  # of a message


def conversation(number, messages):
    """The calls of one client's thread, as (kind, began, ended, thread, bytes); times are in seconds."""
    at, label = 0.01 * number, f"thread {number + 1}"
    yield "accept", max(0.0, at - 0.0097), at + 0.0003, "server thread", b""
    before, at = at + 0.0005, at + 0.001
    for each in range(messages):
        data = b"message %d" % each
        yield "recv", before, at + 0.00003, label, data
        yield "send", at + 0.0002, at + 0.00023, label, data
        before, at = at + 0.000232, at + 0.001 + 0.0007 * ((number * 7 + each * 13) % 11)
    yield "recv", before, at + 0.00002, label, b""
    yield "close", at + 0.0001, at + 0.0002, label, b""


def filled(connections, messages):
    """The observation of a server with a thread for each client, all of whose events were kept."""
    calls = []
    for number in range(connections):
        end = Connection(("127.0.0.1", 10_000 + number), waited=0.03)
        for kind, began, ended, thread, data in conversation(number, messages):
            calls.append((ended, kind, began, end, thread, data))
            end.sent += len(data) if kind == "send" else 0
            end.received += len(data) if kind == "recv" else 0
            end.messages += bool(data) and kind == "recv"
    calls.sort(key=lambda call: call[0])
    observation = Observation("serve_threaded", EventLog(clock=lambda: calls[-1][0]))
    observation.close_all()
    for ended, kind, began, end, thread, data in calls:
        observation.log.add(kind, began, end, thread, len(data), data, ended=ended)
    assert not observation.log.dropped
    return observation


def seconds(work):
    """Of the processor, and of the clock: on a busy machine only the first can be compared."""
    began = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - began[0], time.perf_counter() - began[1]


def draw(observation):
    shown, _ = Timeline.of(observation)._repr_mimebundle_()
    assert len(shown["image/png"]) > 10_000


def scatter(observation):
    rows = {}
    points = [(event.ended, rows.setdefault(event.connection.client, len(rows))) for event in observation.log]
    times, lanes = zip(*points, strict=True)
    figure = Figure(figsize=(11.4, 11.0))
    figure.subplots().scatter(times, lanes)
    figure.savefig(io.BytesIO(), format="png", dpi=160)
    return len(points)


@pytest.mark.parametrize(("connections", "messages"), [(1000, 100), (20, 5000)])
def test_a_picture_of_100_000_messages(connections, messages):
    observation = filled(connections, messages)
    assert scatter(observation) >= RECORDS * connections * messages
    draw(observation)  # fonts are found, modules are loaded
    pairs = [(seconds(lambda: draw(observation)), seconds(lambda: scatter(observation))) for _ in range(3)]
    (ours, clock), (peers, other) = min(each for each, _ in pairs), min(each for _, each in pairs)
    print(f"{connections:,} clients, {messages:,} messages each: {ours:.2f} s, a bare scatter {peers:.2f} s")
    print(f"by the clock {clock:.2f} s and {other:.2f} s; {ours / peers:.1f} times")
    assert ours / peers <= 2 * AIM, pairs
