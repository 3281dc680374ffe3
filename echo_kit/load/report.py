"""`Swarm`: what became of many clients. It shows itself without times as text, and with them as a picture."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from ..views.shown import Shown, answers_figure
from ..watch.text import counted, listed
from .clients import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Swarm(Shown):
    """The outcome of `swarm`. All times are seconds.

    clients, active    how many were to connect, and how many of these to talk
    connected          clients whose connect succeeded
    refused, timed_out clients that nobody listened for, and whose connect had no answer when the time was over
    failed             reason -> number of clients that could not connect for another reason
    hung_up            clients whose connection the server ended before they had all their answers, or that were silent
    answered           messages of which every byte came back
    wrong, lost        messages of which other bytes came back, and that did not come back (in time, or were not sent)
    times, connects    seconds that each answer, and each connect, took
    memory             bytes by which the server's process has grown when all silent clients were connected; None where
                       that is not known: it is no `launch`ed one, no client is silent, or it has not accepted them all
    engines            host name -> engines there, if it ran on a cluster
    """

    def __init__(self, plan: dict[str, Any], outcomes: list[Outcome], memory: int | None = None) -> None:
        self.clients, self.active, self.messages = plan["clients"], plan["active"], plan["messages"]
        counts: Counter[str] = Counter()
        for each in outcomes:
            counts.update(each["counts"])
        known = {"connected", "refused", "timed out", "hung up", "answered", "wrong"}
        self.connected, self.refused, self.timed_out = counts["connected"], counts["refused"], counts["timed out"]
        self.failed = {reason: count for reason, count in counts.items() if reason not in known}
        self.hung_up, self.answered, self.wrong = counts["hung up"], counts["answered"], counts["wrong"]
        self.sends = (self.active - plan["slow"]) * self.messages
        self.lost = self.sends - self.answered - self.wrong
        self.times: list[float] = [each for outcome in outcomes for each in outcome["took"]]
        self.at: list[float] = [each for outcome in outcomes for each in outcome["at"]]
        self.connects: list[float] = [each for outcome in outcomes for each in outcome["connects"]]
        self.seconds: float = max(each["seconds"] for each in outcomes)
        self.per_second = self.answered / max(max(each["talked"] for each in outcomes), 1e-9)
        self._clients = [each for outcome in outcomes for each in outcome["clients"]]
        self.memory = memory
        self.engines = Counter(each["host"] for each in outcomes) if "engines" in plan else Counter()

    @property
    def complete(self) -> bool:
        """Whether every client was connected, every byte of every message came back, and the silent ones could stay."""
        return self.connected == self.clients and not self.lost and not self.wrong and not self.hung_up

    @property
    def served(self) -> int:
        """How many of the active clients have all their messages back."""
        return sum(each["role"] == "talks" and each["answered"] == self.messages for each in self.by_client())

    @property
    def longest_wait(self) -> float:
        """The longest time that an active client waited for one answer, or to connect, whether it came or not."""
        return max((each["longest_wait"] for each in self.by_client() if each["role"] == "talks"), default=0.0)

    @property
    def memory_per_client(self) -> float | None:
        """Bytes for each silent client; None where `memory` is."""
        return None if self.memory is None else self.memory / (self.clients - self.active)

    def percentile(self, part: float) -> float:
        """The time in which so many percent of the answers were there, from 0 to 100. NaN: there is no answer."""
        if not 0 <= part <= 100:
            raise ValueError(f"a percentile is from 0 to 100, got {part!r}")
        times = sorted(self.times)
        return times[max(0, math.ceil(part / 100 * len(times)) - 1)] if times else math.nan

    @property
    def p50(self) -> float:
        """The median: half of the answers took longer."""
        return self.percentile(50)

    @property
    def p99(self) -> float:
        """One of a hundred answers took longer."""
        return self.percentile(99)

    @property
    def worst(self) -> float:
        """The time of the slowest answer that came."""
        return self.percentile(100)

    def by_client(self) -> list[dict[str, Any]]:
        """A row for each client: number, role (talks, silent, slow), state at the end, answered, longest_wait."""
        return [dict(zip(("number", "role", "state", "answered", "longest_wait"), row)) for row in self._clients]  # noqa: B905

    def __repr__(self) -> str:
        """The facts, without times."""
        missing = {
            "refused": self.refused,
            "without an answer to connect": self.timed_out,
            **{f"could not connect ({reason})": count for reason, count in self.failed.items()},
        }
        told = [f"{count:,} {reason}" for reason, count in missing.items() if count]
        lines = [f"{counted(self.clients, 'client')}: {', '.join([f'{self.connected:,} connected', *told])}."]
        if not told:
            lines = [f"{counted(self.clients, 'client')}, all connected."]
        if self.sends:
            bad = {"wrong": self.wrong, "lost": self.lost}
            all_of = listed([f"{count:,} {what}" for what, count in bad.items() if count])
            lines.append(
                f"{counted(self.sends, 'message')}: {self.answered:,} came back, {all_of}."
                if all_of
                else f"{counted(self.sends, 'message')}: every byte came back."
            )
        if self.hung_up:
            lines.append(f"The server hung up on {counted(self.hung_up, 'client')}.")
        if self.engines:
            hosts = listed([f"{counted(count, 'engine')} at {host}" for host, count in sorted(self.engines.items())])
            lines.append(f"They ran on {hosts}.")
        return "\n".join(lines)

    def table(self) -> str:
        """The facts and the times, for a terminal."""
        rows = [repr(self)]
        if self.times:
            parts = [(f"{part:g} %", self.percentile(part)) for part in (50, 90, 99, 99.9)]
            rows += [
                f"{self.per_second:,.0f} messages a second, {self.seconds:.2f} s in all",
                "answered within  " + "   ".join(f"{name} {1000 * time:.2f} ms" for name, time in parts),
                f"slowest answer   {1000 * self.worst:.2f} ms",
            ]
        if self.connects:
            rows.append(f"slowest connect  {1000 * max(self.connects):.2f} ms")
            rows.append(f"longest wait     {1000 * self.longest_wait:.2f} ms")
        if self.memory_per_client is not None:
            rows.append(f"memory           {self.memory_per_client / 1000:.1f} kB for each silent client")
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON; without the single times."""
        names = ("clients", "active", "messages", "connected", "refused", "timed_out", "failed", "hung_up", "answered")
        more = ("wrong", "lost", "served", "complete", "seconds", "per_second", "longest_wait", "memory")
        times = {"p50": self.p50, "p99": self.p99, "worst": self.worst} if self.times else {}
        return {name: getattr(self, name) for name in names + more} | times

    def figure(self, dark: bool = False) -> Figure:
        return answers_figure(" ".join(repr(self).split("\n")[:2]), self.at, self.times, self.per_second, dark)
