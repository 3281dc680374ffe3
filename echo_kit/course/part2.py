"""What the exercises of Part 2 require."""

from __future__ import annotations

import contextlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

from ..client import Client, EchoError
from .report import NotYet, quoted
from .trial import PATIENCE, Guest, Trial

ROUNDS, COUNTING = 25, 4  # messages of each client in exercise 2.3, and clients
CROWD = 20  # threads that the server of exercise 2.4 may have before the next of many clients comes


def threads_of(trial: Trial, *guests: Guest) -> list[str]:
    """The labels of the threads that have served them."""
    lanes = {lane.name: lane for lane in trial.server.timeline().lanes}
    return [lanes[guest.name].threads[-1] if lanes[guest.name].threads else "" for guest in guests]


def come_and_go(trial: Trial, look: str) -> list[Guest]:
    """Six clients, one after the other: each gets its echo, and leaves."""
    guests = []
    for number in range(6):
        guests.append(trial.guest(f"guest {number}").echoes("hi", look))
        guests[-1].leaves()
    return guests


def a_thread_for_each(trial: Trial) -> None:
    start = "Thread(target=handle_client, args=(conn, addr)), then start()"
    alice = trial.tries('alice connects, and sends "hello"').guest("alice")
    alice.echoes("hello", f"{start}; and it is the thread that closes conn")
    bob = trial.tries("bob comes while alice is there").guest("bob")
    same = "run() and handle_client(…) do the work in the same thread, and join() waits for its end"
    bob.echoes("hi", f"the loop must be back in accept at once. {start}: {same}")
    trial.tries("alice and bob talk in turns, and carol and dave come, too")
    guests = [alice, bob, trial.guest("carol"), trial.guest("dave")]
    for number, guest in itertools.product(range(3), guests):
        guest.echoes(f"{guest.name} {number}", "each thread has its own conn: it comes in by args")
    served = threads_of(trial, *guests)
    happened = f"they were served by {', '.join(served)}"
    trial.expects("each client has a thread of its own", len(set(served)) == 4, happened, "Thread")
    alice.tries("alice breaks off, and erin comes").vanishes()
    trial.guest("erin").echoes("hi", "an error of one client ends its own thread only")


def who_serves_me(trial: Trial) -> None:
    look = "threading.current_thread().name, asked inside your function: it runs in the thread that serves"
    trial.tries("alice and bob connect, and each sends something")
    alice, bob = trial.guest("alice"), trial.guest("bob")
    for guest in (alice, bob, alice):
        told = guest.says("who are you?").hears_line(f"the name as text, with \\n at its end. {look}")
        (name,) = threads_of(trial, guest)
        expected = f'{guest.name} is told "{name}", the name of the thread that serves'
        trial.expects(expected, told == name, f"{guest.name} was told {quoted(told.encode())}", look)
    alice.hears_nothing("one answer for each message")


def count_together(trial: Trial) -> None:
    alice = trial.tries('alice sends "x", three times').guest("alice")
    first = _number(alice)
    for step in (1, 2):
        told = _number(alice, "one answer for each message; and each lock is given back: with lock: does that")
        happened, look = f"after {first} came {told}", "count messages: one more each time"
        trial.expects("each message counts one more", told == first + step, happened, look)
    bob = trial.tries('bob comes, and sends "x" once').guest("bob")
    told = _number(bob, "with lock: is around the counting, not around recv, or all others wait")
    look = "one number for all clients: it is set outside the function, and global inside"
    expected = f"bob is told {first + 3}, one more than alice"
    trial.expects(expected, told == first + 3, f"bob was told {told}", look)
    trial.tries(f'{COUNTING} clients send "x" {ROUNDS} times each, all at the same time')
    crowd = [alice, bob, *(trial.guest(f"client {number}") for number in range(3, COUNTING + 1))]
    with ThreadPoolExecutor(COUNTING) as pool:
        counted = pool.map(lambda guest: [_number(guest) for _ in range(ROUNDS)], crowd)
        numbers = set(itertools.chain.from_iterable(counted))
    all_of_them = set(range(first + 4, first + 4 + COUNTING * ROUNDS))
    expected = f"all of the {COUNTING * ROUNDS} numbers are different, and none is left out"
    look = "with lock: around all that reads or writes the number; one lock for all threads, made outside the function"
    trial.expects(expected, numbers == all_of_them, "some messages were counted as one", look)


def _number(guest: Guest, look: str = "the answer is the number as text, with \\n at its end") -> int:
    line = guest.says("x").hears_line(look)
    happened = f"{guest.name} got {quoted(line.encode())}"
    guest.trial.expects(f"{guest.name} gets a number", line.isdecimal(), happened, "sendall")
    return int(line)


