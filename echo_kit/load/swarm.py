"""`swarm(server, clients=1000)`: many clients, in another process or on the engines of a cluster.

    report = echo_kit.swarm(server, clients=1000, messages=5)
    report                      # did every byte come back? And, as a picture, how long each answer took
    report.p50, report.p99      # seconds

In another process, since clients that share the interpreter lock with the server would measure each other.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..server import Server
from ..watch.events import Address
from ..watch.text import cut
from . import clients as program
from .clients import Outcome
from .cluster import on_engines
from .launch import Launched
from .progress import Progress
from .report import Swarm

CLIENTS, MESSAGES, SIZE, TIMEOUT = 10_000, 1_000_000, 2**20, 600  # at most: clients, messages of all, bytes, seconds
CLUSTER = 100_000  # clients at most on a cluster
ENDS = 10.0  # seconds that the process may take longer than its plan


def swarm(
    server: Server | Launched | Address,
    clients: int = 1000,
    messages: int = 5,
    *,
    active: int | None = None,
    pace: float | None = None,
    size: int = 32,
    timeout: float = 30.0,
    stagger: float = 0.0,
    slow: int = 0,
    view: Any = None,
) -> Swarm:
    """Let many clients talk to an echo server at once, and return what became of them.

    server    what `launch` or `start` returned, or an address (host, port)
    clients   how many connect, from 1 to 10,000; on a cluster, up to 100,000
    messages  that each active client sends, each when the one before has come back; a million of all at most
    active    how many of the clients talk; the others connect first, and stay silent. None: all
    pace      messages a second of each active client. A time counts from the moment when its message was due, so that a
              server that is late is late for all messages behind. None: the next one when the last has come back
    size      bytes of a message, up to 1 MB
    timeout   seconds for all of it, up to 600
    stagger   seconds from one client's connect to the next one's; 0: all at once
    slow      so many of the active clients send and never read; they come before the others, and are not waited for
    view      an ipyparallel view of a cluster, like rc[:]: each engine runs its part of the clients

    Raises TypeError and ValueError for a bad number, and RuntimeError where so many clients cannot be had.
    """
    address = _address(server)
    active = clients if active is None else active
    _check("clients", clients, 1, CLIENTS if view is None else CLUSTER)
    _check("messages", messages, 0, MESSAGES)
    _check("active", active, 0, clients, " (there are no more clients)")
    _check("slow", slow, 0, active, " (slow ones are active)")
    _check("size", size, 1, SIZE)
    _check("timeout", timeout, 0.1, TIMEOUT, number=float)
    _check("stagger", stagger, 0, timeout / clients, " (they must all come in time)", number=float)
    if pace is not None:
        _check("pace", pace, 0.01, 100_000, number=float)
    if (total := active * messages) > MESSAGES:
        raise ValueError(f"{active:,} clients with {messages:,} messages are {total:,}: at most {MESSAGES:,} are sent")
    plan = {"address": address, "clients": clients, "active": active, "messages": messages, "slow": slow}
    plan |= {"first": 0, "size": size, "timeout": timeout, "stagger": stagger, "pace": pace}
    if view is not None:
        return Swarm(plan | {"engines": True}, on_engines(view, plan))
    if isinstance(server, Launched) and not server.running:
        raise RuntimeError(
            f"{server!r}. Launch it again. (Launched a second time, a function replaces its first process.)"
        )
    memory = server.memory if isinstance(server, Launched) else lambda: None
    before, filled = memory(), None

    def measure(reached: bool) -> None:
        nonlocal filled
        filled = memory() if reached else None

    with Progress(active * messages, f"{clients:,} clients") as progress:
        outcome = _in_a_process(plan, progress, measure)
    return Swarm(plan, [outcome], None if before is None or filled is None else filled - before)


def _address(server: object) -> Address:
    address = getattr(server, "address", server)
    if isinstance(address, list | tuple) and len(address) >= 2 and isinstance(address[0], str):
        _check("a port", address[1], 1, 65535)
        return address[0], address[1]
    raise TypeError(
        "a swarm needs a server that launch() or start() returned, or an address like ('127.0.0.1', 8000), not "
        + cut(repr(server), 100)
    )


def _check(
    name: str, value: Any, least: float, most: float, why: str = "", number: type[int] | type[float] = int
) -> None:
    if isinstance(value, bool) or not isinstance(value, int if number is int else int | float):
        kind = "whole number" if number is int else "number"
        raise TypeError(f"{name} must be a {kind} from {least:,} to {most:,.10g}, not {cut(repr(value), 100)}")
    if not (math.isfinite(value) and least <= value <= most):
        raise ValueError(f"{name} must be from {least:,} to {most:,.10g}{why}, not {value:,}")


def _in_a_process(plan: dict[str, Any], progress: Progress, idle: Callable[[bool], None]) -> Outcome:
    """Run the plan in a process of its own, and end it whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-I", str(Path(program.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines.put), name="swarm reads", daemon=True)
    reader.start()
    try:
        print(json.dumps(plan), file=process.stdin, flush=True)
        until = time.monotonic() + plan["timeout"] + program.PROBE + ENDS
        while line := lines.get(timeout=max(0.1, until - time.monotonic())):
            told = json.loads(line)
            if "wrong" in told:
                raise RuntimeError(told["wrong"])
            if "counts" in told:
                return dict(told)
            if "idle" in told:
                idle(told["reached"])
                print(file=process.stdin, flush=True)
            else:
                progress.tell(told["answered"], told["connected"])
        process.wait(ENDS)
        raise RuntimeError(f"the process of the clients has ended: {cut(process.stderr.read().strip()[-300:], 300)}")
    except queue.Empty:
        raise RuntimeError(f"the process of the clients did not end within {plan['timeout']:g} s") from None
    finally:
        process.kill()
        process.wait(ENDS)
        reader.join(ENDS)
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                stream.close()


def _read(stream: Any, put: Callable[[str], None]) -> None:
    with contextlib.suppress(ValueError, OSError):
        for line in stream:
            put(line)
    put("")
