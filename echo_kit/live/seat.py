"""`Seat`: one phone of a room. Its page comes and goes; its one TCP connection to the server and its messages stay.

All of it runs in the room's event loop, which no seat ever holds up: nothing here waits but by `await`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..client import Client, EchoError
from ..server import Server, newest
from ..watch.events import Connection, reachable
from ..watch.observation import Observation
from ..watch.text import counted, cut, visible

FIRST, LONGEST = 0.1, 2.0  # seconds: the first pause before it connects again, which doubles; and the longest
LETTERS = 1_000  # of an answer that are shown
TOLD = 60.0  # seconds for which a trouble is told

WORDS = {
    "connecting": "The server has not answered yet.",
    "waiting": "You are connected, and not accepted yet: the server has not taken your connection.",
    "served": "The server has accepted your connection.",
    "changing": "The server is being changed: your messages are kept.",
    "lost": "No connection to the server: trying again. Your messages are kept.",
}


@dataclass(frozen=True)
class Limits:
    """What a room takes; of more, it says so, and goes on.

    phones, rehearsal  phones that are in it at once; those of a rehearsal are counted apart
    per_address        phones from one address (of a rehearsal: as many as there may be)
    message            bytes of a message
    rate, burst        messages a second, and how many at once before that counts
    name               letters of a name
    unread             bytes that may wait for a page that does not read
    kept               messages of a phone that are not answered
    grace              seconds for which a phone whose page is gone keeps its connection
    """

    phones: int = 300
    rehearsal: int = 1_000
    per_address: int = 8
    message: int = 1_000
    rate: float = 5.0
    burst: int = 10
    name: int = 20
    unread: int = 64_000
    kept: int = 50
    grace: float = 30.0


@dataclass
class Shared:
    """What all seats of a room have in common."""

    server: Server
    limits: Limits
    changing: bool = False

    def target(self) -> Observation | None:
        """What observes the server that runs now; None: there is none."""
        server = newest(self.server.name) or self.server  # its cell may have been run again
        return None if self.changing or server.stopped else server.observation


class Page(Protocol):
    """The page of a phone, as far as a seat knows it."""

    def tell(self, **message: Any) -> None: ...

    def let_go(self, words: str) -> None: ...


class Pace:
    """How long each message must wait, so that no more come than may."""

    def __init__(self, rate: float, burst: int) -> None:
        self._each, self._burst = 1 / rate, burst
        self._next = 0.0  # when the next one may come
        self.late = 0  # messages in a row that had to wait

    def wait(self, now: float) -> float:
        """Count a message that comes now; how many seconds it must wait."""
        self._next = max(self._next, now - self._burst * self._each) + self._each
        wait = max(0.0, self._next - now)
        self.late = self.late + 1 if wait else 0
        return wait


@dataclass(eq=False)
class _Message:
    id: int
    data: bytes
    at: float  # when it was said
    sent: int = 0  # bytes of it that the system has taken, on this connection


class Seat:
    """Keeps one connection to the server, and matches what comes back with what was said, by counting bytes.

    key   what the page keeps over a reload
    away  when its page was lost, on the loop's clock; None: it has one
    """

    def __init__(self, number: int, name: str, key: str, address: str, rehearsal: bool, shared: Shared) -> None:
        self.id, self.name, self.key, self.address, self.rehearsal = number, name, key, address, rehearsal
        self.page: Page | None = None
        self.away: float | None = None
        self.state, self.thread = "connecting", ""
        self.sent = self.answered = 0
        self.pace = Pace(shared.limits.rate, shared.limits.burst)
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._trouble, self._troubled = "", 0.0
        self._client: Client | None = None
        self._kept: deque[_Message] = deque()  # without a whole answer
        self._done: deque[dict[str, Any]] = deque(maxlen=shared.limits.kept)  # the last answers: a page may ask again
        self._came = bytearray()  # of an answer that is not whole
        self._more = False  # it has sent more than it got
        self._over = asyncio.Event()  # the connection has ended
        self._now = asyncio.Event()  # connect at once
        self._ended = False  # said apart from the cancellation, which `asyncio.wait_for` may lose until Python 3.12
        self._task = self._loop.create_task(self._stay_connected())

    # -- what is told of it --------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        return self._trouble if time.monotonic() - self._troubled < TOLD else ""

    @trouble.setter
    def trouble(self, words: str) -> None:
        self._trouble, self._troubled = words, time.monotonic()

    @property
    def words(self) -> str:
        if self.state == "served" and self.thread:
            return f"You are served by {'the ' if self.thread == 'server thread' else ''}{cut(self.thread, 40)}."
        return WORDS[self.state]

    def tell(self, **message: Any) -> None:
        if self.page is not None:
            self.page.tell(**message)

    def take(self, page: Page) -> None:
        """Its page has come, perhaps again: it is told all that it needs."""
        before, self.page, self.away = self.page, page, None
        if before is not None:
            before.let_go("This phone goes on in another window.")
        self.tell(you={"name": self.name, "id": self.id})
        self.tell(state=self.state, words=self.words)

    def lose(self, page: Page) -> None:
        """Its page is gone, perhaps for a moment only."""
        if page is self.page:
            self.page, self.away = None, self._loop.time()

    def _is(self, state: str, thread: str = "") -> None:
        if (state, thread) != (self.state, self.thread):
            self.state, self.thread = state, thread
            self.tell(state=state, words=self.words)

    def look(self, serving: Mapping[Connection, str]) -> None:
        """See whether the server has accepted it, and which thread serves it: `serving` has their labels."""
        client = self._client
        if client is None or client.observation is None or self.state == "changing":
            return
        end = client.observation.accepted.get(client.connection.client)
        if end is not None and not end.closed:  # else it was another client from that port
            self._is("served", serving.get(end) or self.thread)

    # -- what its page asks for ----------------------------------------------------------------------------------------

    def say(self, number: int, text: str) -> None:
        """Send a message. One that was said before, by a page that did not hear of it, is answered again."""
        before = next((each for each in self._done if each["echo"] == number), None)
        if before is not None:
            self.tell(**before)
        if before is not None or any(each.id == number for each in self._kept):
            return
        try:
            data, refused = text.encode(), ""
        except UnicodeEncodeError as error:
            data, refused = b"", f"{visible(text[error.start])} is half a character: it has no bytes in UTF-8"
        limits = self._shared.limits
        if len(data) > limits.message:
            refused = f"it has {len(data):,} bytes, and {limits.message:,} are taken"
        elif len(self._kept) >= limits.kept:
            refused = f"{limits.kept} messages wait for their echo: wait for one, too"
        elif not data:
            refused = refused or "an empty message sends no bytes"
        if refused:
            self.tell(refused=number, note=f"This was not sent: {refused}.")
            return
        self.sent += 1
        self._kept.append(_Message(number, data, time.perf_counter()))
        self._flush()

    # -- the connection ------------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        pause = FIRST
        try:
            while not self._ended:
                self._now.clear()
                if not self._shared.changing:
                    self._client = await self._connect(2 * pause)
                if self._client is not None and not self._ended and await self._talk():
                    pause = FIRST
                self._is("changing" if self._shared.changing else "connecting" if self._tried else "lost")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if self._shared.changing else pause):
                        await self._now.wait()
                    pause = FIRST / 2
                pause = min(LONGEST, 2 * pause)
        finally:
            self._hang_up()

    _tried = False  # the last attempt to connect got no answer

    async def _connect(self, patience: float) -> Client | None:
        """Connect, without anybody waiting for it. Where the backlog is full the kernel does not answer: after
        `patience` seconds it is asked anew, for it would ask again ever more rarely.
        """
        observation = self._shared.target()
        self._tried = False
        if observation is None or observation.address is None:
            return None
        address, began = reachable(observation.address), time.perf_counter()
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            sock.setblocking(False)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):  # not wait_for: in Python 3.11 it may lose a cancel
                    await self._loop.sock_connect(sock, address)
            if self._shared.target() is not observation:  # the server was changed meanwhile: nobody knows to which
                raise ConnectionError
            return Client.of(sock, observation, self.name, began)
        except OSError as error:
            self._tried = not isinstance(error, ConnectionError)
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise

    async def _talk(self) -> bool:
        """As long as the connection lasts. Whether it was of any use."""
        assert self._client is not None
        began, answered = self._loop.time(), self.answered
        self._over.clear()
        self._came.clear()
        self._more = False
        for each in self._kept:  # what had no whole answer is sent again
            each.sent = 0
        self._loop.add_reader(self._client.fileno(), self._read)
        self._is("waiting")
        self._flush()
        await self._over.wait()
        self._hang_up()
        return self.answered > answered or self._loop.time() - began > LONGEST

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            if client.fileno() != -1:
                self._loop.remove_reader(client.fileno())
                self._loop.remove_writer(client.fileno())
            client.close()

    def change(self) -> None:
        """The server is being changed, or was: then hang up, and connect at once to the one that is there now."""
        if self._shared.changing:
            self._is("changing")
        else:
            self._over.set()
            self._now.set()

    def _flush(self) -> None:
        """Hand over what the system takes now."""
        client = self._client
        if client is None or self._shared.changing:
            return
        try:
            for each in self._kept:
                if each.sent < len(each.data):
                    each.sent += client.offer(memoryview(each.data)[each.sent :])
                if each.sent < len(each.data):
                    self._loop.add_writer(client.fileno(), self._flush)
                    return
            self._loop.remove_writer(client.fileno())
        except EchoError:
            self._over.set()

    def _read(self) -> None:
        assert self._client is not None
        try:
            data = self._client.pending()
        except EchoError:
            self._loop.remove_reader(self._client.fileno())
            self._over.set()
            return
        owed = sum(each.sent for each in self._kept) - len(self._came)
        self._came += data[:owed]
        now = time.perf_counter()
        while self._kept and len(self._came) >= len(self._kept[0].data):
            message = self._kept.popleft()
            size = len(message.data)
            answer, self._came = bytes(self._came[:size]), self._came[size:]
            text = visible(answer.decode("utf-8", "backslashreplace"))[:LETTERS]
            same, took = answer == message.data, round((now - message.at) * 1000, 1)
            self.answered += 1
            self._done.append({"echo": message.id, "text": text, "ms": took, "same": same})
            self.tell(**self._done[-1])
        if len(data) > owed:
            if not self._more:  # it may go on for ever
                self.tell(note=f"The server has sent {counted(len(data) - owed, 'byte')} more than it got.")
            self._more = True

    def end(self, words: str) -> None:
        """Hang up, for good, and say why to the page."""
        self._ended = True
        self._task.cancel()
        self._hang_up()
        page, self.page = self.page, None
        if page is not None:
            page.let_go(words)
