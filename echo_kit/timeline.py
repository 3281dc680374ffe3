"""What happened, when: one lane a connection, made from the recorded events; as data, as text, as a picture.

The text form has no times, ports or ids: it tells the same story in every run, so that it can be compared.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .events import Address, Connection, SocketEvent, visible
from .observe import Observation

__all__ = ["Lane", "Timeline", "Timelines", "side_by_side"]

SHOWN = 6  # messages of a lane that the text names one by one
QUOTED = 24  # characters of a message that are shown


@dataclass(eq=False)
class Lane:
    """One connection. Times are seconds of the log's clock; None: it has not happened, or nobody could see it."""

    name: str
    client: Connection | None = None  # our own client's end
    server: Connection | None = None  # the end that the server accepted
    connecting: float | None = None
    connected: float | None = None
    accepted: float | None = None
    accepter: str = ""
    threads: list[str] = field(default_factory=list)  # that read from it or wrote to it, or are about to
    left: float | None = None  # the client closed
    seen_off: float | None = None  # the server read the end of file
    reset: bool = False
    last_used: float = 0.0  # when the server's last recv or send on it came back
    closed: float | None = None  # the server closed, or shut down its side
    to_server: list[SocketEvent] = field(default_factory=list)
    to_client: list[SocketEvent] = field(default_factory=list)
    answers: list[SocketEvent] = field(default_factory=list)  # what the server sent, whether or not it was read

    @property
    def arrived(self) -> float:
        times = [time for time in (self.connected, self.accepted) if time is not None]
        return min(times) if times else 0.0

    @property
    def gone(self) -> float | None:
        """When the client left, as far as that is known; else when the server closed."""
        return next((time for time in (self.left, self.seen_off, self.closed) if time is not None), None)

    @property
    def over(self) -> bool:
        """Whether the server has seen that the client left, or has closed the connection."""
        return self.seen_off is not None or self.closed is not None or self.reset

    @property
    def ended(self) -> float | None:
        """When the server was done with it (or the client gave up before it was accepted)."""
        return self.closed if self.accepted is not None else self.left


def lanes_of(observation: Observation) -> list[Lane]:
    """The lanes in the order in which the connections were made, each with the name of its client."""
    events = list(observation.log)
    lanes: list[Lane] = []
    by_end: dict[Connection, Lane] = {}
    waiting: dict[Address, list[Lane]] = {}
    for event in events:
        if event.kind == "connect":
            lane = Lane("", client=event.connection, connecting=event.began, connected=event.ended)
            lanes.append(lane)
            by_end[event.connection] = lane
            waiting.setdefault(event.connection.client, []).append(lane)
    for event in events:
        if event.kind == "accept" and not event.error:
            same = waiting.get(event.connection.client)
            if same:
                lane = same.pop(0)  # a port may be used again: the first to come is the first to be accepted
            else:
                lanes.append(lane := Lane(""))
            lane.server, lane.accepted, lane.accepter = event.connection, event.ended, event.thread
            by_end[event.connection] = lane
    if observation.log.dropped:
        _make_up_for_the_dropped(observation, events, lanes, by_end)
    for event in events:
        known = by_end.get(event.connection)
        if known is not None:
            _enter(known, event)
    for task in observation.alive():  # one that has not read anything yet left no event
        known = by_end.get(task.connection) if task.connection else None
        if known is not None and task.label not in known.threads and known.closed is None:
            known.threads.append(task.label)
    lanes.sort(key=lambda lane: lane.arrived)
    _give_names(lanes)
    return lanes


def _make_up_for_the_dropped(
    observation: Observation, events: list[SocketEvent], lanes: list[Lane], by_end: dict[Connection, Lane]
) -> None:
    """Lanes of connections whose beginning the log has dropped. When that was is not known: before the first event."""
    ours = {each.client: each for each in observation.clients}
    for event in events:
        end = event.connection
        if end.client in ours or end.client in observation.accepted:
            client, server = ours.get(end.client), observation.accepted.get(end.client)
            ends = [each for each in (client, server) if each is not None]
            lane = next((by_end[each] for each in (end, *ends) if each in by_end), None)
            if lane is None:
                lanes.append(lane := Lane("", connected=event.began if client else None))
            if client is not None and lane.client is None:
                lane.client = client
            if server is not None and lane.server is None:
                lane.server, lane.accepted = server, event.began if lane.connected is None else lane.connected
            by_end.update(dict.fromkeys(ends, lane))


def _enter(lane: Lane, event: SocketEvent) -> None:
    kind = event.kind
    if kind == "client send":
        lane.to_server.append(event)
    elif kind == "client recv" and event.size:
        lane.to_client.append(event)
    elif kind == "client close":
        lane.left = event.began
    elif kind in ("recv", "send"):
        if event.thread not in lane.threads:
            lane.threads.append(event.thread)
        lane.last_used = event.ended
        lane.reset = lane.reset or event.error in ("ConnectionResetError", "BrokenPipeError", "ConnectionAbortedError")
        if kind == "recv" and not event.size:
            lane.seen_off = lane.seen_off or event.ended
        if kind == "send" and event.size:
            lane.answers.append(event)
        if lane.client is None and event.size:
            (lane.to_server if kind == "recv" else lane.to_client).append(event)
    elif kind in ("close", "shutdown") and lane.closed is None:
        lane.closed = event.began


