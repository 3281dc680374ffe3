"""The panels without a page: commands go in as the page would send them, the traits say what the page would show."""

import contextlib
import re
import socket
import sys
import threading

import ipykernel
import pytest
from jupyter_client.manager import start_new_kernel

import echo_kit
from echo_kit import free_port
from echo_kit.live import worker
from echo_kit.live.clients import ClientPanel
from echo_kit.live.panel import LATER

from ..scripted import scripted


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


def do(panel, what, text="", **more):
    panel._on_message(panel, {"do": what, "text": text, **more}, [])


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
    monkeypatch.setattr(worker, "ENTRIES", 10)
    panel = open_panel(single, name="alice")
    for number in range(30):
        do(panel, "send", str(number))
    until(panel, lambda it: it.entries and not any(e.get("open") for e in it.entries) and "29" in str(said(it)))
    assert len(panel.entries) <= 10
    do(panel, "send", "x" * 10_000)
    until(panel, lambda it: len(it.entries[-1]["text"]) == worker.LETTERS)
    with scripted(lambda conn: (conn.sendall(b"y" * 10_000), conn.recv(1))) as address:  # at once
        panel = open_panel(address, name="bob")
        until(panel, lambda it: it.entries and it.entries[-1]["cut"] == " … 10,000 bytes in all")
        panel.close()


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


def marks(panel):
    return [entry["mark"] for entry in panel.entries if entry["kind"] == "sent"]


def notes(panel):
    return [text for kind, text in said(panel) if kind == "note"]


def test_a_message_says_how_long_its_echo_took_and_the_head_what_is_owed(single, open_panel):
    alice, bob = open_panel(single, name="alice"), open_panel(single, name="bob")
    do(alice, "send", "hello")
    until(alice, lambda it: marks(it) and re.fullmatch(r"\d+(\.\d)? m?s", marks(it)[0]))
    assert alice.unanswered == ""
    do(bob, "send", "é")
    until(bob, lambda it: it.unanswered == "1 message, 2 bytes unanswered")
    do(bob, "send", "anyone?")
    until(bob, lambda it: it.unanswered == "2 messages, 9 bytes unanswered")
    assert bob.now >= bob.entries[1]["at"] > bob.entries[0]["at"] > 0
    do(bob, "disconnect")
    until(bob, lambda it: marks(it) == ["no answer came"] * 2 and it.unanswered == "")


def test_an_echo_took_as_long_as_its_last_byte(open_panel):
    def half_and_half(conn):
        data = conn.recv(100)
        conn.sendall(data[:3])
        half.wait(20)
        conn.sendall(data[3:])
        conn.recv(1)

    half = threading.Event()
    with scripted(half_and_half) as address:
        panel = open_panel(address, name="alice")
        do(panel, "send", "hello")
        until(panel, lambda it: ("received", "hel") in said(it))
        assert panel.entries[0]["open"]
        assert panel.unanswered == "1 message, 2 bytes unanswered"
        half.set()
        until(panel, lambda it: said(it) == [("sent", "hello"), ("received", "hello")] and not it.entries[0]["open"])
        panel.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses, or holds more")
def test_a_full_backlog_does_not_hold_up_disconnect(open_panel):
    with socket.create_server(("127.0.0.1", free_port()), backlog=0) as listener:
        with socket.create_connection(listener.getsockname()):
            panel = open_panel(listener.getsockname(), name="alice")
            do(panel, "send", "hello")
            until(panel, lambda it: it.state == "connecting" and marks(it) == ["waits for the connection"])
            assert panel.connected  # so that the page's button says Disconnect
            (connecting,) = [each for each in threading.enumerate() if each.name == "panel alice connects"]
            do(panel, "disconnect")
            until(panel, lambda it: it.state == "not connected" and not it.connected and marks(it) == ["not sent"])
            assert connecting.is_alive()
            listener.accept()[0].close()
            late = listener.accept()[0]  # when the system tries again, after a second
            late.settimeout(20)
            assert late.recv(100) == b""  # hung up, and nothing was sent
            late.close()
            connecting.join(20)
            assert not connecting.is_alive()
            assert panel.state == "not connected"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses, or holds more")
