"""What the exercises of Part 2 require whose function is the whole server; the other ones are in `shared.py`."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time

from ..server import MAIN
from ..watch.frames import is_student_code, library_name, student_frame, thread_frames
from ..watch.observation import Task
from ..watch.patches import limits_end_soon
from ..watch.text import listed
from .report import NotYet
from .shared import served_by, threads_of
from .trial import MOMENT, PATIENCE, RESTLESS, Guest, Trial

MANY = 40  # clients that are there at once in exercise 2.1: more threads than a pool has that nobody has limited
AGAIN = 0.6  # seconds for which a full server is watched that may go on by itself
LONGER = 2.0  # seconds for which the threads of exercise 2.7 do not end, where the server looks again and again
MESSAGES = (b"again", b"again", b" \r\n\tz ", b"caf\xe9 \xff\x00", b"".join(b"%05d" % each for each in range(600)))
ODD = "the same bytes go back, all of them, whatever they are || sendall(data), no send, no decode, no strip"
SILENT = "the loop must be in accept again at once, also when a new client is silent || recv is called in its thread"
LATE = (
    "each thread must keep its own conn: the loop has changed its variable conn before this thread has read it || "
    "args=(conn, addr), no lambda"
)


def company(trial: Trial, *names: str, hint: str, two: str = "") -> list[Guest]:
    """Clients that connect at the same time. Then each gets its echo, and the one that came first is silent longest.

    two  the hint where two are served, and the third one is not
    """
    trial.tries(f"{listed(names)} connect, and are silent. Then each sends something, {names[-1]} first")
    with trial.late_threads():
        guests = [trial.guest(name) for name in names]
    threads_only(trial)
    for guest in reversed(guests):
        waits = [(each, each.waiting) for each in trial.server.observation.alive()]
        reads = [(each, seen.connection) for each, seen in waits if seen is not None and not seen.listening]
        frames = [student_frame(each.identity()) for each, _ in reads if each.label == MAIN]
        words = two if two and len(reads) == 2 and guest is guests[-1] else hint
        if any(each is not None and each.f_code is getattr(trial.function, "__code__", None) for each in frames):
            words = SILENT
        guest.echoes(f"hello from {guest.name}", LATE if len({read for _, read in reads}) < len(reads) else words)
    for data in MESSAGES:
        guests[0].echoes(data, ODD)
    return guests


def threads_only(trial: Trial) -> None:
    # What has handed connections to another process listens in a thread that never ends by itself: when its socket is
    # closed at the end of a check, it would print errors for ever.
    if (sharer := sys.modules.get("multiprocessing.resource_sharer")) is not None:
        trial.at_the_end.callback(sharer.stop, PATIENCE)
    got, hint = "it has started another process", "threads, no processes || threading.Thread, ThreadPoolExecutor"
    trial.expects("threads of your server serve the clients", not trial.server.observation.children, got, hint)


def come_and_go(trial: Trial, number: int, hint: str) -> list[Guest]:
    """So many clients, one after the other: each gets its echo, and leaves."""
    guests = []
    for each in range(number):
        guests.append(trial.guest(f"guest {each}", settle=None).echoes(f"hi {each}", hint))
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
    trial.tries("they talk in turns")
    for number, guest in itertools.product(range(2), guests):
        guest.echoes(f"{guest.name} {number}", "each thread has its own conn || it is passed in args")
    one = f"one new thread for each client, and for all of its messages || {start}"
    lanes = {lane.name: lane.threads for lane in trial.server.timeline().lanes}
    for guest in guests:
        mine, expected = lanes[guest.name], f"{guest.name} has a thread of its own"
        got = f"{guest.name} was served by {', '.join(mine)}"
        own = [each.label for each in served_by(trial, guest)]
        trial.expects(expected, own == mine and len(own) == 1, got, one)
    trial.tries(f"{MANY} more come, and stay. The last one sends something first")
    crowd, as_many = [], f"as many threads as there are clients: no pool, no limit || {start}"
    for number in range(MANY):
        crowd.append(guest := trial.guest(f"guest {number}", settle=None))
        accepted = trial.until(lambda guest=guest: guest.there)  # type: ignore[misc]
        trial.expects(f"{guest.name} is accepted", accepted, f"{number + len(guests)} others are there", as_many)
    for guest in (crowd[-1], crowd[0]):
        guest.echoes("hi", as_many)
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


def at_most_three(trial: Trial) -> None:
    hint = "three at once: a thread each, and three places, made inside your function || a Semaphore(3)"
    two = "three places, not two || Semaphore(3)"
    limit = (
        "wait for a free place, then accept || Semaphore(3): acquire before accept, no timeout, release in its thread"
    )
    release = "when a client leaves, however it leaves, its place is free || release in finally, in its thread"
    with limits_end_soon(trial.server.observation):
        _, bob, carol = company(trial, "alice", "bob", "carol", hint=hint, two=two)
        dave = trial.tries("dave comes while they are there").guest("dave", settle=None)
        _waits(dave, limit, long=True)
    trial.settle()  # who sleeps does so again, and now for as long as it wants to
    bob.tries("bob leaves").leaves()
    dave.hears("hi", release)
    trial.tries("erin comes while alice, carol and dave are there; then carol breaks off")
    erin = trial.guest("erin", settle=None)
    _waits(erin, "each client gives back one place || one release for each acquire")
    carol.vanishes()
    erin.hears("hi", release)
    trial.tries("dave leaves, and two more come and go, one after the other")
    dave.leaves()
    come_and_go(trial, 2, release)
    trial.tries("frank and gus come: with alice and erin that is one too many")
    trial.guest("frank", settle=None).echoes("hi", release)
    _waits(trial.guest("gus", settle=None), "each client gives back one place || one release for each acquire")


def _waits(guest: Guest, hint: str, long: bool = False) -> None:
    trial = guest.says("hi").trial
    trial.settle()
    may_go_on = long and any(map(_may_go_on, trial.server.observation.alive()))
    trial.until(lambda: guest.there, AGAIN if may_go_on else MOMENT)
    expected = f"{guest.name} waits in the backlog, as three are there"
    closed = guest.there and guest.there.closed
    got = f"{guest.name} was accepted{', and then your server hung up' if closed else ''}"
    hint = "a client that comes too early is not sent away: it waits until a place is free" if closed else hint
    trial.expects(expected, guest.there is None, got, hint)


def _may_go_on(task: Task) -> bool:
    """Whether a thread may go on by itself: it waits neither for a client nor for as long as it takes."""
    frame = thread_frames().get(task.identity() or 0)
    if task.waiting is not None or frame is None:
        return False
    if library_name(frame) in ("", "echo_kit"):  # a call of C's, or what `limits_end_soon` makes of time.sleep
        return True
    limits: list[object] = []
    while frame is not None and not is_student_code(frame):
        limits.append(frame.f_locals.get("timeout"))
        frame = frame.f_back
    return any(isinstance(each, int | float) and each > 0 for each in limits)


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
    lost = "handle_client returns when its client leaves: its worker takes the next one. Each job keeps its own conn"
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
    ends = "an error of one client, like frank's, must not end its job || except ConnectionError: in handle_client"
    trial.expects("no job of the pool ends with an error", not trial.swallowed(), trial.swallowed(), ends)


def clean_end(trial: Trial) -> None:
    alice, zoe, bob = company(trial, "alice", "zoe", "bob", hint="a thread each, as before")
    threads = len(trial.server.observation.alive())
    zoe.leaves()
    trial.until(lambda: len(trial.server.observation.alive()) < threads)  # hers has ended
    carol = trial.guest("carol")
    trial.until(lambda: carol.there and served_by(trial, carol))  # by then nothing of hers can get lost
    trial.tries("zoe leaves. Then Ctrl+C is pressed, while alice, bob and carol are there and silent")
    _press_ctrl_c(trial)
    trial.until(lambda: trial.returned or _joins_for_ever(trial))
    expected, returned = "your server returns", trial.returned
    gone = "zoe has left before: her connection is closed already, which is an OSError. Catch it, and go on"
    trial.expects(expected, trial.server.error is None, "it ended with an error", gone)
    hang_up = (
        "after Ctrl+C, end every connection in a way that wakes its thread || in except KeyboardInterrupt: (it is no "
        "Exception), or finally: shutdown on every connection; close and join do not wake a thread"
    )
    each_one = (
        "every connection, also behind one that is closed already: its shutdown raises an OSError, which you catch for "
        "each one || try: in the loop over the connections, not around it"
    )
    guests = (alice, bob, carol)
    for guest in guests:
        guest.hears_nothing("after Ctrl+C, nothing more is sent", may_end=True)
    over = lambda: all(guest.has_ended() for guest in guests) or trial.nothing_will_come()  # noqa: E731
    trial.until(over, PATIENCE if returned else 0.0)
    ended = [each for each in guests if trial.until(each.has_ended, MOMENT)]
    for guest in guests:
        got, hint = f"nothing came to {guest.name}", each_one if ended else hang_up
        trial.expects(f"the server hangs up on {guest.name}", guest in ended, got, hint)
    hint = "Ctrl+C ends the loop around accept, too; and every thread must be woken || shutdown(socket.SHUT_RDWR)"
    trial.expects(expected, returned, "it did not", hint)
    if trial.left:  # without `not_yet`: these threads have moved on, where they stand now explains nothing
        got = f"{listed(trial.left)} {'was' if len(trial.left) == 1 else 'were'} still at work"
        hint = (
            "wait until every thread has ended, however long it saves || first shutdown on every connection, then join "
            "for every thread: no sleep, no join with a time limit"
        )
        raise NotYet("no thread is left when your server returns", got, hint)
    trial.tries("your server has returned: no thread of it is left, and all four are saved")
    saved = sum(line.endswith(" is saved") for line in trial.server.log.lines())
    hint = "each client is served by handle_and_save, as it is given || target=handle_and_save"
    trial.expects("handle_and_save has saved four clients", saved == 4, f"it has saved {saved or 'none'}", hint)


def _press_ctrl_c(trial: Trial) -> None:
    """The threads that are woken then do not end until the server waits for them for as long as it takes, or
    returns. A sleep, or a join with a time limit, is over before.
    """
    trial.server.pause()
    try:
        with limits_end_soon(trial.server.observation):
            trial.server.interrupt()
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
        if frame is not None and frame.f_code.co_filename == threading.__file__:
            return not _may_go_on(task)
    return False


def _joins_for_ever(trial: Trial) -> bool:
    """It waits for threads that wait for clients, and no client says a word."""
    rests = _joins(trial) and trial.settle(RESTLESS)
    return rests and all(task.waiting or task.label == MAIN for task in trial.server.observation.alive())
