"""Each exercise: right solutions pass, however they are written, and of a wrong one the report says what is wrong."""

import contextlib
import json
import re
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from IPython.core.autocall import ExitAutocall

import echo_kit
from echo_kit.course import exercises
from echo_kit.course.exercises import EXERCISES

from . import right_answers, wrong_answers
from .right_answers import RIGHT
from .wrong_answers import SLOW, WRONG

LONG = 20  # seconds after which a check is too slow
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


FIRST = dict(reversed(RIGHT))  # the first right answer to each exercise, by number


def named(values):
    return [f"{number}-{function.__name__}" for number, function, *_ in values]


def soaked(values, slow):
    """As parameters of a test; those that are slow are for the long run only."""
    marks = {True: pytest.mark.soak, False: ()}
    return [pytest.param(*each, marks=marks[slow(each)]) for each in values]


@pytest.fixture(autouse=True)
def as_in_a_new_kernel():
    exercises.failures.clear()


@pytest.fixture
def failed_twice(as_in_a_new_kernel):
    """The next failure of an exercise is the third one: its hint names the call, too."""
    exercises.failures.update(dict.fromkeys(EXERCISES, 2))


@pytest.fixture(autouse=True)
def clients_of_the_cell():
    """Those that a student's cell would hold in its variables."""
    yield
    for client in wrong_answers.kept:
        client.close()
    wrong_answers.kept.clear()


@pytest.fixture
def ended(monkeypatch):
    """Ends the threads that no stop can end: they wait for a place or a lock, or catch every exception."""
    before = set(threading.enumerate())
    wrong_answers.business.set()
    yield
    monkeypatch.setattr(threading, "excepthook", lambda died: None)  # the check has closed their sockets long ago
    wrong_answers.business.clear()
    for lock in (wrong_answers.held, wrong_answers.asked):
        if lock.locked():
            lock.release()
    for thread in set(threading.enumerate()) - before:
        frame = sys._current_frames().get(thread.ident)
        while frame is not None:
            if "places" in frame.f_locals:
                frame.f_locals["places"].release(100)
                break
            frame = frame.f_back
        del frame
        thread.join(LONG)


@pytest.fixture(autouse=True)
def daemons_end(monkeypatch):
    """Those of a right answer, which no stop can end: they wait outside of sockets."""
    before = set(threading.enumerate())
    yield
    monkeypatch.setattr(threading, "excepthook", lambda died: None)  # of the SystemExit that the stop left for them
    right_answers.over.set()
    left = set(threading.enumerate()) - before
    for _ in left:
        right_answers.diary.put(None)
    for thread in left:
        thread.join(LONG)
    right_answers.over.clear()
    while not right_answers.diary.empty():
        right_answers.diary.get()


every_right = soaked(RIGHT, slow=lambda each: each[1] is not FIRST[each[0]])
every_wrong = soaked(WRONG, slow=lambda each: each[1] in SLOW)


@pytest.mark.parametrize(("number", "function"), every_right, ids=named(RIGHT))
def test_a_right_solution_passes(number, function, capsys):
    began = time.perf_counter()
    report = echo_kit.check(number, function)
    assert report.passed, report
    assert str(report).startswith(f"✔ {number} {EXERCISES[number].title}: solved\n  passed    the server is started\n")
    assert report.view is None
    assert report.total == len(report.steps) == EXERCISES[number].steps  # the number is data, as no failure knows it
    assert time.perf_counter() - began < LONG


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a wrong answer leaves its sockets to the garbage collector
@pytest.mark.parametrize(("number", "function", "expected", "got", "hint"), every_wrong, ids=named(WRONG))
def test_the_report_says_what_is_wrong(number, function, expected, got, hint, ended, failed_twice, capsys):
    began = time.perf_counter()
    report = echo_kit.check(number, function)
    assert not report.passed, report
    assert expected in report.problem.expected, report
    assert got in report.problem.got, report
    assert hint in report.problem.hint, report
    assert str(report).startswith(f"✘ {number} {EXERCISES[number].title}: not yet\n")
    if number in ("3.3", "S.2"):  # its server is none that a student has written: only where that stands
        assert "server thread" in str(report.view)
    elif expected == "starts to listen":
        assert report.view is None
    elif number == "1.9":  # a program's own lines, and nothing of the server
        assert f"def {function.__name__}()" in str(report.view), report.view
    else:  # the lines of the failing run, and who was there
        assert ("serve_single" if number == "1.6" else function.__name__) in str(report.view.code), report.view
        were_there = re.findall(r"(alice|bob|dave|erin) gets", report.problem.expected)
        assert len(report.view.timeline.lanes) >= len(were_there)
    assert time.perf_counter() - began < LONG


