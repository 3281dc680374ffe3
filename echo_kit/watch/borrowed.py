"""What of CPython's private names is used: read in CPython 3.11, 3.12 and 3.13. Where a name is gone, the package still
works; each row says what is lost then, and a test looks for each name.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread as pool
import ctypes
import functools
import threading
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

__all__ = ["before_exit", "idle_worker", "pool_workers", "raise_in", "threads"]

# Ident -> thread. `current_thread()` would make, and keep, a dummy for a thread that `threading` does not know; without
# the name, it does.
threads: Mapping[int, threading.Thread] | None = getattr(threading, "_active", None)

# The workers of all thread pools. Without it, a pool that is older than the server serves unseen.
pool_workers: Mapping[Any, Any] = getattr(pool, "_threads_queues", {})

# What a worker without work runs. Without it, stop() waits for such a worker, in vain.
idle_worker: CodeType | None = getattr(getattr(pool, "_worker", None), "__code__", None)

_raise: Callable[..., int] | None = getattr(getattr(ctypes, "pythonapi", None), "PyThreadState_SetAsyncExc", None)


def raise_in(ident: int, exception: type[BaseException]) -> None:
    """Raise `exception` in the thread at its next Python instruction. Without the name, stop() only asks."""
    if _raise is not None:
        _raise(ctypes.c_ulong(ident), ctypes.py_object(exception))


@functools.cache
def before_exit(call: Callable[[], None]) -> None:
    """Have `call` made, once, before the interpreter waits for its threads, also for the pools' (whose hook was made
    first, and runs later). Of several, the last one registered comes first. Without the name: only after it has waited.
    """
    getattr(threading, "_register_atexit", atexit.register)(call)
