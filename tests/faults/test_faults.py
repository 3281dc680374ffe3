"""Break the product on purpose: the notebooks must notice. Each fault is one line changed in a copy of the package.

There is one at least in each room. That each is a line of the code as it is, test_package.py sees.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

FAULTS = {
    "the threaded server handles one client at a time": (
        "part2_multithreaded",
        "servers.py",
        "                    thread.start()\n",
        "                    thread.run()\n",
    ),
    "the echo drops a byte": (
        "part1_exercises",
        "servers.py",
        "                conn.sendall(data)\n",
        "                conn.sendall(data[1:])\n",
    ),
    "the last message is lost": (
        "part1_single_socket",
        "views/story.py",
        "for each in zip(lane.to_server, ends, strict=True) if",
        "for each in list(zip(lane.to_server, ends, strict=True))[:-1] if",
    ),
    "two clients' names are swapped": (
        "part1_single_socket",
        "client.py",
        "name=self.name)",
        'name={"alice": "bob", "bob": "alice"}.get(self.name, self.name))',
    ),
    "the code view marks the next line": (
        "part1_single_socket",
        "views/source.py",
        "chain.append((code, frame.f_lineno",
        "chain.append((code, 1 + frame.f_lineno",
    ),
    "the backlog view loses a client": (
        "part1_single_socket",
        "views/kernel.py",
        "        return sorted(self.rows.values()",
        "        return sorted(list(self.rows.values())[1:]",
    ),
    "a thread that waits in recv counts as one that works": (
        "part1_single_socket",
        "views/timeline.py",
        "if state in (WORKS, IN_SEND)",
        "if state in (WORKS, IN_SEND, IN_RECV)",
    ),
    "no waiting is recorded": (
        "part1_single_socket",
        "views/timeline.py",
        "        if lane.connected is None:\n            return []\n",
        "        return []\n",
    ),
    "an accept is not recorded": (
        "part1_single_socket",
        "watch/calls.py",
        '        record(accepted, task, "accept", began)\n',
        "        pass\n",
    ),
    "a thread that waits in recv is said to work": (
        "part1_single_socket",
        "views/lanes.py",
        '"recv": Transition(IN_RECV, WORKS, closes=True)',
        '"recv": Transition(WORKS, WORKS, closes=True)',
    ),
    "whatever happened, the first option is said to have happened": (
        "part1_single_socket",
        "live/prediction.py",
        '_sentence("What happened:", self.fits)',
        '_sentence("What happened:", next(iter(values)))',
    ),
    "a swarm does not compare what comes back": (
        "part3_many_clients",
        "load/clients.py",
        "        client.got += data\n",
        "        client.got += data[1:]\n",
    ),
    "a launched server has all descriptors that the system gives": (
        "part3_many_clients",
        "load/launch.py",
        '"descriptors": descriptors, "cores"',
        '"descriptors": None, "cores"',
    ),
    "a launched server's memory is never known": (
        "part3_many_clients",
        "load/launch.py",
        "        return 1024 * sum(sizes) if sum(sizes) else None\n",
        "        return None\n",
    ),
    "a check takes every answer for right": (
        "part1_exercises",
        "course/trial.py",
        "        if not condition:\n            raise self.not_yet(expected, got, hint)\n",
        "        return\n",
    ),
}


def broken_copy(folder: Path, fault: tuple[str, str, str, str]) -> None:
    """A copy of the package, with the fault, and of a notebook, as it is."""
    notebook, module, right, wrong = fault
    shutil.copytree(ROOT / "echo_kit", folder / "echo_kit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "notebooks" / "programs", folder / "notebooks" / "programs")
    for each in ["conftest.py", "sanitize.cfg", f"{notebook}.ipynb"]:
        shutil.copy(ROOT / "notebooks" / each, folder / "notebooks")
    target = folder / "echo_kit" / module
    target.write_text(target.read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")


def run_nbval(folder: Path, notebook: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "-x", "--color=no"]
    return subprocess.run(
        [*command, "--rootdir", str(folder), str(folder / "notebooks" / f"{notebook}.ipynb")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("what", FAULTS)
def test_the_notebooks_notice_that(what, tmp_path):
    broken_copy(tmp_path, FAULTS[what])
    result = run_nbval(tmp_path, FAULTS[what][0])
    assert result.returncode == 1, result.stdout
    assert "Notebook cell execution failed" in result.stdout


def test_the_copy_without_a_fault_passes(tmp_path):
    """Else the tests above would prove nothing."""
    broken_copy(tmp_path, ("part1_single_socket", "servers.py", "import socket\n", "import socket\n\n"))
    result = run_nbval(tmp_path, "part1_single_socket")
    assert result.returncode == 0, result.stdout
