"""Widgets: `ClientPanel`, a client to type into.

The page side is in `static/`. The kernel's threads never block for it: a click or a line becomes a command in a queue,
and one worker thread a panel connects, sends, receives and, at most 20 times a second, writes the widget.
"""

from __future__ import annotations

import codecs
import contextlib
import html
import itertools
import queue
import selectors
import socket
import threading
import time
from typing import Any

import traitlets

from .client import Client, EchoError
from .events import Address, visible
from .panel import STATIC, Bundle, Panel, answer_nobody, script
from .runner import Server, newest

__all__ = ["ClientPanel"]

ENTRIES = 200  # that a transcript keeps
SHOWN = 2_000  # characters of one entry
PAINTS = 20  # a second, at most
TOGETHER = 0.005  # seconds: what happens so close together, like a message and its echo, is painted once


class ClientPanel(Panel):
    """A client to type into: it connects at once, Enter sends, the transcript shows what is still unanswered.

    server  what `start` returned, or an address (host, port)
    name    how the panel and every view call this client

    A second panel of that name at that server takes the place of the first. `close` hangs up and removes it.
    """

    _esm = script("client_panel")
    _css = STATIC / "client_panel.css"
    name = traitlets.Unicode().tag(sync=True)
    where = traitlets.Unicode().tag(sync=True)
    state = traitlets.Unicode("not connected").tag(sync=True)
    connected = traitlets.Bool(False).tag(sync=True)
    entries = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(self, server: Server | Address, name: str = "client") -> None:
        super().__init__((server.name if isinstance(server, Server) else server, name), name=visible(str(name)))
        self._worker = _Worker(self, server, str(name))
        self._worker.do("connect")

    def _do(self, message: dict[str, Any]) -> None:
        if message.get("do") in ("connect", "disconnect", "send"):
            self._worker.do(message["do"], str(message.get("text", "")))

    def close(self) -> None:
        """Hang up, end the worker and remove the widget. Calling it again does nothing."""
        self._worker.end()
        super().close()

    def __repr__(self) -> str:
        return f"ClientPanel {self.name}"

    def _still(self) -> Bundle:
        note = (
            f"<p><b>{html.escape(self.name)}</b>: here is a panel to type messages into. "
            "It needs a running kernel: open the notebook in JupyterLab and run this cell.</p>"
        )
        return {"text/plain": repr(self), "text/html": note}, {}