def who_is_there(trial: Trial) -> None:
    hello = "the first message is the name: the answer is hello, a space, the name and \\n"
    alice = trial.tries('alice connects, and sends her name, "alice"').guest("alice")
    alice.says("alice").hears("hello alice\n", hello)
    who = "the names of those who are there, sorted, with a comma and a space between them, and \\n at the end"
    again = "inside with lock: nothing may ask for the same lock again"
    old = "names of an earlier check are still there: run the line that makes the collection again, then the check"
    alice.tries('alice sends "/who"').says("/who").hears("alice\n", f"{who}; and {again}", {b"alice, ": old})
    alice.tries("alice sends something else").echoes("nice place", "all but /who is sent back as before")
    trial.tries("carol and bob come, and alice asks again")
    wait = f"{hello}; and with lock: is not around recv, or all others wait"
    carol, bob = (trial.guest(name).says(name).hears(f"hello {name}\n", wait) for name in ("carol", "bob"))
    instead = {
        b"alice\n": "one collection for all threads, made outside the function",
        b"alice, carol, bob\n": "sorted: by name, not by time",
    }
    alice.says("/who").hears("alice, bob, carol\n", who, instead)
    forget = "when a client leaves, its name goes, however it leaves: finally does that"
    bob.tries("bob leaves, and alice asks again").leaves()
    alice.hears_nothing().says("/who").hears("alice, carol\n", forget)
    carol.tries("carol breaks off, and alice asks again").vanishes()
    alice.hears_nothing().says("/who").hears("alice\n", forget)

    trial.tries("many clients come and go, while alice asks again and again")
    locked = "with lock: around all that reads or changes the collection"
    over = threading.Event()
    numbers = itertools.count(1)  # no name comes twice: the server may not know yet that its first client has left

    def many() -> None:
        with contextlib.suppress(EchoError, OSError):
            while not over.is_set():
                name = f"guest {next(numbers)}"
                with Client(trial.server, name=name) as guest:
                    guest.send(name)
                    guest.receive(size=len(f"hello {name}\n"), timeout=PATIENCE)
                trial.until(lambda: len(trial.server.observation.alive()) < CROWD)

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(many)
        try:
            for _ in range(20):
                names = alice.says("/who").hears_line(locked).split(", ")
                there = "alice" in names and names == sorted(names)
                trial.expects("alice is there, too", there, f"alice got {', '.join(names)}", locked)
        finally:
            over.set()
    trial.expects("no thread ends with an error", trial.server.error is None, "one did", locked)


def at_most_three(trial: Trial) -> None:
    look = "three at once: a thread each, and a Semaphore(3) that is made inside your function"
    _, bob, carol = trial.company("alice", "bob", "carol", look=look)
    limit = (
        "a Semaphore(3): acquire before accept, so that the fourth stays in the backlog; and release in the thread "
        "that serves, when its client has left"
    )
    release = "release when a client leaves, however it leaves: finally, or with, in the thread that serves"
    dave = trial.tries("dave comes while they are there").guest("dave")
    _waits(dave, limit)
    dave.hears_nothing(limit)
    bob.tries("bob leaves").leaves()
    dave.hears("hi", release)
    erin = trial.tries("erin comes while alice, carol and dave are there; then carol breaks off").guest("erin")
    _waits(erin, "one release for each")
    carol.vanishes()
    erin.hears("hi", release)
    trial.tries("six more come and go, one after the other, when dave has left")
    dave.leaves()
    come_and_go(trial, release)


def _waits(guest: Guest, look: str) -> None:
    guest.says("hi").trial.settle()
    expected = f"{guest.name} waits in the backlog, as three are there"
    guest.trial.expects(expected, guest.there is None, f"{guest.name} was accepted", look)


def pool(trial: Trial) -> None:
    look = (
        "pool.submit(handle_client, conn, addr), and on to the next accept: result(), a with for the pool inside the "
        "loop, and submit(handle_client(…)) wait until the client has left"
    )
    alice, bob, carol = trial.company("alice", "bob", "carol", look=look)
    dave = trial.tries("dave comes while they are there").guest("dave").says("hi")
    look = "the loop only accepts and submits. It never waits"
    trial.expects("dave is accepted", trial.until(lambda: dave.there), "dave is not", look)
    dave.hears_nothing("one pool with max_workers=3, made before the loop: the fourth client waits for a free worker")
    bob.tries("bob leaves").leaves()
    dave.hears("hi", "handle_client returns when its client leaves: then its worker takes the next one")
    trial.tries("six more come and go, one after the other, when all others have left")
    for guest in (alice, carol, dave):
        guest.leaves()
    late = come_and_go(trial, "the pool is made once, before the loop")
    workers = set(threads_of(trial, alice, bob, carol, dave, *late))
    expected = "all ten clients are served by the same three threads"
    look = "ThreadPoolExecutor(max_workers=3), made once, before the loop"
    trial.expects(expected, len(workers) <= 3, f"{len(workers)} threads were at work", look)


def clean_end(trial: Trial) -> None:
    alice, bob, zoe = trial.company("alice", "bob", "zoe", look="a thread each, as before")
    threads = len(trial.server.observation.alive())
    zoe.leaves()
    trial.until(lambda: len(trial.server.observation.alive()) < threads)  # hers has ended
    trial.tries("zoe leaves. Then Ctrl+C is pressed, while alice and bob are there and silent")
    trial.server.interrupt()
    hang_up = (
        "except KeyboardInterrupt (it is no Exception), or finally: shutdown on every connection wakes its thread; "
        "close and join do not"
    )
    for guest in (alice, bob):
        guest.is_hung_up(hang_up)
    expected, returned = "your server returns", trial.until(lambda: trial.returned)
    look = "Ctrl+C ends the loop around accept, too; and shutdown(socket.SHUT_RDWR) wakes a thread that waits in recv"
    trial.expects(expected, returned, "it did not", look)
    look = "zoe has left by herself: of her connection, shutdown raises an OSError. Catch it, and go on"
    trial.expects(expected, trial.server.error is None, "it ended with an error", look)
    trial.tries("your server has come back, and no thread of it is left")
    if trial.left:  # without `not_yet`: these threads have moved on, where they stand now explains nothing
        happened = f"{', '.join(trial.left)} {'was' if len(trial.left) == 1 else 'were'} still at work"
        look = "first shutdown on every connection, then join for every thread"
        raise NotYet("no thread is left when it returns", happened, look)
