"""The room: phones that speak as the page does, on real sockets, and people who spoil things for others."""

import contextlib
import itertools
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
import websocket

import echo_kit
from echo_kit.live import outside, web
from echo_kit.live.feed import Live
from echo_kit.live.room import Limits, Room
from echo_kit.watch.events import introduced

from ..phones import LIMIT, Phone


def serve_many(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=echo, args=listener.accept()).start()


def echo(conn, _):
    with conn:
        while data := conn.recv(1024):
            conn.sendall(data)


def serve_one(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            echo(*listener.accept())


@pytest.fixture
def stack_of():
    """Opens rooms and phones, and closes them, the newest first."""
    opened = []

    def keep(it):
        opened.append(it)
        return it

    yield keep
    for each in reversed(opened):
        each.close()


@pytest.fixture
def single():
    with echo_kit.start(serve_one, name="single") as server:
        yield server


@pytest.fixture
def threaded():
    with echo_kit.start(serve_many, name="threaded") as server:
        yield server


@pytest.fixture
def enter(stack_of):
    """`room = enter(server, host=…)`; `phone = enter(room, "alice")`."""

    def enter(where, *args, **options):
        kind = Phone if isinstance(where, str) else Room
        return stack_of(kind(where, *args, **options))

    return enter


# -- one phone is one connection ---------------------------------------------------------------------------------------


def test_bob_waits_and_all_views_know_who_he_is(single, enter):
    room = enter(single)
    alice = enter(room.url, "alice")
    alice.echo(1, "hello")
    alice.until(state="served", words="You are served by the server thread.")
    bob = enter(room.url, "bob")
    bob.until(state="waiting")
    bob.say(1, "hi")
    bob.send(do="here")
    bob.until(here=True)  # the room has read what bob said
    assert [(each.name, each.unread) for each in single.backlog().waiting] == [("bob", 2)]
    assert "alice" in str(single.where())
    assert re.search(r'alice +connected · accepted · .*"hello" echoed', str(single.timeline()))
    facts = [(each.id, each.name, each.state, each.thread, each.sent, each.answered) for each in room.phones()]
    assert facts == [(1, "alice", "served", "server thread", 1, 1), (2, "bob", "waiting", "", 1, 0)]
    alice.send(do="leave")
    assert bob.until(echo=1)["text"] == "hi"
    assert [each.name for each in room.phones()] == ["bob"]


def test_each_thread_is_named(threaded, enter):
    room = enter(threaded)
    for number in (1, 2):
        enter(room.url, f"phone of {number}").until(state="served", words=f"You are served by thread {number}.")


def test_names_are_text_short_and_unique(threaded, enter):
    room = enter(threaded)
    names = {
        "alice": "alice",
        "  alice ": "alice 2",
        "": "phone 3",
        "<b>\x1b[2J": "<b>\\x1b[2J",
        "x" * 100: "x" * 19 + "…",
        "\u202ebob": "\\u202ebob",
    }
    for number, (typed, called) in enumerate(names.items(), 1):
        enter(room.url, typed).until(you={"name": called, "id": number})


def test_an_echo_that_is_another_is_shown_as_such(enter):
    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data.upper() + b"!" * (data == b"more"))

    with echo_kit.start(serve) as server:
        phone = enter(enter(server).url)
        phone.say(1, "aé\x07")
        answer = phone.until(echo=1)
        assert (answer["text"], answer["same"]) == ("Aé\\x07", False)
        phone.say(2, "OK")
        assert phone.until(echo=2)["same"] is True
        phone.say(3, "more")
        assert phone.until(note="The server has sent 1 byte more than it got.")


def test_what_is_not_sent_is_said(threaded, enter):
    phone = enter(enter(threaded).url)
    for number, (text, why) in enumerate(
        [
            ("é" * 501, "it has 1,002 bytes, and 1,000 are taken"),
            ("", "an empty message sends no bytes"),
            ("\ud83d", r"\ud83d is half a character: it has no bytes in UTF-8"),
        ]
    ):
        phone.say(number, text)
        phone.until(refused=number, note=f"This was not sent: {why}.")
    phone.echo(4)


def test_of_a_server_that_never_answers_so_many_messages_are_kept(single, enter):
    room = enter(single, limits=Limits(kept=3))
    enter(room.url, "alice").until(state="served")
    bob = enter(room.url, "bob")
    for number in range(4):
        bob.say(number, "hi")
    bob.until(refused=3, note="This was not sent: 3 messages wait for their echo: wait for one, too.")


