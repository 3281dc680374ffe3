"""After every test: no thread, no socket, no patch and no server is left. Each complaint says what was."""

import gc
import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from echo_kit import server as runner
from echo_kit.watch import observation, patches

from .lab import browser, jupyterlab, notebook  # noqa: F401

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # pytest in a shell's background: the programs need Ctrl+C
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["ECHO_KIT_PROGRESS"] = "0"  # no check of a test is a student's attempt; kernels inherit it

HERE = Path(__file__).parent
FOLDERS = {"benchmarks": "bench", "faults": "faults", "browser": "browser"}


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m does not ask for
def pytest_collection_modifyitems(items):
    """Mark what the folder and the fixtures say: a benchmark is one, also where it needs a browser."""
    for item in items:
        folder = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
        if folder in FOLDERS:
            item.add_marker(FOLDERS[folder])
        elif "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


def open_sockets():
    """The sockets of this process, as the kernel lists them; elsewhere as the garbage collector does."""
    found = set()
    try:
        for number in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{number}")
            except OSError:
                continue
            if target.startswith("socket:"):
                found.add(f"descriptor {number} ({target})")
    except FileNotFoundError:
        found = {repr(each) for each in gc.get_objects() if isinstance(each, socket.socket) and each.fileno() != -1}
    return found


@pytest.fixture(autouse=True)
def nothing_left():
    threads, sockets, before = set(threading.enumerate()), open_sockets(), patches.state()
    yield
    left = [f"server {name}" for name in runner._servers]
    runner._stop_all()  # so that one test that forgets a server does not fail all those after it
    left += [f"observation of {each.name}" for each in observation.running]
    left += [f"thread {each.name}" for each in threading.enumerate() if each not in threads]
    after = patches.state()
    left += [f"patch {name}: {after[name]!r}" for name in before if after[name] != before[name]]
    left += [f"watched socket of {each.observation.name}" for each in observation.observed.values()]
    if open_sockets() - sockets:
        gc.collect()  # pytest's own exception reports may hold on to a frame
        left += sorted(open_sockets() - sockets)
    assert not left, "left behind: " + "; ".join(left)


@pytest.fixture
def busy():
    """Two threads that compute all the time, so that every other thread has to wait for the interpreter lock."""
    over = threading.Event()

    def compute():
        while not over.is_set():
            sum(range(100))

    @contextmanager
    def computing():
        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.0002)  # many more switches, at many more places
        over.clear()
        threads = [threading.Thread(target=compute) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval)

    return computing
