"""A connection in words: what became of each message, and of the client."""

from __future__ import annotations

import codecs
from itertools import accumulate, groupby

from ..watch.events import Connection, SocketEvent
from ..watch.text import shortened, visible
from .lane import Lane

TOLD_MESSAGES = 6  # messages of a lane that the text names one by one
QUOTED = 24  # characters of a message that are quoted
FINISHED = "finished sending"


def quote(event: SocketEvent) -> str:
    """The beginning of a message, in quotation marks, with its size where it is cut."""
    whole = event.size <= len(event.data)  # else the last character may be cut: leave that out
    text = visible(codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(event.data, final=whole))
    if len(text) <= QUOTED and whole:
        return f'"{text}"'
    return f'"{text[:QUOTED]}…" ({event.size:,} bytes)'


def moved(lane: Lane) -> tuple[int, int]:
    """How many bytes went to the server and came back, as the client knows, or else the server."""
    server = lane.server_then or Connection(())
    return (lane.client_then.sent, lane.client_then.received) if lane.client_then else (server.received, server.sent)


def messages(lane: Lane) -> list[str]:
    """What became of each message; of many, of the first few and the last."""
    sent = b"".join(event.data for event in lane.to_server)
    back = b"".join(event.data for event in lane.to_client)
    whole = (len(sent), len(back)) == moved(lane)  # the records have all of the bytes
    if whole and not sent.startswith(back):  # no echo: tell both sides
        return shortened(_both_sides(lane), lambda told: told, TOLD_MESSAGES)
    ends = list(accumulate(event.size for event in lane.to_server))
    before = moved(lane)[0] - (ends[-1] if ends else 0)  # what the log has dropped
    told = shortened(
        list(zip(lane.to_server, ends, strict=True)),
        lambda told: f"{quote(told[0])} {_fate(lane, told[0].size, before + told[1])}",
        TOLD_MESSAGES,
    )
    return told if lane.finished is None else [*told, FINISHED]


def _both_sides(lane: Lane) -> list[str]:
    """What our client sent and got, in that order. In how many pieces an answer comes is no fact: they are joined."""
    told = [(event.began, "sent", event) for event in lane.to_server]
    told += [(event.ended, "got", event) for event in lane.to_client]
    told += [(lane.finished, FINISHED, SocketEvent("", 0, 0, Connection(())))] if lane.finished is not None else []
    joined: list[str] = []
    for verb, group in groupby(sorted(told, key=lambda each: each[0]), key=lambda each: each[1]):
        events = [event for _, _, event in group]
        if verb == "got":
            data = b"".join(event.data for event in events)
            events = [events[0]._replace(size=sum(event.size for event in events), data=data)]
        joined += [verb if verb == FINISHED else f"{verb} {quote(event)}" for event in events]
    return joined


def _fate(lane: Lane, size: int, end: int) -> str:
    """What became of a message of `size` bytes that ends with the client's byte number `end`."""
    position, returned = end - size, moved(lane)[1]
    read, answered = (lane.server_then.received, lane.server_then.sent) if lane.server_then else (0, 0)
    if returned >= end:
        return "echoed"
    if returned > position:
        return f"{returned - position:,} of {size:,} bytes echoed"
    if answered > position:
        return "answered, and the client has not read it yet"
    if read >= end:
        return "read, not answered"
    return f"{read - position:,} of {size:,} bytes read" if read > position else "unread"
