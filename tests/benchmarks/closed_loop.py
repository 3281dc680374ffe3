"""The clients of the benchmarks: `clients_program` builds closed_loop.c.

Run as a program, this does what that one does, where there is no C compiler: slower, so that a server's own costs show
less.
"""

import contextlib
import errno
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE, MESSAGE = 64, b"x" * 64
LIMIT = 120  # seconds that anything may take before a test fails


@contextlib.contextmanager
def clients_program():
    """The command that runs them: a C program, which does not wait for Python, or else this one."""
    compiler, here = shutil.which("cc"), Path(__file__)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "closed_loop")
        if compiler and sys.platform == "linux":
            subprocess.run([compiler, "-O2", "-o", program, here.with_suffix(".c")], check=True, timeout=LIMIT)
            yield [program]
        else:
            yield [sys.executable, here]


def numbers(program, *arguments):
    """What the program prints, by line."""
    command = [*program, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True)
    return [[float(each) for each in line.split()] for line in done.stdout.splitlines()]


class Talker:
    """A client, and what it has seen."""

    def __init__(self):
        self.came = self.said = self.answers = 0

    def say(self, conn):
        self.came, self.said = 0, time.perf_counter()
        conn.sendall(MESSAGE)

    def hears(self, conn):
        """Whether the whole message has come back."""
        data = conn.recv(SIZE)
        assert data, "the server has hung up"
        self.came += len(data)
        return self.came == SIZE


def talk(clients, blocks, milliseconds, *ports):
    servers = []
    for port in ports:
        selector = selectors.DefaultSelector()
        for _ in range(clients):
            selector.register(socket.create_connection(("127.0.0.1", port)), selectors.EVENT_READ, Talker())
        servers.append((selector, [], []))
    for number in range(blocks):
        for selector, times, served in servers:
            rate, took = block(selector, milliseconds / 1000)
            print(f"{rate:.0f}", end=" ")
            if number >= blocks // 10:
                times += took
                served.append(sum(key.data.answers > 0 for key in selector.get_map().values()))
        print(flush=True)
    for _, times, served in servers:
        times.sort()
        p50, p99, longest = (times[int(part * (len(times) - 1))] * 1e6 for part in (0.5, 0.99, 1))
        print(f"{p50:.0f} {p99:.0f} {longest:.0f} {min(served)}")


def block(selector, seconds):
    """How many messages a second are echoed, and how long each took."""
    took, began = [], time.perf_counter()
    waiting = len(selector.get_map())
    for key in selector.get_map().values():
        key.data.answers = 0
        key.data.say(key.fileobj)
    while waiting:
        ready = selector.select(30)
        assert ready, "no echo"
        for key, _ in ready:
            if key.data.hears(key.fileobj):
                now = time.perf_counter()
                took.append(now - key.data.said)
                if now < began + seconds:
                    key.data.answers += 1
                    key.data.say(key.fileobj)
                else:
                    waiting -= 1
    return len(took) / (time.perf_counter() - began), took


def come(again, clients, milliseconds, port):
    with selectors.DefaultSelector() as selector:

        def join():
            conn = socket.socket()
            conn.setblocking(False)
            assert conn.connect_ex(("127.0.0.1", port)) in (0, errno.EINPROGRESS)
            selector.register(conn, selectors.EVENT_WRITE, Talker())

        began, heard, soon, last = time.perf_counter(), 0, 0, 0.0
        for _ in range(clients):
            join()
        while (again or heard < clients) and (left := began + milliseconds / 1000 - time.perf_counter()) > 0:
            for key, events in selector.select(left):
                if events & selectors.EVENT_WRITE:
                    key.data.say(key.fileobj)
                    selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
                elif key.data.hears(key.fileobj):
                    heard += 1
                    last = time.perf_counter() - began
                    soon += last < 1
                    if again:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
                        join()
        print(f"{heard / (time.perf_counter() - began):.0f}" if again else f"{soon} {heard} {last:.3f}")


if __name__ == "__main__":
    what, *given = sys.argv[1], *map(int, sys.argv[2:])
    if what == "talk":
        talk(*given)
    else:
        come(what == "connect", *given)