# -- reloads -----------------------------------------------------------------------------------------------------------


def test_after_a_reload_it_is_the_same_phone_and_nothing_is_sent_twice(single, enter):
    room = enter(single)
    alice = enter(room.url, "alice")
    alice.until(state="served")
    before = enter(room.url, "bob")
    before.until(state="waiting")
    before.say(1, "once")
    before.say(2, "twice")
    assert len(single.backlog().waiting) == 1
    before.send(do="here")
    before.until(here=True)  # what has not been read is lost with the page
    before.close()
    bob = enter(room.url, "bob", seat=before.seat)
    bob.until(you={"name": "bob", "id": 2})
    bob.say(1, "once")  # a page says again what it has no echo of
    alice.send(do="leave")
    assert [bob.until(echo=number)["text"] for number in (1, 2)] == ["once", "twice"]
    bob.say(2, "twice")  # and gets the answer that it has not heard
    assert bob.until(echo=2)["text"] == "twice"
    assert re.search(r"bob .*", str(single.timeline()))
    assert sum(call["bytes"] for call in single.timeline().calls() if call["call"] == "recv") == len("oncetwice")


def test_a_phone_whose_page_stays_away_hangs_up(enter):
    gone = threading.Event()

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                conn.recv(10)
                gone.set()

    with echo_kit.start(serve) as server:
        room = enter(server, limits=Limits(grace=0.1))
        phone = enter(room.url)
        phone.until(state="served")
        phone.close()
        assert gone.wait(LIMIT)
        assert room.phones() == []


def test_a_second_window_takes_over(threaded, enter):
    room = enter(threaded)
    first = enter(room.url, "alice")
    first.echo(1)
    second = enter(room.url, "alice", seat=first.seat)
    assert first.is_let_go() == "This phone goes on in another window."
    second.echo(2)
    assert len(room.phones()) == 1


# -- another server ----------------------------------------------------------------------------------------------------


def test_a_change_of_server_loses_nothing(enter):
    with echo_kit.start(serve_one, name="first") as first:
        room = enter(first)
        phones = [enter(room.url, name) for name in ("alice", "bob", "carol")]
        phones[0].echo(1)
        for phone in phones[1:]:
            phone.until(state="waiting")
            phone.say(1, "before")
        room.changing()
        for phone in phones:
            phone.until(state="changing", words="The server is being changed: your messages are kept.")
            phone.say(2, "meanwhile")
        first.stop()
        with echo_kit.start(serve_many, name="second", port=first.address[1]) as second:
            room.changed(second)
            for phone in phones:
                phone.until(echo=2, text="meanwhile", same=True)
                phone.echo(3, "after")
                phone.until(state="served")
            told = str(second.timeline())
            assert all(re.search(rf"{name} +connected", told) for name in ("alice", "bob", "carol")), told
            assert [each.answered for each in room.phones()] == [3, 3, 3]
            room.close()


@pytest.mark.soak
def test_20_changes_under_load_lose_nothing(enter):
    def talk(phone):
        numbers = itertools.count()
        while not over.is_set():
            phone.echo(number := next(numbers), f"message {number} of {phone.seat}")
        said.append(next(numbers))

    server, said, over = echo_kit.start(serve_one, name="class"), [], threading.Event()
    room = enter(server, limits=Limits(rate=1000, per_address=100))
    phones = [enter(room.url, f"phone {number}") for number in range(40)]
    witness = enter(room.url, "witness")
    threads = [threading.Thread(target=talk, args=(phone,)) for phone in phones]
    for thread in threads:
        thread.start()
    for change in range(20):
        room.changing()
        server.stop()
        server = echo_kit.start(serve_one if change % 2 else serve_many, name="class", port=server.address[1])
        room.changed(server)
        if not change % 2:
            witness.echo(change)
    room.changing()
    server.stop()
    with echo_kit.start(serve_many, name="class", port=server.address[1]) as server:
        room.changed(server)
        over.set()
        for thread in threads:
            thread.join(LIMIT)
        assert len(said) == 40
        assert sum(said) == sum(each.answered for each in room.phones()) - 10  # the witness has said ten
        room.close()


@pytest.mark.parametrize("how", ["its cell is run again", "restart"])
def test_a_server_that_ends_by_itself_is_found_again(how, enter):
    server = echo_kit.start(serve_many, name="again")
    room = enter(server)
    phone = enter(room.url)
    phone.echo(1)
    if how == "restart":
        server.restart()
    else:
        server.stop()
        phone.until(state="lost", words="No connection to the server: trying again. Your messages are kept.")
        phone.say(2, "message 2")
        server = echo_kit.start(serve_many, name="again")
    phone.echo(2)
    phone.until(state="served")
    with server:
        room.close()


