"""What happened, when: one lane a client, or one a thread, made from the recorded events; as data, text and picture.

The text form has no times, ports or ids: it tells the same story in every run, so that it can be compared.
"""

from __future__ import annotations

import codecs
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any, NamedTuple, TypeVar

from ..watch.events import Connection, SocketEvent
from ..watch.observation import Call, Observation, Task, current_task
from ..watch.patches import collector_paused
from ..watch.text import visible
from .lanes import Lane, lanes_of

__all__ = ["Shown", "Span", "Threads", "Timeline", "Timelines", "stacked"]

SHOWN = 6  # messages of a lane that the text names one by one
QUOTED = 24  # characters of a message that are shown
TOLD = 200  # lines of the text: thousands help nobody, and are saved twice with the picture

# What a stretch of a lane is. The last four are what is seen of a client's thread, the last five of any thread.
CONNECTING = "connecting"
BACKLOG = "waits in the backlog"
ACCEPTED = "accepted, no thread is seen at it"
IN_ACCEPT = "thread waits in accept"
IN_RECV = "server waits in recv"
WORKS = "server works"
IN_SEND = "server waits in sendall"
PAUSED = "thread is paused, step by step"


class Span(NamedTuple):
    """A stretch of a lane, in seconds of the log's clock. `client` is the name of the client's lane, if any."""

    state: str
    begin: float
    end: float
    thread: str = ""
    client: str = ""


class Pending(NamedTuple):
    """A call that has not come back, or before which a thread is held: which thread, and on which connection."""

    thread: str
    kind: str  # accept, recv or send, or pause; "" for none that is known
    connection: Connection | None
    began: float
    call: str = ""  # before which it is held


