"""Mutation score of one room: `python tests/mutation/run.py views`. Linux only. It works on a copy of the project.

cosmic-ray makes the mutants. Of the places that it would change some are drawn by chance, and one change at each. The
tests of a mutant are those that run its line. A process that has loaded pytest, but nothing of ours, forks for each.
"""

import argparse
import importlib
import json
import math
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from cosmic_ray.commands import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import use_db
from covered import ROOMS, TESTS, Covered, parts

HERE = Path(__file__).parent
PROJECT = ("echo_kit", "tests", "notebooks", "img", "pyproject.toml", "README.md", "CONTRIBUTING.md")
LOADED_ONCE = ("matplotlib.backends.backend_agg", "IPython.display", "nbformat", "anywidget", "multiprocessing")
PYTEST = ["--disable-plugin-autoload", "-q"]
CHOSEN = ["-m", ""]  # the long ones too, if they are chosen by name
HANGS = ["-o", "faulthandler_timeout=120", "-o", "faulthandler_exit_on_timeout=true"]  # seconds for one test


class Failed:
    """A pytest plugin: writes down which test failed."""

    def __init__(self, log):
        self.path = log.with_suffix(".failed")
        self.path.unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.path.write_text(report.nodeid)


class Mutant(NamedTuple):
    path: str
    operator: str
    occurrence: int
    row: int
    column: int
    last: int


def sample(keep, room, size, seed):
    """`size` mutants of the room: places by chance, and a change of each by chance. One seed, one sample."""
    session, places, chance = keep / f"{room}.sqlite", {}, random.Random(seed)
    if not session.exists():
        with use_db(session) as base:
            init(sorted(Path("echo_kit", room).glob("*.py")), base, {})
    columns = "module_path, operator_name, occurrence, start_pos_row, start_pos_col, end_pos_row"
    with closing(sqlite3.connect(session)) as base:
        for each in map(Mutant._make, base.execute(f"select {columns} from mutation_specs")):
            if not ("_BitOr_" in each.operator and each.row in parts(each.path)[1]):  # the stroke of `int | None`
                places.setdefault((each.path, each.row, each.column, each.operator.split("_")[0]), []).append(each)
    drawn = chance.sample(sorted(places), min(size, len(places)))
    print(f"{room}: {len(places)} places, {len(drawn)} drawn with seed {seed}", flush=True)
    return [chance.choice(sorted(places[key])) for key in drawn]


def survives(tests, bound, log):
    """Whether a fork of this process passes the tests within `bound` seconds: a hang is a kill. `log`: what it says."""
    if not (pid := os.fork()):
        code = 3
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            output = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
            for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            sys.path.insert(0, str(Path.cwd()))
            chosen = CHOSEN if any("::" in each for each in tests) else []
            options = [*PYTEST, *chosen, *HANGS, "-x", "--tb=short", "-p", "no:cacheprovider"]
            code = pytest.main([*options, *tests], [Failed(log)])
        finally:
            os._exit(code)
    process = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([process], [], [], bound)
    finally:
        os.close(process)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # with what it has started
        _, status = os.waitpid(pid, 0)
    return bool(ended) and status == 0


def is_python(code):
    with suppress(SyntaxError):
        return bool(compile(code, "", "exec"))
    return False


def killed_by(log):
    """The test that failed, if one did."""
    path = log.with_suffix(".failed")
    return path.read_text() if path.exists() else None


def report(rows, room):
    """The survivors, the score, and its 95 % interval (Wilson). What is no Python is no mutant."""
    rows = [row for row in rows if row["python"]]
    same = {(each["path"], each["new"]) for each in tomllib.loads((HERE / "equivalent.toml").read_text())["mutant"]}
    survived = [row for row in rows if row["alive"]]
    left = [row for row in survived if (row["path"], row["new"]) not in same]
    for row in left:
        print(f"survived: {row['path']}:{row['row']}\n  - {row['old']}\n  + {row['new']}")
    killed, counted, z = len(rows) - len(survived), len(rows) - len(survived) + len(left), 1.96
    share, spread = killed / counted, z * z / counted
    half = z * math.sqrt(share * (1 - share) / counted + spread / counted / 4)
    low, high = ((share + spread / 2 + sign * half) / (1 + spread) for sign in (-1, 1))
    print(f"{room}: {killed} of {len(rows)} killed ({killed / len(rows):.1%}). {len(rows) - counted} are equivalent;")
    print(f"without these: {killed} of {counted} ({share:.1%}, 95 % interval {low:.1%} to {high:.1%})")


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("room", choices=ROOMS)
    options.add_argument("--size", type=int, default=80)
    options.add_argument("--seed", type=int, default=17)
    options.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "echo-kit-mutation"))
    options.add_argument("--first", type=int, default=0, help="begin at this one, for a second run beside the first")
    options.add_argument("--again", action="store_true", help="those that survived, with whole test files")
    given = options.parse_args()
    keep, room = given.keep.resolve(), given.room
    keep.mkdir(exist_ok=True)
    results = keep / f"results-{room}.jsonl"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the copy is removed
    with tempfile.TemporaryDirectory() as folder:
        for name in PROJECT:
            copy = shutil.copytree if (HERE.parents[1] / name).is_dir() else shutil.copy2
            copy(HERE.parents[1] / name, Path(folder, name))
        os.chdir(folder)
        os.environ["PYTHONPATH"] = folder
        for command in (["compileall", "-q", "echo_kit"], ["pytest", *PYTEST, *CHOSEN, "-q", "--collect-only", *TESTS]):
            subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)  # not by each fork
        os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
        for name in LOADED_ONCE:
            importlib.import_module(name)
        covered, drawn = Covered(keep / "map"), list(enumerate(sample(keep, room, given.size, given.seed)))

        sound = set()  # tests that failed with a mutant, and passed without one

        def known():
            rows = map(json.loads, results.read_text().splitlines() if results.exists() else ())
            return {row["number"]: row for row in rows}

        for number, mutant in drawn[given.first :] + drawn[: given.first]:
            before = known().get(number)
            if before and not (given.again and before["alive"] and not before["again"]):
                continue
            tests, began = covered.tests(mutant, given.again), time.monotonic()
            bound = 900 + 10 * sum(covered.seconds.get(each, 0) for each in tests)  # for a machine that has more to do
            log, killer = keep / f"{room}-{number}.log", None
            while True:
                with use_mutation(Path(mutant.path), get_operator(mutant.operator)(), mutant.occurrence) as codes:
                    lines = [set(code.splitlines()) for code in codes]
                    old, new = ("\n".join(a - b).strip() for a, b in (lines, lines[::-1]))
                    python = is_python(codes[1])
                    alive = python and (not tests or survives(tests, bound, log))
                killer = killed_by(log) if python else None  # what an earlier run has left says nothing
                if alive or not python or killer in sound:
                    break
                if survives([killer] if killer else tests, bound, log.with_suffix(".plain")):
                    if killer:
                        sound.add(killer)
                    break
                if not killer:  # a crash or a hang of the tests themselves
                    alive = True
                    break
                tests = [each for each in tests if each != killer] if killer in tests else []  # it fails by itself
            row = {"number": number, **mutant._asdict(), "old": old, "new": new, "alive": alive, "again": given.again}
            took, end = round(time.monotonic() - began, 1), "SURVIVED" if alive else "killed" if python else "no Python"
            row |= {"python": python, "tests": len(tests), "killer": killer, "seconds": took}
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(number, end, took, "s  ", new, flush=True)
        report(known().values(), room)


if __name__ == "__main__":
    main()
