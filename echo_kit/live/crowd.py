"""`Crowd`: all phones of a room. Which may join, under which name; what all are asked; how they change the server.

All of it runs in the room's event loop; `phones` may be called by any thread.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Protocol

from ..server import Server, newest
from ..watch.observation import Observation
from ..watch.text import cut, visible
from .seat import Limits, Seat, Shared

CHANGE = 30.0  # seconds that a change of server may take: then phones connect to whatever is there
BANNED = 30.0  # seconds for which a name that was shown out may not come back
MOST_BANNED = 1_000  # pages that may not come back
KEY = re.compile(r"[A-Za-z0-9_-]{8,64}")
HERE = ("127.0.0.1", "::1")
SHOWN_OUT = "You were shown out."


class Ballot(Protocol):
    """A question that phones vote on."""

    id: int

    def cast(self, seat: str, option: int) -> bool: ...

    def shown(self, seat: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Phone:
    """A phone as it is now. `sent` and `answered` count messages; `thread` is the label of the one that serves it."""

    id: int
    name: str
    address: str
    state: str
    thread: str
    sent: int
    answered: int
    trouble: str


class Crowd:
    """The seats of a room at `server`; `here` is the address of the page, on which a rehearsal may come, too."""

    def __init__(self, server: Server, limits: Limits, here: str) -> None:
        self.limits = limits
        self.token, self.rehearsal_token = secrets.token_urlsafe(8), secrets.token_urlsafe(8)
        self._shared = Shared(server, limits)
        self._here = (*HERE, here)
        self._seats: dict[str, Seat] = {}  # by key
        self._numbers = itertools.count(1)
        self._ballot: Ballot | None = None
        self._banned: dict[str, float] = {}  # a page's key, or a name -> until when it may not come back
        self._introduced = self.observation()  # where clients that are not ours may give their names
        self.hear_names(True)
        self._late: asyncio.TimerHandle | None = None

    def phones(self) -> list[Phone]:
        """In the order in which they came."""
        return [
            Phone(each.id, each.name, each.address, each.state, each.thread, each.sent, each.answered, each.trouble)
            for each in list(self._seats.values())
        ]

    def observation(self) -> Observation:
        """Of the server that is there now, or was last."""
        server = self._shared.server
        return (newest(server.name) or server).observation

    def look(self, now: float) -> None:
        """See what has become of each phone; `now` by the loop's clock."""
        observation = self.observation()
        if observation is not self._introduced:
            self._introduced = observation
            self.hear_names(True)
        serving = {task.connection: task.label for task in observation.tasks.copy() if task.connection is not None}
        for seat in self:
            seat.look(serving)
            if seat.away is not None and now - seat.away > self.limits.grace:
                self.drop(seat)
        self._banned = {what: until for what, until in self._banned.items() if until > now}

    def hear_names(self, yes: bool) -> None:
        """Whether clients that are not ours may give their names."""
        self._introduced.introductions = yes

    def ask(self, ballot: Ballot | None) -> None:
        self._ballot = ballot
        for seat in self:
            self.show_ballot(seat)

    def change(self, changing: bool, server: Server | None = None) -> None:
        """The server is about to be changed; or was, to that one."""
        if self._late is not None:
            self._late.cancel()
        self._late = asyncio.get_running_loop().call_later(CHANGE, self.change, False) if changing else None
        self._shared.changing, self._shared.server = changing, server or self._shared.server
        self.look(asyncio.get_running_loop().time())
        for seat in self:
            seat.change()

    def show_out(self, phone: int) -> None:
        for seat in [each for each in self if each.id == phone]:
            if len(self._banned) < MOST_BANNED:
                self._banned[seat.key] = math.inf
            self._banned[seat.name.casefold()] = asyncio.get_running_loop().time() + BANNED
            self.drop(seat, SHOWN_OUT)

    def drop(self, seat: Seat, words: str = "") -> None:
        """Hang up for that phone, and say why to its page."""
        self._seats.pop(seat.key, None)
        seat.end(words)

    def end(self) -> None:
        """Send everybody home."""
        self.hear_names(False)
        for seat in self:
            self.drop(seat, "The room is closed.")

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    # -- what pages ask for --------------------------------------------------------------------------------------------

    def admits(self, token: bytes, address: str) -> bool | None:
        """Whether whoever knows that token comes for a rehearsal; None: the token is good for nothing."""
        if compare_digest(self.token.encode(), token):
            return False
        return True if compare_digest(self.rehearsal_token.encode(), token) and address in self._here else None

    def join(self, name: str, key: str, address: str, rehearsal: bool) -> Seat | str:
        """The seat of a phone: the one that it has, or a new one. A sentence, if it gets none."""
        known = self._seats.get(key)
        if known is not None and known.rehearsal is rehearsal:
            return known
        limits, now = self.limits, asyncio.get_running_loop().time()
        name = cut(visible(name).strip(), limits.name)
        if not KEY.fullmatch(key) or known is not None:
            return "This page is not one of this room: open its address again."
        if max(self._banned.get(key, 0.0), self._banned.get(name.casefold(), 0.0)) > now:
            return SHOWN_OUT
        same = [each for each in self if each.rehearsal is rehearsal]
        if len(same) >= (limits.rehearsal if rehearsal else limits.phones):
            return f"The room is full: {len(same):,} phones are in it."
        if not rehearsal and sum(each.address == address for each in same) >= limits.per_address:
            return f"{limits.per_address} phones have joined from your address, and more may not."
        number = next(self._numbers)
        name = self._unique(name or f"phone {number}")
        self._seats[key] = seat = Seat(number, name, key, address, rehearsal, self._shared)
        return seat

    def _unique(self, name: str) -> str:
        taken = {each.name for each in self}
        names = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
        return next(each for each in names if each not in taken)

    def show_ballot(self, seat: Seat) -> None:
        seat.tell(ballot=None if self._ballot is None else self._ballot.shown(seat.key))

    def vote(self, seat: Seat, ballot: int, option: int) -> None:
        if self._ballot is not None and self._ballot.id == ballot:
            self._ballot.cast(seat.key, option)
        self.show_ballot(seat)
