"""An exercise of one's own: the very example of CONTRIBUTING.md, in one file, without a change of the package."""

import re
import sys
from pathlib import Path

import pytest

import echo_kit
from echo_kit.course import exercises
from echo_kit.course.serving import as_it_is, one_at_a_time

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Those of the student's notebook, after its last line; the exercise is in a file beside it."""
    text = re.search(r"## How to write an exercise of your own\n(.+?)\n## ", PAGE.read_text("utf-8"), re.S)[1]
    exercise, notebook = re.findall(r"```python\n(.+?)```", text, re.S)
    assert all(len(line) <= 120 for line in exercise.splitlines())
    (tmp_path / "backwards.py").write_text(exercise, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    exercises.failures.clear()
    found = {}
    body, last = notebook.rstrip().rsplit("\n", 1)
    exec(body, found)
    found["report"] = eval(last, found)
    yield found
    del sys.modules["backwards"]


def test_a_right_answer_passes(names):
    report = names["report"]
    assert report.passed, report
    assert str(report).startswith("✔ A.1 Backwards: solved\n")
    assert len(report.steps) == report.total == names["backwards"].steps


def once(conn, addr):
    conn.sendall(conn.recv(1024)[::-1])


def echoes(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data)


def dies(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data[::-1])


@pytest.mark.parametrize(
    ("function", "tried", "hint", "passed"),
    [
        (echoes, 'alice sends "hello"', "these are the bytes that came, unchanged", 1),
        (once, "six digits", exercises.part1.RECV_LOOP.split(" || ")[0], 2),
        (dies, "alice breaks off, and bob comes", "the error of one client is not the end", 3),
    ],
)
def test_a_wrong_one_fails_with_the_words_of_the_exercise(names, function, tried, hint, passed):
    report = echo_kit.check(names["backwards"], function)
    assert str(report).startswith("✘ A.1 Backwards: not yet\n")
    assert tried in report.tried
    assert report.problem.rows()["hint"] == hint
    assert report.points == passed / 5


def test_the_third_failure_names_the_call(names):
    hints = [echo_kit.check(names["backwards"], dies).problem.hint for _ in range(3)]
    assert ["except ConnectionError:" in each for each in hints] == [False, False, True]


def test_what_is_given_instead_of_a_function(names):
    report = echo_kit.check(names["backwards"], None)
    assert "check(…) takes the name of your function" in report.problem.hint


def test_an_error_of_the_exercise_is_its_authors():
    def requires(trial):
        trial.guest("alice").sayz("hello")

    own = echo_kit.Exercise("A.2", "Wrong itself", ("conn", "addr"), one_at_a_time, requires)
    with pytest.raises(AttributeError, match="sayz"):
        echo_kit.check(own, echoes)


def test_a_whole_server_and_a_view_of_its_own():
    def requires(trial):
        trial.guest("alice").echoes("hello", "an echo")

    def serve(host, port):
        return one_at_a_time(once, None)(host, port)

    def shows(trial):
        return trial.server.where()

    own = echo_kit.Exercise("A.3", "Whole", ("host", "port"), as_it_is, requires, shows)
    report = echo_kit.check(own, serve)
    assert not report
    assert str(report.view).startswith("check of serve: ")
    assert (report.total, report.points) == (1, 0.0)
