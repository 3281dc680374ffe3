"""`python -m echo_kit mark`: whose answers are in a folder, what each of them gets, and that none harms the others."""

import ast
import contextlib
import csv
import json
import os
import re
import signal
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from echo_kit.course import answers, mark
from echo_kit.course.exercises import EXERCISES

from ..programs import LIMIT, Program
from . import right_answers, wrong_answers
from .right_answers import RIGHT
from .wrong_answers import SLOW, WRONG

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SHORT = 3  # seconds for each answer of the tests: those that never end need all of it
posix = pytest.mark.skipif(not answers.POSIX, reason="elsewhere there is no fork")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whose descendants have left their session")

SHOUT = """
def shout(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.upper())
"""
ECHO = SHOUT.replace(".upper()", "")


def notebook(*cells):
    return json.dumps({"cells": [{"cell_type": "code", "source": each} for each in cells], "nbformat": 4})


@pytest.fixture
def folder(tmp_path):
    """Makes a folder of what the class has handed in: texts by path."""

    def make(texts):
        for name, text in texts.items():
            path = tmp_path / "class" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / "class"

    return make


def tried(people, jobs=2, **options):
    """The row of each answer, by student and exercise."""
    options = {"seed": 1, "limit": SHORT, "memory": 2048, **options}
    tasks = [(each.name, {**task, **options}) for each in people for task in each.tasks.values()]
    return {(row.student, row.number): row for row in mark.marked(tasks, jobs)}


@pytest.fixture
def one(folder):
    """Marks a single answer to 1.2."""

    def run(text, name="alice.py", **options):
        return tried(mark.students(folder({name: text})), 1, **options)["alice", "1.2"]

    return run


# -- whose it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["alice.ipynb", "bob.py"], ["alice", "bob"]),
        (["alice/part1.ipynb", "alice/part2.ipynb", "bob/deep/down/x.py"], ["alice", "bob"]),
        (["submitted/alice/ps1/p.ipynb", "source/ps1/p.ipynb", "autograded/alice/ps1/p.ipynb"], ["alice"]),
        (["Anna Öz_12345_assignsubmission_file_/p.ipynb"], ["Anna Öz"]),
        (["Anna Oz_12345_assignsubmission_file_p.ipynb"], ["Anna Oz"]),
        (["Li Wei_1_assignsubmission_file/p.py", "Li Wei_2_assignsubmission_file/p.py"], ["Li Wei 1", "Li Wei 2"]),
        (["alice/.ipynb_checkpoints/p.ipynb", "__MACOSX/bob/p.ipynb", "carol/venv/site-packages/p.py"], []),
        (["A\u0308nne/p.ipynb", "b\x1b[2J/p.ipynb"], ["Änne", r"b\x1b[2J"]),
    ],
)
def test_whose_answers_are_in_a_folder(paths, names, folder):
    found = mark.students(folder({each: SHOUT if each.endswith('.py') else notebook(SHOUT) for each in paths}))
    assert [each.name for each in found] == names
    assert all(list(each.tasks) == ["1.2"] for each in found)


def test_the_later_of_two_answers_counts_and_other_files_are_read_too(folder):
    root = folder({"alice/a.py": SHOUT, "alice/b.py": ECHO, "alice/c.py": "def greet(conn, addr): pass"})
    os.utime(root / "alice" / "b.py", (1, 1))
    (alice,) = mark.students(root)
    assert {number: task["file"] for number, task in alice.tasks.items()} == {"1.2": "a.py", "1.3": "c.py"}


@pytest.mark.parametrize("lesson", ["part1", "part2", "surprises"])
def test_the_functions_have_the_names_that_the_notebooks_give_them(lesson):
    cells = mark.cells_of(NOTEBOOKS / f"{lesson}_exercises.ipynb")
    for number in mark.answered(cells):
        assert f'echo_kit.check("{number}", {mark.FUNCTIONS[number]})' in cells
        assert any(re.match(rf"def {mark.FUNCTIONS[number]}\(", cell) for cell in cells)
    assert list(mark.FUNCTIONS) == list(EXERCISES)


