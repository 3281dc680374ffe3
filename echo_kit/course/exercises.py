"""`check`: from a student's function to the report; and `EXERCISES`, one row for each exercise of the notebooks.

The function becomes a server, and clients try it (`trial.py`) as the exercise requires (`part1.py`, `part2.py`,
`part3.py`, `surprises.py`); what they see becomes a `Report`. Nothing that a server does can hold a check up: every
wait has a bound, the number of its threads has one, and in the end it is stopped.
"""

from __future__ import annotations

import contextlib
import inspect
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..server import ServerStuck, start
from ..views.code import STANDS, CodeView
from ..views.snapshot import Snapshot
from ..watch.frames import forget_variables, student_line
from ..watch.patches import exit_as_in_python, no_default_timeout
from ..watch.reasons import PRINTED
from ..watch.stopping import TO_BE_RID
from ..watch.text import cut, visible
from . import part1, part2, part3, shared, surprises
from .progress import Progress, keep as keep_progress, kept
from .report import LINE, LONGEST, NotSolved, NotYet, Report, died_of
from .seems import PART
from .serving import a_thread_each, as_it_is, check_host, not_at_all, one_at_a_time
from .terminal import answered_in_pieces
from .trial import PATIENCE, Serve, Trial

THREADS = 100  # that a server on trial may have
EVENTS = 10_000  # the newest, that its views know: a server that never waits makes thousands a second
ORDER = "three calls, in their order, then a server waits for clients{} || bind, listen, accept{}"
CALL_AT = 3  # failures of an exercise in a row, and the hint names not only the idea but the call

failures: dict[str, int] = {}  # of each exercise in a row, in this kernel

SERVER, HANDLER, CLIENT = ("host", "port"), ("conn", "addr"), ("sock", "data")  # what students' functions take


@dataclass(frozen=True)
class Exercise:
    """One exercise, and what it asks of the student's function.

    One of your own needs no change of this package: CONTRIBUTING.md has a whole example.
    """

    number: str  # one of your own is called differently from those below, like "A.1"
    title: str  # as in the notebook
    takes: tuple[str, ...]  # the names of its parameters
    serve: Callable[[Callable[..., Any], Trial], Serve]  # makes a server, serve(host, port), of it
    requires: Callable[[Trial], None]  # what is tried, and what must happen
    shows: Callable[[Trial], Snapshot | CodeView] = lambda trial: trial.server.snapshot()  # when it does not
    steps: int = 0  # that a right answer passes; 0: not known


def _program(trial: Trial) -> Any:
    return trial.view


def _server(trial: Trial) -> CodeView:
    return trial.server.where()


EXERCISES = {
    each.number: each
    for each in (
        Exercise("1.1", "From memory", SERVER, as_it_is, part1.from_memory, steps=12),
        Exercise("1.2", "Shout", HANDLER, one_at_a_time, part1.shout, steps=12),
        Exercise("1.3", "A greeting", HANDLER, one_at_a_time, part1.greeting, steps=10),
        Exercise("1.4", "Counting bytes", HANDLER, one_at_a_time, part1.count_bytes, steps=11),
        Exercise("1.5", "Lines", HANDLER, one_at_a_time, part1.lines, steps=16),
        Exercise("1.6", "Make them wait", ("server",), not_at_all, part1.make_them_wait, steps=4),
        Exercise("1.7", "Patience", HANDLER, one_at_a_time, part1.patience, steps=8),
        Exercise("1.8", "Hard to break", SERVER, as_it_is, part1.hard_to_break, steps=14),
        Exercise("1.9", "Write the client", (), answered_in_pieces, part1.write_the_client, _program, steps=12),
        Exercise("2.1", "A thread each", SERVER, as_it_is, part2.a_thread_for_each, steps=8),
        Exercise("2.2", "Who serves me?", HANDLER, a_thread_each, shared.who_serves_me, steps=7),
        Exercise("2.3", "Counting together", HANDLER, a_thread_each, shared.count_together, steps=9),
        Exercise("2.4", "Who is there?", HANDLER, a_thread_each, shared.who_is_there, steps=18),
        Exercise("2.5", "At most three", SERVER, as_it_is, part2.at_most_three, steps=8),
        Exercise("2.6", "A pool", SERVER, as_it_is, part2.pool, steps=6),
        Exercise("2.7", "A clean end", SERVER, as_it_is, part2.clean_end, steps=5),
        Exercise("3.1", "An echo with selectors", SERVER, as_it_is, part3.selectors_echo, steps=16),
        Exercise("3.2", "Say no politely", SERVER, as_it_is, part3.refuse_politely, steps=9),
        Exercise("3.3", "Who makes everybody wait?", ("calls",), part3.one_loop, part3.find_the_culprit, steps=4),
        Exercise("S.1", "A clean goodbye", HANDLER, one_at_a_time, surprises.say_goodbye, steps=7),
        Exercise("S.2", "Much at once", CLIENT, surprises.small_buffers, surprises.much_at_once, _server, steps=3),
    )
}


