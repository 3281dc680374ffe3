"""`Room`: a class joins with its phones. Each phone has a web page, and one real TCP connection to the watched server.

    phone ── WebSocket ── web.py ── crowd.py ── seat.py ── TCP ── the student's server

All of it runs in one thread with an event loop of its own, which waits for nobody. Other threads read what is there, or
hand over a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..server import Server
from ..views.printed import client_names
from ..watch.borrowed import before_exit
from ..watch.events import open_to, reachable
from ..watch.observation import noting
from ..watch.reasons import checked, refusal
from ..watch.sockets import free_port
from ..watch.stopping import show_out
from ..watch.text import cut, visible
from .crowd import Ballot as Ballot, Crowd, Phone as Phone
from .outside import in_the_room, lines_to_type, through_hub, web_address
from .seat import Limits as Limits
from .web import Web

LOOK = 0.2  # seconds from one look at the server to the next
CLOSES = 5.0  # seconds at most that a call waits for the loop


class Room:
    """The web page of a class, open from now on.

    server  the watched server to which the phones connect
    host    where the page listens: for this machine only, unless told otherwise
    port    a free one unless given
    address, notes  where it listens; sentences about what phones need

    Raises `OSError` with a sentence when it cannot listen there, `TypeError` for what is no server.
    """

    def __init__(
        self, server: Server, host: str = "127.0.0.1", port: int | None = None, limits: Limits | None = None
    ) -> None:
        if not isinstance(server, Server):
            raise TypeError(f"a room needs a server that start() returned, not {cut(visible(repr(server)), 80)}")
        checked(host, port)
        self._listener = _listen(host, port)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._base, self.notes, behind_hub = self._found()
        limits = limits or Limits()
        if behind_hub:  # all phones come from the proxy's address
            limits = replace(limits, per_address=limits.phones)
        self._crowd = Crowd(server, limits, self.address[0])
        self._closed = threading.Event()
        self._loop = asyncio.SelectorEventLoop()  # on Windows, too: the other kind cannot watch a socket
        self._loop.set_exception_handler(lambda *_: None)  # it would print below whichever cell runs
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"room of {server.name}", daemon=True)
        _open.add(self)
        before_exit(_close_all)
        self._thread.start()

    def _found(self) -> tuple[str, list[str], bool]:
        """Where phones find the page, without the token; what is to be said of it; whether that is behind a hub."""
        hub, host = through_hub(self.address[1]), in_the_room(self.address[0], both=True)
        if hub is not None:
            return *hub, True
        if host:
            return web_address(host, self.address[1]), [], False
        here = "This machine has no address in a network: only it can open the page, until it has one."
        return web_address(*reachable(self.address)), [here], False

    # -- called from any thread ----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """What phones open."""
        return f"{self._base}?k={self._crowd.token}"

    @property
    def rehearsal_url(self) -> str:
        """The same for simulated phones on this machine: the limit per address does not hold for them."""
        return f"{web_address(*reachable(self.address))}?k={self._crowd.rehearsal_token}"

    @property
    def lines(self) -> list[str]:
        """How one joins: the address of the page, and what to type without a browser. Or why not."""
        return [self.url, *lines_to_type(self._crowd.observation().address)]

    @property
    def others(self) -> str:
        """Who can open the page, if that is more than this machine; else ""."""
        more = open_to(self.address[0])
        return more and "Any machine that reaches this one can join, if it knows the whole address of the page."

    def phones(self) -> list[Phone]:
        """Those that are in the room, in the order in which they came."""
        return self._crowd.phones()

    def ask(self, ballot: Ballot | None) -> None:
        """Show it on all phones, also on those that come later; again, when it has changed. None takes it away."""
        self._do(self._crowd.ask, ballot)

    def show_out(self, phone: int) -> None:
        """End the phone with that id. Its page may not come back, nor anybody of that name for half a minute."""
        self._do(self._crowd.show_out, phone)

    def show_out_client(self, name: str) -> None:
        """End the connection of a client that is no phone, by its name in the views: the server reads an end of file.

        Raises `LookupError` when the server has no such connection. One that waits in the backlog cannot be ended: it
        is the kernel's until the server accepts it.
        """
        observation = self._crowd.observation()
        found = [end for end, called in client_names(observation).items() if called == name]
        if not any(show_out(observation, end) for end in found):
            called = cut(visible(name), 40)
            raise LookupError(f"the server serves no client {called} now; one that waits cannot be shown out yet")

    def changing(self) -> None:
        """The server is about to be changed: phones say so, and keep what is typed. `changed` must follow."""
        self._do(self._crowd.change, True)

    def changed(self, server: Server) -> None:
        """The phones connect to that server at once, and send what had no whole answer."""
        self._do(self._crowd.change, False, server)

    def close(self) -> None:
        """Say good-bye to all phones, and end everything. Calling it again does nothing."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._over.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSES)

    def _do(self, call: Callable[..., None], *args: Any) -> None:
        """Have the loop make the call, and wait until it has. In a closed room it does nothing."""
        done = threading.Event()

        def work() -> None:
            try:
                call(*args)
            finally:
                done.set()

        if threading.current_thread() is self._thread:
            work()
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work)
            done.wait(CLOSES)

    # -- the room's thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._listener.close()
            self._loop.close()

    async def _serve(self) -> None:
        web = Web(self._listener, self._crowd)
        while not self._over.is_set():
            with noting(self._crowd.observation()):
                self._crowd.look(self._loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._over.wait()
        self._crowd.end()
        await web.end()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1.0)


_open: weakref.WeakSet[Room] = weakref.WeakSet()


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
        said = refusal(error, (host, at)) or f"the page cannot listen at {host}:{at}: {error.strerror or error}"
        raise OSError(error.errno, said) from None
    listener.setblocking(False)
    return listener
