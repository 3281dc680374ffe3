"""A gate at which the threads of a server stop before each socket call, and are let through one call at a time.

A thread stands at the gate as long as it is in `Gate._standing`: taking it out lets it go, once, because that is one
atomic operation on a dictionary. No lock is held while anything of Python's runs: the garbage collector may run any
code of the student's in any thread, and a thread that waited here and held a lock would keep the others out for ever.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Iterable
from threading import Event
from typing import Any

SLICE = 0.1  # seconds after which a thread at the gate looks by itself whether it has been let go


class Gate:
    """Closed, it holds each thread that comes to `wait`, until `let_go` names it or the gate is opened."""

    def __init__(self) -> None:
        self.closed = False  # open it by `open`, which lets all through
        self.late: Event | None = None  # for which each thread that is started now waits, before it begins
        self._standing: dict[object, tuple[Any, Any]] = {}  # who -> what it is about to do, and the lock it waits on
        self._leaving: set[object] = set()

    def wait(self, who: object, what: object) -> None:
        """Hold the calling thread, known as `who`, before it does `what`."""
        lock = allocate_lock()
        lock.acquire()
        ticket = what, lock
        self._standing[who] = ticket
        try:
            while self.closed and self._standing.get(who) is ticket:
                lock.acquire(timeout=SLICE)
        finally:
            self._standing.pop(who, None)
            self._leaving.discard(who)

    def what(self, who: object) -> Any:
        """What `who` is about to do, while it stands here; else None."""
        return self._standing.get(who, (None,))[0]

    def let_go(self, who: object) -> bool:
        """Let `who` through, this once. False: it does not stand here."""
        self._leaving.add(who)  # first: it may be through before this returns
        _, lock = self._standing.pop(who, (None, None))
        if lock is None:
            self._leaving.discard(who)
            return False
        lock.release()
        return True

    def leaving(self, several: Iterable[object]) -> bool:
        """Whether one of them has been let go, and has not had a chance to run since."""
        return not self._leaving.isdisjoint(several)

    def open(self) -> None:
        """Let all through, and hold nobody from now on."""
        self.closed = False
        for who in list(self._standing):
            self.let_go(who)
