"""`check`, and what each exercise of the notebooks requires of a student's function."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

from ..client import Client, EchoError
from .surprises import SURPRISES
from .trial import (
    PATIENCE,
    Exercise,
    Guest,
    NotYet,
    Report,
    Trial,
    a_thread_each,
    as_it_is,
    carry_out,
    not_at_all,
    one_at_a_time,
    quoted,
)

__all__ = ["check"]

LIMIT = 0.5  # seconds that exercise 1.7 gives a silent client
ANEW = f"the time limit is {LIMIT:g} s, and begins anew after each message: it is one for each recv"


def check(number: str, function: Callable[..., Any]) -> Report:
    """Try a solution of an exercise, and say what is right and what is not yet.

    number    that of the exercise, as in the notebook, like "1.2"
    function  the student's function; which parameters it takes, the exercise says

    The server runs in the background against real clients, with a bound on every wait, and is stopped in the end; the
    report never is an exception. Raises ValueError for a number that no exercise has.
    """
    if not isinstance(number, str) or number not in EXERCISES:
        quotes = "" if isinstance(number, str) else ". Put the number in quotes"
        raise ValueError(f"there is no exercise {number!r}; there are: {', '.join(EXERCISES)}{quotes}")
    return carry_out(EXERCISES[number], function)


# -- what many of them require ---------------------------------------------------------------------------------------


def _echoes(guest: Guest, text: str, look: str) -> None:
    guest.says(text).hears(text, look)


def _has_open(trial: Trial, number: int, expected: str, look: str) -> None:
    """So many connections are open on the server's side."""
    still = sum(1 for _ in trial.server.observation.sockets(listening=False))
    if still != number:
        raise trial.not_yet(expected, f"{still} {'is' if still == 1 else 'are'} still open", look)


def _serves_the_next(trial: Trial, name: str, said: str, heard: str, look: str) -> None:
    trial.tries(f"{name} comes when the others have left, and sends {quoted(said.encode())}")
    trial.guest(name, look).says(said).hears(heard, look)


# -- Part 1 ----------------------------------------------------------------------------------------------------------


def _from_memory(trial: Trial) -> None:
    address = trial.server.observation.address
    for what, given, bound in zip(("host", "port"), trial.called_with, address or trial.called_with, strict=False):
        if bound != given:
            expected = f"your server listens on the {what} that it is given, here {given}"
            raise trial.not_yet(expected, f"it listens on {bound}", "the line with bind")
    trial.tries('alice connects, and sends "hello"')
    alice = trial.guest("alice")
    _echoes(alice, "hello", "recv, then sendall with the same bytes")
    trial.tries('alice sends "how are you?" on the same connection')
    _echoes(alice, "how are you?", "a loop around recv: one client may send many times")
    trial.tries("alice sends 3,000 bytes at once")
    alice.says(b"x" * 3000).hears(b"x" * 3000, "the loop around recv, and sendall, not send: send may take a part only")
    trial.tries("bob comes while alice is there, then alice leaves")
    bob = trial.guest("bob").says("hi")
    alice.leaves()
    bob.hears("hi", "a loop around accept, too: when alice has left, the next client comes")
    trial.tries("bob leaves, and carol comes")
    bob.leaves()
    carol = trial.guest("carol")
    _echoes(carol, "hello", "the loop around accept: it never ends")
    trial.tries("carol leaves, too")
    carol.leaves()
    trial.settle()
    _has_open(
        trial,
        0,
        "your server hangs up, too: none of its connections is open",
        "conn.close(), when recv returns no bytes",
    )


