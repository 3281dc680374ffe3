"""What a server's threads printed. The lines of one thread stay in their order, which is a fact; those of different
threads are grouped by connection, for the order between threads is none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import groupby

from ..watch.events import Connection, Line
from ..watch.observation import Observation
from ..watch.text import cut, visible
from .lanes import lanes_of

TOLD_LINES, LETTERS = 400, 300  # lines that a printed log has, and characters of each


def client_names(observation: Observation) -> dict[Connection, str]:
    """The server's connections in the order in which they were accepted, each with its client's name."""
    return {lane.server: lane.name for lane in lanes_of(observation) if lane.server is not None}


class Log:
    """The printed lines of one server. `settle` is called before they are shown: it waits for the server to rest."""

    def __init__(self, observation: Callable[[], Observation], settle: Callable[[], object]) -> None:
        self._observation, self._settle = observation, settle

    def lines(self, client: str | None = None) -> list[str]:
        """The printed lines, oldest first; with `client`, those about that client's connections."""
        observation = self._observation()
        lines = observation.printed()
        if client is None:
            return [line.text for line in lines]
        names = client_names(observation)
        return [line.text for line in lines if line.connection and names.get(line.connection) == client]

    def __str__(self) -> str:
        self._settle()
        observation = self._observation()
        names = client_names(observation)
        order = {connection: number for number, connection in enumerate(names, 1)}
        reached: defaultdict[str, float] = defaultdict(float)  # by thread: at which connection its lines have arrived

        def place(line: Line) -> float:
            at = reached[line.thread]
            here = order.get(line.connection, 0) if line.connection else 0
            # About nobody: behind the connection before it.
            at = reached[line.thread] = max(at, here) if here else int(at) + 0.5 * (at > 0)
            return at

        lines = sorted(observation.printed(), key=place)
        kept, ever = len(observation.printout.lines), observation.printout.ever
        text = [f"(the log keeps the newest {kept:,} of {ever:,} lines)"] if ever > kept else []
        for (connection, thread), group in groupby(lines, key=lambda each: (each.connection, each.thread)):
            who = f"{names[connection]} ({thread})" if connection in names else thread
            text += [who, *(f"    {cut(visible(line.text), LETTERS)}" for line in group)]
        left_out = len(text) - TOLD_LINES
        if left_out > 0:
            text[TOLD_LINES // 2 : -TOLD_LINES // 2] = [
                f"… {left_out:,} more lines: log.lines() has all that is kept …"
            ]
        return "\n".join(text) or "(nothing printed)"

    __repr__ = __str__
