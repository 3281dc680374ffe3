"""Who holds a port that cannot be bound: a server or a variable of this kernel, another process, or the system itself.

This kernel's own sockets are found among Python's objects. What else holds the port stands in Linux's /proc/net/tcp,
with a number (inode) that the process has among its file descriptors, and of a TIME_WAIT with the time that is left.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from .events import Address, plain_address, shown
from .observation import observed
from .text import cut, listed, visible

LISTEN, TIME_WAIT = 0x0A, 0x06  # include/net/tcp_states.h
TICKS = 100  # in a second, for all that /proc shows (USER_HZ)
COMMAND = 60  # characters of a command line


class Row(NamedTuple):
    """A line of /proc/net/tcp."""

    here: Address
    state: int
    seconds: float  # until its timer ends
    inode: int


def holder(address: Address) -> str:
    """One sentence or two: who holds the port, and what to do. Costs a walk through all objects: for errors only."""
    mine = [sock for sock in _sockets() if _meet(_own_address(sock), address)]
    mine.sort(key=_connected)  # those that listen first
    rows = [row for row in _rows() if _meet(row.here, address)]
    where, other = f"port {address[1]}", "use another port"
    if mine:
        return f"{where} is held by {_own_words(mine[0])}, or {other}."
    inodes = {row.inode: row for row in sorted(rows, key=lambda row: row.state != LISTEN) if row.inode}
    processes = [each for inode in inodes for each in _processes(inode)]
    if processes:
        return f"{where} is held by {listed(processes[:3])}: stop it, or {other}."
    if inodes:
        return f"{where} is held by a process of another user, or one that is just ending; no name is told: {other}."
    left = max((row.seconds for row in rows if row.state == TIME_WAIT), default=0.0)
    if left:
        return (
            f"no program holds {where}: the system keeps it for {left:.0f} s more (TIME_WAIT), since the server side "
            f"closed a connection first. Wait, {other}, or set SO_REUSEADDR before bind()."
        )
    if sys.platform == "linux":
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
    what = "a connection" if _connected(sock) else "a socket"
    if name:
        return f"{what} of this kernel that is still open, the variable {name}{_cell(name)}: call {name}.close()"
    number = sock.fileno()
    return (
        f"{what} of this kernel that no variable of the notebook names (file descriptor {number}): restart the kernel"
    )


def _variable(sock: socket.socket) -> str:
    """What the notebook calls it: `door`, or `httpd.socket` for an attribute of something that has a name."""
    names: dict[str, Any] = {name: value for name, value in list(vars(_main()).items()) if not name.startswith("_")}
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
    cells: Any = getattr(_main(), "In", ())
    name = name.partition(".")[0]
    for number in range(len(cells) - 1, 0, -1):
        with contextlib.suppress(SyntaxError, ValueError, TypeError):  # a cell with a magic command
            names = (each for each in ast.walk(ast.parse(cells[number])) if isinstance(each, ast.Name))
            if any(each.id == name and isinstance(each.ctx, ast.Store) for each in names):
                return f" of cell [{number}]"
    return ""


def _main() -> Any:
    return sys.modules["__main__"]


# -- in Linux --------------------------------------------------------------------------------------------------------


def _rows() -> Iterator[Row]:
    for name, size in (("tcp", 4), ("tcp6", 16)):
        with contextlib.suppress(OSError), open(f"/proc/net/{name}") as file:
            for line in file.read().splitlines()[1:]:
                _, here, _, state, _, timer, _, _, _, inode = line.split()[:10]
                host, _, port = here.partition(":")
                words = [bytes.fromhex(host[at : at + 8]) for at in range(0, 2 * size, 8)]
                raw = b"".join(each[::-1] if sys.byteorder == "little" else each for each in words)
                family = socket.AF_INET if size == 4 else socket.AF_INET6
                address = plain_address((socket.inet_ntop(family, raw), int(port, 16)))
                yield Row(address, int(state, 16), int(timer.partition(":")[2], 16) / TICKS, int(inode))


def _processes(inode: int) -> Iterator[str]:
    """The processes that have the socket open, as far as this user may see them."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            numbers = os.listdir(f"/proc/{process}/fd")
            links = (_link(f"/proc/{process}/fd/{number}") for number in numbers)
            if f"socket:[{inode}]" in links:
                yield _named(process)


def _link(path: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(path)
    return ""  # closed meanwhile


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