class _Worker:
    """The thread behind a panel. It alone uses the client and writes the widget."""

    def __init__(self, panel: ClientPanel, server: Server | Address, name: str) -> None:
        self._panel, self._server, self._name = panel, server, name
        self._client: Client | None = None
        self._commands: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._entries: list[dict[str, Any]] = []
        self._ids = itertools.count(1)
        self._ends: list[tuple[int, dict[str, Any]]] = []  # unanswered: (bytes sent up to its end, entry)
        self._state = "not connected"
        self._dirty = True
        self._due = 0.0  # when the next painting may be
        self._thread = threading.Thread(target=self._run, name=f"panel {name}", daemon=True)
        self._thread.start()

    # -- called from any thread ----------------------------------------------------------------------------------------

    def do(self, command: str, text: str = "") -> None:
        self._commands.put((command, text))
        with contextlib.suppress(OSError):  # full: it is going to wake anyway; closed: the worker has ended
            self._writer.send(b"!")

    def end(self) -> None:
        self.do("end")
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=6)  # longer than any one thing that it waits for

    # -- the worker's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        answer_nobody()
        try:
            while self._step():
                pass
        finally:
            self._hang_up()
            self._reader.close()
            self._writer.close()

    def _step(self) -> bool:
        """Wait for a command, for bytes or for the time to paint, and do what is to be done. False: it is over."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            if self._client is not None:
                selector.register(self._client, selectors.EVENT_READ)
            selector.select(self._patience())
        self._drain()
        while not self._commands.empty():
            command, text = self._commands.get()
            if command == "end":
                return False
            if command == "send":
                self._send(text)
            elif command == "connect":
                self._connect()
            else:
                self._disconnect()
        self._receive()
        self._look()
        self._paint()
        return True

    def _patience(self) -> float:
        """Seconds until something must be looked at that nobody reports."""
        if self._dirty:
            return max(0.0, self._due - time.monotonic())
        return 0.1 if self._client is not None and self._state != "being served" else 60.0

    def _drain(self) -> None:
        self._reader.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)

    def _target(self) -> Server | Address:
        server = self._server
        if isinstance(server, Server) and not server.running:
            server = newest(server.name) or server  # its cell was run again
        return server

    def _connect(self) -> None:
        if self._client is not None:
            return
        target = self._target()
        if isinstance(target, Server) and not target.running:
            self._say("not connected", f"the server {target.name} does not run: run its cell again, then Connect")
            return
        self._say("connecting")
        self._paint()
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        try:
            self._client = Client(target, name=self._name)
        except (EchoError, TypeError) as error:
            self._say("not connected", str(error))
        else:
            self._ends, self._sent, self._received = [], 0, 0
            self._where = ":".join(str(part) for part in self._client.address)
            self._say("connected")

    def _disconnect(self) -> None:
        if self._client is not None:
            self._hang_up()
            self._say("not connected", "disconnected")

    def _send(self, text: str) -> None:
        self._connect()
        if not text:
            self._note("an empty message sends no bytes: there is nothing to answer")
            return
        entry = self._add("sent", visible(text), open=True)
        if self._client is None:
            return
        self._sent += len(text.encode("utf-8", "surrogateescape"))
        self._ends.append((self._sent, entry))
        try:
            self._client.send(text)
        except EchoError as error:
            self._lost(error)

    def _receive(self) -> None:
        if self._client is None:
            return
        try:
            data = self._client.pending()
        except EchoError as error:
            self._lost(error)
            return
        if not data:
            return
        boundaries = {end for end, _ in self._ends} | {0}
        last = self._entries[-1] if self._entries else None
        # What comes on top of half an answer is the rest of it.
        fresh = last is None or last["kind"] != "received" or self._whole
        if fresh:
            last = self._add("received", "")
        assert last is not None
        last["text"] = (last["text"] + visible(self._decoder.decode(data)))[:SHOWN]
        self._received += len(data)
        self._whole = self._received in boundaries or self._received >= self._sent
        while self._ends and self._ends[0][0] <= self._received:
            self._ends.pop(0)[1]["open"] = False
        self._touch()

    def _look(self) -> None:
        """Whether the server has accepted us, where that can be known."""
        if self._client is None or self._state == "being served":
            return
        observation = self._client._observation
        if observation is None:
            return
        accepted = observation.accepted.get(self._client._connection.client)
        self._say("being served" if accepted is not None else "connected, not accepted yet")

    def _lost(self, error: EchoError) -> None:
        self._hang_up()
        self._say("reset" if isinstance(error, ConnectionResetError) else "closed by the server", str(error))

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # -- what is shown -------------------------------------------------------------------------------------------------

    _sent = _received = 0
    _whole = True
    _where = ""

    def _say(self, state: str, note: str = "") -> None:
        if state != self._state:
            self._state = state
            self._touch()
        if note:
            self._note(note)

    def _note(self, text: str) -> None:
        self._add("note", visible(text))

    def _add(self, kind: str, text: str, **more: Any) -> dict[str, Any]:
        entry = {"id": next(self._ids), "kind": kind, "text": text[:SHOWN], **more}
        self._entries.append(entry)
        del self._entries[:-ENTRIES]
        self._touch()
        return entry

    def _touch(self) -> None:
        if not self._dirty:
            self._dirty, self._due = True, max(self._due, time.monotonic() + TOGETHER)

    def _paint(self) -> None:
        if not self._dirty or time.monotonic() < self._due:
            return
        self._dirty, self._due = False, time.monotonic() + 1 / PAINTS
        with self._panel.hold_sync():
            self._panel.where = self._where
            self._panel.state = self._state
            self._panel.connected = self._client is not None
            self._panel.entries = [dict(entry) for entry in self._entries]