def _shout(trial: Trial) -> None:
    trial.tries('alice sends "hello"')
    alice = trial.guest("alice").says("hello")
    alice.hears(
        "HELLO",
        "what sendall is given",
        {
            b"hello": "what sendall is given: these are the bytes that came, unchanged",
            b"Hello": "upper() makes every letter a capital, title() and capitalize() only the first",
        },
    )
    trial.tries('alice sends "Once again", on the same connection')
    alice.says("Once again").hears(
        "ONCE AGAIN",
        "the loop around recv: one client may send many times",
        {b"oNCE AGAIN": "upper(): what is a capital already stays one"},
    )
    trial.tries('alice sends "café 24": é is no letter from a to z, and stays as it is')
    alice.says("café 24").hears(
        "CAFé 24", "upper() of bytes changes a to z only; upper() of text changes é, too. Do you need decode at all?"
    )
    for byte in (b"\xc3", b"\xe3"):  # the second one is a letter to who takes bytes for Latin-1
        trial.tries(f"alice sends half a character, the byte {byte.hex()}")
        alice.says(byte).hears(byte, "bytes have an upper() of their own: no decode is needed")
    alice.leaves()
    _serves_the_next(trial, "bob", "bye", "BYE", "what happens when recv returns no bytes")


def _greeting(trial: Trial) -> None:
    trial.tries("alice connects, and says nothing yet")
    alice = trial.guest("alice").hears(
        "Welcome!\n",
        "the greeting comes before the first recv, and ends with \\n",
        {b"Welcome!": "the greeting: Welcome!\\n, with \\n at its end"},
    )
    alice.hears_nothing("the greeting comes once")
    trial.tries('alice sends "hello"')
    alice.says("hello").hears(
        "hello",
        "after the greeting: an echo as before",
        {b"Welcome!": "the greeting stands before the loop, not in it"},
    )
    trial.tries('alice sends "again"')
    alice.says("again").hears(
        "again", "the loop around recv", {b"Welcome!": "the greeting stands before the loop, not in it"}
    )
    alice.hears_nothing("the greeting stands before the loop, not in it")
    alice.leaves()
    trial.tries("alice leaves, and bob comes")
    bob = trial.guest("bob").hears("Welcome!\n", "every client is greeted")
    _echoes(bob, "hi", "after the greeting: an echo as before")


def _count_bytes(trial: Trial) -> None:
    trial.tries('alice sends "hello", which is 5 bytes')
    alice = trial.guest("alice").says("hello")
    begins = "each client begins with 0: set it inside the function"
    old = {b"%d" % number: begins for number in range(10, 100)}  # or begins so: counted since an earlier check
    text = "the answer is the number as text, with \\n at its end"
    alice.hears("5\n", text, {b"1\n": "count bytes, not messages", **old})
    trial.tries('alice sends "abc", which makes 8 bytes in all')
    alice.says("abc").hears(
        "8\n",
        "a variable that lives as long as the connection: it is set before the loop, and grows in it",
        {b"3\n": "add to what has come before: 5 + 3", b"2\n": "count bytes, not messages"},
    )
    trial.tries('alice sends "é", which is one letter and 2 bytes: 10 in all')
    alice.says("é").hears("10\n", "count bytes, not letters", {b"9\n": "len of the bytes, not of the text"})
    alice.leaves()
    trial.tries('alice leaves, and bob comes and sends "hi", which is 2 bytes')
    trial.guest("bob").says("hi").hears("2\n", "each client begins with 0", {b"12\n": begins})


def _lines(trial: Trial) -> None:
    whole = "an answer for each whole line: what comes after the last \\n is not a line yet"
    trial.tries('alice sends the line "abc\\n"')
    alice = trial.guest("alice").says("abc\n")
    alice.hears(
        "cba\n",
        "reverse the line without its \\n, then put the \\n at the end",
        {
            b"\ncba": "the \\n is no part of the line: take it off, reverse, put it back",
            b"abc\n": "what sendall is given: line[::-1] is the line in reverse order",
        },
    )
    trial.tries('alice sends "hel", which is no whole line')
    alice.says("hel").hears_nothing(whole)
    trial.tries('alice sends the rest, "lo\\n"')
    alice.says("lo\n").hears("olleh\n", "keep what is no whole line, and put the next bytes behind it")
    trial.tries('alice sends two lines at once, "one\\ntwo\\n"')
    alice.says("one\ntwo\n").hears("eno\nowt\n", "a loop: as long as there is a \\n in what has come")
    trial.tries('alice sends one line and a half, "first\\nsec", and then "ond\\n"')
    alice.says("first\nsec").hears("tsrif\n", whole).hears_nothing(whole)
    alice.says("ond\n").hears("dnoces\n", "keep what is no whole line, and put the next bytes behind it")
    trial.tries("alice sends an empty line")
    alice.says("\n").hears("\n", "an empty line is a line, too")
    trial.tries('alice sends the line " a b \\n", with spaces at its ends')
    alice.says(" a b \n").hears(" b a \n", "only \\n is no part of the line: strip() takes spaces away, too")
    trial.tries('alice sends the line "é\\n": é is two bytes, which change places')
    alice.says("é\n").hears(
        "é".encode()[::-1] + b"\n", "the bytes in reverse order, not the letters: no decode is needed"
    )
    trial.tries("alice sends a line of 3,000 bytes")
    long = b"".join(b"%04d" % number for number in range(750))
    alice.says(long + b"\n").hears(long[::-1] + b"\n", "a line may be longer than one recv")
    trial.tries("alice leaves in the middle of a line, and bob comes")
    alice.says("half a li")
    alice.leaves()
    bob = trial.guest("bob").says("new\n")
    bob.hears("wen\n", "what alice has left is none of bob's business: the rest is a variable of the function")


