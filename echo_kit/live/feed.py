"""One server, looked at again and again: what the stage shows of it, as plain data fit for JSON.

A look costs what has changed since the last one, not what has happened since the server started. Times are seconds
since the first event (`Live.zero`). The lanes are those of `views/lanes.py`, as far as the eye can follow: a stretch
shorter than `SHORTEST` is not sent, and of a flood of messages not each gets a mark. That a thread waits in recv is not
sent either: the page draws it below all else, from the accept to the close.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from ..views import backlog, code, looks
from ..views.lane import Lane
from ..views.lanes import Lanes, Pending, beginnings, pending_calls, room_of, selects
from ..views.states import ACCEPTED, IN_RECV, WORKS, State
from ..views.story import FINISHED, quote
from ..watch.events import Line, SocketEvent
from ..watch.observation import Observation
from ..watch.text import counted, visible

TRAFFIC = 1_000  # calls that moved bytes and are read at one look; of more, the newest
SHORTEST = 0.01  # seconds: a stretch that nobody would see
MISSED = 0.5  # seconds for which a stranger is not found in the backlog before it is said that it has left
SPACING = 0.02  # seconds between two marks in the same direction on one lane
KEPT = 120.0  # seconds for which a lane that has ended is kept
LANES = 500  # lanes that are kept; of more, those that have ended go first
STRETCHES, MARKS = 200, 100  # that are kept of a lane
LINES, LETTERS = 200, 300  # printed lines that are kept, and letters of each

TO_SERVER, TO_CLIENT = 0, 1


@dataclass(eq=False)
class _Sent:
    """What the page has been told of a lane, and what it is to be told."""

    since: tuple[State, float] | None = None  # the stretch that lasts, if it is another than waiting in recv
    missed: float | None = None  # since when a stranger has not been found in the backlog
    stretches: deque[list[Any]] = field(default_factory=lambda: deque(maxlen=STRETCHES))
    marks: deque[list[Any]] = field(default_factory=lambda: deque(maxlen=MARKS))
    new_stretches: deque[list[Any]] = field(default_factory=lambda: deque(maxlen=STRETCHES))
    new_marks: deque[list[Any]] = field(default_factory=lambda: deque(maxlen=MARKS))
    newest: list[float] = field(default_factory=lambda: [-1.0, -1.0])  # when the last mark of each direction was
    facts: dict[str, Any] = field(default_factory=dict)


class Live:
    """Looks at the server that `observation` watches. Not for two threads at once."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self.zero: float | None = None
        self._reader = observation.log.reader()
        self._lanes = Lanes(room_of(observation))
        self._sent: dict[Lane, _Sent] = {}
        self._threads = looks.Watch(observation)
        self._backlog = backlog.Watch(observation)
        self._begun = False
        self._thinned = False  # not all that has happened was read
        self._now = 0.0
        self._end: float | None = None  # when a look first saw the server being stopped
        self._messages = 0  # of lanes that are kept no longer
        self._lines: deque[list[str]] = deque(maxlen=LINES)
        self._last_line: Line | None = None
        self._since = 0.0  # all lanes that ended later are kept, so the page can count them
        self._gone: list[int] = []  # numbers of lanes that were shown and are kept no longer
        self._parts: dict[str, Any] = {}  # as they were shown last

    # -- what is shown -------------------------------------------------------------------------------------------------

    def whole(self) -> dict[str, Any]:
        """All that the last look has shown, for a page that has seen nothing yet."""
        lanes = [
            {**sent.facts, "stretches": list(sent.stretches), "marks": list(sent.marks)}
            for sent in map(self._of, self._lanes.lanes.values())
            if sent.facts
        ]
        return {**self._parts, "lanes": lanes, "log": list(self._lines)}

    def look(self) -> dict[str, Any]:
        """What has changed since the last look; "now" is always in it."""
        lines = self.observation.printout.kept()  # first: whom they are about is read then
        calls = pending_calls(self.observation)  # and what their threads did before them
        self.read()
        now = self.observation.log.clock()
        stopped = self.observation.stopping
        if stopped and self._end is None:
            self._end = now
            self._lanes.touched.update(self._lanes.waiting())  # nobody will accept them
        if self._end is not None:  # the picture of the end stays, however long it is talked about
            now = self._end
        names = {lane.server: lane.name for lane in self._lanes.lanes.values() if lane.server is not None}
        view = self._threads.look(names, stopped)
        if not stopped:
            self._see_what_lasts(calls, now)
        busy = {self._lanes.of(each.connection) for each in calls if each.kind}  # the record of the call is to come
        for lane in self._lanes.touched - busy:
            if lane.closed is not None:
                lane.last(now)
        queue = self._backlog.look(self._lanes.waiting())
        self._see_strangers(queue, now)
        log = self._new_lines(lines)
        self._lines.extend(log)
        parts = {
            "words": self._words(queue),
            "code": _code(view),
            "backlog": self._queue(queue),
            "stopped": stopped,
            "thinned": self._thinned,
            "since": self._since,
        }
        changes: dict[str, Any] = {name: part for name, part in parts.items() if part != self._parts.get(name)}
        self._parts = parts
        lanes = self._changed_lanes()
        # The next look closes these: by then the record of the call has come.
        self._lanes.touched |= {lane for lane in busy if lane is not None and lane.closed is not None}
        self._forget(now - KEPT)
        gone, self._gone = self._gone, []
        changes |= {name: part for name, part in (("log", log), ("lanes", lanes), ("gone", gone)) if part}
        self._now = self._time(now)
        return {**changes, "now": self._now}

    @property
    def now(self) -> float:
        """The time on the clock of the last look."""
        return self._now

    def _time(self, time: float) -> float:
        if self.zero is None:
            self.zero = time
        return round(time - self.zero, 4)

    def _of(self, lane: Lane) -> _Sent:
        return self._sent.setdefault(lane, _Sent())

    def _words(self, queue: backlog.Backlog) -> str:
        lanes = self._lanes.lanes.values()
        served = sum(lane.accepted is not None and not lane.over and lane.left is None for lane in lanes)
        said = [f"{served:,} served"]
        if queue.listens:
            said.append(f"{len(queue.waiting):,} waiting")
        if queue.broken_off:
            said.append(f"{queue.broken_off:,} broken off")
        messages = self._messages + sum(lane.server.messages for lane in lanes if lane.server is not None)
        return " · ".join([*said, counted(messages, "message")])

    def _queue(self, queue: backlog.Backlog) -> dict[str, Any]:
        rows: list[list[Any]] = [[name, said, None] for name, said in queue.lines()]
        for row, each in zip(rows, queue.waiting, strict=False):
            lane = self._lanes.waits(each.client)
            if row[0] == each.name and lane is not None:  # else it is the one that says how many more there are
                row[0], row[2] = lane.name, None if lane.connected is None else self._time(lane.connected)
        count = len(queue.waiting)
        told = (
            count if count <= backlog.TOLD else backlog.TOLD - 1
        )  # the rows of one client each; the page may show less
        queued = {"title": queue.title, "listens": queue.listens, "rows": rows, "notes": list(queue.notes())}
        return {**queued, "told": told, "waiting": count}

    def _new_lines(self, lines: list[Line]) -> list[list[str]]:
        new: list[list[str]] = []
        for line in reversed(lines):
            if line is self._last_line or len(new) == LINES:
                break
            lane = self._lanes.of(line.connection)
            who = f"{lane.name} ({line.thread})" if lane is not None else line.thread
            new.append([who, visible(line.text)[:LETTERS]])
        self._last_line = lines[-1] if lines else None
        return new[::-1]

    def _changed_lanes(self) -> list[dict[str, Any]]:
        self._take_from_the_lanes()
        changed = []
        for lane in sorted(self._lanes.touched, key=lambda lane: lane.number):
            sent, facts = self._of(lane), self._facts(lane)
            change = {"id": lane.number} | {
                name: fact for name, fact in facts.items() if not sent.facts or fact != sent.facts[name]
            }
            for name, new, kept in (
                ("stretches", sent.new_stretches, sent.stretches),
                ("marks", sent.new_marks, sent.marks),
            ):
                if new:
                    change[name] = list(new)
                    kept.extend(new)
                    new.clear()
            sent.facts = facts
            if len(change) > 1:
                changed.append(change)
        self._lanes.touched.clear()
        return changed

    def _facts(self, lane: Lane) -> dict[str, Any]:
        times = ("connecting", "connected", "accepted", "left", "ended")
        since = None if lane.closed is not None else self._of(lane).since
        return {
            "id": lane.number,
            "name": lane.name,
            "words": _words_of(lane, self._end is not None),
            "thread": lane.thread,
            "since": [since[0].name, self._time(since[1])] if since else None,
            **{name: None if (time := getattr(lane, name)) is None else self._time(time) for name in times},
        }

    def _forget(self, before: float) -> None:
        """Lanes that ended before that time are no longer kept; nor, if there are too many, those that ended first."""
        ended = [(lane.ended, number, lane) for number, lane in self._lanes.lanes.items() if lane.ended is not None]
        too_many = len(self._lanes.lanes) - LANES
        for position, (time, _, lane) in enumerate(sorted(ended)):
            if position >= too_many and time >= before:
                break
            self._lanes.forget(lane)
            if lane.server is not None:
                self._messages += lane.server.messages
            sent = self._sent.pop(lane, None)
            if sent is not None and sent.facts:
                self._gone.append(lane.number)
                self._since = max(self._since, self._time(time))

    # -- what has happened ---------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take in what has happened. Done now and then even if nobody looks, it keeps the next look short."""
        alive = self._alive()
        events = self._reader.read(TRAFFIC if self._begun else None)
        if self.zero is None and events:
            self.zero = min(event.began for event in events)
        if not self._begun and self.observation.log.dropped:
            self._thinned = True
            self._lanes.fold(beginnings(self.observation, events), missed=True)
        self._thinned = self._thinned or self._reader.missed
        self._lanes.selects = selects(self.observation)
        self._lanes.fold(events, self._reader.missed)
        self._begun = True
        self._take_from_the_lanes()
        self._lanes.keep_threads(alive | self._alive())  # of the others no more events come
        if len(self._lanes.lanes) > 2 * LANES:  # nobody has looked for long
            self._forget(0.0)

    def _alive(self) -> set[str]:
        return {task.label for task in self.observation.alive()}

    def _take_from_the_lanes(self) -> None:
        """What is new on the lanes goes into what the page is to be told; the lanes keep nothing of it."""
        for lane in self._lanes.touched:
            sent = self._of(lane)
            for state, begin, end, *_ in lane.spans:
                if state is not IN_RECV and end - begin >= SHORTEST:
                    sent.new_stretches.append([state.name, self._time(begin), self._time(end)])
            for event in lane.to_server:
                self._mark(sent, event.began if event.kind == "client send" else event.ended, TO_SERVER, event)
            for event in lane.to_client:
                self._mark(sent, event.began if event.kind == "send" else event.ended, TO_CLIENT, event)
            for each in (lane.spans, lane.to_server, lane.to_client, lane.reads, lane.answers):
                each.clear()

    def _mark(self, sent: _Sent, time: float, direction: int, event: SocketEvent) -> None:
        if time - sent.newest[direction] >= SPACING:
            sent.newest[direction] = time
            sent.new_marks.append([self._time(time), direction, quote(event)])

    # -- what lasts ----------------------------------------------------------------------------------------------------

    def _see_what_lasts(self, calls: list[Pending], now: float) -> None:
        """What the server's threads are in at this moment, which no event tells yet."""
        lasting: dict[Lane, tuple[State, float] | None] = {}
        calling: dict[Lane, list[str]] = {}  # which threads are in a call on it
        for state, begin, _, thread, lane in self._lanes.lasting(calls, now):
            if lane is None:
                continue
            lasting[lane] = (state, begin) if state is not IN_RECV and now - begin >= SHORTEST else None
            if state is not WORKS:  # that one has left an event
                calling.setdefault(lane, []).append(thread)
        for lane, threads in calling.items():
            if lane.thread not in threads:
                lane.thread = threads[0]
                self._lanes.touched.add(lane)
        for lane in self._lanes.lanes.values():
            if lane.accepted is None or lane.closed is not None:
                continue
            nobody = (ACCEPTED, lane.seen) if lane.seen is not None and now - lane.seen >= SHORTEST else None
            lasts, sent = lasting.get(lane, nobody), self._of(lane)
            if lasts != sent.since:
                sent.since = lasts
                self._lanes.touched.add(lane)

    def _see_strangers(self, queue: backlog.Backlog, now: float) -> None:
        """Clients that are not ours, as long as the kernel has them in the backlog."""
        if not queue.complete:
            return
        there = {each.client for each in queue.waiting}
        for each in queue.waiting:
            arrived = self._backlog.asked - (each.seconds or 0.0)
            self._lanes.sight(each.client, arrived, self.observation.accepted.get(each.client))
        for lane in self._lanes.waiting():
            sent = self._of(lane)
            if lane.client is not None or lane.address in there:
                sent.missed = None
            elif sent.missed is None:
                sent.missed = now  # it may have been accepted, and the record of it is still to come
            elif now - sent.missed > MISSED:
                lane.left = sent.missed
                self._lanes.touched.add(lane)
                self._lanes.no_longer_waits(lane)


