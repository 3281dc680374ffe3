"""`Classroom` without a page: messages go in as a page would send them, what would go to the page is kept. The phones
are real, and so are the servers.
"""

import ast
import queue
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

import echo_kit
from echo_kit.live import board, classroom
from echo_kit.live.classroom import Classroom
from echo_kit.live.crowd import Phone as Listed

from ..phones import Voter

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
YES, NO = "yes, at once", "no, he waits"
LIMIT = 20  # seconds that anything may take before the test fails


class Watched(Classroom):
    """Keeps what goes to the page, and what the page would then show."""

    def __init__(self, *args, **more):
        self.messages, self.page = queue.Queue(), {}
        super().__init__(*args, **more)

    def send(self, content, buffers=None):
        self.messages.put(content)

    def do(self, what, **more):
        self._on_message(self, {"do": what, **more}, [])

    def until(self, condition):
        """Take news until what the page shows fulfils `condition`; say now and then that somebody looks."""
        deadline = time.monotonic() + LIMIT
        while not condition(self.page):
            assert time.monotonic() < deadline, self.page
            self.do("look")
            try:
                self.page |= self.messages.get(timeout=1)["news"]
            except queue.Empty:
                continue


@pytest.fixture
def server():
    with echo_kit.start(echo_kit.serve_threaded, name="hall") as running:
        yield running


@pytest.fixture
def room(server):
    opened = Watched(server, echo_kit.serve_single)
    yield opened
    opened.close()


@pytest.fixture
def question():
    asked = echo_kit.predict("Is bob answered?", {YES: "answered", NO: "waits"})
    yield asked
    asked.close()


# -- a vote ------------------------------------------------------------------------------------------------------------


def test_vote_discuss_vote_again_experiment_and_the_truth(room, question, capsys):
    with Voter(room.url, "alice") as alice, Voter(room.url, "bob") as bob:
        room.ask(question)
        for phone in (alice, bob):
            hidden = {"round": "first vote", "open": True, "counts": None, "truth": None, "options": [YES, NO]}
            phone.ballot(question="Is bob answered?", **hidden)
            phone.vote(0)
            phone.ballot(chosen=0)
        bob.vote(1)
        bob.ballot(chosen=1)
        assert pinned(room, lambda it: it["rounds"][0]["votes"] == 2) == ["2 of 2 have voted"]
        assert board.pinned("hall")["rounds"] == [{"label": "first vote", "votes": 2, "counts": None}]
        room.show()
        assert alice.ballot(open=False)["counts"] == [1, 1]
        assert board.pinned("hall")["rounds"][0]["counts"] == [1, 1]
        room.ask(question)
        alice.ballot(round="second vote", chosen=None, counts=None, open=True)
        alice.vote(1)
        alice.ballot(chosen=1)
        with Voter(room.url, "carol") as carol:  # one who comes later votes, too
            carol.ballot(round="second vote")
            carol.vote(1)
            carol.ballot(chosen=1)
        question.compare("waits")
        assert capsys.readouterr().out == f"What happened: {NO}.\n"
        room.truth("waits")
        assert alice.ballot(truth=1)["counts"] == [0, 2]
        shown = board.pinned("hall")
        assert (shown["truth"], shown["lines"]) == (1, [f"What happened: {NO}."])
        assert [each["counts"] for each in shown["rounds"]] == [[1, 1], [0, 2]]
    assert [row[1:] for row in room.results.rows] == [(YES, 1, 0, False), (NO, 1, 2, True)]


def pinned(room, condition):
    """Wait until the stage's board is like that; its lines."""
    deadline = time.monotonic() + LIMIT
    while not condition(board.pinned(room.server.name)):
        assert time.monotonic() < deadline, board.pinned(room.server.name)
        room._wake.wait(0.02)
    return board.pinned(room.server.name)["lines"]


def test_another_question_closes_the_vote_and_after_the_truth_it_is_a_new_ballot(room, question):
    other = echo_kit.predict("And carol?", {"yes": 1, "no": 2})
    room.ask(question)
    room.ask(other)
    room.truth(3)
    assert board.pinned("hall")["lines"] == ["What happened: 3, which none of the options says."]
    room.ask(other)
    assert [row.question for row in room.results.rows] == ["Is bob answered?"] * 2 + ["And carol?"] * 4
    assert board.pinned("hall")["rounds"] == [{"label": "first vote", "votes": 0, "counts": None}]
    with Voter(room.url, "alice") as alice:
        alice.ballot(question="And carol?", round="first vote", truth=None)
    other.close()


