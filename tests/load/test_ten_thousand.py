"""Ten thousand clients at the server with selectors of Part 3, to the letter of its cell: every byte comes back."""

import subprocess
import sys

import pytest

import echo_kit

from ..benchmarks.servers import cell_of_part_3
from ..programs import ROOT
from .test_launch import cell

LIMIT = 150  # seconds that anything may take before the test fails
CLIENTS = 10_000


def test_ten_thousand_clients_at_one_thread():
    with echo_kit.launch(cell(cell_of_part_3("serve_selectors"), "serve_selectors")) as server:
        command = [sys.executable, "-m", "echo_kit", "swarm", *map(str, server.address), "--clients", str(CLIENTS)]
        done = subprocess.run(
            [*command, "--messages", "3", "--timeout", "120"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
        )
        if "file descriptors" in done.stderr:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("10,000 clients, all connected.\n30,000 messages: every byte came back.\n")
        assert server.threads() in (1, None)
