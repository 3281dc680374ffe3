"""A rehearsal: simulated students in real processes, at a real room; and a report that says what went wrong."""

import re
import socket
import threading
import time

import pytest

import echo_kit
from echo_kit.live import rehearsal
from echo_kit.live.rehearsal import Rehearsal

LIMIT = 60  # seconds that anything may take before the test fails


@pytest.fixture
def room():
    with echo_kit.start(echo_kit.serve_threaded, name="hall") as server:
        opened = echo_kit.Classroom(server, echo_kit.serve_single)
        yield opened
        opened.close()


@pytest.fixture
def question():
    asked = echo_kit.predict("Is bob answered?", {"yes": 1, "no": 2})
    yield asked
    asked.close()


def ended(report):
    return all(process.poll() is not None for process in report._processes)


def test_a_class_of_ten_comes_talks_votes_and_leaves(room, question):
    room.ask(question)
    report = room.rehearse(10, 2)
    assert report.running
    assert repr(report) == "Rehearsal of a class of 10 for 2 s, which goes on"
    assert report.wait() is report
    assert not report.running
    assert not report.trouble
    once = ("only connected", "vanished", "reloaded")
    never = ("wrong", "lost", "refused")
    assert [report.count(each) for each in ("connected", *once, *never)] == [10, 1, 1, 1, 0, 0, 0]
    assert report.count("right") == report.count("messages") > 0
    shown = dict(line.rsplit(None, 1) for line in str(report).splitlines()[1:5])
    assert shown["echoes that were right"] == str(report.count("right"))
    assert re.search(
        r"<td style=\"text-align: left\">95 of 100 came within</td><td>[\d,]+ ms</td>", report._repr_html_()
    )
    assert str(report.wait()) == str(report)


def wait_until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_each_end_ends_only_its_own_processes(room):
    report = room.rehearse(1, 600)
    wait_until(lambda: report.count("connected") == 1)
    other = Rehearsal(room._room.rehearsal_url, 1, 600)
    second = room.rehearse(1, 600)  # ends the first
    assert ended(report)
    assert not report.running
    assert report.count("messages") == report.count("right") + report.count("lost")
    assert not ended(second)
    room.close()
    assert ended(second)
    assert not ended(other)
    other.stop()
    other.stop()


def test_a_server_that_answers_something_else_is_seen():
    def serve(host, port):
        with socket.create_server((host, port)) as listener, listener.accept()[0] as conn:
            while data := conn.recv(1024):
                conn.sendall(b"x" * len(data))

    with echo_kit.start(serve) as server:
        room = echo_kit.Classroom(server)
        report = room.rehearse(1, 1).wait()
        room.close()
    assert report.count("wrong") == report.count("messages") > 0
    assert report.count("right") == 0


def test_where_nobody_listens_it_says_so():
    report = Rehearsal(f"http://127.0.0.1:{echo_kit.free_port()}/?k=x", 2, 1).wait()
    assert (report.count("refused"), report.count("connected")) == (2, 0)
    assert "could not connect" in str(report)
    report.stop()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("/nowhere/python", "no process could be started for the students: No such file or directory"),
        ("false", "a process of students failed: it ended with 1"),
    ],
)
def test_without_processes_it_is_a_sentence(room, monkeypatch, program, said):
    monkeypatch.setattr(rehearsal.sys, "executable", program)
    report = room.rehearse(1, 1).wait()
    assert report.trouble == [said]
    assert str(report).endswith(said)
    report.stop()


@pytest.mark.parametrize("students", [0, 1001, -1, 2.0, True, "30", None])
def test_how_many_a_class_has(room, students):
    with pytest.raises(ValueError, match="a class has 1 to 1,000 students, got"):
        room.rehearse(students)


@pytest.mark.parametrize("seconds", [0, 601, "20", None])
def test_how_long_it_takes(room, seconds):
    with pytest.raises(ValueError, match="a rehearsal takes 1 to 600 seconds, got"):
        room.rehearse(1, seconds)
