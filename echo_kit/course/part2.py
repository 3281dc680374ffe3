"""What the exercises of Part 2 require."""

from __future__ import annotations

import contextlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

from ..client import Client, EchoError
from .report import NotYet, quoted
from .trial import PATIENCE, Guest, Trial

ROUNDS, COUNTING = 25, 4  # lines of each client in exercise 2.3, and clients
ONE_EACH = "one answer for each line: two may come at once, and one in two pieces || for line in lines_of(conn):"
CROWD = 20  # threads that the server of exercise 2.4 may have before the next of many clients comes


def threads_of(trial: Trial, *guests: Guest) -> list[str]:
    """The labels of the threads that have served them."""
    lanes = {lane.name: lane for lane in trial.server.timeline().lanes}
    return [lanes[guest.name].threads[-1] if lanes[guest.name].threads else "" for guest in guests]


def come_and_go(trial: Trial, hint: str) -> list[Guest]:
    """Six clients, one after the other: each gets its echo, and leaves."""
    guests = []
    for number in range(6):
        guests.append(trial.guest(f"guest {number}").echoes("hi", hint))
        guests[-1].leaves()
    return guests


def a_thread_for_each(trial: Trial) -> None:
    start = "Thread(target=handle_client, args=(conn, addr)), then start()"
    alice = trial.tries('alice connects, and sends "hello"').guest("alice")
    alice.echoes("hello", f"a new thread serves the client, and it is the thread that closes conn || {start}")
    bob = trial.tries("bob comes while alice is there").guest("bob")
    same = "run() and handle_client(…) do the work in the same thread, and join() waits for its end"
    bob.echoes("hi", f"the loop must be in accept again at once: a new thread serves the client || {start}: {same}")
    trial.tries("alice and bob talk in turns, and carol and dave come, too")
    guests = [alice, bob, trial.guest("carol"), trial.guest("dave")]
    for number, guest in itertools.product(range(3), guests):
        guest.echoes(f"{guest.name} {number}", "each thread has its own conn || it is passed in args")
    served = threads_of(trial, *guests)
    got, hint = f"they were served by {', '.join(served)}", f"a new thread for each client || {start}"
    trial.expects("each client has a thread of its own", len(set(served)) == 4, got, hint)
    alice.tries("alice breaks off, and erin comes").vanishes()
    trial.guest("erin").echoes("hi", "an error of one client ends its own thread only")


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


def count_together(trial: Trial) -> None:
    alice = trial.tries('alice sends the line "x\\n", three times').guest("alice")
    first = _number(alice)
    for step in (1, 2):
        told = _number(alice, "one answer for each line; and each lock is given back || with lock: does that")
        got, hint = f"after {first} came {told}", "count lines: one more each time"
        trial.expects("each line counts one more", told == first + step, got, hint)
    bob = trial.tries('bob comes, and sends "x\\n" once').guest("bob")
    told = _number(bob, "hold a lock to count, not to wait for a line, or all others wait || with lock: in the loop")
    hint = "one number for all clients: it is set outside the function || global inside the function"
    expected = f"bob is told {first + 3}, one more than alice"
    trial.expects(expected, told == first + 3, f"bob was told {told}", hint)
    bob.tries('bob sends two lines at once, "x\\nx\\n", and one in two pieces, "x" and "\\n"').says("x\nx\nx")
    lines = f"{first + 4}\n{first + 5}\n"
    bob.hears(lines, ONE_EACH).hears_nothing(ONE_EACH).says("\n").hears(f"{first + 6}\n", ONE_EACH)
    trial.tries(f'{COUNTING} clients send "x\\n" {ROUNDS} times each, all at the same time')
    crowd = [alice, bob, *(trial.guest(f"client {number}") for number in range(3, COUNTING + 1))]
    with ThreadPoolExecutor(COUNTING) as pool:
        counted = pool.map(lambda guest: [_number(guest) for _ in range(ROUNDS)], crowd)
        numbers = set(itertools.chain.from_iterable(counted))
    all_of_them = set(range(first + 7, first + 7 + COUNTING * ROUNDS))
    expected = f"all of the {COUNTING * ROUNDS} numbers are different, and none is left out"
    hint = "one thread at a time reads and writes the number; one lock for all threads, made outside || with lock:"
    trial.expects(expected, numbers == all_of_them, "some lines were counted as one", hint)


