"""The process that runs the answers of a class, each in a child of its own. `python -m echo_kit mark` starts some.

A task is a line of JSON on standard input, its result a line on standard output. Where there is `fork`, this process
has loaded all of the package once, and a child costs some milliseconds. Elsewhere each child is a new interpreter.

Bounded are the time of an answer, its memory, the processes that it starts, and the network. This protects from
accidents, not from malice: the answer and the check share a process, as in a notebook.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import errno
import gc
import ipaddress
import json
import linecache
import mmap
import os
import re
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

from ..watch.kernel import adopt_orphans, descendants
from ..watch.text import cut, visible
from . import exercises
from .report import LONGEST

try:
    import fcntl
    import resource
except ImportError:  # Windows
    POSIX = False
else:
    POSIX = True

CELL = 5  # seconds that a cell has before it is interrupted, as by the student's own Ctrl+C
PROCESSES = 32  # that one answer may start
FILE = 100 * 2**20  # bytes: the largest file that it may write
BESIDE, MANY = 2**20, 100  # bytes, and files: what lies beside an answer and is larger, or more, is not copied
RESULT = 2**20  # bytes: no result is longer
ENDING = 10.0  # seconds in which all that an answer has started must be gone
LOOK = 0.05  # seconds between two looks whether the child is still there

START = "import sys; sys.path.insert(0, {!r}); import echo_kit; del sys.path[0]; from {} import main; main({!r})"
MAGIC = re.compile(r"^(\s*)(?:[%!?].*|[\w.]+\?+\s*|\w+\s*=\s*[%!].*)$", re.MULTILINE)
NOT_PYTHON = re.compile(r"\s*%%(?!(?:time|timeit|capture|prun)\b)")  # what else begins so is a cell in another language

# Numbers of Linux that Python has no names for.
NEW_USER, NEW_NETWORK, SET_FLAGS, UP = 0x10000000, 0x40000000, 0x8914, 0x41
DEATH_SIGNAL = 1

STARTS = {"os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "subprocess.Popen"}
REACHES = {"socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg"}
NAMES = {"socket.getaddrinfo", "socket.gethostbyname"}

kit: Any = sys.modules[__package__.partition(".")[0]]  # the package itself, as students import it

READY = "ready"  # the worker's first line

Task = dict[str, Any]


def command(role: str = "worker") -> list[str]:
    """What starts this process. Not -m: in a folder of answers there may be a `random.py`."""
    return [sys.executable, "-P", "-c", START.format(str(Path(__file__).parents[2]), __name__, role)]


def main(role: str) -> None:
    """Run tasks until standard input ends, or the one task of a child where there is no fork."""
    if role == "child":
        task = json.loads(sys.stdin.readline())
        out = os.dup(1)
        _answer(task, out)
        os._exit(0)
    for name in kit.__all__:
        with contextlib.suppress(ImportError):  # the widgets, where Jupyter is not installed
            getattr(kit, name)
    adopt_orphans(True)
    gc.freeze()
    own_network = sys.platform == "linux" and _gives_networks()
    print(READY, flush=True)
    with contextlib.suppress(EOFError, BrokenPipeError):
        for line in sys.stdin.buffer:
            task = {"own_network": own_network, **json.loads(line)}
            print(json.dumps({**_result(task), "nonce": task["nonce"]}), flush=True)
    os._exit(0)


# -- a child, seen from outside ----------------------------------------------------------------------------------------


def _result(task: Task) -> Task:
    began = time.monotonic()
    task["token"] = secrets.token_hex()
    with tempfile.TemporaryDirectory(dir=task["folder"], ignore_cleanup_errors=True) as folder:
        if task["beside"]:
            _copy_beside(task["beside"], folder)
        came, ended = (_forked if POSIX else _spawned)({**task, "folder": folder})
    token, _, text = came.partition(b" ") if isinstance(came, bytes) else (b"", b"", b"")
    if token == task["token"].encode():
        result = json.loads(text)
    else:
        result = {"wrong": ended if isinstance(came, bytes) else came}
    return {**result, "seconds": time.monotonic() - began}


def _copy_beside(source: str, folder: str) -> None:
    """A student's own modules and data. Each answer has its own copy: none can spoil it for the next."""
    for path in sorted(Path(source).iterdir())[:MANY]:
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_size <= BESIDE:
                shutil.copy(path, folder)


