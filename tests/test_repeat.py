""".ci/repeat.py, which runs the tests again and again: it changes the order, and says what failed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .lab import write_notebook

TOOL = Path(__file__).parent.parent / ".ci" / "repeat.py"
TESTS = """import os
import pytest

@pytest.mark.parametrize("number", range(8))
def test_is_in_some_order(number):
    with open("order.txt", "a") as file:
        print(os.environ["ECHO_KIT_ORDER"], number, file=file)

def test_is_wrong():
    assert os.environ["ECHO_KIT_ORDER"] != "2"
"""


def repeat(folder, *arguments):
    """What it says; its output is kept in `folder`."""
    command, own = [sys.executable, TOOL, *arguments], {"TMPDIR": str(folder), "TEMP": str(folder)}
    return subprocess.run(
        command, env=os.environ | own, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False
    )


@pytest.mark.soak
def test_it_changes_the_order_and_names_what_failed(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS.replace("order.txt", str(tmp_path / "order.txt")), "utf-8")
    write_notebook(tmp_path / "cells.ipynb", "x = 1", *["x += x"] * 6, "assert x == 64")
    options = ["-n", "2", "--dist", "loadscope", "--nbval-lax", "--nbval-current-env", str(tmp_path)]
    done = repeat(tmp_path, "--runs", "2", "--", *options)
    assert (done.returncode, done.stderr) == (1, "")
    rows = re.findall(r"^\| (\d) \| (\d) \| (.*?) \| (\d+) \| (\d+) \| \d+ \| (.*?) \|$", done.stdout, re.MULTILINE)
    first, (*second, name) = rows
    assert first == ("1", "1", "none", "17", "0", "")
    assert second == ["2", "2", "2 processes", "16", "1"]
    assert name.endswith("test_some.py::test_is_wrong")
    orders = {"1": "", "2": ""}
    for line in (tmp_path / "order.txt").read_text("utf-8").splitlines():
        seed, number = line.split()
        orders[seed] += number
    assert {"".join(sorted(each)) for each in orders.values()} == {"01234567"}
    assert len({*orders.values(), "01234567"}) == 3, orders


def test_it_runs_the_readmes_command(tmp_path):
    done = repeat(tmp_path, "--runs", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pytest -n 2 --dist loadscope --nbval notebooks tests\n")