def _patience(trial: Trial) -> None:
    trial.tries('alice sends "hello", and then nothing more')
    soon = 0.1  # seconds to come to rest, of the time in which she must speak
    alice = trial.guest("alice", settle=soon).says("hello").hears("hello", "an echo, as before")
    bob = trial.guest("bob", settle=soon).says("hi")
    look = (
        "conn.settimeout(0.5) before the first recv; when it raises TimeoutError, leave the loop and send nothing more"
    )
    trial.settle(soon)
    for sock, seen in trial.server.observation.sockets(listening=False):
        limit = sock.gettimeout() or 0
        if seen.connection.client == alice.client.connection.client and limit > LIMIT + 0.3:
            raise trial.not_yet(f"the server waits {LIMIT:g} s for alice", f"its time limit is {limit:g} s", look)
    alice.is_hung_up(look, seconds=LIMIT + PATIENCE)
    _was_given_time(trial, alice, look)
    trial.tries("bob has waited for that, and sent something long ago")
    bob.hears("hi", "catch the TimeoutError in your function: then the server goes on with the next client")
    trial.tries("bob sends something every 0.2 s, for 0.8 s in all")
    for _ in range(5):
        if _has_talked(bob):
            break
        bob.is_hung_up(look, seconds=LIMIT + PATIENCE)
        _was_given_time(trial, bob, look)
        bob = trial.guest("bob", settle=soon)
    trial.tries("carol connects and says nothing at all")
    bob.leaves()
    trial.guest("carol", settle=soon).is_hung_up(look, seconds=LIMIT + PATIENCE)


def _has_talked(guest: Guest) -> bool:
    """Four messages, 0.2 s after each other. False: this machine was too busy, and the server may hang up."""
    spoke = time.monotonic()
    for _ in range(4):
        time.sleep(0.2)  # that is what a client does who is not silent
        if time.monotonic() - spoke > LIMIT - 0.1:
            return False
        spoke = time.monotonic()
        guest.says("go on").hears("go on", ANEW)
    return True


def _was_given_time(trial: Trial, guest: Guest, look: str) -> None:
    """The last recv before the server hung up waited for the whole limit."""
    server = guest.client.connection.client
    there = trial.server.observation.accepted[server]
    trial.until(lambda: there.closed)  # the client knows it before the log does
    events = [each for each in trial.server.observation.log if each.connection.client == server]
    heard = max(
        (each.ended for each in events if each.kind == "accept" or (each.kind == "recv" and each.size)), default=0.0
    )
    hung_up = max((each.ended for each in events if each.kind in ("close", "shutdown")), default=heard)
    if not LIMIT - 0.05 < hung_up - heard < LIMIT + PATIENCE / 2:
        expected = f"the server waits {LIMIT:g} s for {guest.name}, anew after each message"
        late = hung_up - heard > LIMIT
        raise trial.not_yet(expected, f"it hung up too {'late' if late else 'early'}", look if late else ANEW)