def _forked(task: Task) -> tuple[bytes | str, str]:
    """What the child has written, or why it had to be ended; and how it ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            _answer(task, writer)
        finally:
            os._exit(0)
    os.close(writer)
    statuses: dict[int, int] = {}
    try:
        came = _hear(reader, pid, statuses, task["limit"])
    finally:
        os.close(reader)
        gone = _end_all(pid, statuses)
    code = os.waitstatus_to_exitcode(statuses.get(pid, 0))
    how = f"exit code {code}" if code >= 0 else signal.strsignal(-code)
    rest = "" if gone else "; and it has left processes that do not end"
    return came, f"the answer ended its process ({how}){rest}"


def _hear(reader: int, pid: int, statuses: dict[int, int], limit: float) -> bytes | str:
    came, deadline = b"", time.monotonic() + limit
    while (left := deadline - time.monotonic()) > 0:
        ready = select.select([reader, 0], [], [], min(left, LOOK))[0]
        if reader in ready:
            data = os.read(reader, 65536)
            came += data
            if not data or came.endswith(b"\n") or len(came) > RESULT:
                return came
        elif ready:
            raise EOFError("whoever gave the task has left")
        elif pid in statuses:  # and what it has started may hold the pipe open
            return came
        elif sum(1 for _ in descendants(os.getpid())) > 2 * PROCESSES:
            return f"it has started more than {2 * PROCESSES} processes"  # not by Python, which is refused it
        _reap(statuses)
    return f"it had not ended after {limit:g} s"


def _reap(statuses: dict[int, int]) -> bool:
    """Note how children have ended. False: none is left."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            statuses[found[0]] = found[1]
        return True
    return False


