"""The one engine: folds socket events, one after the other, into one lane per connection.

The timeline folds the whole log at once. The stage folds what has come since its last look. Nobody else knows what
"waits", "works" and "stuck in sendall" mean:

1. A call that has ended is a stretch of its thread, and of its connection: `TRANSITIONS` says of which state.
2. Between two calls of one thread on one connection the thread works for it, as far as `TRANSITIONS` says so.
3. What no thread is seen at, after the accept and before the close, is `ACCEPTED`.
4. A send is work, too, unless it waited for room: it was long, and the kernel had bytes that the client had not read.
5. A lane's stretches never overlap, and none lies after the close (`Lane.add`).
6. Before the accept there are two stretches, made from the facts (`Lane.arrival`).
"""

from __future__ import annotations

import itertools
import selectors
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..watch.events import Address, Connection, SocketEvent, in_order
from ..watch.observation import Call, Observation, Task
from ..watch.patches import collector_paused
from ..watch.sockets import ready
from ..watch.text import visible
from .kernel import MANY, TICK, acked, short_of_room
from .lane import Lane, Names, Span
from .source import selects as selects
from .states import ACCEPTED, IN_ACCEPT, IN_RECV, IN_SEND, PAUSED, WORKS, State

COMING = ("connect", "accept", "shutdown", "close", "client close")  # the calls that say who came, and who went
NAME = 24  # characters of a client's name that are shown
BROKEN_OFF = ("ConnectionResetError", "BrokenPipeError", "ConnectionAbortedError")
STOPPED = "ServerStopped"  # the "error" of a call that a stop has ended: no end of file, no reset
TAKES = 0.02  # seconds within which a client that reads takes something
LONG_SEND = 0.1  # seconds: a shorter send may have waited for a processor, or for Python's lock


class Transition(NamedTuple):
    """What a call of a server's thread means for its connection.

    during  the state while the call lasted; None: it leaves no stretch
    after   the state from then until the same thread's next call on the same connection; None: nothing is known
    closes  whether `after` also holds until a close. After a send it does not: a recv that a stop has ended may have
            come between the two, without a record
    """

    during: State | None
    after: State | None = None
    closes: bool = False


TRANSITIONS = {
    "accept": Transition(IN_ACCEPT),
    "recv": Transition(IN_RECV, WORKS, closes=True),
    "send": Transition(IN_SEND, WORKS),
    "pause": Transition(PAUSED, WORKS, closes=True),
    "shutdown": Transition(None),
    "close": Transition(None),
}
SELECTING = TRANSITIONS | {"send": Transition(IN_SEND)}  # after a send, the server may wait in select: not seen


class Pending(NamedTuple):
    """A call that has not returned, or before which a thread is held: which thread, on which connection, since when.

    kind  accept, recv or send, or pause; "" for no call that is known
    call  before which the thread is held
    full  of a send: the kernel has no room for more, and the client takes nothing
    """

    thread: str
    kind: str
    connection: Connection | None
    began: float
    call: str = ""
    full: bool = False


