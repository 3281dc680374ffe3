"""Why something else came than the right bytes, where that can be told: the mistakes that many make, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..watch.events import Connection
from ..watch.observation import Observation

PART = 100  # bytes that one send() takes at most: a system may do that at any time, and only sendall() goes on
SEND = "send may send a part of the bytes only; it returns how many || sendall sends all of them"
STRIP = "strip() takes white space away: it belongs to what was sent"
LOST = "not all bytes are text, and decode loses some of them: send bytes"
WRITTEN = "str() of bytes is how Python writes them, b'…': send the bytes themselves"
MADE: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (  # hints, and what was made of the right bytes then
    *((STRIP, strip) for strip in (bytes.strip, bytes.lstrip, bytes.rstrip)),
    (LOST, lambda data: data.decode(errors="ignore").encode()),
    (LOST, lambda data: data.decode(errors="replace").encode()),
    (WRITTEN, lambda data: str(data).encode()),
)


def seems(data: bytes, came: bytes, observation: Observation, there: Connection | None, result: Any) -> str:
    """A hint, or "". `data` was expected, and `came`; `there` is the server's end of the connection, and `result` what
    the function has returned that handled it.
    """
    if not came and result is not None:
        return "return ends your function, and sends nothing: send it to the client || conn.sendall"
    if there is not None and not there.sent:
        text = data.decode(errors="replace").strip()
        if text and text in "\n".join(line.text for line in observation.printed()):
            return "print writes on the server's screen only: send it to the client || conn.sendall"
    cut_short = (each for each in observation.log if each.connection is there and each.kind == "send")
    if there is not None and there.sent < there.received and any(each.size == PART for each in cut_short):
        return SEND
    if not came or came == data.removesuffix(b"\n"):
        return ""
    return next((words for words, change in MADE if came == change(data) != data), "")
