"""`ServerPanel`, the stage: one server's code, backlog, timeline and log, live, for a class to watch.

The page's side is in `static/`. While somebody looks, the painter looks at the server up to ten times a second and
sends the page what has changed; the server never waits for it. The hands do what buttons ask for: see `hands.py`.
"""

from __future__ import annotations

import contextlib
import queue
import time
from dataclasses import asdict
from typing import Any

import traitlets

from ..server import Server, newest
from ..views.states import STATES, USUAL
from ..watch.text import cut, visible
from .board import pinned
from .feed import Live
from .hands import Commands, PanelWithHands
from .panel import Bundle, script, style

TICK = 0.1  # seconds from one look to the next
UNSEEN = 0.5  # the same, while nobody looks or the picture is frozen
LEASE = 5.0  # seconds for which a page that has said that it looks is believed
BEAT = 1.0  # seconds after which the page hears from us even if nothing has changed
SCRIPTS = ("picture", "timeline", "code", "board", "server_panel")  # of the page, in this order
NAME_LETTERS = 40  # of the server's name
NOTE_LETTERS = 500  # of what went wrong
TABLE = [asdict(state) | {"usual": state in USUAL} for state in STATES]  # what the page draws stretches by


def _step(server: Server, thread: object) -> str:
    """Let threads make one call. Why there was none to let go; "" if there was."""
    if server.step(thread if isinstance(thread, str) else None):
        return ""
    if not server.paused:
        return "No thread is paused, so Step has nothing to do: click Step by step first (or press space)."
    return "No thread is paused at this moment: each is in a call that has begun, and stops before its next one."


COMMANDS: Commands = {
    "stop": ("stopping", lambda panel, _: panel.server.stop()),
    "start": ("starting", lambda panel, _: panel.server.restart()),
    "pause": ("", lambda panel, _: panel.server.pause()),
    "step": ("", lambda panel, message: _step(panel.server, message.get("thread"))),
    "run": ("", lambda panel, _: panel.server.resume()),
}


class ServerPanel(PanelWithHands):
    """The stage of one server: where each thread stands, who waits, what happens, what is printed, as it happens.

    server  what `start` returned. When its cell is run again, the panel goes on with the new one

    Raises `TypeError` for anything else. `close` removes the panel; the server runs on.
    """

    _esm = script(*SCRIPTS)
    _css = style("server_panel")
    name = traitlets.Unicode().tag(sync=True)
    states = traitlets.List(traitlets.Dict(), TABLE).tag(sync=True)
    commands = COMMANDS
    rank = 2  # so that its last picture still shows the others

    def __init__(self, server: Server) -> None:
        if not isinstance(server, Server):
            raise TypeError(f"ServerPanel() needs a server that start() returned, not {server!r}")
        self.server = server  # that is shown now
        self._live: Live | None = None
        self._runs = 0  # which of the servers that it has shown is the one of `_live`
        self._asked = False  # whether a page needs the whole picture
        self._looked_at_until = 0.0  # as long as a page is believed that has said that it looks
        self._frozen = False
        self._trouble = ""  # why the last look has failed
        self._head: dict[str, Any] = {}  # as it was sent last
        self._sent = 0.0  # when that was
        self._board: dict[str, Any] | None = None  # as it was sent last
        super().__init__(server.name, name=cut(visible(server.name), NAME_LETTERS))

    def __repr__(self) -> str:
        return f"ServerPanel {self.name}"

    def _still(self) -> Bundle:
        return self.server.snapshot()._repr_mimebundle_()

    # -- called from any thread ----------------------------------------------------------------------------------------

    def _do(self, message: dict[str, Any]) -> None:
        """Note what the page asks for, and wake the thread that does it."""
        what = message.get("do")
        if what in ("hello", "look"):
            self._asked = self._asked or what == "hello"
            self._looked_at_until = time.monotonic() + LEASE
        elif what in ("freeze", "go on"):  # at once, also while a command is being done
            self._frozen = what == "freeze"
        else:
            if what == "stop":  # it does not wait for commands that have not begun
                with contextlib.suppress(queue.Empty):
                    while True:
                        self._commands.get_nowait()
            if not self._ask(message):
                return
            self._frozen = False  # so that one sees what happens
        self._begin()

    def close(self) -> None:
        """Remove the panel, and leave its last picture in the notebook. Calling it again does nothing."""
        if self.comm is None:  # closed, or never made
            return
        self._end()
        super().close()

    # -- the painter's thread ------------------------------------------------------------------------------------------

    def _paint(self) -> float:
        began = time.monotonic()
        self._tick(began)
        pause = TICK if began <= self._looked_at_until and not self._frozen else UNSEEN
        return max(TICK / 2, began + pause - time.monotonic())

    def _tick(self, now: float) -> None:
        asked, self._asked = self._asked, False
        picture: dict[str, Any] = {}
        if self._live is not None and self._frozen != self._head.get("frozen", False):
            self._tell(now, {"now": self._live.now})  # whoever clicked does not wait for the look
        try:
            picture = self._look(now, asked)
            self._trouble = ""
        except Exception as trouble:  # the next look may go well; the server does not notice
            self._trouble = f"this view has failed: {type(trouble).__name__}: {visible(str(trouble))}"
            self._asked = True  # because nobody knows what the page was told of this look
        board = pinned(self.server.name)
        if board is not self._board or "whole" in picture:  # a picture of a code is long: not at each tick
            picture["board"] = self._board = board
        self._tell(now, picture)

    def _tell(self, now: float, picture: dict[str, Any]) -> None:
        head = self._make_head()
        if head != self._head or len(picture) > 1 or "board" in picture or (picture and now - self._sent > BEAT):
            self._head, self._sent = head, now
            with contextlib.suppress(AttributeError):  # the panel was closed meanwhile
                self.send({"head": head, "picture": picture})

    def _look(self, now: float, asked: bool) -> dict[str, Any]:
        """What the page is told of the picture: all of it (when it asked, or for another server), or what has changed.

        Of a frozen picture it is only the moment at which it stands, as a sign of life; without anybody who looks, {}.
        """
        server = newest(self.server.name) or self.server  # its cell may have been run again
        if self._live is None or self._live.observation is not server.observation:
            self.server, self._live, self._frozen, asked = server, Live(server.observation), False, True
            self._runs += 1
        if now > self._looked_at_until or self._frozen:
            self._live.read()
            picture = {"now": self._live.now} if now <= self._looked_at_until else {}
        else:
            picture = self._live.look()
        if asked:
            return {"whole": True, "run": self._runs, **self._live.whole(), "now": self._live.now}
        return picture

    def _make_head(self) -> dict[str, Any]:
        server = self.server
        state = "stopped" if server.stopped else "running" if server.running else "ended"
        return {
            "state": self._doing or state,
            "running": state == "running",
            "address": " · ".join(filter(None, server.bound)),
            "frozen": self._frozen,
            "stepping": server.paused,
            "note": cut(self._note or self._trouble, NOTE_LETTERS),
        }
