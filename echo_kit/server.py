"""`start(serve)`: runs a blocking server in a background thread, watched, and `Server` ends it whatever it does.

Starting a server again under the same name stops the earlier one first: a cell that is run twice leaves one server.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import socketserver
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from .views.backlog import Backlog
from .views.code import CodeView
from .views.kernel import look
from .views.looks import code_view
from .views.printed import Log, client_names
from .views.shown import Snapshot, Timeline
from .views.source import standing, where
from .watch import patches, rest, stopping
from .watch.borrowed import before_exit
from .watch.events import CAPACITY, Address, Connection, EventLog, reachable
from .watch.observation import Observation, ServerStopped, current_task
from .watch.output import route_streams
from .watch.patches import step_by_step
from .watch.sockets import free_port
from .watch.text import counted

MAIN = "server thread"  # the label of the one that runs serve
NEWEST = 5_000  # calls that moved bytes and are told of a server that does not come to rest
SETTLE = 1.0  # seconds at most that a view waits for the server to come to rest

_servers: dict[str, Server] = {}  # the running ones, by name
_lock = threading.RLock()


class ServerStuck(TimeoutError):
    """A thread of the server did not end, or did not come to listen; the message says on which line it stands."""


class Server:
    """A server that `start` runs. `address` is where clients connect, `error` what it died of, if it did."""

    def __init__(self, name: str, most_events: int = CAPACITY) -> None:
        self.name = name
        self.log = Log(lambda: self.observation, self.settle)
        self.observation = Observation(name, EventLog(most_events))
        self._ending = threading.Lock()
        self.stopped = False
        self._again: Callable[[int | None], Server] | None = None  # how to start the same at some port

    @property
    def address(self) -> Address:
        """(host, port) for a client on this machine."""
        assert self.observation.address is not None  # start() returns no server that does not listen
        return reachable(self.observation.address)[:2]

    @property
    def error(self) -> BaseException | None:
        """The first exception that ended one of its threads; None if there was none."""
        return self.observation.error

    @property
    def running(self) -> bool:
        """Whether it has not been stopped and a thread of it is alive."""
        return not self.stopped and bool(self.observation.alive())

    @property
    def threads(self) -> list[str]:
        """The labels of its threads that are alive, when it has come to rest."""
        self.settle()
        return [task.label for task in self.observation.alive()]

    def timeline(self) -> Timeline:
        """What happened so far, one lane per client. Waits for the server to come to rest, a second at most."""
        most = None if self.settle() else NEWEST
        look(self.observation)
        return Timeline.of(self.observation, most)

    def where(self) -> CodeView:
        """The student's functions, with a mark on each line where a thread stands. Waits as `timeline` does."""
        self.settle()
        return code_view(self.observation, self.client_names(), self.stopped)

    def backlog(self) -> Backlog:
        """Who is connected and not accepted yet, and what lies unread. Waits as `timeline` does."""
        self.settle()
        return Backlog.of(self.observation)

    def snapshot(self) -> Snapshot:
        """All three views of one moment, in one picture. Waits as `timeline` does, once."""
        most = None if self.settle() else NEWEST
        look(self.observation)
        code = code_view(self.observation, self.client_names(), self.stopped)
        return Snapshot(code, Backlog.of(self.observation), Timeline.of(self.observation, most))

    @property
    def paused(self) -> bool:
        """Whether it runs step by step."""
        return self.observation.gate.closed

    def pause(self) -> None:
        """Run it step by step: from now on each of its threads stops before its next `accept`, `recv`, `recv_into`,
        `send`, `sendall` or `close` of a socket that the views know, and stays there until `step` or `resume`.

        A thread that is in such a call stays in it, and stops before its next one. Two kinds of calls are not seen to
        come: those of a method that the code has kept from before, as in `read = conn.recv`, and a `send` or `close`
        that an installed package makes. Waits first as `timeline` does, so that a server that has just been started is
        in its accept. On a stopped server, or when it is called again, it does nothing.
        """
        if not self.paused:
            self.settle()
        step_by_step(self.observation, True)

    def step(self, thread: str | None = None) -> list[str]:
        """Let each thread that has stopped make the one call before which it stands, or only the one called `thread`.

        Waits first as `timeline` does, so that a thread that is on its way to its next call has come there. Returns
        the labels of those that it let go, [] where none had stopped. ValueError where `thread` has not.
        """
        self.settle()
        gate = self.observation.gate
        held = [task for task in self.observation.alive() if task.paused]
        if thread is not None:
            named = [task for task in held if task.label == thread]
            if not named:
                names = ", ".join(task.label for task in held) or "no thread"
                hint = "" if self.paused else f"; {self.name} does not run step by step, pause() makes it do so"
                raise ValueError(f"step() finds no paused thread {thread!r}: paused now: {names}{hint}")
            held = named
        return [task.label for task in held if gate.let_go(task)]

    def resume(self) -> None:
        """Let all of its threads run freely again. Calling it again does nothing."""
        step_by_step(self.observation, False)

    def interrupt(self) -> None:
        """Press Ctrl+C, and do nothing else: KeyboardInterrupt in the server's own thread, in its `accept` if it waits
        there. No client is hung up on, and no other thread is told. (`stop` does both.)

        In a terminal, Ctrl+C ends whichever call the main thread waits in. Here it is only `accept` that ends at once;
        elsewhere the exception comes when the call has returned. Waits first as `timeline` does, so that a server that
        is on its way to its accept has come there. On a stopped server it does nothing.
        """
        self.settle()
        first = [task for task in self.observation.alive() if task.label == MAIN]
        if first and not self.stopped:
            stopping.interrupt(first[0], timeout=SETTLE)

    def client_names(self) -> dict[Connection, str]:
        """The server's connections in the order in which they were accepted, each with its client's name."""
        return client_names(self.observation)

    def stop(self, timeout: float = 2.0) -> None:
        """End all its threads and close all its sockets. Calling it again does nothing.

        To the server's code it looks as if every client hung up and somebody pressed Ctrl+C. A thread that goes on
        all the same gets the exception thrown into it. `ServerStuck` names one that is still there after `timeout`
        seconds (it sleeps, or waits for something that only it knows).
        """
        observation, deadline = self.observation, time.monotonic() + timeout
        here = current_task()
        if here is not None and here.observation is observation:
            timeout = 0  # one of its own threads: it cannot wait for another one that waits for it
        # Whoever comes second waits until the first is done.
        if not self._ending.acquire(timeout=timeout):
            return
        try:
            if self.stopped:
                return
            self.stopped = True
            left = stopping.stop(observation, deadline)
        finally:  # also on Ctrl+C
            observation.close_all()
            patches.end(observation)
            with _lock:
                if _servers.get(self.name) is self:
                    del _servers[self.name]
            self._ending.release()
        if left:
            stopping.give_up(left)
            stands = "; ".join(standing(left))
            raise ServerStuck(
                f"{self.name} did not end within {timeout:g} s: {stands}. Its sockets are closed. "
                "To be rid of the thread, restart the kernel."
            )

    def restart(self) -> None:
        """Stop it, if it runs, and start the same function again: at the same port, or at a free one if that is taken.

        Its views and its log begin anew. Raises `ServerStuck` and what `start` raises, and RuntimeError for a server of
        the `socketserver` module, which it does not stop.
        """
        if self._again is None:
            raise RuntimeError(
                f"{self.name} cannot be started again: a server of the socketserver module has one socket, which "
                "stop() closes. Make a new one, and start() that."
            )
        self.stop()
        try:
            begun = self._again(self.observation.address[1] if self.observation.address else None)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            begun = self._again(None)
        with _lock:  # whoever holds this object has the running server
            self.observation, self._again, self.stopped = begun.observation, begun._again, False
            if _servers.get(self.name) is begun:
                _servers[self.name] = self

    def settle(self, timeout: float = SETTLE) -> bool:
        """Wait until every thread of the server waits for somebody else. False: it was still busy after `timeout` s."""
        route_streams()
        return rest.settle(self.observation, time.monotonic() + timeout, over=lambda: self.stopped)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else "running" if self.running else "ended"
        host, port = self.address
        return f"<Server {self.name} at {host}:{port}, {state}>"


