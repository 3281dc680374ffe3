"""Widgets: `ClientPanel`, a client to type into, and `panels`, several side by side.

The page's side is in `static/`. A click or a line becomes a command for the panel's `Worker`, so that the kernel's own
threads never block.
"""

from __future__ import annotations

import html
from typing import Any

import ipywidgets
import traitlets

from ..client import address_of
from ..server import Server
from ..watch.events import Address
from ..watch.text import cut, in_html, visible
from .panel import Bundle, InOutputs, Panel, script, style
from .worker import Entry, Worker

NAME_LETTERS = 40  # of a client's name
SAVED = 40  # entries that a saved notebook shows
CONNECTS = 0.5  # seconds that a new panel waits for its connection, so that panels connect in the order of their cells


class ClientPanel(Panel):
    """A client to type into: it connects at once, Enter sends, the transcript shows what is still unanswered.

    server  what `start` returned, or an address (host, port)
    name    how the panel and every view call this client

    A second panel of that name at that server takes the place of the first. `close` hangs up and removes it.
    Raises `TypeError` for anything else as a server or a name. The panel itself says when nobody answers there.
    """

    _esm = script("client_panel")
    _css = style("client_panel")
    name = traitlets.Unicode().tag(sync=True)
    where = traitlets.Unicode().tag(sync=True)
    state = traitlets.Unicode("not connected").tag(sync=True)
    connected = traitlets.Bool(False).tag(sync=True)
    unanswered = traitlets.Unicode().tag(sync=True)
    now = traitlets.Float().tag(sync=True)  # seconds of `time.perf_counter`, as the entries' `at`
    entries = traitlets.List(traitlets.Dict())  # not synced: a message tells the page which of them have changed

    def __init__(self, server: Server | Address, name: str = "client") -> None:
        _check(server, name)
        super().__init__((getattr(server, "name", server), name), name=cut(visible(name), NAME_LETTERS))
        self.row: ClientPanels | None = None
        self._worker = Worker(server, name, self._show)
        self._worker.do("connect")
        self._worker.tried.wait(CONNECTS)

    def _do(self, message: dict[str, Any]) -> None:
        if message.get("do") in ("hello", "connect", "disconnect", "send"):
            self._worker.do(message["do"], message)

    def _show(self, traits: dict[str, Any], entries: list[Entry], changed: list[Entry]) -> None:
        """Called by the worker's thread."""
        with self.hold_sync():
            for name, value in traits.items():
                setattr(self, name, value)
        if self.seen:
            self.send({"entries": changed, "first": entries[0]["id"] if entries else 0})
        self.entries = entries

    def close(self) -> None:
        """Hang up and remove the widget. Calling it again does nothing."""
        if self.comm is None:  # closed, or never made
            return
        self._worker.end()
        row, self.row = self.row, None
        if row is not None:
            row.lose(self)
        super().close()

    def __repr__(self) -> str:
        return f"ClientPanel {self.name}"

    def _still(self) -> Bundle:
        note = (
            f"<p><b>{in_html(self.name)}</b>: here is a panel to type messages into. "
            "It needs a running kernel: open the notebook in JupyterLab and run this cell.</p>"
        )
        if any(entry["kind"] == "sent" for entry in self.entries):
            lines = "\n".join(map(_line, self.entries[-SAVED:]))
            note += f"<pre>{html.escape(lines)}</pre>"
        return {"text/plain": repr(self), "text/html": note}, {}


def panels(server: Server | Address, *names: str) -> ClientPanels:
    """A `ClientPanel` for each name, side by side in one output; without names for "alice" and "bob".

    They connect in that order. A newer row at that server takes the place of this one, and hangs up all its clients.
    Raises `TypeError` as `ClientPanel` does, and `ValueError` if two names are the same.
    """
    return ClientPanels(server, names or ("alice", "bob"))


class ClientPanels(InOutputs, ipywidgets.Box):  # type: ignore[misc]
    """What `panels` returns. `panels` are its clients in their order; `close` closes them all."""

    rank = 1  # so that its clients are still there to tell the page of it
    panels: tuple[ClientPanel, ...] = ()

    def __init__(self, server: Server | Address, names: tuple[str, ...]) -> None:
        for name in names:
            _check(server, name)
            if names.count(name) > 1:
                raise ValueError(f"each panel needs a different name, got {name!r} twice")
        super().__init__()
        self._take_place(getattr(server, "name", server))  # first: the clients of an earlier row hang up together
        self.children = self.panels = tuple(ClientPanel(server, name) for name in names)
        self.add_class("echo-clients")
        for panel in self.panels:
            panel.row = self
            panel.stand_in(self.model_id)

    def send(self, content: Any, buffers: Any = None) -> None:
        """Send it to the first of the panels: a box has no script of ours in the page."""
        for panel in self.children[:1]:
            panel.send(content, buffers)

    def lose(self, panel: ClientPanel) -> None:
        """Let that one go: a newer panel has taken its name."""
        self.children = tuple(each for each in self.children if each is not panel)
        if not self.children:
            self.close()

    def close(self) -> None:
        """Hang up all clients and remove them. Calling it again does nothing."""
        for panel in reversed(self.panels):  # else the second would be served when the first hangs up
            panel._worker.end()
        self.seen = any(panel.seen for panel in self.panels)
        super().close()
        for panel in self.panels:
            panel.row = None
            panel.close()

    def __repr__(self) -> str:
        return f"ClientPanels {', '.join(panel.name for panel in self.panels)}"

    def _still(self) -> Bundle:
        words = "".join(each._still()[0]["text/html"] for each in self.panels)
        return {"text/plain": repr(self), "text/html": words}, {}


def _check(server: Any, name: Any) -> None:
    address_of(server)  # raises TypeError
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be a non-empty string, got {name!r}")


def _line(entry: Entry) -> str:
    """An entry as a line of text."""
    lead = {"sent": "> ", "received": "Received  :  ", "note": ""}[entry["kind"]]
    mark = entry["mark"] or ("no answer yet" if entry["open"] else "")
    return f"{lead}{entry['text']}{entry['cut']}{f'    ({mark})' if mark else ''}"