def test_the_same_question_from_a_cell_that_was_run_again_is_the_same_ballot(room, question):
    room.ask(question)
    again = echo_kit.predict("Is bob answered?", {YES: "answered", NO: "waits"})
    room.ask(again)
    assert [each["label"] for each in board.pinned("hall")["rounds"]] == ["first vote", "second vote"]
    again.close()


@pytest.mark.parametrize("lesson", ["part1_single_socket", "part2_multithreaded", "surprises"])
def test_it_works_for_every_prediction_of_the_lessons(room, lesson):
    cells = nbformat.read(NOTEBOOKS / f"{lesson}.ipynb", 4).cells
    asked = [each.source for each in cells if each.cell_type == "code" and "echo_kit.predict(" in each.source]
    assert len(asked) >= 7
    for source in asked:
        text, options = map(ast.literal_eval, ast.parse(source).body[0].value.args)
        prediction = echo_kit.predict(text, options)
        for place, value in enumerate(options.values()):
            room.ask(prediction)
            room.truth(value)
            assert board.pinned("hall")["truth"] == place
        prediction.close()


def test_what_cannot_be_asked_or_shown(room):
    with pytest.raises(
        TypeError, match=r"ask\(\) needs the question that echo_kit\.predict\(…\) returned, not 'bob\?'"
    ):
        room.ask("bob?")
    for call in (room.show, lambda: room.truth(1)):
        with pytest.raises(RuntimeError, match=r"nothing has been asked yet: room\.ask\(prediction\)"):
            call()
    assert repr(room.results) == "no votes yet"


# -- another server ----------------------------------------------------------------------------------------------------


def test_phones_stay_and_lose_no_line_when_the_server_changes(room, server):
    port = server.address[1]
    room.change(echo_kit.serve_single)
    with Voter(room.url, "alice") as alice, Voter(room.url, "bob") as bob:
        assert alice.hears(alice.types("first"))
        waits = bob.types("I wait")
        room.change(echo_kit.serve_threaded)
        alice.until(state="changing")
        alice.until(state="served")
        assert alice.hears(alice.types("second")) == "second"
        assert bob.hears(waits) == "I wait"
        room.change()  # back
        assert alice.hears(alice.types("third")) == "third"
    assert (server.running, server.address[1], server.serves) == (True, port, echo_kit.serve_single)
    assert echo_kit.server.newest("hall") is server


def hangs_up(host, port):
    with socket.socket() as listener:  # no SO_REUSEADDR
        listener.bind((host, port))
        listener.listen()
        listener.accept()[0].close()  # the side that ends first keeps the port
        listener.accept()


def test_where_the_port_cannot_be_bound_again_it_says_so(server):
    room = Classroom(server, hangs_up)
    try:
        room.change()
        with socket.create_connection(server.address) as client:
            assert client.recv(1) == b""
            port = server.address[1]
            said = r"hangs_up listens at port \d+ now: the earlier port could not be bound again\. SO_REUSEADDR"
            with pytest.warns(RuntimeWarning, match=said):
                room.change(hangs_up)
            assert server.address[1] != port
    finally:
        room.close()


def test_a_function_that_does_not_start_leaves_the_class_with_the_earlier_one(room, server):
    def fails(host, port):
        raise ValueError("not <b>I</b>")

    with Voter(room.url, "alice") as alice:
        with pytest.raises(ValueError, match="not <b>I</b>"):
            room.change(fails)
        assert (server.running, server.serves) == (True, echo_kit.serve_threaded)
        assert alice.hears(alice.types("still here")) == "still here"
        room._other = fails
        room.do("hello")
        room.do("change")
        room.until(lambda page: page.get("note", "").startswith("not <b>I</b>"))
        assert alice.hears(alice.types("and here")) == "and here"


def test_what_is_no_server_and_no_function(server):
    with pytest.raises(TypeError, match=r"Classroom\(\) needs a server that start\(\) returned, not <function"):
        Classroom(echo_kit.serve_single)
    with pytest.raises(TypeError, match=r"a classroom changes to a function that serves, not to 7"):
        Classroom(server, 7)
    room = Classroom(server)
    try:
        with pytest.raises(
            TypeError, match=r"change\(\) needs a function that serves, like room\.change\(serve_many\)"
        ):
            room.change()
        with pytest.raises(TypeError, match="not to 'serve'"):
            room.change("serve")
        assert server.running
    finally:
        room.close()


def test_a_port_that_is_taken_leaves_nothing(server):
    with socket.create_server(("127.0.0.1", echo_kit.free_port())) as taken:
        with pytest.raises(OSError, match=str(taken.getsockname()[1])):
            Classroom(server, port=taken.getsockname()[1])


