"""Servers in processes of their own: what they define, what they cost, and that all of them end."""

import linecache
import os
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest

import echo_kit
from echo_kit.load import host

LIMIT = 30  # seconds that anything may take before a test fails
LINUX = sys.platform == "linux"


def cell(shell_text, name="serve", file="<cell of a test>"):
    """The function of a notebook's cell: its text is known, and its module is __main__."""
    names = {"__name__": "__main__"}
    linecache.cache[file] = len(shell_text), None, shell_text.splitlines(keepends=True), file
    exec(compile(shell_text, file, "exec"), names)
    return names[name]


CELL = """
import socket
import threading

WORDS = "from the cell"
{more}

def serve(host, port):
    with socket.create_server((host, port)) as listener:
        print(WORDS, flush=True)
        while True:
            threading.Thread(target=handle, args=listener.accept()).start()


def handle(conn, addr):
    with conn:
        while data := conn.recv(1024):
            conn.sendall(data)
"""


def test_a_cell_runs_in_a_process_of_its_own():
    with echo_kit.launch(cell(CELL.format(more=""))) as server:
        assert server.address[0] == "127.0.0.1"
        assert echo_kit.swarm(server, 3).complete
        assert server.running
        assert repr(server) == "serve: runs in a process of its own"
        if LINUX:
            assert server.memory() > 1_000_000
            assert 1 <= server.threads() <= 4  # those of the clients are ending
            assert server.processor() > 0
    assert not server.running
    assert server.log == "from the cell"
    assert repr(server) == "serve: its process has ended"
    assert (server.memory(), server.threads(), server.processor()) == (None, None, None)


@pytest.mark.skipif(not LINUX, reason="only Linux counts it")
def test_each_wait_of_its_threads_counts():
    with echo_kit.launch(cell(CELL.format(more=""))) as server:
        before = server.waits()
        assert echo_kit.swarm(server, 20, 1).complete
        assert server.waits() - before >= 20, "once for each client at least: in accept, in recv, or for the lock"
    assert server.waits() is None


def test_what_the_cell_runs_besides_is_left_out():
    """The cell may hold the very call of launch, and whatever it did with the server."""
    more = "import echo_kit\nseen = []\nx = echo_kit.free_port()\nprint('run'); seen.append(1)\nfor _ in 'ab': 1 / 0"
    text = CELL.format(more=more.replace("1 / 0", "pass"))
    with echo_kit.launch(cell(text)) as server:
        assert echo_kit.swarm(server, 1).complete
    assert "run" not in server.log
    names = {}
    exec(host.definitions("import echo_kit\nx = echo_kit.start\ny: int = 3\n1 / 0", "<a cell>"), names)
    assert "x" not in names
    assert names["y"] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def serve(host, port):\n    helper(host, port)", "NameError: name 'helper' is not defined"),
        ("def serve(host, port):\n    print('bye')", "it returned"),
        ("def serve(host, port):\n    raise SystemExit(3)", "it ended with exit code 3"),
        ("import os\ndef serve(host, port):\n    os._exit(1)", "its process has ended"),
    ],
)
def test_one_that_does_not_listen_is_told_with_what_it_printed(text, words):
    with pytest.raises(RuntimeError) as raised:
        echo_kit.launch(cell(text))
    assert "serve does not listen: " + words in str(raised.value)
    assert ("imports and helpers belong there, too" in str(raised.value)) is ("NameError" in words)
    assert "another exception" not in str(raised.value)
    if "bye" in text:
        assert "It had printed:\nbye" in str(raised.value)


@pytest.mark.parametrize("wrong", [print, 3, lambda host, port: None, echo_kit.Client, socket.socket.listen])
def test_what_cannot_be_launched_is_told(wrong):
    with pytest.raises(TypeError, match=r"launch\(\) needs a function serve\(host, port\)"):
        echo_kit.launch(wrong)


def test_what_would_serve_nobody_is_told():
    with pytest.raises(TypeError, match="coroutine function"):
        echo_kit.launch(cell("async def serve(host, port):\n    pass"))
    with echo_kit.launch(cell(CELL.format(more=""))) as server:
        pass
    with pytest.raises(RuntimeError, match=r"serve: its process has ended\. Launch it again"):
        echo_kit.swarm(server, 1)