def test_cells_after_the_answer_are_not_run():
    assert mark.answered([SHOUT, 'echo_kit.check("1.2", shout)', "while True: pass"]) == {"1.2": 1}
    assert mark.answered(['check( "2.1", f)', "  def shout(): pass", 'check("9.9", f)']) == {"2.1": 0}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("p.ipynb", "{", "it is not a notebook, as it is not JSON"),
        ("p.ipynb", b"\xff\xfe", "it is not a notebook, as it is not JSON"),
        ("p.ipynb", "[]", "it is not a notebook, as it has no cells"),
        ("p.ipynb", '{"cells": [1]}', "it is not a notebook, as it has no cells"),
        ("p.ipynb", "[" * 100_000, "recursion"),
        ("p.py", b"\xff", "invalid or missing encoding"),
        ("p.py", "# coding: nonsense\n", "nonsense"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, reason, folder):
    (alice,) = mark.students(folder({f"alice/{name}": content}))
    assert alice.unread.startswith(f"{name} cannot be read: ")
    assert reason in alice.unread


def test_an_old_notebook_is_read(tmp_path):
    path = tmp_path / "old.ipynb"
    sheet = {"cells": [{"cell_type": "code", "input": ["a\n", "b"]}, {"cell_type": "markdown", "source": "c"}]}
    path.write_text("\ufeff" + json.dumps({"worksheets": [sheet]}), "utf-8")
    assert mark.cells_of(path) == ["a\nb"]


# -- what an answer gets -----------------------------------------------------------------------------------------------

