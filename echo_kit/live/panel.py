"""`Panel`: the kernel's side of a live widget. `Slot`: the outputs in which it stands.

A widget needs its kernel: without it, a saved notebook says "model not found". So a panel that ends puts a picture or
a text of its last state into its outputs.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import anywidget
import traitlets
from IPython.display import display

from ..watch.borrowed import answer_in_any_loop, before_exit

__all__ = ["Panel"]

STATIC = Path(__file__).parent / "static"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

Bundle = tuple[dict[str, Any], dict[str, Any]]  # data and metadata, by mime type


def script(name: str) -> str:
    """The page's side of a panel: what all panels have in common, then its own."""
    return "".join((STATIC / f"{each}.js").read_text("utf-8") for each in ("borrowed", "panel", name))


class Slot:
    """The outputs in which a live widget stands: one each time it was displayed."""

    def __init__(self) -> None:
        self._ids: list[str] = []

    def show(self, widget: Any, still: Bundle) -> None:
        """Display `widget` below the running cell, with `still` for programs that cannot draw it.

        A widget that was closed is displayed as `still`.
        """
        data, metadata = still
        if widget.comm is None:
            display(data, metadata=metadata, raw=True)
            return
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        self._ids.append(uuid.uuid4().hex)
        display({**data, WIDGET_VIEW: view}, metadata=metadata, raw=True, display_id=self._ids[-1])

    def leave(self, still: Bundle, panels: Sequence[Panel]) -> None:
        """Put `still` in the place of the widget; the first of `panels`, if any, tells the page as well."""
        if not self._ids:
            return
        while self._ids:
            display(still[0], metadata=still[1], raw=True, display_id=self._ids.pop(), update=True)
        for panel in panels[:1]:  # because a page that was reloaded does not know the display ids
            panel.send({"still": still})


class Closable(Protocol):
    def close(self) -> None: ...


_open: dict[object, Closable] = {}  # by key, so that a cell that is run again replaces what it shows


def close_earlier(key: object) -> None:
    """Close what is open under that key."""
    earlier = _open.pop(key, None)
    if earlier is not None:
        earlier.close()


def take_place(key: object, newer: Closable) -> None:
    """Close what is open under that key; from now on `newer` is, until `give_up`."""
    close_earlier(key)
    _open[key] = newer
    before_exit(_close_all)  # while the kernel can still send to the page


def give_up(key: object, closed: Closable) -> None:
    """`closed` is no longer open; what has taken its key meanwhile stays."""
    if _open.get(key) is closed:
        del _open[key]


class Panel(anywidget.AnyWidget):
    """A live widget that replaces the earlier one of its kind and `key`, and leaves `_still()` behind when it ends.

    A subclass overrides `_still`, for notebooks without the widget, and `_do`, for the messages of the page. These are
    dicts like {"do": "hello"}, which the page sends when it draws a view.
    """

    watches = False  # True: closed before the other panels at the end, so that its last picture still shows them
    seen = False  # whether a page has drawn it
    _view = traitlets.Unicode().tag(sync=True)  # the id of the widget in whose outputs the page finds it
    _now = traitlets.Dict().tag(sync=True)  # saved in the place of what the output has besides the view, if not empty

    def __init__(self, key: object, **traits: Any) -> None:
        super().__init__(**traits)
        self.stand_in(self.model_id)
        self._slot = Slot()
        self._key = (type(self).__name__, key)  # not the type: adding traits has made a new one for each instance
        take_place(self._key, self)
        self.on_msg(self._on_message)

    def stand_in(self, view: str) -> None:
        """Let the page look for it in the outputs that show the widget with this id: itself, or one around it."""
        self._view = view
        answer_in_any_loop(self.comm)

    def _still(self) -> Bundle:
        """What the notebook shows when the kernel is gone: text/plain, and text/html or image/png."""
        raise NotImplementedError

    def _do(self, message: dict[str, Any]) -> None:
        """Take a message of the page. It runs in the main thread or a subshell's, so it must only hand the work on."""

    def _on_message(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if isinstance(content, dict):
            self.seen = self.seen or content.get("do") == "hello"
            self._do(content)

    def _ipython_display_(self) -> None:
        self._slot.show(self, self._still())

    def close(self) -> None:
        """Remove the widget and leave `_still()` where a page has shown it. Calling it again does nothing."""
        if self.comm is None:
            return
        give_up(self._key, self)
        # Without a page (nbclient, nbval, nbconvert --execute) the outputs stay as they are, the same in each run.
        if self.seen:
            self._slot.leave(self._still(), [self])
        super().close()


def _close_all() -> None:
    latest_first = list(_open.values())[::-1]
    for each in sorted(latest_first, key=lambda each: not getattr(each, "watches", False)):
        with contextlib.suppress(Exception):  # so that the others are closed, too
            each.close()
