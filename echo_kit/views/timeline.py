"""What happened at one server, when: one lane per client, or one per thread, as data and in words.

The text has no times, ports or ids: it tells the same story in every run, so that it can be compared. Drawing it is
the business of `draw_timeline`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from ..watch.events import Connection, SocketEvent
from ..watch.observation import Observation, current_task
from ..watch.patches import collector_paused
from ..watch.text import counted, listed, shortened, visible
from .lane import Lane, Span
from .lanes import Pending, arranged, folded, pending_calls
from .states import IN_SEND, WORKS
from .story import merged, messages, moved, read_together

TOLD_LANES = 200  # lanes that the text tells: thousands help nobody, and are saved twice with the picture
TOLD_VISITS = 6  # of a thread: whom it accepted and served


@dataclass(eq=False)
class Timeline:
    """What happened at one server until `now`. Times are seconds of the log's clock; `start` is when the first came.

    lanes         one per connection, in the order in which they were made
    stopped       the server no longer listens
    dropped       events that the log could not keep, or that are left out
    thinned       they are left out because the server does not come to rest
    spans         the stretches of each client's lane, by its name, in the order in which they began
    thread_spans  what each of the server's threads did, by its label
    """

    server: str
    lanes: tuple[Lane, ...]
    start: float
    now: float
    stopped: bool = False
    dropped: int = 0
    thinned: bool = False
    events: list[SocketEvent] = field(default_factory=list)
    pending: tuple[Pending, ...] = ()
    thread_spans: dict[str, list[Span]] = field(default_factory=dict)

    @classmethod
    def of(cls, observation: Observation, most: int | None = None) -> Self:
        """`most`: of the calls that moved bytes, only so many of the newest."""
        pending = pending_calls(observation)
        here = current_task()
        if here is not None and here.observation is observation:  # one of its threads asks
            pending.append(Pending(here.label, "", None, 0.0))
        with collector_paused():
            reader = observation.log.reader()
            events = reader.read(most)
            now = observation.log.clock()
            if observation.stopping:  # a stopped server's picture ends with its last event
                now, pending = max((event.ended for event in events), default=now), []
            lanes = folded(observation, events, reader.missed)
            for span in lanes.lasting(pending, now):
                lanes.threads[span.thread].append(span)
                if span.lane is not None:
                    span.lane.add(span)
            ordered = arranged(lanes.lanes.values())
            for lane in ordered:
                lane.freeze()
                lane.last(now)
            for each in pending:  # one that has made no call yet is there, too
                lanes.threads[each.thread]
        return cls(
            observation.name,
            tuple(ordered),
            min((lane.came for lane in ordered if lane.came is not None), default=now),
            now,
            observation.stopping or not any(observation.sockets(listening=True)),
            observation.log.total - len(events) if reader.missed else observation.log.dropped,
            reader.missed,
            events,
            tuple(pending),
            dict(sorted(lanes.threads.items(), key=lambda each: _numbered(each[0]))),
        )

    @cached_property
    def spans(self) -> dict[str, list[Span]]:
        return {lane.name: [*lane.arrival(self.now), *lane.spans] for lane in self.lanes}

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
        others = listed(self.waited_for(lane))
        if lane.accepted is not None:
            if others:
                said.append(f"waited in the backlog for {others}")
            said.append("accepted")
            if lane.threads:
                threads = [f"the {each}" if each == "server thread" else each for each in lane.threads]
                said.append(f"served by {listed(threads)}")
        elif lane.left is not None or self.stopped:
            said.append("was never accepted")
        else:
            said.append("waits in the backlog" + (f" behind {others}" if others else ""))
        said += [*messages(lane), *merged(lane), lane.ending(), *messages(lane, late=True)]
        if lane.server_then is not None and lane.server_then.handed_on and lane.left is not None:
            said.append("left")  # so its own end says
        return " · ".join(filter(None, said))

    @property
    def title(self) -> str:
        """The server's name, and how many connections there were."""
        return f"{visible(self.server)}: {counted(len(self.lanes), 'connection')}"

    def __str__(self) -> str:
        width = max((len(lane.name) for lane in self.lanes), default=0)
        told = shortened(self.lanes, lambda lane: f"{lane.name:<{width}}  {self.story(lane)}", TOLD_LANES)
        lines = [self.title, *(f"  {line}" for line in told)]
        if self.dropped:
            why = "it does not come to rest" if self.thinned else "the log was full"
            lines.append(f"  ({why}: the oldest {self.dropped:,} events are missing)")
        return "\n".join(lines)

    __repr__ = __str__

    def table(self) -> list[dict[str, Any]]:
        """One row per client, fit for `pandas.DataFrame`: seconds waited in the backlog, seconds served (until now, if
        they last), of these the seconds in which the server worked for it or sent to it; messages, bytes, threads; the
        thread that closed it, and the line, as far as they are known; how many sends of the client each recv returned.
        """
        rows = []
        for lane in self.lanes:
            over = lane.ended if lane.ended is not None else self.now
            accepted = lane.accepted if lane.accepted is not None else over
            end = lane.client_then or lane.server_then or Connection(())
            sent, back = moved(lane)
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
                    "closed by": lane.closer,
                    "closed at": (lane.server_then or end).closed_at,
                    "sends per recv": [len(sends) for sends in read_together(lane)],
                }
            )
        return rows

    def calls(self) -> list[dict[str, Any]]:
        """One row per socket call, fit for `pandas.DataFrame`: when it began (seconds since the first client came), how
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
            if event.connection in names and event.kind != "pause"
        ]

    def by_thread(self) -> Threads:
        """The same run, one lane per thread: what each did, for whom, and where it waited."""
        return Threads(self)


class Threads:
    """A timeline with one lane per thread."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def __str__(self) -> str:
        stories = self._stories()
        width = max(map(len, stories), default=0)
        told = shortened(list(stories.items()), lambda each: f"{each[0]:<{width}}  {each[1]}", TOLD_LANES)
        count = counted(len(stories), "thread")
        return "\n".join([f"{visible(self.timeline.server)}: {count}", *(f"  {line}" for line in told)])

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
        return {
            label: " · ".join([*shortened(mine, str, TOLD_VISITS), now.get(label, "ended")])
            for label, mine in told.items()
        }


def _numbered(label: str) -> tuple[int, int]:
    """Sorts "server thread" first, then "thread 2" before "thread 10", then those with names of their own."""
    kind, _, number = label.rpartition(" ")
    if label == "server thread":
        return 0, 0
    return (1, int(number)) if kind == "thread" and number.isdigit() else (2, 0)