def test_a_full_backlog_holds_up_nobody(enter):
    def serve(host, port):
        with socket.create_server((host, port), backlog=0) as listener:
            echo(*listener.accept())
            echo(*listener.accept())
            go_on.wait(LIMIT)

    go_on = threading.Event()
    with echo_kit.start(serve) as server:
        room = enter(server)
        alice = enter(room.url, "alice")
        alice.until(state="served")
        others = [enter(room.url, f"phone {number}") for number in range(5)]
        assert {each.until(state="connecting")["words"] for each in others} == {"The server has not answered yet."}
        alice.echo(1)
        go_on.set()
        room.close()


# -- what is asked -----------------------------------------------------------------------------------------------------


class Ballot:
    """As `live/votes.py` has it, as far as a room needs it."""

    id = 7

    def __init__(self):
        self.votes = {}

    def cast(self, seat, option):
        self.votes[seat] = option
        return True

    def shown(self, seat):
        return {"id": 7, "question": "What happens?", "options": ["a", "b"], "chosen": self.votes.get(seat)}


def test_a_ballot_is_on_all_phones_also_on_later_ones(threaded, enter):
    room, ballot = enter(threaded), Ballot()
    alice = enter(room.url, "alice")
    alice.until(ballot=None)
    room.ask(ballot)
    alice.until(ballot=ballot.shown(""))
    bob = enter(room.url, "bob")
    bob.until(ballot=ballot.shown(""))
    bob.send(do="vote", ballot=6, option=0)  # an older one
    bob.send(do="vote", ballot=7, option=1)
    bob.until(ballot=ballot.shown("") | {"chosen": 1})
    assert ballot.votes == {bob.seat: 1}
    room.ask(None)
    alice.until(ballot=None)


# -- who may come ------------------------------------------------------------------------------------------------------


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=LIMIT) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def test_the_page_is_one_file_that_needs_nothing_else(threaded, enter):
    status, headers, page = get(enter(threaded).url)
    assert status == 200
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert re.search(r"script-src 'nonce-([\w-]+)'", policy)[1] in page
    assert not re.search(r"https?://|@import|url\(|src=", page)


def test_without_the_token_there_is_a_sentence_only(threaded, enter):
    base = enter(threaded).url.split("/?")[0]
    for page in ("/", "/ws"):
        for wrong in ("", "?k=", "?k=wrong", "?k=%ff", "?q=1"):
            status, headers, said = get(base + page + wrong)
            assert (status, said) == (403, web.WRONG)
            assert headers["Content-Type"].startswith("text/plain")


def test_a_rehearsal_comes_from_this_machine_only_and_has_its_own_limit(threaded, enter):
    room = enter(threaded, limits=Limits(phones=1, per_address=1, rehearsal=3))
    for number in range(3):
        enter(room.rehearsal_url, f"student {number}").echo(1)
    assert enter(room.rehearsal_url, "one more").is_let_go() == "The room is full: 3 phones are in it."
    enter(room.url, "alice").echo(1)
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        Phone(room.rehearsal_url, source="127.0.0.2")


def test_the_room_and_each_address_have_their_limits(threaded, enter):
    room = enter(threaded, limits=Limits(phones=3, per_address=2))
    for name in ("alice", "bob"):
        enter(room.url, name).until(state="served")
    refused = "2 phones have joined from your address, and more may not."
    assert enter(room.url, "carol").is_let_go() == refused
    enter(room.url, "dave", source="127.0.0.2").until(state="served")
    assert enter(room.url, "erin", source="127.0.0.3").is_let_go() == "The room is full: 3 phones are in it."


def test_a_seat_is_letters(threaded, enter):
    room = enter(threaded)
    for seat in ("", "short", "x" * 65, "with space", "../../etc"):
        phone = enter(room.url, join=False)
        phone.send(do="join", name="alice", seat=seat)
        assert phone.is_let_go() == "This page is not one of this room: open its address again."


