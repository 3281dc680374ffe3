"""`start(serve)`: runs a blocking server in a background thread, watched, and `Server` ends it whatever it does.

Starting a server again under the same name stops the earlier one first: a cell that is run twice leaves one server.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import inspect
import secrets
import selectors
import socket
import socketserver
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from .views.backlog import Backlog
from .views.code import CodeView
from .views.kernel import look
from .views.lanes import lanes_of
from .views.looks import code_view
from .views.shown import Snapshot, Timeline
from .views.source import where
from .watch import observe
from .watch.events import CAPACITY, Address, Connection, EventLog, reachable
from .watch.frames import thread_frames
from .watch.sockets import ready
from .watch.text import visible

__all__ = ["Log", "Server", "ServerStuck", "start"]

PORTS = range(20_000, 32_768)  # from which servers get theirs
MAIN = "server thread"  # the label of the one that runs serve
GRACE = 0.25  # seconds that a stopping server has until stronger means are used
SETTLE = 1.0  # seconds at most that a view waits for the server to come to rest

_servers: dict[str, Server] = {}  # the running ones, by name
_lock = threading.RLock()


class ServerStuck(TimeoutError):
    """A thread of the server did not end, or did not come to listen; the message says on which line it stands."""


class Log:
    """What the server's threads printed: grouped by connection, because the order between connections is no fact."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def lines(self, client: str | None = None) -> list[str]:
        """The printed lines, oldest first; with `client`, those about that client's connections."""
        lines = self._server.observation.printed()
        if client is None:
            return [line.text for line in lines]
        names = self._server.client_names()
        return [line.text for line in lines if line.connection and names.get(line.connection) == client]

    def __str__(self) -> str:
        self._server.settle()
        names = self._server.client_names()
        order = {connection: number for number, connection in enumerate(names, 1)}
        lines = sorted(
            self._server.observation.printed(), key=lambda each: order.get(each.connection, 0) if each.connection else 0
        )
        text = []
        for (connection, thread), group in groupby(lines, key=lambda each: (each.connection, each.thread)):
            who = f"{names[connection]} ({thread})" if connection in names else thread
            text += [who, *(f"    {visible(line.text)}" for line in group)]
        return "\n".join(text) or "(nothing printed)"

    __repr__ = __str__