def start(
    serve: Callable[..., object] | socketserver.BaseServer,
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    timeout: float = 5.0,
    most_threads: int | None = None,
    most_events: int = CAPACITY,
) -> Server:
    """Run `serve` in a background thread and return once it listens.

    serve    a function (host, port) that gets `host` and `port` (a free one unless given), or one without
             arguments that binds its own address, or a server of the `socketserver` module
    name     what the views call the server; starting another under that name stops the first. Default: serve's name
    timeout  seconds it has until it listens
    most_threads  how many threads it may have at once: for one more, `Thread.start` raises RuntimeError, as it does
             where the system has no more. Default: as many as the system has
    most_events  how many of the newest events its views know

    Raises what `serve` raises before it listens, and `ServerStuck` when it does neither in time.
    """
    if isinstance(serve, socketserver.BaseServer):
        serve = serve.serve_forever
    if not callable(serve):
        raise TypeError(f"start() needs the function that serves, like start(serve), not {serve!r}")
    owner = getattr(serve, "__self__", None)  # "serve_forever" would be the name of all of them
    named = type(owner) if isinstance(owner, socketserver.BaseServer) else serve
    name = name or str(getattr(named, "__name__", type(serve).__name__))
    earlier = _servers.get(name)
    if earlier is not None:
        try:
            earlier.stop()
        except ServerStuck as stuck:
            warnings.warn(f"the earlier server was left behind: {stuck}", RuntimeWarning, stacklevel=2)
    before_exit(_stop_all)
    options: dict[str, Any] = {"host": host, "timeout": timeout}
    options |= {"most_threads": most_threads, "most_events": most_events}
    for attempt in range(3):
        try:
            server = _start_once(serve, name, port=free_port(host) if port is None else port, **options)
            if not isinstance(owner, socketserver.BaseServer):
                server._again = lambda port: start(serve, name=name, port=port, **options)
            return server
        except OSError as error:
            # Another program may have taken the free port in the meantime.
            if error.errno != errno.EADDRINUSE or port is not None or not _arguments(serve, "", 0) or attempt == 2:
                raise
    raise AssertionError("not reached")