def test_who_is_shown_out_does_not_come_back(threaded, enter):
    room = enter(threaded)
    mallory = enter(room.url, "mallory")
    mallory.echo(1)
    room.show_out(room.phones()[0].id)
    assert mallory.is_let_go() == "You were shown out."
    assert enter(room.url, "eve", seat=mallory.seat).is_let_go() == "You were shown out."
    assert enter(room.url, "Mallory").is_let_go() == "You were shown out."
    assert room.phones() == []
    enter(room.url, "alice").echo(1)
    assert re.search(r"mallory .* left", str(threaded.timeline()))


# -- people who spoil things -------------------------------------------------------------------------------------------

FAR = "127.0.0.2"  # another address of this machine: what holds for others holds for it


@contextlib.contextmanager
def spoiling(act):
    """Do it again and again, from before until after, at most until the room closes the connection."""

    def go_on():
        with contextlib.suppress(OSError):
            while not over.is_set():
                act()
                begun.set()

    begun, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        assert begun.wait(LIMIT)
        yield thread
    finally:
        over.set()
        thread.join(LIMIT)
    assert not thread.is_alive()


def test_a_flood_of_messages_is_read_slowly_and_named(threaded, enter, monkeypatch):
    monkeypatch.setattr(web, "LATE", 10)
    room = enter(threaded, limits=Limits(rate=20, burst=5))
    alice, mallory = enter(room.url, "alice"), enter(room.url, "mallory", source=FAR)
    mallory.until(state="served")
    with spoiling(lambda: mallory.say(1, "flood")):
        alice.echo(1)
        assert mallory.is_let_go() == "Too many messages, too fast: this phone was disconnected."
    assert max(each.sent for each in room.phones()) <= web.LATE + 6
    assert [each.trouble for each in room.phones()] == ["", "too fast: 20 messages a second are taken"]
    alice.echo(2)


def test_what_is_typed_too_fast_is_sent_slowly(threaded, enter):
    phone = enter(enter(threaded, limits=Limits(rate=20, burst=5)).url)
    began = time.perf_counter()
    for number in range(16):
        phone.say(number, "x")
    for number in range(16):
        phone.until(echo=number)
    assert time.perf_counter() - began > 0.5  # at 20 a second, after the first four


def test_pings_are_few(threaded, enter):
    phone = enter(enter(threaded).url)
    phone.until(state="served")
    phone.socket.sock.sendall(FLOODS["pings"] * 100)
    assert phone.is_let_go() == ""


FLOODS = {
    "pings": b"\x89\x80\0\0\0\0",
    "pongs": b"\x8a\x80\0\0\0\0",
    "parts of one message": b"\x00\x80\0\0\0\0",
    "no frames": b"\xff" * 64,
}


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
def test_a_flood_that_is_no_message_is_cut_off(threaded, enter, frame):
    room = enter(threaded)
    alice, mallory = enter(room.url, "alice"), enter(room.url, "mallory", source=FAR)
    mallory.until(state="served")
    if frame[0] == 0:
        mallory.socket.sock.sendall(b"\x01\x80\0\0\0\0")  # what it goes on with, for ever
    with spoiling(lambda: mallory.socket.sock.sendall(frame * 100)) as thread:
        alice.echo(1)
        thread.join(LIMIT)
        assert not thread.is_alive()
    alice.echo(2)


def test_a_page_that_never_reads_is_cut_off(enter, monkeypatch):
    monkeypatch.setattr(web, "WRITTEN", 4096)
    monkeypatch.setattr(web, "FLOOD", 1 << 40)  # else it is sometimes cut off for what it sends, before
    with echo_kit.start(serve_many) as server:
        room = enter(server, limits=Limits(unread=1000, rate=1e9, kept=1000))
        alice, mallory = enter(room.url, "alice"), enter(room.url, "mallory", source=FAR, join=False)
        mallory.socket.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mallory.send(do="join", name="mallory", seat=mallory.seat)
        numbers = itertools.count()
        with spoiling(lambda: mallory.say(next(numbers), "x" * 1000)) as thread:
            alice.echo(1)
            thread.join(LIMIT)
            assert not thread.is_alive()
        alice.echo(2)
        assert room.phones()[1].trouble == "its page does not read what it is sent: disconnected"


def test_a_server_that_sends_without_end_holds_up_nobody(enter):
    def talk(conn, _):
        with conn, contextlib.suppress(OSError):
            while data := conn.recv(1024):
                while data == b"more":
                    conn.sendall(data * 10_000)
                conn.sendall(data)

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            while True:
                threading.Thread(target=talk, args=listener.accept()).start()

    with echo_kit.start(serve) as server:
        room = enter(server)
        alice, bob = enter(room.url, "alice"), enter(room.url, "bob")
        bob.say(1, "more")
        bob.until(echo=1)
        alice.echo(1)
        bob.send(do="here")
        bob.until(here=True)
        assert sum("note" in each for each in bob.heard) == 1
        bob.send(do="leave")
        room.close()


