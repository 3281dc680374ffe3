"""Benchmarks measure: nothing else may run beside them. Each prints a table (pytest -rP) and fails at twice its aim."""

import os
import time

import pytest

BEGAN, SECONDS = time.monotonic(), float(os.environ.get("ECHO_KIT_BENCH_SECONDS", "inf"))


@pytest.fixture(autouse=True)
def alone():
    assert "PYTEST_XDIST_WORKER" not in os.environ, "a benchmark measures: run it without -n"
    if time.monotonic() - BEGAN > SECONDS:
        pytest.skip(f"ECHO_KIT_BENCH_SECONDS={SECONDS:g} are over")
