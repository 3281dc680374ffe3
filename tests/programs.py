"""`Program`: the command line as a real process, whose output is waited for with a bound and that always ends."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 30  # seconds that anything may take before a test fails: long, because nothing waits that long
PROMPT = 5  # seconds that Ctrl+C may take; it takes a tenth of one, unless the machine is busy

# What __main__ does on Windows, where Ctrl+C does not reach a thread that is blocked in a socket call.
AS_ON_WINDOWS = """
import sys, echo_kit.__main__ as program
class Windows:
    platform = "win32"
    def __getattr__(self, name): return getattr(sys, name)
program.sys = Windows()
program.run()
"""
SYSTEMS = {"posix": ("-m", "echo_kit"), "windows": ("-c", AS_ON_WINDOWS)}


class Program:
    """`python -m echo_kit ARGUMENTS`, or with `python` other options for the interpreter. Use it in a `with`."""

    def __init__(self, *arguments, python=("-m", "echo_kit"), env=None):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", *map(str, [*python, *arguments])],
            cwd=ROOT,
            env=clean | {"PYTHONIOENCODING": "utf-8"} | (env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._came = threading.Condition()
        self._printed, self._complaints = bytearray(), bytearray()
        self._ended = set()  # the pipes of which all is read
        self._seen = 0
        self._readers = [
            threading.Thread(target=self._read, args=each, daemon=True)
            for each in ((self._process.stdout, self._printed), (self._process.stderr, self._complaints))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe, into):
        data = True
        while data:
            data = pipe.read1(65536)
            with self._came:
                into += data
                if not data:
                    self._ended.add(pipe)
                self._came.notify_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait(LIMIT)
        for reader in self._readers:
            reader.join(LIMIT)
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.stderr.close()

    @property
    def pid(self):
        return self._process.pid

    @property
    def out(self):
        """All that it has printed so far."""
        return self._printed.decode(errors="replace")

    @property
    def complaints(self):
        """All that it has written to standard error so far."""
        return self._complaints.decode(errors="replace")

    def expect(self, text, limit=LIMIT):
        """Wait until it prints `text`; return what it printed since the last call, including `text`."""
        deadline = time.monotonic() + limit
        with self._came:
            while (at := self._printed.find(text.encode(), self._seen)) < 0:
                story = f"{text!r} in {self._printed[-2000:]}, {self._complaints[-2000:]}"
                assert self._process.stdout not in self._ended, f"it ended without {story}"
                assert self._came.wait(deadline - time.monotonic()), f"it did not print {story}"
            began, self._seen = self._seen, at + len(text.encode())
            return self._printed[began : self._seen].decode()

    def type(self, text):
        self._process.stdin.write(text if isinstance(text, bytes) else text.encode())
        self._process.stdin.flush()

    def end(self, limit=LIMIT):
        """Close its standard input and wait until it ends: its exit code and what it wrote to standard error."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        code = self._process.wait(limit)
        for reader in self._readers:
            reader.join(LIMIT)
        return code, self._complaints.decode()

    def _wait_until_it_waits(self):
        """Until its main thread is in a system call: a Ctrl+C in the microsecond before one is seen only after it."""
        deadline = time.monotonic() + LIMIT
        pid, state = self._process.pid, ""
        while not state.startswith(("S", "Z")):  # sleeping, or ended
            assert time.monotonic() < deadline, f"it is busy, in state {state!r}: {self._printed[-2000:]}"
            if sys.platform == "linux":
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].strip()
            else:
                state = subprocess.check_output(["ps", "-o", "state=", "-p", str(pid)], text=True)

    def ends_by_ctrl_c(self, limit):
        """Press Ctrl+C: whether it ends within so many seconds, in whatever order."""
        self._wait_until_it_waits()
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            return False
        return True

    def interrupt(self, prompt=PROMPT):
        """Press Ctrl+C; it has to end in good order, and promptly: not when the next client comes."""
        self._wait_until_it_waits()
        began = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(LIMIT)
        took = time.monotonic() - began
        errors = self.end()[1]
        assert (code, errors) == (0, ""), f"Ctrl+C: exit code {code}, {errors!r}"
        assert took < prompt, f"Ctrl+C took {took:.2f} s: {self._printed[-2000:]}"


def serving(command="", host="127.0.0.1", port=0, **options):
    """A server that listens; `port` says where."""
    program = Program(command, host, port, **options)
    try:
        program.expect(f"Listening on {host}:")
        program.port = int(program.expect("\n"))
    except BaseException:
        program.__exit__()
        raise
    return program


def connect(program, host="127.0.0.1", timeout=LIMIT):
    return socket.create_connection((host, program.port), timeout=timeout)


def read(sock, size):
    """Exactly `size` bytes."""
    data = b""
    while len(data) < size:
        piece = sock.recv(min(65536, size - len(data)))
        assert piece, f"the connection ended after {len(data)} of {size} bytes"
        data += piece
    return data


def read_to_end(sock):
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def ask(sock, data):
    """Send `data` and take the answer."""
    sock.sendall(data)
    return read(sock, len(data))


def reset(sock):
    """Leave as a crash would."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
