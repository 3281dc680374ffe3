"""What a server's threads printed, grouped by connection: the order between connections is not a fact."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from ..watch.events import Connection
from ..watch.observation import Observation
from ..watch.text import visible
from .lanes import lanes_of


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
        lines = sorted(observation.printed(), key=lambda each: order.get(each.connection, 0) if each.connection else 0)
        dropped = observation.lines_ever - len(observation.lines)
        text = (
            [f"(the log keeps the newest {len(observation.lines):,} of {observation.lines_ever:,} lines)"]
            if dropped
            else []
        )
        for (connection, thread), group in groupby(lines, key=lambda each: (each.connection, each.thread)):
            who = f"{names[connection]} ({thread})" if connection in names else thread
            text += [who, *(f"    {visible(line.text)}" for line in group)]
        return "\n".join(text) or "(nothing printed)"

    __repr__ = __str__
