"""A server in a process of its own, for the battery: `python run.py IDLE WAY SERVER HOST PORT`.

It says `Listening on HOST:PORT`, as the finished servers do, for which IDLE is the limit of silence, in seconds.
"""

import runpy
import signal
import socket
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # the package beside these tests, wherever another one is installed

from echo_kit import servers  # noqa: E402


def by_name(name):
    """A finished server, or one of those that know nothing of echo_kit."""
    plain = runpy.run_path(str(ROOT / "tests" / "watch" / "plain_servers.py"))
    return getattr(servers, name, None) or plain[name]


def plain(name, host, port):
    """Nothing of echo_kit around it."""
    listen = socket.socket.listen

    def listen_and_tell(self, *backlog):
        listen(self, *backlog)
        print(f"Listening on {host}:{port}")

    socket.socket.listen = listen_and_tell
    by_name(name)(host, port)


def started(name, host, port):
    """By echo_kit.start. At Ctrl+C all views are asked, and it is stopped: within bounds, with nothing left."""
    import echo_kit

    server = echo_kit.start(by_name(name), host=host, port=port)
    print(f"Listening on {host}:{port}")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        for view in (server.where, server.backlog, server.timeline):
            assert str(view())
        print(server.log)  # with the tracebacks of its threads, but for those that die of the stop
        if server.error is not None:
            print("Traceback of the server itself:", server.error)
        server.stop(timeout=4)
        assert (server.running, server.threads) == (False, [])


def command(name, host, port):
    """The command line."""
    sys.argv[1:] = name, host, str(port)
    runpy.run_module("echo_kit", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore Ctrl+C
    sys.stdout.reconfigure(line_buffering=True)
    idle, way, name, host, port = sys.argv[1:]
    servers.IDLE = float(idle)
    {"plain": plain, "started": started, "command": command}[way](name, host, int(port))
