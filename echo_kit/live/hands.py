"""`PanelWithHands`: a live widget with two threads of its own, so that the kernel's never wait.

The painter tells the page what is new. The hands do what its buttons ask for, one after the other, so that the picture
goes on while a server is being stopped.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..server import ServerStuck
from ..watch.borrowed import answer_nobody
from ..watch.reasons import told
from ..watch.text import visible
from .panel import Panel

ENDS = 10.0  # seconds that the threads may take to end: longer than a change of server does

# By what the page asks for: what it shows meanwhile, and the call, which may return a sentence to be shown.
Commands = Mapping[str, tuple[str, Callable[[Any, dict[str, Any]], str | None]]]


class PanelWithHands(Panel):
    """A subclass says in `commands` what the buttons do, and paints in `_paint`. Its threads start with the first
    message of a page, or by `_begin`, and end with `close`.
    """

    commands: Commands

    def __init__(self, key: object, **traits: Any) -> None:
        self._doing = self._note = ""  # what the hands do, and what went wrong
        self._done = 0  # how much they have done
        self._over = False
        self._wake = threading.Event()
        self._commands: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()  # guards _threads and _over
        super().__init__(key, **traits)

    def _paint(self) -> float | None:
        """Look, and tell the page. The seconds until the next look; None: until something happens."""
        raise NotImplementedError

    def _begin(self) -> None:
        """There is something to do or to paint."""
        with self._starting:
            if not self._threads and not self._over:
                for work in (self._painter, self._hands):
                    self._threads.append(threading.Thread(target=work, name=repr(self), daemon=True))
                    self._threads[-1].start()
        self._wake.set()

    def _ask(self, message: dict[str, Any]) -> bool:
        """Have the hands do it, if it is a command."""
        what = message.get("do")
        known = isinstance(what, str) and what in self.commands
        if known:
            self._commands.put((str(what), message))
        return known

    def _end(self) -> None:
        """End both threads. Calling it again does nothing."""
        with self._starting:
            self._over = True
        self._commands.put(("", {}))
        self._wake.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(ENDS)

    def _painter(self) -> None:
        answer_nobody()
        while not self._over:
            self._wake.clear()
            try:
                pause = self._paint()
            except Exception as error:  # the next look may go well
                self._note, pause = f"this view has failed: {type(error).__name__}: {visible(str(error))}", 1.0
            self._wake.wait(pause)

    def _hands(self) -> None:
        answer_nobody()
        while True:
            what, message = self._commands.get()
            if self._over:
                return
            self._note, (self._doing, call) = "", self.commands[what]
            self._wake.set()
            try:
                self._note = call(self, message) or ""
            except (ServerStuck, OSError, ValueError, RuntimeError) as error:
                self._note = visible(told(error))
            except BaseException as error:  # what the student's server raises when it starts, SystemExit too
                self._note = f"{type(error).__name__}: {visible(told(error))}"
            self._doing = ""
            self._done += 1
            self._wake.set()
