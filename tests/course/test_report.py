"""A report is a value: true or false, steps, points, JSON, an exception; and what failed comes first."""

import contextlib
import json
import re
import sys
import threading
import types
import unicodedata
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import echo_kit
from echo_kit.course import exercises
from echo_kit.course.exercises import EXERCISES
from echo_kit.course.report import NotYet, Report, Step, quoted

from .right_answers import from_memory, shout

LONG = 20


def shouts_a_title(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.title())


over, lock = threading.Event(), threading.Lock()  # for which threads wait that no stop can end


@pytest.fixture(autouse=True)
def as_in_a_new_kernel():
    exercises.failures.clear()
    over.clear()
    if lock.locked():
        lock.release()


def test_it_is_true_only_if_it_passed():
    wrong, right = echo_kit.check("1.2", shouts_a_title), echo_kit.check("1.2", shout)
    assert (bool(wrong), wrong.passed, bool(right), right.passed) == (False, False, True, True)
    assert wrong.steps == (Step("the server is started", "passed"), Step('alice sends "hello"', "failed"))
    assert (wrong.total, wrong.points) == (EXERCISES["1.2"].steps, 1 / EXERCISES["1.2"].steps)
    assert (right.total, right.points) == (len(right.steps), 1.0)
    assert {each.outcome for each in right.steps} == {"passed"}
    assert right.first_wrong == ""
    tried, expected, got = 'alice sends "hello"', 'alice gets "HELLO"', 'alice got "Hello"'
    stands = "(server thread waits in recv for alice)"
    assert wrong.first_wrong == f"{tried}: expected {expected}; got {got} {stands}"


def test_the_points_are_full_only_if_it_passed():
    failed = NotYet("a", "b", "")
    assert Report("A.1", "Own", ("one", "two"), "three", failed).points == 2 / 3  # how many there are is not known
    assert Report("A.1", "Own", ("one", "two", "three"), "four", failed, known=3).points == 3 / 4
    assert Report("A.1", "Own", ("one",), "", None, known=3).points == 1.0
    assert Report("A.1", "Own", (), "your function is called", failed, known=3).points == 0.0


def test_it_is_plain_data_too():
    wrong, right = echo_kit.check("1.2", shouts_a_title), echo_kit.check("1.2", shout)
    data = json.loads(wrong.to_json())
    assert data == wrong.as_dict()
    assert (data["exercise"], data["title"], data["passed"]) == ("1.2", "Shout", False)
    assert data["steps"][-1] == {"text": 'alice sends "hello"', "outcome": "failed"}
    assert list(data["problem"]) == ["tried", "expected", "got", "hint"]
    assert data["first_wrong"] == wrong.first_wrong
    assert json.loads(right.to_json())["problem"] is None


def test_strict_raises_the_report():
    assert echo_kit.check("1.2", shout, strict=True).passed
    with pytest.raises(AssertionError) as caught:
        echo_kit.check("1.2", shouts_a_title, strict=True)
    assert type(caught.value) is echo_kit.NotSolved
    assert str(caught.value) == str(caught.value.report)
    assert str(caught.value).startswith('✘ 1.2 Shout: not yet\n  tried     alice sends "hello"\n')
    with pytest.raises(ValueError, match="no exercise"):
        echo_kit.check("9.9", shout, strict=True)


def test_its_traceback_in_a_notebook_is_the_report(capsys, monkeypatch):
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)  # of another one, IPython warns
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns.update(check=echo_kit.check, answer=shouts_a_title)
    result = shell.run_cell('check("1.2", answer, strict=True)')
    out = capsys.readouterr().out
    assert isinstance(result.error_in_exec, echo_kit.NotSolved)
    assert out.startswith("NotSolved: ✘ 1.2 Shout: not yet\n  tried ")
    assert ".py" not in out