def check(
    number: str | Exercise, function: Callable[..., Any], *, strict: bool = False, seed: int | None = None
) -> Report:
    """Try a solution of an exercise, and say what is right and what is not yet.

    number    that of the exercise, as in the notebook, like "1.2"; or an `Exercise` of your own
    function  the student's function; which parameters it takes, the exercise says
    strict    raise NotSolved, with the report as its message, if the solution is not right yet: for automatic marks
    seed      another one gives other messages, where the exercise makes them by chance

    The server runs in the background against real clients, with a bound on every wait, and is stopped in the end. What
    the function does wrong is in the report, never an exception. Raises ValueError for a number that no exercise has.
    """
    if isinstance(number, Exercise):
        exercise = number
    elif isinstance(number, str) and number in EXERCISES:
        exercise = EXERCISES[number]
    else:
        quotes = "" if isinstance(number, str) else ". Put the number in quotes"
        raise ValueError(f"there is no exercise {number!r}; there are: {', '.join(EXERCISES)}{quotes}")
    report = _report(exercise, function, seed or 0)
    if strict and not report.passed:
        raise NotSolved(report)
    return report


def progress(keep: bool | None = None) -> Progress:
    """What you have tried and solved, as a table, and the file in which it is kept.

    keep  False deletes that file, and keeps nothing until the kernel is restarted; True keeps it again
    """
    return kept({each.number: each.title for each in EXERCISES.values()}, keep)


def _report(exercise: Exercise, function: Callable[..., Any], seed: int) -> Report:
    number, title, steps = exercise.number, exercise.title, exercise.steps
    problem = _unlike(exercise, function)
    if problem is not None:
        return Report(number, title, (), "your function is called", problem, known=steps)
    trial, view = Trial(function, seed=seed), None
    with no_default_timeout(), exit_as_in_python(getattr(function, "__globals__", {})):
        try:
            _begin(exercise, trial)
            exercise.requires(trial)
            trial.expects("no thread of your server ends with an error", trial.server.error is None, "one did", "")
        except NotYet as found:
            problem = found
            view = exercise.shows(trial) if trial.server is not None else None
        except Exception as error:  # the check itself uses what a student's code may have replaced
            if EXERCISES.get(number) is not exercise:  # more likely it is wrong itself: its author needs the traceback
                raise
            got = f"the check ended with {type(error).__name__}: {cut(visible(str(error)), LONGEST)}"
            problem = NotYet("your server can be tried", got, "does your code change what all code uses?")
        finally:
            stuck = _end(trial)
    if problem is None:
        trial.tries("the server is stopped")
        if stuck is not None:
            hint = "a loop that goes on after an error, or waits without a limit"
            problem = NotYet("the server ends", _said(trial, stuck), hint)
            view = exercise.shows(trial)
        else:
            trial.done.append(trial.trying)
    elif stuck is not None:
        problem.got += f"\nAnd then it could not be ended: {cut(_said(trial, stuck), LONGEST)}"
    failures[number] = 0 if problem is None else failures.get(number, 0) + 1
    if problem is not None:
        idea, *call = problem.hint.split(" || ")
        problem.hint = "\n".join([idea, *call] if failures[number] >= CALL_AT else [idea])
    report = Report(number, title, tuple(trial.done), trial.trying, problem, view, steps)
    return replace(report, note=keep_progress(number, title, report.first_wrong))


