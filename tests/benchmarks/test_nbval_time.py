"""How long the notebooks take to check, against as many notebooks with one empty cell each: what nbval itself costs."""

import subprocess
import sys
import time
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
AIM = 4  # times as long; some cells wait for seconds on purpose, for an answer that does not come


def seconds(folder):
    began = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbval", "-p", "no:cacheprovider", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout
    return time.perf_counter() - began


def test_the_notebooks_against_empty_ones(tmp_path):
    for number, _ in enumerate(NOTEBOOKS.rglob("*.ipynb")):
        cell = nbformat.v4.new_code_cell("", execution_count=1)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{number}.ipynb")
    pairs = [(seconds(NOTEBOOKS), seconds(tmp_path)) for _ in range(2)]
    ratio = min(ours / empty for ours, empty in pairs)
    print(f"the notebooks: {ratio:.1f} times the empty ones ({pairs})")
    assert ratio <= 2 * AIM
