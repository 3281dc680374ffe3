"""What being observed costs an echo server: its round trips against those of the same function that nobody observes."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import pytest

from echo_kit import free_port

ROOT = Path(__file__).parent.parent.parent
LIMIT = 30  # seconds that anything may take before the test fails
PAIRS = 7  # of server processes: where its code and data come to lie makes one process faster than another
BLOCKS, ROUND_TRIPS = 24, 100  # of each server
MESSAGE = b"x" * 64
AT_MOST = 1.05  # times as long

# Both processes import echo_kit and serve in a thread; one of them is observed, and may have run step by step before.
# It tells its port, and ends with us.
SERVER = """
import os, socket, sys, threading, echo_kit

def serve(host, port):
    with socket.create_server((host, port)) as listener:
        ports.append(listener.getsockname()[1])
        listening.set()
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data)

kind, to_tell, *processor = sys.argv[1:]
ports, listening = [], threading.Event()
if processor:
    os.sched_setaffinity(0, {int(processor[0])})
if kind == "plain":
    threading.Thread(target=serve, args=("127.0.0.1", echo_kit.free_port()), daemon=True).start()
else:
    server = echo_kit.start(serve)
if kind == "resumed":
    server.pause()
    server.resume()
listening.wait()
socket.create_connection(("127.0.0.1", int(to_tell))).sendall(b"%d" % ports[0])
sys.stdin.read()
"""


@contextmanager
def connection_to(kind, processor):
    """A connection to a server in a process of its own."""
    with socket.create_server(("127.0.0.1", free_port())) as told:
        told.settimeout(LIMIT)
        port = str(told.getsockname()[1])
        command = [sys.executable, "-c", SERVER, kind, port, *map(str, processor)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
        try:
            with told.accept()[0] as teller:
                teller.settimeout(LIMIT)
                address = ("127.0.0.1", int(teller.recv(10)))
            with socket.create_connection(address, timeout=LIMIT) as sock:
                yield sock
        finally:
            process.kill()
            process.wait(LIMIT)
            process.stdin.close()


@contextmanager
def apart():
    """The client on one processor, the servers on another (what this gives): where the scheduler puts the one that was
    woken makes a round trip ten times as long or as short, and it does so for one server and not for the other.
    """
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(processors) < 2:
        yield []
        return
    os.sched_setaffinity(0, processors[:1])
    try:
        yield processors[1:2]
    finally:
        os.sched_setaffinity(0, processors)


def block(sock):
    """The median of some round trips, in nanoseconds."""
    times = []
    for _ in range(ROUND_TRIPS):
        began = perf_counter_ns()
        sock.sendall(MESSAGE)
        answer = sock.recv(1024)
        times.append(perf_counter_ns() - began)
        assert answer == MESSAGE
    return median(times)


def measured(kind):
    """One ratio for each pair of processes: the median over blocks that were measured one right after the other.

    What slows the machine down slows both blocks down, and where it hits one of them the median leaves that pair out.
    """
    ratios = []
    with apart() as processor:
        for _ in range(PAIRS):
            with connection_to("plain", processor) as plain, connection_to(kind, processor) as observed:
                for each in (plain, observed) * 5:
                    block(each)  # until the interpreter has specialised the code
                pairs = [(block(plain), block(observed)) for _ in range(BLOCKS)]
                ratios.append(median(ours / theirs for theirs, ours in pairs))
    return ratios


# On the machine that this was written on, 2 virtual processors, a round trip takes 40 µs (both busy) to 75 µs (both
# asleep in between), and being observed adds 1 to 3 µs of interpreter that runs with cold caches.
@pytest.mark.parametrize("kind", ["observed", "resumed"])
def test_an_observed_server_answers_nearly_as_fast(kind):
    ratios = measured(kind)
    print(f"{kind}: {median(ratios):.3f} times as long ({', '.join(f'{each:.3f}' for each in ratios)})")
    # The least disturbed pair: what else runs on the machine makes caches cold, which costs the longer code more.
    assert min(ratios) <= AT_MOST, ratios
