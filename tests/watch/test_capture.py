"""The timeline against tcpdump: who did what, in which order, and when, as an independent witness saw it."""

import os
import random
import select
import shutil
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import combinations, pairwise

import pytest

from echo_kit import Client, Reset, serve_single, serve_threaded, start
from echo_kit.watch.events import PREVIEW

from ..capture import Capture, Packet, not_here
from ..programs import LIMIT

CLIENTS = 20
MESSAGES = 1000
LONGEST = 1024  # bytes: what the servers read at once

# A float that counts seconds since 1970 is exact to 0.24 µs, and there are two in each comparison. The two clocks are
# compared to 0.1 µs. The smallest distance seen between a stamp of ours and its packet was 1.9 µs, on the right side.
CLOCKS = 1e-6
# Two processors may end two handshakes at the same time: tcpdump sees one first, accept gets the other first. That
# happened in 9 of 400 runs, and they were 1.7 µs apart at most.
AT_ONCE = 100e-6


@contextmanager
def captured(serve):
    with start(serve) as server, Capture(server.address[1]) as capture:
        yield server, capture
        assert server.settle(), "the server did not come to rest"


def echoed(client, data):
    client.send(data)
    assert client.receive(timeout=LIMIT) == data


def a_message(dice):
    return dice.randbytes(dice.randint(1, LONGEST))


def port_of(lane):
    return (lane.client or lane.server).client[1]


def packets_of(capture, lane):
    return [packet for packet in capture.packets if port_of(lane) in (packet.source, packet.destination)]


def with_payload(packets):
    """Those that carry data, without any that TCP sent again."""
    found = {}
    for packet in packets:
        if packet.length:
            found.setdefault((packet.source, packet.destination, packet.seq), packet)
    return list(found.values())


def both_ways(capture, lane):
    """The packets with data: to the server, and to the client."""
    packets = with_payload(packets_of(capture, lane))
    to_server = [packet for packet in packets if packet.source == port_of(lane)]
    return to_server, [packet for packet in packets if packet not in to_server]


def all_with(flag, packets, source):
    return [packet for packet in packets if packet.source == source and flag in packet.flags]


def the(flag, packets, source):
    """The one packet from `source` with that flag."""
    (found,) = all_with(flag, packets, source)
    return found


def handshake(capture, lane):
    """SYN, SYN-ACK and ACK."""
    three = packets_of(capture, lane)[:3]
    assert [(each.flags, each.source == port_of(lane)) for each in three] == [("S", True), ("SA", False), ("A", True)]
    return three


def assert_in_order(capture, *moments):
    """Each is a packet or a time of our log; none of them is later than the next one."""
    times = [each.time if isinstance(each, Packet) else capture.epoch(each) for each in moments]
    steps = [f"{(after - before) * 1e6:.1f}" for before, after in pairwise(times)]
    assert all(before <= after + CLOCKS for before, after in pairwise(times)), f"microseconds between them: {steps}"


def recorded(events):
    return [(event.size, event.data) for event in events]


def sent(packets):
    return [(packet.length, packet.payload[:PREVIEW]) for packet in packets]


def received_by_the_server(server, lane):
    events = server.observation.log
    return [event for event in events if event.connection is lane.server and event.kind == "recv" and event.size]


def check_connecting(capture, lane):
    syn, syn_ack, ack = handshake(capture, lane)
    if lane.client is not None:
        assert_in_order(capture, lane.connecting, syn, syn_ack, ack, lane.connected)
    assert_in_order(capture, ack, lane.accepted)


def check_messages(server, capture, lane):
    """Every message of the lane is one packet, in the same order, and was on its way when the lane says so."""
    questions, answers = both_ways(capture, lane)
    reads = received_by_the_server(server, lane)
    assert recorded(lane.to_server) == recorded(reads) == sent(questions)
    assert recorded(lane.to_client) == recorded(lane.answers) == sent(answers)
    for event, packet, read in zip(lane.to_server, questions, reads, strict=True):
        assert_in_order(capture, *([event.began] if lane.client else []), packet, read.ended)
    for event, packet, read in zip(lane.answers, answers, lane.to_client, strict=True):
        assert_in_order(capture, event.began, packet, *([read.ended] if lane.client else []))


def test_1000_messages_one_after_the_other():
    dice = random.Random(1)
    with captured(serve_threaded) as (server, capture), ExitStack() as stack:
        clients = [stack.enter_context(Client(server, name=f"client {number}")) for number in range(CLIENTS)]
        for _ in range(MESSAGES):
            echoed(dice.choice(clients), a_message(dice))
    lanes = server.timeline().lanes
    told = [(event.began, port_of(lane), "asks", event) for lane in lanes for event in lane.to_server]
    told += [(event.began, port_of(lane), "is answered", event) for lane in lanes for event in lane.answers]
    told = [(who, does, *recorded([event])) for _, who, does, event in sorted(told, key=lambda each: each[0])]
    seen = with_payload(capture.packets)
    questions = [packet for packet in seen if packet.destination == server.address[1]]
    assert len(seen) == 2 * len(questions) == 2 * MESSAGES
    assert told == [
        (packet.source, "asks", *sent([packet]))
        if packet.destination == server.address[1]
        else (packet.destination, "is answered", *sent([packet]))
        for packet in seen
    ]
    # The log's own order is that in which calls ended; those that read began long before.
    reads = [event for event in server.observation.log if event.kind == "recv" and event.size]
    assert recorded(reads) == sent(questions)


