"""What the exercises of Part 3 require: one thread for all, a polite refusal, and to find who makes the rest wait."""

from __future__ import annotations

import itertools
import selectors
import socket
from collections.abc import Callable
from typing import Any

from ..server import MAIN
from .called import result_of
from .part1 import AS_THEY_ARE, ODD, has_open
from .part2 import company
from .report import quoted
from .surprises import ends_well, shrink
from .trial import PATIENCE, Guest, Serve, Trial

FLOOD = 400_000  # bytes: more than the small buffers of a connection hold
QUIET, BUSY = 0.4, 0.05  # seconds without a message, and how long a server may compute in them
STAYS = 2.0  # seconds for which exercise 3.2 waits for a refused client that does not hang up
NAMES = ("alice", "bob", "carol", "dave", "erin")
NEAR = 0.05  # seconds by which the answer to 3.3 may differ: whether a call itself is counted is nobody's mistake

KEEP = "send may take a part only: keep the rest, and send it when there is room || it returns how many; EVENT_WRITE"
ASKS = "a socket has room nearly always: ask only while you have something to send || EVENT_WRITE while there is a rest"
ONE = "one thread for all: no threads, no processes; select says which sockets are ready"
LOOP = "nothing in the loop may wait for one client || conn.setblocking(False), and send, not sendall"
HARM = "an error ends its own connection only, also while you send: unregister it, close it || except ConnectionError:"
GONE = "when a client has left: unregister its socket, then close it"


def selectors_echo(trial: Trial) -> None:
    alice = trial.tries('alice connects, and sends "hello"').guest("alice").echoes("hello", "recv, then send the bytes")
    alice.tries("alice sends bytes that are not text, twice").echoes(ODD, AS_THEY_ARE).echoes(ODD, AS_THEY_ARE)
    blocks = any(sock.gettimeout() != 0 for sock, _ in trial.server.observation.sockets(listening=True))
    hint = "a client may be gone again before accept, which then waits for the next one || setblocking(False)"
    trial.expects("the listening socket does not block", not blocks, "it does: accept may wait", hint)
    bob, carol = trial.tries("bob and carol come, and carol sends something first").guest("bob"), trial.guest("carol")
    carol.echoes("hi", ONE)
    bob.echoes("hi", ONE)
    threads = len(trial.server.observation.alive())
    trial.expects("one thread serves all three", threads == 1, f"there are {threads} threads", ONE)
    _computes_nothing(trial.tries("nobody says a word"))
    long = trial.letters(3000)
    alice.tries("alice sends 3,000 bytes at once: each send takes 100 of them").says(long)
    alice.hears(long, KEEP, {long[:1]: KEEP}).hears_nothing(KEEP)
    trial.server.observation.most_sent = None  # from now on send takes what there is room for, and then nothing
    for sock, _ in trial.server.observation.sockets(listening=True):
        shrink(sock)  # the connections that it accepts inherit it
    dave, data = _floods(trial, "dave", "and reads nothing: the others get their answers meanwhile")
    _computes_nothing(trial)
    for guest in (alice, bob, carol):
        guest.echoes("hi", LOOP)
    _reads(dave.tries("dave reads all that"), data)
    dave.echoes("more", "go on reading when all is sent")
    _computes_nothing(trial)
    erin, data = _floods(trial, "erin", "then says that no more will come, and reads only now")
    erin.client.finish()
    _reads(erin, data).is_hung_up("when there is no rest for a client that sends no more, hang up")
    trial.tries("frank breaks off").guest("frank", GONE).vanishes()
    _floods(trial, "gus", "and breaks off; then zoe comes")[0].vanishes()
    zoe = trial.guest("zoe", HARM).echoes("hi", HARM)
    for guest in (alice, bob, carol, dave):
        guest.tries(f"{guest.name} leaves").leaves()
        zoe.echoes("hi", GONE)
    trial.settle()
    has_open(trial, 1, "one connection is open, that of zoe", f"{GONE}, however it has left")


def _computes_nothing(trial: Trial) -> None:
    """The server's thread waits while there is nothing to do. (Where the system tells; on Linux it does.)"""
    tasks = trial.server.observation.alive()
    for _ in range(2):  # the first time it may still be at work
        before = sum(task.processor_time(in_line=True) for task in tasks)  # a busy machine leaves little for each
        trial.until(lambda: False, QUIET)
        if sum(task.processor_time(in_line=True) for task in tasks) - before < BUSY:
            return
    expected = f"the server computes for less than {BUSY:g} s of {QUIET:g} s"
    raise trial.not_yet(expected, "it did not wait: select returned again and again", ASKS)


def _floods(trial: Trial, name: str, words: str) -> tuple[Guest, bytes]:
    """A client that sends much and reads nothing, and what of it was taken: a server may read no more meanwhile."""
    trial.tries(f"{name} sends {FLOOD:,} bytes, {words}")
    guest, data = trial.guest(name, HARM), trial.letters(FLOOD)
    shrink(guest.client.sock)
    taken = guest.floods(data)
    trial.settle()
    return guest, data[:taken]


def _reads(guest: Guest, data: bytes) -> Guest:
    hint = "send what is left as soon as there is room again, all of it, and only then hang up || EVENT_WRITE"
    for at in range(0, len(data), 50_000):  # each of them in time
        guest.hears(data[at : at + 50_000], hint, {b"": hint})
    return guest


