"""What a stretch of a lane can be: one table, by which matplotlib draws and which the stage's page is sent.

A new state is one row here and one transition in `lanes.py`. The colours are far apart under every simulated colour
blindness; waiting is striped and outlined as well, connecting is thin.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)  # each is one object: as a key it is as fast as a text
class State:
    """One row of the table.

    name    how the page and the code call it
    words   what is said of a lane that is in it now
    legend  what the legend says
    colour  of its bars
    hatch   drawn over them: "/", "x" or "." ; "" for plain bars
    dark    whether the words on its bars are white
    thin    whether its bars have half the height
    """

    name: str
    words: str
    legend: str
    colour: str
    hatch: str = ""
    dark: bool = False
    thin: bool = False


CONNECTING = State("connecting", "connecting", "connecting", "#BBBBBB", thin=True)
BACKLOG = State("backlog", "waits in the backlog", "waits in the backlog", "#EE7733", hatch="/")
ACCEPTED = State("accepted", "accepted, no thread is seen at it", "accepted, no thread is seen at it", "#E4E4E4")
IN_ACCEPT = State("in accept", "thread waits in accept", "waits in accept for a client", "#E4E4E4")
IN_RECV = State("in recv", "server waits in recv", "server waits for the client (recv)", "#99CCEE")
WORKS = State("works", "server works", "server works for the client", "#0066AA", dark=True)
IN_SEND = State(
    "in send", "server waits in sendall", "sendall waits: the client does not read", "#AA3377", hatch="x", dark=True
)
PAUSED = State("paused", "thread is paused, step by step", "paused, step by step", "#9A9A9A", hatch=".")

STATES = (CONNECTING, BACKLOG, ACCEPTED, IN_ACCEPT, IN_RECV, WORKS, IN_SEND, PAUSED)  # in the legend's order
USUAL = (BACKLOG, IN_RECV, WORKS)  # a legend has these in any case
