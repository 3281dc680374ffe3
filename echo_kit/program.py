"""`run(program)`: a client program, unmodified, in a background thread, watched; a cell types what it asks for.

    program = echo_kit.run(main, "127.0.0.1", 8000, typed=["hello"])
    program                     # what its terminal shows
    program.where()             # on which line it stands

Its input comes from `keyboard.py`. `input` is put among the program's own global names while it runs: a notebook sets
the built-in one anew for each cell.
"""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .server import ServerStuck
from .views.code import STANDS, CodeView
from .views.looks import code_view
from .views.source import where
from .watch import patches, rest, stopping
from .watch.apart import apart
from .watch.borrowed import seems_no_daemon
from .watch.keyboard import ClientLog, Keyboard, keyboard_here
from .watch.observation import Observation, ServerStopped
from .watch.sockets import Selector
from .watch.text import visible

MAIN = "main thread"
QUIET = 0.3  # seconds without a byte after which a program waits in vain, where its server is not one of ours
PATIENCE = 5.0  # seconds at most until it has come to rest

_programs: dict[str, Program] = {}  # the running ones, by name


def run(
    program: Callable[[], object] | str | Path, *arguments: object, typed: Iterable[str | None] = (), name: str = ""
) -> Program:
    """Run a client program until it waits for somebody or has ended.

    program    a function without arguments, like main; or the path of a file
    arguments  what stands behind its name on the command line, like "127.0.0.1", 8000: `sys.argv[1:]`, as text
    typed      the lines that are typed, each when the program asks for one; None is the end of the input, Ctrl+D
    name       what the views call it, the server's, too; running another of that name stops the first. Default: its own

    Raises TypeError for what cannot be run, and OSError and SyntaxError for a file that cannot be.
    """
    main, names = _loaded(program)
    name = name or (program.stem if isinstance(program, Path) else str(getattr(program, "__name__", program)))
    if name in _programs:
        _programs[name].stop()
    return Program(name, main, names)._begin([str(each) for each in arguments], typed)


