"""The command line: `python -m echo_kit server|server-thread|client [HOST PORT]`, or `swarm`, `mark`, `lessons`.

The standard library is enough.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from .client import Client, EchoError, NoReply, Refused, Reset, ServerClosed
from .servers import serve_single, serve_threaded
from .watch.events import open_to
from .watch.reasons import bad_host, refusal
from .watch.text import visible

DISTURB = (0.05, 0.5, 1.0)  # seconds that a server has after Ctrl+C, until it is disturbed, and disturbed, and ended
OUTPUT_FAILS = (errno.EPIPE, errno.ENOSPC, errno.EIO)  # whoever read it has left, the disk is full, no terminal

COMMANDS = {
    "server": "the server of Part 1: one client at a time",
    "server-thread": "the server of Part 2: a thread for each client",
    "client": "a client: type a line, see its echo",
    "swarm": "many clients at once: python -m echo_kit swarm --help",
    "mark": "mark a folder of answers (for instructors): python -m echo_kit mark --help",
    "lessons": "copy the notebooks into a folder: python -m echo_kit lessons DIR",
}

_last_words = threading.Lock()


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 with one line on standard error that says what to do.

    Where something could not be marked, 1.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a terminal that cannot show é gets an escape, not a crash
            stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    with contextlib.suppress(AttributeError):  # bytes that are no text are sent as they are
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["swarm"]:
            from .load import command  # all that the other commands do not need, as below

            return command.main(_Parser(prog="python -m echo_kit swarm"), arguments[1:])
        if arguments[:1] == ["mark"]:
            from .course import mark

            return mark.main(_Parser(prog="python -m echo_kit mark"), arguments[1:])
        if arguments[:1] == ["lessons"]:
            from .course import lessons

            return lessons.main(_Parser(prog="python -m echo_kit lessons"), arguments[1:])
        given = (parser := _parser()).parse_args(arguments)
        host, port = _address(parser, given.command, given.address)
        if not given.address:
            print(f"To use another address: python -m echo_kit {given.command} HOST PORT")
        if given.command == "client":
            return _talk(host, port, given.name)
        if given.name is not None:
            _fail("--name is for a client: python -m echo_kit client HOST PORT --name alice")
        if others := open_to(host):
            print(f"At {host} {others}; at 127.0.0.1 only this one can")
        return _serve(serve_single if given.command == "server" else serve_threaded, host, port)
    except KeyboardInterrupt:
        _if_it_can(print)
        return 0
    except OSError as error:
        _end_without_output(error)
        return int(arguments[:1] == ["swarm"])  # whose exit code says that all is well


def _if_it_can(write: Callable[[], object]) -> None:
    """Write within a second: a terminal with Ctrl+S, or a pipe that nobody reads, would block for ever."""
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(1.0)


def _end_without_output(error: OSError) -> None:
    """Say that our own output has failed, if that is what failed."""
    if error.errno not in OUTPUT_FAILS:
        raise error
    print(f"echo_kit: nothing can be written any more ({error.strerror}): this program ends", file=sys.stderr)


def run() -> NoReturn:
    """`main` as a program of its own: it ends at once, whatever threads still do.

    At the interpreter's own end, a server's thread that is just printing is a fatal error (exit code -6, measured).
    """
    if sys.argv[1:2] == ["mark"] and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]  # a class may have handed in a file that is called like a module which we import
    code = main()
    _if_it_can(_flush)
    os._exit(code)


def _flush() -> None:
    with contextlib.suppress(OSError, AttributeError):
        sys.stdout.flush()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(f"{message} ({self.prog} --help says more)")


def _parser() -> argparse.ArgumentParser:
    epilog = "\n".join(f"  {name:<14} {purpose}" for name, purpose in COMMANDS.items())
    parser = _Parser(
        prog="python -m echo_kit",
        description="The course's echo servers, a client for them, the lessons, and the marking of answers. "
        "Ctrl+C ends each.",
        epilog=f"commands:\n{epilog}\n\nHOST PORT: where to listen or connect to; 127.0.0.1 8000 unless given.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command", help=", ".join(COMMANDS))
    parser.add_argument("address", nargs="*", metavar="HOST PORT", help="both or neither")
    version = f"echo_kit {sys.modules[__package__].__version__}, Python {sys.version.split()[0]}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("--name", help='for a client: its first line is "I am NAME", which a classroom shows')
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
    ended = threading.Event()
    tell, threading.excepthook = threading.excepthook, _thread_died
    _one_ctrl_c_is_enough()
    try:
        if sys.platform == "win32":
            _serve_in_a_thread(serve, host, port)
        else:
            _lose_no_ctrl_c(ended)
            serve(host, port)
    except OSError as error:
        if error.errno in OUTPUT_FAILS:  # a client that leaves raises nothing here
            raise
        _fail((refusal(error, (host, port)) or f"cannot serve at {host}:{port}: {error.strerror or error}").rstrip("."))
    finally:
        ended.set()
        threading.excepthook = tell
    return 0


def _thread_died(died: threading.ExceptHookArgs) -> None:
    """The thread of a client: only its prints can fail, and they fail for all of them."""
    if not isinstance(died.exc_value, OSError) or died.exc_value.errno not in OUTPUT_FAILS:
        threading.__excepthook__(died)
    elif _last_words.acquire():  # and keep it: all threads come here, one says it
        _end_without_output(died.exc_value)
        os._exit(0)


def _one_ctrl_c_is_enough() -> None:
    """Ignore those that follow: the end is bounded, and one more would cut it short, with a traceback."""

    def first(*_: object) -> NoReturn:
        signal.signal(signal.SIGINT, lambda *_: None)
        raise KeyboardInterrupt

    unchanged = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if unchanged and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, first)


def _lose_no_ctrl_c(ended: threading.Event) -> None:
    """See to it that Ctrl+C also ends a call that was just about to block, and a program whose output is blocked.

    Python looks for signals before the call, and the call is ended by a signal only once it waits. One that comes in
    between is noticed when the call returns: an accept, with the next client (3 of 60 that came just after a client had
    been served, measured); a print into a full pipe, never. So a thread that hears of each Ctrl+C
    (signal.set_wakeup_fd) disturbs the main thread a moment later by another signal. Where the program has not `ended`
    then, it waits to print its last line: the process ends without.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():  # no signals there
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGURG, lambda *_: None)
    main_thread = threading.main_thread().ident or 0

    def disturb(_keep: socket.socket = writer) -> None:
        while number := reader.recv(1):  # of the signal
            if number[0] == signal.SIGINT:
                for later in DISTURB:
                    if ended.wait(later):
                        break
                    signal.pthread_kill(main_thread, signal.SIGURG)
                else:
                    os._exit(0)

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
        _if_it_can(lambda: print("Stopped"))  # the process ends, and the system closes its sockets
    if failure:
        raise failure[0]


# -- the client ------------------------------------------------------------------------------------------------------


def _talk(host: str, port: int, name: str | None) -> int:
    first = [] if name is None else [f"I am {name}"]
    try:
        client = Client((host, port), name="client", timeout=10)
    except Refused:
        _fail(f"nobody listens at {host}:{port}: start a server there first (python -m echo_kit server {host} {port})")
    except NoReply as error:
        _fail(str(error))
    except EchoError as error:
        _fail(f"{error}: give the HOST and PORT where a server listens, like 127.0.0.1 8000")
    ended = threading.Event()
    with client, contextlib.ExitStack() as stack:
        stack.callback(ended.set)
        _lose_no_ctrl_c(ended)
        _one_ctrl_c_is_enough()
        print(f"Connected to {host}:{port}, use Ctrl+C to exit")
        print(*(f"> {visible(line)}\n" for line in first), sep="", end="")
        try:
            while True:
                line = first.pop() if first else input("> ")
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
