"""How long 100,000 messages take from the records to the picture, against a bare scatter plot of them by matplotlib.

The peer draws a point for every record of them (each message is four: sent, read, answered, got back), which is what a
student would write, and saves a picture of the same size; it has the numbers at hand, and no lane, word or legend.
"""

import io
import time

import numpy as np
import pytest
from matplotlib.figure import Figure

from echo_kit.events import Connection, EventLog
from echo_kit.observe import Observation
from echo_kit.plots import png
from echo_kit.timeline import Timeline

AT_MOST = 3  # times as long as the bare scatter; measured: 1.4 and 1.5 on a busy machine
RECORDS = 4  # of a message


def conversation(number, messages):
    """The calls of one client and of its thread, as (kind, began, ended, whose, thread, bytes); began is in seconds."""
    at, label = 0.01 * number, f"thread {number + 1}"
    yield "connect", at, at + 0.0001, "client", "", b""
    yield "accept", max(0.0, at - 0.0097), at + 0.0003, "server", "server thread", b""
    before, at = at + 0.0005, at + 0.001
    for each in range(messages):
        data = b"message %d" % each
        yield "client send", at, at + 0.00002, "client", "", data
        yield "recv", before, at + 0.00003, "server", label, data
        yield "send", at + 0.0002, at + 0.00023, "server", label, data
        yield "client recv", at + 0.00025, at + 0.00026, "client", "", data
        before, at = at + 0.000232, at + 0.001 + 0.0007 * ((number * 7 + each * 13) % 11)
    yield "client close", at, at + 0.00001, "client", "", b""
    yield "recv", before, at + 0.00002, "server", label, b""
    yield "close", at + 0.0001, at + 0.0002, "server", label, b""


def filled(connections, messages):
    """The observation of a server with a thread for each client, all of whose events were kept."""
    calls = []
    for number in range(connections):
        client = Connection(("127.0.0.1", 10_000 + number), name=f"client {number}")
        ends = {"client": client, "server": Connection(client.client)}
        for kind, began, ended, whose, thread, data in conversation(number, messages):
            calls.append((ended, kind, began, ends[whose], thread, data))
            ends[whose].sent += len(data) if kind in ("send", "client send") else 0
            ends[whose].received += len(data) if kind in ("recv", "client recv") else 0
            ends[whose].messages += bool(data) and kind in ("recv", "client send")
    calls.sort(key=lambda call: call[0])
    observation = Observation("serve_threaded", EventLog(capacity=len(calls), clock=lambda: calls[-1][0]))
    observation.close_all()
    for ended, kind, began, end, thread, data in calls:
        observation.log.add(kind, began, end, thread, len(data), data, ended=ended)
    return observation


def seconds(work):
    """Of the processor, and of the clock: on a busy machine only the first can be compared."""
    began = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - began[0], time.perf_counter() - began[1]


def draw(observation):
    data, *_ = png(Timeline.of(observation).figure())
    assert len(data) > 10_000


def scatter(times, lanes):
    figure = Figure(figsize=(11.4, 11.0))
    figure.subplots().scatter(times, lanes)
    figure.savefig(io.BytesIO(), format="png", dpi=160)


@pytest.mark.parametrize(("connections", "messages"), [(1000, 100), (20, 5000)])
def test_a_picture_of_100_000_messages(connections, messages):
    observation = filled(connections, messages)
    rows = {}
    points = [(event.ended, rows.setdefault(event.connection.client, len(rows))) for event in observation.log]
    times, lanes = np.array(points).T
    assert len(times) >= RECORDS * connections * messages
    draw(observation)  # fonts are found, modules are loaded
    pairs = [(seconds(lambda: draw(observation)), seconds(lambda: scatter(times, lanes))) for _ in range(3)]
    (ours, clock), (peers, other) = min(each for each, _ in pairs), min(each for _, each in pairs)
    print(f"{connections:,} clients, {messages:,} messages each: {ours:.2f} s, a bare scatter {peers:.2f} s")
    print(f"by the clock {clock:.2f} s and {other:.2f} s; {ours / peers:.1f} times")
    assert ours / peers <= AT_MOST, pairs
