"""What a classroom pins to the stage of a server: a question, the address to join at, the bars of a vote.

A board is plain data fit for JSON. The stage shows it above the code, as text; see `static/board.js`.

    title    the question, or "Join: http://…"
    lines    small text below it
    qr       absent, or a data: URI of an SVG picture
    options  absent, or the answers that can be chosen
    rounds   absent, or [{"label": "first vote", "votes": 12, "counts": [3, 9]}, …]; counts None: not shown yet
    truth    absent or None, or the index of the option that came true
"""

from __future__ import annotations

from typing import Any

_pinned: dict[str, dict[str, Any]] = {}  # by the server's name; each is replaced, never changed: threads may read it


def pin(name: str, board: dict[str, Any] | None) -> None:
    """Show the board on the stage of the server of that name, also on one that is opened later; None takes it away."""
    if board is None:
        _pinned.pop(name, None)
    else:
        _pinned[name] = dict(board)


def pinned(name: str) -> dict[str, Any] | None:
    """The board that is pinned for the server of that name."""
    return _pinned.get(name)