class Shown:
    """Shows itself in a notebook: a picture, and the text beside it."""

    def figure(self, dark: bool = False) -> Any:
        """A matplotlib Figure, to be saved or to be changed."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        from .draw_timeline import png

        with collector_paused():
            data, width, height = png(self.figure())
            text = str(self)
        return {"text/plain": text, "image/png": data}, {"image/png": {"width": width, "height": height, "alt": text}}


@dataclass(eq=False)
class Timeline(Shown):
    """What happened at one server until `now`. Times are seconds of the log's clock; `start` is when the first came."""

    server: str
    lanes: tuple[Lane, ...]
    start: float
    now: float
    stopped: bool  # the server no longer listens
    dropped: int  # events that the log could not keep
    events: list[SocketEvent] = field(default_factory=list)
    pending: tuple[Pending, ...] = ()
    window: tuple[float, float] | None = None  # what `zoom` shows, in seconds since `start`
    others: int = 0  # lanes that `zoom` leaves out
    selects: bool = False  # between its calls the server may wait in select, poll or kqueue, which leaves no record

    @classmethod
    def of(cls, observation: Observation) -> Timeline:
        pending = tuple(_pending(task, task.call) for task in observation.alive())
        here = current_task()
        if here is not None and here.observation is observation:  # one of its threads asks
            pending += (Pending(here.label, "", None, 0.0),)
        with collector_paused():
            events = list(observation.log)
            now = observation.log.clock()
            lanes = tuple(lanes_of(observation, events))
        starts = [
            time for lane in lanes for time in (lane.connecting, lane.connected, lane.accepted) if time is not None
        ]
        if observation.stopping:  # a stopped server's picture ends with its last event
            now, pending = max((event.ended for event in events), default=now), ()
        stopped = observation.stopping or not any(observation.sockets(listening=True))
        dropped = observation.log.dropped
        start = min(starts, default=now)
        return cls(observation.name, lanes, start, now, stopped, dropped, events, pending, selects=selects(observation))

    def zoom(
        self, begin: float | None = None, end: float | None = None, clients: str | Collection[str] | None = None
    ) -> Timeline:
        """A part of it: from `begin` to `end` (seconds since the first client came), or only some clients.

        Raises ValueError for a client that is not there, and for an `end` that is not after `begin`.
        """
        whole = self.window or (0.0, self.now - self.start)
        window = (whole[0] if begin is None else float(begin), whole[1] if end is None else float(end))
        if (begin is not None or end is not None) and not window[0] < window[1]:
            raise ValueError(
                f"zoom() goes from an earlier time to a later one, not from {window[0]:g} to {window[1]:g} s"
            )
        if not math.isfinite(window[1] - window[0]):
            raise ValueError(f"zoom() needs times in seconds, not {window[0]:g} and {window[1]:g}")
        asked = [clients] if isinstance(clients, str) else clients
        names = [lane.name for lane in self.lanes]
        unknown = [name for name in asked or () if name not in names]
        if unknown:
            raise ValueError(f"there is no client {unknown[0]!r} here; there are: {_list(names) or 'none'}")
        lanes = tuple(
            lane
            for lane in self.lanes
            if (asked is None or lane.name in asked) and ((begin is None and end is None) or self._is_in(lane, window))
        )
        cut = None if begin is None and end is None and self.window is None else window
        return replace(self, lanes=lanes, window=cut, others=self.others + len(self.lanes) - len(lanes))

    def _is_in(self, lane: Lane, window: tuple[float, float]) -> bool:
        times = [each for each in (lane.connecting, lane.connected, lane.accepted) if each is not None]
        ended = lane.ended if lane.ended is not None else self.now
        return min(times, default=self.now) - self.start <= window[1] and ended - self.start >= window[0]

    def waited_for(self, lane: Lane) -> list[str]:
        """Whom a client waits for: those whom the one thread that accepts is serving. Or had to wait for: those with
        whom that thread was done when it accepted this one. (A loop over `select` accepts at once, and is not done.)
        """
        if lane.connected is None:
            return []
        until = self.now if lane.accepted is None else lane.accepted
        return [
            other.name
            for other in self.lanes
            if other is not lane
            and other.accepted is not None
            and other.accepted < until
            and other.accepter in other.threads
            and (lane.accepted is None or lane.accepter == other.accepter)
            and (other.gone is None or other.gone > lane.connected)
            and (not other.over if lane.accepted is None else other.over and other.last_used <= lane.accepted)
        ]

    def story(self, lane: Lane) -> str:
        """The lane in words."""
        said = ["connected"] if lane.connected is not None else []
        others = _list(self.waited_for(lane))
        if lane.accepted is not None:
            if others:
                said.append(f"waited in the backlog for {others}")
            said.append("accepted")
            if lane.threads:
                threads = [f"the {each}" if each == "server thread" else each for each in lane.threads]
                said.append(f"served by {_list(threads)}")
        elif lane.left is not None or self.stopped:
            said.append("was never accepted")
        else:
            said.append("waits in the backlog" + (f" behind {others}" if others else ""))
        said += _messages(lane)
        return " · ".join(said + _ending(lane))

    @property
    def title(self) -> str:
        count = f"{len(self.lanes):,}" + (f" of {len(self.lanes) + self.others:,}" if self.others else "")
        title = f"{visible(self.server)}: {count} connection{'' if len(self.lanes) + self.others == 1 else 's'}"
        return f"{title}, from {self.window[0]:g} s to {self.window[1]:g} s" if self.window else title

    def __str__(self) -> str:
        lines = [self.title]
        width = max((len(lane.name) for lane in self.lanes), default=0)
        told = _shortened(self.lanes, lambda lane: f"{lane.name:<{width}}  {self.story(lane)}", TOLD)
        lines += [f"  {line}" for line in told]
        if self.dropped:
            lines.append(f"  (the log was full: the oldest {self.dropped:,} events are missing)")
        return "\n".join(lines)

    __repr__ = __str__

    def table(self) -> list[dict[str, Any]]:
        """One row a client, fit for `pandas.DataFrame`: seconds waited in the backlog, seconds served (until now, if
        they last), of these the seconds in which the server worked for it or sent to it; messages, bytes, threads.
        """
        rows = []
        for lane in self.lanes:
            over = lane.ended if lane.ended is not None else self.now
            accepted = lane.accepted if lane.accepted is not None else over
            end = lane.client_then or lane.server_then or Connection(())
            sent, back = _moved(lane)
            busy = sum(end - begin for state, begin, end, _, _ in self.spans[lane.name] if state in (WORKS, IN_SEND))
            rows.append(
                {
                    "client": lane.name,
                    "seconds waited": max(0.0, accepted - lane.connected) if lane.connected is not None else None,
                    "seconds served": max(0.0, over - accepted) if lane.accepted is not None else 0.0,
                    "seconds busy": busy,
                    "messages": end.messages,
                    "bytes sent": sent,
                    "bytes back": back,
                    "threads": ", ".join(lane.threads),
                }
            )
        return rows

    def calls(self) -> list[dict[str, Any]]:
        """One row a socket call, fit for `pandas.DataFrame`: when it began (seconds since the first client came), how
        long it took, whose it was, how many bytes it moved and the first of them, the exception that it raised.
        """
        names = {end: lane.name for lane in self.lanes for end in (lane.client, lane.server) if end is not None}
        return [
            {
                "seconds": event.began - self.start,
                "took": event.ended - event.began,
                "client": names[event.connection],
                "thread": event.thread,
                "call": event.kind,
                "bytes": event.size,
                "data": event.data,
                "error": event.error,
            }
            for event in self.events
            if event.connection in names and event.kind != "pause" and self._shows(event)
        ]

    def _shows(self, event: SocketEvent) -> bool:
        if self.window is None:
            return True
        return event.ended - self.start >= self.window[0] and event.began - self.start <= self.window[1]

    @cached_property
    def spans(self) -> dict[str, list[Span]]:
        """The stretches of each client's lane, by its name, in the order in which they began."""
        with collector_paused():
            return {lane.name: list(self._lane_spans(lane)) for lane in self.lanes}

    def _lane_spans(self, lane: Lane) -> Iterator[Span]:
        if lane.connecting is not None and lane.connected is not None:
            yield Span(CONNECTING, lane.connecting, lane.connected, client=lane.name)
        over = lane.ended if lane.ended is not None else self.now
        accepted = lane.accepted if lane.accepted is not None else over
        if lane.connected is not None and accepted > lane.connected:
            yield Span(BACKLOG, lane.connected, accepted, client=lane.name)
        if lane.accepted is None or lane.server is None:
            return
        at = max(lane.connected or accepted, accepted)  # our client may be told of it later than the server
        for span in self._thread_spans[1].get(lane.server, ()):
            begin, end = span.begin, span.end
            if begin >= over:
                break  # its thread came to know of the end after others had closed the socket
            if begin < at or end > over:
                begin, end = max(begin, at), min(end, over)
                span = span._replace(begin=begin, end=end)
            if begin > at:
                yield Span(ACCEPTED, at, begin, client=lane.name)
            if end > begin:
                yield span
                at = end
        if over > at:
            yield Span(ACCEPTED, at, over, client=lane.name)

    @cached_property
    def thread_spans(self) -> dict[str, list[Span]]:
        """What each of the server's threads did, by its label."""
        first = {label: number for number, label in enumerate(self._thread_spans[0])}
        return dict(sorted(self._thread_spans[0].items(), key=lambda each: (_numbered(each[0]), first[each[0]])))

    @cached_property
    def _thread_spans(self) -> tuple[dict[str, list[Span]], dict[Connection, list[Span]]]:
        """The same stretches twice: by thread, and by connection.

        That a thread works for a client is seen from its calls: after a recv or a send has come back, until the same
        thread's next call, if that is on the same connection. (Of a server that selects, only after a recv.) Of what
        came before a call, what the thread was held for, step by step, is no work.
        """
        names = {lane.server: lane.name for lane in self.lanes if lane.server is not None}
        by_thread: defaultdict[str, list[Span]] = defaultdict(list)
        by_connection: defaultdict[Connection, list[Span]] = defaultdict(list)
        at: dict[str, SocketEvent | None] = {}  # by thread: its last call, if that was a recv or a send; or its pause
        states = {"accept": IN_ACCEPT, "recv": IN_RECV, "send": IN_SEND, "pause": PAUSED, "close": "", "shutdown": ""}
        working = ("recv", "pause") if self.selects else ("recv", "send", "pause")
        new = tuple.__new__  # half the time of Span(…), of which there may be hundreds of thousands
        for event in self.events:
            kind, began, ended, connection, thread, _, _, _ = event
            if not thread or kind not in states:
                continue
            mine, name = by_thread[thread], names.get(connection, "")
            before = at.get(thread)
            # From a send until a close it may have been in a recv that a stop has ended: such a one leaves no record.
            told = before is not None and (before.kind in ("recv", "pause") or kind in ("recv", "send", "pause"))
            if before is not None and told and before.connection is connection and began > before.ended:
                works = new(Span, (WORKS, before.ended, began, thread, name))
                mine.append(works)
                by_connection[connection].append(works)
            if kind == "accept":
                mine.append(Span(IN_ACCEPT, began, ended, thread))
            elif states[kind]:
                span = new(Span, (states[kind], began, ended, thread, name))
                mine.append(span)
                by_connection[connection].append(span)
            at[thread] = event if kind in working and (name or kind != "pause") else None
        for thread, kind, pending_on, began, _ in self.pending:
            mine = by_thread[thread]
            before = at.get(thread)
            if before is not None and pending_on in (before.connection, None):
                until = began if kind else self.now
                works = Span(WORKS, before.ended, until, thread, names.get(before.connection, ""))
                mine.append(works)
                by_connection[before.connection].append(works)
            if kind:
                name = names.get(pending_on, "") if pending_on is not None else ""
                span = Span(states[kind], began, self.now, thread, "" if kind == "accept" else name)
                mine.append(span)
                if pending_on is not None and kind != "accept":
                    by_connection[pending_on].append(span)
        return by_thread, by_connection

    def by_thread(self) -> Threads:
        """The same run, one lane a thread: what each did, for whom, and where it waited."""
        return Threads(self)

    def figure(self, dark: bool = False) -> Any:
        """A matplotlib Figure, to be saved or to be changed."""
        from .draw_timeline import timeline_figure

        return timeline_figure([self], dark=dark)