class Lanes:
    """The lanes of one server. For one thread.

    selects  between its calls the server may wait in select, poll or kqueue, which leaves no record
    touched  lanes that `fold` or `lasting` has changed; whoever reads it empties it
    threads  the stretches of each of the server's threads, by its label
    room     asks the kernel for how many seconds a connection's sends have waited for room; None: nobody knows
    """

    def __init__(self, room: Callable[[Connection], float | None] = lambda _: None) -> None:
        self.selects = False
        self._room = room
        self.lanes: dict[int, Lane] = {}  # by number
        self.touched: set[Lane] = set()
        self.threads: defaultdict[str, list[Span]] = defaultdict(list)
        self._by_end: dict[Connection, Lane] = {}
        self._waiting: dict[Address, list[Lane]] = {}  # not accepted, by the client's address
        self._strangers: dict[Address, Lane] = {}  # accepted, and not known to be ours
        self._names = Names()
        self._numbers = itertools.count(1)
        self._last: dict[str, tuple[Transition, float, Connection]] = {}  # by thread: its last call, and when it ended
        self._missed = False

    def of(self, end: Connection | None) -> Lane | None:
        """The lane of a connection, given one of its ends."""
        return self._by_end.get(end) if end is not None else None

    def waiting(self) -> list[Lane]:
        """The lanes that nobody has accepted, and that may still be."""
        return [lane for lanes in self._waiting.values() for lane in lanes]

    def waits(self, address: Address) -> Lane | None:
        """The lane from that client's address that will be accepted next."""
        return next(iter(self._waiting.get(address, ())), None)

    # -- one event after the other -------------------------------------------------------------------------------------

    def fold(self, events: Iterable[SocketEvent], missed: bool = False) -> None:
        """Take in what has happened, in the order in which the calls ended.

        missed  some events are missing, so that it is not known what the threads did in between
        """
        self._missed = missed
        if missed:
            self._last.clear()
            for each in self.lanes.values():
                each.seen, each.owed = None, MANY
        rules = SELECTING if self.selects else TRANSITIONS
        for event in events:
            lane = self._by_end.get(event.connection)
            if lane is None and event.kind == "connect":
                lane = self._connected(event)
            elif lane is None and event.kind == "accept" and not event.error:
                lane = self._was_accepted(event)
            rule = rules.get(event.kind)
            if rule is not None:
                self._server_called(event, rule, lane)
            if lane is not None:
                self.touched.add(lane)
                lane.note(event)
                if lane.client is None and not lane.introduced and lane.called:
                    lane.introduced, lane.name = True, self._names.change(lane.name, lane.called[:NAME])

    def _new(self, name: str, address: Address) -> Lane:
        number = next(self._numbers)
        lane = self.lanes[number] = Lane(number, self._names.take(name or f"client {number}"), address)
        self.touched.add(lane)
        return lane

    def _connected(self, event: SocketEvent) -> Lane:
        end = event.connection
        name = visible(end.name)[:NAME]
        lane = self._of_the_server(end.client, event.began)
        if lane is not None:  # the server's thread was faster, or the kernel was asked in between
            lane.name = self._names.change(lane.name, name)
            lane.to_server, lane.to_client = [], []  # as the server tells; now the client will
        else:
            lane = self._new(name, end.client)
            self._waiting.setdefault(end.client, []).append(lane)
        self._strangers.pop(end.client, None)
        lane.client, lane.connecting, lane.connected = end, event.began, event.ended
        if lane.accepted is not None:
            lane.connected = min(event.ended, lane.accepted)
        self._by_end[end] = lane
        return lane

    def _of_the_server(self, address: Address, began: float) -> Lane | None:
        """The lane that was made for a client before its own `connect` returned."""
        lane = self._strangers.get(address) or self.waits(address)
        if lane is None or lane.client is not None or (lane.accepted is not None and lane.accepted < began):
            return None
        return lane

    def _was_accepted(self, event: SocketEvent) -> Lane:
        end = event.connection
        lane = self.waits(end.client)  # a port may be used again: the first to come is the first to be accepted
        if lane is None:
            lane = self._new("", end.client)
            waited = end.waited or 0.0
            if waited > TICK:
                lane.connected = event.ended - waited + TICK
        self.no_longer_waits(lane)
        if lane.connected is not None:  # our client may be told of it later than the server
            lane.connected = min(lane.connected, event.ended)
        lane.server, lane.accepted, lane.accepter = end, event.ended, event.thread
        lane.seen = None if self._missed else event.ended
        if lane.client is None:
            self._strangers[end.client] = lane
        self._by_end[end] = lane
        return lane

    def _server_called(self, event: SocketEvent, rule: Transition, lane: Lane | None) -> None:
        kind, began, ended, connection, thread, size, _, error = event
        during = rule.during
        if kind == "send" and not (ended - began >= LONG_SEND and self._waited_for_room(event, lane)):
            during = WORKS
        whose = None if kind == "accept" else lane
        if thread:
            last = self._last.pop(thread, None)
            if last is not None and last[2] is connection and (last[0].closes or rule.during is not None):
                self._add(last[0].after, last[1], began, thread, lane)
            if rule.during is not None:
                self._add(during, began, ended, thread, whose)
            else:
                self.threads[thread]  # it is one of the server's threads, whatever it did
            if rule.after is not None and (lane is not None or kind != "pause"):
                self._last[thread] = rule, ended, connection
        if whose is None:
            return
        whose.thread = thread or whose.thread
        if rule.during is None:
            whose.close(began, thread)
        elif kind != "pause":
            whose.last_used = ended
            if thread not in whose.threads and (not error or error in (*BROKEN_OFF, STOPPED)):
                whose.threads.append(thread)  # one whose socket another thread has closed serves nobody
            if error in BROKEN_OFF and whose.closed is None and not connection.shown_out:
                whose.reset = True
            if kind == "recv" and not size and not error and whose.seen_off is None and whose.closed is None:
                whose.seen_off = ended  # after a shutdown of ours it would be no word of the client's

    def _waited_for_room(self, event: SocketEvent, lane: Lane | None) -> bool:
        """Whether a long send can have done so. The kernel takes the first bytes at once, and knows of longer waits."""
        if lane is None or event.size + max(0, lane.owed) <= MANY:
            return False
        waited = self._room(event.connection)
        return waited is None or waited >= LONG_SEND / 2

    def _add(self, state: State | None, begin: float, end: float, thread: str, lane: Lane | None) -> None:
        """A stretch of a thread, and of the lane that it worked for, if any."""
        if end > begin and state is not None:
            span = new_span(Span, (state, begin, end, thread, lane))
            self.threads[thread].append(span)
            if lane is not None:
                lane.add(span)

    # -- what no event tells -------------------------------------------------------------------------------------------

    def lasting(self, pending: Sequence[Pending], now: float) -> list[Span]:
        """What each of the server's threads is in at this moment, as a stretch until `now`. Of the time before a call
        that is pending it is known now what it was: that is entered as if the call's event had come.
        """
        spans = []
        for thread, kind, connection, began, _, full in pending:
            rule, since, on = self._last.get(thread, _NO_CALL)
            lane = self.of(connection)
            if not kind:
                if rule.after is not None and now > since:
                    spans.append(Span(rule.after, since, now, thread, self.of(on)))
            elif began >= since:  # else that call has ended since it was noted
                if on is connection:
                    self._add(rule.after, since, began, thread, lane)
                    self._last[thread] = rule, began, on  # asked again, there is nothing new to tell
                if lane is not None and lane.last(began):
                    self.touched.add(lane)
                state = WORKS if kind == "send" and not full else TRANSITIONS[kind].during or ACCEPTED
                spans.append(Span(state, began, now, thread, lane))
        return spans

    def sight(self, address: Address, arrived: float, before: Connection | None) -> None:
        """The kernel has a client in the backlog that is not ours, since `arrived`: it gets a lane, unless it has one
        or was accepted since. `before` is the newest connection that was accepted from that address.
        """
        served = self.of(before)
        again = before is None or (before.closed if served is None else (served.accepted or 0.0) < arrived)
        if again and address not in self._waiting:
            lane = self._new("", address)
            lane.connected = arrived
            self._waiting[address] = [lane]

    def no_longer_waits(self, lane: Lane) -> None:
        """It was accepted, or will never be."""
        same = self._waiting.get(lane.address, [])
        if lane in same:
            same.remove(lane)
        if not same:
            self._waiting.pop(lane.address, None)

    def keep_threads(self, alive: set[str]) -> None:
        """No more events come of other threads: what is kept of them goes."""
        self._last = {thread: last for thread, last in self._last.items() if thread in alive}
        self.threads.clear()

    def forget(self, lane: Lane) -> None:
        """The lane is no longer kept, and its name is free if it is not the name of one of ours."""
        del self.lanes[lane.number]
        self.touched.discard(lane)
        for end in (lane.client, lane.server):
            if end is not None:
                self._by_end.pop(end, None)
        if lane.client is None:
            self._names.give_back(lane.name)
        if self._strangers.get(lane.address) is lane:
            del self._strangers[lane.address]
        self.no_longer_waits(lane)


