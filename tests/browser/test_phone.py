"""The page of a phone, in a real browser, in windows as large as a phone's."""

import re
import socket
import threading

import pytest

import echo_kit
from echo_kit.live.room import Limits, Room
from echo_kit.watch.text import visible

from ..lab import LIMIT, axe, chromium
from .test_markup import LOOK, PAYLOADS

SIZE = {"width": 390, "height": 844}
TAKEN = "You are served by the server thread."
WAITS = "You are connected, and not accepted yet: the server has not taken your connection."


def echo(conn, _):
    with conn:
        while data := conn.recv(1024):
            conn.sendall(data if data != b"shout" else b"SHOUT")


def serve_one(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            echo(*listener.accept())


def serve_many(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=echo, args=listener.accept()).start()


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


class Screen:
    """A phone's screen."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(viewport=SIZE, has_touch=True, is_mobile=True, **options)
        self.context.set_default_timeout(LIMIT * 1000)
        self.page = self.context.new_page()
        self.wrong, self.asked = [], []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda opened: self.asked.append(opened.url))
        self.page.goto(url)

    def joins(self, name):
        self.page.get_by_label("Your name").fill(name)
        self.page.keyboard.press("Enter")

    def is_told(self, words):
        self.page.locator("#state").get_by_text(words, exact=True).wait_for()

    def types(self, text):
        self.page.get_by_label("A line to send").fill(text)
        self.page.keyboard.press("Enter")

    def sees(self, text, echo):
        """Its newest message, and what came back: a pattern."""
        line = self.page.locator("#said li").first
        line.locator("small").get_by_text(re.compile(f"^{echo}$")).wait_for()
        assert line.inner_text().splitlines()[0] == text

    def lines(self):
        return [each.splitlines()[0] for each in self.page.locator("#said li").all_inner_texts()]

    def fits(self):
        wide, small = self.page.evaluate(
            """() => [document.documentElement.scrollWidth > innerWidth,
                [...document.querySelectorAll("button, input")].filter((each) => each.offsetParent)
                    .filter((each) => each.offsetHeight < 44 || each.offsetWidth < 44).map((each) => each.outerHTML)]"""
        )
        assert (wide, small) == (False, [])


@pytest.fixture
def screen(browser):
    opened = []

    def open_screen(url, **options):
        opened.append(Screen(browser, url, **options))
        return opened[-1]

    yield open_screen
    wrong = [each for screen in opened for each in screen.wrong]
    for each in opened:
        each.context.close()
    assert not wrong, wrong


class Ballot:
    """As `live/votes.py` has it, as far as a phone sees it."""

    id = 1

    def __init__(self):
        self.votes, self.counts, self.open, self.truth = {}, None, True, None

    def cast(self, seat, option):
        self.votes[seat] = option
        return True

    def shown(self, seat):
        facts = {"id": 1, "question": "What happens to <b>bob</b>?", "options": ["he waits", "he is served"]}
        facts |= {"round": "first vote", "open": self.open, "truth": self.truth, "counts": self.counts}
        return facts | {"chosen": self.votes.get(seat)}


def test_three_phones_talk_vote_and_see_the_server_change(screen):
    server = echo_kit.start(serve_one, name="class")
    room = Room(server)
    try:
        alice, bob, carol = (screen(room.url) for _ in range(3))
        alice.joins("alice")
        alice.is_told(TAKEN)
        for each in (bob, carol):
            each.joins("bob")
            each.is_told(WAITS)
        assert carol.page.get_by_role("heading", name="bob 2").is_visible()
        alice.types("hello")
        alice.sees("hello", r"echo: hello \([\d.]+ m?s\)")
        alice.types("shout")
        alice.sees("shout", r"came back different: SHOUT \([\d.]+ m?s\)")
        bob.types("is anybody there?")
        bob.sees("is anybody there?", "no echo yet")
        for each in (alice, bob, carol):
            each.fits()

        ballot = Ballot()
        room.ask(ballot)
        question = bob.page.get_by_role("heading", name="What happens to <b>bob</b>? (first vote)")
        question.wait_for()
        bob.page.get_by_role("button", name="he waits").tap()
        bob.page.get_by_role("button", name="he waits your vote", pressed=True).wait_for()
        carol.page.get_by_role("button", name="he is served").focus()
        carol.page.keyboard.press("Space")
        carol.page.get_by_role("button", name="he is served your vote", pressed=True).wait_for()
        assert sorted(ballot.votes.values()) == [0, 1]
        bob.fits()

        bob.page.reload()
        bob.is_told(WAITS)
        assert bob.page.get_by_role("heading", name="bob").first.is_visible()
        bob.sees("is anybody there?", "no echo yet")
        bob.page.get_by_role("button", name="he waits your vote", pressed=True).wait_for()

        room.changing()
        for each in (alice, bob, carol):
            each.is_told("The server is being changed: your messages are kept.")
        carol.types("typed meanwhile")
        server.stop()
        server = echo_kit.start(serve_many, name="class", port=server.address[1])
        room.changed(server)
        bob.sees("is anybody there?", r"echo: is anybody there\? \([\d.]+ m?s\)")
        carol.sees("typed meanwhile", r"echo: typed meanwhile \([\d.]+ m?s\)")
        for each in (alice, bob, carol):
            each.page.locator("#state").get_by_text(re.compile(r"^You are served by thread \d\.$")).wait_for()
        assert {"alice", "bob", "bob 2"} <= set(server.client_names().values())

        ballot.open, ballot.counts, ballot.truth = False, [1, 1], 0
        room.ask(ballot)
        truth = bob.page.get_by_role(
            "button", name="he waits your vote · 1 of 2 · this is what happened", disabled=True
        )
        truth.wait_for()

        room.show_out(next(each.id for each in room.phones() if each.name == "alice"))
        alice.page.get_by_role("heading", name="You were shown out.").wait_for()
        bob.page.get_by_role("button", name="Leave").tap()
        bob.page.get_by_role("button", name="Join").wait_for()
        room.close()
        carol.page.get_by_role("heading", name="The room is closed.").wait_for()
        base = room.url.split("?")[0]
        asked = {each.replace("ws://", "http://") for one in (alice, bob, carol) for each in one.asked}
        assert [each for each in asked if not each.startswith((base, "data:"))] == []
    finally:
        room.close()
        server.stop()


def test_what_is_typed_without_a_connection_is_sent_once(screen):
    got = []

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    got.append(data)
                    conn.sendall(data)

    with echo_kit.start(serve) as server:
        room = Room(server, limits=Limits(rate=1000))
        try:
            alice = screen(room.url)
            alice.joins("<img src=x onerror=alert(1)>")
            alice.is_told(TAKEN)
            for number in range(12):
                alice.page.evaluate("() => socket?.close()")
                alice.types(f"<b>{number}</b>;")
            alice.sees("<b>11</b>;", r"echo: <b>11</b>; \([\d.]+ m?s\)")
            alice.page.locator("#said small").get_by_text("no echo yet").first.wait_for(state="detached")
            assert alice.lines() == [f"<b>{number}</b>;" for number in reversed(range(12))]
            assert b"".join(got).decode() == "".join(f"<b>{number}</b>;" for number in range(12))
            assert alice.page.locator("#said b, img").count() == 0
        finally:
            room.close()


IN_A_PHONE = {"H1", "H2", "FORM", "LABEL", "DIV", "INPUT", "BUTTON", "P", "SECTION", "UL", "LI", "SMALL", "NOSCRIPT"}


class Odd(Ballot):
    def shown(self, seat):
        return super().shown(seat) | {"question": PAYLOADS[1], "options": PAYLOADS}


def test_names_messages_and_votes_are_text(screen):
    with echo_kit.start(serve_many) as server:
        room = Room(server, limits=Limits(rate=1000))
        try:
            alice = screen(room.url)
            alice.joins(PAYLOADS[0])
            alice.page.get_by_role("heading", name=PAYLOADS[0]).wait_for()
            for payload in PAYLOADS:
                alice.types(payload)
            alice.page.locator("#said li", has=alice.page.locator("small")).nth(len(PAYLOADS) - 1).wait_for()
            alice.page.locator("#said small").get_by_text("no echo yet").first.wait_for(state="detached")
            said = "(all) => all.map((each) => [each.firstChild.data, each.lastChild.textContent])"
            for payload, (sent, echo) in zip(
                reversed(PAYLOADS), alice.page.locator("#said li").evaluate_all(said), strict=True
            ):
                assert sent == payload
                assert echo.startswith(f"echo: {visible(payload)} (")
            room.ask(Odd())
            alice.page.get_by_role("heading", name=f"{PAYLOADS[1]} (first vote)").wait_for()
            options = alice.page.locator("#options button").evaluate_all("(all) => all.map((each) => each.textContent)")
            assert options == PAYLOADS
            alice.fits()
            seen = alice.page.locator("main").evaluate(LOOK)
            assert set(seen["tags"]) <= IN_A_PHONE
            assert not {each for each in seen["attributes"] if each.startswith("on") or each in ("href", "src")}
            assert alice.page.evaluate("[window.__pwned ?? null, document.baseURI === location.href]") == [None, True]
            base = room.url.split("?")[0]
            asked = [each.replace("ws://", "http://") for each in alice.asked]
            assert [each for each in asked if not each.startswith((base, "data:"))] == []
        finally:
            room.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme, screen):
    with echo_kit.start(serve_many) as server:
        room = Room(server)
        try:
            alice = screen(room.url, color_scheme=scheme)
            axe(alice.page)
            alice.joins("alice")
            alice.is_told("You are served by thread 1.")
            alice.types("hello")
            alice.sees("hello", r"echo: hello \([\d.]+ m?s\)")
            alice.types("shout")
            alice.sees("shout", r"came back different: SHOUT \([\d.]+ m?s\)")
            ballot = Ballot()
            room.ask(ballot)
            alice.page.get_by_role("button", name="he waits").tap()
            alice.page.get_by_role("button", name="he waits your vote", pressed=True).wait_for()
            axe(alice.page)
            ballot.open, ballot.counts, ballot.truth = False, [1, 0], 0
            room.ask(ballot)
            alice.page.get_by_role("button", name="this is what happened", disabled=True).wait_for()
            axe(alice.page)
            room.close()
            alice.page.get_by_role("heading", name="The room is closed.").wait_for()
            axe(alice.page)
        finally:
            room.close()


def test_it_is_dark_where_the_phone_is_dark(screen):
    with echo_kit.start(serve_many) as server:
        room = Room(server)
        try:
            for scheme, paper in (("dark", "rgb(23, 25, 28)"), ("light", "rgb(255, 255, 255)")):
                one = screen(room.url, color_scheme=scheme)
                assert one.page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
                assert one.page.locator("html").get_attribute("lang") == "en"
        finally:
            room.close()
