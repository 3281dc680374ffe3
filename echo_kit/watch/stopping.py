"""How a server is stopped: all who wait are woken, then its threads get an exception, and in the end its sockets close.

To the server it looks as if all clients hung up and somebody pressed Ctrl+C. An exception is thrown into a thread only
where it does no harm: `may_be_interrupted` says where that is.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from . import calls
from .apart import ServerStuck
from .borrowed import go_on, raise_in, waits
from .children import Children
from .events import Connection, reachable
from .frames import is_student_file, thread_frames
from .observation import Observation, ServerStopped, Task
from .patches import start, step_by_step, take_turns
from .sockets import descriptors_at, ready, reset_on_close

GRACE = 0.25  # seconds that a thread has until stronger means are used, or used again
LOOK = 0.005  # seconds from one look to the next, whether a thread may be interrupted
TO_BE_RID = "To be rid of the thread, restart the kernel."

# Where a thread waits, or lets others run, at the student's request. Not in close: what is closed half stays open.
_OURS: list[Callable[..., Any]] = [*calls.TWINS.values(), calls.read, start, take_turns]
_WAITS = {*waits, *(each.__code__ for each in _OURS)}


def stop(observation: Observation, deadline: float) -> list[Task]:
    """End the server's threads, as far as they can be ended until `deadline`; those that are left."""
    ask_to_stop(observation)
    left = join(observation, min(deadline, time.monotonic() + GRACE))
    while left and time.monotonic() < deadline:
        insist(observation)
        until, to_interrupt = min(deadline, time.monotonic() + GRACE), left
        while left and time.monotonic() < until:
            to_interrupt = [task for task in to_interrupt if task in left and not throw_into(task)]
            left = join(observation, min(until, time.monotonic() + LOOK) if to_interrupt else until)
    return left


def ask_to_stop(observation: Observation) -> None:
    """Wake every thread that is blocked in a socket call: to the server it looks as if all clients hung up."""
    # First, before any thread wakes: some hang up by themselves, some end and leave their sockets to close_all.
    for _, seen in observation.sockets(listening=False):
        seen.connection.cut_off = True
    observation.kept = [sock for listening in (True, False) for sock, _ in observation.sockets(listening)]
    observation.stopping = True
    for listening in (True, False):
        for _, seen in observation.sockets(listening):
            seen.over = True
    observation.alarm.ring()  # never read: it goes on waking every thread that waits in accept
    for sock, _ in observation.sockets(listening=True):
        _quietly(calls.plain_shutdown, sock, socket.SHUT_RDWR)  # on Linux this wakes select() on it, too
    for sock in [*(sock for sock, _ in observation.sockets(listening=False)), *observation.others()]:
        if observation.abort:  # no end of file before the reset: a client that closed on it would keep the port busy
            reset_on_close(sock)
        _quietly(calls.plain_shutdown, sock, socket.SHUT_RD if observation.abort else socket.SHUT_RDWR)
    if any(end.handed_on for end in observation.accepted.copy().values()):
        hang_up(observation)
    step_by_step(observation, False)  # last, so that a thread that is held comes to sockets that are shut down


def show_out(observation: Observation, connection: Connection) -> bool:
    """End that connection for its server, which reads an end of file, and for its client. False: it is not open."""
    for sock, seen in observation.sockets(listening=False):
        if seen.connection is connection:
            connection.shown_out = True  # first: its thread may be faster
            _quietly(calls.plain_shutdown, sock, socket.SHUT_RDWR)
            return True
    return False


def hang_up(observation: Observation) -> None:
    """Shut down what no socket of Python's owns: a thread may read from its descriptor by os.read."""
    seen = {sock.fileno() for sock in observation.all_sockets()}
    for number in descriptors_at(observation.address[1] if observation.address else 0) or []:
        if number not in seen:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as sock:
                sock.shutdown(socket.SHUT_RD if observation.abort else socket.SHUT_RDWR)


def insist(observation: Observation) -> None:
    """Wake also threads that wait in sendall for a client that does not read, or in a select() that nothing wakes."""
    for sock, _ in observation.sockets(listening=False):
        if not (observation.abort and ready(sock, selectors.EVENT_WRITE)):  # no end of file: see ask_to_stop
            _quietly(calls.plain_shutdown, sock, socket.SHUT_RDWR)
    for sock in observation.others():
        _quietly(calls.plain_shutdown, sock, socket.SHUT_RDWR)
    for sock, _ in observation.sockets(listening=True):
        _quietly(lambda sock=sock: socket.create_connection(reachable(sock.getsockname())[:2], timeout=0.1).close())