JUDGED = {  # what alice hands in for 1.2, as a file or as cells: whether it passes, and words of what was wrong
    "right": (SHOUT, True, ""),
    "wrong": (ECHO, False, 'expected alice gets "HELLO"'),
    "under another name": (SHOUT.replace("shout", "f") + 'echo_kit.check("1.2", f)', False, "NameError"),
    "given to check": ("import echo_kit\n" + SHOUT.replace("shout", "f") + 'echo_kit.check("1.2", f)', True, ""),
    "given last": ([SHOUT, 'import echo_kit as e\ne.check("1.2", print)', 'e.check("1.2", shout)'], True, ""),
    "an error before": (["import numpie", "1 / 0", SHOUT], True, ""),
    "an error in it": (["1 / 0", "def shout(:"], False, "cell 1 ended with ZeroDivisionError: division by zero; cell 2"),
    "magic": (["%matplotlib inline\nx = !ls\nlen?\nif 1:\n  %time 1\n" + SHOUT], True, ""),
    "another language": ([SHOUT, "%%bash\ndef shout(): $(", 'check("1.2", shout)'], True, ""),
    "percent signs": (["x = (7\n% 4)\n" + SHOUT + "if x != 3: del shout"], True, ""),
    "ends Python": (["import sys; sys.exit()", SHOUT], True, ""),
    "asks": (["input('Go on?')", SHOUT], True, ""),
    "shows": (["display(1)", SHOUT], True, ""),
    "is a program": (SHOUT + "if __name__ == '__main__':\n    del shout", True, ""),
    "is a notebook": ([SHOUT, "if __name__ != '__main__':\n    del shout"], True, ""),
    "is nothing": ("shout = 3\ndef greet(): check('1.2', shout)", False, "check() was given 3"),
    "has a display": ("import os\nassert 'DISPLAY' not in os.environ\n" + SHOUT, True, ""),
    "plots": ("import os\nassert os.environ['MPLBACKEND'] == 'Agg'\n" + SHOUT, True, ""),
    # What would spoil the mark of others, or its own in its favour.
    "own check": (f"def check(number, function): return True\n{ECHO}check('1.2', shout)", False, '"HELLO"'),
    "replaces check": (f"import echo_kit\necho_kit.check = lambda *_: 1\n{ECHO}", False, '"HELLO"'),
    "replaces the judge": (
        f"import echo_kit.course.report as r\nr.Report.passed = True\n{ECHO}",
        False,
        "changes echo_kit itself (Report.passed)",
    ),
    "replaces the exercise": (
        f"from echo_kit.course.exercises import EXERCISES as e\ne['1.2'] = e['1.3']\n{ECHO}",
        False,
        "changes echo_kit itself (exercise 1.2)",
    ),
    "forges": (
        f"import os\nfor n in range(3, 99):\n    try: os.write(n, b'1 {{\"passed\": true}}\\n')\n    except OSError: 1\n{SHOUT}",
        False,
        "ended its process",
    ),
    "exits": (SHOUT.replace("data.upper()", "__import__('os')._exit(3)"), False, "ended its process (exit code 3)"),
    "is killed": (f"{SHOUT}\nimport os\nos.kill(os.getpid(), 15)", False, "ended its process (SIGTERM)"),
    "closes all": (f"import os\n{SHOUT}os.closerange(0, 999)", False, "ended its process"),
    "ends the worker": (f"import os\n{SHOUT}os.kill(os.getppid(), 9)", False, "the process that runs the answers"),
    "never ends": (f"import signal\nsignal.pthread_sigmask(0, [14])\n{SHOUT}\nwhile 1: pass", False, "after 3 s"),
    "stops": (f"import os\n{SHOUT}os.kill(os.getpid(), 19)", False, "after 3 s"),
    "prints": (f"{SHOUT}\nfor n in range(1_000_000): print(n)", True, ""),
    "takes all memory": (f"x = []\nwhile 1: x.append(bytes(2**26))\n{SHOUT}", False, "MemoryError"),
    "fills the disk": (f"f = open('x', 'wb')\nfor n in range(99): f.write(bytes(2**22))\n{SHOUT}", False, "too large"),
    "forks for ever": (f"import os\nwhile 1: os.fork()\n{SHOUT}", False, "this is one more"),
    "starts for ever": (
        f"import subprocess as s\nwhile 1: s.Popen(['sleep', '999'], start_new_session=True)\n{SHOUT}",
        False,
        "this is one more",
    ),
    "is a daemon": (
        "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(999)\n    os._exit(0)\n" + SHOUT,
        True,
        "",
    ),
    "is two": (f"import os\nos.fork()\n{SHOUT}", True, ""),
    "calls out": (f"import socket\nsocket.create_connection(('192.0.2.1', 9), 1)\n{SHOUT}", False, "unreachable"),
}


def left_over(folder):
    """The processes of answers that are still there: they have a working directory in this folder."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found += [process] if os.readlink(f"/proc/{process}/cwd").startswith(str(folder)) else []
    return found


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """All of them, marked as one class: the row of each, and what they have left."""
    root, temporary = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("temporary")
    for name, (text, _, _) in JUDGED.items():
        path = root / f"{name}.py"
        if isinstance(text, list):
            path, text = path.with_suffix(".ipynb"), notebook(*text)
        path.write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setenv("DISPLAY", ":0")
        rows = tried(mark.students(root), 4)
    return {student: row for (student, number), row in rows.items() if number == "1.2"}, temporary


@posix
@pytest.mark.parametrize("name", JUDGED)
def test_an_answer_costs_its_own_mark_and_nothing_else(name, judged):
    row = judged[0][name]
    _, passed, wrong = JUDGED[name]
    assert row.passed is passed, row
    assert wrong in row.wrong, row
    assert bool(row.wrong) is not passed, row
    assert row.seconds < SHORT + 2, row


@linux
def test_an_answer_leaves_no_process_and_no_file(judged):
    assert left_over(judged[1]) == []
    assert list(judged[1].iterdir()) == []


