"""`launch(serve)`: runs a server in a process of its own, unwatched, as it would run in a terminal.

    server = echo_kit.launch(serve)          # the whole text of the cell that defines serve, in another process
    server.memory(), server.threads()        # what it costs

The process defines what the cell (or the file) of the function defines, and calls it with a host and a free port.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import linecache
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..watch import reasons
from ..watch.borrowed import before_exit
from ..watch.kernel import descendants
from ..watch.sockets import free_port
from ..watch.text import cut
from . import host as program

STARTS, ENDS = 20.0, 2.0  # seconds until it must listen, and in which Ctrl+C must end it
LINES, LETTERS = 2_000, 500  # of what it has printed that are kept, and characters of each
SHOWN = 20  # lines of that in an error

_launched: dict[str, Launched] = {}  # those that run, by name


class Launched:
    """A server that `launch` runs. `address` is where clients connect."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self.address = name, ("", 0)
        self._process = process
        self._lines: deque[str] = deque(maxlen=LINES)
        self._told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name=f"{name} reads", daemon=True)

    def _read(self) -> None:
        """Keep what it prints, and take what the program around it tells."""
        assert self._process.stdout is not None
        with self._process.stdout as stream, contextlib.suppress(ValueError, OSError):
            for line in stream:
                line, told, said = line.rstrip("\n").partition(program.TOLD)
                if told:
                    self._told.put(json.loads(said))
                if line or not told:
                    self._lines.append(cut(line, LETTERS))
        self._told.put({"ended": "its process has ended"})

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it and its processes have printed, the last 2,000 lines of it."""
        return "\n".join(self._lines)

    def _processes(self) -> list[int]:
        return [self._process.pid, *descendants(self._process.pid)] if self.running else []

    def memory(self) -> int | None:
        """Bytes of memory that it takes, with the processes that it has started: what several share is counted once.
        None: it has ended, or this is not Linux.
        """
        sizes = [_number(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in self._processes()]
        return 1024 * sum(sizes) if sum(sizes) else None

    def threads(self) -> int | None:
        """How many threads it has, with the processes that it has started. None as for `memory`."""
        counts = [_number(f"/proc/{pid}/status", "Threads:") for pid in self._processes()]
        return sum(counts) - 1 if sum(counts) else None  # one is ours: it waits for the end of this kernel

    def waits(self) -> int | None:
        """How often its threads have gone to sleep, to wait for a lock, a client or a clock. None as for `memory`."""
        counts = []
        for pid in self._processes():
            with contextlib.suppress(OSError):  # a process that has ended meanwhile
                tasks = Path(f"/proc/{pid}/task").iterdir()
                counts += [_number(f"{task}/status", "voluntary_ctxt_switches:") for task in tasks]
        return sum(counts) if counts else None

    def processor(self) -> float | None:
        """Seconds of a processor that it has used, with the processes that it has started. None as for `memory`."""
        ticks = []
        for pid in self._processes():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
                ticks += list(map(int, fields[11:15]))  # utime, stime, and those of children that have ended, proc(5)
        return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None

    def stop(self) -> None:
        """End it as Ctrl+C does, and after two seconds, with all that it has started, as kill -9 does. Bounded."""
        process = self._process
        if process.poll() is None:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGINT if sys.platform != "win32" else signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDS)
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.close()
        process.kill()
        process.wait(ENDS)
        self._reader.join(ENDS)
        if _launched.get(self.name) is self:
            del _launched[self.name]

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"{self.name}: {'runs in a process of its own' if self.running else 'its process has ended'}"


def launch(
    serve: Callable[..., object],
    *,
    descriptors: int | None = None,
    cores: int | None = None,
    python: str | Path | None = None,
) -> Launched:
    """Run serve(host, port) in a process of its own, and return when it listens.

    serve        a function of a cell that holds all that it needs, imports too; or of a module
    descriptors  file descriptors that its process may have (ulimit -n). None: as many as the system gives
    cores        processors that it may use (on Linux). None: all
    python       another Python that runs it, like "python3.14t". None: this one

    One that was launched under the same name before is stopped. All end with the kernel. Raises TypeError for what is
    no such function, and RuntimeError, with what it had printed, for one that does not listen.
    """
    plan, port = _source(serve), free_port()
    plan["arguments"] = reasons.arguments(serve, "127.0.0.1", port)
    for name, value, most in (("descriptors", descriptors, 2**20), ("cores", cores, 2**10)):
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise ValueError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}")
    if (before := _launched.get(plan["name"])) is not None:
        before.stop()
    plan |= {"descriptors": descriptors, "cores": cores}
    plan["path"] = [] if python else sys.path  # another Python has packages of its own
    try:
        process = subprocess.Popen(
            [str(python or sys.executable), "-u", "-P", str(Path(program.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,  # Ctrl+C in a terminal is for the notebook
        )
    except OSError as error:
        raise RuntimeError(f"{python or sys.executable} cannot be started: {error.strerror or error}") from None
    server = Launched(plan["name"], process)
    server._reader.start()
    _launched[server.name] = server
    try:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            print(json.dumps(plan), file=process.stdin, flush=True)
        said = server._told.get(timeout=STARTS)
    except queue.Empty:
        said = {"ended": f"it did not listen within {STARTS:g} s"}
    except BaseException:
        server.stop()
        raise
    if "port" not in said:
        server.stop()
        printed = "\n".join(server.log.split("\n")[-SHOWN:])
        cure = " Its process runs the one cell that defines it: imports and helpers belong there, too."
        raise RuntimeError(
            f"{server.name} does not listen: {said['ended']}.{cure if 'NameError' in said['ended'] else ''}"
            + (f"\nIt had printed:\n{printed}" if printed else "")
        )
    server.address = ("127.0.0.1", said["port"])
    return server


def _source(serve: Callable[..., object]) -> dict[str, Any]:
    """Where the other process finds the function."""
    function = inspect.unwrap(serve) if callable(serve) else serve
    if not inspect.isfunction(function) or "<" in function.__qualname__:
        raise TypeError(
            f"launch() needs a function serve(host, port) that a cell or a module defines at its top, not "
            f"{cut(repr(serve), 100)}"
        )
    plan = {"name": function.__name__, "module": function.__module__, "file": function.__code__.co_filename}
    if function.__module__ != "__main__":
        return plan | {"text": None}
    text = "".join(linecache.getlines(plan["file"]))
    if not text:
        raise TypeError(f"the text of {function.__name__} is not known: define it in a cell or in a file")
    return plan | {"text": text}


def _number(path: str, name: str) -> int:
    """The number behind that name in a file of Linux's; 0 if it has gone."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text("utf-8").splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def _stop_all() -> None:
    for each in list(_launched.values()):
        each.stop()


before_exit(_stop_all)
