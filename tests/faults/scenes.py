"""`Scene`: a server, guests that bring a fault about, and alice, bob and others, who have nothing to do with it.

These talk before, during and after, and compare every byte with what they sent. What goes wrong is one of the words
below.
"""

import contextlib
import os
import select
import selectors
import signal
import socket
import time
from pathlib import Path

from ..programs import connect, reset

CUT_OFF = "the others are cut off"  # an end of file, a reset, nobody listens
NO_ANSWER = "the others get no answer"
WRONG = "the others get other bytes than they sent"
GUEST = "the guest does not get what it should"
DIED = "a thread dies of it"
GOES_ON = "Ctrl+C does not end it"


class Unserved(Exception):
    """It says what became of somebody who has nothing to do with the fault. The scene ends here."""


class Talker:
    """Somebody who talks: each time about 1,500 bytes, for which the server needs two calls of recv."""

    def __init__(self, scene, name):
        self.name, self.turn, self.said, self.heard = name, 0, b"", b""
        with self.served():
            self.sock = scene.connect()

    @staticmethod
    @contextlib.contextmanager
    def served():
        try:
            yield
        except TimeoutError:
            raise Unserved(NO_ANSWER) from None
        except OSError:
            raise Unserved(CUT_OFF) from None

    def say(self):
        self.turn += 1
        more = f"{self.name} says this for the time number {self.turn}. ".encode() * 40
        self.said += more
        with self.served():
            self.sock.sendall(more)

    def hear(self):
        while len(self.heard) < len(self.said):
            with self.served():
                more = self.sock.recv(65536)
            if not more:
                raise Unserved(CUT_OFF)
            self.heard += more
        if self.heard != self.said:
            raise Unserved(WRONG)

    def talk(self):
        self.say()
        self.hear()

    def leave(self):
        """Say that no more comes: the server must have nothing left, neither."""
        with self.served():
            self.sock.shutdown(socket.SHUT_WR)
            if self.sock.recv(1):
                raise Unserved(WRONG)
        self.sock.close()


class Guest:
    """One who brings a fault about. It notes when it does not get what it should, and the scene goes on."""

    def __init__(self, scene, sock=None):
        self.scene, self.sock = scene, sock
        if sock is None:
            with self.noted():
                self.sock = scene.connect()

    @contextlib.contextmanager
    def noted(self):
        try:
            yield
        except (OSError, AssertionError, AttributeError, TypeError):  # the latter two: it never was connected
            self.scene.saw.add(GUEST)

    def send(self, data):
        with self.noted():
            self.sock.sendall(data)

    def hears(self, data):
        with self.noted():
            came = b""
            while len(came) < len(data):
                more = self.sock.recv(65536)
                assert more, "it ended"
                came += more
            assert came == data

    def echo(self, data):
        self.send(data)
        self.hears(data)

    def says_no_more(self):
        with self.noted():
            self.sock.shutdown(socket.SHUT_WR)

    def hears_the_end(self):
        with self.noted():
            assert self.sock.recv(1) == b""

    def is_hung_up_on(self):
        """Wait for the end without reading what came before it; the others talk, or they would be silent, too."""
        watch, deadline = select.poll(), time.monotonic() + self.scene.patience
        with self.noted():
            watch.register(self.sock, select.POLLRDHUP)  # POLLHUP and POLLERR are always told
            while not watch.poll(100):
                assert time.monotonic() < deadline
                self.scene.go_on()

    def hears_something(self):
        """An answer, or the end, or a reset: anything but silence."""
        with self.noted(), contextlib.suppress(ConnectionError):
            self.sock.recv(65536)

    def may_be_hung_up_on(self, seconds):
        """Wait for the end, which may not come."""
        watch = select.poll()
        with self.noted():
            watch.register(self.sock, select.POLLRDHUP)
            watch.poll(1000 * seconds)

    def floods(self):
        """Send and read nothing, until nobody has taken a byte for half a second, or 16 MB have been taken.

        The others talk meanwhile.
        """
        with self.noted():
            self.sock.setblocking(False)
            quiet, taken = 0, 0
            while quiet < 5 and taken < 2**24:
                if select.select([], [self.sock], [], 0.1)[1]:
                    taken += self.sock.send(b"x" * 100_000)
                    quiet = 0
                else:
                    quiet += 1
                    self.scene.go_on()
            self.sock.settimeout(self.scene.patience)

    def resets(self):
        with self.noted():
            reset(self.sock)

    def leaves(self):
        with self.noted():
            self.sock.close()