def _hard_to_break(trial: Trial) -> None:
    trial.tries('alice sends "hello"')
    alice = trial.guest("alice")
    _echoes(alice, "hello", "an echo, as before")
    trial.tries("alice sends half a character, the byte c3")
    alice.says(b"\xc3").hears(b"\xc3", "decode raises an error for bytes that are no text: see errors=")
    trial.tries("alice breaks off, and bob comes")
    alice.vanishes()
    reset = (
        "a reset is an error that recv raises: catch it inside the loop around accept, where it ends one client only"
    )
    bob = trial.guest("bob", reset)
    _echoes(bob, "hi", reset)
    trial.tries("bob sends without reading, then breaks off while the server sends")
    bob.fills_up()
    bob.vanishes()
    sending = "sendall can raise an error, too: it stands inside the try as well"
    carol = trial.guest("carol", sending)
    _echoes(carol, "hi", sending)
    trial.tries("carol leaves, and her connection is closed on the server's side")
    carol.leaves()
    dave = trial.guest("dave")
    _echoes(dave, "hi", "the loop around accept")
    look = "conn is closed however the conversation ends: with conn: does that"
    _has_open(trial, 1, "one connection is open, that of dave", look)
    trial.tries("Ctrl+C is pressed while dave is served, then dave leaves")
    trial.server.interrupt()
    dave.leaves()
    if not trial.until(lambda: trial.returned):
        look = "except: and except BaseException: catch Ctrl+C, too. Name the errors: except ConnectionError:"
        raise trial.not_yet("the server ends", "it goes on", look)


def _make_them_wait(trial: Trial) -> None:
    trial.tries("your experiment is carried out")
    result = trial.result_of(trial.server, look="who is not served gets no answer: do not wait for it")
    clients = list(result) if isinstance(result, list | tuple) else [] if result is None else [result]
    trial.guests += [Guest(trial, each) for each in clients if isinstance(each, Client)]
    if not trial.guests:
        raise trial.not_yet(
            "your function returns the list of its clients",
            f"it returned {clients if clients else 'nothing'}",
            "the last line: return [alice, bob, carol]",
        )
    expected = "alice is served; bob and carol stand in the backlog, each with 5 bytes unread"
    backlog = trial.server.backlog()
    waiting = (
        ", ".join(f"{each.name} ({each.unread} unread{', has left' if each.left else ''})" for each in backlog.waiting)
        or "nobody"
    )
    lanes = {lane.name: lane for lane in trial.server.timeline().lanes}
    if not {"alice", "bob", "carol"} <= lanes.keys():
        there = ", ".join(lanes) or "nobody"
        raise trial.not_yet(expected, f"connected: {there}", 'three clients, each with its name, like name="alice"')
    alice = lanes["alice"]
    if alice.accepted is None:
        raise trial.not_yet(expected, f"alice is not served; in the backlog: {waiting}", "alice connects first")
    if alice.left is not None:
        raise trial.not_yet(expected, f"alice has left; in the backlog: {waiting}", "alice stays: no close, no with")
    if [each.name for each in backlog.waiting] != ["bob", "carol"] or any(each.left for each in backlog.waiting):
        look = "bob and carol connect while alice is there, and stay: no close, no with"
        if [each.name for each in backlog.waiting] == ["carol", "bob"]:
            look = "who comes first: bob, then carol"
        raise trial.not_yet(expected, f"in the backlog: {waiting}", look)
    if any(each.unread != 5 for each in backlog.waiting):
        raise trial.not_yet(expected, f"in the backlog: {waiting}", 'bob and carol each send 5 bytes, like "hello"')
    trial.tries("alice hangs up")
    by_name = {each.name: each for each in trial.guests}
    if not {"alice", "bob"} <= by_name.keys():
        names = ", ".join(by_name)
        raise trial.not_yet("your function returns all three clients", f"it returned {names}", "the last line")
    by_name["alice"].leaves()
    trial.until(by_name["bob"].is_accepted)
    if not by_name["bob"].is_accepted():
        raise trial.not_yet("bob is served then", "he is not", "who waits longest is served first")


# -- Part 2 ----------------------------------------------------------------------------------------------------------


def _threads_of(trial: Trial, *guests: Guest) -> list[str]:
    """The labels of the threads that have served them."""
    lanes = {lane.name: lane for lane in trial.server.timeline().lanes}
    return [lanes[guest.name].threads[-1] if lanes[guest.name].threads else "" for guest in guests]


