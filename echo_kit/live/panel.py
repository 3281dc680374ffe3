"""`Panel`: the kernel's side of a live widget. `InOutputs`: how it stands in the outputs of cells.

A widget needs its kernel: without it, a saved notebook says "model not found". So a panel that ends puts a picture or
a text of its last state into its outputs.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets
from IPython.display import display

from ..watch.borrowed import answer_in_any_loop, before_exit

STATIC = Path(__file__).parent / "static"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
LATER = "While a cell runs, the panels here do not answer: they do when it has ended."

Bundle = tuple[dict[str, Any], dict[str, Any]]  # data and metadata, by mime type


def script(*names: str) -> str:
    """The page's side of a panel: what all panels have in common, then its own files."""
    return "".join((STATIC / f"{each}.js").read_text("utf-8") for each in ("borrowed", "panel", *names))


def style(name: str) -> str:
    """Its text, and no path: of a class that has a path, anywidget would keep each panel, closed or not."""
    return (STATIC / f"{name}.css").read_text("utf-8")


_open: dict[object, InOutputs] = {}  # by key, so that a cell that is run again replaces what it shows


class InOutputs(ipywidgets.DOMWidget):  # type: ignore[misc]
    """A widget that replaces the earlier one of its class and key, and leaves `_still()` in its outputs at the end."""

    rank = 0  # at the end, those of a higher rank are closed first
    seen = False  # whether a page has drawn it

    def _take_place(self, key: object) -> None:
        """Close what is open under that key; from now on it is this one."""
        self._key = (type(self).__name__, key)  # not the type: adding traits has made a new one for each instance
        self._places: list[str] = []  # its display ids, one each time it was displayed
        earlier = _open.pop(self._key, None)
        if earlier is not None:
            self._succeed(earlier)
            earlier.close()
        _open[self._key] = self
        before_exit(_close_all)  # while the kernel can still send to the page

    def _succeed(self, earlier: InOutputs) -> None:
        """Take over from an earlier one what is to go on."""

    def _still(self) -> Bundle:
        """What the notebook shows when the kernel is gone: text/plain, and text/html or image/png."""
        raise NotImplementedError

    def _ipython_display_(self) -> None:
        """Display it below the running cell, with `_still()` for programs that cannot draw it; closed, only that."""
        data, metadata = self._still()
        if self.comm is None:
            display(data, metadata=metadata, raw=True)
            return
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        self._places.append(uuid.uuid4().hex)
        display({**data, WIDGET_VIEW: view}, metadata=metadata, raw=True, display_id=self._places[-1])

    def close(self) -> None:
        """Remove the widget and leave `_still()` where a page has shown it. Calling it again does nothing."""
        if self.comm is None:
            return
        if _open.get(self._key) is self:
            del _open[self._key]
        # Without a page (nbclient, nbval, nbconvert --execute) the outputs stay as they are, the same in each run.
        if self.seen and self._places:
            data, metadata = still = self._still()
            for place in self._places:
                display(data, metadata=metadata, raw=True, display_id=place, update=True)
            self.send({"still": still})  # because a page that was reloaded does not know the display ids
        super().close()


class Panel(InOutputs, anywidget.AnyWidget):
    """A live widget of our own.

    A subclass overrides `_still`, for notebooks without the widget, and `_do`, for the messages of the page. These are
    dicts like {"do": "hello"}, which the page sends when it draws a view.
    """

    _view = traitlets.Unicode().tag(sync=True)  # the id of the widget in whose outputs the page finds it
    _now = traitlets.Dict().tag(sync=True)  # saved in the place of what the output has besides the view, if not empty
    _late = traitlets.Unicode().tag(sync=True)  # `LATER` below one of the panels, where that is seen to be true

    def __init__(self, key: object, **traits: Any) -> None:
        super().__init__(**traits)
        self.stand_in(self.model_id)
        self._take_place(key)
        self.on_msg(self._on_message)

    def stand_in(self, view: str) -> None:
        """Let the page look for it in the outputs that show the widget with this id: itself, or one around it."""
        self._view = view
        answer_in_any_loop(self.comm)

    def _do(self, message: dict[str, Any]) -> None:
        """Take a message of the page. It runs in the main thread or a subshell's, so it must only hand the work on."""

    def _on_message(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if isinstance(content, dict):
            do, late = content.get("do"), threading.current_thread() is threading.main_thread()  # which runs the cells
            self.seen = self.seen or do == "hello"
            if self._late and not late:
                self._late = ""
            elif do == "late?" and late and not any(getattr(each, "_late", "") for each in list(_open.values())):
                self._late = LATER
            if do != "late?":  # which is no panel's own
                self._do(content)


def _close_all() -> None:
    for each in sorted(_open.values(), key=lambda each: each.rank)[::-1]:  # the latest first
        with contextlib.suppress(Exception):  # so that the others are closed, too
            each.close()
