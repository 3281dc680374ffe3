"""`Terminal`: a program in a real pseudo-terminal, typed into as a person would; and the three stories of the pictures.

img/make.py draws the stories, tests/test_pictures.py plays them again and compares. Not on Windows, which has no `pty`.
"""

import codecs
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "notebooks" / "programs"
LIMIT = 30  # seconds that anything may take: long, because nothing waits that long
CTRL_C, CTRL_D = "\x03", "\x04"
NO_PTY = "Windows has no pseudo-terminals of Python's: its programs are not run here, and the pictures stay as they are"

# The child takes the pseudo-terminal as its own, so that Ctrl+C reaches it. (pty.fork() warns where there are threads.)
# And in a shell's background pytest ignores Ctrl+C, which its children must not.
AT_HOME = """
import os, signal, sys
os.login_tty(0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """`command` in a pseudo-terminal of its own, a shell unless something else is asked for. Use it in a `with`."""

    def __init__(self, *command, name="", columns=80):
        import fcntl
        import struct
        import termios

        self.name, self.columns = name, columns
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ENV"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{clean.get('PATH', '')}"  # `python` is this Python
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", AT_HOME, *map(str, command or ["/bin/sh"])],
            cwd=PROGRAMS,
            env=clean | {"PATH": path, "PS1": "$ ", "TERM": "dumb", "PYTHONUTF8": "1", "PYTHONWARNINGS": "error"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self._came = threading.Condition()
        self._text, self._seen, self._over = "", 0, False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        data = b"-"
        while data:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # how Linux says that the last program has left the terminal
                data = b""
            with self._came:
                self._text += decoder.decode(data).replace("\r\n", "\n").replace("\r", "")
                self._over = not data
                self._came.notify_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        with contextlib.suppress(OSError):  # whatever the shell has started, if it still runs
            if (group := os.tcgetpgrp(self._master)) not in (0, os.getpgrp()):
                os.killpg(group, signal.SIGKILL)
        self._process.wait(LIMIT)
        self._reader.join(LIMIT)
        os.close(self._master)

    @property
    def text(self):
        """All that can be read in it: what was typed, and what came."""
        with self._came:
            return self._text

    def expect(self, text):
        """Wait until `text` stands there, after what was expected before; return what came up to it, with it."""
        deadline = time.monotonic() + LIMIT
        with self._came:
            while (at := self._text.find(text, self._seen)) < 0:
                assert not self._over, f"it ended without {text!r}: {self._text[-2000:]}"
                assert self._came.wait(deadline - time.monotonic()), f"no {text!r} came: {self._text[-2000:]}"
            began, self._seen = self._seen, at + len(text)
            return self._text[began : self._seen]

    def type(self, text):
        os.write(self._master, text.encode())

    def enter(self, line):
        """Type a line, wait until the terminal has shown it."""
        self.type(f"{line}\n")
        self.expect(f"{line}\n")

    def wait_in(self, call=""):
        """Until its program waits in a call of the kernel, if that can be told in the one whose name has `call` in it.

        A Ctrl+C in the microsecond before Python makes a blocking call is seen only after the call.
        """
        deadline = time.monotonic() + LIMIT
        while True:
            pid = os.tcgetpgrp(self._master)  # the program in the foreground
            if sys.platform == "linux":
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                where = Path(f"/proc/{pid}/wchan").read_text()
            else:
                asked = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True)
                state, where = asked.stdout.strip()[:1], "0"
            if state == "S" and (call in where or where == "0"):
                return
            assert time.monotonic() < deadline, f"in state {state!r}, in {where}: {self.text[-2000:]}"

    @property
    def pid(self):
        return self._process.pid

    def has_ended(self, limit):
        """Whether the program ends within so many seconds."""
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(LIMIT)
        return True

    def ended(self):
        """Wait until the program has ended by itself: its exit code and all that is to be read."""
        code = self._process.wait(LIMIT)
        self._reader.join(LIMIT)
        return code, self._text


def free_address():
    """What to type after the program's name: nothing if the default port is free, else HOST PORT."""
    for port in range(8000, 8100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            probe.listen()
            return "" if port == 8000 else f"127.0.0.1 {port}"
    raise AssertionError("none of the ports from 8000 to 8099 is free")


# -- the stories -------------------------------------------------------------------------------------------------------


def shell(name, columns):
    terminal = Terminal(name=name, columns=columns)
    terminal.expect("$ ")
    return terminal


def one_client(address=""):
    """A server and one client, from the first line to Ctrl+C."""
    with shell("Terminal 1", 60) as server, shell("Terminal 2", 60) as client:
        serve(server, "server.py", address)
        connect(client, address)
        for line in ["hello", "how are you?"]:
            say(client, line)
            server.expect(f" : {line}\n")
        return texts(server, client)


def two_clients(program, address="", answered=True):
    """Alice talks, bob says hi, alice goes on; where nobody answers bob, he waits in recv all the time."""
    with shell("Terminal 1", 60) as server, shell("Terminal 2", 29) as alice, shell("Terminal 3", 29) as bob:
        serve(server, program, address)
        connect(alice, address)
        say(alice, "hello")
        connect(bob, address)
        if answered:
            say(bob, "hi")
        else:
            bob.enter("hi")
            bob.wait_in()
        say(alice, "how are you?")
        server.expect(" : how are you?\n")
        return texts(server, alice, bob)


def serve(terminal, program, address):
    terminal.enter(f"python {program} {address}".rstrip())
    terminal.expect("Listening on ")
    terminal.expect("\n")


def connect(terminal, address):
    terminal.enter(f"python client.py {address}".rstrip())
    terminal.expect("> ")


def say(terminal, line):
    terminal.enter(line)
    terminal.expect(f"Received  :  {line}\n> ")


def texts(*terminals):
    """What stands in each terminal, below its title."""
    pages = []
    for terminal in terminals:
        command = re.search(r"^\$ (python \w+\.py)", terminal.text)[1]
        pages.append((f"{terminal.name}: {command}", terminal.columns, terminal.text))
    return pages


STORIES = {
    "terminal_one_client": one_client,
    "terminal_two_clients_single": lambda address="": two_clients("server.py", address, answered=False),
    "terminal_two_clients_threaded": lambda address="": two_clients("server_thread.py", address),
}


def described(pages):
    """The pages as one text: a picture's description."""
    return "\n\n".join(f"[{title}]\n{text.rstrip()}" for title, _, text in pages)
