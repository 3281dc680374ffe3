"""A swarm on the engines of an ipyparallel cluster: each engine runs its part of the clients."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable
from concurrent.futures import as_completed, wait
from pathlib import Path
from typing import Any

from ..watch.text import counted, cut, listed
from . import clients as program
from .clients import Outcome, Plan

LATE = 15.0  # seconds that an engine may answer later than its plan says
ABORT = 2.0  # seconds that the engines have to answer that they leave out a part
INTERRUPTS, INTERRUPT = 20, 0.2  # when one cannot: how often the others are interrupted, and seconds in between


def on_engines(view: Any, plan: Plan) -> list[Outcome]:
    """The outcome of each engine. Raises TypeError for what is no view, RuntimeError for what an engine says.

    An engine needs Python and ipyparallel, and no echo_kit: the clients' program is sent as text.
    """
    client, targets = getattr(view, "client", None), getattr(view, "targets", None)
    if client is not None and targets == "all":
        targets = client.ids
    targets = [targets] if isinstance(targets, int) else targets
    if client is None or not isinstance(targets, list) or not targets:
        raise TypeError(
            f"view= takes an ipyparallel view of one engine or more, like rc[:], not {cut(repr(view), 100)}"
        )
    targets = list(dict.fromkeys(targets))
    if plan["address"][0].startswith("127.") or plan["address"][0] in ("localhost", "::1"):
        here = socket.gethostname()
        if others := sorted(set(_each(client, socket.gethostname, dict.fromkeys(targets, ()), LATE)) - {here}):
            raise RuntimeError(
                f"{plan['address'][0]} is a machine's own address, and there are engines on {listed(others)}: let the "
                f"server listen at 0.0.0.0, and give the swarm the address of its machine in your network"
            )
    text = Path(program.__file__).read_text("utf-8")
    asked = {target: (text, part) for target, part in zip(targets, parts(plan, len(targets)), strict=True)}
    asked = {target: each for target, each in asked.items() if each[1]["clients"]}
    return _each(client, _run_text, asked, plan["timeout"] + LATE)


def parts(plan: Plan, count: int) -> list[Plan]:
    """The plan cut into so many, which differ by one client, active and slow one at most."""
    made, first = [], 0
    for place in range(count):
        part = plan | {"first": first, "stagger": plan["stagger"] * count}
        part |= {name: plan[name] // count + (place < plan[name] % count) for name in ("clients", "active", "slow")}
        first += part["clients"]
        made.append(part)
    return made


def _each(client: Any, function: Callable[..., Any], asked: dict[int, tuple[Any, ...]], seconds: float) -> list[Any]:
    """What the function returns on each of these engines, within so many seconds, or RuntimeError."""
    running: dict[Any, int] = {}
    try:
        for target, arguments in asked.items():
            running[client[target].apply_async(function, *arguments)] = target
        returned = []
        for each in as_completed(list(running), seconds):
            returned.append(result := each.result())
            if isinstance(result, dict) and "wrong" in result:
                raise RuntimeError(result["wrong"])
        return returned
    except BaseException as error:
        busy = {each: target for each, target in running.items() if not each.done()}
        with contextlib.suppress(Exception):  # those that have not begun: an engine that is there says that it knows
            client.abort(list(busy), list(busy.values()), block=False).result(ABORT)
        if isinstance(error, TimeoutError):  # a plan has an end, so that they run something else
            late = f"{counted(len(busy), 'engine')} ({listed([str(each) for each in busy.values()])})"
            raise RuntimeError(f"{late} did not answer within {seconds:g} s: do they run something else?") from None
        for _ in range(INTERRUPTS):  # the first may come before an engine has begun its part
            if not (running := {each: busy[each] for each in wait(busy, INTERRUPT).not_done}):
                break
            with contextlib.suppress(Exception):
                client.send_signal(signal.SIGINT, list(running.values()), block=False)
        if type(error) is RuntimeError or not isinstance(error, Exception):
            raise
        raise RuntimeError(f"an engine did not run its part of the clients: {cut(str(error), 200)}") from None


def _run_text(text: str, plan: Plan) -> Outcome:
    """What an engine runs."""
    names: dict[str, Any] = {"__name__": "echo_kit_clients"}
    exec(text, names)
    outcome: Outcome = names["run"](plan)
    return outcome


_run_text.__module__ = "__main__"  # so that ipyparallel sends the function itself, and not where an engine finds it
