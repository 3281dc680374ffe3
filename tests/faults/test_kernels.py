"""In a notebook: Ctrl+C, three times in a row, in a cell that serves and in one that does not; and a kernel killed."""

import contextlib
import os
import queue
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel
from jupyter_core.utils import ensure_event_loop

import echo_kit

from ..programs import LIMIT, ask, read_to_end
from .targets import CLASSIC, PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="where a thread waits is read from /proc")

THREADS = """
import threading
for each in threading.enumerate():
    if "client" in each.name:  # Python names a thread for its function
        each.join(1)
        print(each.name, each.is_alive())
"""


class Kernel:
    """A notebook's kernel, whose cells are waited for with a bound."""

    def __init__(self):
        self.manager, self.client = start_new_kernel()
        self.pid = int(self.run("import os; print(os.getpid())"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def is_killed(self):
        """As the system does when there is no memory left."""
        os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + LIMIT
        while self.client.is_alive():
            assert time.monotonic() < deadline

    def begin(self, code):
        """Run a cell, which may last."""
        self.cell = self.client.execute(f"import echo_kit\n{code}")

    def expect(self, text):
        """Wait until a cell has printed this."""
        printed = ""
        while text not in printed:
            message = self.client.get_iopub_msg(timeout=LIMIT)
            if message["parent_header"].get("msg_id") != self.cell:
                continue  # the last words of another cell
            assert message["msg_type"] != "error", message["content"]
            printed += message["content"].get("text", "")

    def interrupt(self):
        """As the button does, once the cell waits in a call of the kernel's: Ctrl+C just before it may be lost."""
        deadline = time.monotonic() + LIMIT
        while not self._waits():
            assert time.monotonic() < deadline, "the cell does not wait"
        self.manager.interrupt_kernel()

    def _waits(self):
        """Whether its main thread sleeps, and not as an idle kernel does."""
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "S" and "epoll" not in Path(f"/proc/{self.pid}/wchan").read_text()

    def reply(self, limit=LIMIT):
        """How the cell has ended: "ok", or the name of its error; None, if it does not end."""
        with contextlib.suppress(queue.Empty):
            content = self.client.get_shell_msg(timeout=limit)["content"]
            return content.get("ename", content["status"])

    def run(self, code):
        """Run a cell to its end; what it printed."""
        printed = []
        reply = self.client.execute_interactive(
            f"import echo_kit\n{code}",
            timeout=LIMIT,
            output_hook=lambda each: printed.append(each["content"].get("text", "")),
        )
        assert reply["content"]["status"] == "ok", reply
        return "".join(printed)


@pytest.fixture(scope="module", autouse=True)  # and so before the check that a test leaves no socket
def loop():
    """The one that jupyter_client makes for the thread that uses it, and keeps."""
    ensure_event_loop()


@pytest.fixture
def kernel():
    with Kernel() as kernel:
        yield kernel


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=LIMIT)


def as_soon_as_it_listens(port):
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return connect(port)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline


def ended(sock):
    """Nothing came but the end, or, of one with bytes unread or never accepted, a reset."""
    try:
        return read_to_end(sock) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("serve", ["serve_single", "serve_threaded"])
def test_ctrl_c_in_a_cell_ends_a_finished_server_each_time(kernel, serve):
    """And with it its threads and connections, although the kernel lives on; and the port is free for the next one.

    (A Ctrl+C that comes when the cell has just ended hits ipykernel, which may lose the cell's reply then.)
    """
    port = echo_kit.free_port()
    kernel.begin(f"for _ in range(3): echo_kit.{serve}('127.0.0.1', {port})")
    for _ in range(3):
        kernel.expect(f"Listening on 127.0.0.1:{port}\n")
        with connect(port) as alice, connect(port) as bob:
            assert ask(alice, b"hello") == b"hello"
            kernel.interrupt()
            assert [ended(each) for each in (alice, bob)] == [True, True]
    assert kernel.reply() == "ok"
    assert "True" not in kernel.run(THREADS)


def test_ctrl_c_in_a_cell_is_not_for_the_servers_in_the_background(kernel):
    port = int(kernel.run("server = echo_kit.start(echo_kit.serve_threaded); print(server.address[1])"))
    with connect(port) as alice, connect(port) as bob:
        kernel.run("quiet = echo_kit.Client(server)")
        for _ in range(3):
            kernel.begin("print('waits'); quiet.receive(timeout=60)")
            kernel.expect("waits")
            assert [ask(each, b"during") for each in (alice, bob)] == [b"during"] * 2
            kernel.interrupt()
            assert kernel.reply() == "KeyboardInterrupt"
            assert [ask(each, b"after") for each in (alice, bob)] == [b"after"] * 2
        assert kernel.run("quiet.close(); server.stop(); print(server.threads, server.error)") == "[] None\n"
        assert [ended(each) for each in (alice, bob)] == [True, True]


def test_one_ctrl_c_does_not_end_the_classic_server_in_a_cell(kernel):
    port = echo_kit.free_port()
    kernel.run(f"import sys; sys.path.append({str(CLASSIC.parent)!r}); import classic")
    kernel.begin(f"classic.server_thread('127.0.0.1', {port})")
    kernel.expect("Listening on ")
    with connect(port) as alice:
        assert ask(alice, b"hello") == b"hello"
        kernel.interrupt()
        assert kernel.reply(PATIENCE) is None  # it waits for alice's thread
        kernel.interrupt()
        assert kernel.reply() == "KeyboardInterrupt"


# -- a kernel that is killed -------------------------------------------------------------------------------------------


def test_when_the_kernel_is_killed_its_servers_end_and_their_ports_are_free():
    with Kernel() as kernel, contextlib.ExitStack() as stack:
        started = [f"echo_kit.start(echo_kit.{serve}).address[1]" for serve in ("serve_single", "serve_threaded")]
        launched = "echo_kit.launch(echo_kit.serve_threaded).address[1]"
        ports = [int(port) for port in kernel.run(f"print({', '.join([*started, launched])})").split()]
        clients = [stack.enter_context(connect(port)) for port in ports for _ in range(2)]
        assert [ask(each, b"hello") for each in clients[::2]] == [b"hello"] * 3
        kernel.is_killed()
        assert [ended(each) for each in clients] == [True] * 6
        for port in ports:
            with echo_kit.start(echo_kit.serve_threaded, port=port), connect(port) as carol:
                assert ask(carol, b"next") == b"next"


def test_a_classic_server_that_the_kernel_has_started_outlives_it():
    port = echo_kit.free_port()
    command = [sys.executable, str(CLASSIC), "server_thread", "127.0.0.1", str(port)]
    start = f"server = subprocess.Popen({command}, stdout=subprocess.DEVNULL)"
    with Kernel() as kernel:
        pid = int(kernel.run(f"import subprocess; {start}; print(server.pid)"))
        try:
            with as_soon_as_it_listens(port) as alice:
                assert ask(alice, b"hello") == b"hello"
                kernel.is_killed()
                with connect(port) as bob:
                    assert [ask(each, b"x") for each in (alice, bob)] == [b"x"] * 2
        finally:
            os.kill(pid, signal.SIGKILL)
