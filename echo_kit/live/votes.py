"""Votes: a `Ballot` is a question on which a class votes, discusses, and votes again; `Results` is a table of ballots.

Plain data: nothing here knows of a page or a phone. A ballot may be used by several threads at once.
"""

from __future__ import annotations

import csv
import io
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

ROUNDS = ("first vote", "second vote")
MOST_VOTES = 5_000  # in a round: whoever makes up seats takes no more memory than that
FORMULA = tuple("=+-@\t\r")  # a cell that begins so is a formula for a spreadsheet

_ids = itertools.count(1)


@dataclass
class Round:
    """One vote of a ballot: which option each seat has chosen, whether that may be changed, and be seen."""

    label: str
    id: int = field(default_factory=lambda: next(_ids))
    open: bool = True
    shown: bool = False
    votes: dict[str, int] = field(default_factory=dict)  # by seat, the option's index


class Ballot:
    """A question with options, and its votes: the first, and a second one after the discussion."""

    def __init__(self, question: str, options: Sequence[str]) -> None:
        self.question, self.options = question, tuple(options)
        self._truth: int | None = None
        self._outcome = ""  # what is said of it
        self._rounds = [Round(ROUNDS[0])]
        self.id = self._rounds[0].id  # of the newest round: a vote for an earlier one that comes late does not count
        self._lock = threading.Lock()  # guards all that may change

    @property
    def open(self) -> bool:
        """Whether one can vote now."""
        return self._rounds[-1].open

    @property
    def over(self) -> bool:
        """Whether the truth has been told, or both votes have been shown: asked again, it is another ballot."""
        return bool(self._outcome) or (len(self._rounds) == len(ROUNDS) and self._rounds[-1].shown)

    @property
    def seen(self) -> bool:
        """Whether all its votes have been shown."""
        return all(each.shown for each in self._rounds)

    # -- called by the room --------------------------------------------------------------------------------------------

    def cast(self, seat: str, option: int) -> bool:
        """Vote; a seat has one vote, and may change it. False: the vote is closed, or there is no such option."""
        with self._lock:
            now = self._rounds[-1]
            known = type(option) is int and 0 <= option < len(self.options)
            if not now.open or not known or (seat not in now.votes and len(now.votes) >= MOST_VOTES):
                return False
            now.votes[seat] = option
        return True

    def shown(self, seat: str) -> dict[str, Any]:
        """What the phone with that seat may know, fit for JSON: no counts, no truth before they are shown."""
        with self._lock:
            now = self._rounds[-1]
            return {
                "id": now.id,
                "question": self.question,
                "options": list(self.options),
                "round": now.label,
                "open": now.open,
                "chosen": now.votes.get(seat),
                "truth": self._truth,
                "counts": self._counts(now) if now.shown else None,
            }

    # -- called by the classroom ---------------------------------------------------------------------------------------

    def again(self) -> None:
        """Begin the second vote, with hidden bars; if that has begun already, open it again."""
        with self._lock:
            self._rounds[-1].open = len(self._rounds) == len(ROUNDS)
            if not self._rounds[-1].open:
                self._rounds.append(Round(ROUNDS[len(self._rounds)]))
                self.id = self._rounds[-1].id

    def set_open(self, open: bool) -> None:
        """Close the vote, or open it again."""
        with self._lock:
            self._rounds[-1].open = open

    def show(self) -> None:
        """Close the vote and show the bars of all rounds."""
        with self._lock:
            self._show()

    def tell(self, truth: int | None, outcome: str) -> None:
        """Show which option came true, if any did, beside the votes. `outcome` is what happened, as a sentence."""
        with self._lock:
            self._show()
            self._truth, self._outcome = truth, outcome

    def board(self, phones: int) -> dict[str, Any]:
        """What the stage shows of it; `phones` could vote."""
        with self._lock:
            now = self._rounds[-1]
            count = len(now.votes)
            words = f"{count} of {max(count, phones)} have voted" if now.open else f"{now.label}: {count} have voted"
            return {
                "title": self.question,
                "lines": [self._outcome or words],
                "options": list(self.options),
                "rounds": [
                    {
                        "label": each.label,
                        "votes": len(each.votes),
                        "counts": self._counts(each) if each.shown else None,
                    }
                    for each in self._rounds
                ],
                "truth": self._truth,
            }

    def rows(self) -> list[Row]:
        """All that is known of it, hidden or not: a row for each option."""
        with self._lock:
            counts = [self._counts(each) for each in self._rounds]
            return [
                Row(
                    self.question,
                    option,
                    counts[0][place],
                    counts[1][place] if len(counts) > 1 else None,
                    None if not self._outcome else place == self._truth,
                )
                for place, option in enumerate(self.options)
            ]

    def _show(self) -> None:
        self._rounds[-1].open = False
        for each in self._rounds:
            each.shown = True

    def _counts(self, of: Round) -> list[int]:
        chosen = list(of.votes.values())
        return [chosen.count(place) for place in range(len(self.options))]


class Row(NamedTuple):
    """An option of a ballot: its votes, None where there was no second vote, and whether it came true, if told."""

    question: str
    option: str
    first: int
    second: int | None
    truth: bool | None


HEAD = Row._fields


class Results:
    """The votes of a class as a table, with a row for each option of each question. It does not change any more."""

    def __init__(self, ballots: Sequence[Ballot]) -> None:
        self._ballots = [ballot.rows() for ballot in ballots]

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self._ballots for row in rows]

    def __repr__(self) -> str:
        if not self.rows:
            return "no votes yet"
        table = [HEAD, *self._lines()]
        wide = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
        lines = ["  ".join(word.ljust(width) for word, width in zip(row, wide, strict=True)) for row in table]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        if not self.rows:
            return "<p>no votes yet</p>"
        head = "".join(f"<th>{each}</th>" for each in HEAD)
        body = ""
        for line in self._lines():
            cells = "".join(f'<td style="text-align: left">{escape(word)}</td>' for word in line)
            body += f"<tr>{cells}</tr>"
        return f'<table class="mathjax_ignore tex2jax_ignore"><tr>{head}</tr>{body}</table>'

    def _lines(self) -> list[tuple[str, ...]]:
        """Each row in words, the question only in its first one."""
        return [
            ("" if place else row.question, *_words(row)[1:])
            for rows in self._ballots
            for place, row in enumerate(rows)
        ]

    def to_csv(self) -> str:
        """The table as text for a spreadsheet. What would be taken for a formula there gets an apostrophe."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows([_safe(word) for word in _words(row)] for row in self.rows)
        return text.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the table to a CSV file, which a spreadsheet opens; gives its path. Raises OSError."""
        file = Path(path)
        file.write_text(self.to_csv(), encoding="utf-8-sig", newline="")  # the mark tells Excel that it is UTF-8
        return file


def _words(row: Row) -> tuple[str, ...]:
    second = "" if row.second is None else str(row.second)
    return row.question, row.option, str(row.first), second, "true" if row.truth else ""


def _safe(word: str) -> str:
    return f"'{word}" if word.startswith(FORMULA) else word
