"""Is a server at rest? Each of its threads then waits for somebody else, and a view shows one certain moment."""

from __future__ import annotations

import time
from collections.abc import Callable

from .frames import thread_frames
from .observation import Observation, Task
from .sockets import any_ready

BUSY = 0.06  # seconds on a processor, without taking anything from our clients, after which nobody waits for a server
TRIES = 100  # calls that get nothing, one after the other, after which nobody waits for it either
POLLS = 0.2  # seconds after which nobody waits for a server that moves all the time, and whose log stays the same
MANY = 200  # threads: a look at so many takes long, and each of them gets a turn in it


def settle(observation: Observation, deadline: float, over: Callable[[], bool]) -> bool:
    """Wait until every thread of the server waits for somebody else, or it is `over`. False: it was still busy at
    `deadline`, or does not come to rest: it computes, and not because our clients have sent something before this, or
    it asks again and again, sleeps in between, and gets nothing.
    """
    quiet_since, looks, work = 0.0, 0, _Work(observation)
    same_since, moves = 0.0, 0  # since when the log is the same, and how often threads have moved since then
    total, before = -1, object()
    while not over():
        at_rest, now = state(observation)
        # Threads that wait in ways we cannot see into (join, a queue, sleep) count as resting when none moves. On a
        # busy machine they get a chance to move when this thread gets one to look: so count the looks, too.
        if now != before or now is None:
            before, quiet_since, looks = now, time.monotonic(), 0
            moves += now is not None
        quiet = time.monotonic() - quiet_since
        few = len(observation.tasks) < MANY
        if at_rest or (looks > (40 if few else 1) and quiet > 0.05) or (looks > 1 and quiet > 0.15):
            return True
        looks += 1
        if observation.log.total != total:
            total, same_since, moves = observation.log.total, time.monotonic(), 0
        polls = moves > 10 and now is not None and time.monotonic() - same_since > POLLS
        if polls or time.monotonic() > deadline or work.goes_on():
            return False
        time.sleep(0.001 if few else 0.02)
    return True


class _Work:
    """How long a server computes without taking any of what was there when it was made, as far as Linux tells; and how
    often it tries in vain, which is known everywhere.
    """

    def __init__(self, observation: Observation) -> None:
        self._observation = observation
        self._asked = {end.client: end.sent for end in observation.clients.copy()}
        self._taken: object = None
        self._used: dict[Task, float] = {}
        self._tried = self._tries()
        self._due = time.monotonic() + 0.02

    def goes_on(self) -> bool:
        began = time.monotonic()
        if began < self._due:
            return False
        ends = ((self._observation.accepted.get(client), sent) for client, sent in self._asked.items())
        taken = [None if end is None else min(end.received, sent) for end, sent in ends]
        used = {task: task.processor_time() for task in self._observation.alive()}
        if taken != self._taken:
            self._taken, self._used = taken, used
        self._due = time.monotonic() + max(0.02, 3 * (time.monotonic() - began))
        if self._tries() - self._tried > TRIES:
            return True
        return sum(time - self._used.get(task, 0.0) for task, time in used.items()) > BUSY

    def _tries(self) -> int:
        return sum(task.again.times for task in self._observation.alive() if task.again is not None)


def state(observation: Observation) -> tuple[bool, object]:
    """Whether each of its threads waits in a socket call that nothing will end by itself, or is held before one; and
    where they all stand.

    The second value is None while something is certain to move: bytes to be read, a client to be accepted.
    """
    frames = thread_frames()
    if any(task.starting for task in observation.tasks):
        return False, None
    tasks = observation.alive()
    held, waits = [task.paused for task in tasks], [task.waiting for task in tasks]
    sockets = [seen for seen, call in zip(waits, held, strict=True) if seen is not None and call is None]
    stands: list[object] = []  # of those that do neither
    for task, seen, call in zip(tasks, waits, held, strict=True):
        if seen is None and call is None:
            frame, status = frames.get(task.identity() or 0), task.status()
            if b"State:\tR" in status:
                return False, None
            switches = status.partition(b"voluntary_ctxt_switches")[2]
            stands.append((task, id(frame), frame.f_lasti if frame is not None else 0, switches))
    socks = [(seen.ref(), seen.awaits) for seen in sockets]
    if any_ready((sock, event) for sock, event in socks if sock is not None) or any(sock is None for sock, _ in socks):
        return False, None
    accepting = any(seen.listening for seen in sockets)
    reading = {seen.connection for seen in sockets}
    at_rest = not stands
    for client in observation.clients:
        server_side = observation.accepted.get(client.client)
        if server_side is None:
            if accepting and not client.closed:
                return False, None
            at_rest = at_rest and not accepting  # it has left, and will be accepted unless the system dropped it
        elif server_side in reading and (client.closed or client.sent > server_side.received):
            return False, None
    if observation.alive() != tasks or [task.waiting for task in tasks] != waits:  # one moved while we looked
        return False, None
    if observation.gate.leaving(tasks) or [task.paused for task in tasks] != held:
        return False, None
    return at_rest, stands
