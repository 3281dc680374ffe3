"""Many clients in one thread: what the other process of a swarm runs, and each engine of a cluster.

The standard library is enough: its text is sent to machines that have no echo_kit. As a program it reads a plan, a line
of JSON, and prints lines of JSON: how far it has come ten times a second; that the silent clients are connected, after
which it waits for one more line; and the outcome.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

with contextlib.suppress(ImportError):  # Windows
    import resource

SPARE = 32  # file descriptors that Python and its selector need beside the clients'
WINDOWS = 500  # sockets that its select takes
TELL = 0.1  # seconds from one line to the next
PROBE = 10.0  # seconds at most in which the server must answer a client that comes after the silent ones
FLOOD, SMALL = 16 * 2**20, 4096  # bytes that a slow client sends at most, and of its receive buffer
STUCK = 0.3  # seconds after which the others come, since the server takes no more from the slow ones
BLOCK = 65536  # bytes read or sent at once
TURNS = 64  # clients that begin something between two looks at the others
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
BEGUN = {0, errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK)}

Plan = dict[str, Any]
Outcome = dict[str, Any]


def message(client: int, number: int, size: int) -> bytes:
    """So many bytes, unlike those of every other client and message as far as there is room for both numbers."""
    text = b"%d.%d " % (number, client)
    return (text * (size // len(text) + 1))[:size]


class Client:
    """One of them. Its `state` is new, connecting, idle (nothing is on its way), waiting, or how it has ended."""

    __slots__ = (
        "answered",
        "due",
        "events",
        "got",
        "longest",
        "number",
        "out",
        "role",
        "since",
        "sock",
        "state",
        "want",
    )

    def __init__(self, number: int, role: str, family: int) -> None:
        self.number, self.role, self.state = number, role, "new"
        self.sock = socket.socket(family)
        self.sock.setblocking(False)
        self.since = self.due = 0.0  # when it was connected, and when what is on its way was to be sent
        self.answered, self.longest, self.events = 0, 0.0, 0
        self.want, self.got, self.out = b"", b"", memoryview(b"")  # a message; what of it is back, and is not sent yet


class Swarm:
    """The clients of a plan, and what becomes of them. All times are seconds of `time.perf_counter`."""

    def __init__(self, plan: Plan, tell: Callable[[dict[str, Any]], object]) -> None:
        self.plan, self.tell = plan, tell
        active, slow = plan["active"], plan["slow"]
        roles = ["talks"] * (active - slow) + ["slow"] * slow + ["silent"] * (plan["clients"] - active)
        self.clients = [Client(plan["first"] + place, role, plan["family"]) for place, role in enumerate(roles)]
        self.selector = selectors.DefaultSelector()
        self.due: list[tuple[float, int]] = []  # a heap: when a client begins something, and its place in the list
        self.counts: Counter[str] = Counter()
        self.at: list[float] = []  # of each answer: seconds since the first connect
        self.took: list[float] = []
        self.connects: list[float] = []
        self.open, self.role = 0, ""  # clients of the present role that have still something to do
        self.began = self.first = self.last = self.told = self.moved = time.perf_counter()
        self.until = self.began + plan["timeout"]

    def run(self, go: Callable[[], object]) -> Outcome:
        """Do it all, within the plan's time; `go` returns when the others may begin after the silent ones."""
        with contextlib.ExitStack() as stack:
            for each in self.clients:
                stack.callback(each.sock.close)
            stack.callback(self.selector.close)
            if silent := [each for each in self.clients if each.role == "silent"]:
                self.begin(silent)
                self.tell({"idle": True, "reached": self.probe()})
                waits = time.perf_counter()
                go()
                self.until += time.perf_counter() - waits
            for role in ("slow", "talks"):
                self.first = self.moved = time.perf_counter()
                self.begin([each for each in self.clients if each.role == role])
            return self.outcome()

    def begin(self, clients: list[Client]) -> None:
        """Connect them, and go on until each has done what it is for."""
        now, first = time.perf_counter(), self.plan["first"]
        self.open, self.role = len(clients), clients[0].role if clients else ""
        for place, each in enumerate(clients):
            heapq.heappush(self.due, (now + place * self.plan["stagger"], each.number - first))
        while self.open and (now := time.perf_counter()) < self.until:
            if clients[0].role == "slow" and now - self.moved > STUCK:
                return
            for _ in range(TURNS):
                if self.due and self.due[0][0] <= now:
                    self.turn(*heapq.heappop(self.due))
            wait = min(self.until, now + TELL, self.due[0][0] if self.due else self.until) - now
            for key, events in self.selector.select(max(0.0, wait)) if self.selector.get_map() else self.rest(wait):
                self.ready(key.data, events)
            if now - self.told >= TELL:
                self.told = now
                self.tell({"connected": self.counts["connected"], "answered": self.counts["answered"]})

    def rest(self, seconds: float) -> list[Any]:
        """Nobody is connected: Windows has no select for that."""
        time.sleep(max(0.0, seconds))
        return []

    def probe(self) -> bool:
        """Whether the server answers one more client: then it has accepted the silent ones, which came before."""
        within = min(PROBE, max(0.1, (self.until - time.perf_counter()) / 2))  # the others want some time, too
        try:
            with socket.create_connection(self.plan["address"], timeout=within) as sock:
                sock.sendall(b"probe")
                return sock.recv(BLOCK) != b""
        except OSError:
            return False

    def outcome(self) -> Outcome:
        now = time.perf_counter()
        for each in self.clients:
            if each.state == "new":
                each.state = "its turn did not come in time"
                self.counts[each.state] += 1
            elif each.state == "connecting":
                each.state = "timed out"
                each.longest = now - each.due
            elif each.role == "silent" and each.state == "done" and self.left(each):
                each.state = "hung up"
                self.counts[each.state] += 1
            elif each.state == "waiting" and each.role == "talks":
                each.longest = max(each.longest, now - each.due)
        self.counts["timed out"] = sum(each.state == "timed out" for each in self.clients)
        return {
            "counts": dict(self.counts),
            "clients": [[each.number, each.role, each.state, each.answered, each.longest] for each in self.clients],
            "at": self.at,
            "took": self.took,
            "connects": self.connects,
            "talked": self.last - self.first,
            "seconds": self.last - self.began,
        }

    def left(self, client: Client) -> bool:
        """Whether the server has hung up on it."""
        try:
            return client.sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    # -- one client ----------------------------------------------------------------------------------------------------

    def turn(self, due: float, place: int) -> None:
        """It begins what is due: to connect, or its next message."""
        client = self.clients[place]
        if client.state != "new":
            return self.say(client, due)
        if client.role == "slow":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        client.due, client.state = time.perf_counter(), "connecting"
        if (error := client.sock.connect_ex(self.plan["address"])) in BEGUN:
            self.watch(client, WRITE)
        else:
            self.end(client, error)

    def ready(self, client: Client, events: int) -> None:
        try:
            if client.state == "connecting":
                if error := client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return self.end(client, error)
                return self.connected(client)
            if events & READ:
                self.read(client)
            if events & WRITE and client.state == "waiting":
                self.push(client)
        except BlockingIOError:
            pass  # it was not ready after all
        except OSError as error:
            self.end(client, error.errno or 0)

    def connected(self, client: Client) -> None:
        client.since = self.last = time.perf_counter()
        self.connects.append(client.since - client.due)
        self.counts["connected"] += 1
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.state = "idle"
        if client.role == "slow":
            client.state, client.out = "waiting", memoryview(bytes(FLOOD))
            self.watch(client, WRITE)
        elif client.role == "talks" and self.plan["messages"]:
            self.say(client, client.since)
        else:
            self.end(client)

    def say(self, client: Client, due: float) -> None:
        """Send its next message, which was to be sent when it was `due`."""
        if client.state != "idle":
            return  # the server has hung up meanwhile
        client.want = message(client.number, client.answered, self.plan["size"])
        client.got, client.out, client.due, client.state = b"", memoryview(client.want), due, "waiting"
        try:
            self.push(client)
        except OSError as error:
            self.end(client, error.errno or 0)

    def push(self, client: Client) -> None:
        """Send as much of it as the system takes."""
        with contextlib.suppress(BlockingIOError):
            client.out = client.out[client.sock.send(client.out[:BLOCK]) :]
            self.moved = time.perf_counter()
        reads = 0 if client.role == "slow" else READ
        self.watch(client, reads | (WRITE if client.out else 0))

    def read(self, client: Client) -> None:
        data = client.sock.recv(BLOCK)
        now = self.last = time.perf_counter()
        if not data:
            return self.end(client, errno.ECONNRESET)
        client.got += data
        if client.state != "waiting" or client.got != client.want[: len(client.got)]:
            self.counts["wrong"] += 1
            return self.end(client, state="wrong")
        if len(client.got) < len(client.want):
            return
        took = now - client.due
        client.answered, client.longest, client.state = client.answered + 1, max(client.longest, took), "idle"
        self.counts["answered"] += 1
        self.at.append(now - self.began)
        self.took.append(took)
        if client.answered == self.plan["messages"]:
            self.end(client)
        elif pace := self.plan["pace"]:
            due = client.since + client.answered / pace
            heapq.heappush(self.due, (due, client.number - self.plan["first"]))
        else:
            self.say(client, now)

    def end(self, client: Client, error: int = 0, state: str = "done") -> None:
        """It has nothing more to do: it stays connected where nothing went wrong, since others share the server."""
        if error:
            state = "hung up"
            if client.state == "connecting":
                state = {errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "timed out"}.get(error, os.strerror(error))
            self.counts[state] += 1
            if client.state == "waiting":
                client.longest = max(client.longest, time.perf_counter() - client.due)
        self.open -= client.role == self.role
        client.state = state
        self.watch(client, 0)
        if state != "done":
            client.sock.close()

    def watch(self, client: Client, events: int) -> None:
        if events == client.events:
            return
        if not client.events:
            self.selector.register(client.sock, events, client)
        elif not events:
            self.selector.unregister(client.sock)
        else:
            self.selector.modify(client.sock, events, client)
        client.events = events


