"""One server, looked at again and again: what a live view shows of it, as plain data fit for JSON.

A look costs what has changed since the last one, not what has happened since the server started. Times are seconds
since the first event (`Live.zero`). Lanes are made as the timeline makes them, as far as the eye can follow: a stretch
shorter than `SHORTEST` is not drawn, and of a flood of messages not each gets a mark.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from ..views import backlog, looks, states
from ..views import code as codeview
from ..views.code import SIGNS
from ..views.lanes import BROKEN_OFF, NAME, STOPPED, TICK
from ..views.timeline import quote, selects
from ..watch.events import Address, Connection, Line, SocketEvent
from ..watch.observe import Observation, Task
from ..watch.text import visible

__all__ = ["Live"]

TRAFFIC = 1_000  # events of recv and send between two looks; of more, the newest
SHORTEST = 0.01  # seconds: a stretch that nobody would see
ACCEPTED, IN_RECV, IN_SEND = states.ACCEPTED.words, states.IN_RECV.words, states.IN_SEND.words
PAUSED, WORKS = states.PAUSED.words, states.WORKS.words
MISSED = 0.5  # seconds for which a stranger is not found in the backlog before it is said that it has left
SPACING = 0.02  # seconds between two marks in the same direction on one lane
KEPT = 120.0  # seconds for which a lane that has ended is kept
LANES = 500  # lanes that are kept; of more, those that have ended go first
STRETCHES, MARKS = 200, 100  # that are kept of a lane
LINES, LETTERS = 200, 300  # printed lines that are kept, and letters of each

NEVER = "was never accepted"
TO_SERVER, TO_CLIENT = 0, 1


@dataclass(eq=False)
class LiveLane:
    """One connection as it is shown. Times as in `lanes.Lane`, on the log's clock."""

    number: int
    name: str
    address: Address
    client: Connection | None = None
    server: Connection | None = None
    connecting: float | None = None
    connected: float | None = None
    accepted: float | None = None
    left: float | None = None
    closed: float | None = None
    reset: bool = False
    seen_off: bool = False
    missed: float | None = None  # since when a stranger has not been found in the backlog
    thread: str = ""  # that is at it now, or was last
    used: float | None = None  # when the server's last call on it came back; None: not known
    since: tuple[str, float] | None = None  # the stretch that lasts, if it is another than waiting in recv
    stretches: deque[list[Any]] = field(default_factory=lambda: deque(maxlen=STRETCHES))
    marks: deque[list[Any]] = field(default_factory=lambda: deque(maxlen=MARKS))
    new_stretches: list[list[Any]] = field(default_factory=list)
    new_marks: list[list[Any]] = field(default_factory=list)
    newest: list[float] = field(default_factory=lambda: [-1.0, -1.0])  # when the last mark of each direction was
    facts: dict[str, Any] = field(default_factory=dict)  # as they were shown last

    @property
    def ended(self) -> float | None:
        return self.closed if self.accepted is not None else self.left

    def words(self, stopped: bool) -> str:
        """What is to be said of it now."""
        if self.accepted is None:
            return "left, was never accepted" if self.left is not None else NEVER if stopped else "waits in the backlog"
        said = []
        if self.server is not None and self.server.messages:
            count = self.server.messages
            said.append(f"{count:,} message{'' if count == 1 else 's'}")
        if self.reset:
            said.append("broke off (reset)")
        elif self.seen_off or (self.left is not None and (self.closed is None or self.left <= self.closed)):
            said.append("left")
        elif self.server is not None and self.server.cut_off:
            said.append("cut off: the server was stopped")
        elif self.closed is not None:
            said.append("closed by the server")
        else:
            said.insert(0, self.thread or "accepted")
        return " · ".join(said)


