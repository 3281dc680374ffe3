"""Which code is the student's own: the frames that a view shows, and the part of a traceback that a log shows."""

from __future__ import annotations

import contextlib
import itertools
import linecache
import os
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from types import CodeType, FrameType

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # the package
_SERVERS = _HERE + "servers.py"  # the notebooks' finished servers: student code that happens to live here
# By the names that frames have: that of `threading` for the standard library, those in sys.path for installed packages.
# (`sysconfig` may call the same folder by another: Homebrew has /opt/homebrew/opt/… there, and Cellar in the frames.)
_PACKAGES = [each for each in sys.path if each.rstrip(os.sep).endswith(("site-packages", "dist-packages"))]
_LIBRARIES = [each.rstrip(os.sep) + os.sep for each in (os.path.dirname(threading.__file__), *_PACKAGES)]
_OTHERS = (_HERE, "<frozen", *_LIBRARIES)  # with what the names of files begin that are not student code

_CELL = re.compile(rf"(?:{re.escape(tempfile.gettempdir())}|[^\s\"']*)[/\\]ipykernel_\d+[/\\]\d+\.py")


def name_cells(text: str) -> str:
    """`text`, in which no cell is called by a file's name, which has the number of the kernel's process in it."""
    return _CELL.sub("your cell", text) if "ipykernel_" in text else text


def is_student_code(frame: FrameType) -> bool:
    """Whether the frame runs neither this package, nor the standard library, nor an installed package."""
    filename, around = frame.f_code.co_filename, frame.f_globals
    if filename == "<string>":  # the methods of dataclasses and named tuples, too: they belong to their class's module
        if str(around.get("__name__")).startswith("namedtuple_"):  # which these do not name
            return False
        filename = str(around.get("__file__") or filename)
    return is_student_file(filename)


def is_student_file(filename: str) -> bool:
    """The same by the name of its file. "<string>" is the name of all code that was made from a string."""
    return filename == _SERVERS or not filename.startswith(_OTHERS)


def source_lines(filename: str) -> list[str]:
    """The lines of a file or a cell; none where they are not at hand. "<string>" is the name of all code that was made
    from a string: there, Python 3.13 has what `python -c` was given, whatever code is asked for.
    """
    return [] if filename == "<string>" else linecache.getlines(filename)


def source_line(frame: FrameType) -> str:
    """The line at which a frame is, without its margin; "" where it is not at hand."""
    return "".join(source_lines(frame.f_code.co_filename)[frame.f_lineno - 1 :][:1]).strip()


def told_by_linux(thread: int | None, name: str) -> bytes:
    """A file of /proc on a thread of this process; nothing where there is none."""
    with contextlib.suppress(OSError):  # no open(): at each of its nine system calls, a thread that computes gets 5 ms
        file = os.open(f"/proc/self/task/{thread}/{name}", os.O_RDONLY)
        try:
            return os.read(file, 8192)
        finally:
            os.close(file)
    return b""


def thread_frames() -> dict[int, FrameType]:
    """What each thread runs, by its id. Not the calling thread: its frame and this dictionary would hold each other,
    and all other frames, with the sockets in their variables, until the garbage collector comes by.
    """
    frames = sys._current_frames()
    del frames[threading.get_ident()]
    return frames


def student_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Those of student code among `frame` and its callers, the innermost first."""
    while frame is not None:
        if is_student_code(frame):
            yield frame
        frame = frame.f_back


def student_frame(ident: int | None) -> FrameType | None:
    """The innermost frame of student code that the thread of that id is in; None when it is in none."""
    return next(student_frames(thread_frames().get(ident or 0)), None)


def student_place(frame: FrameType | None) -> str:
    """The innermost line of student code: "line 6 of serve"; "" where there is none."""
    for each in student_frames(frame):
        name, file = each.f_code.co_name, each.f_code.co_filename
        if name == "<module>":
            name = os.path.basename(name_cells(file))
        return f"line {each.f_lineno} of {name}"
    return ""


def library_name(frame: FrameType) -> str:
    """The library that the frame runs, as "ssl"; "" for student code."""
    return "" if is_student_code(frame) else str(frame.f_globals.get("__name__")).partition(".")[0]


def student_spot(error: BaseException | None) -> tuple[CodeType, int] | None:
    """The innermost line of student code in the traceback: which function, and the line's number."""
    walked = traceback.walk_tb(error.__traceback__ if error is not None else None)
    spots = [(frame.f_code, line) for frame, line in walked if is_student_code(frame)]
    return spots[-1] if spots else None


def is_asked_for(frame: FrameType | None) -> bool:
    """Whether the server's code calls a socket's method, of which `frame` is the caller; and not our clean-up, nor a
    destructor. The garbage collector runs destructors at any moment and in any thread, which may hold a lock of the
    interpreter's.
    """
    while frame is not None and frame.f_globals.get("__name__") in ("socket", "contextlib"):
        frame = frame.f_back
    return frame is not None and (is_student_code(frame) or frame.f_globals.get("__name__") == "socketserver")


def student_line(error: BaseException) -> str:
    """The innermost line of student code that `error` went through, without its margin; "" where it is not at hand."""
    walked = traceback.walk_tb(error.__traceback__)
    lines = [(frame.f_code.co_filename, line) for frame, line in walked if is_student_code(frame)]
    return "".join("".join(source_lines(name)[line - 1 : line]).strip() for name, line in lines[-1:])


def forget_variables(error: BaseException | None) -> None:
    """Let go of what the dead functions' variables hold. Else a socket that the student's code did not close would
    stay open as long as the exception is kept, where without us it would be closed now.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def student_traceback(error: BaseException) -> list[str]:
    """The lines of the traceback, without the frames of this package and those that only start a thread."""
    report = traceback.TracebackException.from_exception(error)
    seen: set[int] = set()
    link: traceback.TracebackException | None = report
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.stack = traceback.StackSummary.from_list(
            traceback.FrameSummary(name_cells(each.filename), each.lineno, each.name, line=each.line)
            for each in itertools.dropwhile(lambda each: not is_student_file(each.filename), link.stack)
            if each.filename == _SERVERS or not each.filename.startswith(_HERE)
        )
        link = link.__cause__ or link.__context__
    return list(report.format())