def test_a_panel_that_is_closed_while_it_connects_leaves_no_connection(open_panel):
    with socket.create_server(("127.0.0.1", free_port()), backlog=0) as listener:
        with socket.create_connection(listener.getsockname()):
            panel = open_panel(listener.getsockname(), name="alice")
            (connecting,) = [each for each in threading.enumerate() if each.name == "panel alice connects"]
            panel.close()
            assert connecting.is_alive()
            listener.accept()[0].close()
            late = listener.accept()[0]
            late.settimeout(20)
            assert late.recv(100) == b""
            late.close()
            connecting.join(20)
            assert not connecting.is_alive()


def test_a_server_that_does_not_read_holds_up_nobody(open_panel):
    def read_when_told(conn):
        go_on.wait(20)
        while sum(map(len, came)) < len(text.encode()) + len("and this") and (data := conn.recv(1_000_000)):
            came.append(data)
        conn.sendall(b"".join(came))  # only now, so that no echo wakes the panel

    go_on, came = threading.Event(), []
    text = "line\n😀 " * 2_000_000  # 20 MB
    with scripted(read_when_told) as address:
        panel = open_panel(address, name="alice")
        do(panel, "send", text)
        until(panel, lambda it: marks(it) == ["waits to be sent: the server does not read"])
        assert re.fullmatch(r"1 message, 20,000,000 bytes unanswered, [\d,]+ not sent yet", panel.unanswered)
        do(panel, "send", "and this")
        until(panel, lambda it: len(marks(it)) == 2)
        go_on.set()
        until(panel, lambda it: not any(entry["open"] for entry in it.entries), timeout=60)
        panel.close()
    assert b"".join(came) == (text + "and this").encode()


def test_disconnect_while_the_server_does_not_read(open_panel, monkeypatch):
    monkeypatch.setattr(worker, "OUTBOX", 30_000_000)
    over = threading.Event()
    with scripted(lambda conn: over.wait(20)) as address:
        panel = open_panel(address, name="alice")
        do(panel, "send", "x" * 29_000_000)
        do(panel, "send", "y" * 29_000_000)
        until(panel, lambda it: any("were not taken" in note for note in notes(it)))
        do(panel, "disconnect")
        until(panel, lambda it: it.state == "not connected" and marks(it) == ["not sent"])
        assert panel.entries[0]["cut"] == " … 29,000,000 bytes in all"
        over.set()


def test_half_a_character_and_several_lines(single, open_panel):
    panel = open_panel(single, name="alice")
    do(panel, "send", "a\ud83d")
    until(panel, lambda it: any("half a character" in note for note in notes(it)))
    do(panel, "send", "one\ntwo 😀")
    until(panel, lambda it: said(it)[-2:] == [("sent", "one\\ntwo 😀"), ("received", "one\\ntwo 😀")])


def test_what_is_no_server_no_address_and_no_name(single):
    for server in (None, "127.0.0.1", ["127.0.0.1", 8000], (1, 8000), ("127.0.0.1", "8000")):
        with pytest.raises(TypeError, match="needs a server that start"):
            ClientPanel(server)
    for name in (None, 7, ""):
        with pytest.raises(TypeError, match=f"name must be a non-empty string, got {name!r}"):
            ClientPanel(single, name)
        with pytest.raises(TypeError, match="name must be a non-empty string"):
            echo_kit.panels(single, "alice", name)
    with pytest.raises(ValueError, match="each panel needs a different name, got 'alice' twice"):
        echo_kit.panels(single, "alice", "bob", "alice")


@pytest.mark.parametrize("address", [("127.0.0.1", 99999), ("nul\0byte", 80)])
def test_an_address_that_cannot_be(open_panel, address):
    panel = open_panel(address, name="alice")
    until(panel, lambda it: any("cannot connect to" in note for note in notes(it)) and it.state == "not connected")


def test_a_connection_that_is_reset(open_panel):
    with scripted(lambda conn: conn.recv(1)) as address:  # closing with bytes unread resets
        panel = open_panel(address, name="alice")
        do(panel, "send", "hello")
        until(panel, lambda it: it.state == "reset" and marks(it) == ["no answer came"])