def test_when_its_cell_is_run_again_the_class_goes_on_with_the_new_server(room, server):
    with Voter(room.url, "alice") as alice:
        assert alice.hears(alice.types("one")) == "one"
        with echo_kit.start(echo_kit.serve_single, name="hall") as second:
            assert alice.hears(alice.types("two")) == "two"
            room.change(echo_kit.serve_threaded)
            assert room.server is second
            assert alice.hears(alice.types("three")) == "three"


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_is_told_where_to_join_and_who_has(room):
    room.do("hello")
    with Voter(room.url, "alice <b>") as alice:
        alice.hears(alice.types("hello"))
        room.until(lambda page: page.get("rows") and page["rows"][0][2].endswith("1 of 1 answered"))
        ((number, name, words, trouble),) = room.page["rows"]
        assert (name, trouble) == ("alice <b>", "")
        assert re.fullmatch(r"served by thread \d+, 1 of 1 answered", words)
        assert (room.page["phones"], room.page["found"]) == (1, 1)
        assert room.page["address"]["url"] == room.url
        assert room.page["address"]["qr"].startswith("data:image/svg+xml")
        assert (room.page["serves"], room.page["other"]) == ("serve_threaded", "serve_single")
        room.do("out", phone=number)
        assert alice.until(state="out")
        room.until(lambda page: not page["rows"])


def test_who_disturbs_is_shown_out_by_name_also_who_is_no_phone(room, server):
    with Voter(room.url, "alice") as alice, echo_kit.Client(server, "nc") as other:
        alice.until(state="served")
        other.send("x")
        assert other.receive() == "x"
        room.show_out("nc")
        with pytest.raises(echo_kit.ServerClosed):
            other.receive(timeout=LIMIT)
        room.do("hello")
        room.do("out by name", name="alice")
        alice.until(state="out")
        room.do("out by name", name="nobody <b>")
        room.until(lambda page: "nobody <b>" in page.get("note", ""))
        with pytest.raises(LookupError, match="nobody"):
            room.show_out("nobody")


def test_a_second_page_gets_all_of_it(room, question):
    room.do("hello")
    room.ask(question)
    room.until(lambda page: page.get("ballot"))
    before, room.page = room.page, {}
    room.do("hello")
    room.until(lambda page: page.keys() >= before.keys())
    assert room.page["ballot"] == before["ballot"]


def test_the_buttons_do_what_the_calls_do(room, question):
    room.do("hello")
    room.ask(question)
    for what, is_so in (
        ("vote", lambda page: not page["ballot"]["open"]),
        ("vote", lambda page: page["ballot"]["open"]),
        ("show", lambda page: page["ballot"]["rounds"][0]["counts"] == [0, 0]),
        ("again", lambda page: len(page["ballot"]["rounds"]) == 2),
        ("join", lambda page: page["joins"] and board.pinned("hall")["title"] == f"Join: {room.url}"),
        ("join", lambda page: not page["joins"] and board.pinned("hall")["title"] == "Is bob answered?"),
        ("change", lambda page: page["serves"] == "serve_single"),
        ("change", lambda page: page["serves"] == "serve_threaded"),
    ):
        room.until(lambda page: "ballot" in page)
        done = room.page["done"]
        room.do(what)
        room.until(lambda page, is_so=is_so, done=done: page["done"] > done and is_so(page))
        assert not room.page["note"]


def test_those_with_trouble_come_first_and_a_name_can_be_found(room, monkeypatch):
    many = [Listed(n, f"phone {n}", "", "served", "", 0, 0, "floods" if n in (3, 70) else "") for n in range(100)]
    monkeypatch.setattr(room._room, "phones", lambda: many)
    room.do("hello")
    room.until(lambda page: page.get("phones") == 100)
    assert [row[0] for row in room.page["rows"]][:4] == [70, 3, 99, 98]
    assert (len(room.page["rows"]), room.page["found"]) == (classroom.ROWS, 100)
    room.do("find", name="PHONE 4")
    room.until(lambda page: page["found"] == 11)
    assert {row[1] for row in room.page["rows"]} == {"phone 4", *(f"phone 4{n}" for n in range(10))}


def test_while_nobody_looks_it_tells_nothing(room, monkeypatch):
    room.do("hello")
    room.until(lambda page: "rows" in page)
    monkeypatch.setattr(classroom, "LEASE", -60.0)
    room.do("look")
    told = []
    monkeypatch.setattr(room, "_tell", told.append)
    assert room._paint() is None  # and waits until something happens
    room.do("join")  # is done all the same
    pinned(room, lambda it: it is not None)
    assert room._paint() is None
    assert not told