class Threads(Shown):
    """A timeline with one lane a thread."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def __str__(self) -> str:
        timeline = self.timeline
        stories = self._stories()
        count = f"{len(stories):,} thread{'' if len(stories) == 1 else 's'}"
        width = max(map(len, stories), default=0)
        told = _shortened(list(stories.items()), lambda each: f"{each[0]:<{width}}  {each[1]}", TOLD)
        lines = [f"  {line}" for line in told]
        return "\n".join([f"{visible(timeline.server)}: {count}", *lines])

    __repr__ = __str__

    def _stories(self) -> dict[str, str]:
        """What each thread did, in words: whom it accepted and served, and what it is in now."""
        timeline = self.timeline
        names = {lane.server: lane.name for lane in timeline.lanes if lane.server is not None}
        told: dict[str, list[str]] = {label: [] for label in timeline.thread_spans}
        for event in timeline.events:
            if event.thread in told and event.connection in names and event.kind in ("accept", "recv", "send"):
                mine, name = told[event.thread], names[event.connection]
                words = f"accepted {name}" if event.kind == "accept" else f"served {name}"
                if not mine or mine[-1] != words:
                    mine.append(words)
        now = {}
        for pending in timeline.pending:
            name = names.get(pending.connection, "its client") if pending.connection else ""
            whom = {"recv": f" for {name}", "send": f" to {name}", "sendall": f" to {name}"}
            whom["close"] = f" of {name}'s connection" if pending.connection in names else " of the listening socket"
            doing = {
                "accept": "waits in accept",
                "recv": f"waits in recv for {name}",
                "send": f"is in sendall to {name}",
                "pause": f"is paused before {pending.call}{whom.get(pending.call, '')}",
            }
            now[pending.thread] = doing.get(pending.kind, "is in no call that is recorded")
        return {label: " · ".join([*_shortened(mine), now.get(label, "ended")]) for label, mine in told.items()}

    def figure(self, dark: bool = False) -> Any:
        """A matplotlib Figure, to be saved or to be changed."""
        from .draw_timeline import threads_figure

        return threads_figure(self.timeline, dark=dark)


class Timelines(Shown, tuple[Timeline, ...]):
    """Several timelines in one picture with the same scale: side by side, or on one axis."""

    one_axis = False

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__

    def figure(self, dark: bool = False) -> Any:
        """A matplotlib Figure, to be saved or to be changed."""
        from .draw_timeline import stacked_figure, timeline_figure

        return stacked_figure(self, dark=dark) if self.one_axis else timeline_figure(self, dark=dark)


def stacked(*timelines: Timeline) -> Timelines:
    """Several servers on one time axis: what happened at the same moment stands above one another.

    Raises TypeError for anything but timelines, and for none at all.
    """
    if not timelines or not all(isinstance(each, Timeline) for each in timelines):
        given = ", ".join(type(each).__name__ for each in timelines) or "nothing"
        raise TypeError(f"stacked() takes timelines, not {given}")
    together = Timelines(timelines)
    together.one_axis = True
    return together


# -- words -----------------------------------------------------------------------------------------------------------


def quote(event: SocketEvent) -> str:
    """The beginning of a message, in quotation marks, with its size where it is cut."""
    whole = event.size <= len(event.data)  # else the last character may be cut: leave that out
    text = visible(codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(event.data, final=whole))
    if len(text) <= QUOTED and whole:
        return f'"{text}"'
    return f'"{text[:QUOTED]}…" ({event.size:,} bytes)'


def _moved(lane: Lane) -> tuple[int, int]:
    """How many bytes went to the server and came back, as the client knows, or else the server."""
    server = lane.server_then or Connection(())
    return (lane.client_then.sent, lane.client_then.received) if lane.client_then else (server.received, server.sent)


def _messages(lane: Lane) -> list[str]:
    """What became of each message; of many, of the first few and the last."""
    sent = b"".join(event.data for event in lane.to_server)
    back = b"".join(event.data for event in lane.to_client)
    whole = (len(sent), len(back)) == _moved(lane)  # the records have all of the bytes
    if whole and not sent.startswith(back):  # no echo: tell both sides
        return _shortened(_both_sides(lane), lambda told: f"{told[0]} {quote(told[1])}")
    ends = list(accumulate(event.size for event in lane.to_server))
    before = _moved(lane)[0] - (ends[-1] if ends else 0)  # what the log has dropped
    return _shortened(
        list(zip(lane.to_server, ends, strict=True)),
        lambda told: f"{quote(told[0])} {_fate(lane, told[0].size, before + told[1])}",
    )


def _both_sides(lane: Lane) -> list[tuple[str, SocketEvent]]:
    """("sent" or "got", message), in their order. In how many pieces an answer comes is no fact: they are joined."""
    told = [(event.began, "sent", event) for event in lane.to_server]
    told += [(event.ended, "got", event) for event in lane.to_client]
    joined: list[tuple[str, SocketEvent]] = []
    for verb, group in groupby(sorted(told, key=lambda each: each[0]), key=lambda each: each[1]):
        events = [event for _, _, event in group]
        if verb == "got":
            data = b"".join(event.data for event in events)
            events = [events[0]._replace(size=sum(event.size for event in events), data=data)]
        joined += [(verb, event) for event in events]
    return joined


def _fate(lane: Lane, size: int, end: int) -> str:
    """What became of a message of `size` bytes that ends with the client's byte number `end`."""
    position, returned = end - size, _moved(lane)[1]
    read, answered = (lane.server_then.received, lane.server_then.sent) if lane.server_then else (0, 0)
    if returned >= end:
        return "echoed"
    if returned > position:
        return f"{returned - position:,} of {size:,} bytes echoed"
    if answered > position:
        return "answered, and the client has not read it yet"
    if read >= end:
        return "read, not answered"
    return f"{read - position:,} of {size:,} bytes read" if read > position else "unread"


