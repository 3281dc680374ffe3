"""Any sequence of connects, sends, half-closes, closes, resets, stops and restarts, made up by hypothesis.

Each client that stays gets exactly its bytes, in order; and after any of these steps the views say what was done. The
test has a model of it all: who was accepted by which thread, who waits, what was sent. `Sequences` says what may come
next, `Model.look` what the views must say then.
"""

import fcntl
import gc
import os
import random
import selectors
import socket
import struct
import sys
import termios
import threading
import time
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, assume, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from echo_kit import Client, serve_single, serve_threaded, start
from echo_kit.client import Reset, ServerClosed
from echo_kit.views.code import DIED, INSIDE, NOBODY, STANDS
from echo_kit.watch import observation, patches

from .conftest import open_sockets
from .watch.plain_servers import threaded

LONG = 20  # seconds that anything may take before the test fails
MOST = 6  # clients at one time
ENDED = struct.pack("ii", 1, 0)  # SO_LINGER: close() is a reset
SYN_RECV, FIN_WAIT1 = "03", 4

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the witness of what has arrived is Linux's kernel")


# -- the servers -----------------------------------------------------------------------------------------------------


def selecting(host, port):
    """One thread for all of them."""
    with selectors.DefaultSelector() as selector, socket.create_server((host, port)) as listener:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                conn = key.fileobj
                if conn is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                    continue
                try:
                    data = conn.recv(1024)
                    conn.sendall(data)
                except OSError:
                    data = b""
                if not data:
                    selector.unregister(conn)
                    conn.close()


# -- the witness -----------------------------------------------------------------------------------------------------


def until(true, what):
    """Wait for it: the peer's kernel follows a call by some microseconds."""
    deadline = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < deadline, f"never so: {what}"
        time.sleep(0.001)


