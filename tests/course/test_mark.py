"""`python -m echo_kit mark`: whose answers are in a folder, what each of them gets, and that none harms the others."""

import ast
import contextlib
import csv
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

import pytest

from echo_kit.__main__ import main
from echo_kit.course import answers, mark
from echo_kit.course.exercises import EXERCISES

from ..programs import LIMIT, Program
from .right_answers import RIGHT
from .wrong_answers import WRONG

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SHORT = 3  # seconds for an answer that never ends
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


def tried(people, jobs, hurried=(), **options):
    """The row of each answer, by student and exercise. Those that never end are hurried."""
    options = {"seed": 1, "memory": 2048, **options}
    limits = {each.name: SHORT if each.name in hurried else LIMIT for each in people}
    tasks = [
        (each.name, {**task, "limit": limits[each.name], **options}) for each in people for task in each.tasks.values()
    ]
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
        (["alice/.ipynb_checkpoints/p.ipynb", "__MACOSX/bob/p.ipynb", ".trash/carol.py"], ["alice"]),
        (["A\u0308nne/p.ipynb", "b\x1b[2J/p.ipynb"], ["Änne", r"b\x1b[2J"]),
    ],
)
def test_whose_answers_are_in_a_folder(paths, names, folder):
    found = mark.students(folder({each: SHOUT if each.endswith(".py") else notebook(SHOUT) for each in paths}))
    assert [each.name for each in found] == names
    assert all(list(each.tasks) == ["1.2"] or each.unread == "there is no .ipynb or .py file" for each in found)


def test_the_later_of_two_answers_counts_and_other_files_are_read_too(folder):
    root = folder({"alice/a.py": SHOUT, "alice/b.py": ECHO, "alice/c.py": "def greet(conn, addr): pass"})
    os.utime(root / "alice" / "b.py", (1, 1))
    (alice,) = mark.students(root)
    assert {number: task["file"] for number, task in alice.tasks.items()} == {"1.2": "a.py", "1.3": "c.py"}


def test_the_courses_own_notebooks_are_nobodys_answers(folder):
    """A student hands in all of the folder, and has saved a lesson last."""
    shouted = notebook(SHOUT, 'echo_kit.check("1.2", shout)')
    root = folder({"alice/p.ipynb": shouted, "alice/lesson.ipynb": notebook(ECHO), "alice/solutions/s.ipynb": shouted})
    os.utime(root / "alice" / "p.ipynb", (1, 1))
    (alice,) = mark.students(root)
    assert alice.tasks["1.2"]["file"] == "p.ipynb"


@pytest.mark.parametrize("lesson", ["part1", "part2", "surprises"])
def test_the_functions_have_the_names_that_the_notebooks_give_them(lesson):
    cells = mark.cells_of(NOTEBOOKS / f"{lesson}_exercises.ipynb")
    for number in mark.answered(cells):
        assert f'echo_kit.check("{number}", {mark.FUNCTIONS[number]})' in cells
        assert any(re.match(rf"def {mark.FUNCTIONS[number]}\(", cell) for cell in cells)
    assert list(mark.FUNCTIONS) == list(EXERCISES)


def test_cells_after_the_answer_are_not_run():
    assert mark.answered([SHOUT, 'echo_kit.check("1.2", shout)', "while True: pass"]) == {"1.2": (1, True)}
    assert mark.answered(['check( "2.1", f)', "  def shout(): pass", 'check("9.9", f)']) == {"2.1": (0, True)}


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