Told = TypeVar("Told")


def _shortened(told: Sequence[Told], words: Callable[[Told], str] = str, limit: int = SHOWN) -> list[str]:
    """Each in words; of more than `limit`, the first ones, how many more, and the last."""
    if len(told) <= limit:
        return [words(each) for each in told]
    return [*(words(each) for each in told[: limit - 2]), f"… {len(told) - limit + 1:,} more …", words(told[-1])]


def _ending(lane: Lane) -> list[str]:
    if lane.reset:
        return ["broke off (reset)"]
    if lane.seen_off is not None or (lane.left is not None and (lane.closed is None or lane.left <= lane.closed)):
        return ["left"]
    if lane.server_then is not None and lane.server_then.cut_off:
        return ["cut off: the server was stopped"]
    if lane.closed is not None:
        return ["broken off by the server (reset)" if lane.rejected else "closed by the server"]
    return []


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def selects(observation: Observation) -> bool:
    """Whether the student's functions call select, poll or (of kqueue, on macOS) control: they may wait there."""
    waits = {"select", "poll", "control"}
    return any(waits & {*code.co_names} for code in observation.functions.copy())


def _pending(task: Task, call: Call | None) -> Pending:
    held = task.paused
    if held is not None:
        name = "recv" if held.kind == "recv" else held.name
        return Pending(task.label, "pause", held.seen.connection, held.began, name)
    if call is not None:
        return Pending(task.label, call.kind, call.seen.connection, call.began)
    return Pending(task.label, "", None, 0.0)


def _numbered(label: str) -> tuple[int, int]:
    """Sorts "server thread" first, then "thread 2" before "thread 10", then those with names of their own."""
    kind, _, number = label.rpartition(" ")
    if label == "server thread":
        return 0, 0
    return (1, int(number)) if kind == "thread" and number.isdigit() else (2, 0)
