"""A trial: a student's function becomes a server, real clients talk to it, and the first thing that is not as expected
ends it.

`Trial` is one run of the server, `Guest` one of its clients. Both tell what they see in a student's words. A server
cannot hold a trial up: every wait has a bound, and where it is certain that nothing will come, the wait ends at once.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..client import Client, EchoError, Refused, Reset
from ..server import MAIN, Server, ServerStuck
from ..views.code import DIED, STANDS, CodeView
from ..watch import rest
from ..watch.events import Connection
from ..watch.frames import source_lines
from ..watch.text import cut
from .report import LINE, LONGEST, NotYet, died_of, quoted
from .seems import seems

Serve = Callable[[str, int], object]

PATIENCE = 3.0  # seconds that a server has for each answer; less where it is certain that none will come
MOMENT = 0.05  # seconds between two looks
RESTLESS = 0.2  # seconds that a server gets to come to rest once it has failed to do so
SILENCE = 2.3  # seconds for which a client says nothing, where it is not certain that the server waits for it that long
LONGEST_SILENCE = 6.0  # and this long where the server has a time limit for it
SHORT = 1.0  # seconds that are made of a longer time limit: see `Guest.hurries`
MUCH = 2000  # times 64 KB: more than any system keeps for a server that does not read
ACCEPT_LOOP = "the loop over the clients never ends || a loop around accept"
RECV_LOOP = "a conversation goes on until the client has left || a loop around recv, until it returns no bytes"
LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789"


@dataclass
class Trial:
    """One run of a student's function, and what has been tried so far."""

    function: Callable[..., Any]
    server: Server = None  # type: ignore[assignment]  # there is one as soon as it listens
    called_with: tuple[str | int, ...] = ()  # host and port, where the student's function was given these
    returned: bool = False  # that function has returned
    left: tuple[str, ...] = ()  # the threads that were alive then
    done: list[str] = field(default_factory=list)  # what was tried and was as expected
    trying: str = "the server is started"
    program: Any = None  # the client program that is tried, where the exercise is one
    view: Any = None  # where it stood when it failed
    guests: list[Guest] = field(default_factory=list)
    restless: bool = False  # the server has failed to come to rest: it never waits for long
    at_the_end: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # closed when the trial is over
    result: Any = None  # what the function has returned that handled a client
    heard: bytearray = field(default_factory=bytearray)  # what the client program on trial has sent
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # for the messages of an exercise
        self.computes = threading.Semaphore(0)  # released, the server of 3.3 goes on

    def letters(self, size: int) -> bytes:
        """So many letters, figures and spaces, no two parts of which are alike."""
        return "".join(self.random.choices(LETTERS, k=size)).encode()

    def tries(self, words: str) -> Trial:
        """What was tried until now was as expected. Next come `words`."""
        self.done.append(self.trying)
        self.trying = words
        return self

    def guest(self, name: str, hint: str = ACCEPT_LOOP, settle: float | None = 1.0) -> Guest:
        """A client that has connected. The server gets `settle` seconds to come to rest, before and after; None: it
        is not waited for.
        """
        if settle is not None:
            self.settle(settle)  # else chance decides whether a server that is about to end still takes this client
        try:
            guest = Guest(self, Client(self.server, name=name, timeout=PATIENCE))
        except EchoError as error:
            known = {Refused: "nobody listens any more", Reset: f"the server hung up on {name}"}
            raise self.not_yet(f"{name} can connect", known.get(type(error), "nobody answered"), hint) from None
        self.guests.append(guest)
        if settle is not None:
            self.settle(settle)  # what the server does on its own is done before the client speaks
        return guest

    def expects(self, expected: str, condition: object, got: str, hint: str) -> None:
        """The trial ends here unless the condition holds."""
        if not condition:
            raise self.not_yet(expected, got, hint)

    def not_yet(self, expected: str, got: str, hint: str) -> NotYet:
        """With what became of the server: the error it died of and on which line, or where its threads stand."""
        view = self.server.where()  # waits until the server is at rest: if it dies of this, it is dead by then
        error = self.server.error
        if error is not None:
            died = [f"{LINE}{cut(text, LONGEST)}" for text, mark in view.marks if mark.kind == DIED]
            return NotYet(expected, f"{got}; {died_of(error)}", "\n".join([*died[:1], *filter(None, [hint])]))
        if swallowed := self.swallowed():
            return NotYet(expected, f"{got}; {swallowed}", hint)
        if self._reads_nothing():
            hint = "recv returns no bytes when its client has left, each time it is called: leave the loop then"
        return NotYet(expected, f"{got}\n({self._stands(view)})", hint)

    def swallowed(self) -> str:
        """The error with which a thread of a pool has ended its work, in words; "" where there is none."""
        for kept in [each for each in self.server.observation.kept_errors.copy() if not each.asked]:
            code, line = kept.place or (None, 0)
            text = source_lines(code.co_filename)[line - 1 : line] if code is not None else []
            return f"a pool has kept an error for you, {kept.name}, at  {''.join(text).strip()}".removesuffix(", at  ")
        return ""

    def settle(self, seconds: float = 1.0) -> bool:
        """Wait until the server has come to rest. False: it has not, within `seconds`, or less if it is restless."""
        rested = self.server.settle(min(seconds, RESTLESS) if self.restless else seconds)
        self.restless = not rested
        return rested

    def stop(self) -> ServerStuck | None:
        """Stop the server. What has not ended, if anything: a program does not wait for its daemons, and neither does
        the trial, as long as they only wait.
        """
        try:
            self.server.stop()
        except ServerStuck as stuck:
            alive = self.server.observation.alive()
            held_up = not alive or any(each.holds or each.label == MAIN for each in alive)
            if held_up or not rest.settle(self.server.observation, time.monotonic() + RESTLESS, over=lambda: False):
                return stuck
        return None

    def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
        """Wait for what no call can wait for. False: the condition did not hold within `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)
        return bool(condition())

    def nothing_will_come(self, within: float = math.inf) -> bool:
        """Whether every thread of the server waits, `within` so many seconds, for a client that has nothing to say."""
        if not self.server.settle(RESTLESS):
            return False
        return all(limit == math.inf or limit > within for limit in self.limits())

    def limits(self) -> list[float]:
        """Of each thread of the server, its limit for the client for which it waits; 0.0 where that is not known."""
        waits = [task.waiting for task in self.server.observation.alive()]
        socks = [seen.ref() if seen is not None else None for seen in waits]
        limits = [0.0 if sock is None else sock.gettimeout() for sock in socks]
        return [math.inf if limit is None else limit for limit in limits]

    @contextlib.contextmanager
    def late_threads(self) -> Iterator[None]:
        """The threads that the server starts meanwhile begin when this ends: what they then find in the variables of
        its loop is no longer what it was. On a busy machine that happens by chance.
        """
        self.server.observation.gate.late = late = threading.Event()
        try:
            yield
            self.settle()
        finally:
            self.server.observation.gate.late = None
            late.set()
            self.settle()

    def _reads_nothing(self) -> bool:
        """Whether the server goes on calling recv on a connection that has ended."""
        again = [task.again for task in self.server.observation.tasks if task.again is not None]
        again = [each for each in again if each.kind == "recv" and not each.error and not each.connection.closed]
        return any(each.times > 2 for each in again)

    def _stands(self, view: CodeView) -> str:
        """Where the threads of the server stand, in one sentence."""
        if not self.settle():
            return "your server is busy all the time: it never waits"
        standing = [mark for _, mark in view.marks if mark.kind == STANDS]
        return "; ".join(f"{mark.thread} {mark.words}" for mark in standing[:4]) or "no thread of your server is left"


class Guest:
    """A client of a trial. Each method raises `NotYet` when the server does not do what it must."""

    def __init__(self, trial: Trial, client: Client) -> None:
        self.trial, self.client, self.name = trial, client, client.name
        self.leaves, self.vanishes = client.close, client.vanish  # in good order; with a reset
        self._came = b""  # received, and no method has returned or compared it yet

    def tries(self, words: str) -> Guest:
        """As `Trial.tries`, for what this client does next."""
        self.trial.tries(words)
        return self

    def says(self, data: bytes | str) -> Guest:
        """Send it. If the server has hung up, nothing is raised here: the method that waits for the answer does."""
        data = data.encode() if isinstance(data, str) else data
        try:
            self.client.send(data, timeout=PATIENCE)
        except EchoError:
            expected = f"the server takes what {self.name} sends: {quoted(data)}"
            self.trial.expects(expected, self.has_ended(), "the server did not take it all", RECV_LOOP)
        return self

    def hears(self, data: bytes | str, hint: str = "", instead: Mapping[bytes, str] = {}) -> Guest:
        """Wait for exactly these bytes; more of them are for the next call.

        hint     the hint when something else comes
        instead  hints for known wrong answers, by how these begin
        """
        data = data.encode() if isinstance(data, str) else data
        self._wait_for(lambda: len(self._came) >= len(data))
        if not self._came.startswith(data):
            told = seems(data, self._came, self.trial.server.observation, self.there, self.trial.result)
            hint = next((instead[began] for began in instead if self._came.startswith(began)), told or hint)
        self._expects(f"{self.name} gets {quoted(data, self._came)}", self._came.startswith(data), hint, data)
        self._came = self._came[len(data) :]
        return self

    def gets(self, data: bytes | str, answer: bytes | str, hint: str, instead: Mapping[bytes, str] = {}) -> Guest:
        """Send `data`, wait for this `answer`, and for not a byte more."""
        more = "not a byte more: send what is asked for, and no \\n behind it"
        return self.says(data).hears(answer, hint, instead).hears_nothing(more, may_end=True)

    def hurries(self) -> Guest:
        """From the server's next calls on, its time limits for a client are short: no check can wait for a minute."""
        for sock, _ in self.trial.server.observation.sockets(listening=False):
            if (sock.gettimeout() or 0) > SHORT:
                sock.settimeout(SHORT)
        return self

    def is_silent(self, hint: str) -> Guest:
        """The client says nothing until a time limit of the server is up: nothing comes, nor does it hang up."""
        trial = self.trial
        trial.settle()
        wait = max([SILENCE, *(each + RESTLESS for each in trial.limits() if each < LONGEST_SILENCE)])
        trial.until(lambda: self.has_ended() or self._came or trial.nothing_will_come(within=wait), wait)
        trial.settle()
        self._expects("the connection stays open", self._came or not self.has_ended(), hint)
        return self.hears_nothing(hint)

    def finishes(self, hint: str = "when recv returns no bytes, hang up, and send nothing more") -> Guest:
        """Say that nothing more will be sent, and listen on: the server hangs up, without another byte."""
        self.tries(f"{self.name} sends no more, but still listens: recv returns no bytes then")
        self.client.finish()
        return self.is_hung_up(hint)

    def hears_last(self, number: int, since: int, hint: str, instead: Mapping[bytes, str] = {}) -> Guest:
        """Wait for a line with this number. Lines with other ones, from `since` up to it, may come before: how TCP cuts
        the bytes decides how many.
        """
        last = f"{number}\n".encode()
        if self._wait_for(lambda: (b"\n" + self._came).endswith(b"\n" + last)):
            numbers = [int(each) if each.isdigit() else -1 for each in self._came.split(b"\n")[:-1]]
            if numbers == sorted({*numbers}) and numbers[0] > since:
                self._came = last
        return self.hears(last, hint, instead)

    def echoes(self, data: bytes | str, hint: str) -> Guest:
        """Send it, and wait for the same bytes."""
        return self.says(data).hears(data, hint)

    def hears_line(self, hint: str = "") -> str:
        """Wait for a line, and return it without its end."""
        came = self._wait_for(lambda: b"\n" in self._came)
        self._expects(f"{self.name} gets a line, with \\n at its end", came, hint)
        line, _, self._came = self._came.partition(b"\n")
        return line.decode("utf-8", "backslashreplace")

    def hears_nothing(self, hint: str = "", expected: str = "", may_end: bool = False) -> Guest:
        """No more bytes come until the server has come to rest, and no end unless it `may_end`."""
        self.trial.settle()
        self.trial.until(lambda: self.has_ended() or self._came or not self._is_on_its_way())
        self._expects(expected or f"{self.name} gets nothing more", not self._came, hint)
        self._expects("the connection stays open", may_end or not self.has_ended(), RECV_LOOP)
        return self

    def is_hung_up(self, hint: str, seconds: float = PATIENCE) -> Guest:
        """The server hangs up within `seconds`, without another byte."""
        # In vain where every thread waits for somebody else, and without a limit.
        self.trial.until(lambda: self.has_ended() or self._comes_nothing(), seconds)
        ended = self.has_ended()
        self._expects(f"the server hangs up on {self.name} within {seconds:g} s", ended and not self._came, hint)
        return self

    def fills_up(self) -> None:
        """Send without reading until the server takes no more: an echo server is then stuck in sendall."""
        with contextlib.suppress(EchoError):
            self.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.floods(bytes(65536 * MUCH))

    def floods(self, data: bytes) -> int:
        """Send it without reading, until the server takes no more. How many bytes it took."""
        taken = 0
        with contextlib.suppress(EchoError):
            while left := memoryview(data)[taken : taken + 65536]:
                size = self.client.offer(left)
                if not size:
                    self.trial.settle()
                    size = self.client.offer(left)
                    if not size:
                        break
                taken += size
        return taken

    def has_ended(self) -> bool:
        """Whether the server has hung up. What came before is read."""
        with contextlib.suppress(EchoError):
            self._came += self.client.pending()
        return self.client.ended is not None

    @property
    def there(self) -> Connection | None:
        """The server's end of this client's connection; None as long as the client is in the backlog."""
        return self.trial.server.observation.accepted.get(self.client.connection.client)

    def _is_on_its_way(self) -> bool:
        """Whether the server has sent more than has come, or hung up: on a busy machine that takes a while."""
        there = self.there
        owed = there is not None and (there.sent > self.client.connection.received or there.closed)
        return owed and not self.has_ended()

    def _comes_nothing(self) -> bool:
        return self.trial.nothing_will_come() and not self._is_on_its_way()

    def _wait_for(self, enough: Callable[[], bool]) -> bool:
        """Wait until enough has come. False: the connection ended, time is up, or certainly nothing will come."""
        deadline = time.monotonic() + PATIENCE
        while not self.has_ended() and not enough() and time.monotonic() < deadline:
            comes = self.client.wait(min(deadline, time.monotonic() + MOMENT), to_write=False)
            if not comes and self._comes_nothing():
                break
        self.has_ended()
        return enough()

    def _expects(self, expected: str, condition: object, hint: str, data: bytes = b"") -> None:
        """As `Trial.expects`, with what came to this client instead."""
        nothing = "the server hung up on" if self.client.ended else "nothing came to"
        got = f"{self.name} got {quoted(self._came, data)}" if self._came else f"{nothing} {self.name}"
        self.trial.expects(expected, condition, got, hint)
