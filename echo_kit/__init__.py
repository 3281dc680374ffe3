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
from typing import Any

_HOME = {
    "Client": "client",
    "ClientPanel": "live.clients",
    "EchoError": "client",
    "NoReply": "client",
    "Prediction": "live.prediction",
    "Refused": "client",
    "Reset": "client",
    "Server": "server",
    "ServerClosed": "client",
    "ServerPanel": "live.stage",
    "ServerStuck": "server",
    "Snapshot": "views.shown",
    "Timeline": "views.shown",
    "check": "course.exercises",
    "free_port": "server",
    "panels": "live.clients",
    "predict": "live.prediction",
    "serve_single": "servers",
    "serve_threaded": "servers",
    "side_by_side": "views.shown",
    "stacked": "views.shown",
    "start": "server",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