def test_the_page_is_told_what_changed_and_a_new_page_everything(single, open_panel, monkeypatch):
    monkeypatch.setattr(worker, "ENTRIES", 4)
    panel = open_panel(single, name="alice")
    told = []
    monkeypatch.setattr(panel, "send", told.append)
    until(panel, lambda it: it.state == "being served")
    do(panel, "send", "nobody looks")
    until(panel, lambda it: len(it.entries) == 2 and not it.entries[0]["open"])
    assert told == []
    do(panel, "hello")
    do(panel, "send", "one", key="view:1")
    until(panel, lambda it: len(it.entries) == 4 and not it.entries[2]["open"])
    shown = {entry["id"]: entry for message in told for entry in message["entries"]}
    assert list(shown.values()) == panel.entries
    assert shown[3]["key"] == "view:1"
    told.clear()
    do(panel, "send", "two")
    until(panel, lambda it: ("received", "two") in said(it))
    assert {entry["id"] for message in told for entry in message["entries"]} == {5, 6}
    assert told[-1]["first"] == 3
    told.clear()
    do(panel, "hello")  # a second view, or the page after a reload
    do(panel, "send", "three")
    until(panel, lambda it: ("received", "three") in said(it))
    shown = {entry["id"]: entry for message in told for entry in message["entries"]}
    assert [shown[number] for number in (5, 6, 7, 8)] == panel.entries


@pytest.fixture
def open_row():
    opened = []

    def make(*args):
        opened.append(echo_kit.panels(*args))
        return opened[-1]

    yield make
    for row in opened:
        row.close()


def test_a_row_of_panels(single, open_row):
    row = open_row(single)
    alice, bob = row.panels
    until(alice, lambda it: it.state == "being served")
    until(bob, lambda it: it.state == "connected, not accepted yet")
    assert repr(row) == "ClientPanels alice, bob"
    assert row._still()[0]["text/html"].count("needs a running kernel") == 2
    do(bob, "send", "<b>hi</b>")
    until(bob, lambda it: marks(it))
    assert "&gt; &lt;b&gt;hi&lt;/b&gt;    (no answer yet)" in row._still()[0]["text/html"]
    row.close()
    assert (alice.state, bob.state) == ("not connected", "not connected")
    assert "<b>hi" not in row._still()[0]["text/html"]
    assert "(no answer came)" in row._still()[0]["text/html"]


def test_a_newer_row_takes_the_place_of_the_whole_earlier_one(single, open_row):
    first = open_row(single, "alice", "bob")
    second = open_row(single, "carol")
    assert [panel.comm for panel in first.panels] == [None, None]
    until(second.panels[0], lambda it: it.state == "being served")
    came_and_went = [event for event in single.observation.log if event.kind in ("connect", "client close")]
    assert [(event.kind, event.connection.name) for event in came_and_went] == [
        ("connect", "alice"),
        ("connect", "bob"),
        ("client close", "bob"),
        ("client close", "alice"),
        ("connect", "carol"),  # when nobody is in its way
    ]


def test_a_panel_takes_its_place_out_of_a_row(single, open_row, open_panel):
    row = open_row(single, "alice", "bob")
    open_panel(single, name="alice")
    assert row.children == (row.panels[1],)
    until(row.panels[1], lambda it: it.state == "being served")
    open_panel(single, name="bob")
    assert row.comm is None


def test_at_the_end_a_row_is_closed_before_its_panels_and_one_of_them_tells_the_page(single, open_row, monkeypatch):
    monkeypatch.setattr(echo_kit.live.panel, "_open", {})
    row, told = open_row(single), []
    row._ipython_display_()
    for panel in row.panels:
        monkeypatch.setattr(panel, "send", lambda message, _=None: told.append(message))
    do(row.panels[1], "hello")
    echo_kit.live.panel._close_all()
    (still,) = [message["still"] for message in told if "still" in message]
    assert still[0]["text/plain"] == "ClientPanels alice, bob"
    assert [panel.comm for panel in (row, *row.panels)] == [None] * 3


def test_one_panel_says_that_they_answer_late_while_the_page_is_heard_by_the_thread_of_the_cells(single, open_panel):
    def notes():
        return [each._late for each in panels if each.comm is not None]

    panels = [open_panel(single, name=name) for name in ("alice", "bob")]
    do(panels[0], "hello")  # it may come before the page talks beside the cells
    assert notes() == ["", ""]
    for panel in panels:
        do(panel, "late?")
    assert notes() == [LATER, ""]
    panels[0].close()
    do(panels[1], "late?")
    assert notes() == [LATER]
    beside = threading.Thread(target=do, args=(panels[1], "late?"))
    beside.start()
    beside.join()
    assert notes() == [""]


# -- what stays in the notebook ----------------------------------------------------------------------------------------