def _unlike(exercise: Exercise, function: Any) -> NotYet | None:
    """How the function differs from what the exercise asks for, as far as that can be seen before it is called."""
    wanted = f"({', '.join(exercise.takes)})"
    if not callable(function):
        given = f"check() was given {visible(reprlib.repr(function))}"  # reprlib: a student's own __repr__ may fail
        call = f'check("{exercise.number}", …)' if exercise.number in EXERCISES else "check(…)"
        hint = f"the last line of the cell: {call} takes the name of your function, without brackets"
        return NotYet(f"a function {wanted}", given, hint)
    name = getattr(function, "__name__", "your function")
    for is_one, what, hint in (
        (inspect.iscoroutinefunction, "async def makes a coroutine of it", "def, not async def"),
        (inspect.isgeneratorfunction, "yield makes a generator of it", "sendall and return, not yield"),
    ):
        if is_one(function):
            return NotYet(f"def {name}{wanted}", f"{what}: a call of {name} runs none of its lines", hint)
    try:
        signature = inspect.signature(function)
        signature.bind(*exercise.takes)
        names = tuple(signature.parameters)
        if names == exercise.takes or names not in (SERVER, HANDLER, CLIENT):
            return None
        takes = f"({', '.join(names)})"  # those of another exercise: the error would come deep in a socket call
    except (TypeError, ValueError):
        takes = "something else"
    return NotYet(f"def {name}{wanted}", f"{name} takes {takes}", f"{LINE}def {name}")


def _begin(exercise: Exercise, trial: Trial) -> None:
    name = getattr(trial.function, "__name__", "your function")
    expected = "your server starts to listen"
    serve = exercise.serve(trial.function, trial)
    try:
        title = f"check of {name}"
        trial.server = start(
            serve, name=title, host=check_host(), timeout=PATIENCE, most_threads=THREADS, most_events=EVENTS
        )
    except (KeyboardInterrupt, NotYet):
        raise
    except ServerStuck as stuck:
        raise NotYet(expected, str(stuck), ORDER.format("", "")) from None
    except BaseException as failed:
        error = failed.__cause__ if isinstance(failed.__cause__, SystemExit) else failed
        if isinstance(error, RuntimeError):
            got = f"{name} returned at once" if trial.returned else str(error)
            hint = "a server never returns: it needs a loop || after listen, a loop around accept"
            raise NotYet(expected, got, hint) from None
        line = student_line(error)
        forget_variables(error)  # the report keeps the error, and with it a socket that was left open
        reason = [each for each in getattr(error, "__notes__", ())[:1] if not each.startswith(PRINTED)]
        hint = "\n".join([*([f"{LINE}{cut(line, LONGEST)}"] if line else []), *reason])
        raise NotYet(expected, died_of(error), hint) from None
    trial.server.observation.most_sent = PART
    trial.settle()
    hint = ORDER.format(", in a loop", ", and a loop around accept")
    trial.expects("your server waits for clients", trial.server.running, "it has ended before one came", hint)
    bound = trial.server.observation.address or ()
    for what, given, taken in zip(("host", "port"), trial.called_with, bound, strict=False):
        expected = f"your server listens on the {what} that it is given, here {given}"
        trial.expects(expected, taken == given, f"it listens on {taken}", "the line with bind")


def _said(trial: Trial, stuck: ServerStuck) -> str:
    """What has not ended. A thread that waits is in nobody's way: the next check has a server of its own."""
    stand = [mark.words for _, mark in trial.server.where().marks if mark.kind == STANDS]
    waits = all(each.startswith("waits") for each in stand)
    return str(stuck).replace(f" {TO_BE_RID}", "") if waits else str(stuck)


def _end(trial: Trial) -> ServerStuck | None:
    for guest in reversed(trial.guests):  # or those that wait would be served while the server ends
        guest.leaves()
    with contextlib.suppress(OSError):
        trial.at_the_end.close()
    return trial.stop() if trial.server is not None else None