def arrived(sock):
    """Whether the peer's kernel has all bytes that were sent."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4)) == (0,)


def tcp_state(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def server_end(here, there):
    """The state of the server's end of a connection in the kernel's table; "" where it has none."""
    with open("/proc/net/tcp") as table:
        for line in table:
            _, own, peer, state, *_ = line.split()
            if (own[-4:], peer[-4:]) == (f"{here:04X}", f"{there:04X}"):
                return state
    return ""


# -- the model -------------------------------------------------------------------------------------------------------


class Peer:
    """One client, what was done with it, and what the server must have done. `server` is its port."""

    def __init__(self, server, name):
        self.name, self.server = name, server.address[1]
        self.ours = Client(server, name=name) if name else None
        self.sock = self.ours.sock if self.ours else socket.create_connection(server.address, timeout=LONG)
        self.address = self.sock.getsockname()
        until(lambda: server_end(self.server, self.address[1]) not in ("", SYN_RECV), "it is connected at the server")
        self.sent, self.sends, self.read = bytearray(), 0, 0
        self.finished = self.closed = self.broke = False
        self.known = bool(name)  # the views know of it: it is ours, or somebody has looked while it waited
        self.thread = ""  # the label of the one that accepts or serves it, once it is accepted
        self.over = False  # its server is done with it
        self.raced = False  # it broke off while bytes were under way: nobody knows which of them were read

    @property
    def stays(self):
        return not self.closed

    def send(self, pieces):
        for piece in pieces:
            if self.ours:
                self.ours.send(piece)
            else:
                self.sock.sendall(piece)
            self.sent += piece
            self.sends += bool(piece)
        until(lambda: arrived(self.sock), "the bytes have arrived")

    def drain(self):
        """Read what the server owes, and see that it is that, and no more."""
        owed = bytes(self.sent[self.read :])
        if self.ours:
            got = self.ours.receive(timeout=LONG, size=len(owed)) if owed else b""
            got = got.encode() if isinstance(got, str) else got
            assert self.ours.pending() == b"" if not self.finished else True
        else:
            got = bytearray()
            while len(got) < len(owed) and (data := self.sock.recv(65536)):
                got += data
        assert bytes(got) == owed
        self.read += len(got)
        assert not self.ours or self.ours.connection.received == self.read

    def sees_the_end(self):
        """The server hangs up in good order, and has sent nothing more."""
        if self.ours:
            with pytest.raises(ServerClosed):
                self.ours.receive(timeout=LONG, size=1)
        else:
            assert self.sock.recv(1) == b""

    def is_cut_off(self, all_of_it):
        """The server was stopped. What came until then is the beginning of what was owed, or all of it."""
        owed, got = bytes(self.sent[self.read :]), bytearray()
        try:
            while True:
                data = self.ours.receive(timeout=LONG, size=1) if self.ours else self.sock.recv(65536)
                if not data:
                    break
                got += data.encode() if isinstance(data, str) else data
        except (ServerClosed, Reset, ConnectionResetError):
            pass
        assert owed == got if all_of_it else owed.startswith(got)

    def finish(self):
        if self.ours:
            self.ours.finish()
        else:
            self.sock.shutdown(socket.SHUT_WR)
        until(lambda: tcp_state(self.sock) != FIN_WAIT1, "the end of file has arrived")
        self.finished = True

    def close(self):
        if not self.ours and not self.finished:
            self.finish()  # so that it is seen to arrive
            self.finished = False
        (self.ours or self.sock).close()
        self.closed = True

    def reset(self):
        if self.ours:
            self.ours.vanish()
        else:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ENDED)
            self.sock.close()
        self.closed = self.broke = True
        until(lambda: not server_end(self.server, self.address[1]), "the reset has arrived")


class Model:
    """A server of one kind, its clients, and what must be so."""

    def __init__(self, serve, single=False, selects=False, dies=False):
        self.serve, self.single, self.selects, self.dies = serve, single, selects, dies
        self.before = set(threading.enumerate()), open_sockets(), patches.state()
        self.peers, self.names = [], count(1)
        self.server, self.stopped = start(serve), False
        self.begins()

    def begins(self):
        self.stopped = False
        self.accepted, self.waiting = [], []

    # -- what the server does --

    def moves(self):
        """It accepts whom it can."""
        while self.waiting and not (self.single and self.serving):
            peer = self.waiting.pop(0)
            self.accepted.append(peer)
            peer.known = True
            peer.thread = "server thread" if self.single or self.selects else f"thread {len(self.accepted)}"
            self.notices(peer)

    def notices(self, peer):
        """A client has done something at which the server is done with it."""
        if peer.thread and not peer.over and (peer.closed or peer.finished):
            peer.over = True
            self.moves()

    @property
    def serving(self):
        return [peer for peer in self.accepted if not peer.over]

    # -- what is done --

    def connects(self, ours):
        peer = Peer(self.server, f"{ours}{next(self.names)}" if ours else "")
        self.peers.append(peer)
        self.waiting.append(peer)
        assume(all(peer.address != each.address for each in self.accepted + self.waiting[:-1]))
        self.moves()
        return peer

    def ends(self, how, again):
        """Stop it in one of several ways, and begin again, or not."""
        calm = how == "calm"
        if calm:
            self.look()
        port = self.server.address[1]
        if again == "restart":
            self.server.restart()
        else:
            self.server.stop()
            self.looks_stopped(calm)
        for peer in self.peers:
            if peer.stays:
                if not peer.over:
                    peer.is_cut_off(all_of_it=calm and bool(peer.thread))
                (peer.ours or peer.sock).close()
        self.peers = []
        if again == "start":
            self.server = start(self.serve, port=port)
        if again:
            assert self.server.address[1] == port
            self.begins()
        else:
            self.stopped = True

    # -- what must be so --

    def look(self):
        """The three views, and all of them at once, at one moment."""
        self.server.settle(LONG)  # a view waits a second at most, which a server on a busy machine may need to accept
        timeline = self.server.timeline()
        for peer in self.waiting:
            peer.known = peer.known or not peer.broke
        backlog, where = self.server.backlog(), self.server.where()
        names = self.check_timeline(timeline)
        self.check_backlog(backlog, names)
        self.check_where(where, names, self.died(timeline))
        assert str(self.server.snapshot()) == "\n\n".join(map(str, (where, backlog, timeline)))
        assert self.server.running
        assert isinstance(self.server.error, ConnectionError if self.died(timeline) else type(None))

    def died(self, timeline):
        """The threads that have died of a reset."""
        return {lane.threads[0] for lane in timeline.lanes if self.dies and lane.reset}

    def check_backlog(self, backlog, names):
        expected = {p.address: (len(p.sent), p.finished or p.closed) for p in self.waiting if not p.broke}
        assert {each.client: (each.unread, each.left) for each in backlog.waiting} == expected
        assert len(backlog.waiting) == len(expected)
        assert {each.client: each.name for each in backlog.waiting} == {each: names[each] for each in expected}
        assert backlog.broken_off == sum(peer.broke for peer in self.waiting)
        assert (backlog.complete, backlog.listens, backlog.unanswered, backlog.half) == (True, True, 0, 0)

    def check_timeline(self, timeline):
        """What it says of each client; returns their names, by their addresses."""
        waiting = [peer for peer in self.waiting if peer.known]
        lanes = {lane.address: lane for lane in timeline.lanes}
        assert len(lanes) == len(timeline.lanes)
        assert [lane.address for lane in timeline.lanes[: len(self.accepted)]] == [p.address for p in self.accepted]
        assert lanes.keys() == {peer.address for peer in self.accepted + waiting}
        ours = [lane.name for lane in timeline.lanes[len(self.accepted) :] if lane.client]
        assert ours == [peer.name for peer in waiting if peer.ours]
        rows = dict(zip(lanes, timeline.table(), strict=True))
        calls = timeline.calls()
        for position, (address, lane) in enumerate(lanes.items(), 1):
            peer = next(each for each in self.accepted + waiting if each.address == address)
            assert lane.name == (peer.name or f"client {position}")
            mine = [call for call in calls if call["client"] == lane.name]
            self.check_lane(peer, lane, rows[address], mine)
            if not self.stopped and not lane.accepted:
                assert (
                    "was never accepted" if peer.ours and peer.closed else "waits in the backlog"
                ) in timeline.story(lane)
        return {address: lane.name for address, lane in lanes.items()}

    def check_lane(self, peer, lane, row, calls):
        accepted, sent = bool(peer.thread), len(peer.sent)
        assert (lane.accepted is not None, lane.left is not None) == (accepted, bool(peer.ours and peer.closed))
        silent = self.selects and not peer.sent and not peer.over
        assert lane.threads == ([peer.thread] if accepted and not silent else [])
        assert lane.ending().partition(" at line ")[0] in self.endings(peer)
        number = {kind: sum(call["call"] == kind for call in calls) for kind in ("connect", "accept", "close")}
        closed = accepted and (peer.over or self.stopped)
        assert number == {"connect": bool(peer.ours), "accept": accepted, "close": closed}
        moved = {kind: [call for call in calls if call["call"] == kind] for kind in ("recv", "send")}
        if peer.ours:
            theirs = {f"client {kind}": [call for call in calls if call["call"] == f"client {kind}"] for kind in moved}
            moved |= theirs
            assert row["bytes sent"] == lane.client.sent == sent
            back = row["bytes back"]  # a Client takes in what has come also while it sends
            assert peer.read <= back == lane.client.received <= sent
            assert row["messages"] == peer.sends
            assert sum(call["bytes"] > 0 for call in theirs["client send"]) == peer.sends
            ends = [sum(call["call"] == f"client {kind}" for call in calls) for kind in ("shutdown", "close")]
            assert ends == [peer.finished, peer.closed]
        totals = {kind: sum(call["bytes"] for call in each) for kind, each in moved.items()}
        expected = {"recv": sent, "send": sent, "client send": sent, "client recv": back if peer.ours else 0}
        for kind, each in moved.items():
            at = 0
            for call in each:
                assert call["data"] == peer.sent[at : at + call["bytes"]][:40]
                at += call["bytes"]
            if kind.startswith("client") or (accepted and not peer.raced):
                assert totals[kind] == expected[kind], kind
            assert totals[kind] <= sent
        if not peer.ours and accepted:
            assert (row["bytes sent"], row["bytes back"]) == (totals["recv"], totals["send"])
            assert row["messages"] == sum(call["bytes"] > 0 for call in moved["recv"])

    def endings(self, peer):
        """How the timeline may say that it ended: in one way, unless bytes or an end were under way."""
        if not peer.thread:
            return {"left" if peer.ours and peer.closed else ""}
        if not peer.over:
            return {"cut off: the server was stopped" if self.stopped else ""}
        if peer.broke and not peer.finished:
            return {"broke off (reset)"}
        ends = {"closed by the server"} if peer.ours and peer.finished else {"left"}
        ends |= {"left"} if peer.closed else set()
        return ends | {"broke off (reset)"} if peer.raced or peer.broke else ends

    def check_where(self, where, names, died):
        """Which thread stands where, and for whom."""
        stands = {mark.thread: mark for _, mark in where.marks if mark.kind == STANDS}
        said = {thread: (mark.client, mark.words) for thread, mark in stands.items()}
        clients = {peer.thread: names[peer.address] for peer in self.serving}
        expected = {thread: (name, f"waits in recv for {name}") for thread, name in clients.items()}
        others = [mark for _, mark in where.marks if mark.kind not in (STANDS, INSIDE)]
        if self.selects:
            expected = said
            (whom,) = (words for _, words in said.values())
            listed = [names[peer.address] for peer in self.serving]
            assert whom.startswith("waits in select for ")
            assert sorted(whom[20:].replace(" or ", ", ").split(", ")) == sorted([*listed, "a new client"])
        elif not (self.single and self.serving):
            expected["server thread"] = ("", "waits in accept for a new client")
        assert said == expected
        assert where.threads == len(stands) == len(self.server.threads)
        nobody = [NOBODY] if self.single and self.serving else []
        assert [mark.kind for mark in others] == nobody + [DIED] * bool(died)
        assert {mark.thread for mark in others if mark.kind == DIED} <= died

    def looks_stopped(self, calm):
        server = self.server
        self.stopped = True
        assert (server.threads, server.running, len(server.backlog()), server.backlog().listens) == (
            [],
            False,
            0,
            False,
        )
        assert "stopped" in server.where().title
        lanes = {lane.address: lane for lane in server.timeline().lanes}
        for peer in self.accepted:
            lane = lanes.get(peer.address)
            if lane is None or lane.accepted is None:  # the stop was faster than the accept
                assert not calm
                continue
            allowed = self.endings(peer)
            if not calm:  # the stop may have been faster than the news: of a client of ours it is known that it closed
                allowed |= {"cut off: the server was stopped", *(["left"] if peer.ours and peer.closed else [])}
            assert lane.ending().partition(" at line ")[0] in allowed
        self.stopped = False

    def nothing_is_left(self):
        threads, sockets, state = self.before
        assert not [each for each in threading.enumerate() if each not in threads]
        assert patches.state() == state
        assert not observation.observed
        assert not observation.running
        if open_sockets() - sockets:
            gc.collect()
            assert open_sockets() <= sockets


# -- what may come next ----------------------------------------------------------------------------------------------

WIDE = st.integers(0, 2**32 - 1)
NOISE = st.builds(lambda seed, size: random.Random(seed).randbytes(size), WIDE, st.sampled_from([1, 40, 1024, 3000]))
PIECES = st.lists(NOISE | st.binary(max_size=40), min_size=1, max_size=4)
WHO = st.integers(0, MOST - 1)
WHOSE = st.sampled_from(["", "", "alice ", "bob "])  # "": not ours, a plain socket
SPAN = 6  # steps at least from a start to the stop: a run of one step or two shows nothing


class Sequences(RuleBasedStateMachine):
    def __init__(self, *kind, **named):
        super().__init__()
        self.model = Model(*kind, **named)
        self.steps = 0  # since the server was started

    @initialize(whose=st.lists(WHOSE, min_size=2, max_size=5))
    def some_have_come(self, whose):
        for each in whose:
            self.model.connects(each)

    @invariant()
    def one_more_step(self):
        self.steps += 1

    def some(self, who, may=lambda peer: not peer.finished):
        """One of the clients that are there and `may`, as a list; [] where there is none."""
        there = [each for each in self.model.peers if each.stays and may(each)]
        return [there[who % len(there)]] if there else []

    @precondition(lambda self: not self.model.stopped and sum(each.stays for each in self.model.peers) < MOST)
    @rule(whose=WHOSE)
    def connect(self, whose):
        self.model.connects(whose)

    @rule(who=WHO, pieces=PIECES)
    def send(self, who, pieces):
        for peer in self.some(who):
            peer.send(pieces)

    @rule(pieces=st.lists(PIECES, min_size=1, max_size=2))
    def talk(self, pieces):
        """All of them at the same time."""
        for each in pieces:
            for peer in [each for each in self.model.peers if each.stays and not each.finished]:
                peer.send(each)

    @rule(who=WHO)
    def receive(self, who):
        for peer in self.some(who, lambda peer: peer.thread):
            peer.drain()
            if peer.over:
                peer.sees_the_end()

    @rule(who=WHO)
    def half_close(self, who):
        for peer in self.some(who):
            peer.finish()
            self.model.notices(peer)

    @rule(who=WHO)
    def close(self, who):
        for peer in self.some(who, lambda peer: True):
            if peer.thread:
                peer.drain()
            peer.raced = peer.read < len(peer.sent)  # its echo may find nobody
            peer.close()
            self.model.notices(peer)

    @rule(who=WHO, calm=st.booleans())
    def reset(self, who, calm):
        for peer in self.some(who, lambda peer: True):
            if calm and peer.thread:
                peer.drain()
            peer.raced = peer.read < len(peer.sent)
            peer.reset()
            self.model.notices(peer)

    @precondition(lambda self: not self.model.stopped)
    @rule()
    def look(self):
        self.model.look()

    @precondition(lambda self: not self.model.stopped and self.steps > SPAN)
    @rule(how=st.sampled_from(["calm", "at once"]), again=st.sampled_from(["", "start", "restart"]))
    def stop(self, how, again):
        self.model.ends(how, again)
        self.steps = 0

    @precondition(lambda self: self.model.stopped)
    @rule()
    def start_again(self):
        self.model.server.restart()
        self.model.begins()

    def teardown(self):
        model, failed = self.model, sys.exc_info()[0]
        try:
            if not model.stopped and not failed:
                model.ends("calm", "restart")
                carol, _, dave = (model.connects(whose) for whose in ("carol ", "", ""))
                carol.send([b"once more"])
                dave.reset()  # who waits, or is served: as the server is
                model.notices(dave)
                model.ends("calm", "")
            if not failed:
                model.nothing_is_left()
        finally:
            for peer in model.peers:
                peer.sock.close()
            model.server.stop()


SERVERS = {
    "the finished single": (serve_single, {"single": True}),
    "the finished threaded": (serve_threaded, {}),
    "a student's threads": (threaded, {"dies": True}),
    "selectors": (selecting, {"selects": True}),
}


def hunt(server, **how):
    serve, named = SERVERS[server]
    run_state_machine_as_test(
        lambda: Sequences(serve, **named),
        settings=settings(
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            **how,
        ),
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("server", SERVERS)
def test_any_sequence(server):
    """Always the same ones, so that who changes something else is not told of what he did not do."""
    few = 3 if server == "selectors" else 6  # of a thread in select, each view waits a while to be sure that it rests
    hunt(server, max_examples=few, stateful_step_count=20, derandomize=True)


@pytest.mark.soak
@pytest.mark.skipif("ECHO_KIT_EXAMPLES" not in os.environ, reason="a hunt by chance: ECHO_KIT_EXAMPLES=100 asks for it")
@pytest.mark.parametrize("server", SERVERS)
def test_any_other_sequence(server):
    """Others each time. A failure prints how to have it again."""
    hunt(server, max_examples=int(os.environ["ECHO_KIT_EXAMPLES"]), stateful_step_count=40)