def test_each_exercise_has_right_and_wrong_answers_enough():
    for number in EXERCISES:
        assert sum(each[0] == number for each in RIGHT) >= 2, number
        assert sum(each[0] == number for each in WRONG) >= 3, number
        assert sum(each[0] == number and each[1] not in SLOW for each in WRONG) >= 2, number
    assert [each[0] for each in RIGHT] == sorted(each[0] for each in RIGHT)


def solutions():
    """(number, function) for each check cell of the solution notebooks; their cells run as in a kernel."""
    for path in sorted(NOTEBOOKS.glob("solutions/*.ipynb")):
        names = {"__name__": "__main__"}
        for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"]):
            if cell["cell_type"] == "code":
                source = "".join(cell["source"])
                checks = re.fullmatch(r'echo_kit\.check\("([\dS.]+)", (\w+)\)', source.strip())
                if checks:
                    yield checks[1], names[checks[2]]
                else:
                    exec(compile(source, f"{path.stem}, cell {number}", "exec"), names)


@pytest.mark.soak  # the command that compares the notebooks runs them anyway
def test_the_solutions_of_the_notebooks_pass(capsys):
    found = list(solutions())
    if not found:
        pytest.skip("no solution notebooks")
    assert [number for number, _ in found] == list(EXERCISES)
    took = {}
    for number, function in found:
        began = time.perf_counter()
        report = echo_kit.check(number, function)
        took[number] = time.perf_counter() - began
        assert report.passed, report
    with capsys.disabled():
        print(f"all solutions: {sum(took.values()):.1f} s", {number: round(each, 2) for number, each in took.items()})
    assert sum(took.values()) < LONG


SAME = [each for each in WRONG if each[1].__name__ in ("shouts_text", "closes_the_wrong_socket", "forgets_the_rest")]
SAME += [
    each for each in WRONG if each[1].__name__ in ("catches_around_recv_only", "forgets_the_arguments", "does_not_join")
]


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("number", "function"), [each[:2] for each in SAME], ids=named(SAME))
def test_the_same_words_each_time(number, function, busy):
    with busy():
        reports = set()
        for _ in range(10):
            exercises.failures.clear()
            reports.add(str(echo_kit.check(number, function)))
    assert len(reports) == 1, "\n".join(reports)


def test_the_first_failures_name_the_idea_and_from_the_third_on_the_call(capsys):
    def greets(conn, addr):
        conn.sendall(b"Welcome!\n")

    def shouts(conn, addr):
        while data := conn.recv(1024):
            conn.sendall(data.upper())

    hints = [echo_kit.check("1.2", wrong_answers.takes_it_for_latin_1).problem.hint for _ in range(2)]
    hints.append(echo_kit.check("1.3", greets).problem.hint)  # each exercise has a count of its own
    assert echo_kit.check("1.2", None).problem.hint.startswith("the last line of the cell")  # nothing was tried
    hints += [echo_kit.check("1.2", wrong_answers.takes_it_for_latin_1).problem.hint for _ in range(2)]
    assert echo_kit.check("1.2", shouts).passed
    hints.append(echo_kit.check("1.2", wrong_answers.takes_it_for_latin_1).problem.hint)
    assert [("no decode is needed" in each, "upper()" in each) for each in hints] == [
        (True, False),
        (True, False),
        (False, False),
        (True, True),
        (True, True),
        (True, False),
    ]


def test_what_an_earlier_check_has_left_in_a_variable(monkeypatch, capsys):
    """A cell that is run twice: the report says where the old values come from."""
    begins = "each client begins with 0: set it inside the function"
    total = 0

    def count_bytes(conn, addr):
        nonlocal total
        while data := conn.recv(1024):
            total += len(data)
            conn.sendall(f"{total}\n".encode())

    assert [echo_kit.check("1.4", count_bytes).problem.hint for _ in range(2)] == [begins, begins]

    monkeypatch.setattr(wrong_answers, "names", [])
    who = wrong_answers.forgets_on_a_clean_leave
    looks = [echo_kit.check("2.4", who).problem.hint for _ in range(2)]
    assert looks[0] != looks[1], looks
    assert "an earlier check" in looks[1], looks


