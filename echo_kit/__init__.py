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
    "ClientPanel": "client_panel",
    "EchoError": "client",
    "NoReply": "client",
    "Prediction": "prediction",
    "Refused": "client",
    "Reset": "client",
    "Server": "runner",
    "ServerClosed": "client",
    "ServerPanel": "server_panel",
    "ServerStuck": "runner",
    "Snapshot": "snapshot",
    "Timeline": "timeline",
    "check": "exercises",
    "free_port": "runner",
    "panels": "client_panel",
    "predict": "prediction",
    "serve_single": "servers",
    "serve_threaded": "servers",
    "side_by_side": "snapshot",
    "stacked": "timeline",
    "start": "runner",
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
