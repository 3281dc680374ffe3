"""Where others find what this machine serves: its address in the room's network, a hub's proxy, lines to type."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import socket
from collections.abc import Iterator

from ..watch.events import Address, open_to, shown

EVERYWHERE = ("0.0.0.0", "::")
ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # for documentation: nobody has them


def in_the_room(host: str, both: bool = False) -> str:
    """The address by which other machines reach what has bound `host` on this one; "" if none is found. `both`: what
    has bound "::" takes IPv4, too.

    Nobody is asked: connecting a UDP socket sends nothing, and the kernel says which of its addresses it would use.
    """
    if host not in EVERYWHERE:
        return host
    families = [socket.AF_INET] * (both or host == "0.0.0.0") + [socket.AF_INET6] * (host == "::")
    return next((each for family in families for each in _candidates(family) if _reached(each)), "")


def _candidates(family: socket.AddressFamily) -> Iterator[str]:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((ELSEWHERE[family], 9))
        yield probe.getsockname()[0]
    with contextlib.suppress(OSError):  # without a route to elsewhere, by this machine's own name
        yield from (str(each[4][0]) for each in socket.getaddrinfo(socket.gethostname(), None, family))


def _reached(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return not (found.is_loopback or found.is_unspecified or (found.version == 6 and found.is_link_local))


def through_hub(port: int) -> tuple[str, list[str]] | None:
    """Behind a JupyterHub: the address of `port` through its proxy, and what to say of it. None: no hub."""
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "")
    if not prefix:
        return None
    notes = []
    if importlib.util.find_spec("jupyter_server_proxy") is None:
        notes.append(
            "This kernel runs behind a JupyterHub, and jupyter-server-proxy is not installed here: phones reach this "
            "page only if it is (pip install jupyter-server-proxy, then start the server again in the hub)."
        )
    public = os.environ.get("JUPYTERHUB_PUBLIC_URL", "").rstrip("/")
    if not public:
        public = os.environ.get("JUPYTERHUB_HOST", "").rstrip("/") + prefix.rstrip("/")
        if public.startswith("/"):
            notes.append("Put the hub's own address before it, as your browser shows it: https://hub.example.org…")
    notes.append("The hub asks each phone to log in, and lets those in that may use this server.")
    return f"{public}/proxy/{port}/", notes


def lines_to_type(address: Address | None) -> list[str]:
    """How a client without a browser connects to the server that has bound `address`, from another machine."""
    if address is None:
        return ["The server does not run."]
    if not open_to(address[0]):
        return [
            "The server listens on this machine only: for clients of other machines, start it with "
            'echo_kit.start(…, host="0.0.0.0").'
        ]
    host, port = in_the_room(address[0]), address[1]
    if not host:
        return ["This machine has no address in a network: no other machine reaches the server."]
    talk = "s.sendall(b'I am alice'); print(s.recv(1024)); s.sendall(b'hello'); print(s.recv(1024))"
    return [
        f"nc {host} {port}",
        f"python -m echo_kit client {host} {port} --name alice",
        f'python3 -c "import socket; s = socket.create_connection(({host!r}, {port})); {talk}"',
        'The first line "I am alice" gives a client that name.',
    ]


def web_address(host: str, port: int) -> str:
    """The address of the page, with brackets around an IPv6 one."""
    return f"http://{shown((host, port))}/"
