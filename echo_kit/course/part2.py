"""What the exercises of Part 2 require."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ..client import Client, EchoError
from ..server import MAIN
from ..watch.frames import is_student_code, thread_frames
from ..watch.observation import Task
from ..watch.text import listed
from .report import NotYet, quoted
from .trial import MOMENT, PATIENCE, Guest, Trial

ROUNDS, COUNTING = 25, 4  # lines of each client in exercise 2.3, and clients
ONE_EACH = "one answer for each line: two may come at once, and one in two pieces || for line in lines_of(conn):"
CROWD = 20  # threads that the server of exercise 2.4 may have before the next of many clients comes
MANY = 40  # clients that are there at once in exercise 2.1: more threads than a pool has that nobody has limited
AGAIN = 1.5  # seconds for which a full server is watched that does not wait, but looks again and again
LONGER = 2.5  # seconds by which the threads of exercise 2.7 end later than a server may think
LOCKS = (type(threading.Lock()), type(threading.RLock()))
LOOK_AT = 2000  # objects in which the locks of exercise 2.4 are looked for

MESSAGES = (b"again", b"again", b" \r\n\tz ", b"caf\xe9 \xff\x00", b"".join(b"%05d" % each for each in range(600)))
ODD = "the same bytes go back, all of them, whatever they are || sendall(data), no send, no decode, no strip"
ODD_LINES = {  # what a line may be, and what to think of
    b"again": "the same line may come twice: each time it is answered",
    b"": "an empty line is a line, too: it is answered, and more may come",
    b" \tz\r": "only \\n ends a line: spaces and \\r belong to it || no strip()",
    b"caf\xe9 \xff": "a line is bytes, and need not be text || no decode()",
    b"x" * 1500: "a line may be longer than one recv: and one send may take a part of its bytes || lines_of, sendall",
}
HALF = "what comes after the last \\n is no line, also when the client leaves"
SILENT = "the loop must be in accept again at once, also when a new client is silent || recv is called in its thread"
LATE = (
    "each thread must keep its own conn: the loop has changed its variable conn before this thread has read it || "
    "args=(conn, addr), no lambda"
)


def served_by(trial: Trial, guest: Guest) -> list[Task]:
    """The threads that are there for a client now. (Their names are no proof: a student may give all the same one.)"""
    return [each for each in trial.server.observation.alive() if each.connection is guest.there and each.label != MAIN]


def threads_of(trial: Trial, *guests: Guest) -> list[str]:
    """The labels of the threads that have served them."""
    lanes = {lane.name: lane for lane in trial.server.timeline().lanes}
    return [lanes[guest.name].threads[-1] if lanes[guest.name].threads else "" for guest in guests]


def company(trial: Trial, *names: str, hint: str, two: str = "") -> list[Guest]:
    """Clients that connect at the same time. Then each gets its echo, and the one that came first is silent longest.

    two  the hint where two are served, and the third one is not
    """
    trial.tries(f"{listed(names)} connect, and are silent. Then each sends something, {names[-1]} first")
    with trial.late_threads():
        guests = [trial.guest(name) for name in names]
    threads_only(trial)
    for guest in reversed(guests):
        reads = [each.waiting.connection for each in trial.server.observation.alive() if each.waiting is not None]
        reads = [each for each in reads if each in [one.there for one in guests]]
        late, first = len(set(reads)) < len(reads), guest is guests[-1]
        words = LATE if late else two if first and len(reads) == 2 and two else SILENT if len(reads) == 1 else hint
        for data in (f"hello from {guest.name}".encode(), *MESSAGES[: None if first else 1]):
            guest.echoes(data, words if data[:5] == b"hello" else ODD)
    return guests


def threads_only(trial: Trial) -> None:
    got, hint = "it has started another process", "threads, no processes || threading.Thread, ThreadPoolExecutor"
    trial.expects("threads of your server serve the clients", not trial.server.observation.children, got, hint)


def come_and_go(trial: Trial, number: int, hint: str) -> list[Guest]:
    """So many clients, one after the other: each gets its echo, and leaves."""
    guests = []
    for each in range(number):
        guests.append(trial.guest(f"guest {each}", settle=MOMENT).echoes(f"hi {each}", hint))
        guests[-1].leaves()
    return guests


def a_thread_for_each(trial: Trial) -> None:
    start = "Thread(target=handle_client, args=(conn, addr)), then start()"
    alice = trial.tries('alice connects, and sends "hello"').guest("alice")
    alice.echoes("hello", f"a new thread serves the client, and it is the thread that closes conn || {start}")
    bob = trial.tries("bob comes while alice is there").guest("bob")
    same = "run() and handle_client(…) do the work in the same thread, and join() waits for its end"
    bob.echoes("hi", f"the loop must be in accept again at once: a new thread serves the client || {start}: {same}")
    guests = [alice, bob, *company(trial, "carol", "dave", "erin", hint=f"a new thread for each client || {start}")]
    trial.tries("they talk in turns, and send 3,000 bytes, spaces, and bytes that are no text")
    for number, guest in itertools.product(range(2), guests):
        guest.echoes(f"{guest.name} {number}", "each thread has its own conn || it is passed in args")
    for data in MESSAGES:
        alice.echoes(data, ODD)
    one = f"one new thread for each client, and for all of its messages || {start}"
    lanes = {lane.name: lane.threads for lane in trial.server.timeline().lanes}
    for guest in guests:
        mine, expected = lanes[guest.name], f"{guest.name} has a thread of its own"
        got = f"{guest.name} was served by {', '.join(mine)}"
        own = [each.label for each in served_by(trial, guest)]
        trial.expects(expected, own == mine and len(own) == 1, got, one)
    trial.tries(f"{MANY} more come, and stay. The last one sends something first")
    crowd = [trial.guest(f"guest {number}", settle=MOMENT) for number in range(MANY)]
    for guest in (crowd[-1], crowd[0]):
        guest.echoes("hi", f"as many threads as there are clients: no pool, no limit || {start}")
    known = {task.thread for task in trial.server.observation.alive()}
    trial.tries("alice breaks off, the others leave, and zoe comes")
    alice.vanishes()
    for guest in (*guests[1:], *crowd):
        guest.leaves()
    closed = "when a client has left, its thread closes conn, and ends || with conn: in handle_client"
    gone = trial.until(lambda: not any(True for _ in trial.server.observation.sockets(listening=False)))
    trial.expects("none of their connections is open on your side", gone, "one still is", closed)
    zoe = trial.guest("zoe").echoes("hi", "an error of one client ends its own thread only")
    old = [task.label for task in served_by(trial, zoe) if task.thread in known]
    trial.expects("zoe is served by a new thread", not old, f"{listed(old)} has served other clients before", one)


def who_serves_me(trial: Trial) -> None:
    hint = "ask inside your function: it runs in the thread that serves || threading.current_thread().name"
    trial.tries("alice and bob connect, and each sends something")
    alice, bob = trial.guest("alice"), trial.guest("bob")
    for guest in (alice, bob, alice):
        told = guest.says("who are you?\n").hears_line(f"the name as text, with \\n at its end. And {hint}")
        (name,) = threads_of(trial, guest)
        expected = f'{guest.name} is told "{name}", the name of the thread that serves'
        trial.expects(expected, told == name, f"{guest.name} was told {quoted(told.encode())}", hint)
    alice.hears_nothing(ONE_EACH).tries('alice sends two lines at once, "hello\\nagain\\n"').says("hello\nagain\n")
    alice.hears(f"{name}\n{name}\n", ONE_EACH).hears_nothing(ONE_EACH)
    bob.tries('bob sends a line in two pieces, "hel" and "lo\\n"').says("hel").hears_nothing(ONE_EACH)
    bob.says("lo\n").hears_line(ONE_EACH)
    bob.hears_nothing(ONE_EACH)
    alice.tries("alice sends a line twice, an empty one, one with spaces, one that is no text, and a long one")
    for line, hint in ODD_LINES.items():
        for _ in range(2 if line == b"again" else 1):
            alice.says(line + b"\n").hears(f"{name}\n", hint)
    leaves_in_a_line(bob.hears_nothing(ONE_EACH))


def leaves_in_a_line(guest: Guest) -> None:
    guest.tries(f"{guest.name} sends half a line, and leaves").says("hal").client.finish()
    guest.hears_nothing(HALF, f"{guest.name} gets no answer", may_end=True).leaves()


def count_together(trial: Trial) -> None:
    gus = trial.tries('gus connects, and is silent. alice sends the lines "x\\n", "xyz\\n" and "\\n"').guest("gus")
    alice = trial.guest("alice")
    first = _number(alice)
    for step, line in ((1, b"xyz"), (2, b"")):
        told = _number(alice, line, "one answer for each line; and each lock is given back || with lock: does that")
        got, hint = f"after {first} came {told}", "count lines, not bytes: one more each time"
        trial.expects("each line counts one more", told == first + step, got, hint)
    bob = trial.tries('bob comes, and sends "x\\n" once').guest("bob")
    hold = "hold a lock to count, not to wait for a line, or all others wait || with lock: in the loop"
    told = _number(bob, hint=hold)
    hint = "one number for all clients: it is set outside the function || global inside the function"
    expected = f"bob is told {first + 3}, one more than alice"
    trial.expects(expected, told == first + 3, f"bob was told {told}", hint)
    bob.tries('bob sends two lines at once, "x\\nx\\n", and one in two pieces, "x" and "\\n"').says("x\nx\nx")
    lines = f"{first + 4}\n{first + 5}\n"
    bob.hears(lines, ONE_EACH).hears_nothing(ONE_EACH).says("\n").hears(f"{first + 6}\n", ONE_EACH)
    gus.tries("gus sends a line twice, an empty one, one with spaces, one that is no text, and a long one")
    next_one = first + 7
    for line, hint in (*ODD_LINES.items(), (b"again", "")):
        gus.says(line + b"\n").hears(f"{next_one}\n", hint)
        next_one += 1
    leaves_in_a_line(gus)
    trial.settle()
    told = _number(alice.tries("alice sends a line when gus has left"))
    hint = "count whole lines only, not the end: recv returns no bytes then"
    trial.expects(f"alice is told {next_one}", told == next_one, f"alice was told {told}", hint)
    trial.tries(f"{COUNTING} clients send {ROUNDS} lines each, all at the same time")
    crowd = [alice, bob, *(trial.guest(f"client {number}") for number in range(3, COUNTING + 1))]
    with ThreadPoolExecutor(COUNTING) as pool:
        counted = pool.map(lambda guest: [_number(guest, b"x" * (each % 5)) for each in range(ROUNDS)], crowd)
        numbers = set(itertools.chain.from_iterable(counted))
    all_of_them = set(range(next_one + 1, next_one + 1 + COUNTING * ROUNDS))
    expected = f"all of the {COUNTING * ROUNDS} numbers are different, and none is left out"
    hint = "one thread at a time reads and writes the number; one lock for all threads, made outside || with lock:"
    trial.expects(expected, numbers == all_of_them, "some lines were counted as one", hint)


def _number(guest: Guest, line: bytes = b"x", hint: str = "the answer is the number as text, with \\n at its end") -> int:
    told = guest.says(line + b"\n").hears_line(hint)
    got = f"{guest.name} got {quoted(told.encode())}"
    guest.trial.expects(f"{guest.name} gets a number", told.isdecimal(), got, "sendall")
    return int(told)


def who_is_there(trial: Trial) -> None:
    hello = "the first line is the name: the answer is hello, a space, the name and \\n"
    alice = trial.tries('alice connects, and sends her name, "alice\\n"').guest("alice")
    alice.says("alice\n").hears("hello alice\n", hello)
    who = "the names of those who are there, sorted, with a comma and a space between them, and \\n at the end"
    again = "a thread that has the lock must not ask for it again"
    old = "names of an earlier check are still there: run the line that makes the collection again, then the check"
    alice.tries('alice sends "/who\\n"').says("/who\n").hears("alice\n", f"{who}; and {again}", {b"alice, ": old})
    alice.tries("alice sends something else").echoes("nice place\n", "all other lines are sent back as they are")
    alice.tries("alice sends a line twice, an empty one, one with spaces, one that is no text, and a long one")
    for line, hint in (*ODD_LINES.items(), (b"again", "")):
        alice.echoes(line + b"\n", hint)
    alice.tries('alice sends "/whoever\\n", "say /who\\n" and " /who \\n"')
    for line in ("/whoever\n", "say /who\n", " /who \n"):
        alice.echoes(line, "only the line /who is the question, and no more or less than it || line == b'/who'")
    alice.tries('alice sends "/who\\n" in two pieces, "/w" and "ho\\n"').says("/w").hears_nothing(ONE_EACH)
    alice.says("ho\n").hears("alice\n", ONE_EACH)
    trial.tries('dave sends his name and a question at once, "dave\\n/who\\n", and leaves')
    wait = f"{hello}; and no lock is held while you wait for bytes, or all others wait || with lock: is not around recv"
    dave = trial.guest("dave").says("dave\n/who\n")
    dave.hears("hello dave\nalice, dave\n", wait, {b"hello dave": ONE_EACH})
    leaves_in_a_line(dave)
    trial.tries("erin breaks off before she has sent a name, zoe leaves in the middle of hers, gus is silent")
    trial.guest("erin").vanishes()
    trial.guest("zoe").says("zo").leaves()
    trial.guest("gus")
    early = "a client may leave before its first line: then there is no name || try: around lines_of(conn), too"
    alice.hears_nothing(early).says("/who\n").hears("alice\n", early)
    trial.expects("no thread ends with an error", trial.server.error is None, "one did", early)
    trial.tries("carol and bob come, and alice asks again")
    carol, bob = (trial.guest(name).says(f"{name}\n").hears(f"hello {name}\n", wait) for name in ("carol", "bob"))
    instead = {
        b"alice\n": "one collection for all threads, made outside the function",
        b"alice, carol, bob\n": "sorted: by name, not by time",
    }
    alice.hears_nothing().says("/who\n").hears("alice, bob, carol\n", who, instead)
    forget = "when a client leaves, its name is removed, however it leaves || finally does that"
    bob.tries("bob leaves, and alice asks again").leaves()
    alice.hears_nothing().says("/who\n").hears("alice, carol\n", forget)
    carol.tries("carol breaks off, and alice asks again").vanishes()
    alice.hears_nothing().says("/who\n").hears("alice\n", forget)

    bob, al = trial.tries('bob comes again, and "al", too').guest("bob"), trial.guest("al")
    for guest in (bob, al):
        guest.says(f"{guest.name}\n").hears(f"hello {guest.name}\n", wait)
    alice.hears_nothing().says("/who\n").hears("al, alice, bob\n", who)
    _uses_a_lock(trial, alice, al)
    forgotten = "when a client leaves, its name is removed, and no other one"
    alice.hears_nothing().says("/who\n").hears("alice, bob, carl\n", forgotten)
    for guest in trial.guests:
        if guest is not alice:
            guest.leaves()
    _crowd(trial, alice)


def locks_of(function: Any) -> list[Any]:
    """The locks that a function can reach: by its global names, its cells and defaults, and in what it finds there."""
    home, found, seen, todo = getattr(function, "__globals__", {}), [], set(), [function]
    while todo and len(seen) < LOOK_AT:
        each = todo.pop()
        if id(each) in seen or isinstance(each, ModuleType | threading.Thread | socket.socket):
            continue
        seen.add(id(each))
        if isinstance(each, LOCKS):
            found.append(each)
        elif isinstance(each, dict):
            todo += each.values()
        elif isinstance(each, list | tuple | set):
            todo += each
        elif isinstance(each, CodeType):
            todo += [each for each in each.co_consts if isinstance(each, CodeType)]
            todo += [home[name] for name in each.co_names if name in home]
        elif isinstance(each, FunctionType):
            todo += [*(each.__closure__ or ()), *(each.__defaults__ or ()), each.__kwdefaults__]
            todo += [each.__code__] if each.__globals__ is home else []
        elif isinstance(each, MethodType):
            todo += [each.__func__, each.__self__]
        elif isinstance(each, CellType):
            with contextlib.suppress(ValueError):  # an empty one
                todo.append(each.cell_contents)
        elif hasattr(type(each), "__dict__") and type(each).__module__ != "builtins" or isinstance(each, type):
            todo += [*getattr(each, "__dict__", {}).values(), type(each)]
    return found


def _uses_a_lock(trial: Trial, alice: Guest, al: Guest) -> None:
    """Nobody reads or changes the names while the check has the lock. (In CPython, most that a student writes without a
    lock happens to go well.)
    """
    trial.tries('the check holds your lock: alice asks, "carl" comes, and al leaves')
    each = "all that reads or changes the collection is in a block with the same lock || with lock:"
    locks = locks_of(trial.function)
    trial.expects("your code has a lock for the names", locks, "no lock was found", f"a lock, made outside; {each}")
    with contextlib.ExitStack() as held:
        for lock in locks:
            trial.expects("each lock is given back", lock.acquire(timeout=PATIENCE), "one is not", each)
            held.callback(lock.release)
        alice.says("/who\n").hears_nothing(each, "alice gets no answer until the lock is free")
        carl = trial.guest("carl").says("carl\n")
        trial.until(lambda: carl.there and carl.there.received == 5)
        trial.settle()
        reads = any(task.waiting is not None for task in served_by(trial, carl))
        trial.expects("carl's thread waits for the lock, to add the name", not reads, "it waits for a line", each)
        stays = served_by(trial, al)
        al.leaves()
        trial.settle()
        left = any(not task.alive() for task in stays)
        trial.expects("al's thread waits for the lock, to remove the name", not left, "it has ended", each)
    carl.hears("hello carl\n")
    alice.hears_line(each)


def _crowd(trial: Trial, alice: Guest) -> None:
    trial.tries("many clients come, ask and go, while alice asks again and again")
    locked = "one thread at a time reads or changes the collection || with lock: around all that does"
    whole = "to read, change and write back is one step: all of it in one block with the lock || add and remove in place"
    over = threading.Event()
    numbers = itertools.count(1)  # no name comes twice: the server may not know yet that its first client has left
    few = 2  # threads: the server's own, and that of alice

    def many() -> None:
        with contextlib.suppress(EchoError, OSError):
            while not over.is_set():
                name = f"guest {next(numbers)}"
                guest = Guest(trial, Client(trial.server, name=name, timeout=PATIENCE))
                with contextlib.closing(guest.client):
                    there = guest.says(f"{name}\n/who\n").hears(f"hello {name}\n", locked).hears_line(locked)
                    got = f"{name} got {there}"
                    trial.expects(f"{name} is in the list that it gets", name in there.split(", "), got, whole)
                trial.until(lambda: len(trial.server.observation.alive()) < CROWD)

    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(many) for _ in range(3)]
        try:
            for _ in range(20):
                names = alice.says("/who\n").hears_line(locked).split(", ")
                there = "alice" in names and names == sorted(names)
                trial.expects("alice is there, too", there, f"alice got {', '.join(names)}", whole)
        finally:
            over.set()
        for run in runs:
            run.result()
    trial.expects("no thread ends with an error", trial.server.error is None, "one did", locked)
    trial.until(lambda: len(trial.server.observation.alive()) <= few)
    alice.tries("they have left, and alice asks again").says("/who\n").hears("alice\n", whole)


def at_most_three(trial: Trial) -> None:
    hint = "three at once: a thread each, and three places, made inside your function || a Semaphore(3)"
    two = "three places, not two || Semaphore(3)"
    alice, bob, carol = company(trial, "alice", "bob", "carol", hint=hint, two=two)
    limit = (
        "a place must be free before a client is accepted || Semaphore(3): acquire before accept, release in its thread"
    )
    release = "when a client leaves, however it leaves, its place is free || release in finally, in its thread"
    dave = trial.tries("dave comes while they are there").guest("dave")
    _waits(dave, limit, long=True)
    dave.hears_nothing(limit)
    bob.tries("bob leaves").leaves()
    dave.hears("hi", release)
    erin = trial.tries("erin comes while alice, carol and dave are there; then carol breaks off").guest("erin")
    _waits(erin, "each client gives back one place || one release for each acquire")
    carol.vanishes()
    erin.hears("hi", release)
    trial.tries("four more come and go, one after the other, when dave has left")
    dave.leaves()
    come_and_go(trial, 4, release)
    trial.tries("frank and gus come: with alice and erin that is one too many")
    frank = trial.guest("frank", settle=MOMENT).echoes("hi", release)
    _waits(trial.guest("gus", settle=MOMENT), "each client gives back one place || one release for each acquire")
    trial.expects("frank is there", frank.there, "he is not", limit)


def _waits(guest: Guest, hint: str, long: bool = False) -> None:
    trial = guest.says("hi").trial
    trial.settle()
    trial.until(lambda: guest.there, _goes_on_in(trial) if long else MOMENT)
    expected = f"{guest.name} waits in the backlog, as three are there"
    closed = guest.there and guest.there.closed
    got = f"{guest.name} was accepted{', and then your server hung up' if closed else ''}"
    hint = "a client that comes too early is not sent away: it waits until a place is free" if closed else hint
    trial.expects(expected, guest.there is None, got, hint)


def _goes_on_in(trial: Trial) -> float:
    """After how many seconds a thread may have gone on that does not wait for a client: 0.0 where one must come or go.

    A thread that waits for a lock with a time limit, or sleeps, may go on and accept a client, place or no place.
    """
    longest, frames = 0.0, thread_frames()
    for task in trial.server.observation.alive():
        frame = frames.get(task.identity() or 0)
        if task.waiting is not None or frame is None:
            continue
        if is_student_code(frame):
            longest = max(longest, AGAIN)
        while frame is not None and not is_student_code(frame):
            limit = frame.f_locals.get("timeout")
            longest = max(longest, min(2 * AGAIN, limit + MOMENT)) if isinstance(limit, int | float) else longest
            frame = frame.f_back
    return longest


def pool(trial: Trial) -> None:
    once = "ThreadPoolExecutor(max_workers=3), made once, before the loop"
    hint = (
        "hand the client on, then accept again: nothing in the loop waits for a client || pool.submit(handle_client, "
        "conn, addr); result(), a with for the pool inside the loop, and submit(handle_client(…)) wait for it"
    )
    two = "the pool has three threads, not two || max_workers=3"
    alice, bob, carol = company(trial, "alice", "bob", "carol", hint=hint, two=two)
    trial.tries("dave, erin and frank come while they are there, frank breaks off")
    late = [trial.guest(name).says("hi") for name in ("dave", "erin")]
    frank = trial.guest("frank")
    hint = "the loop only accepts and hands on. It never waits for a place"
    free = f"one pool of three threads: the fourth client waits for a free one || {once}"
    for guest in (*late, frank):
        there = trial.until(lambda guest=guest: guest.there)  # type: ignore[misc]
        trial.expects(f"{guest.name} is accepted", there, f"{guest.name} is not", hint)
        guest.hears_nothing(free)
    frank.vanishes()
    dave, erin = late
    bob.tries("bob leaves, then carol").leaves()
    lost = "handle_client returns when its client leaves: then its worker takes the next one. Each job keeps its own conn"
    dave.hears("hi", f"{lost} || pool.submit(handle_client, conn, addr), no lambda")
    carol.leaves()
    erin.hears("hi", lost)
    trial.tries("six more come and go, one after the other, when all others have left")
    for guest in (alice, dave, erin):
        guest.leaves()
    later = come_and_go(trial, 6, f"one pool || {once}")
    workers = set(threads_of(trial, alice, bob, carol, dave, erin, *later))
    expected = "all clients are served by the same three threads"
    got, hint = f"{len(workers)} threads were at work", f"one pool of three threads || {once}"
    trial.expects(expected, len(workers) <= 3, got, hint)
    ends = "an error of one client, like that of frank, must not end its job || except ConnectionError: in handle_client"
    trial.expects("no job of the pool ends with an error", not trial.swallowed(), trial.swallowed(), ends)


def clean_end(trial: Trial) -> None:
    alice, zoe, bob = company(trial, "alice", "zoe", "bob", hint="a thread each, as before")
    threads = len(trial.server.observation.alive())
    zoe.leaves()
    trial.until(lambda: len(trial.server.observation.alive()) < threads)  # hers has ended
    carol = trial.guest("carol")
    trial.tries("zoe leaves. Then Ctrl+C is pressed, while alice, bob and carol are there and silent")
    with _slow_ends(trial):
        trial.server.interrupt()
    if trial.left:  # without `not_yet`: these threads have moved on, where they stand now explains nothing
        got = f"{listed(trial.left)} {'was' if len(trial.left) == 1 else 'were'} still at work"
        hint = (
            "wait until every thread has ended, however long it saves || first shutdown on every connection, then join "
            "for every thread: no sleep, no join with a time limit"
        )
        raise NotYet("no thread is left when your server returns", got, hint)
    hang_up = (
        "after Ctrl+C, end every connection in a way that wakes its thread || in except KeyboardInterrupt: (it is no "
        "Exception), or finally: shutdown on every connection; close and join do not wake a thread"
    )
    gone = "zoe has left before: her connection is closed already, which is an OSError. Catch it for each one, and go on"
    for guest in (alice, bob, carol):
        guest.is_hung_up(gone if trial.returned else hang_up)
    expected, returned = "your server returns", trial.until(lambda: trial.returned)
    hint = "Ctrl+C ends the loop around accept, too; and every thread must be woken || shutdown(socket.SHUT_RDWR)"
    trial.expects(expected, returned, "it did not", hint)
    trial.expects(expected, trial.server.error is None, "it ended with an error", gone)
    trial.tries("your server has returned: no thread of it is left, and all four are saved")
    saved = sum(line.endswith(" is saved") for line in trial.server.log.lines())
    hint = "each client is served by handle_and_save, as it is given || target=handle_and_save"
    trial.expects("handle_and_save has saved four clients", saved == 4, f"it has saved {saved or 'none'}", hint)


@contextlib.contextmanager
def _slow_ends(trial: Trial) -> Iterator[None]:
    """The threads that are woken meanwhile, and the rest of the server, go on until the server waits for them for as
    long as it takes, or returns: a sleep is not enough.
    """
    trial.server.pause()
    try:
        yield
        deadline = time.monotonic() + LONGER
        while not trial.returned and time.monotonic() < deadline and not _joins(trial):
            with contextlib.suppress(ValueError):  # it does not stand before a call
                trial.server.step(MAIN)
    finally:
        trial.server.resume()


def _joins(trial: Trial) -> bool:
    """Whether the server's own thread waits for another one, without a time limit."""
    for task in trial.server.observation.alive():
        frame = thread_frames().get(task.identity() or 0) if task.label == MAIN else None
        if frame is not None and not is_student_code(frame) and task.paused is None and task.waiting is None:
            return not _goes_on_in(trial)
    return False