VIEW = "application/vnd.jupyter.widget-view+json"
CELLS = {
    "start": "import echo_kit; server = echo_kit.start(echo_kit.serve_threaded)",
    "unseen": "echo_kit.ClientPanel(server, name='unseen')",
    "unseen again": "echo_kit.ClientPanel(server, name='unseen')",
    "alice": "alice = echo_kit.ClientPanel(server, name='alice'); display(alice, alice)",
    "hello": "alice._on_message(alice, {'do': 'hello'}, [])",
    "alice again": "echo_kit.ClientPanel(server, name='alice')",
    "row": "row = echo_kit.panels(server, 'bob', 'carol'); display(row)",
    "hello bob": "row.panels[0]._on_message(row, {'do': 'hello'}, [])",
    "loops": "[hasattr(each.comm, '_reply_subshell_id') for each in row.panels]",
    "the loop of a comm": """import comm; from echo_kit.watch import borrowed
made = comm.create_comm(target_name="none")
before = hasattr(made, "_reply_subshell_id")
borrowed.answer_in_any_loop(made)
before, hasattr(made, "_reply_subshell_id")""",
    "the request that a thread answers": """import threading
kernel, answered = get_ipython().kernel, []
def ask():
    answered.append(bool(kernel.get_parent()))
    borrowed.answer_nobody()
    answered.append(bool(kernel.get_parent()))
thread = threading.Thread(target=ask)
thread.start()
thread.join()
*answered, bool(kernel.get_parent())""",
    "shutdown": None,
}


@pytest.fixture(scope="module")  # and so before the check that a test leaves no socket
def outputs():
    """By cell, the outputs that a kernel sends: (display or update, its display_id, its data)."""
    manager, client = start_new_kernel()
    sent = {name: [] for name in CELLS}

    def hear(name):
        def keep(message):
            if message["msg_type"] in ("display_data", "update_display_data", "execute_result", "error"):
                content = message["content"]
                place = content.get("transient", {}).get("display_id")
                sent[name].append((message["msg_type"], place, content.get("data", content)))

        return keep

    try:
        for name, code in CELLS.items():
            if code is not None:
                client.execute_interactive(code, timeout=60, output_hook=hear(name))
        client.shutdown()
        message = {"msg_type": ""}
        while message["msg_type"] != "update_display_data":
            message = client.get_iopub_msg(timeout=20)
            hear("shutdown")(message)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    return sent


def test_without_a_page_an_output_never_changes(outputs):
    ((kind, place, data),) = outputs["unseen"]
    assert (kind, data["text/plain"]) == ("display_data", "ClientPanel unseen")
    assert place
    assert VIEW in data
    assert [kind for kind, _, _ in outputs["unseen again"]] == ["display_data"]


def test_a_panel_that_was_seen_leaves_its_words_in_every_output(outputs):
    first, second = outputs["alice"]
    updates = [each for each in outputs["alice again"] if each[0] == "update_display_data"]
    assert {place for _, place, _ in updates} == {first[1], second[1]}
    for _, _, data in updates:
        assert set(data) == {"text/plain", "text/html"}
        assert data["text/plain"] == "ClientPanel alice"


def test_the_page_of_a_panel_in_a_row_need_not_wait_for_the_loop_that_runs_the_cells(outputs):
    ((_, _, data),) = outputs["loops"]
    assert data["text/plain"] == "[False, False]"


borrows = pytest.mark.skipif(ipykernel.version_info[0] < 7, reason="ipykernel before 7 runs all in one thread")


@borrows
def test_reply_subshell_id_is_borrowed_from_ipykernel(outputs):
    ((_, _, data),) = outputs["the loop of a comm"]
    assert data["text/plain"] == "(True, False)"


@borrows
def test_shell_parent_is_borrowed_from_ipykernel(outputs):
    ((_, _, data),) = outputs["the request that a thread answers"]
    assert data["text/plain"] == "(True, False, True)"


def test_a_row_leaves_its_words_when_the_kernel_ends(outputs):
    ((_, place, data),) = outputs["row"]
    assert (data["text/plain"], VIEW in data) == ("ClientPanels bob, carol", True)
    ((kind, updated, data),) = outputs["shutdown"]
    assert (kind, updated, data["text/plain"]) == ("update_display_data", place, "ClientPanels bob, carol")
    assert VIEW not in data


def test_a_long_name_is_cut_in_the_panel_and_in_what_is_saved():
    server = echo_kit.start(echo_kit.serve_threaded)
    with server, contextlib.closing(ClientPanel(server, name="a" * 1_000_000)) as panel:
        assert panel.name == "a" * 39 + "…"
        assert len(panel._still()[0]["text/html"]) < 1_000
        assert repr(panel) == f"ClientPanel {panel.name}"