new_span = tuple.__new__  # half the time of Span(…), of which there may be hundreds of thousands
_NO_CALL = (Transition(None), 0.0, Connection(()))
_lanes_then: weakref.WeakKeyDictionary[Observation, tuple[object, list[Lane]]] = weakref.WeakKeyDictionary()


def pending_calls(observation: Observation) -> list[Pending]:
    """What each of the server's threads is in, or held before, at this moment."""
    tasks = observation.alive()
    sends = {task: call for task in tasks if (call := task.call) is not None and call.kind == "send"}
    before = {task: taken for task, call in sends.items() if (taken := _taken(call)) is not None}
    if before:
        time.sleep(TAKES)
    full = {task for task, taken in before.items() if task.call == sends[task] and _taken(sends[task]) == taken}
    return [_pending(task, task.call, task in full) for task in tasks]


def _taken(call: Call) -> tuple[int | None] | None:
    """How many bytes its client has taken, if the kernel says, of a send for which it has no room; else None."""
    sock = call.seen.ref()
    return None if sock is None or ready(sock, selectors.EVENT_WRITE) else (acked(sock),)


def _pending(task: Task, call: Call | None, full: bool) -> Pending:
    held = task.paused
    if held is not None:
        name = "recv" if held.kind == "recv" else held.name
        return Pending(task.label, "pause", held.seen.connection, held.began, name)
    if call is not None:
        return Pending(task.label, call.kind, call.seen.connection, call.began, full=full)
    return Pending(task.label, "", None, 0.0)