def test_the_seed_makes_the_messages():
    def asks(trial):
        trial.guest("alice").echoes(f"{trial.random.random()}", "")

    def echo(conn, addr):
        came.append(conn.recv(1024))
        conn.sendall(came[-1])

    came = []
    exercise = echo_kit.Exercise("A.1", "Own", ("conn", "addr"), exercises.one_at_a_time, asks)
    for seed in (None, None, 0, 1, 1):
        assert echo_kit.check(exercise, echo, seed=seed)
    assert came[0] == came[1] == came[2] != came[3] == came[4]


# -- what is seen first ------------------------------------------------------------------------------------------------


def test_what_failed_comes_first_and_what_passed_is_one_line():
    report = Report("1.2", "Shout", ("one", "two"), "three", NotYet("a", "b", "the line  x = 1\nthink"), known=8)
    assert str(report).splitlines() == [
        "✘ 1.2 Shout: not yet",
        "  tried     three",
        "  expected  a",
        "  got       b",
        "            at the line  x = 1",
        "  hint      think",
        "  passed    2 of 8 steps: one; two",
    ]
    html = report._repr_html_()
    assert html.index("three") < html.index("<details") < html.index("<li>one</li>")
    assert "passed: 2 of 8 steps" in html
    assert "passed    2 steps: one; two" in str(Report("A.1", "Own", ("one", "two"), "three", NotYet("a", "b", "")))


def test_it_has_the_colours_of_the_page():
    """No colour without a variable of JupyterLab's, no white ground: also in a dark theme it can be read."""
    for function in (shouts_a_title, shout):
        html = echo_kit.check("1.2", function)._repr_html_()
        assert "background" not in html
        for colour in re.findall(r"#\w{6}", html):
            assert re.search(rf"var\(--jp-\w+-color1, {colour}\)", html)


def shown(report, monkeypatch):
    found = []
    monkeypatch.setattr("IPython.display.display", lambda what, **named: found.append(what))
    report._ipython_display_()
    return found


def test_the_view_says_only_what_says_something(monkeypatch):
    def forgets_the_lock(conn, addr):
        while conn.recv(1024):
            lock.acquire(timeout=LONG)
            conn.sendall(b"1\n")

    monkeypatch.setattr(threading, "excepthook", lambda died: None)  # of the thread that no stop could end
    before = set(threading.enumerate())
    report = echo_kit.check("2.3", forgets_the_lock)
    lock.release()
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG)
    _, seen = shown(report, monkeypatch)
    assert "lock.acquire(timeout=LONG)" in seen["text/html"]
    assert "stands ready" not in seen["text/html"]
    assert "nobody waits" not in seen["text/html"]
    assert "<details><summary>What happened" in seen["text/html"]

    def serves_one(conn, addr):
        while True:
            if conn.recv(1024):
                conn.sendall(b"?")

    report = echo_kit.check("1.1", lambda host, port: exercises.one_at_a_time(serves_one, None)(host, port))
    _, seen = shown(report, monkeypatch)
    assert "nobody waits" in str(report.view)
    assert "nobody waits" not in seen["text/html"]


def stays(host, port):
    try:
        from_memory(host, port)
    finally:
        lock.acquire(timeout=LONG)


def computes(host, port):
    try:
        from_memory(host, port)
    finally:
        while not over.is_set():
            with contextlib.suppress(BaseException):  # and out here it is for so short that no exception meets it
                while not over.is_set():
                    sum(range(1_000_000))


@pytest.mark.parametrize(("serve", "restart"), [(stays, False), (computes, True)])
def test_only_what_disturbs_the_next_check_asks_for_a_new_kernel(serve, restart, monkeypatch):
    lock.acquire()
    before = set(threading.enumerate())
    try:
        report = echo_kit.check("1.1", serve)
    finally:
        over.set()
        lock.release()
        for thread in set(threading.enumerate()) - before:
            thread.join(LONG)
    assert report.tried == "the server is stopped"
    assert "did not end within" in report.problem.got
    assert ("restart the kernel" in report.problem.got) == restart, report
    _, seen = shown(report, monkeypatch)  # also when only the end fails
    assert "from_memory" in seen["text/html"]


