"""Benchmarks measure: nothing else may run beside them. Each prints a table (pytest -rP) and fails at twice its aim."""

import os

import pytest


@pytest.fixture(autouse=True)
def alone():
    assert "PYTEST_XDIST_WORKER" not in os.environ, "a benchmark measures: run it without -n"