@pytest.mark.skipif(not LINUX, reason="only Linux tells the time of a process")
def test_the_time_of_processes_that_have_ended_counts():
    text = """
import os, socket, time

def serve(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    if not (child := os.fork()):
                        while time.process_time() < 0.3:
                            pass
                        os._exit(0)
                    os.waitpid(child, 0)
                    conn.sendall(data)
"""
    with echo_kit.launch(cell(text)) as server:
        assert echo_kit.swarm(server, 1, 1).complete
        assert server.processor() > 0.25


def test_bad_limits_are_told():
    with pytest.raises(ValueError, match="descriptors must be a whole number from 1 to 1,048,576, not 0"):
        echo_kit.launch(echo_kit.serve_single, descriptors=0)
    with pytest.raises(ValueError, match="cores must be"):
        echo_kit.launch(echo_kit.serve_single, cores="2")
    with pytest.raises(RuntimeError, match="no_such_python cannot be started"):
        echo_kit.launch(echo_kit.serve_single, python="no_such_python")


@pytest.mark.skipif(not LINUX, reason="only Linux keeps a process to some processors")
def test_limits_hold():
    more = "import os, resource\nWORDS = f'{len(os.sched_getaffinity(0))} {resource.getrlimit(resource.RLIMIT_NOFILE)}'"
    with echo_kit.launch(cell(CELL.format(more=more)), descriptors=64, cores=1) as server:
        assert echo_kit.swarm(server, 1).complete
    assert server.log == "1 (64, 64)"


def test_launched_again_the_earlier_one_ends():
    with echo_kit.launch(echo_kit.serve_threaded) as first, echo_kit.launch(echo_kit.serve_threaded) as second:
        assert not first.running
        assert echo_kit.swarm(second, 2).complete


FORKS = """
import os, signal, socket, time

def serve(host, port):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.create_server((host, port)) as listener:
        for _ in range(2):
            if not os.fork():
                break
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data)
"""


@pytest.mark.skipif(not LINUX, reason="only on Linux the children are listed")
def test_its_processes_count_and_end_too():
    with echo_kit.launch(cell(FORKS)) as server:
        assert echo_kit.swarm(server, 3, 1).complete
        pids = server._processes()
        assert len(pids) == 3
        assert server.threads() == 3
        handles = [os.pidfd_open(pid) for pid in pids]
    for handle in handles:
        assert select.select([handle], [], [], LIMIT)[0], "it has not ended"
        os.close(handle)


@pytest.mark.skipif(not LINUX, reason="only Linux lists the processes")
def test_it_ends_when_the_kernel_is_killed():
    text = "import echo_kit, time\ns = echo_kit.launch(echo_kit.serve_threaded)\nprint(s._process.pid, flush=True)\n"
    parent = subprocess.Popen(
        [sys.executable, "-c", text + "time.sleep(600)"], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        pid = int(parent.stdout.readline())
        handle = os.pidfd_open(pid)
        parent.kill()
        parent.wait(LIMIT)
        assert select.select([handle], [], [], LIMIT)[0], "it has not ended"
        os.close(handle)
    finally:
        parent.kill()
        parent.wait(LIMIT)
        parent.stdout.close()


def test_ctrl_c_ends_it_by_itself():
    """So that a server's own end is run, like the finished one's."""
    with echo_kit.launch(echo_kit.serve_threaded) as server:
        assert echo_kit.swarm(server, 1).complete
    assert server.log.endswith("Stopped")


def test_a_log_is_bounded_and_needs_no_reader():
    more = "print('y' * 5000)\nfor number in range(5000): print(number)"
    text = CELL.format(more="").replace("print(WORDS, flush=True)", more.replace("\n", "\n        "))
    with echo_kit.launch(cell(text)) as server:
        assert echo_kit.swarm(server, 1).complete
    lines = server.log.split("\n")
    assert len(lines) == 2000
    assert lines[-1] == "4999"


def test_it_is_stopped_from_any_thread():
    server = echo_kit.launch(echo_kit.serve_single)
    thread = threading.Thread(target=server.stop)
    thread.start()
    thread.join(LIMIT)
    assert not server.running
    server.stop()  # again: nothing happens


def test_a_signal_that_whoever_started_us_ignores():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with echo_kit.launch(echo_kit.serve_single) as server:
            assert echo_kit.swarm(server, 1).complete
        assert server.log.endswith("Stopped")
    finally:
        signal.signal(signal.SIGINT, before)