def join(observation: Observation, deadline: float) -> list[Task]:
    """Wait for the server's threads to end, also for those that one of them has just started; those that are left."""
    while True:
        left = [task for task in observation.alive() if not task.idle()]
        if not left or time.monotonic() > deadline:
            return left
        if left[0].thread is not None:
            left[0].thread.join(LOOK)
        else:
            time.sleep(0.001)  # nothing tells when a thread of the _thread module ends


def may_be_interrupted(frame: FrameType | None) -> bool:
    """Whether a thread whose innermost frame this is can take an exception: it runs the student's code, or waits in a
    function that is written to be left so. An exception in the clean-up of a WeakSet, say, leaves it broken. In code
    made from a string it can, too, whoever's that is: one that prints without end is seldom seen anywhere else.
    """
    return frame is not None and (frame.f_code in _WAITS or is_student_file(frame.f_code.co_filename))


def throw_into(task: Task, exception: type[BaseException] = ServerStopped, timeout: float = 0.0) -> bool:
    """Raise it in the thread at its next Python instruction, as soon as it may be interrupted, within `timeout`
    seconds. Whether it was thrown.
    """
    ident, deadline, taken_back = task.identity(), time.monotonic() + timeout, False
    while ident is not None and task.alive():
        if may_be_interrupted(thread_frames().get(ident)):
            raise_in(ident, exception)
            frame = thread_frames().get(ident)
            if frame is not None and may_be_interrupted(frame):
                go_on(frame)
                return True
            raise_in(ident, None)  # it has gone on meanwhile
            taken_back = True
        if time.monotonic() >= deadline:
            break
        time.sleep(0.001)
    if taken_back:
        _take_one()
    return False


def interrupt(task: Task, timeout: float) -> None:
    """KeyboardInterrupt in that thread: at once in its `accept`, and in a client program's every wait; elsewhere when
    the call that it is in has returned.
    """
    alarm, waits_on, entered = task.observation.alarm, task.waiting, task.entered
    if waits_on is not None and (waits_on.listening or task.observation.keyboard is not None):
        alarm.interrupt(task)
        deadline = time.monotonic() + timeout
        while (alarm.meant or (entered and task.entered is entered)) and time.monotonic() < deadline:
            time.sleep(0.001)  # until it has left that call: else whoever looks next sees it wait there
        if not alarm.take(task):
            return  # else it has left that accept for something else
    throw_into(task, timeout=timeout)


def give_up(left: list[Task]) -> None:
    """These did not end. Should one ever go on, it gets the one exception that ends a thread silently."""
    for task in left:
        throw_into(task, SystemExit)
    if left:
        _take_one()


def end_children(observation: Observation) -> list[int]:
    """End the processes that its threads have forked. The process ids of those that go on."""
    children: Children | None = observation.children
    return [] if children is None else children.end()


def stuck(
    observation: Observation, timeout: float, left: list[Task], stands: list[str], children: list[int]
) -> ServerStuck:
    """These did not end: the threads, of which `stands` says where, and the processes. Of what is closed, it says what
    the system says.
    """
    name, port = observation.name, observation.address[1] if observation.address else 0
    told = []
    if left:
        give_up(left)
        told = [f"{name} did not end within {timeout:g} s: {'; '.join(stands)}.", what_is_open(port)]
        told += [TO_BE_RID]
    for each in children:
        holds = f", and may hold port {port}" if port else ""
        told += [f"A child process of {name} (pid {each}) goes on{holds}: end it in a terminal, kill -9 {each}."]
    return ServerStuck(" ".join(told))


def what_is_open(port: int) -> str:
    """Whether all sockets of a stopped server's port are closed in this process, as the system says."""
    left = descriptors_at(port) if port else []
    if left is None:
        return "Its sockets are closed, as far as Python knows them."
    if not left:
        return "Its sockets are closed."
    numbers = ", ".join(map(str, left))
    return (
        f"Its port {port} is still held by file descriptor {numbers} of this process, which no socket of Python's owns."
    )


def _take_one() -> None:
    """Take an exception that was thrown so, in a thread of our own: as long as none has been taken, CPython 3.11 looks
    for one at each instruction, in all threads, and one with a trace function, as in some checks, never gets on.
    """
    if sys.version_info >= (3, 12):
        return

    def take() -> None:
        with contextlib.suppress(ServerStopped):
            raise_in(threading.get_ident(), ServerStopped)
            for _ in range(1000):
                time.sleep(0)

    with contextlib.suppress(RuntimeError):  # there may be too many threads already
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        thread.join(1.0)


def _quietly(call: Callable[..., object], *args: object) -> None:
    with contextlib.suppress(OSError):  # closed already, or the peer is gone: nothing is left to be done
        call(*args)
