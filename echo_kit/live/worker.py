"""`Worker`: the thread behind a client panel. It alone uses the panel's client and shows what has changed.

It waits for no server: another thread connects, and an outbox keeps the bytes that the system does not take at once.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..client import Client, EchoError, address_of
from ..server import Server, newest
from ..watch.borrowed import answer_nobody
from ..watch.events import Address
from ..watch.text import counted, visible

ENTRIES = 200  # that a transcript keeps
LETTERS = 2_000  # of an entry
OUTBOX = 50_000_000  # bytes that may wait for a server that does not read
PAINTS = 20  # a second, at most
NOT_YET = "connected, not accepted yet"  # a state in which the server is looked at ten times a second
TOGETHER = 0.005  # seconds: what happens so close together, like a message and its echo, is painted once

Entry = dict[str, Any]
BLANK: Entry = {"key": "", "at": 0.0, "open": False, "mark": "", "cut": ""}
Show = Callable[[dict[str, Any], list[Entry], list[Entry]], None]


class Worker:
    """Connects to `server` as `name` when it is told to, and calls `show` with what the panel's traits shall be, the
    newest entries of the transcript, and those of them that have changed.

    An entry has an id that grows; kind: "sent", "received" or "note"; its text, and in `cut` what is said of the rest;
    size: bytes of a message; at: when it was sent, in seconds of `time.perf_counter`; open: whether it is unanswered;
    mark: the words beside it; key: how the page calls a message that it has drawn already.
    """

    def __init__(self, server: Server | Address, name: str, show: Show) -> None:
        self._server, self._name, self._show = server, name, show
        self.tried = threading.Event()  # set when the first attempt to connect is over
        self._client: Client | None = None
        self._attempt: list[Client | str] | None = None  # to connect; its thread adds the client, or what went wrong
        self._commands: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._reader, self._writer = socket.socketpair()  # a byte in it wakes the thread
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._ids = itertools.count(1)
        self._entries: deque[Entry] = deque(maxlen=ENTRIES)
        self._outbox: deque[tuple[memoryview, Entry]] = deque()  # what the system has not taken yet
        self._unsent = 0  # bytes in it
        self._open: deque[tuple[int, Entry]] = deque()  # the unanswered messages: (bytes up to its end, entry)
        self._end = self._received = 0  # bytes up to the end of the last message, and bytes of answers
        self._whole = True  # whether the last entry is a whole answer
        self._where, self._state = "", "not connected"
        self._shown: dict[str, Any] = {}  # the traits as they were shown last
        self._told: dict[int, Entry] = {}  # by id, the entries as they were
        self._due: float | None = None  # when what has changed is to be shown; None: nothing has
        self._earliest = 0.0  # when that may be
        self._lock = threading.Lock()  # guards _attempt
        self._thread = threading.Thread(target=self._run, name=f"panel {name}", daemon=True)
        self._thread.start()

    # -- called from any thread ----------------------------------------------------------------------------------------

    def do(self, command: str, what: dict[str, Any] | None = None) -> None:
        """Hand a command to the thread: see `_step`."""
        self._commands.put((command, what or {}))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            self._writer.send(b"!")

    def end(self) -> None:
        """Hang up and end the thread."""
        self.do("end")
        self._thread.join(timeout=5)

    # -- a thread for each attempt to connect --------------------------------------------------------------------------

    def _make_client(self, target: Server | Address, attempt: list[Client | str]) -> None:
        made: Client | str
        try:
            made = Client(target, name=self._name)
        except Exception as error:  # the panel says whatever it is, and goes on
            made = str(error) or type(error).__name__
        with self._lock:
            if self._attempt is attempt:
                attempt.append(made)
                self._wake()
            elif isinstance(made, Client):  # Disconnect came first
                made.close()

    # -- the worker's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        answer_nobody()
        try:
            while self._step():
                pass
        finally:
            self._hang_up("disconnected")
            self.tried.set()
            self._paint(at_once=True)
            self._reader.close()
            self._writer.close()

    def _step(self) -> bool:
        """Wait for a command, for bytes or for the time to paint, and do what is to be done. False: it is over."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            if self._client is not None:
                selector.register(self._client, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0))
            due = self._due - time.monotonic() if self._due is not None else 0.1 if self._state == NOT_YET else 60.0
            selector.select(max(0.0, due) if self._commands.empty() else 0.0)
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        command, what = self._commands.get() if not self._commands.empty() else ("", {})
        if command == "end":
            return False
        if command == "send":
            self._send(str(what.get("text", "")), what.get("key"))
        elif command == "connect":
            self._connect()
        elif command == "disconnect":
            self._hang_up("disconnected")
        elif command == "hello":  # from a page that knows nothing yet
            self._told = {}
        self._see_whether_connected()
        try:
            self._receive()
            self._flush()
        except EchoError as error:
            self._hang_up(str(error), "reset" if isinstance(error, ConnectionResetError) else "closed by the server")
        self._see_whether_accepted()
        self._paint()
        return True

    def _plugged(self) -> bool:
        return self._attempt is not None or self._client is not None

    def _connect(self) -> None:
        if self._plugged():
            return
        target = self._server
        if isinstance(target, Server) and not target.running:
            target = newest(target.name) or target  # its cell was run again
            if not target.running:
                self._add("note", f"the server {target.name} does not run: run its cell again, then Connect")
                self._state = "not connected"
                self.tried.set()
                return
        self._where = visible(":".join(str(part) for part in address_of(target)))
        self._state = "connecting"
        self._attempt = []
        name = f"panel {self._name} connects"
        threading.Thread(target=self._make_client, args=(target, self._attempt), name=name, daemon=True).start()

    def _see_whether_connected(self) -> None:
        if not self._attempt:
            return
        (made,) = self._attempt
        if isinstance(made, str):
            self._hang_up(made)
        else:
            self._attempt, self._client, self._state, self._whole = None, made, "connected", True
            self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.tried.set()

    def _hang_up(self, why: str, state: str = "not connected") -> None:
        if not self._plugged():
            return
        with self._lock:
            clients = [self._client, *(self._attempt or ())]
            self._attempt = self._client = None
        for client in clients:
            if isinstance(client, Client):
                client.close()
        unsent = {entry["id"] for _, entry in self._outbox}
        for _, entry in self._open:
            entry |= {"open": False, "mark": "not sent" if entry["id"] in unsent else "no answer came"}
        self._open.clear()
        self._outbox.clear()
        self._unsent = self._end = self._received = 0
        self._state = state
        self._add("note", why)

    # -- messages and answers ------------------------------------------------------------------------------------------

    def _add(self, kind: str, text: str, size: int = 0, **more: Any) -> Entry:
        """A new last entry."""
        entry = BLANK | {"id": next(self._ids), "kind": kind} | more
        self._entries.append(entry)
        self._fill(entry, visible(text[: LETTERS + 1]), size)
        return entry

    def _fill(self, entry: Entry, text: str, size: int) -> None:
        entry |= {"text": text[:LETTERS], "size": size}
        if entry["cut"] or len(text) > LETTERS:
            entry["cut"] = f" … {size:,} bytes in all"

    def _send(self, text: str, key: object) -> None:
        key = key if isinstance(key, str) and key.isascii() else ""
        try:
            data, refused = text.encode(), ""
        except UnicodeEncodeError as error:
            half = visible(text[error.start])
            data, refused = b"", f"{half} is half a character: it has no bytes in UTF-8, so nothing was sent"
        if not data:
            refused = refused or "an empty message sends no bytes: there is nothing to answer"
        elif self._unsent + len(data) > OUTBOX:
            refused = f"{self._unsent:,} bytes wait to be sent already: these {len(data):,} were not taken"
        if refused:
            self._add("note", refused, key=key)
            return
        self._connect()
        entry = self._add("sent", text, len(data), key=key, at=time.perf_counter(), open=self._plugged())
        if not self._plugged():
            entry["mark"] = "not sent"
            return
        self._end = max(self._end, self._received) + len(data)  # bytes that came unasked answer nothing
        self._open.append((self._end, entry))
        self._outbox.append((memoryview(data), entry))
        self._unsent += len(data)

    def _flush(self) -> None:
        """Hand over what the system takes of the outbox now."""
        while self._outbox:
            data, entry = self._outbox[0]
            count = self._client.offer(data) if self._client is not None else 0
            self._unsent -= count
            if count < len(data):
                self._outbox[0] = data[count:], entry
                waits = "waits to be sent: the server does not read" if self._client else "waits for the connection"
                for _, entry in self._outbox:
                    entry["mark"] = waits
                return
            self._outbox.popleft()
            entry["mark"] = ""

    def _receive(self) -> None:
        data = self._client.pending() if self._client is not None else b""
        if not data:
            return
        now = time.perf_counter()
        last = self._entries[-1] if self._entries else None
        if last is None or last["kind"] != "received" or self._whole:  # else it is the rest of half an answer
            last = self._add("received", "")
        text = visible(self._decoder.decode(data)[: LETTERS + 1])  # one too many shows that there is more
        self._fill(last, last["text"] + text, last["size"] + len(data))
        self._received += len(data)
        self._whole = self._received >= self._end
        while self._open and self._open[0][0] <= self._received:
            end, entry = self._open.popleft()
            self._whole = self._whole or end == self._received
            entry |= {"open": False, "mark": _duration(now - entry["at"])}

    def _see_whether_accepted(self) -> None:
        """Only a server of this kernel can be asked."""
        if self._client is not None and self._client.observation is not None and self._state != "being served":
            accepted = self._client.connection.client in self._client.observation.accepted
            self._state = "being served" if accepted else NOT_YET

    # -- what is shown -------------------------------------------------------------------------------------------------

    def _paint(self, at_once: bool = False) -> None:
        """Show what has changed, if anything has and it is time."""
        traits = {"where": self._where, "state": self._state, "connected": self._plugged(), "unanswered": ""}
        if self._open:
            owed = counted(max(0, self._end - self._received), "byte")
            waits = f", {self._unsent:,} not sent yet" if self._unsent else ""
            traits["unanswered"] = f"{counted(len(self._open), 'message')}, {owed} unanswered{waits}"
        entries = {entry["id"]: dict(entry) for entry in self._entries}
        changed = [entry for number, entry in entries.items() if entry != self._told.get(number)]
        if traits == self._shown and not changed:
            self._due = None
            return
        now = time.monotonic()
        if self._due is None:
            self._due = max(self._earliest, now + TOGETHER)
        if at_once or now >= self._due:
            self._due, self._earliest = None, now + 1 / PAINTS
            self._shown, self._told = traits, entries
            self._show(traits | {"now": time.perf_counter()}, list(entries.values()), changed)


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f} ms"