class Server:
    """A server that `start` runs. `address` is where clients connect, `error` what it died of, if it did."""

    def __init__(self, name: str, most_events: int = CAPACITY) -> None:
        self.name = name
        self.log = Log(self)
        self.observation = observe.Observation(name, EventLog(most_events))
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
        """What happened so far, one lane a client. Waits for the server to come to rest, a second at most."""
        self.settle()
        look(self.observation)
        return Timeline.of(self.observation)

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
        self.settle()
        look(self.observation)
        code = code_view(self.observation, self.client_names(), self.stopped)
        return Snapshot(code, Backlog.of(self.observation), Timeline.of(self.observation))

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
        observe.step_by_step(self.observation, True)

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
        observe.step_by_step(self.observation, False)

    def interrupt(self) -> None:
        """Press Ctrl+C, and do nothing else: KeyboardInterrupt in the server's own thread, in its `accept` if it waits
        there. No client is hung up on, and no other thread is told. (`stop` does both.)

        In a terminal, Ctrl+C ends whichever call the main thread waits in. Here it is only `accept` that ends at once;
        elsewhere the exception comes when the call has come back. Waits first as `timeline` does, so that a server that
        is on its way to its accept has come there. On a stopped server it does nothing.
        """
        self.settle()
        observation = self.observation
        first = [task for task in observation.alive() if task.label == MAIN]
        if self.stopped or not first:
            return
        waits = first[0].waiting
        if waits is None or not waits.listening:
            _throw_into(first[0])
            return
        observation.alarm.interrupt(first[0])
        deadline = time.monotonic() + SETTLE
        while observation.alarm.meant and time.monotonic() < deadline:
            time.sleep(0.001)
        if observation.alarm.take(first[0]):  # it has left that accept for something else
            _throw_into(first[0])

    def client_names(self) -> dict[Connection, str]:
        """The server's connections in the order in which they were accepted, each with its client's name."""
        return {lane.server: lane.name for lane in lanes_of(self.observation) if lane.server is not None}

    def stop(self, timeout: float = 2.0) -> None:
        """End all its threads and close all its sockets. Calling it again does nothing.

        To the server's code it looks as if every client hung up and somebody pressed Ctrl+C. A thread that goes on
        all the same gets the exception thrown into it. `ServerStuck` names one that is still there after `timeout`
        seconds (it sleeps, or waits for something that only it knows).
        """
        observation, deadline = self.observation, time.monotonic() + timeout
        here = observe.current_task()
        if here is not None and here.observation is observation:
            timeout = 0  # one of its own threads: it cannot wait for another one that waits for it
        # Whoever comes second waits until the first is done.
        if not self._ending.acquire(timeout=timeout):
            return
        try:
            if self.stopped:
                return
            self.stopped = True
            observation.ask_to_stop()
            left = _join(observation, min(deadline, time.monotonic() + GRACE))
            while left and time.monotonic() < deadline:
                observation.insist()
                for task in left:
                    _throw_into(task)
                left = _join(observation, min(deadline, time.monotonic() + GRACE))
        finally:  # also on Ctrl+C
            observation.close_all()
            observe.end(observation)
            with _lock:
                if _servers.get(self.name) is self:
                    del _servers[self.name]
            self._ending.release()
        if left:
            for task in left:
                _throw_into(task, SystemExit)  # should it ever go on: the one exception that ends a thread silently
            if sys.version_info < (3, 12):
                _take_one()
            stands = "; ".join(f"{task.label} stands at {where(task)}" for task in left)
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
        observe.route_streams()
        deadline = time.monotonic() + timeout
        quiet_since, looks = 0.0, 0
        before: object = None
        while not self.stopped:
            at_rest, now = _state(self.observation)
            if at_rest:
                return True
            # Threads that wait in ways we cannot see into (join, a queue, sleep) count as resting when none moves. On a
            # busy machine they get a chance to move when this thread gets one to look: so count the looks, too.
            if now != before or now is None:
                before, quiet_since, looks = now, time.monotonic(), 0
            elif looks > 40 and time.monotonic() - quiet_since > 0.05:
                return True
            looks += 1
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

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
    for attempt in range(3):
        chosen = port if port is not None else free_port(host)
        try:
            server = _start_once(serve, name, host, chosen, timeout, most_threads, most_events)
            if not isinstance(owner, socketserver.BaseServer):
                server._again = lambda port: start(
                    serve,
                    name=name,
                    host=host,
                    port=port,
                    timeout=timeout,
                    most_threads=most_threads,
                    most_events=most_events,
                )
            return server
        except OSError as error:
            # Somebody may have taken the free port in the meantime.
            if error.errno != errno.EADDRINUSE or port is not None or not _wants_port(serve) or attempt == 2:
                raise
    raise AssertionError("not reached")


def newest(name: str) -> Server | None:
    """The server that runs under that name now."""
    return _servers.get(name)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody uses, and that the system gives to nobody who asks for any port (with port 0).

    Linux gives those from 32768 on, others from 49152 on (RFC 6335). Whoever had one of them before us may have left
    programs behind that go on connecting to it: JupyterLab does, to a kernel that has ended (ZeroMQ tries several times
    a second, without end). A server that waits for its first client would get such a stranger.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(100):
        port = PORTS.start + secrets.randbelow(len(PORTS))  # not `random`: a student may have called random.seed
        with socket.socket(family) as probe, contextlib.suppress(OSError):  # taken, or kept by the system
            probe.bind((host, port))
            return port
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


# -- starting --------------------------------------------------------------------------------------------------------


def _start_once(
    serve: Callable[..., object],
    name: str,
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
    observe.begin(observation)
    owner = getattr(serve, "__self__", None)
    try:
        if isinstance(owner, socketserver.TCPServer):
            observation.watch_listener(owner.socket)  # it listens since it was made
        with _no_program_arguments():
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
    if failure and not isinstance(failure[0], observe.ServerStopped):
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
        f"needs {required} argument{'' if required == 1 else 's'}: {', '.join(names[:required])}"
    )


def _wants_port(serve: Callable[..., object]) -> bool:
    return bool(_arguments(serve, "", 0))