def _words_of(lane: Lane, stopped: bool) -> str:
    """What is to be said of a lane now."""
    if lane.accepted is None:
        never = "was never accepted"
        return f"left, {never}" if lane.left is not None else never if stopped else "waits in the backlog"
    messages = lane.server.messages if lane.server is not None else 0
    said = [counted(messages, "message")] if messages else []
    said += [FINISHED] if lane.finished is not None else []
    ending = lane.ending()
    return " · ".join([*said, ending] if ending else [lane.thread or "accepted", *said])


def _code(view: code.CodeView) -> dict[str, Any]:
    functions = [
        {
            "name": function.name if "." in function.name else "",
            "lines": [
                None if line is None else [line.text, [_mark(mark) for mark in _crowd(line.marks)]]
                for line in function.shown()
            ],
        }
        for function in view.functions
    ]
    elsewhere = [_mark(mark) for mark in _crowd(view.elsewhere)]
    return {"title": view.title, "functions": functions, "elsewhere": elsewhere}


def _crowd(marks: tuple[code.Mark, ...]) -> list[code.Mark]:
    """The marks of one line: threads that do the same there are counted, if many; those that differ are named."""
    alike: defaultdict[tuple[str, str], list[code.Mark]] = defaultdict(list)
    for mark in marks:
        alike[mark.kind, _of_anybody(mark)].append(mark)
    counts = [
        code.Mark(kind, "", f"{len(same):,} threads: each {'is ' if kind == code.PAUSED else ''}{words}")
        for (kind, words), same in alike.items()
        if len(same) > code.CROWD
    ]
    few = {id(mark) for same in alike.values() if len(same) <= code.CROWD for mark in same}
    return counts + code.crowd(tuple(mark for mark in marks if id(mark) in few))


def _of_anybody(mark: code.Mark) -> str:
    """What is said of a thread, whichever client it serves."""
    before, client, after = mark.words.rpartition(f" {mark.client}") if mark.client else (mark.words, "", "")
    return f"{before} its client{after}" if client else mark.words


def _mark(mark: code.Mark) -> list[str]:
    return [mark.kind, code.SIGNS[mark.kind], mark.thread, mark.words]