def test_1000_messages_of_20_clients_at_once():
    all_here = threading.Barrier(CLIENTS)

    def talk(number):
        dice = random.Random(number)
        all_here.wait(LIMIT)
        with Client(server, name=f"client {number}") as client:
            for _ in range(MESSAGES // CLIENTS):
                echoed(client, a_message(dice))

    with captured(serve_threaded) as (server, capture), ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(talk, range(CLIENTS), timeout=LIMIT))
    timeline = server.timeline()
    assert len(timeline.lanes) == CLIENTS
    for lane, row in zip(timeline.lanes, timeline.table(), strict=True):
        check_connecting(capture, lane)
        check_messages(server, capture, lane)
        questions, answers = both_ways(capture, lane)
        assert row["messages"] == len(questions) == MESSAGES // CLIENTS
        assert row["bytes sent"] == row["bytes back"] == sum(each.length for each in answers)
    connected = [handshake(capture, lane)[2].time for lane in timeline.lanes]
    assert all(before < after + AT_ONCE for before, after in combinations(connected, 2)), "the lanes' order"


def test_bob_waits_at_the_single_server():
    with captured(serve_single) as (server, capture):
        with Client(server, name="alice") as alice:
            echoed(alice, b"hello")
            with Client(server, name="bob") as bob:
                bob.send(b"hi")
                assert server.settle()  # whatever it would do for bob, it has done
                alice.close()
                assert bob.receive(timeout=LIMIT) == b"hi"
    timeline = server.timeline()
    alice, bob = timeline.lanes
    assert (alice.name, bob.name) == ("alice", "bob")
    for lane in (alice, bob):
        check_connecting(capture, lane)
        check_messages(server, capture, lane)
    packets = packets_of(capture, alice)
    alice_leaves, server_closes = the("F", packets, port_of(alice)), the("F", packets, server.address[1])
    (question,), (answer,) = both_ways(capture, bob)
    # what tcpdump saw,
    assert_in_order(capture, *handshake(capture, bob), question, alice_leaves, server_closes, answer)
    # and what the lanes say
    assert_in_order(capture, bob.connected, alice.left, alice_leaves, alice.seen_off, alice.closed, server_closes)
    assert_in_order(capture, alice_leaves, bob.accepted, answer)
    waited = timeline.table()[1]["seconds waited"]
    assert alice_leaves.time - capture.epoch(bob.connected) <= waited + CLOCKS
    assert waited <= answer.time - handshake(capture, bob)[2].time + CLOCKS


def test_a_client_that_vanishes():
    with captured(serve_single) as (server, capture), Client(server, name="alice") as alice:
        echoed(alice, b"hello")
        alice.vanish()
    (lane,) = server.timeline().lanes
    check_connecting(capture, lane)
    check_messages(server, capture, lane)
    packets = packets_of(capture, lane)
    reset = the("R", packets, port_of(lane))
    assert not all_with("F", packets, port_of(lane))
    assert lane.reset
    assert server.timeline().story(lane).endswith("broke off (reset)")
    assert_in_order(capture, lane.left, reset, lane.last_used)


def test_a_server_that_closes_with_unread_data():
    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            while True:
                with listener.accept()[0] as conn:
                    conn.recv(1)

    with captured(serve) as (server, capture), Client(server, name="alice") as alice:
        alice.send(b"hello")
        with pytest.raises(Reset):
            alice.receive(timeout=LIMIT)
    (lane,) = server.timeline().lanes
    check_connecting(capture, lane)
    reset = the("R", packets_of(capture, lane), server.address[1])
    (noticed,) = [event for event in server.observation.log if event.error == "ConnectionResetError"]
    assert_in_order(capture, lane.closed, reset, noticed.ended)
    assert '"hello" 1 of 5 bytes read · broken off by the server (reset) at line ' in server.timeline().story(lane)


@contextmanager
def netcat(port):
    """A function that types a line into a netcat and takes what comes back."""
    if shutil.which("nc") is None:
        not_here("there is no nc (Debian: apt-get install netcat-openbsd)")
    process = subprocess.Popen(["nc", "127.0.0.1", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def ask(line):
        process.stdin.write(line)
        came = b""
        while len(came) < len(line):
            assert select.select([process.stdout], [], [], LIMIT)[0], f"{line} came back as {came}"
            came += os.read(process.stdout.fileno(), LONGEST)
        assert came == line

    try:
        yield ask
    finally:
        process.kill()
        process.wait(LIMIT)
        process.stdin.close()
        process.stdout.close()


def test_two_netcats_and_a_client_of_ours():
    with captured(serve_threaded) as (server, capture):
        with netcat(server.address[1]) as first:
            first(b"hello\n")
            with Client(server, name="alice") as alice, netcat(server.address[1]) as second:
                echoed(alice, b"hi")
                for line in (b"one\n", b"\x00\xff\n", b"x" * 500 + b"\n"):
                    second(line)
                    first(line)
    lanes = server.timeline().lanes
    assert [lane.name for lane in lanes] == ["client 1", "alice", "client 3"]
    assert [len(lane.to_server) for lane in lanes] == [4, 1, 3]
    for lane in lanes:
        check_connecting(capture, lane)
        check_messages(server, capture, lane)
        packets = packets_of(capture, lane)
        leaves, closes = the("F", packets, port_of(lane)), the("F", packets, server.address[1])
        assert_in_order(capture, leaves, lane.seen_off, lane.closed, closes)