def _a_thread_for_each(trial: Trial) -> None:
    trial.tries('alice connects, and sends "hello"')
    alice = trial.guest("alice")
    _echoes(
        alice,
        "hello",
        "Thread(target=handle_client, args=(conn, addr)), then start(); and it is the thread that closes conn",
    )
    trial.tries("bob comes while alice is there")
    bob = trial.guest("bob").says("hi")
    bob.hears(
        "hi",
        "the loop must be back in accept at once. Thread(target=handle_client, args=(conn, addr)), then start(): "
        "run() and handle_client(…) do the work in the same thread, and join() waits for its end",
    )
    trial.tries("alice and bob talk in turns, and carol and dave come, too")
    guests = [alice, bob, trial.guest("carol"), trial.guest("dave")]
    for number, guest in itertools.product(range(3), guests):
        _echoes(guest, f"{guest.name} {number}", "each thread has its own conn: it comes in by args")
    served = _threads_of(trial, *guests)
    if len(set(served)) != 4:
        raise trial.not_yet("each client has a thread of its own", f"they were served by {', '.join(served)}", "Thread")
    trial.tries("alice breaks off, and erin comes")
    alice.vanishes()
    _echoes(trial.guest("erin"), "hi", "an error of one client ends its own thread only")


def _who_serves_me(trial: Trial) -> None:
    look = "threading.current_thread().name, asked inside your function: it runs in the thread that serves"
    trial.tries("alice and bob connect, and each sends something")
    alice, bob = trial.guest("alice"), trial.guest("bob")
    for guest in (alice, bob, alice):
        told = guest.says("who are you?").hears_line(f"the name as text, with \\n at its end. {look}")
        (name,) = _threads_of(trial, guest)
        if told != name:
            said = f"{guest.name} was told {quoted(told.encode())}"
            raise trial.not_yet(f'{guest.name} is told "{name}", the name of the thread that serves', said, look)
    alice.hears_nothing("one answer for each message")


ROUNDS, COUNTING = 25, 4  # messages of each client, clients


def _count_together(trial: Trial) -> None:
    trial.tries('alice sends "x", three times')
    alice = trial.guest("alice")
    first = _number(alice)
    for step in (1, 2):
        told = _number(alice, "one answer for each message; and who takes a lock gives it back: with lock: does that")
        if told != first + step:
            happened = f"after {first} came {told}"
            raise trial.not_yet("each message counts one more", happened, "count messages: one more each time")
    trial.tries('bob comes, and sends "x" once')
    bob = trial.guest("bob")
    told = _number(bob, "with lock: is around the counting, not around recv, or all others wait")
    if told != first + 3:
        look = "one number for all clients: it is set outside the function, and global inside"
        raise trial.not_yet(f"bob is told {first + 3}, one more than alice", f"bob was told {told}", look)
    trial.tries(f'{COUNTING} clients send "x" {ROUNDS} times each, all at the same time')
    crowd = [alice, bob, *(trial.guest(f"client {number}") for number in range(3, COUNTING + 1))]
    numbers: list[int] = []
    problems: list[NotYet] = []

    def send(guest: Guest) -> None:
        try:
            for _ in range(ROUNDS):
                numbers.append(_number(guest))
        except NotYet as problem:
            problems.append(problem)

    threads = [threading.Thread(target=send, args=(guest,), daemon=True) for guest in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10 * PATIENCE)
    if problems:
        raise problems[0]
    expected = set(range(first + 4, first + 4 + COUNTING * ROUNDS))
    if set(numbers) != expected:
        raise trial.not_yet(
            f"all of the {COUNTING * ROUNDS} numbers are different, and none is left out",
            "some messages were counted as one",
            "with lock: around all that reads or writes the number; and one lock for all threads, made outside the "
            "function",
        )


def _number(guest: Guest, look: str = "the answer is the number as text, with \\n at its end") -> int:
    line = guest.says("x").hears_line(look)
    if not line.isdecimal():
        raise guest.trial.not_yet(f"{guest.name} gets a number", f"{guest.name} got {quoted(line.encode())}", "sendall")
    return int(line)


CROWD = 20  # threads that a server may have before the next of many clients comes


