"""Child processes that a server's threads fork. A child has a copy of everything, and owns nothing of it: it undoes the
patches, forgets the servers, and sends what it prints, and dies of, through a pipe into its parent's log.

Only a fork is seen: not a program that is started (`subprocess`), nor `multiprocessing`'s other ways, which do so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from . import output, patches
from .events import Line
from .observation import Observation, Task, current_task, lock, observed, running

PIECE = 500  # characters that are sent at once: as JSON fewer bytes than a pipe takes as a whole, which is 4,096
GRACE = 0.5  # seconds that a child has to end when it is asked to


class Children:
    """Those of one server."""

    def __init__(self, observation: Observation) -> None:
        self._observation = observation
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._rest = b""
        self._open = True
        self.begun: list[Task] = []  # in whose name each prints
        self._pids: dict[int, int] = {}  # by number, of those that have told it

    def fork(self, task: Task) -> None:
        """A thread of the server forks: the child's lines belong to the client that it serves."""
        self.read()
        label = f"child process {len(self.begun) + 1}"
        self.begun.append(Task(self._observation, label, None, connection=task.connection))

    def send(self, text: str) -> None:
        """In the child: `text` for the log. What a full pipe does not take is lost."""
        for start in range(0, max(1, len(text)), PIECE):
            piece = [len(self.begun), os.getpid(), text[start : start + PIECE]]
            with contextlib.suppress(OSError):
                os.write(self._writer, json.dumps(piece).encode() + b"\n")

    def read(self) -> list[Line]:
        """Put what the children have sent into the log; the lines that are not finished."""
        with lock:
            while self._open:
                try:
                    data = os.read(self._reader, 65536)
                except OSError:
                    break  # no more for now
                *lines, self._rest = (self._rest + data).split(b"\n")
                for number, pid, text in map(json.loads, lines):
                    self._pids[number] = pid
                    if text:
                        self._observation.write(self.begun[number - 1], text)
            return [task.partial for task in self.begun if task.partial]

    def alive(self) -> list[int]:
        """The process ids of those that have not ended."""
        self.read()
        return [pid for pid in self._pids.values() if _lives(pid)]

    def end(self) -> list[int]:
        """End them, as Ctrl+C ends all processes of a terminal. The process ids of those that go on."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + GRACE
            for pid in self.alive():
                with contextlib.suppress(OSError):
                    os.kill(pid, how)
            while self.alive() and time.monotonic() < until:
                time.sleep(0.002)
        left = self.alive()
        if "multiprocessing" in sys.modules:
            sys.modules["multiprocessing"].active_children()  # takes note of those that have ended
        for pid in self._pids.values():
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)  # nobody else will ask how it ended
        with lock:
            if self._open:
                self._open = False
                os.close(self._reader)
                os.close(self._writer)
        return left


def _lives(pid: int) -> bool:
    """Whether our child has not ended. (Who asks by waitpid takes the answer from the student's code.)"""
    try:
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        os.kill(pid, 0)
    except OSError:
        return False
    return True


class _Sent:
    """Stands in for a child's sys.stdout and sys.stderr."""

    def __init__(self, plain: Any, send: Callable[[str], None]) -> None:
        self._plain, self._send = plain, send

    def write(self, text: str) -> int:
        self._send(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self._send(line)

    def flush(self) -> None:
        """Nothing is kept."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


# -- around each fork of this process --------------------------------------------------------------------------------


def _before() -> None:
    lock.acquire()  # so that no other thread holds it in the copy
    task = current_task()
    if task is not None and task.observation in running:
        observation = task.observation
        with contextlib.suppress(OSError):  # no descriptors left: then the child is not seen
            observation.children = observation.children or Children(observation)
            observation.children.fork(task)


def _in_child() -> None:
    task = current_task()
    for each in running:
        each.opened.clear()  # nothing is shut down there, and nothing is closed
        each.kept.clear()
    running.clear()
    observed.clear()
    patches.put()
    if task is not None and task.observation.children is not None:
        children = task.observation.children
        task.observation.write = lambda task, text: children.send(text)  # type: ignore[method-assign]
        task.observation.drop([task])
        for name in output.STREAMS:
            setattr(sys, name, _Sent(getattr(sys, name), children.send))
        children.send("")
    lock.release()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before, after_in_parent=lock.release, after_in_child=_in_child)
