"""Keeps streams for a while that have stood in sys.stdout or sys.stderr: another thread may still print to them."""

from __future__ import annotations

import time
from collections import deque
from typing import TypeVar

__all__ = ["keep"]

LONG = 5.0  # seconds: no print takes as long
MANY = 64  # that are kept in any case
_kept: deque[tuple[float, object]] = deque()

Stream = TypeVar("Stream")


def keep(stream: Stream) -> Stream:
    """`stream`, which will live on for a while, whoever lets go of it.

    print() takes sys.stdout without holding on to it. If another thread replaces it meanwhile, and nobody else has it,
    the process crashes (CPython issue 130163; mended in 3.12.10 and 3.13.3, and not in 3.11).
    """
    now = time.monotonic()
    _kept.append((now, stream))
    while len(_kept) > MANY and _kept[0][0] < now - LONG:
        _kept.popleft()
    return stream
