"""`Web`: the page of a room and its WebSocket, by tornado, which comes with JupyterLab. Bounded in all that others can
do: connections, their time, the size of what they send, how fast they send it, and what waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamBufferFullError
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ..watch.events import plain_address
from .crowd import HERE, Crowd
from .panel import STATIC
from .seat import Pace, Seat

JOINS = 10.0  # seconds in which a connection must have become a phone
PING = 20.0  # seconds from one sign of life that a page is asked for to the next
SPARE = 32  # connections from one address that are no phones yet, or no longer
LATE = 50  # messages in a row that had to wait: no person types them
FLOOD = 100_000  # bytes at once, and in four seconds: of messages, so many are never read
READ, WRITTEN = 65_536, 65_536  # bytes of a connection that the kernel and tornado keep, of each

WRONG = "This is not the whole address of the page. Scan the code on the screen, or type all of the address."
TOO_FAST = "Too many messages, too fast: this phone was disconnected."


class Web:
    """Serves the pages of `crowd` at `listener`, in the running loop, until `end`."""

    def __init__(self, listener: socket.socket, crowd: Crowd) -> None:
        self.crowd = crowd
        self.html = (STATIC / "phone.html").read_text("utf-8")
        self._listener, self._loop = listener, asyncio.get_running_loop()
        self._streams: dict[_Stream, str] = {}  # the open connections, and from where they come
        application = Application(
            [(r"/", _Html, {"web": self}), (r"/ws", _Socket, {"web": self})],
            websocket_ping_interval=PING,
            websocket_ping_timeout=PING,
            websocket_max_message_size=8 * crowd.limits.message + 500,  # JSON may need six letters for one
            log_function=lambda _: None,
        )
        self._http = HTTPServer(
            application, max_header_size=8192, max_body_size=1024, idle_connection_timeout=JOINS, body_timeout=JOINS
        )
        self._loop.add_reader(listener, self._accept)

    def _accept(self) -> None:
        """Take a connection, unless there are too many from its address."""
        try:
            conn, address = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # else the loop would hear of it without end
                self._loop.remove_reader(self._listener)
                self._loop.call_later(1.0, self._accept_again)
            return
        where, limits = plain_address(address)[0], self.crowd.limits
        most = limits.phones + limits.rehearsal if where in HERE else limits.per_address
        if Counter(self._streams.values())[where] >= most + SPARE:
            conn.close()
            return
        with contextlib.suppress(OSError):
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, WRITTEN
            )  # else megabytes wait for one that never reads
        stream = _Stream(conn, max_buffer_size=READ, max_write_buffer_size=len(self.html) + limits.unread)
        stream.gone = lambda: self._streams.pop(stream, None)
        stream.patience = self._loop.call_later(JOINS, stream.close)
        self._streams[stream] = where
        self._http.handle_stream(stream, address)

    def _accept_again(self) -> None:
        if self._listener.fileno() != -1:
            self._loop.add_reader(self._listener, self._accept)

    async def end(self) -> None:
        """Close everything, when what the pages are told is on its way."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        deadline = self._loop.time() + 0.5
        while any(each.writing() for each in self._streams) and self._loop.time() < deadline:
            await asyncio.sleep(0.01)
        for stream in list(self._streams):
            stream.close()


class _Stream(IOStream):
    """A connection that is counted until it is closed, and closed when it floods us with what is no message."""

    gone: Callable[[], object] = staticmethod(lambda: None)
    patience: asyncio.TimerHandle | None = None
    _at, _free = 0.0, FLOOD  # when it was read last, and how many bytes it might have sent then

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        count = super().read_from_fd(buf)
        if count:
            now = asyncio.get_running_loop().time()
            self._free = min(FLOOD, int(self._free + (now - self._at) * FLOOD / 4)) - count
            self._at = now
            if self._free < 0:
                raise ConnectionResetError(errno.ECONNRESET, "a flood")
        return count

    def close_fd(self) -> None:
        super().close_fd()
        self.stay()
        self.gone()

    def stay(self) -> None:
        """It has become a phone."""
        if self.patience is not None:
            self.patience.cancel()


