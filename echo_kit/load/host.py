"""The program in which a `launch`ed server runs: it defines what the server's cell defines, and calls the function.

Its standard input is a line of JSON; the end of that input ends it, with all the processes that it has started. Between
what the server prints it says, in lines that begin with TOLD, at which port it listens, or what has gone wrong.
"""

from __future__ import annotations

import ast
import contextlib
import json
import linecache
import os
import pkgutil
import signal
import socket
import sys
import threading
import traceback
from typing import Any

with contextlib.suppress(ImportError):  # Windows
    import resource

DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
TOLD = "\x1e echo_kit: "
NAME = "echo_kit_launched"  # of the module: not __main__, so that a file's own start is left out


def definitions(text: str, filename: str) -> Any:
    """The code of a cell without what it runs: its imports, functions, classes, and variables that echo_kit has no
    part in (a cell may also hold the call of `launch`).
    """
    tree = ast.parse(text, filename)
    tree.body = [
        each
        for each in tree.body
        if isinstance(each, DEFINES)
        and (
            not isinstance(each, (ast.Assign, ast.AnnAssign))
            or not any(isinstance(part, ast.Name) and part.id == "echo_kit" for part in ast.walk(each))
        )
    ]
    return compile(tree, filename, "exec")


def main() -> None:
    plan = json.loads(sys.stdin.readline())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where whoever started us ignores it
    limit(plan)
    sys.path[:0] = [each for each in plan["path"] if each not in sys.path]
    threading.Thread(target=end_with_the_kernel, daemon=True).start()
    tell_who_listens()
    try:
        if plan["text"] is None:
            serve = pkgutil.resolve_name(f"{plan['module']}:{plan['name']}")
        else:
            names: dict[str, Any] = {"__name__": NAME, "__file__": plan["file"]}
            sys.modules[NAME] = module = type(sys)(NAME)  # so that its classes can be pickled
            module.__dict__.update(names)
            lines = plan["text"].splitlines(keepends=True)
            linecache.cache[plan["file"]] = len(plan["text"]), None, lines, plan["file"]
            exec(definitions(plan["text"], plan["file"]), module.__dict__)
            serve = module.__dict__[plan["name"]]
        serve(*plan["arguments"])
        ended = "it returned"
    except KeyboardInterrupt:
        ended = "Ctrl+C has ended it"
    except SystemExit as error:
        ended = f"it ended with exit code {error.code}"
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one traceback is enough
        traceback.print_exc()
        ended = f"{type(error).__name__}: {error}"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    say(ended=ended)


def say(**told: object) -> None:
    os.write(1, f"{TOLD}{json.dumps(told)}\n".encode())


def limit(plan: dict[str, Any]) -> None:
    """File descriptors: as many as the system gives, or so few; processors: so few."""
    if sys.platform == "win32":
        if plan["descriptors"]:
            print("Windows has no limit on file descriptors to lower: this process has the usual one", flush=True)
    else:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        few = plan["descriptors"] or hard
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
        except (ValueError, OSError):  # macOS has a limit of its own below an unlimited one
            resource.setrlimit(resource.RLIMIT_NOFILE, (10240, hard))
    if plan["cores"]:
        if sys.platform == "linux":
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: plan["cores"]])
        else:
            print("Only on Linux a process can be kept to some processors: this one may use all", flush=True)


def end_with_the_kernel() -> None:
    """Wait for the end of the standard input: whoever has launched us is gone, or wants us to be."""
    os.read(0, 1)
    if sys.platform != "win32":
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def tell_who_listens() -> None:
    """Say the port at the first `listen` of a TCP socket, and leave `listen` as it was."""
    plain = socket.socket.listen

    def listen(self: socket.socket, /, *backlog: int) -> None:
        plain(self, *backlog)
        if self.family in (socket.AF_INET, socket.AF_INET6):
            socket.socket.listen = plain  # type: ignore[method-assign]
            say(port=self.getsockname()[1])

    socket.socket.listen = listen  # type: ignore


if __name__ == "__main__":
    main()
