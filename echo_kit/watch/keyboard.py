"""A client program's side: the keyboard, the lines that are typed, and what its servers are told of its calls."""

from __future__ import annotations

import contextlib
import socket
import weakref
from collections import deque

from .calls import made, plain_recv, plain_send
from .events import Connection, EventLog, Record
from .observation import Observation, Observed, ServerStopped, current_task
from .waiting import wait


class ClientLog(EventLog):
    """The events of a client program. A server of ours, at the other end, is told of them as of a `Client`'s."""

    def __init__(self, observation: Observation) -> None:
        super().__init__(capacity=10_000)
        self._observation = observation
        self.append = self._pass_on

    def _pass_on(self, record: Record) -> None:
        self._records.append(record)
        kind, connection = record[0], record[3]
        server = self._observation.servers.get(connection)
        if server is not None and kind in ("send", "recv", "close"):
            server.log.append((f"client {kind}", *record[1:4], "", *record[5:]))
            server.log.count()


class Keyboard:
    """What was typed for one program, and not read yet. A byte lies in the socket for each line, to wait for."""

    def __init__(self, observation: Observation) -> None:
        self._lines: deque[str | None] = deque()
        self._reader, self._writer = socket.socketpair()
        self.seen = observation.keyboard = Observed(
            observation, weakref.ref(self._reader), Connection((), name="keyboard")
        )

    def type(self, line: str | None) -> None:
        """Type a line, or the end of the input (None): Ctrl+D."""
        self._lines.append(line)
        with contextlib.suppress(OSError):  # the program has ended
            plain_send(self._writer, b"!")

    def read(self, prompt: object) -> str:
        """As `input`, for the calling thread of the program."""
        observation, task = self.seen.observation, current_task()
        assert task is not None
        observation.write(task, str(prompt))
        with made("input", self.seen):
            wait(self.seen, self._reader, None)  # raises what Ctrl+C does
            if observation.stopping:
                raise ServerStopped
        plain_recv(self._reader, 1)  # not before: the program would seem to wait for another line
        line = self._lines.popleft()
        observation.write(task, "\n" if line is None else f"{line}\n")
        if line is None:
            raise EOFError("end of input")
        return line

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