def newest(name: str) -> Server | None:
    """The server that runs under that name now."""
    return _servers.get(name)


# -- starting --------------------------------------------------------------------------------------------------------


def _start_once(
    serve: Callable[..., object],
    name: str,
    *,
    host: str,
    port: int,
    timeout: float,
    most_threads: int | None,
    most_events: int,
) -> Server:
    arguments = _arguments(serve, host, port)
    server = Server(name, most_events)
    observation = server.observation
    failure: list[BaseException] = []

    def run() -> None:
        try:
            serve(*arguments)
        except BaseException as error:
            failure.append(error)
            if observation.listening.is_set():
                observation.report(task, error)
        finally:
            # In a terminal the program would end here, and the system would close its sockets.
            if not observation.alive():
                observation.close_sockets()
            ended.set()
            observation.listening.set()

    ended = threading.Event()
    thread = threading.Thread(target=run, name=f"echo_kit {name}", daemon=True)
    task = observation.adopt(thread, MAIN)
    observation.most_threads = most_threads
    patches.begin(observation)
    owner = getattr(serve, "__self__", None)
    try:
        if isinstance(owner, socketserver.TCPServer):
            observation.watch_listener(owner.socket)  # it listens since it was made
        with patches.program_arguments(*sys.argv[:1]):
            thread.start()
            came = observation.listening.wait(timeout)
    except BaseException:  # Ctrl+C, or no thread is to be had
        with contextlib.suppress(ServerStuck):
            server.stop(timeout=1.0)
        raise
    if came and observation.address is not None:
        with _lock:
            _servers[name] = server
        return server
    place = where(task)
    with contextlib.suppress(ServerStuck):
        server.stop(timeout=1.0)
    if failure and not isinstance(failure[0], ServerStopped):
        raise failure[0]
    if ended.is_set() and came:
        raise RuntimeError(f"{name}() returned before it listened. Does it call listen() and then loop over accept()?")
    raise ServerStuck(
        f"{name}() did not listen within {timeout:g} s; it stood at {place}. A server calls bind(), then listen(), "
        "then accept()."
    )


def _arguments(serve: Callable[..., object], host: str, port: int) -> tuple[Any, ...]:
    """What to call `serve` with: (host, port), (port) or nothing, by the names and the number of its parameters."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [each for each in inspect.signature(serve).parameters.values() if each.kind in positional]
    names = [each.name.lower() for each in parameters]
    required = sum(each.default is inspect.Parameter.empty for each in parameters)
    if names[:2] == ["port", "host"]:
        return (port, host)
    if names[:2] == ["host", "port"] or required == 2:
        return (host, port)
    if names[:1] == ["port"]:
        return (port,)
    if required == 0:
        return ()
    raise TypeError(
        f"start() can call serve(host, port), serve(port) or main(), but {getattr(serve, '__name__', serve)} "
        f"needs {counted(required, 'argument')}: {', '.join(names[:required])}"
    )


def _stop_all() -> None:
    for server in list(_servers.values()):
        with contextlib.suppress(ServerStuck):
            server.stop(timeout=1.0)
