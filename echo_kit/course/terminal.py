"""A client program on trial: our own server answers it, lines are typed for it, and its terminal is read."""

from __future__ import annotations

import contextlib
import math
import re
import socket
from collections.abc import Callable
from typing import Any

from ..program import run
from ..views.code import DIED, STANDS
from ..watch.text import cut
from .report import LINE, LONGEST, NotYet, died_of
from .seems import PART
from .trial import Serve, Trial

KEPT = 1_900  # characters of a line that are compared: a terminal keeps a few more
BYE = b"bye"  # to which the server answers with an end of file
SOON = 0.5  # seconds that a busy machine gets to do what would be done at once
READ = 0.2  # seconds that a program gets to read a piece before the next one comes


def answered_in_pieces(program: Callable[..., Any], trial: Trial) -> Serve:
    """The function is a client program. The server is an echo that sends a piece when the last one was read, and cuts
    an é in two.
    """

    def serve(host: str, port: int) -> None:
        with socket.create_server((host, port)) as s:
            while True:
                conn, _ = s.accept()
                sent = 0
                with conn, contextlib.suppress(ConnectionError):
                    while (data := conn.recv(1024)) and data.strip() != BYE:
                        trial.heard += data
                        middle = max(0, data.find(b"\xa9"))
                        for piece in filter(None, (data[:middle], data[middle:])):
                            conn.sendall(piece)
                            sent += len(piece)
                            trial.until(lambda: _read_by(trial.program) >= sent, READ)  # noqa: B023

    return serve


def _read_by(program: Any) -> float:
    return sum(each.size for each in program.observation.log if each.kind == "recv") if program else math.inf


class Terminal:
    """One run of the client program. Each method raises `NotYet` when it does not do what it must."""

    def __init__(self, trial: Trial, hint: str) -> None:
        self.trial = trial
        self._shown: list[str] = []
        self._typed = b""
        name = f"check of {getattr(trial.function, '__name__', 'your program')}"
        trial.program = None  # that of the run before
        trial.heard.clear()
        self.program = trial.program = run(trial.function, *trial.server.address[:2], name=name)
        trial.at_the_end.callback(self.program.stop)
        self.program.observation.most_sent = PART
        connected = self.program.observation.servers
        self.expects("it connects to HOST PORT, and asks with the prompt  >", lambda: connected and self._asks(), hint)

    def types(self, *lines: str | None) -> Terminal:
        """Lines, or None: the end of the input."""
        self._typed += "".join(filter(None, lines)).encode()
        self.program.type(*lines)
        return self

    def shows(self, *texts: str, hint: str) -> Terminal:
        """These are received, after all that was before, and the program asks for the next line."""
        self._shown += texts
        came: list[str] = []

        def same() -> bool:
            came[:] = re.findall(r"^(?:> ?)*Received *: *(.*)$", self.program.screen, re.MULTILINE)
            return [each[:KEPT] for each in came] == [each.lstrip()[:KEPT] for each in self._shown]

        if not same() and came and re.match("b['\"]", came[-1]):
            hint = "print text, not bytes || decode() makes text of bytes"
        received = ", then ".join(f"Received  :  {cut(each, 40)}" for each in texts)
        self.expects(f"the terminal shows  {received}" if texts else "nothing is sent or received", same, hint)
        heard = self.trial.heard
        expected = f"it sends what was typed, {len(self._typed):,} bytes until now"
        as_typed = "the line is sent as it was typed: no strip, and no \\n behind it"
        self.expects(expected, lambda: heard == self._typed, as_typed, f"it has sent {len(heard):,} bytes; ")
        self.expects("it asks for the next line", self._asks, hint)
        return self

    def ends(self, hint: str) -> None:
        """It has ended by itself, without an error, and has closed its socket."""
        self.expects("it ends", lambda: self.program.ended, hint)
        self.expects("it ends without an error", lambda: self.program.error is None, hint)
        log = self.program.observation.log
        hint = "the socket must be closed however the program ends || with socket.socket(…) as s:"
        closes = [each for each in log if each.kind == "close" and each.thread]  # without one: the garbage collector
        self.expects("it closes its socket", lambda: closes, hint)

    def expects(self, expected: str, condition: Callable[[], object], hint: str, got: str = "") -> None:
        """As `Trial.expects`, with the end of what the terminal shows."""
        if self.trial.until(condition, SOON):
            return
        program, died = self.program, ""
        view = self.trial.view = program.where()
        stands = ["has ended"] if program.ended else [mark.words for _, mark in view.marks if mark.kind == STANDS]
        shows = [cut(line, 80) for line in program.screen.splitlines()[-4:]]
        got = "\n".join([f"{got}the terminal shows", *shows, f"(it {stands[0]})" if stands else ""])
        if program.error is not None:
            got = died_of(program.error)
            died = "".join(f"{LINE}{cut(text, LONGEST)}\n" for text, mark in view.marks if mark.kind == DIED)
        raise NotYet(expected, got, died + hint)

    def _asks(self) -> bool:
        """Whether it stands in input, behind a prompt."""
        observation = self.program.observation
        waits = any(task.waiting is observation.keyboard for task in observation.alive())
        return waits and self.program.screen.rstrip().endswith(">")
