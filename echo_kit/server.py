"""`start(serve)`: runs a blocking server in a background thread, watched, and `Server` ends it whatever it does.

Starting a server again under the same name stops the earlier one first: a cell that is run twice leaves one server.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socketserver
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from .views.backlog import Backlog
from .views.code import CodeView
from .views.kernel import look
from .views.looks import code_view
from .views.printed import Log, client_names
from .views.shown import Snapshot, Timeline
from .views.source import standing, where
from .watch import patches, reasons, rest, stopping
from .watch.apart import Asker, ServerStuck as ServerStuck, apart, turn
from .watch.borrowed import before_exit
from .watch.events import CAPACITY, Address, Connection, EventLog, open_to, reachable, shown
from .watch.observation import Observation, lock, running
from .watch.output import route_streams
from .watch.patches import let_go, step_by_step
from .watch.sockets import free_port
from .watch.text import cut, visible

MAIN = "server thread"  # the label of the one that runs serve
NEWEST = 5_000  # calls that moved bytes and are told of a server that does not come to rest
NAME_LETTERS = 40  # of its name, where it shows itself
SETTLE = 1.0  # seconds at most that a view waits for the server to come to rest

_servers: dict[str, Server] = {}  # the running ones, by name


class Server:
    """A server that `start` runs. `address` is where clients connect, `error` what it died of, if it did."""

    def __init__(self, name: str, most_events: int = CAPACITY, serves: Callable[..., object] | None = None) -> None:
        self.name, self.serves = name, serves  # the function that it runs
        self.log = Log(lambda: self.observation, self.settle)
        self.observation = Observation(name, EventLog(most_events))
        self.stopped = False
        self._again: Callable[[int | None, Asker], Server] | None = None  # how to start the same at some port

    @property
    def address(self) -> Address:
        """(host, port) for a client on this machine."""
        assert self.observation.address is not None  # start() returns no server that does not listen
        return reachable(self.observation.address)[:2]

    @property
    def bound(self) -> tuple[str, str]:
        """The host:port that it has bound; and who can connect, if that is more than this machine, else ""."""
        assert self.observation.address is not None
        return shown(self.observation.address), open_to(self.observation.address[0])

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
        return let_go(self.observation, thread)

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
        apart(lambda _: self._stop(timeout))

    def _stop(self, timeout: float) -> None:
        with turn(self.name) as mine:
            observation = self.observation
            if not mine or (self.stopped and observation not in running):
                return
            self.stopped = True
            try:
                left = stopping.stop(observation, time.monotonic() + timeout)
            finally:
                children = stopping.end_children(observation)
                observation.close_all()
                with lock:
                    if _servers.get(self.name) is self:
                        del _servers[self.name]
                patches.end(observation)
            if left or children:
                raise stopping.stuck(self.observation, timeout, left, standing(left), children)

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
        again = self._again
        apart(lambda asker: self._restart(again, asker))

    def replace(self, serve: Callable[..., object]) -> None:
        """Stop it, and start another function as this same server: its name and host stay, and its port, as `restart`
        says. Raises what `restart` raises: then it is stopped, and `restart` starts the earlier function.
        """
        host = self.observation.address[0] if self.observation.address else "127.0.0.1"
        apart(lambda asker: self._restart(lambda port, _: start(serve, name=self.name, host=host, port=port), asker))

    def _restart(self, again: Callable[[int | None, Asker], Server], asker: Asker) -> None:
        with turn(self.name) as mine:
            if not mine:
                return
            self._stop(2.0)
            try:
                begun = again(self.observation.address[1] if self.observation.address else None, asker)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                begun = again(None, asker)
            with lock:  # whoever holds this object has the running server
                self.observation, self._again, self.stopped = begun.observation, begun._again, begun.stopped
                self.serves = begun.serves
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
        state += f" with {type(self.error).__name__}" if state == "ended" and self.error else ""
        at, others = self.bound
        state += f"; {others}" if others and state == "running" else ""
        return f"<Server {cut(visible(self.name), NAME_LETTERS)} at {at}, {state}>"


def start(
    serve: Callable[..., object] | socketserver.BaseServer,
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    arguments: Sequence[str] = (),
    timeout: float = 5.0,
    most_threads: int | None = None,
    most_events: int = CAPACITY,
) -> Server:
    """Run `serve` in a background thread and return once it listens.

    serve    a function (host, port) that gets `host` and `port` (a free one unless given), or one without
             arguments that binds its own address, or a server of the `socketserver` module
    arguments  what stands behind the program's name on a command line, for a main() that reads sys.argv
    name     what the views call the server; starting another under that name stops the first. Default: serve's name
    timeout  seconds it has until it listens
    most_threads  how many threads it may have at once: for one more, `Thread.start` raises RuntimeError, as it does
             where the system has no more. Default: as many as the system has
    most_events  how many of the newest events its views know

    Raises what `serve` raises before it listens, with a note of what it means and what it had printed; RuntimeError
    when it ends without, or serves what cannot be watched; and `ServerStuck` when it does neither in time.
    """
    __tracebackhide__ = True  # IPython leaves these frames out: a student sees the cell's lines
    reasons.checked(host, port)
    if isinstance(serve, socketserver.BaseServer):
        if wrong := reasons.unserved(serve):
            raise RuntimeError(f"start() cannot watch this {type(serve).__name__}: {wrong}")
        serve = serve.serve_forever
    if not callable(serve):
        raise TypeError(
            f"start() needs the function that serves, like start(serve), not {cut(visible(repr(serve)), 80)}"
        )
    owner = getattr(serve, "__self__", None)
    name = name or reasons.name_of(serve)
    before_exit(_stop_all)
    options: dict[str, Any] = {"host": host, "arguments": arguments, "timeout": timeout}
    options |= {"most_threads": most_threads, "most_events": most_events}
    stuck: list[ServerStuck] = []

    def begin(port: int | None, asker: Asker) -> Server:
        with turn(name) as mine:
            earlier = _servers.get(name)
            if earlier is not None and mine:
                try:
                    earlier._stop(2.0)
                except ServerStuck as left:
                    stuck.append(left)
            for attempt in range(3):
                try:
                    at = free_port(host) if port is None else port
                    server = _start_once(serve, name, port=at, asker=asker, **options)
                    if not isinstance(owner, socketserver.BaseServer):
                        server._again = begin
                    return server
                except OSError as error:
                    # Another program may have taken the free port in the meantime.
                    taken = error.errno == errno.EADDRINUSE and port is None and reasons.arguments(serve, "", 0)
                    if not taken or attempt == 2:
                        raise
        raise AssertionError("not reached")

    try:
        return apart(lambda asker: begin(port, asker))
    finally:
        while stuck:
            warnings.warn(f"the earlier server was left behind: {stuck.pop()}", RuntimeWarning, stacklevel=2)


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
    arguments: Sequence[str],
    timeout: float,
    most_threads: int | None,
    most_events: int,
    asker: Asker,
) -> Server:
    __tracebackhide__ = True
    given = reasons.arguments(serve, host, port)
    server = Server(name, most_events, serve)
    observation = server.observation
    outcome: list[object] = []  # what serve returned or raised
    asker.wakes.append(observation.listening)

    def run() -> None:
        __tracebackhide__ = True
        try:
            outcome.append(serve(*given))
        except BaseException as error:
            outcome.append(error)
            if observation.address is not None:
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
        with patches.program_arguments(*sys.argv[:1], *arguments):
            thread.start()
            deadline = time.monotonic() + timeout
            observation.listening.wait(timeout)
            certain = reasons.serves_unwatched(observation, task, lambda: ended.is_set() or asker.gone, deadline)
    except BaseException:  # Ctrl+C, or no thread is to be had
        _end(server)
        raise
    if observation.address is not None and not asker.gone:
        with lock:
            _servers[name] = server
        return server
    if ended.is_set():
        left = _end(server)
        raise reasons.ended(serve, name, outcome.pop(), observation, left)
    said = reasons.does_not_listen(name, where(task), observation, certain, timeout)
    stopping.throw_into(task)  # before it is woken: it does nothing more
    raise (RuntimeError if certain else ServerStuck)(said + reasons.below(observation, _end(server)))


def _end(server: Server) -> str:
    """Leave nothing of a server that did not start. What stays, in a sentence."""
    bound = reasons.bound_sockets(server.observation)
    for sock in bound:
        reasons.wake(sock)
    try:
        server._stop(1.0)
    except ServerStuck as stuck:
        return str(stuck)
    finally:
        for sock in bound:  # not before: a select() would not see them wake
            sock.close()
    return ""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_servers.clear)  # a child ends without ending its parent's servers


def _stop_all() -> None:
    for server in list(_servers.values()):
        with contextlib.suppress(ServerStuck):
            server.stop(timeout=1.0)
