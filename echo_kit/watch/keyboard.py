"""A client program's side: the keyboard, the lines that are typed, and what its servers are told of its calls."""

from __future__ import annotations

import contextlib
import socket
import sys
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

from .calls import made, plain_recv, plain_send
from .events import Connection, EventLog, Record
from .observation import Observation, Observed, ServerStopped, current_task, lock
from .waiting import wait

_keyboards: dict[Observation, Keyboard] = {}  # of the programs that run


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
        if server is not None and kind in ("send", "recv", "shutdown", "close"):
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

    def plug_in(self) -> None:
        """From now on the threads of the program read from here, by `input` and by `sys.stdin`."""
        with lock:
            _keyboards[self.seen.observation] = self
            if not isinstance(sys.stdin, Typed):
                sys.stdin = Typed(sys.stdin)

    def type(self, line: str | None) -> None:
        """Type a line, or the end of the input (None): Ctrl+D."""
        self._lines.append(line)
        self.wake()

    @property
    def has_lines(self) -> bool:
        """Whether a line was typed that the program has not read."""
        return bool(self._lines)

    def wake(self) -> None:
        """Also without a line: a select that waits for one returns, so that its thread gets a Ctrl+C."""
        with contextlib.suppress(OSError):  # the program has ended
            plain_send(self._writer, b"!")

    def read(self, prompt: object, call: str = "input") -> str:
        """As `input`, for the calling thread of the program."""
        observation, task = self.seen.observation, current_task()
        assert task is not None
        observation.write(task, str(prompt))
        with made(call, self.seen):
            while True:
                wait(self.seen, self._reader, None)  # raises what Ctrl+C does
                if observation.stopping:
                    raise ServerStopped
                if self._lines:
                    break
                plain_recv(self._reader, 1)  # it was woken
        plain_recv(self._reader, 1)  # not before: the program would seem to wait for another line
        line = self._lines.popleft()
        observation.write(task, "\n" if line is None else f"{line}\n")
        if line is None:
            raise EOFError("end of input")
        return line

    def fileno(self) -> int:
        """For `select`: readable when a line was typed."""
        return self._reader.fileno()

    def close(self) -> None:
        with lock:
            _keyboards.pop(self.seen.observation, None)
            if not _keyboards and isinstance(sys.stdin, Typed):
                sys.stdin = sys.stdin.plain
        self._reader.close()
        self._writer.close()


def keyboard_here() -> Keyboard | None:
    """The keyboard of the program whose thread is calling, None if it is none's."""
    task = current_task()
    return None if task is None else _keyboards.get(task.observation)


class Typed:
    """Stands in for `sys.stdin` while programs run: each reads what was typed for it, everybody else as before."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def readline(self, *size: int) -> Any:
        keyboard = keyboard_here()
        if keyboard is None:
            return self.plain.readline(*size)
        try:
            return keyboard.read("", "stdin") + "\n"
        except EOFError:
            return ""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.plain) if keyboard_here() is None else iter(self.readline, "")

    def __next__(self) -> Any:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def readlines(self, *hint: int) -> Any:
        return self.plain.readlines(*hint) if keyboard_here() is None else [*self]

    def read(self, *size: int) -> Any:
        return self.plain.read(*size) if keyboard_here() is None else "".join(self)

    def fileno(self) -> int:
        keyboard = keyboard_here()
        return int(self.plain.fileno()) if keyboard is None else keyboard.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)