def _who_is_there(trial: Trial) -> None:
    trial.tries('alice connects, and sends her name, "alice"')
    hello = "the first message is the name: the answer is hello, a space, the name and \\n"
    alice = trial.guest("alice").says("alice").hears("hello alice\n", hello)
    trial.tries('alice sends "/who"')
    who = "the names of those who are there, sorted, with a comma and a space between them, and \\n at the end"
    again = "inside with lock: nothing may ask for the same lock again"
    old = (
        "names of an earlier check are still there: first run the line again that makes the collection, then the check"
    )
    alice.says("/who").hears("alice\n", f"{who}; and {again}", {b"alice, ": old})
    trial.tries("alice sends something else")
    _echoes(alice, "nice place", "all but /who is sent back as before")
    trial.tries("carol and bob come, and alice asks again")
    wait = f"{hello}; and with lock: is not around recv, or all others wait"
    carol = trial.guest("carol").says("carol").hears("hello carol\n", wait)
    bob = trial.guest("bob").says("bob").hears("hello bob\n", wait)
    shared = "one collection for all threads, made outside the function"
    alice.says("/who").hears(
        "alice, bob, carol\n", who, {b"alice\n": shared, b"alice, carol, bob\n": "sorted: by name, not by time"}
    )
    trial.tries("bob leaves, and alice asks again")
    bob.leaves()
    alice.hears_nothing()
    forget = "when a client leaves, its name goes, however it leaves: finally does that"
    alice.says("/who").hears("alice, carol\n", forget)
    trial.tries("carol breaks off, and alice asks again")
    carol.vanishes()
    alice.hears_nothing()
    alice.says("/who").hears("alice\n", forget)
    trial.tries("many clients come and go, while alice asks again and again")
    over = threading.Event()
    locked = "with lock: around all that reads or changes the collection"

    numbers = itertools.count(1)  # no name comes twice: the server may not know yet that who had it before has left

    def come_and_go() -> None:
        with contextlib.suppress(EchoError, OSError):
            while not over.is_set():
                name = f"guest {next(numbers)}"
                with Client(trial.server, name=name) as guest:
                    guest.send(name)
                    guest.receive(size=len(f"hello {name}\n"), timeout=PATIENCE)
                trial.until(lambda: len(trial.server.observation.alive()) < CROWD)

    threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            names = alice.says("/who").hears_line(locked).split(", ")
            if "alice" not in names or names != sorted(names):
                raise trial.not_yet("alice is there, too", f"alice got {', '.join(names)}", "who shares the collection")
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    if trial.server.error is not None:
        raise trial.not_yet("no thread ends with an error", "one did", locked)


def _at_most_three(trial: Trial) -> None:
    trial.tries("alice, bob and carol connect, and each sends something")
    three = [trial.guest(name) for name in ("alice", "bob", "carol")]
    for guest in three:
        _echoes(guest, "hello", "three at once: a thread each, and a Semaphore(3) that is made inside your function")
    trial.tries("dave comes while they are there")
    dave = trial.guest("dave").says("hi")
    trial.settle()
    limit = (
        "a Semaphore(3): acquire before accept, so that the fourth stays in the backlog; and release in the thread "
        "that serves, when its client has left"
    )
    if dave.is_accepted():
        raise trial.not_yet("dave waits in the backlog, as three are there", "dave was accepted", limit)
    dave.hears_nothing(limit)
    trial.tries("bob leaves")
    three[1].leaves()
    release = "release when a client leaves, however it leaves: finally, or with, in the thread that serves"
    dave.hears("hi", release)
    trial.tries("erin comes while alice, carol and dave are there; then carol breaks off")
    erin = trial.guest("erin").says("hi")
    trial.settle()
    if erin.is_accepted():
        raise trial.not_yet(
            "erin waits in the backlog, as three are there", "erin was accepted", "one release for each"
        )
    three[2].vanishes()
    erin.hears("hi", release)
    trial.tries("six more come and go, one after the other, when dave has left")
    dave.leaves()
    for number in range(6):
        guest = trial.guest(f"guest {number}")
        _echoes(guest, "hi", release)
        guest.leaves()