def _end_all(pid: int, statuses: dict[int, int]) -> bool:
    """End the child and all that it has started, also what left its session; again, until nothing is there.

    Such a process is found as a descendant of this one, which only Linux tells; elsewhere only the child's group is.
    """
    deadline = time.monotonic() + ENDING
    while _reap(statuses) or _group_is_there(pid):
        for each in {pid} - statuses.keys() | set(descendants(os.getpid())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _group_is_there(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter, on macOS, if all of it are zombies
        os.killpg(pid, signal.SIGKILL)
        return True
    return False


def _spawned(task: Task) -> tuple[bytes | str, str]:
    """As `_forked`, with a new interpreter."""
    with subprocess.Popen(command("child"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            came, _ = process.communicate(json.dumps(task).encode() + b"\n", timeout=task["limit"])
        except subprocess.TimeoutExpired:
            return f"it had not ended after {task['limit']:g} s", ""
        finally:
            if sys.platform == "win32":  # with all that it has started
                ending = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
                subprocess.run(ending, capture_output=True, timeout=ENDING, check=False)
            process.kill()
    return came, f"the answer ended its process (exit code {process.returncode})"


# -- the child, seen from inside ---------------------------------------------------------------------------------------


def _answer(task: Task, out: int) -> None:
    process = os.getpid()
    try:
        _bound(task)
        result = _tried(task)
    except BaseException as error:
        result = {"wrong": f"it could not be tried: {_in_words(error)}"}
    if os.getpid() == process:  # and no child of it has come here
        os.write(out, f"{task['token']} {json.dumps(result)}\n".encode())


def _bound(task: Task) -> None:
    """From here on: no display, nothing to read, nobody reads what is printed, and limits."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    # A buffer, also where PYTHONUNBUFFERED is set: a million lines then take a fraction of a second.
    sys.stdout = sys.stderr = open(null, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    os.chdir(task["folder"])
    os.environ.update(MPLBACKEND="Agg", TMPDIR=task["folder"])
    tempfile.tempdir = None
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        os.environ.pop(name, None)
    if POSIX:
        for each in (signal.SIGINT, signal.SIGALRM):
            signal.signal(each, signal.default_int_handler)
        most = {
            resource.RLIMIT_AS: task["memory"] * 2**20,
            resource.RLIMIT_FSIZE: FILE,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_CPU: int(task["limit"]) + 5,  # for what could not be found and ended
        }
        for what, limit in most.items():
            with contextlib.suppress(OSError, ValueError):  # the limit is lower already; or macOS
                resource.setrlimit(what, (limit, limit))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)  # when the worker dies
    own_network = task.get("own_network", False)
    if own_network:
        _take_own_network()
    _watch_calls(own_network)


def _take_own_network() -> None:
    """One with 127.0.0.1 in it and nothing else."""
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK):
        raise PermissionError("this system does not give one to all users")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))


def _gives_networks() -> bool:
    """Whether this system does. It may refuse late, when there is no way back: so a child tries it."""
    pid = os.fork()
    if not pid:
        with contextlib.suppress(OSError):
            _take_own_network()
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _watch_calls(own_network: bool) -> None:
    """Refuse the call that starts one process too many; and, in the machine's own network, what leaves the machine."""
    begun = mmap.mmap(-1, 1)  # shared with its children, and theirs

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS:
            if begun[0] >= PROCESSES:
                raise BlockingIOError(errno.EAGAIN, f"an answer may start {PROCESSES} processes, and this is one more")
            begun[0] += 1
        elif not own_network and (event in REACHES or event in NAMES):
            address = arguments[:1] if event in NAMES else arguments[1]
            if isinstance(address, tuple) and address and not _is_here(address[0]):
                raise PermissionError(errno.EACCES, "an answer reaches 127.0.0.1 only")

    sys.addaudithook(hook)


def _is_here(host: Any) -> bool:
    host = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    try:
        return host in (None, "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tried(task: Task) -> Task:
    check, ours, number, notes = exercises.check, _ours(), task["number"], list[str]()
    given = _run_cells(task, notes)
    if number not in given:
        said = f'there is no function {task["function"]}, and check("{number}", …) is not reached'
        return {"wrong": cut("; ".join([said, *notes]), LONGEST)}
    report = check(number, given[number], seed=task["seed"])
    now = _ours()
    if changed := [name for name, value in ours.items() if now.get(name) is not value]:
        return {"wrong": f"the answer changes echo_kit itself ({changed[0]}): look at it by hand"}
    return {
        "passed": report.passed,
        "steps": sum(step.outcome == "passed" for step in report.steps),
        "wrong": report.first_wrong,
        "mistake": "" if report.problem is None else report.problem.expected,
    }


def _ours() -> dict[str, Any]:
    """What a check is made of. An answer that replaces one of these has replaced its judge."""
    found: dict[str, Any] = {f"exercise {number}": each for number, each in exercises.EXERCISES.items()}
    for name, module in list(sys.modules.items()):
        if name.startswith(__package__):
            for each, value in vars(module).items():
                found |= {f"{name}.{each}": value} if callable(value) else {}
                if isinstance(value, type) and value.__module__.startswith(__package__):
                    found |= {f"{each}.{attribute}": what for attribute, what in vars(value).items()}
    return found


def _run_cells(task: Task, notes: list[str]) -> dict[str, Any]:
    """By exercise, the function that answers it: what check() was given, or else the one that has the name.

    The check is not made here, and not by what the student calls `check`.
    """
    given: dict[str, Any] = {}
    process = os.getpid()
    real, kit.check = kit.check, lambda number, function=None, *_, **__: given.update({number: function})
    module = types.ModuleType(task["module"])
    sys.modules[task["module"]] = module
    names = vars(module)
    names["display"] = lambda *_, **__: None  # IPython's
    sys.path.insert(0, os.getcwd())
    for number, source in enumerate(task["cells"], 1):
        place = f"cell {number}" if len(task["cells"]) > 1 else "the file"
        name = f"{task['file']}, {place}"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        try:
            if POSIX:
                signal.setitimer(signal.ITIMER_REAL, CELL, 1.0)  # and each second: the student's code may catch it
            exec(compile(_python(source), name, "exec"), names)
        except KeyboardInterrupt:
            notes.append(f"{place} was interrupted after {CELL} s")
        except BaseException as error:
            notes.append(f"{place} ended with {_in_words(error)}")
        finally:
            if POSIX:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if os.getpid() != process:  # the cell has forked: its child is not to do the rest, too
                os._exit(0)
    kit.check = real
    if task["function"] in names:
        given.setdefault(task["number"], names[task["function"]])
    return given


def _in_words(error: BaseException) -> str:
    with contextlib.suppress(Exception):  # a student's own error may fail to say what it is
        return f"{type(error).__name__}: {cut(visible(str(error)), LONGEST)}"
    return type(error).__name__


def _python(source: str) -> str:
    """A cell without what only IPython understands."""
    with contextlib.suppress(SyntaxError, ValueError):
        ast.parse(source)
        return source
    return "" if NOT_PYTHON.match(source) else MAGIC.sub(r"\1pass", source)
