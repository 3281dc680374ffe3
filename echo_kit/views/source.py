"""The student's source: which of its functions a thread is in, their lines, and the call that it is in, as written."""

from __future__ import annotations

import ast
import inspect
import itertools
import linecache
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType

from ..watch.frames import is_student_code, source_line, source_lines, student_frame
from ..watch.observation import Observation, Task
from ..watch.text import cut, visible
from .code import Function, Line, Mark, margin

EXPRESSION = 40  # characters of what a thread waits in
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")

Chain = list[tuple[CodeType, int]]  # (function, line) from the innermost to the outermost, of the student's code only
Spot = tuple[str | CodeType, int]
Marks = Mapping[Spot, list[Mark]]


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the student's code: the function, the line's number in its file or cell, and its text."""

    function: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line} of {self.function}: {self.text}"


def where(task: Task) -> Place | None:
    """The innermost line of student code that the thread is in; None when it is in none (an idle worker of a pool)."""
    frame = student_frame(task.identity())
    return None if frame is None else Place(frame.f_code.co_name, frame.f_lineno, source_line(frame))


def standing(tasks: Iterable[Task]) -> list[str]:
    """Where these threads stand, in words: those on one line are counted."""
    at: defaultdict[str, list[str]] = defaultdict(list)
    for task in tasks:
        place = where(task)
        at["outside of your code" if place is None else f"at {place}"].append(task.label)
    return [
        f"{labels[0]} stands {place}" if len(labels) == 1 else f"{len(labels):,} threads stand {place}"
        for place, labels in at.items()
    ]


def spot(code: CodeType, line: int) -> Spot:
    """The line in its file. Without a source its number says little: two strings that were run both have a line 1."""
    return (code.co_filename if source_lines(code.co_filename) else code, line)


def chain_of(frame: FrameType | None) -> Chain:
    """The student's functions that a frame is in. A comprehension is a part of the function in which it is written:
    from Python 3.12 on it has no frame of its own.
    """
    chain: Chain = []
    while frame is not None:
        if is_student_code(frame):
            code = frame.f_code
            inner = chain[-1][0] if chain else None
            if inner is not None and inner.co_name in _COMPREHENSIONS and any(inner is each for each in code.co_consts):
                chain[-1] = code, chain[-1][1]
            else:
                chain.append((code, frame.f_lineno))
        frame = frame.f_back
    return chain


def expression(frame: FrameType) -> str:
    """The call that a frame is in, as it is written: `time.sleep(5)`."""
    positions = itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None)
    line, end_line, begin, end = next(positions, (None, None, None, None))
    if line is None or end_line is None or begin is None or end is None:
        return ""
    lines = [each.encode() for each in source_lines(frame.f_code.co_filename)[line - 1 : end_line]] or [b""]
    statement = lines[0].decode(errors="replace").strip()
    lines[-1] = lines[-1][:end]  # columns are counted in bytes
    lines[0] = lines[0][begin:]
    text = b"".join(lines).decode(errors="replace").strip()
    if end_line != line:
        try:
            text = ast.unparse(ast.parse(f"({text})", mode="eval"))  # on one line, without comments
        except (SyntaxError, ValueError):
            text = text.partition("\n")[0].strip() + " …"
    if statement.startswith("with ") and (text.startswith("with ") or not text.endswith(")")):
        text = statement.partition(":")[0]  # a lock that is taken: the statement, or what stands in it
    return cut(visible(text), EXPRESSION)


def functions_of(codes: list[CodeType], marks: Marks) -> Iterator[Function]:
    """Each with its lines and their marks. One that is written inside another is shown there, and only there."""
    for filename in {code.co_filename for code in codes}:
        linecache.checkcache(filename)
    extents = [_extent(code) for code in codes]
    for at, (code, extent) in enumerate(zip(codes, extents, strict=True)):
        if extent is None:
            yield _without_source(code, marks)
            continue
        around = (
            other is not None
            and codes[number].co_filename == code.co_filename
            and other[0] <= extent[0]
            and extent[1] <= other[1]
            and (other != extent or number < at)
            for number, other in enumerate(extents)
        )
        if not any(around):
            yield _function(code, extent, marks)


def _extent(code: CodeType) -> tuple[int, int] | None:
    """The first and the last line of a function in its file; None where the file does not hold it."""
    lines = source_lines(code.co_filename)
    first, reach = max(1, code.co_firstlineno), _reach(code)
    if reach > len(lines):
        return None
    if code.co_name == "<module>":
        return 1, len(lines)
    if code.co_name.startswith("<"):
        return first, reach
    try:
        source = inspect.getblock(lines[first - 1 :])  # more than what is compiled: also what is never reached
    except (SyntaxError, tokenize.TokenError):
        return None
    known = any(re.match(rf"\s*(async\s+)?(def|class)\s+{re.escape(code.co_name)}\b", line) for line in source)
    return (first, first + len(source) - 1) if known and reach < first + len(source) else None


def _reach(code: CodeType) -> int:
    """The last line that anything in the function was compiled from."""
    lines = [end_line or 0 for _, end_line, _, _ in code.co_positions()]
    return max([*lines, *(_reach(each) for each in code.co_consts if isinstance(each, CodeType))], default=0)


def _without_source(code: CodeType, marks: Marks) -> Function:
    lines = range(code.co_firstlineno, max(code.co_firstlineno, _reach(code)) + 1)
    here = sorted(line for at, line in marks if at in (code, code.co_filename) and line in lines)
    name = called(code) if code.co_name.startswith("<") else f"{_name(code)}(…)"
    missing = Line(code.co_firstlineno, f"{name}  # its source is not at hand")
    return Function(_name(code), (missing, *(Line(line, f"# line {line}", _at(marks, code, line)) for line in here)))


def _function(code: CodeType, extent: tuple[int, int], marks: Marks) -> Function:
    first, last = extent
    source = source_lines(code.co_filename)[first - 1 : last]
    texts = [visible(line.rstrip().expandtabs()) for line in source]
    left = min((margin(text) for text in texts if text), default=0)
    lines = (Line(number, text[left:], _at(marks, code, number)) for number, text in enumerate(texts, first))
    return Function(_name(code), tuple(lines))


def called(code: CodeType) -> str:
    nameless = {"<lambda>": "a lambda", "<genexpr>": "a generator expression"}
    nameless["<module>"] = f"code of {visible(code.co_filename)}"
    return nameless.get(code.co_name, code.co_name)


def _name(code: CodeType) -> str:
    return code.co_qualname.rpartition("<locals>.")[2]


def _at(marks: Marks, code: CodeType, line: int) -> tuple[Mark, ...]:
    return tuple(marks.get(spot(code, line), ()))


def selects(observation: Observation) -> bool:
    """Whether the student's functions call select, poll or (of kqueue, on macOS) control: they may wait there."""
    waits = {"select", "poll", "control"}
    return any(waits & {*code.co_names} for code in observation.functions.copy())
