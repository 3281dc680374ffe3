"""What changes the interpreter: one table, undone after the last stop; and the names of CPython that it relies on."""

import concurrent.futures.thread
import contextlib
import ctypes
import inspect
import os
import selectors
import socket
import sys
import sysconfig
import threading

import pytest

from echo_kit import Client, serve_single, serve_threaded, start
from echo_kit.watch import borrowed, ends, patches, stopping
from echo_kit.watch.observation import ServerStopped

LONG = 20


def test_after_the_last_stop_all_is_as_it_was(capsys):
    before, own = patches.state(), set(vars(socket.socket))
    with start(serve_single) as one, start(serve_threaded):
        changed = {name for name, value in patches.state().items() if value != before[name]}
        assert changed == {
            *(f"socket.{name}" for name in ends.TWINS),
            *(
                "socket.__init__",
                "Thread.start",
                "threading.excepthook",
                "sys.unraisablehook",
                "sys.stdout",
                "sys.stderr",
            ),
            *("Future.set_exception", "Future.result", "Future.exception"),
        }
        one.pause()
        with Client(one):
            one.settle()
    assert patches.state() == before
    assert set(vars(socket.socket)) == own
    patches.end(one.observation)  # once more ends nothing


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda: patches.program_arguments("x"), "sys.argv"),
        (lambda: patches.silent_ends(lambda died: True), "threading.excepthook"),
        (patches.turns_after_each_instruction, "sys.gettrace"),
        (patches.collector_paused, "gc.isenabled"),
        (
            lambda: patches.limits_end_soon(None),
            "Thread.join Condition.wait Condition.wait_for Semaphore.acquire Queue.get time.sleep",
        ),
    ],
)
def test_what_is_changed_for_a_moment_is_in_the_table_and_put_back(change, what, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "an argument"])
    before = patches.state()
    with contextlib.suppress(KeyError), change():
        now = patches.state()
        raise KeyError
    assert {name for name, value in now.items() if value != before[name]} == set(what.split())
    assert patches.state() == before


def test_the_table_says_why():
    assert all(each.why for each in patches.TABLE)
    assert {"gc.isenabled", "sys.argv", "socket.sendall", "Thread.start"} < set(patches.state())


def test_what_somebody_else_has_patched_since_is_left_alone(monkeypatch):
    def other(self, *args):
        raise AssertionError

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # puts it back
    with start(serve_single):
        threading.excepthook = other
    assert threading.excepthook is other


OURS = (socket.socket, concurrent.futures.Future, threading)


@pytest.mark.parametrize("paused", [False, True])
def test_replaced_functions_keep_their_names_and_documentation(paused):
    plain = {each: getattr(each.owner, each.name) for each in patches.TABLE if each.owner in OURS}
    plain[threading.Thread] = threading.Thread.start
    with start(serve_single) as server:
        if paused:
            server.pause()
        for each, method in plain.items():
            now = threading.Thread.start if each is threading.Thread else getattr(each.owner, each.name)
            if each is threading.Thread or each.owner is not threading:
                assert now is not method
                assert (now.__name__, now.__doc__) == (method.__name__, method.__doc__)
                assert inspect.unwrap(now) is method
        assert threading.excepthook.__doc__ == threading.__excepthook__.__doc__
        assert sys.unraisablehook.__name__ == "unraisablehook"


# -- names of CPython that are not public ------------------------------------------------------------------------------


def test_the_threads_that_threading_knows():
    assert threading._active[threading.get_ident()] is threading.current_thread() is borrowed.calling_thread()


def test_whether_there_is_an_interpreter_lock():
    may_be_without = sysconfig.get_config_var("Py_GIL_DISABLED") and os.environ.get("PYTHON_GIL") != "1"
    assert borrowed.free_threaded is bool(may_be_without)


def test_the_workers_of_pools():
    assert concurrent.futures.thread._threads_queues is borrowed.pool_workers
    assert concurrent.futures.thread._worker.__code__ is borrowed.idle_worker
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(threading.current_thread).result(LONG) in borrowed.pool_workers


def test_what_runs_before_the_interpreter_waits_for_threads():
    assert callable(threading._register_atexit)


def test_an_exception_can_be_thrown():
    assert callable(ctypes.pythonapi.PyThreadState_SetAsyncExc)

    def throw():
        borrowed.raise_in(threading.get_ident(), ServerStopped)
        for _ in range(1000):
            len("")

    with pytest.raises(ServerStopped):
        throw()


def test_an_exception_that_has_not_come_is_taken_back():
    caught, go_on = [], threading.Lock()

    def wait():
        try:
            go_on.acquire()  # no instruction of Python's runs here
            go_on.release()
        except ServerStopped as stopped:
            caught.append(stopped)

    with go_on:
        thread = threading.Thread(target=wait)
        thread.start()
        while sys._current_frames()[thread.ident].f_code is not wait.__code__:
            assert thread.is_alive()
        borrowed.raise_in(thread.ident, ServerStopped)
        borrowed.raise_in(thread.ident, None)
    thread.join(LONG)
    assert caught == []
    stopping._take_one()  # or no thread with a trace function gets on: see there


def test_where_a_thread_waits_in_the_standard_library():
    release = threading.Event()
    thread = threading.Thread(target=release.wait, args=(LONG,))
    thread.start()
    while sys._current_frames()[thread.ident].f_code not in borrowed.waits:
        assert thread.is_alive()
    release.set()
    thread.join(LONG)
    with selectors.DefaultSelector() as selector:
        assert selector.select.__func__.__code__ in borrowed.waits


def test_what_a_daemon_starts_is_one_unless_it_seems_to_be_none():
    """`_daemonic`: what a thread hands down to those that it starts."""
    seen = []

    def run():
        seen.append(threading.Thread().daemon)
        borrowed.seems_no_daemon(threading.current_thread())
        seen.append(threading.Thread().daemon)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONG)
    assert seen == [True, False]
