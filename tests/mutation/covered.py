"""Which tests run which lines, by coverage.py. As a pytest plugin (`-p covered`) it says which test runs.

Lines of a thread that coverage.py does not see have no test. A test that hangs under it (on CPython 3.11, some of
those with an exception for another thread) ends its process, and is left out by the next.
"""

import ast
import functools
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import coverage
import pytest

ROOMS = ("watch", "views", "course")
ALSO = ("live", "load", "test_server.py", "test_client.py", "test_program.py")
TESTS = [f"tests/{name}" for name in (*ROOMS, *ALSO)]
ENOUGH, FILES = 60.0, 4  # seconds that a mutant's tests took for the map; test files for one that survived
RUN = ["coverage", "run", "--source=echo_kit", "-m", "pytest", "--disable-plugin-autoload", "-q", "-p", "covered"]
HANGS = ["-o", "faulthandler_timeout=60", "-o", "faulthandler_exit_on_timeout=true"]


def times():
    """Each test that has begun, and its seconds; None if it did not end."""
    path = Path(os.environ["COVERED"], "times.jsonl")
    return dict(map(json.loads, path.read_text().splitlines())) if path.exists() else {}


def note(test, seconds):
    with Path(os.environ["COVERED"], "times.jsonl").open("a") as file:
        file.write(json.dumps([test, seconds]) + "\n")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    begun = times()
    items[:] = [item for item in items if item.nodeid not in begun]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    note(item.nodeid, None)
    coverage.Coverage.current().switch_context(item.nodeid)
    began = time.perf_counter()
    result = yield
    coverage.Coverage.current().switch_context("")
    note(item.nodeid, time.perf_counter() - began)
    return result


@functools.cache
def parts(path):
    """Of a module: its functions, as (first line, last line), and the lines of its annotations."""
    functions, notes = [], set()
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append((node.lineno, node.end_lineno))
        for each in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            notes.update(range(each.lineno, each.end_lineno + 1) if each else ())
    return functions, notes


class Covered:
    """Made once, in `folder`, from the project in the current one."""

    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        os.environ["COVERED"] = str(folder)
        paths = f"{Path.cwd()}{os.pathsep}{Path(__file__).parent}"
        while not (folder / "whole").exists():
            begun = len(times())
            environ = {**os.environ, "PYTHONPATH": paths, "COVERAGE_FILE": str(folder / f"{begun}.cov")}
            subprocess.run([sys.executable, "-m", *RUN, *HANGS, *TESTS], env=environ, check=False)
            if len(times()) == begun:
                (folder / "whole").touch()
        self.seconds = {test: took for test, took in times().items() if took is not None}
        self.lines = {}
        tables = "line_bits join file on file.id = file_id join context on context.id = context_id"
        for each in folder.glob("*.cov"):
            with closing(sqlite3.connect(each)) as base:
                for path, test, bits in base.execute(f"select path, context, numbits from {tables}"):
                    module = "echo_kit/" + path.rpartition("/echo_kit/")[2]
                    for line in coverage.numbits.numbits_to_nums(bits) if test in self.seconds else ():
                        self.lines.setdefault((module, line), set()).add(test)

    def tests(self, mutant, again):
        """Those of its line, else of the function around it, else of the module; the quickest, its own file's before
        others. `again`: the whole files, its own and those with most of these tests.
        """
        around = max((each for each in parts(mutant.path)[0] if each[0] <= mutant.row <= each[1]), default=(0, 0))
        for lines in (range(mutant.row, mutant.last + 1), range(around[0] + 1, around[1] + 1), range(1, 1000)):
            if found := set().union(*(self.lines.get((mutant.path, line), ()) for line in lines)):
                break
        own = f"test_{Path(mutant.path).stem}.py"
        if again:
            most = Counter(test.partition("::")[0] for test in found).most_common()
            files = [*map(str, Path("tests").glob(f"*/{own}")), *(file for file, _ in most)]
            return list(dict.fromkeys(files))[:FILES]
        chosen, took = [], 0.0
        for test in sorted(found, key=lambda each: (own not in each, self.seconds[each], each)):
            took += self.seconds[test]
            if took > ENOUGH and chosen:
                break
            chosen.append(test)
        return chosen
