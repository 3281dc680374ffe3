"""Why a server did not start, in sentences: what happened, with the value, and what to do next.

`checked` and `arguments` look before it is started, `why` at what it raised, `unwatched` at what it serves instead.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import operator
import re
import socket
import socketserver
import time
from collections.abc import Callable
from typing import Any, SupportsIndex

from .events import reachable
from .frames import source_line, student_frame, student_traceback
from .holders import holder
from .observation import Observation, Task
from .text import counted, cut, visible

FAMILIES = (socket.AF_INET, socket.AF_INET6)
TYPED = re.compile(r"\binput\(")
PRINTED = "It had printed:"
LINES, WIDTH = 20, 200  # lines of what it printed, and characters of each
READS = re.compile(r"\b(recv\w*|accept|select|poll|read\w*|handle_request|serve_forever|run\w*)\(")
LOOK = 0.01  # seconds between two looks
CERTAIN = 0.2  # seconds that it reads from what cannot be watched, until it is certain that it serves that
NO_ADDRESS = "try 127.0.0.1, or 0.0.0.0 for all addresses of this machine"


# -- before ----------------------------------------------------------------------------------------------------------


def bad_host(host: str, instead: str = NO_ADDRESS) -> str:
    """Why nobody can listen at, or connect to, that host; "" where the machine knows it."""
    wrong = "" if host.strip() else "a host"  # socket functions take "" for all addresses
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror:
        wrong = wrong or "a host that this machine knows"
    except (UnicodeError, ValueError):
        wrong = wrong or "a host name"
    return f"{_quoted(host)} is not {wrong}: {instead}" if wrong else ""


def checked(host: object, port: object) -> None:
    """Raise TypeError or ValueError where start() was given what is no host or no port."""
    if not isinstance(host, str):
        raise TypeError(f"host= takes text like '127.0.0.1', not {cut(repr(host), WIDTH)}")
    if wrong := bad_host(host):
        raise ValueError(f"host={wrong}")
    if port is None:
        return
    if not isinstance(port, SupportsIndex) or isinstance(port, bool):
        raise TypeError(f"port= takes a number like 8000, not {cut(repr(port), WIDTH)}")
    if not 0 <= operator.index(port) <= 65535:
        raise ValueError(
            f"{port} is not a port: take a number from 1024 to 65535, or leave out port= to get a free one"
        )


def arguments(serve: Callable[..., object], host: str, port: int) -> tuple[Any, ...]:
    """What to call `serve` with: (host, port), (port) or nothing, by the names and the number of its parameters.

    Raises TypeError where calling it would serve nobody.
    """
    name = name_of(serve)
    if isinstance(serve, type) and issubclass(serve, (socketserver.BaseServer, socketserver.BaseRequestHandler)):
        handles = issubclass(serve, socketserver.BaseRequestHandler)
        made = f"TCPServer((host, port), {name})" if handles else f"{name}((host, port), Handler)"
        raise TypeError(f"{name} is a class of the socketserver module: make a server of it, like start({made})")
    called = serve if isinstance(serve, (functools.partial, type)) or inspect.isroutine(serve) else type(serve).__call__
    kinds = {
        "a coroutine function (async def)": inspect.iscoroutinefunction,
        "an asynchronous generator function (async def with yield)": inspect.isasyncgenfunction,
        "a generator function (it has a yield)": inspect.isgeneratorfunction,
    }
    for kind, is_one in kinds.items():
        if is_one(called):
            cure = "take the yield out, or start() a function that runs through it"
            if "coroutine" in kind:
                cure = f"start() a function that runs it: def main(host, port): asyncio.run({name}(host, port))"
            raise TypeError(f"{name} is {kind}: calling it runs none of its lines; {cure}")
    try:
        parameters = inspect.signature(serve).parameters.values()
    except ValueError:
        raise TypeError(f"start() cannot see which arguments {name} takes: start() a function that calls it") from None
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    names = [each.name.lower() for each in positional]
    required = sum(each.default is each.empty for each in positional)
    other = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    if not other:
        if names[:2] == ["port", "host"]:
            return (port, host)
        if names[:2] == ["host", "port"] or required == 2:
            return (host, port)
        if names[:1] == ["port"]:
            return (port,)
        if required == 0:
            return ()
    needs = [*names[:required], *other]
    raise TypeError(
        f"start() can call serve(host, port), serve(port) or main(), but {name} needs "
        f"{counted(len(needs), 'argument')}: {', '.join(needs)}. Give it the others by functools.partial or a lambda"
    )


def name_of(serve: Any) -> str:
    """What the views call it unless told otherwise."""
    if isinstance(serve, functools.partial):
        return name_of(serve.func)
    owner = getattr(serve, "__self__", None)  # "serve_forever" would be the name of all of them
    named = type(owner) if isinstance(owner, socketserver.BaseServer) else serve
    return cut(str(getattr(named, "__name__", type(serve).__name__)), WIDTH)


def unserved(server: socketserver.BaseServer) -> str:
    """Why a server of the `socketserver` module cannot be watched; "" where it can."""
    name, sock = type(server).__name__, getattr(server, "socket", None)
    if not isinstance(sock, socket.socket):
        return ""
    if sock.fileno() == -1:
        return f"its socket is closed. Make a new {name}, and start() that"
    if kind := _kind(sock.family, sock.type):
        return f"it has {kind}"
    with contextlib.suppress(OSError):
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "it does not listen. Call its server_bind() and server_activate(), or leave out the False"
    return ""


# -- what it serves instead ------------------------------------------------------------------------------------------


def _kind(family: int, kind: int) -> str:
    if family not in FAMILIES:
        name = getattr(family, "name", family)
        return f"a socket of {name}: its clients have no host and port to tell them apart by. Use AF_INET"
    if kind == socket.SOCK_DGRAM:
        return "a UDP socket: it has no connections to watch. Use SOCK_STREAM, with listen() and accept()"
    other = f"a socket of {getattr(kind, 'name', kind)}: it has no connections to watch. Use SOCK_STREAM"
    return "" if kind == socket.SOCK_STREAM else other


def unwatched(observation: Observation) -> str:
    """What it has bound and cannot be watched; "" where there is nothing of that kind."""
    bound = ((bind, bind.ref()) for bind in observation.binds if not bind.error)
    kinds = (_kind(bind.family, bind.kind) for bind, sock in bound if sock is not None and sock.fileno() != -1)
    return next(filter(None, kinds), "")


def serves_unwatched(observation: Observation, task: Task, over: Callable[[], object], deadline: float) -> bool:
    """Where it has bound what cannot be watched, wait until it listens at what can, or it is `over`. True: it does
    neither, for it serves what it has bound: the line at which it stands for a while reads.
    """
    since = time.monotonic()
    while observation.address is None and not over():
        time.sleep(LOOK)
        frame = student_frame(task.identity()) if unwatched(observation) else None
        line = "" if frame is None else source_line(frame) or "( ".join((*frame.f_code.co_names, ""))
        now = time.monotonic()
        if not READS.search(line):
            since = now
        if now - since > CERTAIN or now > deadline:
            return now - since > CERTAIN
    return False


def bound_sockets(observation: Observation) -> list[socket.socket]:
    """Those for which its threads have called bind, also in vain."""
    return [*filter(None, (bind.ref() for bind in [*observation.binds]))]


def wake(sock: socket.socket) -> None:
    """Have whoever waits at that socket go on, also at one of UDP."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)  # of UDP: wakes on Linux, and says that it is not connected
    if sock.type == socket.SOCK_DGRAM and sock.family in FAMILIES:
        with contextlib.suppress(OSError), socket.socket(sock.family, sock.type) as other:
            other.sendto(b"", reachable(sock.getsockname()))