@contextlib.contextmanager
def _no_program_arguments() -> Iterator[None]:
    """A main() that reads sys.argv must not take the kernel's own arguments for its HOST and PORT."""
    kept = sys.argv
    sys.argv = kept[:1]
    try:
        yield
    finally:
        sys.argv = kept


# -- stopping --------------------------------------------------------------------------------------------------------


def _join(observation: observe.Observation, deadline: float) -> list[observe.Task]:
    """Wait for the server's threads to end, also for those that one of them has just started; who is left."""
    while True:
        left = [task for task in observation.alive() if not task.idle()]
        if not left or time.monotonic() > deadline:
            return left
        if left[0].thread is not None:
            left[0].thread.join(0.01)
        else:
            time.sleep(0.001)  # nothing tells when a thread of the _thread module ends


def _throw_into(task: observe.Task, exception: type[BaseException] = observe.ServerStopped) -> None:
    """Raise it in the thread at its next Python instruction (CPython's PyThreadState_SetAsyncExc)."""
    ident = task.identity()
    if ident is not None:
        _throw(ident, exception)


def _throw(ident: int, exception: type[BaseException]) -> None:
    set_async_exc = getattr(getattr(ctypes, "pythonapi", None), "PyThreadState_SetAsyncExc", None)
    if set_async_exc is not None:
        set_async_exc(ctypes.c_ulong(ident), ctypes.py_object(exception))


def _take_one() -> None:
    """Take an exception that was thrown so, in a thread of our own.

    As long as nobody has, CPython 3.11 looks for one at each instruction, in all threads; and a thread with a trace
    function, like those of some checks, never gets on. The thread that it is for gets it all the same, if it goes on.
    """

    def take() -> None:
        with contextlib.suppress(observe.ServerStopped):
            _throw(threading.get_ident(), observe.ServerStopped)
            for _ in range(1000):
                time.sleep(0)

    with contextlib.suppress(RuntimeError):  # there may be too many threads already
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        thread.join(1.0)


def _stop_all() -> None:
    for server in list(_servers.values()):
        with contextlib.suppress(ServerStuck):
            server.stop(timeout=1.0)


@functools.cache
def before_exit(call: Callable[[], None]) -> None:
    """Have `call` made, once, before the interpreter waits for its threads, also for the pools' (whose hook was made
    first, and runs later). Of several, the one that was named last comes first.
    """
    import atexit

    getattr(threading, "_register_atexit", atexit.register)(call)


# -- is the server at rest? ------------------------------------------------------------------------------------------


def _state(observation: observe.Observation) -> tuple[bool, object]:
    """Whether each of its threads waits in a socket call that nothing will end by itself, or is held before one; and
    what they all stand at.

    The second value is None while something is certain to move: bytes to be read, a client to be accepted.
    """
    frames = thread_frames()
    at_rest, accepting = True, False
    stands: list[object] = []
    reading: set[Connection] = set()
    if any(task.starting for task in observation.tasks):
        return False, None
    tasks = observation.alive()
    held = [task.paused for task in tasks]
    waits = [task.waiting for task in tasks]
    for task, seen, call in zip(tasks, waits, held, strict=True):
        if call is not None:
            continue
        if seen is None:
            status = task.status()
            if b"State:\tR" in status:
                return False, None
            frame = frames.get(task.identity() or 0)
            at_rest = False
            switches = status[status.find(b"voluntary_ctxt_switches") :]
            stands.append((task.identity(), id(frame), frame.f_lasti if frame is not None else 0, switches))
            continue
        sock = seen.ref()
        if sock is None or ready(sock, selectors.EVENT_READ):
            return False, None
        if seen.listening:
            accepting = True
        else:
            reading.add(seen.connection)
    for client in observation.clients:
        server_side = observation.accepted.get(client.client)
        if server_side is None:
            if accepting and not client.closed:
                return False, None
            at_rest = at_rest and not accepting  # it has left, and will be accepted unless the system dropped it
        elif server_side in reading and (client.closed or client.sent > server_side.received):
            return False, None
    if observation.alive() != tasks or [task.waiting for task in tasks] != waits:  # one moved while we looked
        return False, None
    if observation.gate.leaving(tasks) or [task.paused for task in tasks] != held:
        return False, None
    return at_rest, stands
