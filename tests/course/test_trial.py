"""Whatever a student's code does: the check returns, says something true, and the next check works."""

import contextlib
import gc
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

import echo_kit
from echo_kit import server as runner
from echo_kit.course.trial import RESTLESS, Guest, Trial

from .right_answers import from_memory, shout
from .wrong_answers import always_asks_for_room

BOUND = 15  # seconds that a check takes at most, whatever the server does
LONG = 20  # seconds after which a test gives up

release = threading.Event()  # what a thread waits for that no stop can end
lock = threading.Lock()

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def next_check_works(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # of threads that end after the test
    release.clear()
    before = set(threading.enumerate())
    yield
    report = echo_kit.check("1.1", from_memory)  # while what cannot be ended is still there
    assert report.passed, report
    release.set()
    if lock.locked():
        lock.release()
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG)
        assert not thread.is_alive(), thread


def listening(host, port):
    return socket.create_server((host, port))


# -- servers that misbehave --------------------------------------------------------------------------------------------


def hangs_before_it_listens(host, port):
    release.wait()


def computes_before_it_listens(host, port):
    while True:
        pass


def never_accepts(host, port):
    with listening(host, port):
        while True:
            pass


def computes_in_the_accept_loop(host, port):
    with listening(host, port) as s:
        while True:
            s.accept()
            while True:
                pass


def computes_in_a_handler(host, port):
    def handle(conn):
        while True:
            pass

    with listening(host, port) as s:
        while True:
            threading.Thread(target=handle, args=(s.accept()[0],)).start()


def sleeps_in_a_handler(host, port):
    with listening(host, port) as s:
        while True:
            conn, _ = s.accept()
            conn.recv(10)
            release.wait(60)  # as time.sleep(60), but this test can end it


def forgets_to_release(host, port):
    with listening(host, port) as s:
        while not release.is_set():
            conn, _ = s.accept()
            lock.acquire()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data)


def asks_for_input(host, port):
    with listening(host, port) as s:
        s.accept()
        input("Go on?")


def prints_for_ever(host, port):
    with listening(host, port) as s:
        s.accept()
        while True:
            print("still here", "x" * 100)


def starts_threads_for_ever(host, port):
    with listening(host, port) as s:
        s.accept()
        while True:
            threading.Thread(target=release.wait).start()


def starts_threads_that_start_threads(host, port):
    def fork():
        while True:
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=fork).start()

    with listening(host, port) as s:
        s.accept()
        fork()


def closes_the_listener_in_the_handler(host, port):
    with listening(host, port) as s:
        while True:
            with s.accept()[0] as conn:
                conn.sendall(conn.recv(1024))
                s.close()


def closes_all_sockets(host, port):
    with listening(host, port) as s:
        s.accept()
        for each in gc.get_objects():
            if isinstance(each, socket.socket):
                each.close()


def closes_the_descriptor(host, port):
    with listening(host, port) as s:
        conn, _ = s.accept()
        os.close(conn.detach())
        conn.recv(10)


def exits(host, port):
    with listening(host, port) as s:
        s.accept()
        sys.exit("bye")


def interrupts(host, port):
    with listening(host, port) as s:
        s.accept()
        raise KeyboardInterrupt


def raises_the_base(host, port):
    with listening(host, port) as s:
        s.accept()
        raise BaseException("all of it")


def exits_before_it_listens(host, port):
    sys.exit(3)


def comes_back(host, port):
    pass


def comes_back_after_listen(host, port):
    listening(host, port).close()


def listens_twice(host, port):
    with listening(host, port) as s:
        s.listen()
        s.listen(3)
        s.accept()[0].close()


def takes_another_port(host, port):
    with listening(host, 0) as s:
        while True:
            s.accept()


def sends_for_ever(host, port):
    with listening(host, port) as s:
        conn, _ = s.accept()
        while True:
            conn.sendall(b"x" * 100_000)


def sends_megabytes(host, port):
    with listening(host, port) as s:
        conn, _ = s.accept()
        conn.recv(10)
        conn.sendall(b"<b>" * 1_000_000)
        conn.recv(10)


def sends_markup(host, port):
    with listening(host, port) as s:
        with s.accept()[0] as conn:
            conn.recv(10)
            conn.sendall(b"<script>alert(1)</script>\x1b[31m\x00&amp;\xff")


def raises_markup(host, port):
    with listening(host, port) as s:
        s.accept()
        raise ValueError("<script>\x1b[31m" + "x" * 100_000)


def never_reads(host, port):
    with listening(host, port) as s:
        kept = []
        while True:
            kept.append(s.accept())


def resets(host, port):
    with listening(host, port) as s:
        while True:
            conn, _ = s.accept()
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, checks_reset)
            conn.close()


checks_reset = b"\1\0\0\0\0\0\0\0" if sys.platform != "win32" else b"\1\0\0\0"


