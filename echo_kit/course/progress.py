"""What a student has tried and solved: a small JSON file beside the notebook, and the table that `progress()` shows.

The file is written anew and then takes the place of the old one: whoever reads it finds all of it. The new file is the
lock, too, so that two notebooks lose nothing to each other. Nothing here raises: a check works without its file.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..watch.text import cut, in_html, visible

FILE = ".echo_kit_progress.json"
MOST, LONG, LARGE = 200, 300, 1_000_000  # exercises, characters of a text, and bytes of a file that is read
SHOWN = 70  # characters of what is open, in the table
WAIT, OLD = 2.0, 10.0  # seconds to wait for another notebook, and after which the file of one that crashed is removed
FIRST = (
    "Your attempts are kept in the file {}, in the folder of this notebook. echo_kit.progress() shows them, "
    "echo_kit.progress(keep=False) deletes them."
)

_lock = threading.Lock()
_waiting: list[Row] = []  # attempts that are not in the file yet, as it could not be written
_switch = {"on": True}


class Row(NamedTuple):
    """One exercise of the table; or one attempt."""

    number: str
    title: str
    attempts: int = 0
    passed: int = 0  # of these
    open: str = "not tried yet"  # what was wrong the last time; empty once it has passed


@dataclass(frozen=True)
class Progress:
    """Each exercise, how often it was tried, whether it has passed, and what is open."""

    rows: tuple[Row, ...]
    kept: str  # where, in a sentence

    def __str__(self) -> str:
        width = max(len(f"{each.number} {each.title}") for each in self.rows)
        lines = [f"{'exercise':<{width}}  attempts  passed  open"]
        for each in self.rows:
            name, passed = f"{each.number} {each.title}", "yes" if each.passed else "no"
            lines.append(f"{name:<{width}}  {each.attempts:>8}  {passed:>6}  {cut(each.open, SHOWN)}".rstrip())
        return "\n".join([*lines, self.kept])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{each}</th>" for each in ("exercise", "attempts", "passed", "open"))
        rows = "".join(
            f'<tr><td style="text-align: left">{in_html(f"{each.number} {each.title}")}</td><td>{each.attempts}</td>'
            f'<td>{"✔" if each.passed else ""}</td><td style="text-align: left">{in_html(each.open)}</td></tr>'
            for each in self.rows
        )
        return f"<table><tr>{head}</tr>{rows}</table><div>{in_html(self.kept)}</div>"


def keep(number: str, title: str, wrong: str) -> str:
    """Note an attempt; `wrong` is empty if it passed. Gives a sentence for the student the first time."""
    if not _is_on():
        return ""
    with _lock:
        _waiting.append(Row(_text(number), _text(title), 1, int(not wrong), _text(wrong)))
        del _waiting[:-MOST]
        try:
            new = _write()
        except OSError:  # a folder that is read-only, a full disk, another notebook that does not finish
            return ""
        _waiting.clear()
    return FIRST.format(FILE) if new else ""


def kept(titles: Mapping[str, str], on: bool | None) -> Progress:
    """The table, with a row for each of `titles` at least; `on` switches the file on, or off and deletes it."""
    said, found = "", {}
    with _lock:
        if on is not None:
            _switch["on"] = on
        try:
            if on is False:
                _waiting.clear()
                Path(FILE).unlink(missing_ok=True)
            found = _read()
            said = f"Kept in {Path(FILE).absolute()}. echo_kit.progress(keep=False) deletes it."
        except OSError as error:
            said = f"The file {FILE} cannot be used: {error.strerror}."
        except ValueError:
            said = f"The file {FILE} cannot be read. The next check calls it {FILE}.broken, and begins a new one."
        if _waiting:
            said = f"The file {FILE} cannot be written here. This is kept until the kernel ends."
        rows = _folded(found, _waiting)
    if not _is_on() and not rows:
        why = ", until the kernel is restarted" if not _switch["on"] else ": the environment says ECHO_KIT_PROGRESS=0"
        said = f"Nothing is kept{why}."
    listed = [_of(rows.pop(number, None), number, title) for number, title in titles.items()]
    return Progress((*listed, *rows.values()), said)


def _is_on() -> bool:
    return _switch["on"] and os.environ.get("ECHO_KIT_PROGRESS") != "0"


def _text(words: str) -> str:
    return cut(visible(words), LONG)


def _of(row: Row | None, number: str, title: str) -> Row:
    """What is kept of this exercise: nothing, where another one had its number."""
    return row if row is not None and row.title == title else Row(number, title)


def _folded(rows: dict[str, Row], attempts: Iterable[Row]) -> dict[str, Row]:
    """With these attempts. The exercise that was tried last comes last."""
    for each in attempts:
        old = _of(rows.pop(each.number, None), each.number, each.title)
        passed = old.passed + each.passed
        rows[each.number] = Row(each.number, each.title, old.attempts + 1, passed, "" if passed else each.open)
    return rows


def _read() -> dict[str, Row]:
    """What the file has. Raises ValueError if it is not one of ours."""
    path = Path(FILE)
    try:
        if path.stat().st_size > LARGE:
            raise ValueError("too large")
        rows = [Row(*each) for each in json.loads(path.read_text("utf-8"))["exercises"]]
    except FileNotFoundError:
        return {}
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("not written by this module") from error
    if not all(
        isinstance(value, kind) for row in rows for value, kind in zip(row, (str, str, int, int, str), strict=True)
    ):
        raise ValueError("not written by this module")
    return {each.number: each for each in rows}


def _write() -> bool:
    """The file, with the attempts that wait. Whether it is a new one."""
    new, deadline = Path(f"{FILE}.new"), time.monotonic() + WAIT
    while True:
        try:
            descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            break
        except FileExistsError:  # another notebook writes
            with contextlib.suppress(OSError):
                if time.time() - new.stat().st_mtime > OLD:
                    new.unlink()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            try:
                rows = _read()
            except ValueError:  # nothing is lost: it stays beside the new one
                rows = {}
                os.replace(FILE, f"{FILE}.broken")
            first = not Path(FILE).exists()
            newest = list(_folded(rows, _waiting).values())[-MOST:]
            json.dump({"exercises": newest}, file, ensure_ascii=False, indent=1)
        os.replace(new, FILE)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    return first