# -- after -----------------------------------------------------------------------------------------------------------


def why(error: BaseException, observation: Observation) -> str:
    """What the error means here, and what to do next; "" where its own words say it."""
    said, bind = str(error), observation.binds[-1] if observation.binds else None
    if "only works in main thread" in said:
        return (
            "A server in a notebook runs in a thread, and Python handles signals in the main thread only: leave that "
            "call out here. server.interrupt() raises KeyboardInterrupt in the server, as Ctrl+C does in a terminal."
        )
    if isinstance(error, KeyboardInterrupt):
        return "The server raised it itself, before it listened: nobody has pressed Ctrl+C."
    if getattr(error, "errno", None) == errno.EINVAL and "accept(" in "".join(student_traceback(error)[-2:]):
        return "accept() needs a socket that listens: call listen() on it first."
    if bind is None or not (bind.error or getattr(error, "errno", None) == errno.EADDRINUSE):
        return ""
    address = bind.address
    if isinstance(error, TypeError) and (not isinstance(address, tuple) or "exactly one argument" in said):
        return "bind() takes one pair, (host, port), in brackets of its own: bind((host, port))."
    return _sentence(refusal(error, address, bind.family)) if isinstance(address, tuple) and len(address) > 1 else ""


def refusal(error: BaseException, address: tuple[Any, ...], family: int = 0) -> str:
    """Why the address could not be bound; "" where the error is of another kind."""
    where, port = address[:2]
    if isinstance(error, OSError):
        if error.errno == errno.EADDRINUSE:
            return holder(address)
        if error.errno == errno.EACCES:
            low = "ports below 1024 need special rights; " if isinstance(port, int) and port < 1024 else ""
            return f"port {port} on {where} is not allowed: {low}take one from 1024 up"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{where} is not an address of this machine: {NO_ADDRESS}"
        if not isinstance(error, socket.gaierror) and not isinstance(error.__context__, socket.gaierror):
            return ""  # create_server() hides it behind a plain OSError
        for other, name, version in ((socket.AF_INET, "AF_INET", "4"), (socket.AF_INET6, "AF_INET6", "6")):
            with contextlib.suppress(OSError, TypeError, ValueError):
                if family in FAMILIES and family != other and socket.inet_pton(other, where):
                    return f"{where} is an IPv{version} address: make the socket with socket.{name}"
        return f"{_quoted(where)} is not a host that this machine knows: {NO_ADDRESS}"
    if isinstance(error, UnicodeError) or "encoding of hostname" in str(error):  # the latter is a TypeError of bind
        return f"{_quoted(where)} is not a host name: {NO_ADDRESS}"
    if isinstance(error, OverflowError):
        return f"{port} is not a port: take a number from 1024 to 65535"
    if isinstance(error, TypeError) and isinstance(port, str):
        return f"the port that bind() got is text, {_quoted(port)}: make it a number by int()"
    return ""


