"""The command line: `python -m echo_kit server|server-thread|client [HOST PORT]`. The standard library is enough."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from .client import Client, EchoError, NoReply, Refused, Reset, ServerClosed
from .servers import serve_single, serve_threaded
from .watch.events import open_to
from .watch.reasons import bad_host, refusal
from .watch.text import visible

COMMANDS = {
    "server": "the server of Part 1: one client at a time",
    "server-thread": "the server of Part 2: a thread for each client",
    "client": "a client: type a line, see its echo",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 with one line on standard error that says what to do."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a terminal that cannot show é gets an escape, not a crash
            stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    with contextlib.suppress(AttributeError):  # bytes that are no text are sent as they are
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    parser = _parser()
    given = parser.parse_args(arguments)
    host, port = _address(parser, given.command, given.address)
    try:
        if not given.address:
            print(f"To use another address: python -m echo_kit {given.command} HOST PORT")
        if given.command == "client":
            return _talk(host, port)
        if others := open_to(host):
            print(f"At {host} {others}; at 127.0.0.1 only this one can")
        return _serve(serve_single if given.command == "server" else serve_threaded, host, port)
    except KeyboardInterrupt:
        print()
        return 0
    except BrokenPipeError:  # whoever read our output (head, less) has left
        return 0


def run() -> NoReturn:
    """`main` as a program of its own: it ends at once, whatever threads still do.

    At the interpreter's own end, a server's thread that is just printing is a fatal error (exit code -6, measured).
    """
    code = main()
    with contextlib.suppress(OSError, AttributeError):
        sys.stdout.flush()
    os._exit(code)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(f"{message} (python -m echo_kit --help says more)")


def _parser() -> argparse.ArgumentParser:
    epilog = "\n".join(f"  {name:<14} {purpose}" for name, purpose in COMMANDS.items())
    parser = _Parser(
        prog="python -m echo_kit",
        description="The course's echo servers and a client for them. Ctrl+C ends each.",
        epilog=f"commands:\n{epilog}\n\nHOST PORT: where to listen or connect to; 127.0.0.1 8000 unless given.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command", help=", ".join(COMMANDS))
    parser.add_argument("address", nargs="*", metavar="HOST PORT", help="both or neither")
    return parser


def _fail(message: str) -> NoReturn:
    print(f"echo_kit: {message}", file=sys.stderr)
    raise SystemExit(2)


def _address(parser: argparse.ArgumentParser, command: str, given: list[str]) -> tuple[str, int]:
    if not given:
        return "127.0.0.1", 8000
    if len(given) != 2:
        _fail(
            f"{' '.join(given)!r} is not HOST PORT: give both, like 127.0.0.1 8000, or neither "
            f"(python -m echo_kit {command} --help)"
        )
    host, text = given
    if wrong := bad_host(host, "try 127.0.0.1") if command == "client" else bad_host(host):
        _fail(wrong)
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= 65535):
        _fail(f"{text!r} is not a port: give a whole number from 0 to 65535, like 8000")
    if command == "client" and int(text) == 0:
        _fail("'0' is not a port to connect to: give the one that the server printed, like 8000")
    return host, int(text)


# -- the servers -----------------------------------------------------------------------------------------------------


def _serve(serve: Callable[[str, int], None], host: str, port: int) -> int:
    try:
        if sys.platform == "win32":
            _serve_in_a_thread(serve, host, port)
        else:
            _lose_no_ctrl_c()
            serve(host, port)
    except BrokenPipeError:
        raise  # our own output's; a client that leaves raises nothing here
    except OSError as error:
        _fail((refusal(error, (host, port)) or f"cannot serve at {host}:{port}: {error.strerror or error}").rstrip("."))
    return 0


def _lose_no_ctrl_c() -> None:
    """See to it that Ctrl+C also ends an accept that was just about to begin.

    Python looks for signals before the call, and the call is ended by a signal only once it waits. One that comes in
    between is noticed when the next client comes (3 of 60 that came just after a client had been served, measured).
    So a thread that hears of each Ctrl+C (signal.set_wakeup_fd) disturbs the main thread a moment later by another
    signal.
    """
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGURG, lambda *_: None)
    main_thread = threading.main_thread().ident or 0

    def disturb(_keep: socket.socket = writer) -> None:
        while number := reader.recv(1):  # of the signal
            for later in (0.05, 0.5) if number[0] == signal.SIGINT else ():
                time.sleep(later)
                signal.pthread_kill(main_thread, signal.SIGURG)

    threading.Thread(target=disturb, daemon=True).start()


def _serve_in_a_thread(serve: Callable[[str, int], None], host: str, port: int) -> None:
    """On Windows Ctrl+C does not reach a thread that is blocked in accept or recv: keep the main thread free."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            serve(host, port)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(0.2)
    except KeyboardInterrupt:
        print("Stopped")  # the process ends, and the system closes its sockets
    if failure:
        raise failure[0]


# -- the client ------------------------------------------------------------------------------------------------------


def _talk(host: str, port: int) -> int:
    try:
        client = Client((host, port), name="client", timeout=10)
    except Refused:
        _fail(f"nobody listens at {host}:{port}: start a server there first (python -m echo_kit server {host} {port})")
    except NoReply as error:
        _fail(str(error))
    except EchoError as error:
        _fail(f"{error}: give the HOST and PORT where a server listens, like 127.0.0.1 8000")
    with client:
        print(f"Connected to {host}:{port}, use Ctrl+C to exit")
        try:
            while True:
                line = input("> ")
                if line:
                    client.send(line.encode("utf-8", "surrogateescape"), timeout=3600)
                    print(f"Received  :  {visible(_answer(client).decode('utf-8', 'backslashreplace'))}")
                else:
                    print("(an empty line sends nothing: there is nothing to wait for)")
        except EOFError:
            print()
            return 0
        except (ServerClosed, Reset) as error:
            print(f"The server has left: {error}")
            return 0
        except EchoError as error:
            _fail(str(error))


def _answer(client: Client) -> bytes:
    while True:  # a busy server answers when it is this client's turn; Ctrl+C ends the waiting
        with contextlib.suppress(NoReply):
            answer = client.receive(timeout=0.2)
            assert isinstance(answer, bytes)
            return answer


if __name__ == "__main__":
    run()
