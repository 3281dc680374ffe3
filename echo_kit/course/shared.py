"""What the exercises of Part 2 require whose function handles one client: who serves it, and what all of them share."""

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
from ..watch.observation import Task
from .report import quoted
from .trial import PATIENCE, Guest, Trial

ROUNDS, COUNTING = 25, 4  # lines of each client in exercise 2.3, and clients
ONE_EACH = "one answer for each line: two may come at once, and one in two pieces || for line in lines_of(conn):"
CROWD = 20  # threads that the server of exercise 2.4 may have before the next of many clients comes
LOCKS = (type(threading.Lock()), type(threading.RLock()))
LOOK_AT = 2000  # objects in which the locks of exercise 2.4 are looked for

ODD_LINES = {  # what a line may be, and what to think of
    b"again": "the same line may come twice: each time it is answered",
    b"": "an empty line is a line, too: it is answered, and more may come",
    b" z\t\rz \r": "only \\n ends a line: spaces and \\r belong to it || no strip(), no splitlines()",
    b"caf\xe9 \xff": "a line is bytes, and need not be text || no decode()",
    b"x" * 150: "a line may be longer than one recv, and one send may take a part of its bytes || lines_of, sendall",
}
NUMBER = "the answer is the number as text, with \\n at its end"
HALF = "what comes after the last \\n is no line, also when the client leaves"
WHOLE = "to read, change and write back is one step: all of it in one block with the lock || add and remove in place"


def served_by(trial: Trial, guest: Guest) -> list[Task]:
    """The threads that are there for a client now. (Their names are no proof: a student may give all the same one.)"""
    return [each for each in trial.server.observation.alive() if each.connection is guest.there and each.label != MAIN]


def threads_of(trial: Trial, *guests: Guest) -> list[str]:
    """The labels of the threads that have served them."""
    lanes = {lane.name: lane for lane in trial.server.timeline().lanes}
    return [lanes[guest.name].threads[-1] if lanes[guest.name].threads else "" for guest in guests]


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
            alice.says(line + b"\n").hears(f"{name}\n", hint).hears_nothing(hint)
    leaves_in_a_line(bob.hears_nothing(ONE_EACH))


def leaves_in_a_line(guest: Guest) -> None:
    guest.tries(f"{guest.name} sends half a line, and leaves").says("hal").client.finish()
    guest.hears_nothing(HALF, f"{guest.name} gets no answer", may_end=True).leaves()


def count_together(trial: Trial) -> None:
    alice = trial.tries('alice sends the lines "x\\n", "xyz\\n" and "\\n"').guest("alice")
    first = _number(alice)
    for step, line in ((1, b"xyz"), (2, b"")):
        told = _number(alice, line, "one answer for each line; and each lock is given back || with lock: does that")
        got, hint = f"after {first} came {told}", "count lines, not bytes: one more each time"
        trial.expects("each line counts one more", told == first + step, got, hint)
    gus = trial.tries('gus connects, and is silent. bob comes, and sends "x\\n" once').guest("gus")
    bob = trial.guest("bob")
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


def _number(guest: Guest, line: bytes = b"x", hint: str = NUMBER) -> int:
    told = guest.says(line + b"\n").hears_line(hint)
    got = f"{guest.name} got {quoted(told.encode())}"
    guest.trial.expects(f"{guest.name} gets a number", told.isdecimal(), got, f"{NUMBER}, and not the line")
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
    for other in ("/whoever\n", "say /who\n", " /who \n"):
        alice.echoes(other, "only the line /who is the question, and no more or less than it || line == b'/who'")
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
    lost = dict.fromkeys((b"alice, bob\n", b"al, alice"), WHOLE)
    alice.hears_nothing().says("/who\n").hears("alice, bob, carl\n", forgotten, lost)
    for guest in trial.guests:
        if guest is not alice:
            guest.leaves()
    _crowd(trial, alice)


def locks_of(function: Any) -> list[Any]:
    """The locks that a function can reach: by its global names, its cells and defaults, and in what it finds there."""
    home, found, todo = getattr(function, "__globals__", {}), [], [function]
    seen: set[int] = set()
    while todo and len(seen) < LOOK_AT:
        each = todo.pop()
        if id(each) in seen or isinstance(each, ModuleType | threading.Thread | socket.socket):
            continue
        seen.add(id(each))
        if isinstance(each, LOCKS):
            found.append(each)
        elif isinstance(each, dict | list | tuple | set):
            todo += each.values() if isinstance(each, dict) else each
        elif isinstance(each, CodeType):
            todo += [each for each in each.co_consts if isinstance(each, CodeType)]
            todo += [home[name] for name in each.co_names if name in home]
        elif isinstance(each, FunctionType):
            todo += [*(each.__closure__ or ()), *(each.__defaults__ or ()), each.__kwdefaults__, each.__dict__]
            todo += [each.__code__] if each.__globals__ is home else []
        elif isinstance(each, MethodType):
            todo += [each.__func__, each.__self__]
        elif isinstance(each, CellType):
            with contextlib.suppress(ValueError):  # an empty one
                todo.append(each.cell_contents)
        elif (hasattr(type(each), "__dict__") and type(each).__module__ != "builtins") or isinstance(each, type):
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
    if len(locks) > 1:  # the others may be for other things, or one to add a name and another one to remove it
        locks = [lock for lock in locks if _waits_for(trial, alice, lock, each)] or locks
    with _held(trial, locks, each):
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


@contextlib.contextmanager
def _held(trial: Trial, locks: list[Any], hint: str) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        for lock in locks:
            trial.expects("each lock is given back", lock.acquire(timeout=PATIENCE), "one is not", hint)
            held.callback(lock.release)
        yield


def _waits_for(trial: Trial, alice: Guest, lock: Any, hint: str) -> bool:
    """Whether the answer to alice's question waits for this lock."""
    with _held(trial, [lock], hint):
        alice.says("/who\n").trial.settle()
        waits = not alice.client.wait(time.monotonic(), to_write=False)
    alice.hears_line(hint)
    return waits


def _crowd(trial: Trial, alice: Guest) -> None:
    trial.tries("many clients come, ask and go, while alice asks again and again")
    locked = "one thread at a time reads or changes the collection || with lock: around all that does"
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
                    trial.expects(f"{name} is in the list that it gets", name in there.split(", "), got, WHOLE)
                trial.until(lambda: len(trial.server.observation.alive()) < CROWD)

    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(many) for _ in range(3)]
        try:
            for _ in range(20):
                names = alice.says("/who\n").hears_line(locked).split(", ")
                there = "alice" in names and names == sorted(names)
                trial.expects("alice is there, too", there, f"alice got {', '.join(names)}", WHOLE)
        finally:
            over.set()
        for run in runs:
            run.result()
    trial.expects("no thread ends with an error", trial.server.error is None, "one did", locked)
    trial.until(lambda: len(trial.server.observation.alive()) <= few)
    alice.tries("they have left, and alice asks again").says("/who\n").hears("alice\n", WHOLE)
