"""A thousand servers, one after the other, watched in every way: nothing of one that has ended is kept."""

import gc
import os
import sys
import threading
import time
import tracemalloc
from collections import Counter

import pytest

from echo_kit import Client, serve_single, serve_threaded, start
from echo_kit.live.clients import ClientPanel
from echo_kit.live.stage import ServerPanel
from echo_kit.watch import observation, patches
from echo_kit.watch.output import Routed

from .conftest import open_sockets

LONG = 20  # seconds
CYCLES = 1000
SETTLED = 200  # cycles after which all that is made once is there
MOST = 500  # bytes a cycle. ipywidgets keeps a layout, 4 kB, of each panel that was closed: that is 330 of these


class Stage(ServerPanel):
    """It knows when the page would have been sent something."""

    def __init__(self, server):
        self.painted = threading.Event()
        super().__init__(server)

    def send(self, content, buffers=None):
        self.painted.set()


def kept():
    """What an ended server could have left in this process."""
    gc.collect()
    types = Counter()
    for each in gc.get_objects():
        made = each if isinstance(each, type) else type(each)
        if made is Routed:  # a stand-in for a stream, which lives five seconds longer: see `route_streams`
            continue
        if str(made.__module__).startswith("echo_kit"):  # of some types it is no text
            types[f"{'class ' if made is each else ''}{made.__module__}.{made.__qualname__}"] += 1
    descriptors = set(os.listdir("/proc/self/fd"))
    return threading.enumerate(), open_sockets(), descriptors, patches.state(), dict(observation.observed), types


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def look(server):
    for each in (server.where(), server.backlog(), server.timeline(), server.timeline().by_thread(), server.snapshot()):
        assert str(each)
    assert server.snapshot()._repr_mimebundle_()


def open_and_close_panels(server):
    stage, panel = Stage(server), ClientPanel(server, name="carol")
    try:
        stage._on_message(stage, {"do": "hello"}, [])
        assert stage.painted.wait(LONG)
    finally:
        stage.close()
        panel.close()


def cycle(number):
    """Start a server, serve clients, stop it. Some stay connected; now and then it is looked at, or started again."""
    with start(serve_threaded if number % 2 else serve_single) as server:
        clients = [Client(server, f"client {each}") for each in range(5 if number % 2 else 2)]
        clients[0].send("hello")
        assert clients[0].receive(LONG) == "hello"
        if number % 25 == 0:
            look(server)
        if number % 25 == 1:
            open_and_close_panels(server)
        if number % 25 == 2:
            server.restart()
        if number % 3 == 0:
            clients[0].vanish()
        if number % 3 == 1:
            clients[0].close()
    for each in clients:
        each.close()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is asked of Linux")
@pytest.mark.soak
def test_a_thousand_cycles_leave_nothing():
    for number in range(SETTLED):
        if number == SETTLED - 20:
            tracemalloc.start()
        cycle(number)
    try:
        before, memory, began = kept(), (tracemalloc.get_traced_memory()[0], resident()), time.monotonic()
        for number in range(SETTLED, CYCLES):
            cycle(number)
        seconds = (time.monotonic() - began) / (CYCLES - SETTLED)
        after, later = kept(), (tracemalloc.get_traced_memory()[0], resident())
    finally:
        tracemalloc.stop()
    grown = [(now - then) / (CYCLES - SETTLED) for then, now in zip(memory, later, strict=True)]
    print(f"{CYCLES:,} cycles, the last {CYCLES - SETTLED}: {seconds * 1000:.0f} ms each;", end=" ")
    print(f"Python's objects {grown[0]:+.0f} bytes a cycle, the process {grown[1]:+.0f}")
    assert after == before, [dict(after[-1] - before[-1]), *zip(before[:-1], after[:-1], strict=True)]
    assert grown[0] < MOST