def test_other_messages_do_nothing(room):
    for message in (None, 7, {}, {"do": "close"}, {"do": ["change"]}, {"do": "find", "name": None}, {"name": "hello"}):
        room._on_message(room, message, [])
    room.do("hello")
    for message in ({"do": "out"}, {"do": "out", "phone": "1"}, {"do": "rehearse", "students": 1.5}):
        room._on_message(room, message, [])
    room.until(lambda page: page.get("done") == 3 and page["note"] == "students must be a whole number")


# -- as text, and its end ----------------------------------------------------------------------------------------------


def test_what_a_notebook_compares_is_the_same_in_every_run(room, question):
    data, _ = room._still()
    words = "phones join it at an address that is here while the kernel runs."
    assert data == {"text/plain": "Classroom of hall", "text/html": f"<p><b>Classroom of hall</b>: {words}</p>"}
    room.ask(question)
    assert room._still()[0] == data  # nobody has seen the votes yet
    room.show()
    newer = Watched(room.server, echo_kit.serve_single)  # the cell is run again: the votes stay
    assert newer._still()[0] == data
    newer.close()
    said = newer._still()[0]
    assert said["text/plain"].splitlines()[1].split() == ["question", "option", "first", "second", "truth"]
    assert "<table" in said["text/html"]


def test_as_text_it_says_where_to_join(room):
    with Voter(room.url, "alice"):
        assert str(room) == f"Classroom of hall\nJoin: {room.url}\n1 joined"
    room.close()
    assert str(room) == "Classroom of hall, closed"


def test_without_segno_the_address_stands_there(server, monkeypatch):
    monkeypatch.setattr(classroom, "segno", None)
    room = Classroom(server)
    assert room._picture()["address"]["qr"] == ""
    room.close()


def test_close_ends_it_and_leaves_the_server(room, server, question):
    room.do("hello")
    with Voter(room.url, "alice") as alice:
        room.ask(question)
        alice.ballot(open=True)
        alice.vote(0)
        room.close()
        room.close()
        alice.until(state="out")
    assert board.pinned("hall") is None
    assert server.running
    for call in (room.show, room.change, room.rehearse):
        with pytest.raises(RuntimeError, match="the classroom of hall is closed: run its cell again"):
            call()
    assert [row.first for row in room.results.rows][1] == 0  # what was voted is still there


def test_when_its_cell_is_run_again_the_phones_and_the_votes_stay(room, server, question):
    room.ask(question)
    with Voter(room.url, "alice") as alice:
        alice.ballot(open=True)
        newer = Watched(server, echo_kit.serve_single)
        assert (room.comm, newer.url) == (None, room.url)
        alice.vote(0)
        alice.ballot(chosen=0)
        pinned(newer, lambda it: it is not None and it["lines"] == ["1 of 1 have voted"])
        newer.ask(question)  # it is the second vote
        alice.ballot(round="second vote")
        assert alice.hears(alice.types("still here")) == "still here"
        newer.close()
        alice.until(state="out")


def test_when_its_servers_cell_is_run_again_too_the_phones_stay_and_the_votes_begin_anew(room, question):
    room.ask(question)
    with Voter(room.url, "alice") as alice, echo_kit.start(echo_kit.serve_threaded, name="hall") as again:
        alice.ballot(open=True)
        newer = Watched(again)
        assert newer.url == room.url
        assert alice.until_it_has("ballot") is None
        assert (newer.results.rows, board.pinned("hall")) == ([], None)
        assert alice.hears(alice.types("still here")) == "still here"
        newer.close()


def test_a_newer_one_that_listens_elsewhere_takes_the_place_without_the_phones(room, server):
    port = int(re.search(r":(\d+)/", room.url)[1])
    with Voter(room.url, "alice") as alice:
        newer = Watched(server, port=port)
        alice.until(state="out")
    assert room.comm is None
    assert f":{port}/" in newer.url
    assert newer.url != room.url
    newer.close()


PLAIN = """
import echo_kit
server = echo_kit.start(echo_kit.serve_single, name="hall")
room = echo_kit.Classroom(server)
print(repr(room), str(room).startswith(f"Classroom of hall\\nJoin: {room.url}"), repr(room.results))
"""


def test_in_plain_python_it_is_a_text_and_the_program_ends():
    done = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("Classroom of hall True no votes yet\n", "")