class _Ours(RequestHandler):
    """What both have in common: only those who know the token get anything."""

    def initialize(self, web: Web) -> None:
        self.web, self.crowd = web, web.crowd

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")  # the token is in the address

    def prepare(self) -> None:
        self.address = plain_address((self.request.remote_ip or "", 0))[0]
        self.rehearsal = self.crowd.admits(self.request.query_arguments.get("k", [b""])[0], self.address)
        if self.rehearsal is None:
            self.set_status(403)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(WRONG)

    def log_exception(self, *_: Any) -> None:
        """Nothing is printed: it would stand below whichever cell runs."""


class _Html(_Ours):
    def get(self) -> None:
        nonce = secrets.token_urlsafe(12)
        none = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        some = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:"
        self.set_header("Content-Security-Policy", f"{none}; {some}")
        self.set_header("Connection", "close")
        self.finish(self.web.html.replace("NONCE", nonce))


class _Socket(_Ours, WebSocketHandler):
    """The page of one phone, as its seat knows it."""

    seat: Seat | None = None

    def check_origin(self, origin: str) -> bool:
        """Any: the token protects, and behind a proxy the page's own host is another one than we know."""
        return True

    def open(self, *_: str, **__: str) -> None:
        self.pace = Pace(self.crowd.limits.rate, self.crowd.limits.burst)

    def on_close(self) -> None:
        if self.seat is not None:
            self.seat.lose(self)

    def tell(self, **message: Any) -> None:
        try:
            self.write_message(json.dumps(message)).add_done_callback(_hear)
        except WebSocketClosedError:
            pass  # its seat hears of it by `on_close`
        except StreamBufferFullError:
            if self.seat is not None:
                self.seat.trouble = "its page does not read what it is sent: disconnected"
            self._cut_off()

    def let_go(self, words: str) -> None:
        self.seat = None
        if words:
            self.tell(state="out", words=words)
        self.close()

    def _cut_off(self) -> None:
        stream = None if self.ws_connection is None else self.ws_connection.stream
        if stream is not None:
            stream.close()

    def on_ping(self, data: bytes) -> None:
        """These cannot be made to wait. A page sends none, and a pong now and then."""
        if self.pace.wait(asyncio.get_running_loop().time()):
            self._cut_off()

    on_pong = on_ping

    async def on_message(self, message: str | bytes) -> None:
        wait = self.pace.wait(asyncio.get_running_loop().time())
        if wait:  # nothing more is read from it meanwhile: a flood fills only its own buffers
            if self.seat is not None:
                self.seat.trouble = f"too fast: {self.crowd.limits.rate:g} messages a second are taken"
            if self.pace.late > LATE:
                self.tell(state="out", words=TOO_FAST)
                self.close()
                await asyncio.sleep(1.0)  # for it to read that: what we have not read makes a reset of the close
                self._cut_off()
                return
            await asyncio.sleep(wait)
        what = None
        with contextlib.suppress(ValueError, RecursionError):
            what = json.loads(message)
        if isinstance(what, dict):
            self._do(what)

    def _do(self, what: dict[str, Any]) -> None:
        do, number, text, seat = what.get("do"), what.get("id"), what.get("text"), self.seat
        if do == "here":
            self.tell(here=True)
        elif seat is None:
            if do == "join" and isinstance(what.get("name"), str) and isinstance(what.get("seat"), str):
                self._join(what["name"], what["seat"])
        elif do == "say" and type(number) is int and isinstance(text, str):
            seat.say(number, text)
        elif do == "vote" and type(what.get("ballot")) is int and type(what.get("option")) is int:
            self.crowd.vote(seat, what["ballot"], what["option"])
        elif do == "leave":
            self.crowd.drop(seat)

    def _join(self, name: str, key: str) -> None:
        seat = self.crowd.join(name, key, self.address, bool(self.rehearsal))
        if isinstance(seat, str):
            self.let_go(seat)
            return
        self.seat, self.pace = seat, seat.pace
        if self.ws_connection is not None and isinstance(self.ws_connection.stream, _Stream):
            self.ws_connection.stream.stay()
        seat.take(self)
        self.crowd.show_ballot(seat)


def _hear(sent: asyncio.Future[None]) -> None:
    """Whatever went wrong: that a page has gone is told by `on_close`."""
    if not sent.cancelled():
        sent.exception()
