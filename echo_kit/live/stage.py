"""`ServerPanel`, the stage: one server's code, backlog, timeline and log, live, for a class to watch.

The page side is in `static/`. While somebody looks, a painter thread looks at the server up to ten times a second and
sends the page what has changed; nothing that happens in the server waits for it. What the buttons ask for is done by
another thread, so that the picture goes on while a server is being stopped.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import asdict
from typing import Any

import traitlets

from ..server import Server, ServerStuck, newest
from ..views.states import STATES, USUAL
from ..watch.borrowed import answer_nobody
from ..watch.text import visible
from .feed import Live
from .panel import STATIC, Bundle, Panel, script

__all__ = ["ServerPanel"]

TICK = 0.1  # seconds from one look to the next
UNSEEN = 0.5  # the same, while nobody looks or the picture is frozen
LEASE = 5.0  # seconds for which a page that has said that it looks is believed
BEAT = 1.0  # seconds after which the page hears from us even if nothing has changed
COMMANDS = ("stop", "start", "pause", "step", "run")
NAME = 40  # letters of the server's name
LETTERS = 500  # of what went wrong
TABLE = [asdict(state) | {"usual": state in USUAL} for state in STATES]  # what the page draws stretches by


class ServerPanel(Panel):
    """The stage of one server: where each thread stands, who waits, what happens, what is printed, as it happens.

    server  what `start` returned. When its cell is run again, the panel goes on with the new one

    Raises TypeError for anything else. `close` removes the panel; the server runs on.
    """

    _esm = script("server_panel")
    _css = STATIC / "server_panel.css"
    name = traitlets.Unicode().tag(sync=True)
    states = traitlets.List(traitlets.Dict(), TABLE).tag(sync=True)
    watches = True
    _stage: _Stage | None = None

    def __init__(self, server: Server) -> None:
        if not isinstance(server, Server):
            raise TypeError(f"ServerPanel() needs a server that start() returned, not {server!r}")
        self._stage = _Stage(self, server)
        super().__init__(server.name, name=visible(server.name)[:NAME])

    @property
    def server(self) -> Server:
        """The server that is shown now."""
        assert self._stage is not None
        return self._stage.server

    def _do(self, message: dict[str, Any]) -> None:
        if self._stage is not None:
            self._stage.do(message)

    def close(self) -> None:
        """Remove the panel, and leave its last picture in the notebook. Calling it again does nothing."""
        if self._stage is not None:
            self._stage.end()
        super().close()

    def __repr__(self) -> str:
        return f"ServerPanel {self.name}"

    def _still(self) -> Bundle:
        return self.server.snapshot()._repr_mimebundle_()


class _Stage:
    """The two threads behind a panel. The painter alone looks at the server and sends."""

    def __init__(self, panel: ServerPanel, server: Server) -> None:
        self.server = server
        self._panel = panel
        self._live: Live | None = None
        self._commands: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._asked = False  # a page needs all of the picture
        self._looked_at = 0.0  # when a page last said that it looks
        self._frozen = False
        self._doing = self._note = self._trouble = ""
        self._head: dict[str, Any] = {}  # as it was sent last
        self._sent = 0.0
        self._over = False
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    # -- called from any thread ----------------------------------------------------------------------------------------

    def do(self, message: dict[str, Any]) -> None:
        what, thread = message.get("do"), message.get("thread")
        if what in ("hello", "look"):
            self._asked = self._asked or what == "hello"
            self._looked_at = time.monotonic()
        elif what in ("freeze", "go on"):  # at once, whatever else is being done
            self._frozen = what == "freeze"
        elif what in COMMANDS:
            if what == "stop":  # it waits for nothing that has not begun
                self._forget_commands()
            self._commands.put((what, thread if isinstance(thread, str) else None))
        else:
            return
        self._begin()
        self._wake.set()

    def _forget_commands(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._commands.get_nowait()

    def _begin(self) -> None:
        with self._lock:
            if self._threads or self._over:
                return
            for work in (self._paint, self._act):
                thread = threading.Thread(target=work, name=f"stage of {self.server.name}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def end(self) -> None:
        with self._lock:
            self._over = True
        self._commands.put(("end", None))
        self._wake.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=6)  # longer than a stop takes

    # -- the painter's thread ------------------------------------------------------------------------------------------

    def _paint(self) -> None:
        answer_nobody()
        try:
            while not self._over:
                began = time.monotonic()
                self._wake.clear()
                self._tick(began)
                looked_at = began - self._looked_at < LEASE and not self._frozen
                self._wake.wait(max(TICK / 2, began + (TICK if looked_at else UNSEEN) - time.monotonic()))
        finally:
            if self._live is not None:
                self._live.close()

    def _tick(self, now: float) -> None:
        asked, self._asked = self._asked, False
        picture: dict[str, Any] = {}
        try:
            asked = self._follow() or asked
            picture = self._look(now, asked)
            self._trouble = ""
        except Exception as trouble:  # the next look may go well; the server does not notice
            self._trouble = f"this view has failed: {type(trouble).__name__}: {visible(str(trouble))}"
            self._asked = True  # what of this look was told is not known
        head = self._make_head()
        if head != self._head or "whole" in picture or len(picture) > 1 or (picture and now - self._sent > BEAT):
            self._head, self._sent = head, now
            with contextlib.suppress(AttributeError):  # the panel was closed meanwhile
                self._panel.send({"head": head, "picture": picture})

    def _follow(self) -> bool:
        """Go over to the newest server of that name: its cell may have been run again. Whether there is another."""
        server = newest(self.server.name) or self.server
        if self._live is not None and self._live.observation is server.observation:
            return False
        if self._live is not None:
            self._live.close()
        self.server, self._live = server, Live(server.observation)
        self._frozen = False
        return True

    def _look(self, now: float, asked: bool) -> dict[str, Any]:
        """What the page is to be told of the picture."""
        assert self._live is not None
        picture: dict[str, Any] = {}
        looked_at = now - self._looked_at <= LEASE
        if looked_at and not self._frozen:
            picture = self._live.look()
        else:
            self._live.read()
            if looked_at:
                picture = {"now": self._live.now}  # a sign of life, and the moment at which the picture stands
        return {"whole": True, **self._live.whole(), "now": self._live.now} if asked else picture

    def _make_head(self) -> dict[str, Any]:
        server = self.server
        state = "stopped" if server.stopped else "running" if server.running else "ended"
        host, port = server.address
        return {
            "state": self._doing or state,
            "running": state == "running",
            "address": f"{host}:{port}",
            "frozen": self._frozen,
            "stepping": server.paused,
            "note": (self._note or self._trouble)[:LETTERS],
        }

    # -- the hands' thread ---------------------------------------------------------------------------------------------

    def _act(self) -> None:
        answer_nobody()
        while True:
            command, thread = self._commands.get()
            if self._over:
                return
            self._note = ""
            try:
                self._act_on(command, thread)
            except (ServerStuck, OSError, ValueError, RuntimeError) as error:
                self._note = visible(str(error))
            except BaseException as error:  # what the student's server raises when it is started again, SystemExit too
                self._note = f"{type(error).__name__}: {visible(str(error))}"
            finally:
                self._doing = ""
                self._wake.set()

    def _act_on(self, command: str, thread: str | None) -> None:
        self._frozen = False  # whoever makes something happen wants to see it
        if command == "stop":
            self._doing = "stopping"
            self._wake.set()
            self.server.stop()
        elif command == "start":
            self._doing = "starting"
            self._wake.set()
            self.server.restart()
        elif command == "pause":
            self.server.pause()
        elif command == "step":
            self.server.step(thread)
        elif command == "run":
            self.server.resume()
