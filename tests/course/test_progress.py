"""What a student has tried is kept in a file beside the notebook; whatever becomes of that file, a check works."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import echo_kit
from echo_kit.course import progress
from echo_kit.course.exercises import EXERCISES
from echo_kit.course.progress import FILE, LONG, MOST, Row, keep

from .right_answers import shout

WHERE = Path(__file__).parents[2]


def shouts_a_title(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.title())


@pytest.fixture(autouse=True)
def a_students_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ECHO_KIT_PROGRESS")
    monkeypatch.setattr(progress, "_waiting", [])
    monkeypatch.setattr(progress, "_switch", {"on": True})
    return tmp_path


def row(number):
    return next(each for each in echo_kit.progress().rows if each.number == number)


def in_a_new_kernel(program):
    environment = {**os.environ, "PYTHONPATH": str(WHERE)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert done.stderr == ""
    return done.stdout


def test_attempts_and_passes_are_kept_and_what_is_open(capsys):
    assert [each[:4] for each in echo_kit.progress().rows] == [(n, each.title, 0, 0) for n, each in EXERCISES.items()]
    wrong = echo_kit.check("1.2", shouts_a_title)
    assert row("1.2") == Row("1.2", "Shout", 1, 0, wrong.first_wrong)
    assert echo_kit.check("1.2", shout)
    assert row("1.2") == Row("1.2", "Shout", 2, 1, "")
    echo_kit.check("1.2", shouts_a_title)
    assert row("1.2") == Row("1.2", "Shout", 3, 1, "")  # it has been solved
    assert os.listdir() == [FILE]


def test_it_survives_a_restart():
    keep("1.2", "Shout", "")
    keep("1.3", "A greeting", "nobody is greeted")
    told = in_a_new_kernel("import echo_kit; print(echo_kit.progress())")
    lines = told.splitlines()
    assert lines[0] == "exercise                       attempts  passed  open"
    assert "1.2 Shout                             1     yes" in lines
    assert "1.3 A greeting                        1      no  nobody is greeted" in lines
    assert "2.7 A clean end                       0      no  not tried yet" in lines
    assert lines[-1] == f"Kept in {Path(FILE).absolute()}. echo_kit.progress(keep=False) deletes it."


def test_a_sentence_says_so_the_first_time_and_below_the_report_only(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, **named: shown.append(what))
    reports = [echo_kit.check("1.2", shout) for _ in range(2)]
    for each in reports:
        each._ipython_display_()
    assert (
        [FILE in each["text/plain"] for each in shown] == [FILE in each["text/html"] for each in shown] == [True, False]
    )
    assert "echo_kit.progress(keep=False) deletes them" in shown[0]["text/plain"]
    assert str(reports[0]) == str(reports[1])


def test_it_can_be_switched_off(monkeypatch):
    keep("1.2", "Shout", "")
    said = echo_kit.progress(keep=False)
    assert said.kept == "Nothing is kept, until the kernel is restarted."
    assert sum(each.attempts for each in said.rows) == 0
    assert keep("1.2", "Shout", "") == ""
    assert os.listdir() == []
    echo_kit.progress(keep=True)
    assert FILE in keep("1.2", "Shout", "")
    echo_kit.progress(keep=False)
    echo_kit.progress(keep=True)
    monkeypatch.setenv("ECHO_KIT_PROGRESS", "0")
    assert keep("1.2", "Shout", "") == ""
    assert os.listdir() == []
    assert echo_kit.progress().kept == "Nothing is kept: the environment says ECHO_KIT_PROGRESS=0."


def test_what_is_no_attempt():
    echo_kit.check("1.2", None)  # nothing was called
    with pytest.raises(ValueError, match="no exercise"):
        echo_kit.check("9.9", shout)
    assert os.listdir() == []


# -- what can become of the file ---------------------------------------------------------------------------------------


@pytest.fixture
def no_folder(a_students_folder, monkeypatch):
    """Nothing can be written here, not by an administrator either."""
    (a_students_folder / "gone").mkdir()
    monkeypatch.chdir(a_students_folder / "gone")
    (a_students_folder / "gone").rmdir()
    yield
    os.chdir(a_students_folder)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that is in use cannot be deleted there")
def test_a_folder_that_cannot_be_written(no_folder, a_students_folder, monkeypatch):
    assert echo_kit.check("1.2", shout, strict=True).passed
    said = echo_kit.progress()
    assert next(each for each in said.rows if each.number == "1.2").passed == 1
    assert "cannot be written here" in said.kept
    monkeypatch.chdir(a_students_folder)  # with the next attempt it is
    keep("1.2", "Shout", "")
    assert row("1.2").attempts == 2
    assert "Kept in" in echo_kit.progress().kept


def test_a_full_disk_leaves_the_old_file(monkeypatch):
    keep("1.2", "Shout", "")
    before = Path(FILE).read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(json, "dump", lambda *_, **__: os.write(-1, b""))  # raises OSError
        assert keep("1.3", "A greeting", "") == ""
    assert Path(FILE).read_bytes() == before
    assert os.listdir() == [FILE]
    keep("1.4", "Counting bytes", "")
    assert [row(number).attempts for number in ("1.2", "1.3", "1.4")] == [1, 1, 1]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b'{"exercises": 1}',
        b'{"exercises": [["1.2"]]}',
        b'{"exercises": [["1.2", "Shout", "2", 1, ""]]}',
        b'{"exercises": [[["1.2"], "Shout", 2, 1, ""]]}',
        b"[" * 100_000,
        b" " * 2_000_000,
    ],
    ids=lambda each: repr(each[:20]),
)
def test_a_file_that_is_broken_is_put_aside(broken):
    Path(FILE).write_bytes(broken)
    assert "cannot be read" in echo_kit.progress().kept
    keep("1.2", "Shout", "")
    assert row("1.2").attempts == 1
    assert Path(f"{FILE}.broken").read_bytes() == broken
    assert set(os.listdir()) == {FILE, f"{FILE}.broken"}


def test_a_folder_of_that_name():
    Path(FILE).mkdir()
    keep("1.2", "Shout", "")
    assert row("1.2").attempts == 1


def test_two_notebooks_at_once_lose_nothing():
    program = "from echo_kit.course.progress import keep\nfor n in range(100): keep(f'A.{n % 7}', 'Own', 'x' * (n % 3))"
    threads = [threading.Thread(target=in_a_new_kernel, args=[program]) for _ in range(3)]
    for each in threads:
        each.start()
    while any(each.is_alive() for each in threads):  # and whoever reads meanwhile finds it whole
        assert "cannot" not in echo_kit.progress().kept
    rows = {each.number: each for each in echo_kit.progress().rows}
    assert sum(each.attempts for each in rows.values()) == 300
    assert os.listdir() == [FILE]


def test_a_notebook_that_crashed_while_it_wrote_holds_nobody_up():
    new = Path(f"{FILE}.new")
    new.write_text("half")
    os.utime(new, (time.time() - 60, time.time() - 60))
    keep("1.2", "Shout", "")
    assert os.listdir() == [FILE]


def test_a_notebook_that_writes_for_ever_is_waited_for_not_long(monkeypatch):
    monkeypatch.setattr(progress, "WAIT", 0.05)
    Path(f"{FILE}.new").write_text("half")
    assert keep("1.2", "Shout", "") == ""
    assert row("1.2").attempts == 1


def test_the_file_is_small_whatever_is_tried():
    for part in "AB":
        progress._waiting.extend(Row(f"{part}.{number}", "Own", 1, 0, "x") for number in range(MOST - 20))
        keep(f"{part}.0", "Own", "x")
    keep("A.last\n" * 1000, "Own" * 1000, "\x1b[31m" + "x" * 100_000)
    rows = {each.number: each for each in echo_kit.progress().rows if each.attempts}
    assert len(rows) == MOST
    assert all(len(str(value)) <= LONG for each in rows.values() for value in each)
    assert "\x1b" not in Path(FILE).read_text("utf-8") + str(echo_kit.progress())
    assert Path(FILE).stat().st_size < progress.LARGE


def test_markup_is_text():
    keep("A.1", "<script>", "<b>&")
    html = echo_kit.progress()._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;&amp;" in html


def test_an_exercise_is_not_solved_because_another_one_had_its_number(capsys):
    keep("3.1", "A clean goodbye", "")
    assert row("3.1") == Row("3.1", EXERCISES["3.1"].title)
    keep("3.1", EXERCISES["3.1"].title, "bob waits")
    assert row("3.1") == Row("3.1", EXERCISES["3.1"].title, 1, 0, "bob waits")
