"""One lane a connection: what the recorded events say of it, with the name of its client."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter

from ..watch.events import Address, Connection, SocketEvent
from ..watch.observation import Observation
from ..watch.text import visible

__all__ = ["Lane", "lanes_of"]

NAME = 24  # characters of a client's name that are shown
BROKEN_OFF = ("ConnectionResetError", "BrokenPipeError", "ConnectionAbortedError")
STOPPED = "ServerStopped"  # the "error" of a recv that a stop has ended: no end of file
TICK = 0.01  # seconds: the longest tick of a Linux kernel, to which its times are exact


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
    reset: bool = False  # the client broke off, as the server noticed
    rejected: bool = False  # the server broke off, as our client noticed: it closed with bytes unread
    last_used: float = 0.0  # when the server's last recv or send on it came back
    closed: float | None = None  # the server closed, or shut down its side
    to_server: list[SocketEvent] = field(default_factory=list)
    to_client: list[SocketEvent] = field(default_factory=list)
    answers: list[SocketEvent] = field(default_factory=list)  # what the server sent, whether or not it was read
    address: Address = ()  # the client's
    client_then: Connection | None = None  # what the two ends were when the lane was made: they go on
    server_then: Connection | None = None

    @property
    def place(self) -> tuple[bool, float]:
        """Sorts lanes by who came first: accept gives the clients out in the order in which they connected. When
        `connect` came back says less: of many that connect at once, any may be the next to run.
        """
        return (False, self.accepted) if self.accepted is not None else (True, self.connected or 0.0)

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


def lanes_of(observation: Observation, events: list[SocketEvent] | None = None) -> list[Lane]:
    """The lanes in the order in which the connections were made, each with the name of its client."""
    events = list(observation.log) if events is None else events
    lanes: list[Lane] = []
    by_end: dict[Connection, Lane] = {}
    waiting: dict[Address, list[Lane]] = {}
    for event in events:
        if event.kind == "connect":
            lane = Lane("", client=event.connection, connecting=event.began, connected=event.ended)
            lane.address = event.connection.client
            lanes.append(lane)
            by_end[event.connection] = lane
            waiting.setdefault(lane.address, []).append(lane)
    for event in events:
        if event.kind == "accept" and not event.error:
            same = waiting.get(event.connection.client)
            if same:
                lane = same.pop(0)  # a port may be used again: the first to come is the first to be accepted
            else:
                lanes.append(lane := Lane("", address=event.connection.client))
                waited = event.connection.waited or 0.0
                if waited > TICK:
                    lane.connected = event.ended - waited + TICK
            lane.server, lane.accepted, lane.accepter = event.connection, event.ended, event.thread
            by_end[event.connection] = lane
    if observation.log.dropped:
        _make_up_for_the_dropped(observation, events, lanes, by_end)
    of_end: defaultdict[Connection, defaultdict[str, list[SocketEvent]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        of_end[event.connection][event.kind].append(event)
    for end, calls in of_end.items():
        known = by_end.get(end)
        if known is not None:
            _enter(known, calls)
    for task in observation.alive():  # one that has not read anything yet left no event
        known = by_end.get(task.connection) if task.connection else None
        if known is not None and task.label not in known.threads and known.closed is None:
            known.threads.append(task.label)
    for address, arrived in list(observation.sighted.items()):
        before = observation.accepted.get(address)  # from the same port, perhaps by the same client
        served = by_end.get(before) if before is not None else None
        again = served is not None and served.accepted is not None and served.accepted < arrived
        if (before is None or again) and not waiting.get(address):
            lanes.append(Lane("", connected=arrived, address=address))
    for lane in lanes:
        lane.client_then = replace(lane.client) if lane.client else None
        lane.server_then = replace(lane.server) if lane.server else None
    lanes.sort(key=lambda lane: lane.place)
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
                lanes.append(lane := Lane("", connected=event.began if client else None, address=end.client))
            if client is not None and lane.client is None:
                lane.client = client
            if server is not None and lane.server is None:
                lane.server, lane.accepted = server, event.began if lane.connected is None else lane.connected
            by_end.update(dict.fromkeys(ends, lane))


def _enter(lane: Lane, calls: Mapping[str, list[SocketEvent]]) -> None:
    """What the calls on one end of it say, by their kinds."""
    sent, got = calls.get("client send", []), calls.get("client recv", [])
    reads, writes = calls.get("recv", []), calls.get("send", [])
    lane.to_server += sent
    lane.to_client += [event for event in got if event.size]
    lane.rejected = lane.rejected or any(event.error == "ConnectionResetError" for event in got if not event.size)
    for event in calls.get("client close", []):
        lane.left = event.began
    if reads or writes:
        lane.answers += [event for event in writes if event.size]
        if lane.client is None:
            lane.to_server += [event for event in reads if event.size]
            lane.to_client += lane.answers
        lane.last_used = max(each[-1].ended for each in (reads, writes) if each)
        lane.threads += dict.fromkeys(event.thread for event in sorted(reads + writes, key=attrgetter("ended")))
        lane.reset = any(event.error in BROKEN_OFF for event in reads + writes if event.error)
        lane.seen_off = next((each.ended for each in reads if not each.size and each.error != STOPPED), None)
    for event in sorted(calls.get("close", []) + calls.get("shutdown", []), key=attrgetter("ended"))[:1]:
        lane.closed = event.began if lane.closed is None else lane.closed


def _give_names(lanes: Iterable[Lane]) -> None:
    counts: dict[str, int] = {}
    for number, lane in enumerate(lanes, 1):
        name = visible(lane.client.name)[:NAME] if lane.client else f"client {number}"
        counts[name] = counts.get(name, 0) + 1
        lane.name = name if counts[name] == 1 else f"{name} ({counts[name]})"
