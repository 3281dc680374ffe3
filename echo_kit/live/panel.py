"""`Panel`: what the live widgets have in common, on the kernel's side. `Slot`: their place below a cell.

A widget view is worth nothing without its kernel: a saved notebook would show "model not found". So a panel stands in a
slot of its own, and leaves there, when it ends, a picture or a text of its last state.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

import anywidget
import traitlets
from IPython import get_ipython
from IPython.display import display

from ..watch.borrowed import before_exit

__all__ = ["Panel"]

STATIC = Path(__file__).parent / "static"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

Bundle = tuple[dict[str, Any], dict[str, Any]]  # data and metadata, by mime type


def script(name: str) -> str:
    """The page's side of a panel: what all have in common, and its own."""
    return "".join((STATIC / f"{each}.js").read_text("utf-8") for each in ("borrowed", "panel", name))


class Slot:
    """The outputs in which something live stands. It may have been displayed several times."""

    def __init__(self) -> None:
        self._ids: list[str] = []

    def show(self, widget: Any, still: Bundle) -> None:
        """Display `widget` below the running cell, with `still` for who cannot draw it; a closed one as `still`."""
        data, metadata = still
        if widget.comm is None:
            display(data, metadata=metadata, raw=True)
            return
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        self._ids.append(uuid.uuid4().hex)
        display({**data, WIDGET_VIEW: view}, metadata=metadata, raw=True, display_id=self._ids[-1])

    def leave(self, still: Bundle, panels: Sequence[Panel]) -> None:
        """Put what shall stay in the place of what was live; one of `panels` tells the page as well."""
        if not self._ids:
            return
        while self._ids:
            display(still[0], metadata=still[1], raw=True, display_id=self._ids.pop(), update=True)
        for panel in panels[:1]:  # for a page that was loaded anew and has forgotten the slot
            panel.send({"still": still})


class _Closable(Protocol):
    def close(self) -> None: ...


_open: dict[object, _Closable] = {}  # running a cell again replaces what it shows


def close_earlier(key: object) -> None:
    """Close what is open under that key."""
    earlier = _open.pop(key, None)
    if earlier is not None:
        earlier.close()


def take_place(key: object, newer: _Closable) -> None:
    """Let `newer` be what is open under that key, until `give_up`; what was open under it is closed."""
    close_earlier(key)
    _open[key] = newer
    before_exit(_close_all)  # while the kernel can still speak to the page


def give_up(key: object, closed: _Closable) -> None:
    """`closed` is no longer open, whoever has its key by now."""
    if _open.get(key) is closed:
        del _open[key]


class Panel(anywidget.AnyWidget):
    """A live widget that replaces the earlier one of its kind and `key`, and leaves `_still()` behind when it ends.

    A subclass says in `_still` what stands in a notebook without the widget, and in `_do` what a message of the page,
    {"do": ...}, shall do. The page's script sends {"do": "hello"} when it draws a view.
    """

    _watches = False  # what the other panels do: at the end it is closed before them, and leaves what was to be seen
    _view = traitlets.Unicode().tag(sync=True)  # the widget in whose outputs it stands, so that the page finds them
    _now = traitlets.Dict().tag(sync=True)  # data to save in place of what its cell has shown beside the view; or empty

    def __init__(self, key: object, **traits: Any) -> None:
        super().__init__(**traits)
        self._stand_in(self.model_id)
        self._slot = Slot()
        self._seen = False  # whether a page has drawn it
        self._key = (type(self).__name__, key)  # the type itself is one an instance: traits were added to it
        take_place(self._key, self)
        self.on_msg(self._on_message)

    def _stand_in(self, view: str) -> None:
        """Its page finds it in the outputs that show this widget: itself, or one around it."""
        self._view = view
        # ipykernel 7.4 notes which loop the page shall answer to, and takes it for the one that runs this cell: then
        # nobody hears the page while a cell runs. Forget that, and the page chooses a loop that is free.
        with contextlib.suppress(AttributeError):
            del self.comm._reply_subshell_id

    def _still(self) -> Bundle:
        """What stands in the notebook when there is no kernel: text/plain, and text/html or image/png."""
        raise NotImplementedError

    def _do(self, message: dict[str, Any]) -> None:
        """Take a message of the page, "hello" too. Runs in the main thread or a subshell's: only hand the work on."""

    def _on_message(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if isinstance(content, dict):
            self._seen = self._seen or content.get("do") == "hello"
            self._do(content)

    def _ipython_display_(self) -> None:
        self._slot.show(self, self._still())

    def close(self) -> None:
        """Remove the widget and leave `_still()` where a page has shown it. Calling it again does nothing."""
        if self.comm is None:
            return
        give_up(self._key, self)
        # Without a page (nbclient, nbval, nbconvert --execute) the outputs stay as they are: the same in each run.
        if self._seen:
            self._slot.leave(self._still(), [self])
        super().close()


def answer_nobody() -> None:
    """Let ipykernel 7 take what this thread sends for no answer to a cell: see `Panel._stand_in`."""
    kernel = getattr(get_ipython(), "kernel", None)
    parent = getattr(kernel, "_shell_parent", None)
    if isinstance(parent, ContextVar):
        parent.set({})


def _close_all() -> None:
    latest_first = list(_open.values())[::-1]
    for each in sorted(latest_first, key=lambda each: not getattr(each, "_watches", False)):
        with contextlib.suppress(Exception):  # the others shall end, too
            each.close()
