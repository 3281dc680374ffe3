"""`Rehearsal`: a class of simulated students, in other processes, and the report of how it went.

`students.py` is what these processes run.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ..watch.text import counted, cut, in_html, visible

MOST = 1_000  # students
LONGEST = 600  # seconds
EACH = 250  # students of one process
GRACE, MORE = 40, 0.12  # seconds, and for each student, in which they get the echoes that are still owed, and leave
RAMP, EACH_COMES = 5.0, 0.02  # seconds in which a class has opened the page; of a large one, for each student
ENDS = 5  # seconds that a process may take to end by itself
SAMPLES = 50_000  # echo times that are kept
WORDS_LETTERS = 300  # of what a process says when it fails
ROOT = Path(__file__).parents[2]  # where a new Python finds this package, also where it is not installed


class Rehearsal:
    """A class of `students` that goes on in the background for some `seconds`; shows itself, as far as it has come."""

    def __init__(self, url: str, students: int, seconds: float) -> None:
        if type(students) is not int or not 1 <= students <= MOST:
            raise ValueError(f"a class has 1 to {MOST:,} students, got {students!r}")
        if not isinstance(seconds, int | float) or not 1 <= seconds <= LONGEST:
            raise ValueError(f"a rehearsal takes 1 to {LONGEST} seconds, got {seconds!r}")
        self.students, self.seconds = students, seconds
        grace = GRACE + MORE * students  # a room keeps the place of one who has vanished for half a minute
        self.longest = seconds + grace + 4 * ENDS  # seconds that it takes at most
        self.trouble: list[str] = []  # what went wrong with a process, in sentences
        self._counts: dict[int, Counter[str]] = {}  # by process, as it has told last
        self._times: list[float] = []  # milliseconds, of the echoes
        self._lock = threading.Lock()  # guards these three
        self._processes: list[subprocess.Popen[str]] = []
        self._ended = threading.Event()
        ramp = min(seconds / 3, max(EACH_COMES * students, min(RAMP, 0.1 * students)))
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        try:
            for first in range(0, students, EACH):
                command = [
                    sys.executable,
                    "-P",
                    "-m",
                    "echo_kit.live.students",
                    url,
                    str(seconds),
                    str(grace),
                    str(ramp),
                ]
                self._processes.append(
                    subprocess.Popen(
                        [*command, str(first), str(min(students, first + EACH))],
                        env=os.environ | {"PYTHONPATH": path},
                        stdin=subprocess.PIPE,  # its end tells them that it is over, also when this process crashes
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        text=True,
                        encoding="utf-8",
                        errors="replace",
                    )
                )
        except OSError as error:
            self.trouble.append(f"no process could be started for the students: {error.strerror or error}")
        self._thread = threading.Thread(target=self._run, name="rehearsal", daemon=True)
        self._thread.start()

    # -- called from any thread ----------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a student is still there."""
        return not self._ended.is_set()

    def wait(self) -> Rehearsal:
        """Wait for its end, at most `longest` seconds. Ctrl+C ends the waiting, and not the rehearsal."""
        self._ended.wait(self.longest)
        return self

    def stop(self) -> None:
        """End it now: all students leave. Calling it again does nothing."""
        for process in self._processes:
            with contextlib.suppress(OSError, ValueError):
                if process.stdin is not None:
                    process.stdin.close()
        self._thread.join(timeout=3 * ENDS)

    def count(self, what: str) -> int:
        """Of all students: "connected", "messages", "right", "wrong", "lost", "votes", "only connected", "vanished",
        "reloaded", "refused".
        """
        with self._lock:
            return sum(each[what] for each in self._counts.values())

    def echo_time(self, part: float) -> float | None:
        """The time, in milliseconds, in which that part of the echoes was there: 0.5 is the median. None: no echo."""
        with self._lock:
            times = sorted(self._times)
        return times[min(len(times) - 1, int(part * len(times)))] if times else None

    # -- threads of its own --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        readers = [
            threading.Thread(target=self._read, args=pair, name="rehearsal reads", daemon=True)
            for pair in enumerate(self._processes)
        ]
        for each in readers:
            each.start()
        deadline = time.monotonic() + self.longest - ENDS
        for each in readers:
            each.join(max(0.0, deadline - time.monotonic()))
        for process, reader in zip(self._processes, readers, strict=True):
            if reader.is_alive():
                process.kill()
                self._note("a process of students did not end in time, and was killed")
            reader.join(ENDS)
        self._ended.set()

    def _read(self, number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                with self._lock:
                    self._counts[number] = Counter(told["counts"])
                    self._times += told["times"][: SAMPLES - len(self._times)]
        said = process.stderr.read().strip()
        try:
            code = process.wait(ENDS)
        except subprocess.TimeoutExpired:  # it has closed its output, and goes on
            process.kill()
            code = process.wait(ENDS)
        if code:
            last = visible(said.splitlines()[-1]) if said else f"it ended with {code}"
            self._note(f"a process of students failed: {cut(last, WORDS_LETTERS)}")
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()

    def _note(self, words: str) -> None:
        with self._lock:
            self.trouble.append(words)

    # -- how it shows itself -------------------------------------------------------------------------------------------

    @property
    def progress(self) -> str:
        """One line: how far it has come."""
        state = "runs" if self.running else "is over"
        connected, messages, right = map(self.count, ("connected", "messages", "right"))
        said = f"{connected:,} of {self.students:,} connected, {counted(messages, 'message')}, {right:,} echoed"
        return f"The rehearsal {state}: {said}"

    def rows(self) -> list[tuple[str, str]]:
        """What is known, as (what, how many)."""
        rows = [("students", f"{self.students:,}"), ("connected", f"{self.count('connected'):,}")]
        if refused := self.count("refused"):
            rows.append(("could not connect", f"{refused:,}"))
        for what, name in (
            ("messages", "messages"),
            ("echoes that were right", "right"),
            ("echoes that were wrong", "wrong"),
            ("messages without an echo", "lost"),
            ("votes", "votes"),
            ("only connected", "only connected"),
            ("left without goodbye", "vanished"),
            ("loaded the page again", "reloaded"),
        ):
            rows.append((what, f"{self.count(name):,}"))
        for what, part in (("half of the echoes came within", 0.5), ("95 of 100 came within", 0.95)):
            took = self.echo_time(part)
            if took is not None:
                rows.append((what, f"{took:,.0f} ms"))
        return rows

    def __repr__(self) -> str:
        if self.running:
            return f"Rehearsal of a class of {self.students:,} for {self.seconds:g} s, which goes on"
        wide = max(len(what) for what, _ in self.rows())
        lines = [f"{what:<{wide}}  {number}" for what, number in self.rows()]
        return "\n".join([f"Rehearsal of a class of {self.students:,}", *lines, *self.trouble])

    def _repr_html_(self) -> str:
        if self.running:
            return f"<p>{in_html(repr(self))}</p>"
        body = "".join(
            f'<tr><td style="text-align: left">{in_html(what)}</td><td>{in_html(number)}</td></tr>'
            for what, number in self.rows()
        )
        notes = "".join(f"<p>{in_html(each)}</p>" for each in self.trouble)
        return f"<table>{body}</table>{notes}"


def told(rehearsal: Rehearsal | None) -> dict[str, Any]:
    """What the classroom's page is told of it."""
    if rehearsal is None:
        return {"words": "", "running": False}
    return {"words": ". ".join([rehearsal.progress, *rehearsal.trouble]), "running": rehearsal.running}
