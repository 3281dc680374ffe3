"""How a server is stopped: first it is asked, then its threads get an exception."""

from __future__ import annotations

import contextlib
import sys
import threading
import time

from .borrowed import raise_in
from .observe import Observation, ServerStopped, Task

__all__ = ["give_up", "join", "stop", "throw_into"]

GRACE = 0.25  # seconds that a stopping server has until stronger means are used


def stop(observation: Observation, deadline: float) -> list[Task]:
    """End the server's threads, as far as they can be ended until `deadline`; those that are left."""
    observation.ask_to_stop()
    left = join(observation, min(deadline, time.monotonic() + GRACE))
    while left and time.monotonic() < deadline:
        observation.insist()
        for task in left:
            throw_into(task)
        left = join(observation, min(deadline, time.monotonic() + GRACE))
    return left


def join(observation: Observation, deadline: float) -> list[Task]:
    """Wait for the server's threads to end, also for those that one of them has just started; those that are left."""
    while True:
        left = [task for task in observation.alive() if not task.idle()]
        if not left or time.monotonic() > deadline:
            return left
        if left[0].thread is not None:
            left[0].thread.join(0.01)
        else:
            time.sleep(0.001)  # nothing tells when a thread of the _thread module ends


def throw_into(task: Task, exception: type[BaseException] = ServerStopped) -> None:
    """Raise it in the thread at its next Python instruction."""
    ident = task.identity()
    if ident is not None:
        raise_in(ident, exception)


def give_up(left: list[Task]) -> None:
    """These did not end. Should one ever go on, it gets the one exception that ends a thread silently."""
    for task in left:
        throw_into(task, SystemExit)
    if left and sys.version_info < (3, 12):
        _take_one()


def _take_one() -> None:
    """Take an exception that was thrown so, in a thread of our own.

    As long as none has been taken, CPython 3.11 looks for one at each instruction, in all threads; and a thread with a
    trace function, like those of some checks, never gets on. The thread that it is for gets it all the same.
    """

    def take() -> None:
        with contextlib.suppress(ServerStopped):
            raise_in(threading.get_ident(), ServerStopped)
            for _ in range(1000):
                time.sleep(0)

    with contextlib.suppress(RuntimeError):  # there may be too many threads already
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        thread.join(1.0)