def _number(guest: Guest, hint: str = "the answer is the number as text, with \\n at its end") -> int:
    line = guest.says("x\n").hears_line(hint)
    got = f"{guest.name} got {quoted(line.encode())}"
    guest.trial.expects(f"{guest.name} gets a number", line.isdecimal(), got, "sendall")
    return int(line)


def who_is_there(trial: Trial) -> None:
    hello = "the first line is the name: the answer is hello, a space, the name and \\n"
    alice = trial.tries('alice connects, and sends her name, "alice\\n"').guest("alice")
    alice.says("alice\n").hears("hello alice\n", hello)
    who = "the names of those who are there, sorted, with a comma and a space between them, and \\n at the end"
    again = "a thread that has the lock must not ask for it again"
    old = "names of an earlier check are still there: run the line that makes the collection again, then the check"
    alice.tries('alice sends "/who\\n"').says("/who\n").hears("alice\n", f"{who}; and {again}", {b"alice, ": old})
    alice.tries("alice sends something else").echoes("nice place\n", "all other lines are sent back as they are")
    alice.tries('alice sends "/who\\n" in two pieces, "/w" and "ho\\n"').says("/w").hears_nothing(ONE_EACH)
    alice.says("ho\n").hears("alice\n", ONE_EACH)
    trial.tries('dave sends his name and a question at once, "dave\\n/who\\n", and leaves')
    wait = f"{hello}; and no lock is held while you wait for bytes, or all others wait || with lock: is not around recv"
    dave = trial.guest("dave").says("dave\n/who\n")
    dave.hears("hello dave\nalice, dave\n", wait, {b"hello dave": ONE_EACH}).leaves()
    trial.tries("erin breaks off before she has sent a name, zoe leaves in the middle of hers, and alice asks again")
    trial.guest("erin").vanishes()
    trial.guest("zoe").says("zo").leaves()
    early = "a client may leave before its first line: then there is no name || try: around lines_of(conn), too"
    alice.hears_nothing(early).says("/who\n").hears("alice\n", early)
    trial.expects("no thread ends with an error", trial.server.error is None, "one did", early)
    trial.tries("carol and bob come, and alice asks again")
    carol, bob = (trial.guest(name).says(f"{name}\n").hears(f"hello {name}\n", wait) for name in ("carol", "bob"))
    instead = {
        b"alice\n": "one collection for all threads, made outside the function",
        b"alice, carol, bob\n": "sorted: by name, not by time",
    }
    alice.says("/who\n").hears("alice, bob, carol\n", who, instead)
    forget = "when a client leaves, its name is removed, however it leaves || finally does that"
    bob.tries("bob leaves, and alice asks again").leaves()
    alice.hears_nothing().says("/who\n").hears("alice, carol\n", forget)
    carol.tries("carol breaks off, and alice asks again").vanishes()
    alice.hears_nothing().says("/who\n").hears("alice\n", forget)

    trial.tries("many clients come and go, while alice asks again and again")
    locked = "one thread at a time reads or changes the collection || with lock: around all that does"
    over = threading.Event()
    numbers = itertools.count(1)  # no name comes twice: the server may not know yet that its first client has left

    def many() -> None:
        with contextlib.suppress(EchoError, OSError):
            while not over.is_set():
                name = f"guest {next(numbers)}"
                with Client(trial.server, name=name) as guest:
                    guest.send(f"{name}\n")
                    guest.receive(size=len(f"hello {name}\n"), timeout=PATIENCE)
                trial.until(lambda: len(trial.server.observation.alive()) < CROWD)

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(many)
        try:
            for _ in range(20):
                names = alice.says("/who\n").hears_line(locked).split(", ")
                there = "alice" in names and names == sorted(names)
                trial.expects("alice is there, too", there, f"alice got {', '.join(names)}", locked)
        finally:
            over.set()
    trial.expects("no thread ends with an error", trial.server.error is None, "one did", locked)


