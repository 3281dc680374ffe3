"""Step by step: a thread of the server stops at the gate before each of its socket calls.

While a server runs so, another function stands before each of the methods of `calls.py`. These know nothing of it, so
that it costs nothing when it is off.
"""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import Callable
from typing import Any

from .borrowed import pool_workers
from .calls import TWINS
from .frames import is_asked_for
from .observation import Call, Observation, current_task, lock, noting, observed, running, task_for

__all__ = ["HELD", "step_by_step"]


def _pause(name: str, sock: socket.socket) -> None:
    """Hold the calling thread before it calls `name`, if it is one of the server's and the server's code calls."""
    seen = observed.get(id(sock))
    if seen is None or not seen.observation.gate.closed:
        return
    observation = seen.observation
    with noting(observation):
        task = current_task()
        if task is None or task.thread in pool_workers:
            task = task_for(observation)
        if task.observation is not observation or task is not current_task():
            return  # a cell that uses the server's socket, or a thread of another server
        if name in ("send", "close") and not is_asked_for(sys._getframe(2)):
            return  # by the destructor of a file of makefile(), or to clean up
        task.connection = None if seen.listening else seen.connection
        began = observation.log.clock()
        observation.gate.wait(task, Call(name, seen, began))
        observation.log.add("pause", began, seen.connection, task.label)


def _held(name: str) -> Callable[..., Any]:
    twin = TWINS[name]

    @functools.wraps(twin)
    def call(self: socket.socket, *args: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        _pause(name, self)
        return twin(self, *args, **named)

    return call


HELD = {name: _held(name) for name in ("accept", "recv", "recv_into", "send", "sendall", "close")}


def step_by_step(observation: Observation, on: bool) -> None:
    """Hold the server's threads before each of their calls from now on, or let all of them go.

    What somebody has patched over one of our patches stays, and such calls are not held.
    """
    with lock:
        if on and not observation.stopping:
            observation.gate.close()
        else:
            observation.gate.open()
        stepping = any(each.gate.closed for each in running)
        for name, held in HELD.items():
            before, after = (TWINS[name], held) if stepping else (held, TWINS[name])
            if vars(socket.socket).get(name) is before:
                setattr(socket.socket, name, after)
