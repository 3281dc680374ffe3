"""The servers that the faults are tried on, each in a process of its own: it can be held, limited and killed."""

import re
from pathlib import Path

from echo_kit import free_port

from ..programs import serving

HERE = Path(__file__).parent
CLASSIC, RUN = HERE / "classic.py", HERE / "run.py"
PATIENCE = 4  # seconds after which a wait is a hang, where one may come


def classic(name):
    """The classic "server" or "server_thread", as a program."""
    return serving(name, port=free_port(), python=(CLASSIC,))


def in_a_process(way, name, idle=60):
    """A finished server as a "command", one that is "started" by echo_kit, or a "plain" one: see run.py."""
    return serving(name, port=free_port(), python=(RUN, idle, way))


def died(program):
    """Whether one of its threads has ended with a traceback. (What Python ignores does not count.)"""
    said = re.sub(r"Exception ignored in.*\n *Traceback", "", program.out + program.complaints)
    return re.search(r"^ *(Exception in thread|Traceback) ", said, re.M) is not None