def traces(host, port):
    sys.settrace(lambda *_: None)
    with listening(host, port) as s:
        s.accept()[0].close()


def limits_all_sockets(host, port):
    socket.setdefaulttimeout(0.0001)
    from_memory(host, port)


BROKEN = {  # what the report must say
    hangs_before_it_listens: "did not listen within 3 s; it stood at line",
    computes_before_it_listens: "did not listen within 3 s; it stood at line",
    never_accepts: "nothing came to alice",
    computes_in_the_accept_loop: "your server is busy all the time: it never waits",
    computes_in_a_handler: "your server is busy all the time: it never waits",
    sleeps_in_a_handler: "nothing came to alice",
    forgets_to_release: "nothing came to bob",
    asks_for_input: "your code ended with",
    prints_for_ever: "your server is busy all the time: it never waits",
    starts_threads_for_ever: "your code ended with RuntimeError: can't start new thread",
    starts_threads_that_start_threads: "your server is busy all the time",
    closes_the_listener_in_the_handler: "your code ended with OSError: [Errno",
    closes_all_sockets: "the server hung up on alice",
    closes_the_descriptor: "your code ended with OSError: [Errno",
    exits: "the server hung up on alice",
    interrupts: "the server hung up on alice",
    raises_the_base: "your code ended with BaseException: all of it",
    exits_before_it_listens: "your code ended with SystemExit: 3",
    comes_back: "comes_back returned at once",
    comes_back_after_listen: "it has ended before one came",
    listens_twice: "the server hung up on alice",
    takes_another_port: "it listens on",
    sends_for_ever: 'alice got "xxx',
    sends_megabytes: 'alice got "<b><b>',
    sends_markup: 'alice got "<script>',
    raises_markup: "ValueError: <script>\\x1b[31mxxx",
    never_reads: "nothing came to alice",
    resets: "the server hung up on alice",
    traces: "the server hung up on alice",
    limits_all_sockets: "your code ended with TimeoutError: timed out",
}
SLOW = {  # seconds each: the check waits for what never comes, or the server never rests
    hangs_before_it_listens,
    computes_before_it_listens,
    never_accepts,
    computes_in_the_accept_loop,
    computes_in_a_handler,
    sleeps_in_a_handler,
    forgets_to_release,
    prints_for_ever,
    starts_threads_for_ever,
    starts_threads_that_start_threads,
}


@pytest.mark.parametrize(
    "serve",
    [pytest.param(each, marks=pytest.mark.soak if each in SLOW else ()) for each in BROKEN],
    ids=lambda serve: serve.__name__,
)
def test_no_server_breaks_the_check(serve, capsys):
    began = time.perf_counter()
    report = echo_kit.check("1.1", serve)
    took = time.perf_counter() - began
    assert not report.passed
    assert BROKEN[serve] in report.problem.got, report
    if serve is forgets_to_release:  # two things are wrong then
        stuck = rf"\nAnd then it could not be ended: .* stands at line \d+ of {serve.__name__}: "
        assert re.search(stuck, report.problem.got), report
    assert took < BOUND, took
    assert len(str(report)) < 3000
    assert len(report._repr_html_()) < 6000
    assert "<script>" not in report._repr_html_()
    assert "\x1b" not in str(report) + report._repr_html_()
    assert socket.getdefaulttimeout() is None
    with capsys.disabled():
        print(f"{serve.__name__} {took:.1f} s", end="  ")


# -- what is no function, or another one -------------------------------------------------------------------------------


class Shouter:
    pass


class Shy:
    def __repr__(self):
        raise ValueError


async def waits_for_nobody(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.upper())


def yields_it(conn, addr):
    while data := conn.recv(1024):
        yield data.upper()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "check() was given None"),
        ("shout", "check() was given 'shout'"),
        (42, "check() was given 42"),
        (Shouter(), "check() was given <"),
        (Shy(), "check() was given <Shy instance at "),
        ("\x1b" * 1000, "check() was given '\\x1b"),
        (Shouter, "Shouter takes something else"),
        (lambda conn: None, "<lambda> takes something else"),
        (lambda conn, addr, more: None, "<lambda> takes something else"),
        (waits_for_nobody, "async def makes a coroutine of it: a call of waits_for_nobody runs none of its lines"),
        (yields_it, "yield makes a generator of it: a call of yields_it runs none of its lines"),
    ],
)
def test_what_is_no_such_function(given, says):
    report = echo_kit.check("1.2", given)
    assert not report.passed
    assert says in report.problem.got, report
    assert len(str(report)) < 1000
    assert "\x1b" not in str(report)


def test_a_function_with_more_that_is_given_by_itself(capsys):
    assert echo_kit.check("1.2", lambda conn, addr, size=1024, *more, loud=True: shout(conn, addr)).passed


# -- the world around --------------------------------------------------------------------------------------------------


