"""A student's function that is called, and not a server: an experiment, or a client."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

from ..watch.frames import source_line, student_frame
from .report import died_of
from .trial import MOMENT, Trial


def result_of(trial: Trial, *arguments: Any, hint: str, idle: str = "", still: float, most: float) -> Any:
    """Call the student's function in a thread of its own, since it may never return, and return its result.

    The wait ends after `most` seconds, or when the server has neither read nor sent a byte for `still` seconds.
    `hint` is the hint then, or `idle` where the server, too, waits for the function.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(trial.function(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    moved, looks, began = -1, 0, time.monotonic()
    while thread.is_alive() and looks * MOMENT < still and time.monotonic() - began < most:
        thread.join(MOMENT)
        looks += 1  # and not the time: on a busy machine the function, too, gets its turns less often
        now = sum(each.received + each.sent for each in trial.server.observation.accepted.values())
        if now != moved:
            moved, looks = now, 0
    if thread.is_alive():
        frame = student_frame(thread.ident)
        got = f"it still stands at  {source_line(frame) if frame is not None else ''}"
        hint = idle if idle and trial.nothing_will_come() else hint
    elif (error := outcome.exception()) is not None:
        got = f"it{died_of(error).removeprefix('your code')}"
        hint = hint if isinstance(error, OSError) else ""
    else:
        return outcome.result()
    raise trial.not_yet("your function returns", got, hint)
