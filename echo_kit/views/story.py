"""A connection in words: what became of each message, and of the client."""

from __future__ import annotations

import codecs
from bisect import bisect_left, bisect_right
from itertools import accumulate, groupby, pairwise

from ..watch.events import Connection, SocketEvent
from ..watch.text import listed, shortened, visible
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


def messages(lane: Lane, late: bool = False) -> list[str]:
    """What became of each message; of many, of the first few and the last. `late`: of those that our client sent when
    the server had closed the connection already.
    """
    closed = float("inf") if lane.closed is None else lane.closed

    def asked(event: SocketEvent) -> bool:
        return (event.kind == "client send" and event.began > closed) is late

    sent = b"".join(event.data for event in lane.to_server)
    back = b"".join(event.data for event in lane.to_client)
    whole = (len(sent), len(back)) == moved(lane)  # the records have all of the bytes
    if whole and not sent.startswith(back):  # no echo: tell both sides
        both = [each for each in _both_sides(lane) if asked(each[1])]
        return shortened(
            both, lambda told: told[0] if told[0] == FINISHED else f"{told[0]} {quote(told[1])}", TOLD_MESSAGES
        )
    ends = list(accumulate(event.size for event in lane.to_server))
    before = moved(lane)[0] - (ends[-1] if ends else 0)  # what the log has dropped
    told = shortened(
        [each for each in zip(lane.to_server, ends, strict=True) if asked(each[0])],
        lambda told: f"{quote(told[0])} {_fate(lane, told[0].size, before + told[1])}",
        TOLD_MESSAGES,
    )
    return told if lane.finished is None or late else [*told, FINISHED]


def read_together(lane: Lane) -> list[list[SocketEvent]]:
    """For each recv of the server, the client's sends of which it returned bytes; [] where not both ends were seen, or
    not from the beginning.
    """
    sends, reads = lane.to_server, lane.reads
    if lane.client is None or lane.server_then is None or lane.server_then.received != sum(each.size for each in reads):
        return []
    ends = list(accumulate(each.size for each in sends))
    stops = [0, *accumulate(each.size for each in reads)]
    return [sends[bisect_right(ends, begin) : bisect_left(ends, end) + 1] for begin, end in pairwise(stops)]


def merged(lane: Lane) -> list[str]:
    """Of which sends one recv returned all: TCP keeps the bytes, and not where one send ended."""
    several = [sends for sends in read_together(lane) if len(sends) > 1]
    return shortened(several, lambda sends: f"one recv returned {listed(shortened(sends, quote, 4))}", 3)


def _both_sides(lane: Lane) -> list[tuple[str, SocketEvent]]:
    """("sent" or "got", message), in their order. In how many pieces an answer comes is no fact: they are joined."""
    told = [(event.began, "sent", event) for event in lane.to_server]
    told += [(event.ended, "got", event) for event in lane.to_client]
    told += [(lane.finished, FINISHED, SocketEvent("", 0, 0, Connection(())))] if lane.finished is not None else []
    joined: list[tuple[str, SocketEvent]] = []
    for verb, group in groupby(sorted(told, key=lambda each: each[0]), key=lambda each: each[1]):
        events = [event for _, _, event in group]
        if verb == "got":
            data = b"".join(event.data for event in events)
            events = [events[0]._replace(size=sum(event.size for event in events), data=data)]
        joined += [(verb, event) for event in events]
    return joined


def _fate(lane: Lane, size: int, end: int) -> str:
    """What became of a message of `size` bytes that ends with the client's byte number `end`."""
    position, returned = end - size, moved(lane)[1]
    read, answered = (lane.server_then.received, lane.server_then.sent) if lane.server_then else (0, 0)
    if returned >= end:
        return "echoed"
    if returned > position:
        return f"{returned - position:,} of {size:,} bytes echoed"
    if lane.server_then is not None and lane.server_then.handed_on:
        return "sent"
    if answered > position:
        return "answered, and the client has not read it yet"
    if read >= end:
        return "read, not answered"
    if read > position:
        return f"{read - position:,} of {size:,} bytes read"
    return "unread" if lane.closed is None else "sent, never read"
