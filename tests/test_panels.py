"""`ClientPanel` without a page: commands go in as the page would send them, the traits say what the page would show."""

import threading

import pytest

import echo_kit
from echo_kit import client_panel
from echo_kit.client_panel import ClientPanel


@pytest.fixture
def single():
    with echo_kit.start(echo_kit.serve_single, name="single") as server:
        yield server


@pytest.fixture
def open_panel():
    opened = []

    def make(*args, **kwargs):
        opened.append(ClientPanel(*args, **kwargs))
        return opened[-1]

    yield make
    for panel in opened:
        panel.close()


def do(panel, what, text=""):
    panel._on_message(panel, {"do": what, "text": text}, [])


def until(panel, condition, timeout=10):
    """Wait for the traits to fulfil `condition`; they are written by the panel's worker."""
    fulfilled = threading.Event()

    def look(_=None):
        if condition(panel):
            fulfilled.set()

    panel.observe(look)
    look()
    try:
        assert fulfilled.wait(timeout), f"state {panel.state!r}, entries {panel.entries}"
    finally:
        panel.unobserve(look)


def said(panel):
    return [(entry["kind"], entry["text"]) for entry in panel.entries]


def test_it_connects_sends_and_shows_the_echo(single, open_panel):
    panel = open_panel(single, name="alice")
    until(panel, lambda it: it.state == "being served")
    assert panel.where == f"127.0.0.1:{single.address[1]}"
    do(panel, "send", "hello")
    until(panel, lambda it: said(it) == [("sent", "hello"), ("received", "hello")])
    assert not panel.entries[0]["open"]
    do(panel, "disconnect")
    until(panel, lambda it: it.state == "not connected" and not it.connected)
    do(panel, "connect")
    until(panel, lambda it: it.state == "being served")
    assert "alice" in str(single.timeline())


def test_the_second_panel_waits_and_the_first_stays_usable(single, open_panel):
    alice = open_panel(single, name="alice")
    until(alice, lambda it: it.state == "being served")
    bob = open_panel(single, name="bob")
    do(bob, "send", "hi")
    until(bob, lambda it: it.state == "connected, not accepted yet" and said(it) == [("sent", "hi")])
    assert bob.entries[0]["open"]
    do(alice, "send", "still here")
    until(alice, lambda it: said(it) == [("sent", "still here"), ("received", "still here")])
    do(alice, "disconnect")
    until(bob, lambda it: it.state == "being served" and said(it) == [("sent", "hi"), ("received", "hi")])


def test_many_messages_typed_at_once_arrive_exactly(single, open_panel):
    panel = open_panel(single, name="alice")
    messages = [f"message {number:02}" for number in range(50)]
    for message in messages:
        do(panel, "send", message)
    until(panel, lambda it: sum(len(t) for kind, t in said(it) if kind == "received") == sum(map(len, messages)))
    assert [text for kind, text in said(panel) if kind == "sent"] == messages
    assert "".join(text for kind, text in said(panel) if kind == "received") == "".join(messages)
    assert not any(entry.get("open") for entry in panel.entries)


def test_a_long_message_is_one_answer(single, open_panel):
    panel = open_panel(single, name="alice")
    do(panel, "send", "é" * 900)  # the server's recv(1024) cuts a character in two
    until(panel, lambda it: said(it) == [("sent", "é" * 900), ("received", "é" * 900)])


def test_the_transcript_and_its_entries_are_bounded(single, open_panel, monkeypatch):
    monkeypatch.setattr(client_panel, "ENTRIES", 10)
    panel = open_panel(single, name="alice")
    for number in range(30):
        do(panel, "send", str(number))
    until(panel, lambda it: it.entries and not any(e.get("open") for e in it.entries) and "29" in str(said(it)))
    assert len(panel.entries) <= 10
    do(panel, "send", "x" * 10_000)
    until(panel, lambda it: len(it.entries[-1]["text"]) == client_panel.SHOWN)


def test_an_empty_message_and_control_characters(single, open_panel):
    panel = open_panel(single, name="alice\x1b[31m")
    assert panel.name == "alice\\x1b[31m"
    do(panel, "send", "")
    until(panel, lambda it: any(kind == "note" and "no bytes" in text for kind, text in said(it)))
    do(panel, "send", "\x07<b>")
    until(panel, lambda it: said(it)[-2:] == [("sent", "\\x07<b>"), ("received", "\\x07<b>")])


def test_when_the_server_stops_the_panel_says_so_and_finds_its_successor(single, open_panel):
    panel = open_panel(single, name="alice")
    until(panel, lambda it: it.state == "being served")
    single.stop()
    until(panel, lambda it: it.state == "closed by the server")
    do(panel, "connect")
    until(panel, lambda it: "run its cell again" in str(said(it)))
    with echo_kit.start(echo_kit.serve_single, name="single"):
        do(panel, "send", "hello again")
        until(panel, lambda it: said(it)[-1] == ("received", "hello again"))
        panel.close()


def test_a_server_that_is_not_there(open_panel):
    panel = open_panel(("127.0.0.1", 1), name="alice")
    until(panel, lambda it: "nobody listens at 127.0.0.1:1" in str(said(it)))
    assert panel.state == "not connected"


def test_running_the_cell_again_replaces_the_panel(single, open_panel):
    first = open_panel(single, name="alice")
    until(first, lambda it: it.state == "being served")
    second = open_panel(single, name="alice")  # with the first still connected it would wait for ever
    until(second, lambda it: it.state == "being served")


def test_what_is_shown_without_a_page(single, open_panel):
    panel = open_panel(single, name="<b>alice</b>")
    data, _ = panel._still()
    assert data["text/plain"] == "ClientPanel <b>alice</b>"
    assert "&lt;b&gt;alice" in data["text/html"]
    assert "<b>alice" not in data["text/html"]


def test_other_messages_from_a_page_do_nothing(single, open_panel):
    panel = open_panel(single, name="alice")
    for content in [None, 7, {}, {"do": "end"}, {"do": ["send"]}, {"do": "send", "text": {"a": 1}}]:
        panel._on_message(panel, content, [])
    until(panel, lambda it: ("received", "{'a': 1}") in said(it))
