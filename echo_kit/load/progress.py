"""`Progress`: how far a swarm has come, drawn by tqdm in a terminal and in a notebook."""

from __future__ import annotations

import sys
import threading
from typing import Any

bar: Any = None
try:
    from tqdm import tqdm
except ImportError:  # it runs all the same, without a progress bar
    pass
else:
    # It has no thread of its own, and no lock of `multiprocessing`: from Python 3.14 on, that starts a process.
    bar = type("Bar", (tqdm,), {"monitor_interval": 0, "_lock": threading.RLock()})

DELAY = 0.5  # seconds: a swarm that takes less has no bar


class Progress:
    """A bar of `total` messages. In a notebook each cell has one place for it, empty when all is over: so what a cell
    shows does not depend on how long its swarms took.
    """

    def __init__(self, total: int, words: str) -> None:
        self._bar = None
        if bar is not None and total:
            place = _Place.of_this_cell()
            self._place = place
            self._bar = bar(
                total=total,
                desc=words,
                unit=" messages",
                file=sys.stderr if place is None else place,
                ascii=False,
                ncols=None if place is None else 90,
                delay=DELAY,
                leave=False,
                disable=None if place is None else False,  # None: only in a terminal
            )

    def tell(self, answered: int, connected: int) -> None:
        """So many messages have come back by now."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"{connected:,} connected", refresh=False)
            self._bar.update(answered - self._bar.n)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            if self._place is not None:
                self._place.write("")


class _Place:
    """Where a cell's bars are drawn: an output whose text is replaced."""

    last: tuple[object, _Place] | None = None

    @classmethod
    def of_this_cell(cls) -> _Place | None:
        """The place of the running cell, made when it is asked for first; None outside a notebook."""
        shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if getattr(shell, "kernel", None) is None:
            return None
        cell = shell.kernel.get_parent("shell")["header"]["msg_id"]  # nbval's cells all have one execution count
        if cls.last is None or cls.last[0] != cell:
            cls.last = cell, cls()
        return cls.last[1]

    def __init__(self) -> None:
        from IPython.display import display

        self._text = ""
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        """What tqdm writes begins with a return of the carriage."""
        text = text.strip()
        if text != self._text and self._handle is not None:
            self._text = text
            self._handle.update({"text/plain": text}, raw=True)

    def flush(self) -> None:
        """tqdm asks for it."""
