"""Who holds a port that cannot be bound: a server or a variable of this kernel, another process, or the system itself.

This kernel's own sockets are found among Python's objects. Linux tells what else holds the port, with a number
(inode) that the process has among its file descriptors, and of a TIME_WAIT with the time that is left.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import ipaddress
import itertools
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

from . import kernel
from .events import Address, plain_address, shown
from .observation import observed
from .text import cut, listed, visible

COMMAND = 60  # characters of a command line


def holder(address: Address) -> str:
    """One sentence or two: who holds the port, and what to do. Costs a walk through all objects: for errors only."""
    mine = [sock for sock in _sockets() if _meet(_own_address(sock), address)]
    mine.sort(key=_connected)  # those that listen first
    where, other = f"port {address[1]}", "use another port"
    if mine:
        return f"{where} is held by {_own_words(mine[0])}, or {other}."
    known = _known(address)
    inodes = dict.fromkeys(each.inode for each in known or () if each.inode)
    processes = []
    for inode, process in itertools.product(inodes, filter(str.isdigit, os.listdir("/proc") if inodes else ())):
        with contextlib.suppress(OSError):  # it has ended
            processes += [_named(process)] if kernel.descriptors(process, inode) else []
    if processes:
        return f"{where} is held by {listed(processes[:3])}: stop it, or {other}."
    if inodes:
        return f"{where} is held by a process of another user, or one that is just ending; no name is told: {other}."
    if left := max((each.left for each in known or () if each.state == kernel.TIME_WAIT), default=0.0):
        return (
            f"no program holds {where}: the system keeps it for {left:.0f} s more (TIME_WAIT), since the server side "
            f"closed a connection first. Wait, {other}, or set SO_REUSEADDR before bind()."
        )
    if known is not None:
        return f"{where} is held by a socket that does not listen, and the system does not say whose: {other}."
    ask = f"netstat -ano | findstr :{address[1]}" if sys.platform == "win32" else f"lsof -nP -iTCP:{address[1]}"
    return (
        f"{where} is held by another program, or for up to a minute by the system (TIME_WAIT); {ask} in a terminal "
        f"says more: stop it, or {other}."
    )


def _meet(here: Address, wanted: Address) -> bool:
    """Whether both cannot be bound at once: the same port, and the same host, or one of them stands for all hosts."""
    if not here or here[1] != wanted[1]:
        return False
    with contextlib.suppress(ValueError):
        hosts = [ipaddress.ip_address(plain_address(each)[0]) for each in (here, wanted)]
        return hosts[0] == hosts[1] or any(each.is_unspecified for each in hosts)
    return True  # a host that has a name: the error says that they meet


# -- in this kernel --------------------------------------------------------------------------------------------------


def _sockets() -> Iterator[socket.socket]:
    # type(), since isinstance() asks an object for its __class__, which may run code of somebody else's
    return (each for each in gc.get_objects() if issubclass(type(each), socket.socket))


def _own_address(sock: socket.socket) -> Address:
    with contextlib.suppress(Exception):  # it is closed, or a class of somebody else's
        address = sock.getsockname()
        return address if isinstance(address, tuple) and sock.type == socket.SOCK_STREAM else ()
    return ()


def _connected(sock: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(sock.getpeername())
    return False


def _own_words(sock: socket.socket) -> str:
    """Whose it is in this kernel, and how to be rid of it."""
    seen = observed.get(id(sock))
    if seen is not None:
        name = cut(visible(seen.observation.name), COMMAND)
        return f"the server {name} of this kernel, at {shown(_own_address(sock))}: call stop() of it"
    name = _variable(sock)
    what = f"{'a connection' if _connected(sock) else 'a socket'} of this kernel that"
    if name:
        return f"{what} is still open, the variable {name}{_cell(name)}: call {name}.close()"
    return f"{what} no variable of the notebook names (file descriptor {sock.fileno()}): restart the kernel"


def _variable(sock: socket.socket) -> str:
    """What the notebook calls it: `door`, or `httpd.socket` for an attribute of something that has a name."""
    every = list(vars(sys.modules["__main__"]).items())
    names: dict[str, Any] = {name: value for name, value in every if not name.startswith("_")}
    for name, value in names.items():
        if value is sock:
            return name
    for name, value in names.items():
        for attribute, inner in list(getattr(value, "__dict__", {}).items()) if type(value) is not type(sys) else ():
            if inner is sock:
                return f"{name}.{attribute}"
    return ""


def _cell(name: str) -> str:
    """In which cell the variable got its value: the last one that was run and sets that name, as IPython keeps them."""
    cells: Any = getattr(sys.modules["__main__"], "In", ())
    name = name.partition(".")[0]
    for number in range(len(cells) - 1, 0, -1):
        with contextlib.suppress(SyntaxError, ValueError, TypeError):  # a cell with a magic command
            names = (each for each in ast.walk(ast.parse(cells[number])) if isinstance(each, ast.Name))
            if any(each.id == name and isinstance(each.ctx, ast.Store) for each in names):
                return f" of cell [{number}]"
    return ""


# -- in Linux --------------------------------------------------------------------------------------------------------


def _known(address: Address) -> list[kernel.TcpSocket] | None:
    """The sockets at that address, those that listen first; None where the kernel does not tell."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, ValueError, struct.error):  # a container forbids it, or the port is no number
        families = (socket.AF_INET, socket.AF_INET6)
        found = [each for family in families for each in kernel.tcp_sockets(family, kernel.ALL_STATES, address[1])]
        return sorted(
            (each for each in found if _meet(each.here, address)), key=lambda each: each.state != kernel.LISTEN
        )
    return None


def _named(process: str) -> str:
    if int(process) == os.getpid():
        return f"this kernel itself (process {process})"
    with open(f"/proc/{process}/stat") as file:
        started_here = int(file.read().rpartition(")")[2].split()[1]) == os.getpid()
    command = _command(process)
    if started_here and command == _command("self"):
        return f"a child process of this kernel (process {process})"
    if any("ipykernel" in each for each in command):
        return f"the kernel of another notebook (process {process})"
    first, *rest = command
    name = cut(visible(" ".join([os.path.basename(first), *rest])), COMMAND)
    return f"{name} (process {process}{', which this kernel has started' if started_here else ''})"


def _command(process: str) -> list[str]:
    with open(f"/proc/{process}/cmdline", "rb") as file:
        return file.read().rstrip(b"\0").decode(errors="backslashreplace").split("\0")
