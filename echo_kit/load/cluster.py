"""A swarm on the engines of an ipyparallel cluster: each engine runs its part of the clients."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from . import clients as program
from .clients import Outcome, Plan

LATE = 15.0  # seconds that an engine may answer later than its plan says


def on_engines(view: Any, plan: Plan) -> list[Outcome]:
    """The outcome of each engine. Raises TypeError for what is no view, RuntimeError for what an engine says.

    An engine needs Python and ipyparallel, and no echo_kit: the clients' program is sent as text.
    """
    if not hasattr(view, "apply_async") or not hasattr(view, "targets"):
        raise TypeError(f"view= takes an ipyparallel view like rc[:], not {view!r}")
    targets = view.targets if isinstance(view.targets, list) else [view.targets]
    view = view.client[targets]
    if "127." in plan["address"][0][:4] or plan["address"][0] == "localhost":
        _only_this_machine(view, plan)
    text = Path(program.__file__).read_text("utf-8")
    waiting = [
        view.client[target].apply_async(_run_text, text, part)
        for target, part in zip(targets, parts(plan, len(targets)), strict=True)
        if part["clients"]
    ]
    outcomes = []
    for each in waiting:
        outcome = each.get(timeout=plan["timeout"] + LATE)
        if "wrong" in outcome:
            raise RuntimeError(outcome["wrong"])
        outcomes.append(outcome)
    return outcomes


def parts(plan: Plan, count: int) -> list[Plan]:
    """The plan cut into so many: as many clients, active and slow ones in each as possible."""
    made, first = [], 0
    for place in range(count):
        part = dict(plan, first=first)
        for name in ("clients", "active", "slow"):
            part[name] = plan[name] * (place + 1) // count - plan[name] * place // count
        first += part["clients"]
        made.append(part)
    return made


def _run_text(text: str, plan: Plan) -> Outcome:
    """What an engine runs."""
    names: dict[str, Any] = {"__name__": "echo_kit_clients"}
    exec(text, names)
    outcome: Outcome = names["run"](plan)
    return outcome


_run_text.__module__ = "__main__"  # so that ipyparallel sends the function itself, and not where an engine finds it


def _only_this_machine(view: Any, plan: Plan) -> None:
    hosts = set(view.apply_sync(socket.gethostname))
    if others := sorted(hosts - {socket.gethostname()}):
        raise RuntimeError(
            f"{plan['address'][0]} is a machine's own address, and there are engines on {', '.join(others)}: let the "
            f"server listen at 0.0.0.0, and give the swarm this machine's address in your network"
        )
