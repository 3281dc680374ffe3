"""A timeline as a Chrome trace, for ui.perfetto.dev and chrome://tracing.

The format is Google's "Trace Event Format": complete events ("X") with a time and a duration in microseconds, instant
events ("i"), counters ("C") and metadata ("M"). Clients are the threads of one "process", the server's threads those of
another. Ids of threads start at 100: one that equals its process's id would be taken for its main thread.

Perfetto refuses a character beyond U+FFFF that is written as two escapes, which JSON allows: so it is UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from .events import visible
from .timeline import BACKLOG, Span, Timeline, quote

__all__ = ["events", "save"]

CLIENTS, THREADS, FIRST_ID = 1, 2, 100


def save(timeline: Timeline, path: str | PathLike[str]) -> None:
    """Write it to `path` as JSON. OSError if that cannot be written."""
    trace = {"traceEvents": list(events(timeline)), "displayTimeUnit": "ms"}
    Path(path).write_text(json.dumps(trace, ensure_ascii=False), encoding="utf-8")


def events(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """The trace's events; 0 is when the first client came."""
    server = visible(timeline.server)
    for order, (process, who) in enumerate(((CLIENTS, "clients"), (THREADS, "threads"))):
        yield _about("process_name", process, FIRST_ID, name=f"{who} of {server}")
        yield _about("process_sort_index", process, FIRST_ID, sort_index=order)
    for number, lane in enumerate(timeline.lanes, FIRST_ID):
        yield from _lane(CLIENTS, number, lane.name)
        yield from _complete(timeline, timeline.spans[lane.name], CLIENTS, number)
        for verb, messages in (("sends", lane.to_server), ("is answered", lane.answers)):
            for message in messages:
                at, args = _at(timeline, message.began), {"bytes": message.size}
                yield {"ph": "i", "s": "t", "name": f"{verb} {quote(message)}", "cat": "message", "args": args} | {
                    "pid": CLIENTS, "tid": number, "ts": at / 1000
                }  # fmt: skip
    for number, (label, spans) in enumerate(timeline.thread_spans.items(), FIRST_ID):
        yield from _lane(THREADS, number, label)
        yield from _complete(timeline, spans, THREADS, number)
    waiting = 0
    for moment, change in sorted(_changes(timeline)):
        waiting += change
        yield {"ph": "C", "name": "in the backlog", "pid": CLIENTS, "ts": moment / 1000, "args": {"clients": waiting}}


def _lane(pid: int, tid: int, name: str) -> Iterator[dict[str, Any]]:
    yield _about("thread_name", pid, tid, name=name)
    yield _about("thread_sort_index", pid, tid, sort_index=tid)


def _about(kind: str, pid: int, tid: int, **args: str | int) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}


def _at(timeline: Timeline, time: float) -> int:
    """Nanoseconds since the first client came: whole numbers, so that neighbours touch and never overlap."""
    return round((time - timeline.start) * 1e9)


def _complete(timeline: Timeline, spans: Iterable[Span], pid: int, tid: int) -> Iterator[dict[str, Any]]:
    for state, begin, end, thread, client in spans:
        start = _at(timeline, begin)
        args = {key: value for key, value in (("thread", thread), ("client", client)) if value}
        name = f"{state}: {client}" if pid == THREADS and client else state
        timing = {"ts": start / 1000, "dur": (_at(timeline, end) - start) / 1000}
        yield {"ph": "X", "name": name, "cat": "socket", "pid": pid, "tid": tid, "args": args} | timing


def _changes(timeline: Timeline) -> Iterator[tuple[int, int]]:
    for spans in timeline.spans.values():
        for span in spans:
            if span.state == BACKLOG:
                yield _at(timeline, span.begin), 1
                yield _at(timeline, span.end), -1
