"""`python -m echo_kit lessons DIR`, as a user runs it: all that the notebooks need, and no answer is lost."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..programs import LIMIT, ROOT

NOTEBOOKS = ROOT / "notebooks"
ENV = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {"PYTHONUTF8": "1"}


def lessons(*arguments, before=()):
    """(exit code, output, errors) of the command in the folder of this clone."""
    command = [*before, sys.executable, "-W", "error", "-m", "echo_kit", "lessons", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, encoding="utf-8", timeout=LIMIT, check=False)
    return done.returncode, done.stdout, done.stderr


def files(folder):
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def complains(done, *words):
    code, output, errors = done
    assert (code, output) == (2, "")
    assert re.fullmatch(r"echo_kit: [^\n]+\n", errors), errors
    assert [word for word in words if word not in errors] == [], errors


def committed():
    names = subprocess.run(
        ["git", "ls-files"], cwd=NOTEBOOKS, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if names.returncode:
        pytest.skip("this is no clone")
    return set(names.stdout.splitlines())


def test_all_but_the_solutions(tmp_path):
    code, output, errors = lessons(tmp_path / "a" / "course")
    assert (code, errors) == (0, "")
    copied = files(tmp_path / "a" / "course")
    assert set(copied) == {name for name in committed() if not name.startswith("solutions/")}
    assert copied == {name: (NOTEBOOKS / name).read_bytes() for name in copied}
    assert output.splitlines() == [
        f"{len(copied)} files copied into {tmp_path / 'a' / 'course'}; 0 were there already",
        "Without the solutions: with --solutions the same command adds them",
        f'To begin: jupyter lab "{tmp_path / "a" / "course" / "part1_single_socket.ipynb"}"',
    ]


def test_the_solutions_can_be_added_later(tmp_path):
    lessons(tmp_path)
    there = files(tmp_path)
    code, output, errors = lessons(tmp_path, "--solutions")
    assert (code, errors) == (0, "")
    more = {name for name in committed() if name.startswith("solutions/")}
    assert set(files(tmp_path)) == there.keys() | more
    assert f"{len(more)} files copied" in output
    assert f"; {len(there)} were there already\n" in output
    assert "Without the solutions" not in output
    assert "Kept as they are" not in output


def test_nothing_of_a_students_is_overwritten(tmp_path):
    mine = tmp_path / "part1_exercises.ipynb"
    mine.write_bytes(b"my answers")
    (tmp_path / "notes.txt").write_bytes(b"mine, too")
    (tmp_path / "QUIZ.md").mkdir()
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "client.py").symlink_to(tmp_path / "nowhere.py")
    for again in (False, True):
        code, output, errors = lessons(tmp_path)
        assert (code, errors) == (0, "")
        kept = "Kept as they are, though this version of echo_kit has others: "
        assert f"{kept}QUIZ.md, part1_exercises.ipynb and programs/client.py\n" in output
        assert output.startswith("0 files copied" if again else f"{len(files(tmp_path)) - 2} files copied"), output
        assert mine.read_bytes() == b"my answers"
        assert not (tmp_path / "nowhere.py").exists()
        assert (tmp_path / "surprises.ipynb").read_bytes() == (NOTEBOOKS / "surprises.ipynb").read_bytes()


def test_hidden_files_and_those_of_python_stay_at_home(tmp_path):
    package = tmp_path / "clone" / "echo_kit"
    package.parent.mkdir()
    package.symlink_to(ROOT / "echo_kit", target_is_directory=True)  # __file__ is below tmp_path then
    home = tmp_path / "clone" / "notebooks"
    for name in (
        "a.ipynb",
        ".echo_kit_progress.json",
        ".ipynb_checkpoints/a.ipynb",
        "__pycache__/a.pyc",
        "programs/a.py",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name, encoding="utf-8")
    command = [sys.executable, "-m", "echo_kit", "lessons", str(tmp_path / "course")]
    subprocess.run(command, cwd=package.parent, env=ENV, stdout=subprocess.DEVNULL, timeout=LIMIT, check=True)
    assert set(files(tmp_path / "course")) == {"a.ipynb", "programs/a.py"}


# -- a bad DIR: one sentence, exit code 2 -----------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "course"])
def test_a_file_is_no_folder(below, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    complains(lessons(tmp_path / "file" / below), "cannot be a folder, a file is in the way: give another DIR")
    assert files(tmp_path) == {"file": b"mine"}


def test_a_file_where_a_folder_belongs(tmp_path):
    (tmp_path / "programs").write_text("mine", encoding="utf-8")
    complains(lessons(tmp_path), "programs' cannot be a folder, a file is in the way: give another DIR")
    assert (tmp_path / "programs").read_text(encoding="utf-8") == "mine"


def test_no_name_and_a_name_that_is_too_long(tmp_path):
    complains(lessons(""), "'' is not a folder")
    complains(lessons(), "DIR", "--help says more")
    complains(lessons(tmp_path / ("x" * 300)), "cannot be written", "name too long")


# Drop CAP_DAC_OVERRIDE (1) by PR_CAPBSET_DROP (24): root then may write no more than anybody else.
AS_ANYBODY = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets root give away its right to write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o500)
    done = lessons(folder / "course", before=(sys.executable, "-c", AS_ANYBODY))
    complains(done, "course' cannot be written (Permission denied): 0 files of ")


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size there")
def test_no_room_leaves_no_half_file(tmp_path):
    """The limit of a file's size stands for a full disk: the system takes half a file, and then no more."""
    limit = max(path.stat().st_size for path in NOTEBOOKS.glob("*.ipynb")) // 1024 - 1  # KiB
    done = lessons(tmp_path, before=("bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash"))
    complains(done, "cannot be written (File too large)", "the same command goes on from here")
    copied = files(tmp_path)
    assert copied
    assert copied == {name: (NOTEBOOKS / name).read_bytes() for name in copied}
    assert lessons(tmp_path)[0] == 0
    assert set(files(tmp_path)) == {name for name in committed() if not name.startswith("solutions/")}


def test_a_package_without_notebooks_says_so(tmp_path):
    (tmp_path / "echo_kit").symlink_to(ROOT / "echo_kit", target_is_directory=True)
    command = [sys.executable, "-m", "echo_kit", "lessons", str(tmp_path / "course")]
    done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=LIMIT, check=False)
    complains((done.returncode, done.stdout, done.stderr), "this copy of echo_kit has no notebooks")


# -- that the folder is complete in itself ----------------------------------------------------------------------------

LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


@pytest.mark.parametrize(
    "path", sorted([*NOTEBOOKS.rglob("*.ipynb"), *NOTEBOOKS.rglob("*.md")]), ids=lambda path: path.name
)
def test_no_link_leaves_the_folder_of_the_lessons(path: Path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for target in map(Path, LINK.findall(text)):
        found = (path.parent / target).resolve()
        assert found.is_relative_to(NOTEBOOKS), target
        assert found.exists(), target
