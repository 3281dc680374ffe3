"""Which frames are the student's own, where the code was made from a string."""

import socket
import sys
import threading
from collections import namedtuple

import pytest

import echo_kit
from echo_kit.watch.frames import is_student_code
from echo_kit.watch.stopping import may_be_interrupted

FRAME = "def frame():\n    return sys._getframe()"


@pytest.mark.parametrize(
    ("module", "own"),
    [
        ({"__name__": "__main__"}, True),  # python -c
        ({"__name__": "__main__", "__file__": __file__}, True),
        ({"__name__": "threading", "__file__": threading.__file__}, False),  # a dataclass of the standard library
        ({"__name__": "echo_kit", "__file__": echo_kit.__file__}, False),
    ],
)
def test_code_from_a_string_is_its_modules(module, own):
    module["sys"] = sys
    exec(FRAME, module)
    assert is_student_code(module["frame"]()) is own


def test_what_makes_a_named_tuple_is_nobodys_line(monkeypatch):
    """A thread was seen in one of ours, on the way to its accept: "is inside a lambda", at a line 1 without a text."""
    pair, seen = namedtuple("pair", "one two"), []
    monkeypatch.setitem(pair.__new__.__globals__, "_tuple_new", lambda *_: seen.append(sys._getframe(1)))
    pair(1, 2)
    (frame,) = seen
    assert (frame.f_code.co_filename, frame.f_code.co_name) == ("<string>", "<lambda>")
    assert not is_student_code(frame)
    assert may_be_interrupted(frame)  # a thread that prints without end is seldom seen anywhere else


def test_a_server_made_from_a_string_is_shown():
    text = "def serve(host, port):\n    with socket.create_server((host, port)) as s:\n        s.accept()"
    module = {"__name__": "__main__", "socket": socket}
    exec(text, module)
    with echo_kit.start(module["serve"]) as server:
        assert "waits in accept for a new client" in str(server.where())
