"""echo_kit: your own socket code, unmodified, watched.

    server = echo_kit.start(serve)                  # serve(host, port), from the cell above
    alice = echo_kit.Client(server, name="alice")
    alice.send("hello"); alice.receive()            # 'hello'
    server.where()                                  # on which line each thread stands
    server.backlog()                                # who waits in the kernel's backlog
    server.timeline()                               # what happened, when
    server.stop()

Nothing is imported before it is used: the command line needs neither Jupyter nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "1.0.0"  # the one place: pyproject.toml reads it here

if TYPE_CHECKING:  # what a type checker, and an editor, sees; a test compares it with the table below
    from .client import (
        Client as Client,
        EchoError as EchoError,
        NoReply as NoReply,
        Refused as Refused,
        Reset as Reset,
        ServerClosed as ServerClosed,
    )
    from .course.exercises import Exercise as Exercise, check as check, progress as progress
    from .course.report import NotSolved as NotSolved, Report as Report
    from .live.classroom import Classroom as Classroom
    from .live.clients import ClientPanel as ClientPanel, panels as panels
    from .live.prediction import Prediction as Prediction, predict as predict
    from .live.stage import ServerPanel as ServerPanel
    from .load.launch import Launched as Launched, launch as launch
    from .load.report import Swarm as Swarm
    from .load.swarm import swarm as swarm
    from .program import Program as Program, run as run
    from .server import Server as Server, ServerStuck as ServerStuck, start as start
    from .servers import serve_single as serve_single, serve_threaded as serve_threaded
    from .views.shown import Snapshot as Snapshot, Timeline as Timeline, side_by_side as side_by_side
    from .watch.sockets import free_port as free_port

_HOME = {
    "Classroom": "live.classroom",
    "Client": "client",
    "ClientPanel": "live.clients",
    "EchoError": "client",
    "Exercise": "course.exercises",
    "Launched": "load.launch",
    "NoReply": "client",
    "NotSolved": "course.report",
    "Prediction": "live.prediction",
    "Program": "program",
    "Refused": "client",
    "Report": "course.report",
    "Reset": "client",
    "Server": "server",
    "ServerClosed": "client",
    "ServerPanel": "live.stage",
    "ServerStuck": "server",
    "Snapshot": "views.shown",
    "Swarm": "load.report",
    "Timeline": "views.shown",
    "check": "course.exercises",
    "free_port": "watch.sockets",
    "launch": "load.launch",
    "panels": "live.clients",
    "predict": "live.prediction",
    "progress": "course.exercises",
    "run": "program",
    "serve_single": "servers",
    "serve_threaded": "servers",
    "side_by_side": "views.shown",
    "start": "server",
    "swarm": "load.swarm",
}

__all__ = list(_HOME)


if not TYPE_CHECKING:  # else every name would be taken for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