@pytest.mark.parametrize(("number", "answer"), [("1.2", bytes.upper), ("1.8", bytes)])
def test_an_answer_that_knows_the_messages_fails_with_another_seed(number, answer, capsys):
    known = {}

    def handle(conn, addr):
        with contextlib.suppress(ConnectionError):
            while data := conn.recv(100_000):
                if learns:
                    known[data] = answer(data)
                conn.sendall(known.get(data, b"?"))

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                conn, addr = s.accept()
                with conn:
                    handle(conn, addr)

    function = handle if number == "1.2" else serve
    learns = True
    assert echo_kit.check(number, function).passed
    learns = False
    assert echo_kit.check(number, function).passed
    report = echo_kit.check(number, function, seed=1)
    assert 'got "?"' in report.problem.got, report


def test_an_answer_that_knows_the_numbers_fails_with_another_seed(capsys):
    numbers, learns = [], True

    def count_bytes(conn, addr):
        total = 0
        while data := conn.recv(100_000):
            total += len(data)
            if learns:
                numbers.append(total)
            conn.sendall(b"%d\n" % (total if learns else next(known)))

    assert echo_kit.check("1.4", count_bytes).passed
    learns = False
    for seed in (0, 1, 2):
        known = iter(numbers)
        assert echo_kit.check("1.4", count_bytes, seed=seed).passed == (seed == 0)


def sends_first(sock, data):
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    sender.join()
    return sock.recv(len(data))


def fails_in_a_thread(sock, data):
    threading.Thread(target=lambda: data / 2).start()
    return sends_first(sock, data)


@pytest.mark.parametrize(("function", "errors"), [(sends_first, []), (fails_in_a_thread, [TypeError])])
def test_threads_that_a_function_leaves_behind_end_silently(function, errors, monkeypatch):
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    before = set(threading.enumerate())
    assert not echo_kit.check("S.2", function).passed
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG)
    assert [each.exc_type for each in died] == errors


@pytest.mark.parametrize("number", ["4.1", "1.0", "", "1", "1.10", None, 1.2, ["1.1"]])
def test_a_number_that_no_exercise_has(number):
    with pytest.raises(ValueError, match=rf"there is no exercise {re.escape(repr(number))}; there are: 1\.1, .*3\.2"):
        echo_kit.check(number, print)


def test_the_clients_of_an_experiment_are_hung_up_in_the_end():
    made = []

    def experiment(server):
        made.extend(echo_kit.Client(server, name=name) for name in ("alice", "bob", "carol"))
        made[1].send("hello")
        made[2].send("hello")
        return made

    assert echo_kit.check("1.6", experiment).passed
    for client in made:
        with pytest.raises(echo_kit.ServerClosed), contextlib.closing(client):
            client.send("x")


def test_exit_ends_the_answer_and_not_the_notebook():
    """In a notebook, exit() is IPython's, and asks the kernel to end."""
    names = {}
    exec(
        "import socket, sys\ndef client_program():\n    s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "    while True:\n        line = input('> ')\n        s.close()\n        exit()\n",
        names,
    )
    asked = []
    names["exit"] = theirs = ExitAutocall(SimpleNamespace(ask_exit=lambda: asked.append("to end")))
    report = echo_kit.check("1.9", names["client_program"])
    assert (report.passed, asked) == (False, [])
    assert "waits in input" not in report.problem.got, report
    assert names["exit"] is theirs


def test_the_names_that_2_2_asks_for_come_from_the_seed():
    said = {}

    def handle(conn, addr):
        said[seed].add(threading.current_thread().name)

    for seed in (0, 1):
        said[seed] = set()
        echo_kit.check("2.2", handle, seed=seed)
    assert said[0]
    assert said[1]
    assert not said[0] & said[1]


def test_a_lock_may_be_an_attribute_of_the_function():
    def who(conn, addr):
        name = None
        try:
            for line in right_answers.lines_of(conn):
                if name is None:
                    name = line.decode()
                    with who.lock:
                        who.names.add(name)
                    line = f"hello {name}".encode()
                elif line == b"/who":
                    with who.lock:
                        line = ", ".join(sorted(who.names)).encode()
                conn.sendall(line + b"\n")
        except ConnectionError:
            print(f"Lost {name}")
        finally:
            with who.lock:
                who.names.discard(name)

    who.lock, who.names = threading.Lock(), set()
    report = echo_kit.check("2.4", who)
    assert report, report