def refuse_politely(trial: Trial) -> None:
    release = "when a client leaves, however it leaves, its place is free || release in finally, in its thread"
    told = "accept, then look for a place: if there is none, say so || acquire(blocking=False), sendall(b'full\\n')"
    calm = "those who are served do not notice"
    count = "a refused client had no place, and gives none back"
    waits = f"a refused client must not hold up the loop over accept; and {count} || a thread that refuses"
    read = "say that you send no more, then read until the client hangs up, too: no bytes are unread then || "
    read += "shutdown(socket.SHUT_WR), then recv until it returns no bytes"
    alice, bob, carol = company(trial, "alice", "bob", "carol", hint="three at once, as in 2.5 || Semaphore(3)")
    dave = trial.tries("dave comes while they are there, and sends something").guest("dave", settle=None).says("hi")
    dave.hears("full\n", told)
    ends_well(trial, dave, read, "only the line full is sent", told)
    trial.tries("erin and frank come, get their answers, and stay; meanwhile alice, bob and carol are served")
    end = "after the line, an end of file || shutdown(socket.SHUT_WR)"
    refused = [trial.guest(name, settle=None).hears("full\n", waits).is_hung_up(end) for name in ("erin", "frank")]
    for guest in (alice, bob, carol):
        guest.echoes("still here", calm)
    trial.tries(f"erin and frank do not hang up for {STAYS:g} seconds")
    limit = "a refused client that stays would keep a thread for ever || conn.settimeout(2), and except OSError:"
    for guest in refused:
        there = trial.server.observation.accepted[guest.client.connection.client]
        trial.until(lambda there=there: there.closed, STAYS + PATIENCE)  # type: ignore[misc]
        trial.expects(f"the server closes its connection to {guest.name} then", there.closed, "it is open", limit)
        guest.leaves()
    trial.tries("bob leaves, carol breaks off, and gus and zoe come; then ida is one too many")
    bob.leaves()
    carol.vanishes()
    gus, zoe = (trial.guest(name).echoes("hi", release) for name in ("gus", "zoe"))
    ida = trial.guest("ida").hears("full\n", count).tries("ida breaks off, and the others talk")
    ida.vanishes()
    trial.settle()
    for guest in (alice, gus, zoe):
        guest.echoes("hi", calm)
    trial.tries("all leave, three come, and a fourth one")
    for guest in (alice, gus, zoe):
        guest.leaves()
    for name in ("leo", "max", "ned"):
        trial.guest(name).echoes("hi", release)
    trial.guest("olga").hears("full\n", count)


def one_loop(function: Callable[..., Any], trial: Trial) -> Serve:
    """The function is given what was seen of this server: one thread for all, which computes for whoever asks it to."""

    def serve_all(host: str, port: int) -> None:
        with socket.create_server((host, port)) as s, selectors.DefaultSelector() as selector:
            selector.register(s, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    conn: Any = key.fileobj
                    if conn is s:
                        selector.register(s.accept()[0], selectors.EVENT_READ)
                    elif data := conn.recv(1024):
                        if data == b"compute":
                            trial.computes.acquire(timeout=PATIENCE)
                        conn.sendall(data)
                    else:
                        selector.unregister(conn)
                        conn.close()

    return serve_all


def find_the_culprit(trial: Trial) -> None:
    first, busy, victim, slow, alone = map(trial.guest, trial.random.sample(NAMES, len(NAMES)))
    trial.tries("five clients talk: one sends most, one makes the others wait, one computes when nobody waits")
    for _ in range(8):
        busy.echoes("hi", "")
    _computes(slow, first, 0.3, then=busy, last=victim)
    _hold(alone.says("compute").trial, 0.6)
    alone.hears("compute")
    _names(trial)
    trial.tries("they go on: now another one makes the others wait for longer")
    _computes(victim, busy, 0.5, then=first, last=slow)
    _names(trial)


def _computes(slow: Guest, waits: Guest, seconds: float, then: Guest, last: Guest) -> None:
    """The server computes for `slow`, and then for another one, while all have sent something: `last` waits longest."""
    messages = {slow: "compute", waits: "hi", then: "compute", last: "hi"}
    for guest, message in messages.items():
        guest.says(message)
        slow.trial.until(lambda: slow.there and slow.there.received == slow.client.connection.sent)  # it is read first
    _hold(slow.trial, seconds)
    _hold(slow.trial, seconds / 3)
    for guest, message in messages.items():
        guest.hears(message)


def _hold(trial: Trial, seconds: float) -> None:
    """The server computes for so long, for the client whose message it has read."""
    trial.until(lambda: False, seconds)
    trial.computes.release()


def held_up(calls: list[dict[str, Any]]) -> tuple[str, float]:
    """Whose message the only thread had read, and was not done with, for the longest time in which others sent one."""
    held = [("", 0.0)]
    for row, after in itertools.pairwise(row for row in calls if row["thread"] == MAIN):
        began, over = row["seconds"] + row["took"], after["seconds"]
        others = (each for each in calls if each["call"] == "client send" and each["client"] != row["client"])
        if row["call"] == "recv" and any(began < each["seconds"] < over for each in others):
            held.append((row["client"], over - began))
    return max(held, key=lambda each: each[1])


def _names(trial: Trial) -> None:
    trial.settle()
    calls = trial.server.timeline().calls()
    name, seconds = held_up(calls)
    answer = result_of(trial, calls, hint="it only reads a list: nothing to wait for", still=PATIENCE, most=PATIENCE)
    expected = f'your function returns "{name}", and for how many seconds the others had to wait'
    got = f"it returned {quoted(repr(answer).encode())}"
    pair = isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], int | float)
    trial.expects(expected, pair, got, "two values: return name, seconds")
    hint = "which message was read, and not yet answered, while others had sent theirs? || from the end of "
    trial.expects(expected, answer[0] == name, got, f"{hint}a recv of the server thread to its next call")
    hint = "seconds, from the end of its recv to the next call of the same thread || seconds + took"
    trial.expects(expected, abs(answer[1] - seconds) < NEAR, got, hint)