def test_a_function_that_deletes_a_global():
    names = {"socket": socket}
    lines = ["global socket", "s = socket.create_server((host, port))", "s.accept()", "del socket", "socket.close()"]
    exec("def serve(host, port):\n    " + "\n    ".join(lines), names)
    report = echo_kit.check("1.1", names["serve"])
    assert "your code ended with NameError: name 'socket' is not defined" in report.problem.got, report


def test_a_socket_class_of_its_own(monkeypatch):
    class Socket(socket.socket):
        def recv(self, size):
            raise LookupError("no such thing")

    def serve(host, port):
        monkeypatch.setattr(socket, "socket", Socket)
        from_memory(host, port)

    report = echo_kit.check("1.1", serve)
    monkeypatch.undo()
    assert "LookupError: no such thing" in report.problem.got, report


def test_a_server_of_the_same_name_goes_on(capsys):
    with echo_kit.start(from_memory) as server, echo_kit.Client(server, "zoe") as zoe:
        assert echo_kit.check("1.1", from_memory).passed
        zoe.send("still there?")
        assert zoe.receive(timeout=LONG) == "still there?"
        assert runner.newest("from_memory") is server
        assert str(server.timeline()).count("connected") == 1


def test_a_server_that_never_rests_is_waited_for_at_length_only_once():
    rested, limits = [True, False, False, True, True], []

    class Restless:
        def settle(self, timeout):
            limits.append(timeout)
            return rested[len(limits) - 1]

    trial = Trial(print, Restless())
    assert [trial.settle() for _ in rested] == rested
    assert limits == [1.0, 1.0, RESTLESS, RESTLESS, 1.0]


@pytest.mark.soak
def test_a_server_that_never_rests_may_be_right():
    def asks_again_and_again(conn, addr):
        conn.setblocking(False)
        data = None
        while data != b"":
            time.sleep(0.01)  # the student's
            with contextlib.suppress(BlockingIOError):
                data = conn.recv(1024)
                conn.sendall(data.upper())

    assert echo_kit.check("1.2", asks_again_and_again).passed


@pytest.mark.skipif(sys.platform != "linux", reason="where a thread is in line for a processor, only Linux tells")
def test_a_server_that_never_waits_is_found_on_a_machine_with_no_time_for_it():
    core = min(os.sched_getaffinity(0))

    def asks_without_end(host, port):
        os.sched_setaffinity(0, {core})
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # one part in 70, beside the process below
        always_asks_for_room(host, port)

    code = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        try:
            report = echo_kit.check("3.1", asks_without_end)
        finally:
            other.kill()
    assert "computes for less than" in report.problem.expected, report


def test_ctrl_c_during_a_check_stops_the_server(monkeypatch):
    stopped = []
    stop = runner.Server.stop
    monkeypatch.setattr(runner.Server, "stop", lambda server: (stop(server), stopped.append(server)))

    def interrupted(guest, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Guest, "hears", interrupted)
    with pytest.raises(KeyboardInterrupt):
        echo_kit.check("1.1", from_memory)
    monkeypatch.undo()
    assert [server.running for server in stopped] == [False]


# -- the report --------------------------------------------------------------------------------------------------------


def test_the_report_is_shown_in_words_then_the_server(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, **named: shown.append(what))
    report = echo_kit.check("1.2", lambda conn, addr: None)
    report._ipython_display_()
    words, seen = shown
    assert words["text/plain"] == str(report) == repr(report)
    assert words["text/html"] == report._repr_html_()
    assert seen["text/plain"] == str(report.view)
    assert seen["text/html"].startswith(report.view.code._repr_html_())
    assert "image/png" not in seen  # it has the colours of the page, be they dark or light
    shown.clear()
    echo_kit.check("1.2", shout)._ipython_display_()
    assert [each["text/plain"].splitlines()[0] for each in shown] == ["✔ 1.2 Shout: solved"]


def port_as_text(host, port):
    with socket.create_server((host, str(port))) as s:
        s.accept()


def backlog_as_text(host, port):
    with socket.create_server((host, port), backlog="5") as s:
        s.accept()


def connects_to_a_text(host, port):
    with socket.create_server((host, port)), socket.create_connection((host, "no port")) as other:
        other.recv(1)


@pytest.mark.parametrize(
    ("serve", "line"),
    [
        (port_as_text, "with socket.create_server((host, str(port))) as s:"),
        (backlog_as_text, 'with socket.create_server((host, port), backlog="5") as s:'),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_the_hint_is_the_students_own_line_and_none_of_the_library(serve, line):
    report = echo_kit.check("1.1", serve)
    assert report.problem.got == "your code ended with TypeError: 'str' object cannot be interpreted as an integer"
    assert report.problem.hint.splitlines()[0] == f"the line  {line}"


def test_the_line_of_an_error_that_comes_while_it_listens():
    report = echo_kit.check("1.1", connects_to_a_text)
    assert "the line  with socket.create_server((host, port)), socket.create_connection(" in report.problem.hint