# What starts processes for ever does so a hundred times here: a test that fails is not to stop the machine.
JUDGED = {  # what alice hands in for 1.2, as a file or as cells: whether it passes, and words of what was wrong
    "right": (SHOUT, True, ""),
    "wrong": (ECHO, False, 'expected alice gets "HELLO"'),
    "under another name": (SHOUT.replace("shout", "f") + 'echo_kit.check("1.2", f)', False, "NameError"),
    "given to check": ("import echo_kit\n" + SHOUT.replace("shout", "f") + 'echo_kit.check("1.2", f)', True, ""),
    "given last": ([SHOUT, 'import echo_kit as e\ne.check("1.2", print)', 'e.check("1.2", shout)'], True, ""),
    "an error before": (["import numpie", "1 / 0", SHOUT], True, ""),
    "an error in it": (
        ["1 / 0", "def shout(:"],
        False,
        "cell 1 ended with ZeroDivisionError: division by zero; cell 2",
    ),
    "magic": (["%matplotlib inline\nx = !ls\nlen?\nif 1:\n  %time 1\n" + SHOUT], True, ""),
    "another language": ([SHOUT, "%%bash\ndef shout(): $(", 'check("1.2", shout)'], True, ""),
    "percent signs": (["x = (7\n% 4)\n" + SHOUT + "if x != 3: del shout"], True, ""),
    "ends Python": (["import sys; sys.exit()", SHOUT], True, ""),
    "asks": (["try: input('Go on?')\nexcept EOFError: nothing_to_read = 1", "nothing_to_read" + SHOUT], True, ""),
    "writes": (f"import os\nfor n in (1, 2): os.write(n, b'{{}}\\n')\n{SHOUT}", True, ""),
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
        "import os\nfor n in range(3, 99):\n    try: os.write(n, b'1 {\"passed\": true}\\n')\n    except OSError: 1\n"
        + SHOUT,
        False,
        "ended its process",
    ),
    "exits": (SHOUT.replace("data.upper()", "__import__('os')._exit(3)"), False, "ended its process (exit code 3)"),
    "exits, its child stays": (
        f"import os, time\nif not os.fork(): time.sleep(60)\nos._exit(3)\n{SHOUT}",
        False,
        "(exit code 3)",
    ),
    "is killed": (f"{SHOUT}\nimport os\nos.kill(os.getpid(), 15)", False, "ended its process (Terminated"),
    "closes all": (f"import os\n{SHOUT}os.closerange(0, 999)", False, "ended its process"),
    "ends the worker": (f"import os\n{SHOUT}os.kill(os.getppid(), 9)", False, "the process that runs the answers"),
    "ends the worker, its child stays": (
        "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(60)\n    os._exit(0)\n"
        + f"{SHOUT}os.wait(); os.kill(os.getppid(), 9)",
        False,
        "the process that runs the answers",
    ),
    "never ends": (f"import signal\nsignal.pthread_sigmask(0, [14])\n{SHOUT}\nwhile 1: pass", False, "after 3 s"),
    "stops": (f"import os\n{SHOUT}os.kill(os.getpid(), 19)", False, "after 3 s"),
    "prints": (f"{SHOUT}\nfor n in range(1_000_000): print(n)", True, ""),
    "takes all memory": (f"x = []\nwhile 1: x.append(bytes(2**26))\n{SHOUT}", False, "MemoryError"),
    "fills the disk": (f"f = open('x', 'wb')\nfor n in range(99): f.write(bytes(2**22))\n{SHOUT}", False, "too large"),
    "forks for ever": (
        f"import os, time\nfor n in range(99):\n    if not os.fork(): time.sleep(60)\n{SHOUT}",
        False,
        "this is one more",
    ),
    "starts for ever": (
        f"import subprocess as s\nfor n in range(99): s.Popen(['sleep', '60'], start_new_session=True)\n{SHOUT}",
        False,
        "this is one more",
    ),
    "lets a shell start": (
        f"import os\nos.system('for n in $(seq 200); do sleep 60 & done; wait')\n{SHOUT}",
        False,
        "it has started more than 64 processes",
    ),
    "is a daemon": (
        "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(60)\n    os._exit(0)\n"
        + SHOUT,
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
        patch.setattr(tempfile, "tempdir", str(temporary))  # this process has looked at TMPDIR long ago
        patch.setenv("DISPLAY", ":0")
        endless = [name for name, (_, _, wrong) in JUDGED.items() if wrong == f"after {SHORT} s"]
        rows = tried(mark.students(root), 4, endless)
    return {student: row for (student, number), row in rows.items() if number == "1.2"}, temporary


@posix
@pytest.mark.parametrize("name", JUDGED)
def test_an_answer_costs_its_own_mark_and_nothing_else(name, judged):
    row = judged[0][name]
    _, passed, wrong = JUDGED[name]
    assert row.passed is passed, row
    assert wrong in row.wrong, row
    assert bool(row.wrong) is not passed, row
    assert row.seconds < LIMIT, row


@linux
def test_an_answer_leaves_no_process_and_no_file(judged):
    assert left_over(judged[1]) == []
    assert list(judged[1].iterdir()) == []


def test_the_messages_are_those_of_the_seed(one):
    text = """
import gc
from echo_kit.course.trial import Trial

def shout(conn, addr):
    raise ValueError([each.seed for each in gc.get_objects() if type(each) is Trial])
"""
    assert "ValueError: [41]" in one(text, seed=41).wrong


# -- other systems -----------------------------------------------------------------------------------------------------


def test_without_a_network_of_its_own_an_answer_reaches_this_machine_only(one):
    calls = ("('192.0.2.1', 9)", "('example.invalid', 9)", "('localhost', 1)", "('127.0.0.1', 1)")
    text = f"""
import socket
heard = []
for call in (lambda: socket.getaddrinfo("example.invalid", 1), lambda: socket.socket().bind(("", 0)),
             *(lambda to=to: socket.create_connection(to, 1) for to in ({", ".join(calls)}))):
    try:
        call()
    except OSError as error:
        heard.append(type(error).__name__)
raise ValueError(heard)
"""
    refused = ["PermissionError"] * 4 + ["ConnectionRefusedError"] * 2
    row = one(text + SHOUT, own_network=False)
    assert str(refused) in row.wrong
    assert one(SHOUT, own_network=False).passed


def test_where_there_is_no_fork_each_answer_has_a_new_interpreter(tmp_path):
    task = {"number": "1.2", "function": "shout", "module": "answer", "file": "a.py", "token": "t", "memory": 2048}
    options = {"folder": str(tmp_path), "seed": 1, "limit": LIMIT}

    def spawned(text, **others):
        return answers._spawned({**task, **options, "cells": [text], **others})

    came, _ = spawned("print(1)\n" + SHOUT)
    token, _, result = came.partition(b" ")
    assert (token, json.loads(result)["passed"]) == (b"t", True)
    assert spawned("import os\nos._exit(3)") == (b"", "the answer ended its process (exit code 3)")
    assert spawned("while 1: pass", limit=1)[0] == "it had not ended after 1 s"


def test_nothing_of_an_answer_goes_on_once_it_is_marked(one, monkeypatch):
    made, never = [], threading.Event()

    class Slow(threading.Timer):
        """As on a busy machine: it hears late that it is not needed any more."""

        def run(self):
            made.append(self)
            super().run()
            never.wait(0.2)

    class Watching(mark.Worker):
        def ask(self, task):
            result = super().ask(task)
            assert [each.is_alive() for each in made] == [False]
            return result

    monkeypatch.setattr(threading, "Timer", Slow)
    monkeypatch.setattr(mark, "Worker", Watching)
    assert one(SHOUT).passed


# -- a student's own files ---------------------------------------------------------------------------------------------


def test_an_answer_has_its_own_copy_of_what_lies_beside_it(folder):
    first = "import os, helper\nassert open('data.txt').read() == 'x'\nos.remove('data.txt')\n"
    texts = {"alice/p.py": f"{first}shout = helper.shout\n# check('1.2', shout)\ndef greet(conn, addr): conn.close()"}
    root = folder({**texts, "alice/helper.py": SHOUT, "alice/data.txt": "x", "bob.py": first + SHOUT})
    os.truncate(root / "alice" / "helper.py", (root / "alice" / "helper.py").stat().st_size)
    rows = tried(mark.students(root), 1)
    assert rows["alice", "1.2"].passed, rows
    assert "conn.close" not in rows["alice", "1.3"].wrong
    assert "expected alice gets" in rows["alice", "1.3"].wrong, "its file was there again"
    assert "No module named 'helper'" in rows["bob", "1.2"].wrong or rows["bob", "1.2"].passed is False
    assert (root / "alice" / "data.txt").exists()


# -- the command -------------------------------------------------------------------------------------------------------


def command(*arguments, **options):
    with Program("mark", *arguments, **options) as program:
        code, errors = program.end()
        return code, program.out, errors


def test_the_most_common_mistake_comes_first_and_then_the_exercises_in_order():
    made = [("1.3", "a goodbye"), ("1.2", "an echo"), ("1.2", "more"), ("1.2", "more")]
    rows = [mark.Row(name, each[0], False, 0, 0.0, "", each[1]) for name, each in zip("abcd", made, strict=True)]
    told = mark.mistakes(rows).splitlines()[1:]
    assert [line.rpartition(": ")[2] for line in told] == ["more", "an echo", "a goodbye"]


def test_the_table_the_file_and_the_summary(folder, tmp_path):
    root = folder(
        {
            "=1+1/p.py": SHOUT,
            "bob\t/p.ipynb": notebook(ECHO),
            "carol/p.py": ECHO
            + "def greet(conn, addr):\n    conn.sendall(b'\\x1b[2J')\n    raise ValueError('\\x1b[3J')",
            "dave/p.ipynb": "{",
        }
    )
    file = tmp_path / "marks.csv"
    code, out, errors = command(root, "--csv", file, "--jobs", 2, "--seed", 7)
    assert code == 1
    assert errors == "echo_kit: dave: p.ipynb cannot be read: it is not a notebook, as it is not JSON\n"
    assert out.startswith("4 answers of 4 students; --seed 7 marks the same again\nstudent  exercise ")
    assert "1 of 8 passed, in " in out
    assert "  2 students, 1.2 Shout: alice gets " in out
    assert "  1 student, 1.3 A greeting: " in out
    assert ": nothing was handed in" not in out
    assert "\x1b" not in out
    data = file.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    header, *lines = csv.reader(data.decode("utf-8-sig").splitlines())
    assert tuple(header) == mark.COLUMNS
    assert [line[:3] for line in lines] == [
        ["'=1+1", "1.2 Shout", "yes"],
        ["'=1+1", "1.3 A greeting", "no"],
        ["bob\\t", "1.2 Shout", "no"],
        ["bob\\t", "1.3 A greeting", "no"],
        ["carol", "1.2 Shout", "no"],
        ["carol", "1.3 A greeting", "no"],
        ["dave", "1.2 Shout", "no"],
        ["dave", "1.3 A greeting", "no"],
    ]
    assert [line[5] for line in lines if line[0].startswith("'")] == ["", "nothing was handed in"]
    assert lines[0][3] == "{0} of {0}".format(EXERCISES["1.2"].steps)
    assert float(lines[0][4]) < LIMIT


@pytest.mark.parametrize("start", "=+-@")
def test_a_cell_is_text_for_a_spreadsheet(start, tmp_path):
    row = mark.Row(f"{start}cmd", "1.2", False, 1, 0.5, f"{start}1", "")
    mark.write_csv(tmp_path / "x.csv", [row])
    (_, line) = csv.reader((tmp_path / "x.csv").read_text("utf-8-sig").splitlines())
    assert line == [f"'{start}cmd", "1.2 Shout", "no", f"1 of {EXERCISES['1.2'].steps}", "0.5", f"'{start}1"]


@pytest.mark.skipif(sys.platform == "win32", reason="a broken pipe is none there")
def test_whoever_leaves_while_the_table_is_written_has_the_file(folder, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "echo_kit", "mark", folder({"alice.py": SHOUT}), "--csv", tmp_path / "m.csv"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False)
    os.close(writer)
    assert (done.returncode, "the table cannot be written" in done.stderr) == (1, True), done.stderr
    assert "alice,1.2 Shout,yes" in (tmp_path / "m.csv").read_text("utf-8-sig")


@linux
@pytest.mark.parametrize("line", ["x", "{}"])
def test_what_an_answer_says_in_the_workers_name_costs_the_next_one_nothing(line, folder):
    says = f"import os\nwith open(f'/proc/{{os.getppid()}}/fd/1', 'w') as out:\n    out.write('{line}\\n')\n"
    people = mark.students(folder({"alice.py": says + SHOUT, "bob.py": SHOUT}))
    rows = tried(people, 1, own_network=False)
    assert "the process that runs the answers" in rows["alice", "1.2"].wrong
    assert rows["bob", "1.2"].passed, rows


def test_an_error_that_cannot_say_what_it_is(one):
    fails = "class Odd(Exception):\n    def __str__(self):\n        raise AttributeError\nraise Odd\n"
    assert one(notebook(fails, SHOUT), name="alice.ipynb").passed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "FOLDER"),
        (["nowhere"], "'nowhere' is not a folder"),
        (["empty"], "there is no .ipynb or .py file in 'empty'"),
        (["class", "--exercises", "1.2,9.9"], "there is no exercise 9.9; there are: 1.1, "),
        (["class", "--csv", "nowhere/marks.csv"], "there is no folder 'nowhere' for the CSV file"),
        (["class", "--jobs", "0"], "--jobs"),
        (["class", "--limit", "never"], "--limit"),
    ],
)
def test_wrong_arguments_get_one_line(arguments, words, folder, tmp_path, monkeypatch, capsys):
    folder({"alice.py": SHOUT})
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["mark", *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert re.fullmatch(r"echo_kit: [^\n]+ \(python -m echo_kit mark --help says more\)\n", error)
    assert words in error


def test_a_file_that_cannot_be_written_loses_no_result(folder, tmp_path, capsys):
    assert main(["mark", str(folder({"alice.py": SHOUT})), "--csv", str(tmp_path), "--jobs", "1"]) == 1
    out, error = capsys.readouterr()
    assert re.search(r"^alice  +1\.2 Shout  yes ", out, re.MULTILINE)
    assert error == f"echo_kit: {tmp_path} cannot be written (Is a directory): the table above is all that there is\n"


def test_the_exercises_to_be_marked_can_be_named(folder, capsys):
    root = folder({"alice.py": ECHO + "def greet(conn, addr): pass"})
    assert main(["mark", str(root), "--exercises", "1.2,2.1", "--jobs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"1 answer of 1 student; --seed \d+ marks the same again", lines[0])
    assert [line.split()[1] for line in lines[2:4]] == ["1.2", "2.1"]
    assert lines[3].endswith("nothing was handed in")


def test_a_terminal_gets_a_progress_bar(folder, monkeypatch, capsys):
    pytest.importorskip("tqdm")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["mark", str(folder({"alice.py": SHOUT, "bob.py": ECHO})), "--jobs", "1"]) == 0
    assert "2/2" in terminal.getvalue()
    assert "2/2" not in capsys.readouterr().out


def test_a_worker_that_does_not_start_is_no_mark(folder, monkeypatch, capsys):
    monkeypatch.setattr(answers, "command", lambda: [sys.executable, "-c", ""])
    assert main(["mark", str(folder({"alice.py": SHOUT}))]) == 1
    out, error = capsys.readouterr()
    assert "alice" not in out
    assert error == "echo_kit: the process that runs the answers does not start: 1 answer of 1 not marked\n"


@posix
def test_ctrl_c_keeps_what_was_marked_and_ends_the_rest(folder, tmp_path):
    endless = (
        "import os, signal\nopen(os.environ['BEGUN'], 'w').write('x')\nsignal.pthread_sigmask(0, [14])\nwhile 1: 1\n"
    )
    root, begun, file = folder({"alice.py": SHOUT, "bob.py": endless + SHOUT}), tmp_path / "begun", tmp_path / "m.csv"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    os.mkfifo(begun)
    reader = os.open(begun, os.O_RDONLY | os.O_NONBLOCK)
    environment = {"BEGUN": str(begun), "TMPDIR": str(temporary)}
    with Program("mark", root, "--jobs", 1, "--csv", file, env=environment) as program:
        assert select.select([reader], [], [], LIMIT)[0], "bob's answer does not run"
        program._process.send_signal(signal.SIGINT)
        code, errors = program.end()
    os.close(reader)
    assert (code, errors) == (1, "echo_kit: stopped by Ctrl+C: 1 answer of 2 not marked\n")
    assert re.search(r"^alice  +1\.2 Shout  yes ", program.out, re.MULTILINE)
    assert [line[0] for line in csv.reader(file.read_text("utf-8-sig").splitlines())] == ["student", "alice"]
    assert list(temporary.iterdir()) == []
    assert left_over(temporary) == []


# -- a class -----------------------------------------------------------------------------------------------------------


@cache
def top_of(module):
    """What a module defines at its top, by name: (the source, the names that it uses)."""
    text, found = Path(module.__file__).read_text("utf-8"), {}
    for node in ast.parse(text).body:
        kept = [each for each in getattr(node, "decorator_list", ()) if "contextmanager" in ast.unparse(each)]
        source = "\n".join([*(f"@{ast.unparse(each)}" for each in kept), ast.get_source_segment(text, node)])
        used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [(alias.asname or alias.name).split(".")[0] for alias in node.names]
        elif isinstance(node, ast.Assign):
            names = [each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        else:
            names = [getattr(node, "name", "")]
        found |= dict.fromkeys(names, (source, used))
    return found


def handed_in(number, function):
    """What a student writes: the function, and what it uses, and the check."""
    top, needed, open_ = top_of(sys.modules[function.__module__]), {}, [function.__name__]
    while open_:
        name = open_.pop()
        if name in top and name not in needed:
            needed[name] = top[name][0]
            open_ += top[name][1]
    sources = dict.fromkeys(source for name, (source, _) in top.items() if name in needed)
    return "\n\n".join([*sources, "import echo_kit", f'echo_kit.check("{number}", {function.__name__})'])


@posix
@pytest.mark.soak
def test_a_class_of_thirty(tmp_path, monkeypatch):
    """All right and wrong answers of our lists, dealt to thirty students, and the hostile ones: each gets its mark."""
    temporary, root, size, deserved = tmp_path / "temporary", tmp_path / "class", 30, {}
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    hostile = [each for each in JUDGED.items() if isinstance(each[1][0], str)]
    for n in range(size):
        for number in EXERCISES:
            pool = [(function, True) for each, function in RIGHT if each == number]
            pool += [(function, False) for each, function, *_ in WRONG if each == number]
            function, passes = pool[n % len(pool)]
            path, text = root / f"student {n:02}" / f"{number}.ipynb", notebook(handed_in(number, function))
            if number == "1.2" and n < len(hostile):
                _, (text, passes, _) = hostile[n]
                path = path.with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            deserved[path.parent.name, number] = passes
    file, before = tmp_path / "marks.csv", os.times()
    began = time.perf_counter()
    with Program("mark", root, "--csv", file, "--limit", 20) as program:
        code, errors = program.end(300)
    took, after = time.perf_counter() - began, os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    print(f"{len(deserved)} answers in {took:.0f} s, {cpu:.0f} s of CPU time")
    assert (code, errors) == (0, "")
    _, *lines = csv.reader(file.read_text("utf-8-sig").splitlines())
    got = {(line[0], line[1].split()[0]): line for line in lines}
    assert got.keys() == deserved.keys()
    assert [line for each, line in got.items() if (line[2] == "yes") is not deserved[each]] == []
    assert left_over(temporary) == []
    assert list(temporary.iterdir()) == []
