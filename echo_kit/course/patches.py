"""What a check changes in the interpreter, for a moment: each a context manager that changes it back."""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from ..watch.frames import is_student_code


@contextlib.contextmanager
def _for_now(change: Callable[[Any], object], now: Any, then: Any) -> Iterator[None]:
    change(now)
    try:
        yield
    finally:
        change(then)


def no_default_timeout() -> contextlib.AbstractContextManager[None]:
    """Undoes what a student's code says with `socket.setdefaulttimeout`, which holds for all sockets made later."""
    return _for_now(socket.setdefaulttimeout, None, socket.getdefaulttimeout())


def silent_ends(expected: Callable[[threading.ExceptHookArgs], bool]) -> contextlib.AbstractContextManager[None]:
    """Threads that die of something `expected` do so without a word."""
    plain = threading.excepthook

    def hook(died: threading.ExceptHookArgs) -> None:
        if not expected(died):
            plain(died)

    return _for_now(functools.partial(setattr, threading, "excepthook"), hook, plain)


def turns_after_each_instruction() -> contextlib.AbstractContextManager[None]:
    """The calling thread lets another one run after each instruction of the student's code: races are then lost."""
    return _for_now(sys.settrace, take_turns, None)


def take_turns(frame: FrameType, event: str, arg: object) -> Any:
    if not is_student_code(frame):
        return None
    frame.f_trace_opcodes = True
    if event == "opcode":
        time.sleep(0)  # gives the interpreter lock to a thread that waits for it
    return take_turns
