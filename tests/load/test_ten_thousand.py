"""Ten thousand clients at the server with selectors of Part 3, to the letter of its cell: every byte comes back."""

import json
import linecache
import subprocess
import sys

import pytest

import echo_kit

from ..programs import ROOT

LIMIT = 150  # seconds that anything may take before the test fails
CLIENTS = 10_000


def of_part_3(name):
    """A server of the notebook, as its cell defines it."""
    cells = json.loads((ROOT / "notebooks" / "part3_many_clients.ipynb").read_text(encoding="utf-8"))["cells"]
    text = next(text for text in map("".join, (cell["source"] for cell in cells)) if f"def {name}(host, port):" in text)
    file, names = f"<{name} of Part 3>", {"__name__": "__main__"}
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    exec(compile(text, file, "exec"), names)
    return names[name]


def test_ten_thousand_clients_at_one_thread():
    with echo_kit.launch(of_part_3("serve_selectors")) as server:
        command = [sys.executable, "-m", "echo_kit", "swarm", *map(str, server.address), "--clients", str(CLIENTS)]
        done = subprocess.run(
            [*command, "--messages", "3", "--timeout", "120"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
        )
        if "file descriptors" in done.stderr:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("10,000 clients, all connected.\n30,000 messages: every byte came back.\n")
        assert server.threads() in (1, None)