def room_for(clients: int) -> str:
    """Raise this process's limit on file descriptors as far as it may be; why so many clients have no room, or ""."""
    most, need = WINDOWS, clients + SPARE
    with contextlib.suppress(OSError):  # no /dev/fd; an engine of a cluster has many open for itself
        need = clients + max(SPARE, len(os.listdir("/dev/fd")) + SPARE // 2)
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = hard if hard != resource.RLIM_INFINITY else need
        if soft != resource.RLIM_INFINITY and soft < need:
            with contextlib.suppress(ValueError, OSError):  # macOS has a limit of its own
                resource.setrlimit(resource.RLIMIT_NOFILE, (min(need, most), hard))
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if need <= most:
        return ""
    return (
        f"{clients:,} clients need {need:,} file descriptors, and {socket.gethostname()} gives a process "
        f"{most:,} (ulimit -Hn): take {max(most - need + clients, 1):,} clients or fewer"
    )


def run(plan: Plan, tell: Callable[[dict[str, Any]], object] = bool, go: Callable[[], object] = bool) -> Outcome:
    """What became of the clients of a plan, or under "wrong" why there are none."""
    if wrong := room_for(plan["clients"]):
        return {"wrong": wrong}
    try:
        found = socket.getaddrinfo(plan["address"][0], plan["address"][1], type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return {"wrong": f"{plan['address'][0]!r} is not a host that {socket.gethostname()} knows"}
    family, _, _, _, address = min(found)  # IPv4 first
    plan = {**plan, "family": family, "address": address}
    return {**Swarm(plan, tell).run(go), "host": socket.gethostname()}


def main() -> None:
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C in a terminal is for the program that has started us
    plan = json.loads(sys.stdin.readline())
    print(json.dumps(run(plan, lambda told: print(json.dumps(told), flush=True), sys.stdin.readline)), flush=True)


if __name__ == "__main__":
    main()