def test_500_connections_from_one_address_are_few(threaded, enter):
    room = enter(threaded)
    alice = enter(room.url, "alice")
    host, port = room.address
    opened = [socket.create_connection((host, port), LIMIT, source_address=(FAR, 0)) for _ in range(500)]
    try:
        alice.echo(1)
        for each in opened[:5]:
            each.sendall(b"GET /?k=")  # and never the rest
        for each in opened[-5:]:
            assert each.recv(10) == b""
        enter(room.url, "bob").echo(1)
    finally:
        for each in opened:
            each.close()


def test_a_connection_that_becomes_no_phone_is_closed(threaded, enter, monkeypatch):
    monkeypatch.setattr(web, "JOINS", 0.2)
    room = enter(threaded)
    with socket.create_connection(room.address, LIMIT) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert slow.recv(100) == b""
    assert enter(room.url, join=False).is_let_go() == ""
    enter(room.url, "alice").echo(1)


NONSENSE = ["", "no JSON", "[]", "{}", '{"do": 1}', '{"do": "say", "id": "1", "text": "x"}', "[" * 8000, "1e999"]
NONSENSE += [
    '{"do": "join", "name": 1}',
    '{"do": "vote", "ballot": 1, "option": true}',
    '{"do": "say", "id": 1, "text": [1]}',
]


def test_nonsense_does_nothing(threaded, enter):
    phone = enter(enter(threaded, limits=Limits(rate=1e9)).url)
    for number, message in enumerate(NONSENSE):
        phone.socket.send(message)
        phone.echo(number)


def test_a_message_that_is_too_long_for_a_page_ends_it(threaded, enter):
    room = enter(threaded)
    phone = enter(room.url)
    phone.until(state="served")
    phone.say(1, "x" * 20_000)
    assert phone.is_let_go() == ""
    enter(room.url, seat=phone.seat).echo(2)


# -- clients that are no phones ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"I am carol", "carol"),
        (b"I am carol\nhello", "carol"),
        (b"I am  \x1b[2J \r\n", "\\x1b[2J"),
        (b"I am " + b"x" * 300, "x" * 19 + "…"),
        (b"I am \xff\n", "\ufffd"),
        (b"I am ", ""),
        (b"I amuse", ""),
        (b"hello", ""),
    ],
)
def test_the_first_line_of_a_client_is_its_name(data, name):
    assert introduced(data) == name


def talk(address, *lines):
    """A client in plain Python that has said this, each after the echo of the one before."""
    conn = socket.create_connection(address, LIMIT)
    for line in lines:
        conn.sendall(line)
        assert conn.recv(1024) == line
    return conn


def test_a_client_that_is_no_phone_gives_its_name(threaded, enter):
    live = Live(threaded.observation)
    before = talk(threaded.address, b"I am early\n")  # without a room, that is a message like any other
    room = enter(threaded)
    enter(room.url, "carol").echo(1)
    conn = talk(threaded.address, b"hello")
    live.look()
    named, again = talk(threaded.address, b"I am carol\n", b"hi"), talk(threaded.address, b"I am dave")
    with before, conn, named, again:
        names = list(threaded.client_names().values())
        assert names == ["client 1", "carol", "client 3", "carol (2)", "dave"]
        assert re.search(r"carol \(2\) +accepted|carol \(2\) +connected", str(threaded.timeline()))
        live.look()
        assert {lane["name"] for lane in live.whole()["lanes"]} >= {"carol", "carol (2)", "dave"}
        room.close()
        with talk(threaded.address, b"I am late"):
            assert list(threaded.client_names().values())[-1] == "client 6"


def test_a_client_that_is_no_phone_is_shown_out(threaded, enter):
    room = enter(threaded)
    with talk(threaded.address, b"I am mallory") as conn, talk(threaded.address, b"I am carol") as other:
        room.show_out_client("mallory")
        assert conn.recv(10) == b""
        other.sendall(b"still here")
        assert other.recv(100) == b"still here"
        assert re.search(r"mallory .*· shown out", str(threaded.timeline()))
        with pytest.raises(LookupError, match="the server serves no client bob now"):
            room.show_out_client("bob")


# -- where it is found -------------------------------------------------------------------------------------------------