def _pool(trial: Trial) -> None:
    trial.tries("alice, bob and carol connect, and each sends something")
    three = [trial.guest(name) for name in ("alice", "bob", "carol")]
    for guest in three:
        _echoes(
            guest,
            "hello",
            "pool.submit(handle_client, conn, addr), and on to the next accept: result(), a with for the pool inside "
            "the loop, and submit(handle_client(…)) wait until the client has left",
        )
    trial.tries("dave comes while they are there")
    dave = trial.guest("dave").says("hi")
    if not trial.until(dave.is_accepted):
        raise trial.not_yet("dave is accepted", "dave is not", "the loop only accepts and submits. It never waits")
    dave.hears_nothing("one pool with max_workers=3, made before the loop: the fourth client waits for a free worker")
    trial.tries("bob leaves")
    three[1].leaves()
    dave.hears("hi", "handle_client comes back when its client leaves: then its worker takes the next one")
    trial.tries("six more come and go, one after the other, when all others have left")
    for guest in (three[0], three[2], dave):
        guest.leaves()
    late = []
    for number in range(6):
        late.append(trial.guest(f"guest {number}"))
        _echoes(late[-1], "hi", "the pool is made once, before the loop")
        late[-1].leaves()
    workers = set(_threads_of(trial, *three, dave, *late))
    if len(workers) > 3:
        raise trial.not_yet(
            "all ten clients are served by the same three threads",
            f"{len(workers)} threads were at work",
            "ThreadPoolExecutor(max_workers=3), made once, before the loop",
        )


def _clean_end(trial: Trial) -> None:
    trial.tries("alice, bob and zoe connect, and each sends something")
    alice, bob, zoe = (trial.guest(name) for name in ("alice", "bob", "zoe"))
    for guest in (alice, bob, zoe):
        _echoes(guest, "hello", "a thread each, as before")
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
    if not trial.until(lambda: trial.returned):
        raise trial.not_yet(
            "your server comes back",
            "it did not",
            "Ctrl+C ends the loop around accept, too; and shutdown(socket.SHUT_RDWR) wakes who waits in recv",
        )
    if trial.server.error is not None:
        look = "zoe has left by herself: of her connection, shutdown raises an OSError. Catch it, and go on"
        raise trial.not_yet("your server comes back", "it ended with an error", look)
    trial.tries("your server has come back, and no thread of it is left")
    if trial.left:
        raise NotYet(  # where they stand now says nothing: they go on, and end
            "no thread is left when it comes back",
            f"{', '.join(trial.left)} {'was' if len(trial.left) == 1 else 'were'} still at work",
            "first shutdown on every connection, then join for every thread",
        )


EXERCISES = {
    each.number: each
    for each in (
        Exercise("1.1", "From memory", ("host", "port"), as_it_is, _from_memory),
        Exercise("1.2", "Shout", ("conn", "addr"), one_at_a_time, _shout),
        Exercise("1.3", "A greeting", ("conn", "addr"), one_at_a_time, _greeting),
        Exercise("1.4", "Counting bytes", ("conn", "addr"), one_at_a_time, _count_bytes),
        Exercise("1.5", "Lines", ("conn", "addr"), one_at_a_time, _lines),
        Exercise("1.6", "Make them wait", ("server",), not_at_all, _make_them_wait),
        Exercise("1.7", "Patience", ("conn", "addr"), one_at_a_time, _patience),
        Exercise("1.8", "Hard to break", ("host", "port"), as_it_is, _hard_to_break),
        Exercise("2.1", "A thread each", ("host", "port"), as_it_is, _a_thread_for_each),
        Exercise("2.2", "Who serves me?", ("conn", "addr"), a_thread_each, _who_serves_me),
        Exercise("2.3", "Counting together", ("conn", "addr"), a_thread_each, _count_together),
        Exercise("2.4", "Who is there?", ("conn", "addr"), a_thread_each, _who_is_there),
        Exercise("2.5", "At most three", ("host", "port"), as_it_is, _at_most_three),
        Exercise("2.6", "A pool", ("host", "port"), as_it_is, _pool),
        Exercise("2.7", "A clean end", ("host", "port"), as_it_is, _clean_end),
        *SURPRISES,
    )
}