def _give_names(lanes: Iterable[Lane]) -> None:
    counts: dict[str, int] = {}
    for number, lane in enumerate(lanes, 1):
        name = visible(lane.client.name)[:QUOTED] if lane.client else f"client {number}"
        counts[name] = counts.get(name, 0) + 1
        lane.name = name if counts[name] == 1 else f"{name} ({counts[name]})"


class _Shown:
    """Shows itself in a notebook: a picture, and the text beside it."""

    def _timelines(self) -> list[Timeline]:
        raise NotImplementedError

    def figure(self, dark: bool = False) -> Any:
        """A matplotlib Figure, to be saved or to be changed."""
        from .plots import timeline_figure

        return timeline_figure(self._timelines(), dark=dark)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        from .plots import png

        data, width, height = png(self.figure())
        text = str(self)
        return {"text/plain": text, "image/png": data}, {"image/png": {"width": width, "height": height, "alt": text}}


@dataclass(frozen=True)
class Timeline(_Shown):
    """What happened at one server until `now`."""

    server: str
    lanes: tuple[Lane, ...]
    start: float
    now: float
    stopped: bool
    dropped: int  # events that the log could not keep

    @classmethod
    def of(cls, observation: Observation) -> Timeline:
        lanes = tuple(lanes_of(observation))
        starts = [time for lane in lanes for time in (lane.connecting, lane.accepted) if time is not None]
        now = observation.log.clock()
        if observation.stopping:  # a stopped server's picture ends with its last event
            now = max((event.ended for event in observation.log), default=now)
        return cls(
            observation.name, lanes, min(starts, default=now), now, observation.stopping, observation.log.dropped
        )

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

    def __str__(self) -> str:
        count = len(self.lanes)
        lines = [f"{self.server}: {count} connection{'' if count == 1 else 's'}"]
        width = max((len(lane.name) for lane in self.lanes), default=0)
        lines += [f"  {lane.name:<{width}}  {self.story(lane)}" for lane in self.lanes]
        if self.dropped:
            lines.append(f"  (the log was full: the oldest {self.dropped:,} events are missing)")
        return "\n".join(lines)

    __repr__ = __str__

    def table(self) -> list[dict[str, Any]]:
        """One row a client: seconds waited and served (until now, if they last), messages, bytes, threads."""
        rows = []
        for lane in self.lanes:
            over = lane.ended if lane.ended is not None else self.now
            accepted = lane.accepted if lane.accepted is not None else over
            end = lane.client or lane.server or Connection(())
            sent, back = _moved(lane)
            rows.append(
                {
                    "client": lane.name,
                    "seconds waited": max(0.0, accepted - lane.connected) if lane.connected is not None else None,
                    "seconds served": max(0.0, over - accepted) if lane.accepted is not None else 0.0,
                    "messages": end.messages,
                    "bytes sent": sent,
                    "bytes back": back,
                    "threads": ", ".join(lane.threads),
                }
            )
        return rows

    def _timelines(self) -> list[Timeline]:
        return [self]


class Timelines(_Shown, tuple[Timeline, ...]):
    """Several timelines, drawn side by side with the same scale."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__

    def _timelines(self) -> list[Timeline]:
        return list(self)


def side_by_side(*timelines: Timeline) -> Timelines:
    """Several runs in one picture: each starts at 0, all have the same scale."""
    return Timelines(timelines)


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
    server = lane.server or Connection(())
    return (lane.client.sent, lane.client.received) if lane.client else (server.received, server.sent)


def _messages(lane: Lane) -> list[str]:
    sent = b"".join(event.data for event in lane.to_server)
    back = b"".join(event.data for event in lane.to_client)
    whole = (len(sent), len(back)) == _moved(lane)  # the records have all of the bytes
    if whole and not sent.startswith(back):  # no echo: tell both sides
        told = [(event.began, "sent", event) for event in lane.to_server]
        told += [(event.ended, "got", event) for event in lane.to_client]
        joined: list[tuple[str, SocketEvent]] = []
        for _, verb, event in sorted(told, key=lambda each: each[0]):
            if verb == "got" and joined and joined[-1][0] == "got":  # in how many pieces an answer comes is no fact
                before = joined.pop()[1]
                event = replace(event, size=before.size + event.size, data=before.data + event.data)
            joined.append((verb, event))
        return _shortened([f"{verb} {quote(event)}" for verb, event in joined])
    read = lane.server.received if lane.server else 0
    total, returned = _moved(lane)
    words = []
    position = total - sum(event.size for event in lane.to_server)  # what the log has dropped came before
    for event in lane.to_server:
        end = position + event.size
        if returned >= end:
            state = "echoed"
        elif returned > position:
            state = f"{returned - position:,} of {event.size:,} bytes echoed"
        elif lane.server and lane.server.sent > position:
            state = "answered, and the client has not read it yet"
        elif read >= end:
            state = "read, not answered"
        elif read > position:
            state = f"{read - position:,} of {event.size:,} bytes read"
        else:
            state = "unread"
        words.append(f"{quote(event)} {state}")
        position = end
    return _shortened(words)


def _shortened(words: list[str]) -> list[str]:
    if len(words) <= SHOWN:
        return words
    return [*words[: SHOWN - 2], f"… {len(words) - SHOWN + 1:,} more …", words[-1]]


def _ending(lane: Lane) -> list[str]:
    if lane.reset:
        return ["broke off (reset)"]
    if lane.seen_off is not None or (lane.left is not None and (lane.closed is None or lane.left <= lane.closed)):
        return ["left"]
    if lane.server is not None and lane.server.cut_off:
        return ["cut off: the server was stopped"]
    if lane.closed is not None:
        return ["closed by the server"]
    return []


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
