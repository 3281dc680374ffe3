"""The three views of one moment: where each thread stands, who waits in the backlog, what happened until now."""

from __future__ import annotations

from dataclasses import dataclass

from .backlog import Backlog
from .code import PAUSED, STANDS, CodeView
from .timeline import Timeline


@dataclass(frozen=True)
class Snapshot:
    """A server at one moment. Its parts are what `where()`, `backlog()` and `timeline()` show."""

    code: CodeView
    backlog: Backlog
    timeline: Timeline

    @property
    def headline(self) -> str:
        """Who waits, and why, in one sentence from what was seen."""
        stands = [mark for _, mark in self.code.marks if mark.kind in (STANDS, PAUSED)]
        names = [each.name for each in self.backlog.waiting]
        if not stands or not self.backlog.listens:
            return self.code.title.partition(": ")[2]
        accepts = any(mark.words.startswith("waits in accept") for mark in stands)
        if not names:
            nobody = "nobody waits" if self.backlog.complete else "no client of echo_kit waits"
            return nobody + (": a thread stands ready to accept the next client" if accepts else "")
        who = names[0] if len(names) == 1 else f"{len(names):,} clients"
        wait = f"{who} wait{'s' if len(names) == 1 else ''}"
        if len(stands) == 1:
            return f"{wait}: the only thread {'is ' if stands[0].kind == PAUSED else ''}{stands[0].words}"
        return wait if accepts else f"{wait}: none of the {len(stands):,} threads is in accept"

    def __str__(self) -> str:
        return "\n\n".join(map(str, (self.code, self.backlog, self.timeline)))

    __repr__ = __str__
