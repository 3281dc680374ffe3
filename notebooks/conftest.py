"""What `pytest --nbval notebooks` needs to know, so that it needs no further options, wherever it is started."""

import os
from pathlib import Path

HERE = Path(__file__).parent
CELL_TIMEOUT = 120  # seconds; the slowest cell, of Part 3, takes about five


def pytest_configure(config):
    os.environ["ECHO_KIT_PROGRESS"] = "0"  # the kernels inherit it: their checks are nobody's attempts
    option = config.option
    if not getattr(option, "nbval", False):
        return
    if option.nbval_sanitize_with is None:
        option.nbval_sanitize_with = str(HERE / "sanitize.cfg")
    if option.nbval_kernel_name is None:
        option.nbval_current_env = True  # this Python, not whichever "python3" kernel is installed
    option.nbval_cell_timeout = min(option.nbval_cell_timeout, CELL_TIMEOUT)


def pytest_collection_modifyitems(items):
    for item in items:
        if hasattr(item, "output_timeout"):  # nbval's own 5 s are short on a loaded machine
            item.output_timeout = CELL_TIMEOUT
