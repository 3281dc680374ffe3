"""`Room`: a class joins with its phones. Each phone has a web page, and one real TCP connection to the watched server.

The page and its WebSocket are served by tornado, which comes with JupyterLab, in one thread with an event loop of its
own. All that changes runs in that loop; other threads only read, or hand a call over.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import itertools
import json
import re
import secrets
import socket
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamBufferFullError
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ..server import Server, newest
from ..watch.borrowed import before_exit
from ..watch.events import open_to, plain_address, reachable
from ..watch.observation import Observation
from ..watch.reasons import checked, refusal
from ..watch.sockets import free_port
from ..watch.text import cut, visible
from .outside import in_the_room, lines_to_type, through_hub, web_address
from .panel import STATIC
from .seat import Limits as Limits, Pace, Seat, Shared

LOOK = 0.2  # seconds from one look at the server to the next
JOINS = 10.0  # seconds in which a connection to the page must have become a phone
CHANGE = 30.0  # seconds that a change of server may take: then phones connect to whatever is there
BANNED = 30.0  # seconds for which a name that was shown out may not come back
CLOSES = 5.0  # seconds at most that `close` takes
SPARE = 32  # connections from one address that are no phones yet, or no longer
LATE = 50  # messages in a row that had to wait: it is no person
KEY = re.compile(r"[A-Za-z0-9_-]{8,64}")
HERE = ("127.0.0.1", "::1")


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


class Room:
    """The web page of a class, open from now on.

    server  the watched server to which the phones connect
    host    where the page listens: for this machine only, unless told otherwise
    port    a free one unless given

    Raises `OSError` with a sentence when it cannot listen there, `TypeError` for what is no server.
    """

    def __init__(
        self, server: Server, host: str = "127.0.0.1", port: int | None = None, limits: Limits | None = None
    ) -> None:
        if not isinstance(server, Server):
            raise TypeError(f"a room needs a server that start() returned, not {cut(visible(repr(server)), 80)}")
        checked(host, port)
        limits = limits or Limits()
        self._listener = _listen(host, port)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.notes: list[str] = []
        self._shared = Shared(server, limits)
        self._tokens = {secrets.token_urlsafe(8): False, secrets.token_urlsafe(8): True}  # -> is it for a rehearsal?
        self._seats: dict[str, Seat] = {}  # by key
        self._numbers = itertools.count(1)
        self._ballot: Ballot | None = None
        self._shown_out: dict[str, float] = {}  # a key or a name -> until when it may not come back
        self._streams: dict[_Stream, str] = {}  # the connections to the page, with their addresses
        self._closed = False
        self._html = (STATIC / "phone.html").read_text("utf-8")
        self._loop = asyncio.SelectorEventLoop()  # also on Windows: tornado needs add_reader
        self._loop.set_exception_handler(lambda _, context: None)
        self._thread = threading.Thread(target=self._run, name=f"room of {server.name}", daemon=True)
        _open.add(self)
        before_exit(_close_all)
        self._thread.start()

    # -- called from any thread ----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """What phones open."""
        return self._url(False)

    @property
    def rehearsal_url(self) -> str:
        """The same for simulated phones on this machine, for which the limit per address does not hold."""
        host = reachable(self.address)[0]
        return f"{web_address(host, self.address[1])}?k={self._token(True)}"

    @property
    def lines(self) -> list[str]:
        """How phones and others join: lines to show."""
        observation = self._observation()
        return [self.url, *lines_to_type(observation.address)]

    @property
    def others(self) -> str:
        """Who can open the page, if that is more than this machine; else ""."""
        if not open_to(self.address[0]):
            return ""
        return "any machine that reaches this one can join, if it knows the address of the page"

    def phones(self) -> list[Phone]:
        """Those that are in the room, in the order in which they came."""
        return [
            Phone(s.id, s.name, s.address, s.state, s.thread, s.sent, s.answered, s.trouble)
            for s in list(self._seats.values())
        ]

    def ask(self, ballot: Ballot | None) -> None:
        """Show it on all phones, also on later ones, and again when it has changed; None takes it away."""
        self._do(self._ask, ballot)

    def show_out(self, phone: int) -> None:
        """End the phone with that id. The same page may not come back, nor anybody of that name for half a minute."""
        self._do(self._show_out, phone)

    def changing(self) -> None:
        """The server is about to be changed: from now on messages are kept."""
        self._do(self._change, True, None)

    def changed(self, server: Server) -> None:
        """The phones connect to that server, and send what had no whole answer."""
        self._do(self._change, False, server)

    def close(self) -> None:
        """Say good-bye to all phones, and end everything. Calling it again does nothing."""
        with _lock:
            closed, self._closed = self._closed, True
        if not closed:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(CLOSES)

    def _do(self, call: Callable[..., None], *args: Any) -> None:
        """Have the loop make the call, and wait until it has."""
        done = threading.Event()

        def work() -> None:
            try:
                call(*args)
            finally:
                done.set()

        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(work)
            if threading.current_thread() is not self._thread:
                done.wait(CLOSES)

    def _token(self, rehearsal: bool) -> str:
        return next(token for token, each in self._tokens.items() if each is rehearsal)

    def _url(self, rehearsal: bool) -> str:
        base = web_address(in_the_room(self.address[0]) or reachable(self.address)[0], self.address[1])
        return f"{base}?k={self._token(rehearsal)}"

    def _observation(self) -> Observation:
        return (newest(self._shared.server.name) or self._shared.server).observation

    # -- the loop's thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._over = asyncio.Event()
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        pages = [(r"/", _Html, {"room": self}), (r"/ws", _Socket, {"room": self})]
        quiet: dict[str, Any] = {"log_function": lambda _: None}
        application = Application(
            pages, websocket_ping_interval=20, websocket_max_message_size=8 * self._shared.limits.message + 500, **quiet
        )
        self._http = HTTPServer(
            application, max_header_size=8192, max_body_size=1024, idle_connection_timeout=JOINS, body_timeout=JOINS
        )
        self._loop.add_reader(self._listener, self._accept)
        while not self._over.is_set():
            self._look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), LOOK)
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for seat in list(self._seats.values()):
            seat.tell(state="out", words="The room is closed.")
            self._drop(seat)
        for stream in list(self._streams):
            stream.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSES / 2)

    def _accept(self) -> None:
        """Take a connection to the page, unless there are too many from its address."""
        try:
            conn, address = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # else the loop would be told of it without end
                self._loop.remove_reader(self._listener)
                self._loop.call_later(1.0, self._accept_again)
            return
        where, limits = plain_address(address)[0], self._shared.limits
        most = limits.phones + limits.rehearsal if where in HERE else limits.per_address
        if Counter(self._streams.values())[where] >= most + SPARE:
            conn.close()
            return
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = _Stream(conn, max_buffer_size=65_536, max_write_buffer_size=limits.unread)
        stream.forget = lambda: self._streams.pop(stream, None)
        self._streams[stream] = where
        stream.patience = self._loop.call_later(JOINS, stream.close)
        self._http.handle_stream(stream, address)

    def _accept_again(self) -> None:
        if self._listener.fileno() != -1:
            self._loop.add_reader(self._listener, self._accept)

    def _look(self) -> None:
        """See what has become of each phone."""
        serving = {task.connection: task.label for task in self._observation().tasks.copy() if task.connection}
        now = self._loop.time()
        for seat in list(self._seats.values()):
            seat.look(serving)
            if seat.away is not None and now - seat.away > self._shared.limits.grace:
                self._drop(seat)
        self._shown_out = {what: until for what, until in self._shown_out.items() if until > now}

    def _ask(self, ballot: Ballot | None) -> None:
        self._ballot = ballot
        for seat in self._seats.values():
            self.tell_ballot(seat)

    def _change(self, changing: bool, server: Server | None) -> None:
        self._shared.changing = changing
        self._shared.server = server or self._shared.server
        if changing:
            self._late = self._loop.call_later(CHANGE, self._change, False, None)
        elif self._late is not None:
            self._late.cancel()
        for seat in self._seats.values():
            seat.change()

    _late: asyncio.TimerHandle | None = None

    def _show_out(self, phone: int) -> None:
        for seat in [each for each in self._seats.values() if each.id == phone]:
            seat.tell(state="out", words="You were shown out.")
            self._shown_out[seat.key] = float("inf")
            self._shown_out[seat.name.casefold()] = self._loop.time() + BANNED
            self._drop(seat)

    def _drop(self, seat: Seat) -> None:
        self._seats.pop(seat.key, None)
        seat.end()
        if isinstance(seat.page, _Socket):
            seat.page.seat = None
            seat.page.close()

    # -- what pages ask for, in the loop's thread ----------------------------------------------------------------------

    def admits(self, token: str, address: str) -> bool | None:
        """Whether that token is for a rehearsal; None: it is for nothing."""
        given = token.encode("utf-8", "replace")
        found = [each for known, each in self._tokens.items() if hmac.compare_digest(known.encode(), given)]
        own = address in (*HERE, self.address[0])
        return next((each for each in found if own or not each), None)

    def tell_ballot(self, seat: Seat) -> None:
        seat.tell(ballot=self._ballot.shown(seat.key) if self._ballot is not None else None)

    def join(self, name: str, key: str, address: str, rehearsal: bool) -> Seat | str:
        """The seat of a phone: its old one, or a new one. A sentence, if there is none."""
        known, now = self._seats.get(key), self._loop.time()
        if known is not None and known.rehearsal is rehearsal:
            return known
        limits = self._shared.limits
        name = cut(visible(name).strip(), limits.name)
        if not KEY.fullmatch(key) or key in self._shown_out or self._shown_out.get(name.casefold(), 0.0) > now:
            return "You were shown out."
        same = [each for each in self._seats.values() if each.rehearsal is rehearsal]
        if len(same) >= (limits.rehearsal if rehearsal else limits.phones):
            return f"The room is full: {len(same):,} phones are in it."
        if not rehearsal and sum(each.address == address for each in same) >= limits.per_address:
            return f"{limits.per_address} phones have joined from your address: more may not."
        number = next(self._numbers)
        self._seats[key] = seat = Seat(
            number, self._unique(name or f"phone {number}"), key, address, rehearsal, self._shared
        )
        return seat

    def _unique(self, name: str) -> str:
        taken = {each.name for each in self._seats.values()}
        return next(each for n in itertools.count(1) if (each := name if n == 1 else f"{name} {n}") not in taken)

    def leave(self, seat: Seat) -> None:
        self._drop(seat)

    def vote(self, seat: Seat, ballot: int, option: int) -> None:
        if self._ballot is not None and self._ballot.id == ballot:
            self._ballot.cast(seat.key, option)
        self.tell_ballot(seat)


class _Stream(IOStream):
    """A connection to the page, which is counted until it is closed."""

    forget: Callable[[], object] = staticmethod(lambda: None)
    patience: asyncio.TimerHandle | None = None

    def close_fd(self) -> None:
        super().close_fd()
        self.forget()
        self.stay()

    def stay(self) -> None:
        """It has become a phone: it may stay."""
        if self.patience is not None:
            self.patience.cancel()


class _Ours(RequestHandler):
    """What both pages have in common: only those who know the token get anything."""

    def initialize(self, room: Room) -> None:
        self.room = room

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")  # the token is in the address

    def prepare(self) -> None:
        self.address = plain_address((self.request.remote_ip or "", 0))[0]
        self.rehearsal = self.room.admits(self.get_query_argument("k", ""), self.address)
        if self.rehearsal is None:
            self.set_status(403)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish("This is not the whole address. Scan the code on the screen again, or type all of its address.")

    def log_exception(self, *_: Any) -> None:
        """Nothing is printed: it would stand below whichever cell runs."""


class _Html(_Ours):
    def get(self) -> None:
        nonce = secrets.token_urlsafe(12)
        only = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:"
        none = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        self.set_header("Content-Security-Policy", f"{none}; {only}")
        self.finish(self.room._html.replace("NONCE", nonce))


class _Socket(_Ours, WebSocketHandler):
    """The page of one phone, as a seat knows it."""

    seat: Seat | None = None

    def check_origin(self, origin: str) -> bool:
        """Any: the token protects, and behind a proxy the page's own host is another one than we know."""
        return True

    def open(self, *_: str, **__: str) -> None:
        limits = self.room._shared.limits
        self.pace = Pace(limits.rate, limits.burst)

    def tell(self, **message: Any) -> None:
        try:
            self.write_message(json.dumps(message)).add_done_callback(_hear)
        except WebSocketClosedError:
            pass
        except StreamBufferFullError:
            if self.seat is not None:
                self.seat.trouble = "its page does not read what it is sent: disconnected"
            self._cut_off()

    def _cut_off(self) -> None:
        if self.ws_connection is not None:
            self.ws_connection.stream.close()

    async def on_message(self, message: str | bytes) -> None:
        wait = self.pace.wait(self.room._loop.time())
        if wait:  # nothing more is read of it meanwhile: who floods fills only its own buffers
            if self.seat is not None:
                self.seat.trouble = f"too fast: {self.room._shared.limits.rate:g} messages a second are taken"
            if self.pace.late > LATE:
                self.tell(state="out", words="Too many messages, too fast: this phone was disconnected.")
                self._cut_off()
                return
            await asyncio.sleep(wait)
        try:
            what = json.loads(message)
        except ValueError:
            what = None
        if isinstance(what, dict):
            self._do(what)

    def _do(self, what: dict[str, Any]) -> None:
        do, number, text = what.get("do"), what.get("id"), what.get("text")
        if do == "here":
            self.tell(here=True)
        elif self.seat is None:
            if do == "join":
                self._join(what)
        elif do == "say" and type(number) is int and isinstance(text, str):
            self.seat.say(number, text)
        elif do == "vote" and type(what.get("ballot")) is int and type(what.get("option")) is int:
            self.room.vote(self.seat, what["ballot"], what["option"])
        elif do == "leave":
            self.room.leave(self.seat)

    def _join(self, what: dict[str, Any]) -> None:
        name, key = what.get("name"), what.get("seat")
        if not (isinstance(name, str) and isinstance(key, str)):
            return
        seat = self.room.join(name, key, self.address, bool(self.rehearsal))
        if isinstance(seat, str):
            self.tell(state="out", words=seat)
            self.close()
            return
        before, seat.page, seat.away, self.seat, self.pace = seat.page, self, None, seat, seat.pace
        if isinstance(before, _Socket):
            before.seat = None
            before.tell(state="out", words="This phone goes on in another window.")
            before.close()
        if self.ws_connection is not None and isinstance(self.ws_connection.stream, _Stream):
            self.ws_connection.stream.stay()
        seat.greet()
        self.room.tell_ballot(seat)

    def on_close(self) -> None:
        if self.seat is not None and self.seat.page is self:
            self.seat.page, self.seat.away = None, self.room._loop.time()


def _hear(future: asyncio.Future[None]) -> None:
    """That a page has gone is told by its close."""
    if not future.cancelled():
        future.exception()


_open: weakref.WeakSet[Room] = weakref.WeakSet()
_lock = threading.Lock()


def _close_all() -> None:
    for room in list(_open):
        room.close()


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    at = free_port(host) if port is None else port
    try:
        listener = socket.create_server((host, at), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        said = refusal(error, (host, at)) or f"cannot listen at {host}:{at}: {error.strerror or error}"
        raise OSError(error.errno, said) from None
    listener.setblocking(False)
    return listener
