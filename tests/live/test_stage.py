"""`ServerPanel` without a page: messages go in as a page would send them, what would go to the page is kept."""

import base64
import queue
import re
import socket
import threading
import time

import pytest

import echo_kit
from echo_kit.live import stage as server_panel
from echo_kit.live.board import pin, pinned
from echo_kit.live.stage import ServerPanel
from echo_kit.views.states import PAUSED


class Watched(ServerPanel):
    """Keeps what goes to the page, and what the page would then show."""

    def __init__(self, server):
        self.messages = queue.Queue()
        self.head, self.picture, self.lanes = {}, {}, {}
        super().__init__(server)

    def send(self, content, buffers=None):
        self.messages.put(content)

    def do(self, what, **more):
        self._on_message(self, {"do": what, **more}, [])

    def take(self, timeout):
        message = self.messages.get(timeout=timeout)
        self.head, change = message["head"], dict(message["picture"])
        if change.pop("whole", False):
            self.picture, self.lanes = {}, {}
        for lane in change.pop("lanes", ()):
            self.lanes.setdefault(lane["id"], {}).update(lane)
        self.picture |= change
        return message

    def until(self, condition, timeout=15):
        """Take messages until what the page shows fulfils `condition`; say now and then that somebody looks."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, (self.head, self.picture, self.lanes)
            self.do("look")
            try:
                self.take(timeout=1)  # much less than the lease: somebody goes on looking
            except queue.Empty:
                continue

    def marks(self):
        functions = self.picture.get("code", {"functions": []})["functions"]
        lines = [line for each in functions for line in each["lines"] if line]
        return [" ".join(filter(None, mark[1:])) for _, marks in lines for mark in marks]


@pytest.fixture
def single():
    with echo_kit.start(echo_kit.serve_single, name="single") as server:
        yield server
        echo_kit.server.newest("single") and echo_kit.server.newest("single").stop()


@pytest.fixture
def open_panel():
    opened = []

    def make(server):
        opened.append(Watched(server))
        return opened[-1]

    yield make
    for panel in opened:
        panel.close()


@pytest.fixture
def stage(single, open_panel):
    panel = open_panel(single)
    panel.do("hello")
    panel.until(lambda: "code" in panel.picture)
    return panel


def threads_of(panel):
    return [thread for thread in threading.enumerate() if thread.name == repr(panel)]


@pytest.mark.parametrize(
    ("host", "more"), [("0.0.0.0", " · other computers can connect, too"), ("127.0.0.1", ""), ("127.1.2.3", "")]
)
def test_its_head_says_what_is_bound_and_who_can_connect(host, more, open_panel):
    with echo_kit.start(echo_kit.serve_single, host=host) as server:
        panel = open_panel(server)
        panel.do("hello")
        panel.until(lambda: panel.head)
        assert panel.head["address"] == f"{host}:{server.address[1]}{more}"
        panel.close()


def test_why_it_does_not_start_again_is_told_with_its_note(open_panel):
    began = threading.Event()

    def serve(host, port):
        if began.is_set():
            raise ValueError("signal only works in main thread")
        began.set()
        echo_kit.serve_single(host, port)

    with echo_kit.start(serve) as server:
        panel = open_panel(server)
        panel.do("hello")
        panel.do("start")
        panel.until(lambda: panel.head.get("note"))
        assert panel.head["note"].startswith("signal only works in main thread A server in a notebook runs in a thread")
        panel.close()


def test_it_shows_bob_wait_and_then_served(stage, single):
    assert (stage.head["state"], stage.head["running"]) == ("running", True)
    assert stage.head["address"] == f"127.0.0.1:{single.address[1]}"
    with echo_kit.Client(single, "alice") as alice, echo_kit.Client(single, "bob") as bob:
        bob.send("hi")
        stage.until(lambda: stage.picture["words"] == "1 served · 1 waiting · 0 messages")
        stage.until(lambda: [row[:2] for row in stage.picture["backlog"]["rows"]] == [["bob", "2 bytes unread"]])
        stage.until(lambda: "◀ server thread waits in recv for alice" in stage.marks())
        assert "○ nobody is here" in stage.marks()
        alice.close()
        stage.until(lambda: stage.picture["words"] == "1 served · 0 waiting · 1 message")
        stage.until(lambda: "◀ server thread waits in recv for bob" in stage.marks())


def test_a_second_page_gets_the_whole_picture(stage, single):
    with echo_kit.Client(single, "alice"):
        stage.until(lambda: stage.picture["words"].startswith("1 served"))
        stage.until(lambda: "◀ server thread waits in recv for alice" in stage.marks())
        before = dict(stage.picture)
        stage.do("hello")
        stage.picture, stage.lanes = {}, {}
        stage.until(lambda: "words" in stage.picture)
        for name in ("words", "code", "backlog"):
            assert stage.picture[name] == before[name]
        assert {lane["name"] for lane in stage.lanes.values()} == {"alice"}


def test_frozen_the_picture_stands_still_and_then_shows_what_has_happened(stage, single):
    stage.do("freeze")
    stage.until(lambda: stage.head["frozen"])
    words = stage.picture["words"]
    with echo_kit.Client(single, "alice") as alice:
        alice.send("hello")
        alice.receive()  # the server goes on
        stage.do("hello")  # a page that comes now sees the frozen picture, too
        stage.until(lambda: stage.messages.empty() and stage.picture.get("words") == words)
        assert not stage.lanes
        stage.do("go on")
        stage.until(lambda: stage.picture["words"] == "1 served · 0 waiting · 1 message")
        assert not stage.head["frozen"]
        (lane,) = stage.lanes.values()
        assert [mark[2] for mark in lane["marks"]] == ['"hello"', '"hello"']


def test_frozen_it_gives_a_sign_of_life_that_says_at_which_moment(stage):
    stage.do("freeze")
    stage.until(lambda: stage.head["frozen"] and stage.messages.empty())
    moment = stage.picture["now"]
    stage.do("look")
    for _ in range(2):
        assert stage.take(timeout=5)["picture"] == {"now": moment}


def test_go_on_does_not_wait_for_the_look(stage, monkeypatch):
    stage.do("freeze")
    stage.until(lambda: stage.head["frozen"])
    looked = threading.Event()
    monkeypatch.setattr(stage._live, "look", lambda: looked.wait(60) and {})
    stage.do("go on")
    stage.until(lambda: not stage.head["frozen"])
    assert not looked.is_set()
    looked.set()


def test_at_the_end_the_panel_that_watches_is_closed_before_the_others(single, open_panel, monkeypatch):
    monkeypatch.setattr(echo_kit.live.panel, "_open", {})
    stage = open_panel(single)
    alice = echo_kit.ClientPanel(single, "alice")
    seen = []
    monkeypatch.setattr(Watched, "close", lambda it: (seen.append(alice.comm is not None), ServerPanel.close(it)))
    echo_kit.live.panel._close_all()
    assert seen == [True]
    assert stage.comm is None
    assert alice.comm is None


def test_stop_and_start_again_at_the_same_port(stage, single):
    port = single.address[1]
    with echo_kit.Client(single, "alice") as alice:
        alice.send("hello")
        alice.receive()
        stage.do("stop")
        stage.until(lambda: stage.head["state"] == "stopped" and stage.picture["stopped"])
        assert not single.running
        with pytest.raises(echo_kit.EchoError):
            alice.receive(timeout=5)
    stage.do("start")
    stage.until(lambda: stage.head["state"] == "running" and not stage.picture["stopped"])
    assert stage.server is single
    assert stage.server.address[1] == port
    assert not stage.lanes
    with echo_kit.Client(stage.server, "bob") as bob:
        bob.send("again")
        assert bob.receive() == "again"
        stage.do("start")  # while it runs: restart
        second = stage.server.observation
        stage.until(lambda: stage.server.observation is not second and stage.head["state"] == "running")


def test_if_the_port_is_taken_it_starts_at_another(stage, single):
    port = single.address[1]
    stage.do("stop")
    stage.until(lambda: stage.head["state"] == "stopped")
    with socket.create_server(("127.0.0.1", port)):
        stage.do("start")
        stage.until(lambda: stage.head["state"] == "running")
        assert stage.server.address[1] != port


def test_when_the_cell_is_run_again_it_shows_the_new_server(stage, single):
    stage.do("freeze")
    stage.until(lambda: stage.head["frozen"])
    with echo_kit.start(echo_kit.serve_single, name="single") as second:
        stage.until(lambda: stage.head["address"].endswith(f":{second.address[1]}"))
        assert not stage.head["frozen"]
        with echo_kit.Client(second, "carol"):
            stage.until(lambda: stage.picture["words"].startswith("1 served"))


def test_a_server_that_does_not_start_again_says_why(open_panel):
    first = threading.Event()

    def serve(host, port):
        if first.is_set():
            raise ValueError("no <b>second</b> time")
        first.set()
        with socket.create_server((host, port)) as listener:
            listener.accept()

    with echo_kit.start(serve) as server:
        panel = open_panel(server)
        panel.do("hello")
        panel.do("start")
        panel.until(lambda: "no <b>second</b> time" in panel.head.get("note", ""))
        assert panel.head["state"] == "stopped"


def test_a_server_that_ends_the_program_leaves_the_buttons_alive(open_panel):
    ends = threading.Event()

    def serve(host, port):
        if ends.is_set():
            raise SystemExit("no port for me " + "x" * 1000)
        echo_kit.serve_single(host, port)

    with echo_kit.start(serve) as server:
        panel = open_panel(server)
        panel.do("hello")
        ends.set()
        panel.do("start")
        panel.until(lambda: panel.head.get("note", "").startswith("serve() ended by sys.exit() before it listened. "))
        assert re.search(r" It had printed: no port for me x{100,200}…$", panel.head["note"])
        ends.clear()
        panel.do("start")
        panel.until(lambda: panel.head["state"] == "running")
        assert not panel.head["note"]
        panel.server.stop()


def test_a_stop_does_not_wait_for_steps_that_have_not_begun(stage, single, monkeypatch):
    entered, goes_on, steps = threading.Event(), threading.Event(), []

    def step(server, thread):
        steps.append(thread)
        entered.set()
        assert goes_on.wait(10)

    monkeypatch.setattr(echo_kit.server.Server, "step", step)
    for _ in range(5):
        stage.do("step")
    assert entered.wait(10)
    stage.do("stop")
    goes_on.set()
    stage.until(lambda: stage.head["state"] == "stopped")
    assert len(steps) == 1


def test_a_stop_goes_on_while_a_look_hangs(stage, single, monkeypatch):
    hangs, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(echo_kit.live.feed.Live, "look", lambda live: (hangs.set(), goes_on.wait(10)) and {"now": 0.0})
    assert hangs.wait(10)
    single.stop()
    assert not single.running
    goes_on.set()


def test_while_a_stop_waits_the_panel_answers(open_panel):
    released = threading.Event()

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                conn.recv(10)
                released.wait(10)  # no stop ends this

    server = echo_kit.start(serve)
    try:
        panel = open_panel(server)
        panel.do("hello")
        with socket.create_connection(server.address) as client:
            client.sendall(b"x")
            panel.until(lambda: any("released.wait" in mark for mark in panel.marks()))
            panel.do("stop")
            panel.until(lambda: panel.head["state"] == "stopping")
            panel.do("hello")
            panel.messages.queue.clear()
            assert panel.take(timeout=1.5)["head"]["state"] == "stopping"
            released.set()
            panel.until(lambda: panel.head["state"] == "stopped")
    finally:
        released.set()


def test_freeze_does_not_wait_for_what_is_being_done(stage, monkeypatch):
    entered, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(echo_kit.Server, "step", lambda *_: entered.set() or goes_on.wait(20))
    try:
        stage.do("step")
        assert entered.wait(10)
        stage.do("freeze")
        stage.until(lambda: stage.head["frozen"])
        stage.do("go on")
        stage.until(lambda: not stage.head["frozen"])
    finally:
        goes_on.set()


def test_while_nobody_looks_it_does_not_draw(stage, single, monkeypatch):
    looked = threading.Event()
    look = echo_kit.live.feed.Live.look
    monkeypatch.setattr(echo_kit.live.feed.Live, "look", lambda live: (looked.set(), look(live))[1])
    monkeypatch.setattr(server_panel, "LEASE", -60.0)  # over when it begins, for a tick that began before it too
    with echo_kit.Client(single, "alice"):
        stage.do("freeze")  # the head is sent all the same: so there was a tick
        stage.until(lambda: stage.head["frozen"])
        looked.clear()
        stage.do("go on")
        stage.until(lambda: not stage.head["frozen"])
        assert not looked.is_set()
        monkeypatch.setattr(server_panel, "LEASE", 5.0)
        stage.until(lambda: stage.lanes)


def test_with_nothing_to_tell_it_sends_a_sign_of_life_a_second(stage):
    stage.until(lambda: stage.messages.empty() and set(stage.take(timeout=5)["picture"]) == {"now"})
    began = time.monotonic()
    stage.do("look")
    assert set(stage.take(timeout=5)["picture"]) == {"now"}
    assert time.monotonic() - began > server_panel.BEAT / 2


def test_a_failing_view_says_so_and_goes_on(stage, single, monkeypatch):
    def fails(*_):
        raise RuntimeError("<i>broken</i>")

    with monkeypatch.context() as patch:
        patch.setattr(echo_kit.live.feed.Live, "look", fails)
        stage.until(lambda: "this view has failed: RuntimeError: <i>broken</i>" in stage.head["note"])
    with echo_kit.Client(single, "alice"):
        stage.until(lambda: stage.picture["words"].startswith("1 served"))


def test_what_a_look_had_seen_before_it_failed_is_not_lost(stage, single, monkeypatch):
    def fails(*_):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(echo_kit.live.feed.Live, "_forget", fails)  # near the end of a look
        with echo_kit.Client(single, "alice"):
            stage.until(lambda: stage.head["note"])
            single.settle()
            stage.until(lambda: stage.messages.empty())
    stage.until(lambda: [text for _, text in stage.picture.get("log", [])][1:] and stage.lanes)
    assert [lane["name"] for lane in stage.lanes.values()] == ["alice"]
    assert not stage.head["note"]


def test_other_messages_do_nothing(stage, single):
    for message in [None, 7, {}, {"do": "end"}, {"do": ["stop"]}, {"do": "step", "thread": 7}, {"do": None}]:
        stage._on_message(stage, message, [])
    with echo_kit.Client(single, "alice"):
        stage.until(lambda: stage.picture["words"].startswith("1 served"))


def test_nothing_runs_before_a_page_has_come_and_after_the_panel_is_closed(single, open_panel):
    panel = open_panel(single)
    assert not threads_of(panel)
    panel.do("hello")
    assert len(threads_of(panel)) == 2
    panel.close()
    assert not threads_of(panel)
    panel.do("hello")
    assert not threads_of(panel)
    panel.close()
    assert single.running


def test_a_second_panel_of_the_server_replaces_the_first(single, open_panel):
    first = open_panel(single)
    first.do("hello")
    open_panel(single)
    assert not threads_of(first)


def test_only_a_server_has_a_stage():
    with pytest.raises(TypeError, match="needs a server that start"):
        ServerPanel(("127.0.0.1", 8000))


def test_without_a_page_it_is_the_picture_of_the_moment(single, open_panel):
    with echo_kit.Client(single, "<b>alice</b>"):
        panel = open_panel(single)
        data, metadata = panel._still()
        assert data["text/plain"] == str(single.snapshot())
        assert "waits in recv for <b>alice</b>" in data["text/plain"]
        assert metadata["image/png"]["alt"] == data["text/plain"]
        assert base64.b64decode(data["image/png"])[:4] == b"\x89PNG"
        assert "text/html" not in data


def test_step_by_step(stage, single):
    stage.do("pause")
    stage.until(lambda: stage.head["stepping"])
    with echo_kit.Client(single, "alice") as alice:
        alice.send("hello")
        stage.until(lambda: "‖ server thread paused before recv for alice" in stage.marks())
        stage.until(lambda: [(lane["since"] or [""])[0] for lane in stage.lanes.values()] == [PAUSED.name])
        stage.do("step")
        stage.until(lambda: "‖ server thread paused before sendall to alice" in stage.marks())
        stage.do("step", thread="thread 9")
        stage.until(lambda: "no paused thread 'thread 9'" in stage.head["note"])
        stage.do("step", thread="server thread")
        stage.until(lambda: "‖ server thread paused before recv for alice" in stage.marks())
        assert alice.receive() == "hello"
        assert not stage.head["note"]
        stage.do("run")
        stage.until(lambda: "◀ server thread waits in recv for alice" in stage.marks())
        assert not stage.head["stepping"]
        stage.do("pause")
        stage.do("stop")
        stage.until(lambda: stage.head["state"] == "stopped")


def test_what_a_classroom_pins_is_sent_once_and_to_a_page_that_comes_later(stage, single):
    question = {"title": "What happens to <b>bob</b>?", "lines": [], "options": ["he waits", "he is served"]}
    pin("single", question)
    try:
        stage.until(lambda: stage.picture.get("board") == question)
        stage.until(lambda: stage.messages.empty() and "board" not in stage.take(timeout=5)["picture"])
        del stage.picture["board"]
        stage.do("hello")
        stage.until(lambda: stage.picture.get("board") == question)
        stage.do("freeze")
        votes = question | {"rounds": [{"label": "first vote", "votes": 2, "counts": None}]}
        pin("single", votes)  # a frozen stage shows it, too
        stage.until(lambda: stage.picture["board"] == votes)
    finally:
        pin("single", None)
    stage.until(lambda: stage.picture["board"] is None)
    assert pinned("single") is None


def test_a_step_with_nothing_to_do_says_so(stage, single):
    stage.do("step")
    stage.until(lambda: stage.head["note"].startswith("No thread is paused, so Step has nothing to do"))
    stage.do("pause")
    stage.until(lambda: stage.head["stepping"] and not stage.head["note"])
    stage.do("step")
    stage.until(lambda: stage.head["note"].startswith("No thread is paused at this moment"))


def test_a_page_can_tell_a_new_server_from_the_same(stage, single):
    stage.do("hello")
    stage.until(lambda: "run" in stage.picture)
    before = stage.picture["run"]
    stage.do("start")
    stage.until(lambda: stage.picture["run"] == before + 1)
