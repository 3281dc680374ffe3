"""What is borrowed from the insides of other packages: which version was read, and what is lost without it."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import Any


def answer_in_any_loop(comm: Any) -> None:
    """Let the page's messages for a widget's `comm` be taken by any loop of the kernel that is free.

    `Comm._reply_subshell_id` of ipykernel 7.4.0: the loop that sent the comm's last message, to which the page answers.
    For a widget that is made in a cell, it is the loop that runs the cells. Without this, nobody hears the page while a
    cell runs.
    """
    with contextlib.suppress(AttributeError):
        del comm._reply_subshell_id


def answer_nobody() -> None:
    """Let what this thread sends be the answer to no cell, so that `answer_in_any_loop` stays true.

    `Kernel._shell_parent` of ipykernel 7.4.0: the request that a thread answers; a thread of ours that has none answers
    that of the running cell. Without this, nobody hears the page while a cell runs, once such a thread has sent.
    """
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    parent = getattr(kernel, "_shell_parent", None)
    if isinstance(parent, ContextVar):
        parent.set({})