class Program:
    """A client program that `run` runs. `error` is what it died of, None if it did not."""

    def __init__(self, name: str, main: Callable[[], object], names: dict[str, Any]) -> None:
        self.name = name
        self.error: BaseException | None = None
        self.observation = Observation(name)
        self.observation.log = ClientLog(self.observation)
        self._main, self._names = main, names
        self._last_screen: str | None = None  # when it has ended by itself
        self._keyboard = Keyboard(self.observation)
        self._thread = threading.Thread(target=self._run, name=f"echo_kit {name}", daemon=True)
        self._task = self.observation.adopt(self._thread, MAIN)

    def _begin(self, arguments: list[str], typed: Iterable[str | None]) -> Program:
        _programs[self.name] = self
        self._names.setdefault("input", ask)
        with patches.program_arguments(self.name, *arguments):
            apart(self._launch)
            return self.type(*typed)

    def _launch(self, _: object) -> None:
        self._keyboard.plug_in()
        patches.begin(self.observation)
        self._thread.start()

    def _run(self) -> None:
        seems_no_daemon(self._thread)  # and is one, so that the kernel can end
        try:
            self._main()
        except SystemExit as error:
            if error.code not in (None, 0) and not isinstance(error.code, int):
                self.observation.write(self._task, f"{error.code}\n")  # as Python does
        except BaseException as error:
            if not self.observation.stopping:
                self.error = error
                self.observation.report(self._task, error)
                if isinstance(error, ServerStopped):  # for which there is no traceback
                    self.observation.write(self._task, "\nKeyboardInterrupt\n")
        finally:
            try:
                self._wait_for_threads()
            finally:
                self._end()

    def _wait_for_threads(self) -> None:
        """As Python does at a program's end, for those that are no daemons; then the others end."""
        while not self.observation.stopping:
            threads = [each.thread for each in self.observation.alive() if each.holds and each.thread]
            if not threads:
                break
            threads[0].join()
        if not self.observation.stopping:  # the daemons' end is silent
            self._last_screen = self.screen
            stopping.give_up(stopping.stop(self.observation, time.monotonic() + 0.5))

    def _end(self) -> None:
        """What the system does when a program ends; and its `input` goes, unless another program has the same names."""
        self.observation.close_all()
        self._keyboard.close()
        patches.end(self.observation)
        if _programs.get(self.name) is self:
            del _programs[self.name]
        if self._names.get("input") is ask and not any(each._names is self._names for each in _programs.values()):
            del self._names["input"]

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    @property
    def screen(self) -> str:
        """What its terminal shows: prompts, what was typed, what it printed."""
        if self._last_screen is not None:
            return self._last_screen
        return "\n".join(visible(line.text) for line in self.observation.printed())

    def type(self, *lines: str | None) -> Program:
        """Type these lines, one after the other; None is the end of the input. Returns when it waits, or has ended."""
        for line in lines:
            self._keyboard.type(line)
        self.settle()
        return self

    def where(self) -> CodeView:
        """Its functions, with a mark on the line where it stands."""
        self.settle()
        seen = [seen.connection for _, seen in self.observation.sockets(listening=False)]
        return code_view(self.observation, dict.fromkeys(seen, "the server"))

    def settle(self, timeout: float = PATIENCE) -> bool:
        """Wait until it waits, and all servers of ours with which it talks do, too. False: not within `timeout` s."""
        deadline = time.monotonic() + timeout
        while not self.ended and time.monotonic() < deadline:
            rest.settle(self.observation, deadline, over=lambda: self.ended)
            before = rest.state(self.observation)[1]
            servers = [*self.observation.servers.values()]
            for each in filter(None, servers):
                rest.settle(each, deadline, over=lambda: self.ended)
            if self._is_still() and before is not None and rest.state(self.observation)[1] == before:
                return True
        return self.ended

    def _is_still(self) -> bool:
        """Whether it waits for a line, or all that its servers have sent has come; from one that is not ours nothing
        comes, for a while.
        """
        seen = self._task.waiting
        if seen is self._keyboard.seen:
            return True
        if seen is None and self._keyboard.has_lines:  # it is in a select, and wakes in a moment
            return False
        for connection, server in self.observation.servers.items():
            there = server.accepted.get(connection.client) if server is not None else None
            if there is not None and there.sent > connection.received and not connection.closed:
                return False
        sock = None if seen is None else seen.ref()
        if sock is None or None not in self.observation.servers.values():
            return True
        with contextlib.suppress(OSError, ValueError), Selector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            return not selector.select(QUIET)
        return False

    def interrupt(self) -> Program:
        """Press Ctrl+C: KeyboardInterrupt, at once where it waits. Returns when it waits again, or has ended."""
        self.settle()
        if not self.ended:
            self.observation.write(self._task, "^C")  # as a terminal does
            stopping.interrupt(self._task, timeout=1.0)
            if self._task.waiting is None:  # it may be in a select
                self._keyboard.wake()
        self.settle()
        return self

    def stop(self, timeout: float = 2.0) -> None:
        """End it: to the program it looks as if the server left and somebody pressed Ctrl+C. Raises `ServerStuck`."""
        self._keyboard.wake()
        left = [] if self.ended else stopping.stop(self.observation, time.monotonic() + timeout)
        if left:
            place = where(left[0])
            stopping.give_up(left)
            self._end()
            raise ServerStuck(f"{self.name} did not end within {timeout:g} s: it stands at {place}")
        self._thread.join(timeout)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        if self.ended:
            state = "it has ended" if self.error is None else f"it ended with {type(self.error).__name__}"
        else:
            stands = [mark for _, mark in self.where().marks if mark.kind == STANDS]
            stands.sort(key=lambda mark: mark.thread != MAIN)
            state = "; ".join(f"{'it' if each.thread == MAIN else each.thread} {each.words}" for each in stands)
        return f"{self.screen}\n[{state}]"


def ask(prompt: object = "", /) -> str:
    """Stands in for `input`; also when the program has ended and somebody kept it."""
    keyboard = keyboard_here()
    return input(str(prompt)) if keyboard is None else keyboard.read(prompt)


def _loaded(program: Callable[[], object] | str | Path) -> tuple[Callable[[], object], dict[str, Any]]:
    """The program as a function, and its global names."""
    if isinstance(program, str | Path):
        names: dict[str, Any] = {"__name__": "__main__", "__file__": str(program)}
        code = compile(Path(program).read_text("utf-8"), str(Path(program).resolve()), "exec")
        return lambda: exec(code, names), names
    if not callable(program):
        raise TypeError(f"run() needs a function without arguments or the path of a file, not {program!r}")
    return program, getattr(program, "__globals__", {})
