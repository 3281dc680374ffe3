"""Run the README's test command again and again, half under load, in random order. Exit code 1 on any failure.

    python .ci/repeat.py --runs 50                                        # hours: each run takes minutes
    python .ci/repeat.py --runs 4 -- -n 2 --dist loadscope tests/views    # with other arguments of pytest

It prints a table, a row after each run. The order is that of the row's seed. An even seed has two processes beside it
that compute all the time, so `--runs 1 --seed 7` is the seventh run again. Files change places, and the tests in a file
do; the cells of a notebook never.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
SEED, RESULT = "ECHO_KIT_ORDER", "ECHO_KIT_RESULT"
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"  # ends with its parent


# -- in pytest: this file is a plugin, too (-p repeat) ----------------------------------------------------------------


def pytest_collection_modifyitems(items):
    """Another order, the same one in all of xdist's processes."""
    chance, files = random.Random(os.environ[SEED]), {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    files = list(files.values())
    chance.shuffle(files)
    for each in files:
        if each[0].path.suffix == ".py":
            chance.shuffle(each)
    items[:] = [item for each in files for item in each]


def pytest_terminal_summary(terminalreporter):
    """It is called in xdist's first process only."""
    stats = terminalreporter.stats
    failed = [report.nodeid for kind in ("failed", "error") for report in stats.get(kind, ())]
    result = {"passed": len(stats.get("passed", ())), "failed": failed}
    Path(os.environ[RESULT]).write_text(json.dumps(result), encoding="utf-8")


# -- the tool ---------------------------------------------------------------------------------------------------------


@contextmanager
def load(processes):
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


def run(arguments, seed, log, limit):
    """One run of pytest: passed, the names of what failed, and seconds. At `limit` seconds it is ended."""
    result = log.with_suffix(".json")
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    own = {SEED: str(seed), RESULT: str(result), "PYTHONPATH": path}
    command = [sys.executable, "-m", "pytest", "-p", "repeat", "--no-loadscope-reorder", *arguments]
    began, code = time.monotonic(), None
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=HERE.parent, env=os.environ | own, stdout=file, stderr=file, start_new_session=True
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
        finally:
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found = json.loads(result.read_text("utf-8")) if result.exists() else {"passed": 0, "failed": []}
    if code != 0 and not found["failed"]:
        found["failed"] = ["ended at its limit" if code is None else f"pytest's exit code is {code}"]
    return found["passed"], found["failed"], time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next ones have the next numbers")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no run begins after that")
    parser.add_argument("--limit", type=float, default=60, help="minutes after which a run is ended")
    parser.add_argument("arguments", nargs="*", help="pytest's, in place of the README's")
    asked = parser.parse_args()
    command = subprocess.check_output([sys.executable, HERE / "readme_command.py"], text=True)
    arguments = asked.arguments or command.split("/bin/pytest ")[1].split()
    logs = Path(tempfile.mkdtemp(prefix="repeat-"))
    print(f"pytest {' '.join(arguments)}\noutput: {logs}\n")
    print("| run | seed | load | passed | failed | seconds | names |\n| ---: | ---: | --- | ---: | ---: | ---: | --- |")
    began, done, bad = time.monotonic(), 0, 0
    while done < asked.runs and time.monotonic() - began < asked.minutes * 60:
        seed = asked.seed + done
        busy, done = 0 if seed % 2 else 2, done + 1
        with load(busy):
            passed, failed, seconds = run(arguments, seed, logs / f"{done}.txt", asked.limit * 60)
        bad += bool(failed)
        names = "<br>".join(failed)
        beside = f"{busy} processes" if busy else "none"
        print(f"| {done} | {seed} | {beside} | {passed} | {len(failed)} | {seconds:.0f} | {names} |", flush=True)
    print(f"\n{done} of {asked.runs} runs, {bad} with a failure")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