# -- expected and got never look the same ------------------------------------------------------------------------------

ALIKE = [
    (b"\\n", b"\n"),
    (b"\\xc3", b"\xc3"),
    (b"\x80", "\x80".encode()),
    ("\N{NO-BREAK SPACE}".encode(), b" "),
    ("é".encode(), "e\N{COMBINING ACUTE ACCENT}".encode()),
    (b"a", "a\N{ZERO WIDTH SPACE}".encode()),
    (b"\\\\n", b"\\n"),
    ("\ufffd".encode(), b"\xff"),
    (b"x" * 3000, b"x" * 2999 + b"y"),
    (b"x" * 3000, b"x" * 2999),
    (b"x" * 100 + b"\\n" * 100, b"x" * 100 + b"\n" + b"n" * 199),
    ("é".encode() * 100, "é".encode() * 99 + b"\xc3\x28"),
    (bytes(range(256)), bytes(range(255)) + b"\x00"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_two_messages_that_differ_look_different(one, other):
    first, second = (unicodedata.normalize("NFC", each) for each in (quoted(one, other), quoted(other, one)))
    assert first != second
    for each in (first, second):
        assert each.isprintable()
        assert len(each) < 120


def test_messages_look_as_the_notebooks_say():
    assert [quoted(each) for each in (b"a\n", b"\xc3", "é 24".encode(), b'"')] == ['"a\\n"', '"\\xc3"', '"é 24"', '"""']
    assert quoted(b"x" * 3000) == f'"{"x" * 30}…" (3,000 bytes)'
    assert quoted(b"x" * 100 + b"y", b"x" * 101) == '"…xxxxxxxxxxy…" (101 bytes), here from byte 91 on'


def types_two_characters(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.replace(b"\n", b"\\n"))


def turns_the_last_byte(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total += len(data)
        conn.sendall(data.upper() if total < 3000 else data[:-1].upper() + b"?")


def test_a_report_shows_the_difference():
    def asks(trial):
        trial.guest("alice").echoes("a\n", "")
        trial.guest("bob").says("x" * 4000).hears("X" * 4000, "")

    def check(function):
        return echo_kit.check(
            echo_kit.Exercise("A.1", "Own", ("conn", "addr"), exercises.a_thread_each, asks), function
        ).problem

    said = check(types_two_characters)
    assert (said.expected, said.got.splitlines()[0]) == ('alice gets "a\\n"', 'alice got "a\\\\n"')
    said = check(turns_the_last_byte)
    assert said.expected.endswith(" on") == said.got.splitlines()[0].endswith(" on")


# -- marks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "solved"), [(shout, True), (shouts_a_title, False)])
def test_the_examples_for_instructors_work(answer, solved, monkeypatch):
    """As nbgrader and otter-grader run them; both were tried, and are not installed here."""
    page = (Path(__file__).parents[2] / "notebooks" / "INSTRUCTORS.md").read_text("utf-8")
    whole, part, otter = re.findall(r"```python\n(.+?)```", page.split("\n## Marks\n")[1].split("\n## ")[0], re.S)
    names = {"echo_kit": echo_kit, "shout": answer}
    marker = types.SimpleNamespace(test_case=lambda points: lambda test: test)
    monkeypatch.setitem(sys.modules, "otter", types.ModuleType("otter"))
    monkeypatch.setitem(sys.modules, "otter.test_files", marker)
    exec(otter, names)
    for test in (lambda: eval(whole.strip(), names), lambda: names["test_shout"](answer)):
        if solved:
            test()
        else:
            with pytest.raises(echo_kit.NotSolved):
                test()
    assert eval(part.strip(), names) == pytest.approx(5 if solved else 5 / EXERCISES["1.2"].steps)