def beginnings(observation: Observation, events: Sequence[SocketEvent]) -> list[SocketEvent]:
    """Events in place of those that the log has dropped: how its connections came, at the time at which it begins."""
    start = min((event.began for event in events), default=observation.log.clock())
    told = {event.connection for event in events}
    came = {event.connection for event in events if event.kind in ("connect", "accept")}
    ours, accepted = {end.client: end for end in observation.clients.copy()}, observation.accepted.copy()
    made = []
    for address in dict.fromkeys([*accepted, *ours]):
        client, server = ours.get(address), accepted.get(address)
        lasts = server is None or not server.closed
        for kind, end in (("connect", client), ("accept", server)):
            if end is not None and end not in came and (lasts or end in told):
                made.append(SocketEvent(kind, start, start, end))
        if client is not None and client.closed and lasts and client not in told:
            made.append(SocketEvent("client close", start, start, client))
    return made


def folded(observation: Observation, events: Sequence[SocketEvent], missed: bool = False) -> Lanes:
    """All that is known of a server's connections, from its events and from what else the observation knows."""
    lanes = Lanes(room_of(observation))
    lanes.selects = selects(observation)
    if observation.log.dropped:
        lanes.fold(beginnings(observation, events), missed=True)
    lanes.fold(events, missed)
    for task in observation.alive():  # one that has not read anything yet left no event
        lane, call = lanes.of(task.connection), task.paused or task.call
        at_it = call is not None and call.seen.connection is task.connection
        if lane is not None and task.label not in lane.threads and lane.closed is None:
            if task.label == lane.accepter and not at_it:
                continue  # it may wait for a place before it gives the client to another thread
            lane.threads.append(task.label)
    for address, arrived in list(observation.sighted.items()):
        lanes.sight(address, arrived, observation.accepted.get(address))
    return lanes


def room_of(observation: Observation) -> Callable[[Connection], float | None]:
    """For `Lanes`: asks the kernel about connections that are still open."""

    def room(end: Connection) -> float | None:
        found = (sock for sock, seen in observation.sockets(listening=False) if seen.connection is end)
        return next(map(short_of_room, found), None)

    return room


def arranged(lanes: Iterable[Lane]) -> list[Lane]:
    """The lanes in the order in which the connections were made, each with a name that counts in this order."""
    names = Names()
    ordered = sorted(lanes, key=lambda lane: lane.place)
    for number, lane in enumerate(ordered, 1):
        lane.name = names.take(lane.called[:NAME] if lane.client or lane.called else f"client {number}")
    return ordered


def lanes_of(observation: Observation) -> list[Lane]:
    """A server's lanes, arranged, without what was sent: the same ones until something new has happened."""
    now = observation.log.total, observation.sighted.copy()  # first: what comes meanwhile is found the next time
    before = _lanes_then.get(observation)
    if before is None or before[0] != now:
        with collector_paused():
            records = in_order(each for each in observation.log.records() if each[0] in COMING)
            before = _lanes_then[observation] = now, arranged(folded(observation, records).lanes.values())
    return before[1]