class Scene:
    """One fault and one server. `one_at_a_time`: the others get their answers when the guests have left.

    patience   seconds that anything may take; what takes longer is a hang
    hangs_up   whether the server hangs up on silent clients: the guests wait for that
    """

    def __init__(self, program, one_at_a_time, patience, hangs_up=False):
        self.program, self.one_at_a_time, self.patience, self.hangs_up = program, one_at_a_time, patience, hangs_up
        self.saw, self.open, self.talkers = set(), contextlib.ExitStack(), []

    def connect(self):
        return self.open.enter_context(connect(self.program, timeout=self.patience))

    def guests(self, count=1):
        return [Guest(self) for _ in range(count)]

    @contextlib.contextmanager
    def held(self):
        """The server's process does not run meanwhile: whoever comes waits in the backlog."""
        os.kill(self.program.pid, signal.SIGSTOP)
        deadline = time.monotonic() + self.patience
        while states := {state(file) for file in Path(f"/proc/{self.program.pid}/task").glob("*/stat")} - {"T"}:
            assert time.monotonic() < deadline, f"threads in the states {states} do not stop"
        try:
            yield
        finally:
            os.kill(self.program.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def limited(self, limit, most):
        """The server's process has only so much of it meanwhile, by the system's own limit."""
        import resource

        before = resource.prlimit(self.program.pid, limit)
        resource.prlimit(self.program.pid, limit, (most, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has died of it
                resource.prlimit(self.program.pid, limit, before)

    def may_end(self):
        """Wait for the server's process to end; half a second at most, for it should not."""
        deadline, file = time.monotonic() + 0.5, Path(f"/proc/{self.program.pid}/stat")
        while state(file) != "Z" and time.monotonic() < deadline:
            pass

    def takes(self, descriptors):
        """Wait until the server's process has so many; two seconds at most: it may serve one at a time, or end."""
        deadline, folder = time.monotonic() + 2, f"/proc/{self.program.pid}/fd"
        while len(os.listdir(folder)) < descriptors and time.monotonic() < deadline:
            pass

    def crowd(self, size):
        """So many at once. Only those that found room in the backlog: who did not tries again after a second."""
        socks, chooser = [], self.open.enter_context(selectors.DefaultSelector())
        for _ in range(size):
            socks.append(sock := self.open.enter_context(socket.socket()))
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self.program.port))
            chooser.register(sock, selectors.EVENT_WRITE)
        while len(chooser.get_map()) and (connected := chooser.select(0.9)):
            for key, _ in connected:
                chooser.unregister(key.fileobj)
        for key in list(chooser.get_map().values()):
            self.saw.add(GUEST)
            socks.remove(key.fileobj)
            key.fileobj.close()
        for sock in socks:
            sock.settimeout(self.patience)
        return [Guest(self, sock) for sock in socks]

    # -- the others ----------------------------------------------------------------------------------------------------

    def before(self):
        self.talkers = []
        for name in ("alice", "bob"):
            self.talkers.append(talker := Talker(self, name))
            talker.talk()
            if self.one_at_a_time:
                talker.leave()

    def during(self, full):
        """They come, and say something, also where they are answered only when the guest has left."""
        if self.one_at_a_time:
            self.talkers = []
        if self.one_at_a_time or not full:
            self.talkers += [Talker(self, name) for name in ("carol", "dave")]
        for talker in self.talkers:
            talker.say()
        self.go_on()

    def go_on(self):
        """Where they are answered at once, they are, and talk again."""
        if not self.one_at_a_time:
            for talker in self.talkers:
                talker.hear()
                talker.talk()

    def after(self):
        for talker in self.talkers:
            talker.hear()
            talker.talk()
            if self.one_at_a_time:
                talker.leave()
        erin = Talker(self, "erin")
        erin.talk()
        for talker in [erin] if self.one_at_a_time else [*self.talkers, erin]:
            talker.leave()


def state(file):
    """The letter of a thread's state: S sleeps, T is held, Z has ended."""
    return file.read_text().rpartition(")")[2].split()[0]


def play(fault, scene):
    """What went wrong: a set of the words above, and nothing where nothing did."""
    try:
        scene.before()
        with contextlib.closing(fault(scene)) as script:  # whatever limit it has set is lifted, however this ends
            full = next(script)
            try:
                scene.during(full)
            finally:
                next(script, None)  # what the guest sees is noted in any case
        scene.after()
    except Unserved as error:
        scene.saw.add(error.args[0])
    return scene.saw