def below(observation: Observation, left: str = "", last: str = "") -> str:
    """What stands below a sentence: what is left, and what it had printed; "" where there is neither."""
    printed = [*(line.text for line in observation.printed()), *last.splitlines()]
    lines = [cut(visible(line), WIDTH) for line in printed]
    if len(lines) > LINES:
        lines = [f"… {len(lines) - LINES:,} more …", *lines[-LINES:]]
    printed = [PRINTED, *(f"    {line}" for line in lines)] if any(lines) else []
    return "".join(f"\n{each}" for each in [left, *printed] if each)


def ended(
    serve: Callable[..., object], name: str, outcome: object, observation: Observation, left: str
) -> BaseException:
    """What to raise for a function that has ended before it listened: `outcome` is what it returned or raised."""
    code = outcome.code if isinstance(outcome, SystemExit) else None
    told = below(observation, left, "" if code is None or isinstance(code, int) else str(code))  # as Python does
    if isinstance(outcome, BaseException) and not isinstance(outcome, SystemExit):
        for note in filter(None, [why(outcome, observation), told.strip()]):
            outcome.add_note(note)
        return outcome
    error = RuntimeError(f"{_nothing_served(serve, name, outcome)}{_taken(observation)}{told}")
    error.__cause__ = outcome if isinstance(outcome, SystemExit) else None
    return error


def does_not_listen(name: str, place: object, observation: Observation, certain: bool, timeout: float) -> str:
    """For one that has neither ended nor listened; it is `certain` that it serves what cannot be watched, or not."""
    stands, bound = f"it stood at {place or 'no line of your code'}", unwatched(observation)
    if certain:
        return f"{name}() did not listen; {stands}. This is {bound}."
    said = (
        f"{name}() did not listen within {timeout:g} s; {stands}. A server calls bind(), then listen(), then accept(). "
    )
    if TYPED.search(stands):
        said += (
            "input() waits for what somebody types: write the value into the code, or ask in a cell before start(). "
        )
    return f"{said}It has bound {bound}." if bound else f"{said}{_taken(observation).lstrip()}".rstrip()


def _taken(observation: Observation) -> str:
    """Who holds the port that it tried to bind last, where it went on after that had failed."""
    last = observation.binds[-1] if observation.binds else None
    return f" {_sentence(holder(last.address))}" if last is not None and last.errno == errno.EADDRINUSE else ""


def _nothing_served(serve: Callable[..., object], name: str, outcome: object) -> str:
    if isinstance(outcome, SystemExit):
        code = outcome.code if isinstance(outcome.code, int) else ""
        hint = " start(main, arguments=['127.0.0.1', '8000']) gives it arguments as a command line does."
        return f"{name}() ended by sys.exit({code}) before it listened.{hint if outcome.code == 2 else ''}"
    if inspect.iscoroutine(outcome) or inspect.isgenerator(outcome) or inspect.isasyncgen(outcome):
        kind = "coroutine" if inspect.iscoroutine(outcome) else "generator"
        with contextlib.suppress(AttributeError, RuntimeError):
            outcome.close()  # type: ignore[union-attr]  # or Python warns that nobody awaited it
        run = "asyncio.run(...) runs them" if kind == "coroutine" else "a loop over it runs them"
        return f"{name}() returned a {kind} and ran none of its lines: {run}."
    if isinstance(serve, type):
        return f"{name} is a class: calling it made an object, and nothing listened. start() the method that serves."
    return f"{name}() returned before it listened. Does it call listen() and then loop over accept()?"


def told(error: BaseException) -> str:
    """The error's words with its notes, on one line."""
    return " ".join(" ".join([str(error), *getattr(error, "__notes__", ())]).split())


def _sentence(text: str) -> str:
    return text and f"{text[0].upper()}{text[1:].rstrip('.')}."


def _quoted(text: Any) -> str:
    return cut(visible(ascii(text) if not str(text).isprintable() else repr(text)), WIDTH)