def at_most_three(trial: Trial) -> None:
    hint = "three at once: a thread each, and three places, made inside your function || a Semaphore(3)"
    _, bob, carol = trial.company("alice", "bob", "carol", hint=hint)
    limit = (
        "a place must be free before a client is accepted || Semaphore(3): acquire before accept, release in its thread"
    )
    release = "when a client leaves, however it leaves, its place is free || release in finally, in its thread"
    dave = trial.tries("dave comes while they are there").guest("dave")
    _waits(dave, limit)
    dave.hears_nothing(limit)
    bob.tries("bob leaves").leaves()
    dave.hears("hi", release)
    erin = trial.tries("erin comes while alice, carol and dave are there; then carol breaks off").guest("erin")
    _waits(erin, "each client gives back one place || one release for each acquire")
    carol.vanishes()
    erin.hears("hi", release)
    trial.tries("six more come and go, one after the other, when dave has left")
    dave.leaves()
    come_and_go(trial, release)


def _waits(guest: Guest, hint: str) -> None:
    guest.says("hi").trial.settle()
    expected = f"{guest.name} waits in the backlog, as three are there"
    guest.trial.expects(expected, guest.there is None, f"{guest.name} was accepted", hint)


def pool(trial: Trial) -> None:
    once = "ThreadPoolExecutor(max_workers=3), made once, before the loop"
    hint = (
        "hand the client on, then accept again: nothing in the loop waits for a client || pool.submit(handle_client, "
        "conn, addr); result(), a with for the pool inside the loop, and submit(handle_client(…)) wait for it"
    )
    alice, bob, carol = trial.company("alice", "bob", "carol", hint=hint)
    dave = trial.tries("dave comes while they are there").guest("dave").says("hi")
    hint = "the loop only accepts and hands on. It never waits for a place"
    trial.expects("dave is accepted", trial.until(lambda: dave.there), "dave is not", hint)
    dave.hears_nothing(f"one pool of three threads: the fourth client waits for a free one || {once}")
    bob.tries("bob leaves").leaves()
    dave.hears("hi", "handle_client returns when its client leaves: then its worker takes the next one")
    trial.tries("six more come and go, one after the other, when all others have left")
    for guest in (alice, carol, dave):
        guest.leaves()
    late = come_and_go(trial, f"one pool || {once}")
    workers = set(threads_of(trial, alice, bob, carol, dave, *late))
    expected = "all ten clients are served by the same three threads"
    got, hint = f"{len(workers)} threads were at work", f"one pool of three threads || {once}"
    trial.expects(expected, len(workers) <= 3, got, hint)


def clean_end(trial: Trial) -> None:
    alice, bob, zoe = trial.company("alice", "bob", "zoe", hint="a thread each, as before")
    threads = len(trial.server.observation.alive())
    zoe.leaves()
    trial.until(lambda: len(trial.server.observation.alive()) < threads)  # hers has ended
    trial.tries("zoe leaves. Then Ctrl+C is pressed, while alice and bob are there and silent")
    trial.server.interrupt()
    hang_up = (
        "after Ctrl+C, end every connection in a way that wakes its thread || in except KeyboardInterrupt: (it is no "
        "Exception), or finally: shutdown on every connection; close and join do not wake a thread"
    )
    for guest in (alice, bob):
        guest.is_hung_up(hang_up)
    expected, returned = "your server returns", trial.until(lambda: trial.returned)
    hint = "Ctrl+C ends the loop around accept, too; and every thread must be woken || shutdown(socket.SHUT_RDWR)"
    trial.expects(expected, returned, "it did not", hint)
    hint = "zoe has left before: her connection is closed already, which is an OSError. Catch it, and go on"
    trial.expects(expected, trial.server.error is None, "it ended with an error", hint)
    trial.tries("your server has returned, and no thread of it is left")
    if trial.left:  # without `not_yet`: these threads have moved on, where they stand now explains nothing
        got = f"{', '.join(trial.left)} {'was' if len(trial.left) == 1 else 'were'} still at work"
        hint = "wait until every thread has ended || first shutdown on every connection, then join for every thread"
        raise NotYet("no thread is left when it returns", got, hint)
