"""How a thread waits before a call that may block for ever: a stop, Ctrl+C and a close of the socket reach it."""

from __future__ import annotations

import errno
import functools
import os
import socket

from .observation import Observed, ServerStopped, current_task


def wait(seen: Observed, sock: socket.socket, timeout: float | None, kernels: float | None = None) -> None:
    """Wait as a read of `sock` with that timeout would, and also for the server's stop, or Ctrl+C.

    kernels  a timeout that the system has for it, where Python has none
    """
    observation, task = seen.observation, current_task()
    while True:
        awaited = open_part(seen, sock, timeout)
        if timeout == 0 or awaited.fileno() == -1 or observation.stopping:
            return  # the real call returns at once
        changed = functools.partial(_changed, seen, sock, timeout, awaited)
        try:
            with observation.alarm.waiting(seen):
                interrupted = observation.alarm.wait(awaited, timeout or kernels, task, changed)
        except TimeoutError:
            if kernels is not None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
            raise
        except Exception as trouble:
            observation.trouble = trouble
            return  # the real call says what is wrong, or waits
        if interrupted:
            raise ServerStopped
        if not changed():
            return


def _changed(seen: Observed, sock: socket.socket, timeout: float | None, before: socket.socket) -> bool:
    """Whether to wait for something else now, or no longer."""
    return seen.observation.stopping or open_part(seen, sock, timeout) is not before


def open_part(seen: Observed, sock: socket.socket, timeout: float | None) -> socket.socket:
    """What a call that may block for ever is made on: `sock`, or what is kept open of it (see `duplicate`)."""
    return sock if seen.held is None or timeout is not None else seen.held