def test_for_this_machine_only_unless_told_otherwise(threaded, enter):
    room = enter(threaded)
    assert (room.address[0], room.others, room.notes) == ("127.0.0.1", "", [])
    assert room.url.startswith(f"http://127.0.0.1:{room.address[1]}/?k=")
    assert room.lines[0] == room.url
    assert "listens on this machine only" in room.lines[1]


def test_beyond_this_machine_the_address_is_its_own_in_the_network(enter, monkeypatch):
    monkeypatch.setattr(outside, "_candidates", lambda _: iter(["0.0.0.0", "127.0.0.1", "192.168.7.3"]))
    with echo_kit.start(serve_many, host="0.0.0.0") as server:
        room = enter(server, host="0.0.0.0")
        port = server.address[1]
        assert room.url.startswith(f"http://192.168.7.3:{room.address[1]}/?k=")
        assert room.rehearsal_url.startswith("http://127.0.0.1:")
        assert room.others == "Any machine that reaches this one can join, if it knows the whole address of the page."
        assert f"nc 192.168.7.3 {port}" in room.lines
        assert f"python -m echo_kit client 192.168.7.3 {port} --name alice" in room.lines
        assert "127.0.0.1" not in "".join(room.lines)
        room.close()


def test_the_line_of_plain_python_runs():
    with echo_kit.start(serve_many) as server:
        line = outside.lines_to_type(("0.0.0.0", server.address[1]))[2]
        line = re.sub(r"\('[^']*'", "('127.0.0.1'", line).removeprefix('python3 -c "').removesuffix('"')
        told = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=LIMIT)
        assert told.stdout == "b'I am alice'\nb'hello'\n", told.stderr


def test_without_a_network_it_says_so(threaded, enter, monkeypatch):
    monkeypatch.setattr(outside, "_candidates", lambda _: iter(["127.0.0.1", "127.0.1.1", "::1", "fe80::1%eth0"]))
    room = enter(threaded, host="0.0.0.0")
    assert room.notes == ["This machine has no address in a network: only it can open the page, until it has one."]
    assert outside.lines_to_type(("0.0.0.0", 1)) == [
        "This machine has no address in a network: no other machine reaches the server."
    ]


def test_an_ipv6_address_has_brackets(threaded, enter):
    room = enter(threaded, host="::1")
    assert room.url.startswith(f"http://[::1]:{room.address[1]}/?k=")
    assert get(room.url)[0] == 200


@pytest.mark.parametrize("installed", [True, False])
def test_behind_a_hub_it_goes_through_the_proxy(threaded, enter, monkeypatch, installed):
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    monkeypatch.setattr(outside.importlib.util, "find_spec", lambda _: object() if installed else None)
    room = enter(threaded)
    assert room.url.startswith(f"/user/ann/proxy/{room.address[1]}/?k=")
    assert any("jupyter-server-proxy is not installed" in note for note in room.notes) is not installed
    proxied = f"http://127.0.0.1:{room.address[1]}/?{room.url.partition('?')[2]}"
    for number in range(9):  # all come from the proxy's address
        enter(proxied).until(you={"name": "alice" if not number else f"alice {number + 1}", "id": number + 1})
    monkeypatch.setenv("JUPYTERHUB_PUBLIC_URL", "https://hub.example.org/user/ann/")
    url, notes = outside.through_hub(24_000)
    assert url == "https://hub.example.org/user/ann/proxy/24000/"
    assert not any("Put the hub's own address" in note for note in notes)


def test_a_room_needs_a_server_and_a_port(threaded, enter):
    with pytest.raises(TypeError, match="a room needs a server"):
        Room("127.0.0.1")
    with pytest.raises(OSError, match="port"):
        Room(threaded, port=threaded.address[1])


# -- the end -----------------------------------------------------------------------------------------------------------


def test_close_says_good_bye(threaded, enter):
    room = enter(threaded)
    phone, quiet = enter(room.url, "alice"), enter(room.url, "bob")
    phone.echo(1)
    quiet.until(state="served")
    room.close()
    assert phone.is_let_go() == quiet.is_let_go() == "The room is closed."
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(room.address, LIMIT)
    room.close()
    room.changing()
    room.show_out(1)


def test_a_program_with_an_open_room_ends(tmp_path):
    program = """
import socket, echo_kit
from echo_kit.live.room import Room
def serve(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            listener.accept()
room = Room(echo_kit.start(serve))
print(room.url)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT)
    assert (told.returncode, told.stderr) == (0, "")