class Live:
    """Looks at the server that `observation` watches. Not for two threads at once."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self.zero: float | None = None
        self._reader = observation.log.reader()
        self._threads = looks.Watch(observation)
        self._backlog = backlog.Watch(observation)
        self._lanes: dict[int, LiveLane] = {}
        self._by_end: dict[Connection, LiveLane] = {}
        self._waiting: dict[Address, list[LiveLane]] = {}  # not accepted, by the client's address
        self._names: dict[Connection, str] = {}  # of the server's ends
        self._given: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._at: dict[str, SocketEvent] = {}  # by thread: its last recv or send
        self._told: set[str] = set()  # threads of which it is told what came after that
        self._touched: set[LiveLane] = set()
        self._begun = False
        self._thinned = False  # not all that has happened was read
        self._selects = False  # as in `Timeline`
        self._now = 0.0
        self._end: float | None = None  # when a look first saw the server being stopped
        self._messages = 0  # of lanes that are kept no longer
        self._lines: deque[list[str]] = deque(maxlen=LINES)
        self._last_line: Line | None = None
        self._gone: list[int] = []  # numbers of lanes that were shown and are kept no longer
        self._parts: dict[str, Any] = {}  # as they were shown last

    def close(self) -> None:
        """Nothing is left to be closed."""

    # -- what is shown -------------------------------------------------------------------------------------------------

    def whole(self) -> dict[str, Any]:
        """All that the last look has shown, for a page that has seen nothing yet."""
        lanes = [
            {**lane.facts, "stretches": list(lane.stretches), "marks": list(lane.marks)}
            for lane in self._lanes.values()
            if lane.facts
        ]
        return {**self._parts, "lanes": lanes, "log": list(self._lines)}

    def look(self) -> dict[str, Any]:
        """What has changed since the last look; "now" is always in it."""
        lines = list(self.observation.lines.copy())  # first: whom they are about is read then
        self.read()
        now = self.observation.log.clock()
        stopped = self.observation.stopping
        if stopped and self._end is None:
            self._end = now
            self._touched.update(self._waiting_lanes())  # nobody will accept them
        if self._end is not None:  # the picture of the end stays, however long it is talked about
            now = self._end
        code = self._threads.look(self._names, stopped)
        if not stopped:
            self._see_what_lasts(now)
        queue = self._backlog.look(self._waiting_lanes())
        self._see_strangers(queue, now)
        log = self._new_lines(lines)
        self._lines.extend(log)
        parts = {
            "words": self._words(queue),
            "code": _code(code),
            "backlog": self._queue(queue),
            "stopped": stopped,
            "thinned": self._thinned,
        }
        changes: dict[str, Any] = {name: part for name, part in parts.items() if part != self._parts.get(name)}
        self._parts = parts
        lanes = self._changed_lanes()
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

    def _words(self, queue: backlog.Backlog) -> str:
        open_lanes = [lane for lane in self._lanes.values() if lane.accepted is not None and lane.closed is None]
        served = sum(not (lane.left or lane.seen_off or lane.reset) for lane in open_lanes)
        messages = self._messages + sum(lane.server.messages for lane in self._lanes.values() if lane.server)
        said = [f"{served:,} served"]
        if queue.listens:
            said.append(f"{len(queue.waiting):,} waiting")
        if queue.broken_off:
            said.append(f"{queue.broken_off:,} broken off")
        return " · ".join([*said, f"{messages:,} message{'' if messages == 1 else 's'}"])

    def _queue(self, queue: backlog.Backlog) -> dict[str, Any]:
        rows: list[list[Any]] = [[name, said, None] for name, said in queue.lines()]
        for row, each in zip(rows, queue.waiting, strict=False):
            lane = next(iter(self._waiting.get(each.client, ())), None)
            if row[0] == each.name and lane is not None:  # else it is the one that says how many more there are
                row[0], row[2] = lane.name, None if lane.connected is None else self._time(lane.connected)
        return {"title": queue.title, "listens": queue.listens, "rows": rows, "notes": list(queue.notes())}

    def _new_lines(self, lines: list[Line]) -> list[list[str]]:
        new: list[list[str]] = []
        for line in reversed(lines):
            if line is self._last_line or len(new) == LINES:
                break
            who = self._names.get(line.connection, "") if line.connection else ""
            new.append([f"{who} ({line.thread})" if who else line.thread, visible(line.text)[:LETTERS]])
        self._last_line = lines[-1] if lines else None
        return new[::-1]

    def _changed_lanes(self) -> list[dict[str, Any]]:
        changed = []
        for lane in sorted(self._touched, key=lambda lane: lane.number):
            facts = self._facts(lane)
            change = {"id": lane.number} | {
                name: fact for name, fact in facts.items() if not lane.facts or fact != lane.facts[name]
            }
            for name, new, kept in (
                ("stretches", lane.new_stretches, lane.stretches),
                ("marks", lane.new_marks, lane.marks),
            ):
                if new:
                    change[name] = list(new)
                    kept.extend(new)
                    new.clear()
            lane.facts = facts
            if len(change) > 1:
                changed.append(change)
        self._touched.clear()
        return changed

    def _facts(self, lane: LiveLane) -> dict[str, Any]:
        times = ("connecting", "connected", "accepted", "left", "ended")
        return {
            "id": lane.number,
            "name": lane.name,
            "words": lane.words(self._end is not None),
            "since": [lane.since[0], self._time(lane.since[1])] if lane.since else None,
            **{name: None if (time := getattr(lane, name)) is None else self._time(time) for name in times},
        }

    def _forget(self, before: float) -> None:
        """Lanes that ended before that time are no longer kept; nor, if there are too many, those that ended first."""
        ended = [(lane.ended, number, lane) for number, lane in self._lanes.items() if lane.ended is not None]
        too_many = len(self._lanes) - LANES
        for position, (time, _, lane) in enumerate(sorted(ended)):
            if position >= too_many and time >= before:
                break
            del self._lanes[lane.number]
            self._touched.discard(lane)
            for end in (lane.client, lane.server):
                if end is not None:
                    self._by_end.pop(end, None)
                    self._names.pop(end, None)
            if lane.server is not None:
                self._messages += lane.server.messages
            self._give_back(lane)
            self._take_from_the_waiting(lane)
            if lane.facts:
                self._gone.append(lane.number)

    # -- what has happened ---------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take in what has happened. Done now and then even if nobody looks, it keeps the next look short."""
        alive = self._alive()
        events = self._reader.read(TRAFFIC if self._begun else None)
        if self._reader.missed:
            # What the threads did in between is not known.
            self._thinned = True
            self._at.clear()
            self._told.clear()
            for lane in self._lanes.values():
                lane.used = None
        if not self._begun and self.observation.log.dropped:
            self._thinned = True
            self._make_up_for_the_dropped(events)
        self._begun = True
        self._selects = selects(self.observation)
        for event in events:
            if self.zero is None:
                self.zero = event.began
            self._enter(event)
        alive |= self._alive()  # of the others, which have ended before, no more events come
        self._at = {thread: event for thread, event in self._at.items() if thread in alive}
        self._told &= alive
        if len(self._lanes) > 2 * LANES:  # nobody has looked for long
            self._forget(0.0)

    def _alive(self) -> set[str]:
        return {task.label for task in self.observation.alive()}

    def _make_up_for_the_dropped(self, events: list[SocketEvent]) -> None:
        """Lanes of open connections whose beginning the log has dropped: it was before the first event."""
        began = {event.connection for event in events if event.kind in ("connect", "accept")}
        ours = {end.client: end for end in self.observation.clients if end not in began}
        accepted = self.observation.accepted.copy()
        self.zero = min((event.began for event in events), default=self.observation.log.clock())
        for address in dict.fromkeys([*accepted, *ours]):
            client, server = ours.get(address), accepted.get(address)
            if server is not None and server.closed:
                continue
            if server in began:  # how it was accepted is still to be read, and finds who waits
                server = None
            if client is None and server is None:
                continue
            lane = self._lane(visible(client.name)[:NAME] if client is not None else "", address)
            lane.client, lane.server = client, server
            if client is not None:
                lane.connected, lane.left = self.zero, self.zero if client.closed else None
                self._by_end[client] = lane
            if server is not None:
                lane.accepted = self.zero
                self._by_end[server], self._names[server] = lane, lane.name
            else:
                self._waiting.setdefault(address, []).append(lane)

    def _enter(self, event: SocketEvent) -> None:
        kind, connection = event.kind, event.connection
        if connection in self._by_end:
            pass  # that it came is known, also of one that was made up
        elif kind == "connect":
            self._client_connected(event)
        elif kind == "accept" and not event.error:
            self._accepted(event)
        lane = self._by_end.get(connection)
        if lane is None:
            return
        self._touched.add(lane)
        if kind == "client close":
            lane.left = event.began  # if it waits, accept will return it all the same
        elif kind in ("close", "shutdown"):
            lane.closed = event.began if lane.closed is None else lane.closed
            lane.since = None
        if kind in ("recv", "send", "close", "shutdown", "pause"):
            self._server_called(lane, event)
        if event.size and kind in (("client send", "client recv") if lane.client is not None else ("recv", "send")):
            to_server = kind in ("client send", "recv")
            self._mark(lane, event.began if kind in ("client send", "send") else event.ended, to_server, event)

    def _lane(self, name: str, address: Address) -> LiveLane:
        number = next(self._numbers)
        name = name or f"client {number}"
        self._given[name] += 1
        if self._given[name] > 1:
            name = f"{name} ({self._given[name]})"
        lane = self._lanes[number] = LiveLane(number, name, address)
        self._touched.add(lane)
        return lane

    def _client_connected(self, event: SocketEvent) -> None:
        end = event.connection
        served = self._lane_of_the_server(end.client, event)
        if served is not None:  # the server's thread was faster, or the kernel was asked in between
            lane = served
            self._rename(lane, visible(end.name)[:NAME])
        else:
            lane = self._lane(visible(end.name)[:NAME], end.client)
            self._waiting.setdefault(end.client, []).append(lane)
        lane.client, lane.connecting, lane.connected = end, event.began, event.ended
        if lane.accepted is not None:
            lane.connected = min(event.ended, lane.accepted)
        self._by_end[end] = lane

    def _lane_of_the_server(self, address: Address, event: SocketEvent) -> LiveLane | None:
        accepted = self.observation.accepted.get(address)
        lane = self._by_end.get(accepted) if accepted is not None else None
        if lane is None:
            lane = next((each for each in self._waiting.get(address, ()) if each.client is None), None)
        fits = lane is not None and lane.client is None and (lane.accepted is None or lane.accepted >= event.began)
        return lane if fits else None

    def _give_back(self, lane: LiveLane) -> None:
        """The name of a client that is not ours will not be given again: it need not be remembered."""
        if lane.client is None and self._given[lane.name] == 1:
            del self._given[lane.name]

    def _rename(self, lane: LiveLane, name: str) -> None:
        self._give_back(lane)
        self._given[name] += 1
        lane.name = name if self._given[name] == 1 else f"{name} ({self._given[name]})"
        if lane.server is not None:
            self._names[lane.server] = lane.name

    def _accepted(self, event: SocketEvent) -> None:
        end = event.connection
        same = self._waiting.get(end.client)
        if same:  # a port may be used again: the first to come is the first to be accepted
            lane = same[0]
            self._take_from_the_waiting(lane)
        else:
            lane = self._lane("", end.client)
            waited = end.waited or 0.0
            if waited > TICK:
                lane.connected = event.ended - waited + TICK
        if lane.connected is not None:  # our client may be told of it later than the server
            lane.connected = min(lane.connected, event.ended)
        lane.server, lane.accepted, lane.used = end, event.ended, None if self._reader.missed else event.ended
        self._by_end[end] = lane
        self._names[end] = lane.name
        self._is_at(event.thread, None)

    def _take_from_the_waiting(self, lane: LiveLane) -> None:
        same = self._waiting.get(lane.address, [])
        if lane in same:
            same.remove(lane)
        if not same:
            self._waiting.pop(lane.address, None)

    def _server_called(self, lane: LiveLane, event: SocketEvent) -> None:
        """A stretch for each thing that the server did, or waited for, long enough to be seen."""
        before = self._at.get(event.thread)
        if before is not None and before.connection is event.connection:
            told = before.kind == "recv" or event.kind in ("recv", "send", "pause")
            if told:
                self._stretch(lane, WORKS, before.ended, event.began)
        elif lane.used is not None:
            self._stretch(lane, ACCEPTED, lane.used, event.began)
        if event.kind == "send":
            self._stretch(lane, IN_SEND, event.began, event.ended)
        elif event.kind == "pause":
            self._stretch(lane, PAUSED, event.began, event.ended)
        elif event.kind == "recv" and not event.size:
            lane.seen_off = lane.seen_off or event.error not in (*BROKEN_OFF, STOPPED)
        lane.reset = lane.reset or event.error in BROKEN_OFF
        lane.used = event.ended
        lane.thread = event.thread or lane.thread
        working = event.kind == "recv" or (event.kind in ("send", "pause") and not self._selects)
        self._is_at(event.thread, event if working else None)

    def _is_at(self, thread: str, event: SocketEvent | None) -> None:
        self._told.discard(thread)
        if event is not None:
            self._at[thread] = event
        else:
            self._at.pop(thread, None)

    def _stretch(self, lane: LiveLane, state: str, begin: float, end: float) -> None:
        if end - begin >= SHORTEST:
            lane.new_stretches.append([state, self._time(begin), self._time(end)])
            del lane.new_stretches[:-STRETCHES]

    def _mark(self, lane: LiveLane, time: float, to_server: bool, event: SocketEvent) -> None:
        direction = TO_SERVER if to_server else TO_CLIENT
        if time - lane.newest[direction] >= SPACING:
            lane.newest[direction] = time
            lane.new_marks.append([self._time(time), direction, quote(event)])
            del lane.new_marks[:-MARKS]

    # -- what lasts ----------------------------------------------------------------------------------------------------

    def _see_what_lasts(self, now: float) -> None:
        """What the server's threads are in at this moment, which no event tells yet."""
        lasting: dict[LiveLane, tuple[str, float] | None] = {}
        calling: dict[LiveLane, list[str]] = {}  # which threads are in a call on it
        for task in self.observation.alive():
            paused, waiting = task.paused, task.waiting  # the thread goes on while we look
            if paused is not None:
                lane, since = self._by_end.get(paused.seen.connection), (PAUSED, paused.began)
            elif waiting is not None:
                lane, since = self._by_end.get(waiting.connection), (IN_RECV, now)
                if lane is not None and not self._see_what_ended(lane, task):
                    since = lane.since or since  # the next look will tell
            else:
                call = task.call
                at = self._at.get(task.label)
                if call is not None and call.kind == "send":
                    lane, since = self._by_end.get(call.seen.connection), (IN_SEND, call.began)
                elif at is not None and call is None:
                    lane, since = self._by_end.get(at.connection), (WORKS, at.ended)
                else:
                    continue
            if lane is not None and lane.closed is None:
                lasting[lane] = since if since[0] != IN_RECV and now - since[1] >= SHORTEST else None
                if since[0] != WORKS:  # that one has left an event
                    calling.setdefault(lane, []).append(task.label)
        for lane, threads in calling.items():
            if lane.thread not in threads:
                lane.thread = threads[0]
                self._touched.add(lane)
        for lane in self._lanes.values():
            if lane.accepted is None or lane.closed is not None:
                continue
            nobody = (ACCEPTED, lane.used) if lane.used is not None and now - lane.used >= SHORTEST else None
            lasts = lasting.get(lane, nobody)
            if lasts != lane.since:
                lane.since = lasts
                self._touched.add(lane)

    def _see_what_ended(self, lane: LiveLane, task: Task) -> bool:
        """The thread waits in recv: what it did before is over, although the event of that recv has not come yet.

        False if the thread is there no longer.
        """
        thread = task.label
        at = self._at.get(thread)
        worked = at is not None and thread not in self._told and at.connection is lane.server
        came = lane.since is not None and lane.since[0] == ACCEPTED
        if not worked and not came:
            return True
        call = task.call
        if call is None or call.seen.connection is not lane.server:
            return False
        if worked and at is not None:
            self._stretch(lane, WORKS, at.ended, call.began)
            self._at[thread] = at._replace(ended=max(at.ended, call.began))
            self._told.add(thread)
        elif lane.since is not None:
            self._stretch(lane, ACCEPTED, lane.since[1], call.began)
        lane.used = max(lane.used or 0.0, call.began)
        self._touched.add(lane)
        return True

    def _waiting_lanes(self) -> list[LiveLane]:
        return [lane for lanes in self._waiting.values() for lane in lanes]

    def _see_strangers(self, queue: backlog.Backlog, now: float) -> None:
        """Clients that are not ours, as long as the kernel has them in the backlog."""
        if not queue.complete:
            return
        there = {each.client for each in queue.waiting}
        for each in queue.waiting:
            before = self._by_end.get(self.observation.accepted.get(each.client, _NOBODY))
            accepted = before is not None and before.accepted is not None and before.accepted >= self._backlog.asked
            if each.client not in self._waiting and not accepted:  # else it was accepted since the kernel was asked
                lane = self._lane("", each.client)
                lane.connected = self._backlog.asked - (each.seconds or 0.0)
                self._waiting.setdefault(each.client, []).append(lane)
        for lane in self._waiting_lanes():
            if lane.client is not None or lane.address in there:
                lane.missed = None
            elif lane.missed is None:
                lane.missed = now  # it may have been accepted, and the record of it is still to come
            elif now - lane.missed > MISSED:
                lane.left = lane.missed
                self._touched.add(lane)
                self._take_from_the_waiting(lane)


_NOBODY = Connection(())


def _code(view: codeview.CodeView) -> dict[str, Any]:
    functions = [
        {
            "name": function.name if "." in function.name else "",
            "lines": [
                None if line is None else [line.text, [_mark(mark) for mark in codeview.crowd(line.marks)]]
                for line in function.shown()
            ],
        }
        for function in view.functions
    ]
    elsewhere = [_mark(mark) for mark in codeview.crowd(view.elsewhere)]
    return {"title": view.title, "functions": functions, "elsewhere": elsewhere}


def _mark(mark: codeview.Mark) -> list[str]:
    return [mark.kind, SIGNS[mark.kind], mark.thread, mark.words]
