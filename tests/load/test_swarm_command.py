"""`python -m echo_kit swarm`: as a user types it, and its exit code."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios

import pytest

import echo_kit

from ..programs import ROOT

LIMIT = 120  # seconds that anything may take before a test fails


def command(*arguments, **options):
    given = [sys.executable, "-m", "echo_kit", "swarm", *map(str, arguments)]
    return subprocess.run(given, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, **options)


@pytest.fixture
def address():
    with echo_kit.launch(echo_kit.serve_threaded) as server:
        yield server.address


def test_every_byte_came_back(address):
    done = command(*address, "--clients", 20, "--messages", 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 clients, all connected.\n60 messages: every byte came back.\n")
    assert "messages a second" in done.stdout
    assert done.stderr == ""  # it is no terminal: there is no bar


def test_as_json(address):
    done = command(*address, "--clients", 5, "--active", 2, "--size", 100, "--json")
    told = json.loads(done.stdout)
    assert (told["clients"], told["active"], told["answered"], told["complete"]) == (5, 2, 10, True)
    assert 0 < told["p50"] <= told["worst"]


def test_nobody_listens():
    done = command("127.0.0.1", echo_kit.free_port(), "--clients", 3)
    assert done.returncode == 1
    assert done.stdout.startswith("3 clients: 0 connected, 3 refused.\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["127.0.0.1"], "the following arguments are required: PORT"),
        (["127.0.0.1", "x"], "invalid int value: 'x'"),
        (["127.0.0.1", "70000"], "a port must be from 1 to 65,535, not 70,000"),
        (["nobody.invalid", "8000"], "'nobody.invalid' is not a host"),
        (["127.0.0.1", "8000", "--clients", "20000"], "clients must be from 1 to 10,000"),
        (["127.0.0.1", "8000", "--many"], "unrecognized arguments: --many"),
    ],
)
def test_bad_input_is_one_line(arguments, words):
    done = command(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_ctrl_c_is_no_success():
    with socket.create_server(("127.0.0.1", echo_kit.free_port())) as listener:
        listener.settimeout(LIMIT)
        given = [sys.executable, "-m", "echo_kit", "swarm", *map(str, listener.getsockname()), "--clients", "1"]
        with subprocess.Popen(given, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            with listener.accept()[0]:
                process.send_signal(signal.SIGINT)
                assert process.wait(LIMIT) == 130
            assert process.stderr.read() == b"echo_kit: interrupted, nothing is known of the clients\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full disk to write to")
def test_a_full_disk_is_no_success(address):
    with open("/dev/full", "w") as full:
        given = [sys.executable, "-m", "echo_kit", "swarm", *map(str, address), "--clients", "2"]
        assert subprocess.run(given, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=LIMIT).returncode == 1


def test_no_package_is_needed(address):
    """The standard library is enough, as for the other commands: -S leaves out site-packages."""
    given = [sys.executable, "-S", "-m", "echo_kit", "swarm", *map(str, address), "--clients", "3"]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr


def test_a_terminal_has_a_bar_while_it_takes_long(address):
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, master)
        given = [sys.executable, "-m", "echo_kit", "swarm", *map(str, address), "--clients", "4"]
        given += ["--messages", "30", "--pace", "15"]
        process = subprocess.Popen(given, cwd=ROOT, stdout=slave, stderr=slave)
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # the end of the program is the end of its terminal
            while data := os.read(master, 4096):
                shown += data
        assert process.wait(LIMIT) == 0
    text = shown.decode()
    assert "4 clients" in text
    assert "4 connected" in text
    assert "120 messages: every byte came back." in text


@pytest.mark.parametrize("module", ["load.progress", "course.mark"])
def test_a_progress_bar_starts_no_process(module):
    """As tqdm's own lock would, from Python 3.14 on: that of `multiprocessing`, with its resource tracker."""
    program = f"import io, sys; from echo_kit.{module} import bar; "
    program += (
        "bar(total=1, disable=False, file=io.StringIO()).close(); print('multiprocessing.synchronize' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
