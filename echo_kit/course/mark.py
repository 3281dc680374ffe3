"""`python -m echo_kit mark FOLDER`: the answers of a class, found, tried, and put into a table.

Finding them is done here: whose file it is, and which exercises it answers. Student code is read as text only; it runs
in the children of `answers.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import queue
import random
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib.util import decode_source
from pathlib import Path
from typing import Any

from ..watch.kernel import orphans_ended
from ..watch.text import counted, cut, listed, visible
from . import answers
from .exercises import EXERCISES
from .report import LONGEST

bar: Any = None
try:
    from tqdm import tqdm
except ImportError:  # it is marked all the same, without a progress bar
    pass
else:
    bar = type("Bar", (tqdm,), {"monitor_interval": 0, "_lock": threading.RLock()})  # as in load/progress.py

FUNCTIONS = {  # what the exercises call the function that is the answer
    "1.1": "serve_from_memory",
    "1.2": "shout",
    "1.3": "greet",
    "1.4": "count_bytes",
    "1.5": "reverse_lines",
    "1.6": "make_them_wait",
    "1.7": "be_patient",
    "1.8": "serve_safely",
    "1.9": "client_program",
    "2.1": "serve_each",
    "2.2": "say_who",
    "2.3": "count_messages",
    "2.4": "who",
    "2.5": "serve_three",
    "2.6": "serve_pool",
    "2.7": "serve_until_ctrl_c",
    "3.1": "serve_with_selectors",
    "3.2": "serve_politely",
    "3.3": "find_culprit",
    "S.1": "say_goodbye",
    "S.2": "send_and_read",
}
NUMBERS = {name: number for number, name in FUNCTIONS.items()}
ANSWERS = re.compile(r"""^(?:async\s+)?def\s+(?P<name>\w+)|\bcheck\(\s*["'](?P<number>[\dS]\.\d)["']""", re.MULTILINE)
MOODLE = re.compile(r"(.+?)_(\d+)_assignsubmission_[a-z]+_?")
NOT_HERE = {"__pycache__", "__MACOSX", "site-packages", "solutions"}  # the last are the course's own
LARGEST = 50 * 2**20  # bytes of a notebook that is read
COLUMNS = ("student", "exercise", "passed", "steps", "seconds", "first thing that was wrong")
WIDTHS = (28, 40, 100)  # of a name, an exercise and a sentence in the table; the CSV file has all of it
BESIDES = 3  # answers at a time for each processor: a check waits most of the time (measured: 17 % of it is CPU time)
MISTAKES, TOLERANCE = 10, 30  # that the summary lists; seconds after an answer's limit in which its worker must reply


@dataclass
class Student:
    """What one student has handed in."""

    name: str
    tasks: dict[str, answers.Task] = field(default_factory=dict)  # by exercise
    unread: str = ""  # the file that could not be read, and why


@dataclass(frozen=True)
class Row:
    """One answer, marked."""

    student: str
    number: str
    passed: bool
    steps: int  # that passed
    seconds: float
    wrong: str  # the first thing that was
    mistake: str  # what was expected, or how it ended: the same for all who made it

    def cells(self) -> tuple[str, ...]:
        """As `COLUMNS` has them. "7 of 9", and the title: a spreadsheet would take 7/9, or 1.2, for a date."""
        exercise = EXERCISES[self.number]
        title, steps = f"{self.number} {exercise.title}", f"{self.steps} of {exercise.steps}"
        return self.student, title, "yes" if self.passed else "no", steps, f"{self.seconds:.1f}", self.wrong


# -- what was handed in ------------------------------------------------------------------------------------------------


def students(folder: Path) -> list[Student]:
    """Whoever has a file in the folder: in sub-folders with their names, as nbgrader and Moodle have them, or beside
    each other.
    """
    root = folder / "submitted" if (folder / "submitted").is_dir() else folder  # nbgrader's
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if any(each.startswith(".") or each in NOT_HERE for each in parts):
            continue
        is_answer = path.suffix.lower() in (".ipynb", ".py") and path.is_file()
        if is_answer or (len(parts) == 1 and path.is_dir()):  # and whoever has a folder, but no answer in it, is listed
            name = parts[0] if path.is_dir() or len(parts) > 1 else path.stem
            moodle = MOODLE.match(name)
            files = found.setdefault((moodle[1], moodle[2]) if moodle else (name, ""), [])
            files += [path] if is_answer else []
    names = Counter(name for name, _ in found)
    return [
        _student(name if names[name] == 1 else f"{name} {number}".strip(), paths, root)
        for (name, number), paths in sorted(found.items())
    ]


def _student(name: str, paths: list[Path], root: Path) -> Student:
    student = Student(visible(unicodedata.normalize("NFC", name)))
    student.unread = "" if paths else "there is no .ipynb or .py file"
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):  # of two answers, the later one counts
        try:
            cells = cells_of(path)
        except (OSError, ValueError, SyntaxError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            student.unread = visible(f"{path.name} cannot be read: {reason}")
            continue
        for number, (last, checked) in answered(cells).items():
            if not checked and student.tasks.get(number, {}).get("checked"):
                continue  # a function of that name in a lesson, say
            student.tasks[number] = {
                "checked": checked,
                "number": number,
                "function": FUNCTIONS[number],
                "cells": cells[: last + 1],
                "module": "__main__" if path.suffix.lower() == ".ipynb" else "answer",  # a program is not started
                "file": visible(path.name),
                "beside": "" if path.parent == root else str(path.parent.resolve()),  # not the files of others
            }
    return student


def cells_of(path: Path) -> list[str]:
    """The code of a file, cell by cell; a program is one cell."""
    if path.stat().st_size > LARGEST:
        raise ValueError("it is too large")
    if path.suffix.lower() == ".py":
        return [decode_source(path.read_bytes())]
    try:
        book = json.loads(path.read_text("utf-8-sig"))
    except ValueError:
        raise ValueError("it is not a notebook, as it is not JSON") from None
    try:
        cells = book["cells"] if "cells" in book else [each for sheet in book["worksheets"] for each in sheet["cells"]]
        sources = [cell.get("source", cell.get("input")) for cell in cells if cell["cell_type"] == "code"]
        return [each if isinstance(each, str) else "".join(each) for each in sources]
    except (KeyError, TypeError, AttributeError):
        raise ValueError("it is not a notebook, as it has no cells") from None


def answered(cells: list[str]) -> dict[str, tuple[int, bool]]:
    """The exercises that these cells answer, each with the last cell that matters to it, and whether it is checked."""
    found: dict[str, tuple[int, bool]] = {}
    for index, source in enumerate(cells):
        for each in ANSWERS.finditer(source):
            number = each["number"] or NUMBERS.get(each["name"], "")
            found[number] = index, bool(each["number"]) or found.get(number, (0, False))[1]
    return {number: index for number, index in found.items() if number in EXERCISES}


# -- running it --------------------------------------------------------------------------------------------------------


class Worker:
    """A process that runs answers, one after the other. Each of its calls is one thread's at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._over = False

    def ask(self, task: answers.Task) -> dict[str, Any]:
        """The result of a task. An answer that takes its worker with it costs nothing else: the next has a new one."""
        with self._lock:
            if self._over:
                return {}
            if self._process is None:
                environment = {**os.environ, "ECHO_KIT_PROGRESS": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "2"}
                group = 0 if answers.POSIX else subprocess.CREATE_NEW_PROCESS_GROUP  # type: ignore[attr-defined]
                self._process = subprocess.Popen(
                    answers.command(),
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # Ctrl+C is not for it: it ends when its input does
                    creationflags=group,
                )
                assert self._process.stdout is not None
                if self._process.stdout.readline().strip() != answers.READY.encode():
                    raise OSError("the process that runs the answers does not start")
            process, nonce = self._process, secrets.token_hex()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(task["limit"] + TOLERANCE, process.kill)
        late.start()
        line = b""
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(json.dumps({**task, "nonce": nonce}).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        late.cancel()
        late.join()  # it ends now, and not some time after its answer is marked
        with contextlib.suppress(ValueError, AttributeError):  # no line, or one that an answer has put there
            if (result := json.loads(line)).get("nonce") == nonce:
                return dict(result)
        self.end(for_good=False)
        return {"wrong": "the answer ended, or stopped, the process that runs the answers"}

    def end(self, for_good: bool = True) -> None:
        """End it, and what its answer has started."""
        with self._lock:
            self._over |= for_good
            process, self._process = self._process, None
        if process is None:
            return
        with process:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                process.stdin.close()  # type: ignore[union-attr]
                process.wait(TOLERANCE)
            process.kill()


def marked(tasks: list[tuple[str, answers.Task]], jobs: int) -> Generator[Row, None, None]:
    """Run the tasks, each with the name of its student, and yield a row for each as soon as it is there."""
    workers = [Worker() for _ in range(jobs)]
    free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def one(student: str, task: answers.Task) -> Row:
        worker = free.get()
        try:
            return _row(student, task["number"], worker.ask(task))
        finally:
            free.put(worker)

    temporary = tempfile.TemporaryDirectory(prefix="echo_kit_", ignore_cleanup_errors=True)
    with temporary as folder, orphans_ended(TOLERANCE):  # those of answers that have killed the worker above them
        pool = ThreadPoolExecutor(jobs)
        try:
            for future in as_completed([pool.submit(one, name, {**task, "folder": folder}) for name, task in tasks]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            with ThreadPoolExecutor(jobs) as ends:
                list(ends.map(Worker.end, workers))
            pool.shutdown()


def _row(student: str, number: str, result: dict[str, Any]) -> Row:
    wrong = cut(visible(str(result.get("wrong", ""))), LONGEST)
    mistake = cut(visible(str(result.get("mistake", wrong if "seconds" in result else ""))), LONGEST)
    steps, seconds = int(result.get("steps", 0)), float(result.get("seconds", 0))
    return Row(student, number, result.get("passed") is True, steps, seconds, wrong, mistake)


# -- telling it --------------------------------------------------------------------------------------------------------


def table(rows: Iterable[Row]) -> str:
    """The rows as text, each at most a line of a wide terminal."""
    name, exercise, sentence = WIDTHS
    lines = [COLUMNS] + [
        (cut(a, name), cut(b, exercise), *rest, cut(wrong, sentence)) for a, b, *rest, wrong in map(Row.cells, rows)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def mistakes(rows: list[Row]) -> str:
    """What the class does wrong most often."""
    count = Counter((row.number, row.mistake) for row in rows if row.mistake)
    lines = [
        f"  {counted(number, 'student')}, {exercise} {EXERCISES[exercise].title}: {cut(mistake, WIDTHS[-1])}"
        for (exercise, mistake), number in sorted(count.items(), key=lambda each: (-each[1], each[0]))[:MISTAKES]
    ]
    return "\n".join(["The most common mistakes (what was expected, or how it ended):", *lines]) if lines else ""


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """For spreadsheets, too: with the mark by which Excel knows UTF-8, and without a cell that it would compute."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell for cell in row.cells())


# -- the command -------------------------------------------------------------------------------------------------------


def main(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    """Run the command. 0: all is marked; 1: something could not be read or written. The parser ends it with 2."""
    parser.description = (
        "Mark a folder of answers: notebooks (.ipynb) or programs (.py), each answer in its own process."
    )
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = BESIDES * processors
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="sub-folders by student, or one file per student")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the table to this file, too")
    parser.add_argument("--exercises", metavar="1.2,1.3", help="only these (default: all that are answered)")
    parser.add_argument("--jobs", type=_positive, default=jobs, help="answers at a time (default: %(default)s)")
    parser.add_argument("--limit", type=_positive, default=60, help="seconds for each answer (default: %(default)s)")
    parser.add_argument("--memory", type=_positive, default=2048, help="megabytes for each (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the messages that are sent (default: a new one each time)")
    given = parser.parse_args(arguments)
    if not given.folder.is_dir():
        parser.error(f"{str(given.folder)!r} is not a folder")
    if given.csv is not None and not given.csv.parent.is_dir():
        parser.error(f"there is no folder {str(given.csv.parent)!r} for the CSV file")
    wanted = given.exercises.split(",") if given.exercises else list(EXERCISES)
    if unknown := [each for each in wanted if each not in EXERCISES]:
        parser.error(f"there is no exercise {listed(unknown)}; there are: {', '.join(EXERCISES)}")
    people = students(given.folder)
    if not people:
        parser.error(f"there is no .ipynb or .py file in {str(given.folder)!r}")
    seed = random.SystemRandom().randrange(1, 10**6) if given.seed is None else given.seed
    return _mark(people, wanted, seed, given)


def _positive(text: str) -> int:
    if not 0 < int(text) < 10**6:
        raise ValueError
    return int(text)


def _mark(people: list[Student], wanted: list[str], seed: int, given: argparse.Namespace) -> int:
    if not given.exercises:
        wanted = [number for number in wanted if any(number in each.tasks for each in people)]
    options = {"seed": seed, "limit": given.limit, "memory": given.memory}
    tasks = [(each.name, {**each.tasks[n], **options}) for each in people for n in wanted if n in each.tasks]
    rows = [
        _row(each.name, n, {"wrong": each.unread or "nothing was handed in"})
        for each in people
        for n in wanted
        if n not in each.tasks
    ]
    complaints = [f"{each.name}: {each.unread}" for each in people if each.unread]

    def say(text: str) -> None:
        try:
            print(text, flush=True)
        except OSError as error:  # whoever read it has left: it is marked all the same
            complaints.append(f"the table cannot be written ({error.strerror})")

    say(f"{counted(len(tasks), 'answer')} of {counted(len(people), 'student')}; --seed {seed} marks the same again")
    if not answers.POSIX:
        say("On this system the memory of an answer has no limit.")
    began, missing = time.monotonic(), len(rows)
    found = marked(tasks, given.jobs)
    try:
        for row in bar(found, total=len(tasks), unit="answer", disable=None) if bar else found:
            rows.append(row)
    except (KeyboardInterrupt, OSError) as error:
        left = len(tasks) - (len(rows) - missing)
        why = "stopped by Ctrl+C" if isinstance(error, KeyboardInterrupt) else str(error)
        complaints.append(f"{why}: {counted(left, 'answer')} of {len(tasks):,} not marked")
    finally:
        found.close()
    rows.sort(key=lambda row: (row.student, list(EXERCISES).index(row.number)))
    if given.csv is not None:
        try:
            write_csv(given.csv, rows)
        except OSError as error:
            complaints.append(f"{given.csv} cannot be written ({error.strerror}): the table above is all that there is")
    say(table(rows))
    say(f"{sum(row.passed for row in rows)} of {len(rows)} passed, in {time.monotonic() - began:.0f} s")
    if said := mistakes(rows):
        say(said)
    for each in dict.fromkeys(complaints):
        print(f"echo_kit: {each}", file=sys.stderr)
    return 1 if complaints else 0
