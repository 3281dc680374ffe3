"""Widgets: `ClientPanel`, a client to type into, and `panels`, several side by side.

The page side is in `static/`. The kernel's threads never block for it: a click or a line becomes a command in a queue,
and one worker thread a panel sends, receives and, at most 20 times a second, tells the page what has changed. It never
waits for the server: a thread of its own connects, and what the system does not take at once waits in an outbox.
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
from collections import deque
from typing import Any

import ipywidgets
import traitlets

from ..client import Client, EchoError, address_of
from ..server import Server, newest
from ..watch.events import Address
from ..watch.text import visible
from .panel import STATIC, Bundle, Panel, Slot, answer_nobody, close_earlier, give_up, script, take_place

__all__ = ["ClientPanel", "panels"]

ENTRIES = 200  # that a transcript keeps
SHOWN = 2_000  # characters of one entry
STAYS = 40  # entries that stay in a saved notebook
OUTBOX = 50_000_000  # bytes that may wait for a server that does not read
PAINTS = 20  # a second, at most
TOGETHER = 0.005  # seconds: what happens so close together, like a message and its echo, is painted once
CONNECTS = 0.5  # seconds that a new panel waits for its connection, so that panels connect in the order of their cells


class ClientPanel(Panel):
    """A client to type into: it connects at once, Enter sends, the transcript shows what is still unanswered.

    server  what `start` returned, or an address (host, port)
    name    how the panel and every view call this client

    A second panel of that name at that server takes the place of the first. `close` hangs up and removes it.
    Raises `TypeError` for what is no server, address or name; that nobody answers there is said in the panel.
    """

    _esm = script("client_panel")
    _css = STATIC / "client_panel.css"
    name = traitlets.Unicode().tag(sync=True)
    where = traitlets.Unicode().tag(sync=True)
    state = traitlets.Unicode("not connected").tag(sync=True)
    connected = traitlets.Bool(False).tag(sync=True)
    unanswered = traitlets.Unicode().tag(sync=True)
    now = traitlets.Float().tag(sync=True)  # seconds of the worker's clock, of which the entries' `at` are
    entries = traitlets.List(traitlets.Dict())  # the page is told only which of them changed

    def __init__(self, server: Server | Address, name: str = "client") -> None:
        _check(server, name)
        super().__init__((_key(server), name), name=visible(name))
        self._row: ClientPanels | None = None
        self._worker = _Worker(self, server, name)
        self._worker.do("connect")
        self._worker.tried.wait(CONNECTS)

    def _do(self, message: dict[str, Any]) -> None:
        if message.get("do") in ("hello", "connect", "disconnect", "send"):
            self._worker.do(message["do"], message)

    def close(self) -> None:
        """Hang up, end the worker and remove the widget. Calling it again does nothing."""
        if self.comm is None:  # closed, or never made
            return
        self._worker.end()
        row, self._row = self._row, None
        if row is not None:
            row._lose(self)
        super().close()

    def __repr__(self) -> str:
        return f"ClientPanel {self.name}"

    def _still(self) -> Bundle:
        note = (
            f"<p><b>{html.escape(self.name)}</b>: here is a panel to type messages into. "
            "It needs a running kernel: open the notebook in JupyterLab and run this cell.</p>"
        )
        lines = [_line(entry) for entry in self.entries[-STAYS:]]
        if any(entry["kind"] == "sent" for entry in self.entries):
            note += f"<pre>{html.escape(chr(10).join(lines))}</pre>"
        return {"text/plain": repr(self), "text/html": note}, {}


def panels(server: Server | Address, *names: str) -> ClientPanels:
    """A `ClientPanel` for each name, side by side in one output; without names for "alice" and "bob".

    They connect in that order. At each server there is one such row: a newer one takes its place, and hangs up all its
    clients. Raises `TypeError` as `ClientPanel` does, and `ValueError` for a name that is there twice.
    """
    return ClientPanels(server, names or ("alice", "bob"))


class ClientPanels:
    """What `panels` returns. `panels` are its clients in their order; `close` closes them all."""

    def __init__(self, server: Server | Address, names: tuple[str, ...]) -> None:
        for name in names:
            _check(server, name)
            if names.count(name) > 1:
                raise ValueError(f"each panel needs a name of its own, and {name!r} is there twice")
        self._key = ("panels", _key(server))
        close_earlier(self._key)
        self._slot = Slot()
        self.panels = tuple(ClientPanel(server, name) for name in names)
        self._box = ipywidgets.Box(self.panels)
        self._box.add_class("echo-clients")
        for panel in self.panels:
            panel._row = self
            panel._stand_in(self._box.model_id)
        take_place(self._key, self)

    def _lose(self, panel: ClientPanel) -> None:
        """One of them is closed by itself: a newer panel has its name."""
        left = tuple(each for each in self._box.children if each is not panel)
        if left:
            self._box.children = left
        else:
            self.close()

    def close(self) -> None:
        """Hang up all clients and remove them. Calling it again does nothing."""
        if self._box.comm is None:
            return
        give_up(self._key, self)
        for panel in reversed(self.panels):  # or the second is served, when the first hangs up
            panel._worker.end()
        alive = [panel for panel in self.panels if panel.comm is not None]
        if any(panel._seen for panel in self.panels):
            self._slot.leave(self._still(), alive)
        for panel in alive:
            panel._row = None
            panel.close()
        self._box.close()

    def __repr__(self) -> str:
        return f"ClientPanels {', '.join(panel.name for panel in self.panels)}"

    def _still(self) -> Bundle:
        return {
            "text/plain": repr(self),
            "text/html": "".join(each._still()[0]["text/html"] for each in self.panels),
        }, {}

    def _ipython_display_(self) -> None:
        self._slot.show(self._box, self._still())


def _check(server: Any, name: Any) -> None:
    address_of(server)  # raises TypeError
    if not isinstance(name, str) or not name:
        raise TypeError(f"a client's name is a text like 'alice', not {name!r}")


def _key(server: Server | Address) -> object:
    return server.name if isinstance(server, Server) else server


def _line(entry: dict[str, Any]) -> str:
    """An entry as a line of text."""
    lead = {"sent": "> ", "received": "Received  :  ", "note": ""}[entry["kind"]]
    mark = entry["mark"] or ("no answer yet" if entry["open"] else "")
    return lead + entry["text"] + entry["cut"] + (f"    ({mark})" if mark else "")


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f} ms"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class _Worker:
    """The thread behind a panel. It alone uses the client and writes the widget, and it waits for nobody."""

    def __init__(self, panel: ClientPanel, server: Server | Address, name: str) -> None:
        self._panel, self._server, self._name = panel, server, name
        self.tried = threading.Event()  # the first attempt to connect is over
        self._client: Client | None = None
        self._connecting = False
        self._attempt = 0  # its number: what an earlier one brings is too late
        self._commands: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._entries: deque[dict[str, Any]] = deque(maxlen=ENTRIES)
        self._changed: dict[int, dict[str, Any]] = {}  # by id: what the page has not been told
        self._ids = itertools.count(1)
        self._outbox: deque[tuple[memoryview, dict[str, Any]]] = deque()  # what the system did not take yet
        self._unsent = 0  # bytes in it
        self._open: deque[tuple[int, dict[str, Any]]] = deque()  # unanswered: (bytes up to its end, entry)
        self._end = self._received = 0  # bytes: up to the end of the last message; that came back
        self._whole = True  # whether the last entry is a whole answer
        self._where = ""
        self._state = "not connected"
        self._dirty = True
        self._due = 0.0  # when the next painting may be
        self._lock = threading.Lock()
        self._over = False
        self._thread = threading.Thread(target=self._run, name=f"panel {name}", daemon=True)
        self._thread.start()

    # -- called from any thread ----------------------------------------------------------------------------------------

    def do(self, command: str, what: Any = None) -> None:
        self._commands.put((command, what))
        with contextlib.suppress(OSError):  # full: it is going to wake anyway; closed: the worker has ended
            self._writer.send(b"!")

    def end(self) -> None:
        self.do("end")
        self._thread.join(timeout=5)

    # -- a thread for each attempt to connect --------------------------------------------------------------------------

    def _make_client(self, target: Server | Address, attempt: int) -> None:
        client, problem = None, ""
        try:
            client = Client(target, name=self._name)
        except Exception as error:  # whatever it is, the panel says it and goes on
            problem = str(error)
        with self._lock:
            if not self._over:
                self.do("made", (attempt, client, problem))
                return
        if client is not None:
            client.close()

    # -- the worker's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        answer_nobody()
        try:
            while self._step():
                pass
        finally:
            with self._lock:
                self._over = True
            self._attempt += 1
            while not self._commands.empty():
                command, what = self._commands.get()
                if command == "made":
                    self._made(*what)
            if self._plugged():
                self._hang_up("not connected", "disconnected")
            self.tried.set()
            self._due = 0.0
            self._paint()
            self._reader.close()
            self._writer.close()

    def _step(self) -> bool:
        """Wait for a command, for bytes or for the time to paint, and do what is to be done. False: it is over."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            if self._client is not None:
                selector.register(self._client, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0))
            selector.select(self._patience())
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        while not self._commands.empty():
            command, what = self._commands.get()
            if command == "end":
                return False
            if command == "send":
                self._send(str(what.get("text", "")), what.get("key"))
            elif command == "connect":
                self._connect()
            elif command == "made":
                self._made(*what)
            elif command == "disconnect" and self._plugged():
                self._hang_up("not connected", "disconnected")
            elif command == "hello":  # a page that knows nothing yet
                self._changed = {entry["id"]: entry for entry in self._entries}
                self._touch()
        self._receive()
        self._flush()
        self._look()
        self._paint()
        return True

    def _patience(self) -> float:
        """Seconds until something must be looked at that nobody reports."""
        if self._dirty:
            return max(0.0, self._due - time.monotonic())
        observed = self._client is not None and self._client.observation is not None
        return 0.1 if observed and self._state != "being served" else 60.0

    def _plugged(self) -> bool:
        return self._connecting or self._client is not None

    def _connect(self) -> None:
        if self._plugged():
            return
        target = self._server
        if isinstance(target, Server) and not target.running:
            target = newest(target.name) or target  # its cell was run again
        if isinstance(target, Server) and not target.running:
            self._say("not connected", f"the server {target.name} does not run: run its cell again, then Connect")
            self.tried.set()
            return
        self._where = visible(":".join(str(part) for part in address_of(target)))
        self._connecting = True
        self._attempt += 1
        self._say("connecting")
        threading.Thread(
            target=self._make_client, args=(target, self._attempt), name=f"panel {self._name} connects", daemon=True
        ).start()

    def _made(self, attempt: int, client: Client | None, problem: str) -> None:
        if attempt != self._attempt:  # Disconnect came first
            if client is not None:
                client.close()
            return
        self._connecting = False
        self._client = client
        if client is None:
            self._hang_up("not connected", problem)
        else:
            self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
            self._whole = True
            self._say("connected")
            self._flush()
        self.tried.set()

    def _send(self, text: str, key: object) -> None:
        key = key if isinstance(key, str) and key.isascii() else ""  # how the page calls what it has drawn already
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            half = visible(text[error.start])
            self._note(f"{half} is half a character: it has no bytes in UTF-8, so nothing was sent", key)
            return
        if not data:
            self._note("an empty message sends no bytes: there is nothing to answer", key)
            return
        if self._unsent + len(data) > OUTBOX:
            self._note(f"{self._unsent:,} bytes wait to be sent already: these {len(data):,} were not taken", key)
            return
        self._connect()
        entry = self._add("sent", text, len(data), key=key, at=time.perf_counter(), open=self._plugged())
        if not self._plugged():
            self._change(entry, mark="not sent")
            return
        self._end = max(self._end, self._received) + len(data)  # what came unasked answers nothing
        self._open.append((self._end, entry))
        self._outbox.append((memoryview(data), entry))
        self._unsent += len(data)
        self._flush()
        if self._outbox and self._outbox[-1][1] is entry:
            waits = "waits for the connection" if self._connecting else "waits to be sent: the server does not read"
            self._change(entry, mark=waits)

    def _flush(self) -> None:
        """Hand over what the system takes of the outbox now."""
        try:
            while self._outbox and self._client is not None:
                data, entry = self._outbox.popleft()
                count = self._client.offer(data)
                self._unsent -= count
                if count < len(data):
                    self._outbox.appendleft((data[count:], entry))
                    return
                self._change(entry, mark="")
        except EchoError as error:
            self._outbox.appendleft((data, entry))
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
        now = time.perf_counter()
        last = self._entries[-1] if self._entries else None
        # What comes on top of half an answer is the rest of it.
        if last is None or last["kind"] != "received" or self._whole:
            last = self._add("received", "", 0)
        text = self._decoder.decode(data)
        self._change(last, text=last["text"] + visible(text[:SHOWN]), size=last["size"] + len(data))
        self._received += len(data)
        self._whole = self._received >= self._end
        while self._open and self._open[0][0] <= self._received:
            end, entry = self._open.popleft()
            self._whole = self._whole or end == self._received
            self._change(entry, open=False, mark=_duration(now - entry["at"]))

    def _look(self) -> None:
        """Whether the server has accepted us, where that can be known."""
        if self._client is None or self._state == "being served":
            return
        observation = self._client.observation
        if observation is None:
            return
        accepted = observation.accepted.get(self._client.connection.client)
        self._say("being served" if accepted is not None else "connected, not accepted yet")

    def _lost(self, error: EchoError) -> None:
        self._hang_up("reset" if isinstance(error, ConnectionResetError) else "closed by the server", str(error))

    def _hang_up(self, state: str, note: str) -> None:
        self._connecting = False
        self._attempt += 1
        if self._client is not None:
            self._client.close()
            self._client = None
        unsent = {entry["id"] for _, entry in self._outbox}
        for _, entry in self._open:
            self._change(entry, open=False, mark="not sent" if entry["id"] in unsent else "no answer came")
        self._open.clear()
        self._outbox.clear()
        self._unsent = self._end = self._received = 0
        self._say(state, note)

    # -- what is shown -------------------------------------------------------------------------------------------------

    def _say(self, state: str, note: str = "") -> None:
        if state != self._state:
            self._state = state
            self._touch()
        if note:
            self._note(note)

    def _note(self, text: str, key: str = "") -> None:
        self._add("note", text, key=key)

    def _add(self, kind: str, text: str, size: int = 0, **more: Any) -> dict[str, Any]:
        """A new last entry. kind: sent, received or note; at: seconds; open: unanswered; mark: what is beside it."""
        entry = {
            "id": next(self._ids),
            "kind": kind,
            "key": "",
            "at": 0.0,
            "open": False,
            "mark": "",
            "cut": "",
            **more,
        }
        self._entries.append(entry)
        self._change(entry, text=visible(text[: SHOWN + 1]), size=size)
        return entry

    def _change(self, entry: dict[str, Any], **values: Any) -> None:
        entry.update(values)
        if "text" in values:
            cut = entry["cut"] or len(entry["text"]) > SHOWN
            entry["text"] = entry["text"][:SHOWN]
            entry["cut"] = f" … {entry['size']:,} bytes in all" if cut else ""
        if entry["id"] >= self._entries[0]["id"]:
            self._changed[entry["id"]] = entry
        self._touch()

    def _touch(self) -> None:
        if not self._dirty:
            self._dirty, self._due = True, max(self._due, time.monotonic() + TOGETHER)

    def _unanswered(self) -> str:
        if not self._open:
            return ""
        owed = _count(max(0, self._end - self._received), "byte")
        waits = f", {self._unsent:,} not sent yet" if self._unsent else ""
        return f"{_count(len(self._open), 'message')}, {owed} unanswered{waits}"

    def _paint(self) -> None:
        if not self._dirty or time.monotonic() < self._due:
            return
        self._dirty, self._due = False, time.monotonic() + 1 / PAINTS
        panel, first = self._panel, self._entries[0]["id"] if self._entries else 0
        changed = [dict(entry) for number, entry in sorted(self._changed.items()) if number >= first]
        self._changed.clear()
        with panel.hold_sync():
            panel.where = self._where
            panel.state = self._state
            panel.connected = self._plugged()
            panel.unanswered = self._unanswered()
            panel.now = time.perf_counter()
        if panel._seen:
            panel.send({"entries": changed, "first": first})
        panel.entries = [dict(entry) for entry in self._entries]
