"""The stage fits its room: no scrolling at any size, crowds are counted, keys work, and one can look back."""

import contextlib
from itertools import pairwise

import pytest

import echo_kit
from echo_kit import serve_single, serve_threaded
from echo_kit.live.board import pin

from ..lab import CONTRASTS, axe, chromium
from .plain import shown

pytestmark = pytest.mark.browser

SIZES = [(1024, 768), (1366, 768), (1920, 1080), (2560, 1440)]
VOTES = {
    "title": "bob connects while alice is served. What happens to bob?",
    "lines": ["30 phones are here"],
    "options": ["he gets his echo at once", "he is connected, and waits", "<b>he is refused</b>"],
    "rounds": [
        {"label": "first vote", "votes": 30, "counts": [12, 10, 8]},
        {"label": "second vote", "votes": 28, "counts": None},
    ],
    "truth": 1,
}
LEAST = 1 / 62  # of the screen's height: the size of the smallest letters of the code and of what the stage says
ROOM = """(root) => {  // what does not fit, and the smallest letters
    const screen = root.getBoundingClientRect();
    const wrong = [];
    if (screen.width !== innerWidth || screen.height !== innerHeight) wrong.push("it does not fill the screen");
    const whole = ["", "-inner", "-head", "-tools", "-middle", "-code", "-backlog", "-legend", "-foot", "-board"];
    for (const node of whole.map((each) => root.parentElement.querySelector(`.echo-stage${each}`))) {
        if (!node.checkVisibility()) continue;
        const { top, left, bottom, right } = node.getBoundingClientRect();
        if (node.scrollHeight > node.clientHeight + 1) wrong.push(`${node.className} scrolls down`);
        if (node.scrollWidth > node.clientWidth + 1) wrong.push(`${node.className} scrolls to the side`);
        const inside = top >= -1 && left >= -1 && bottom <= innerHeight + 1 && right <= innerWidth + 1;
        if (!inside) wrong.push(`${node.className} is cut`);
    }
    const code = root.querySelector(".echo-stage-code").getBoundingClientRect();
    for (const mark of root.querySelectorAll(".echo-stage-here, .echo-stage-mark")) {
        const { top, bottom, left, right } = mark.getBoundingClientRect();
        if (top < code.top - 1 || bottom > code.bottom + 1 || left < code.left - 1 || right > code.right + 1)
            wrong.push(`out of view: ${mark.textContent}`);
    }
    for (const text of root.querySelectorAll(".echo-stage-text")) {  // a long line is broken, but not to column 0
        const [indent, code] = text.children;
        if (code.getBoundingClientRect().left < indent.getBoundingClientRect().right - 1) wrong.push(text.textContent);
    }
    const size = (each) => parseFloat(getComputedStyle(each).fontSize);
    const texts = root.querySelectorAll(".echo-stage-text, .echo-stage-mark, .echo-stage-words, .echo-stage-waiting");
    return [wrong, Math.min(...[...texts].map(size)) / innerHeight];
}"""
WORDS = "(root, words) => root.querySelector('.echo-stage-words').textContent.startsWith(words)"
MARKS = "(root) => [...root.querySelectorAll('.echo-stage-mark')].map((each) => each.textContent)"
HAS = f"(root, mark) => ({MARKS})(root).includes(mark)"
MORE_THAN_A_SECOND = r"/^waits (1[.][5-9]|[2-9][.][0-9]) s$/"
FULL = "(root) => document.fullscreenElement === root"
NOTE = "(root, words) => root.querySelector('.echo-stage-note').textContent.includes(words)"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser):
    """`opened(serve, clients)`: the server, its stage and the clients, once the stage shows all of them."""
    with contextlib.ExitStack() as stack:

        def make(serve, clients, **more):
            server = stack.enter_context(echo_kit.start(serve, name=serve.__name__))
            names = ["alice", "bob", *(f"student {number}" for number in range(3, clients + 1))][:clients]
            ends = [stack.enter_context(echo_kit.Client(server, name=name)) for name in names]
            (stage,) = stack.enter_context(shown(browser, server, **more))
            served = 1 if serve is serve_single else clients
            stage.until(WORDS, f"{served} served · {clients - served} waiting")
            return server, stage, ends

        yield make


@pytest.mark.parametrize(("serve", "clients"), [(serve_single, 2), (serve_single, 300), (serve_threaded, 50)])
def test_everything_is_on_one_screen(serve, clients, opened):
    _, stage, (alice, bob, *_) = opened(serve, clients)
    alice.send("hello")
    alice.receive()
    bob.send("hi")
    stage.click("Full screen")
    stage.until(FULL)
    for width, height in SIZES:
        stage.page.set_viewport_size({"width": width, "height": height})
        stage.until(f"(root) => {{ const [wrong, least] = ({ROOM})(root); return !wrong.length && least >= {LEAST}; }}")
        wrong, least = stage.ask(ROOM)
        assert (wrong, least >= LEAST) == ([], True), (width, height, least)


def test_escape_leaves_the_full_screen_and_where_it_is_refused_the_stage_fills_the_window(opened):
    _, stage, _ = opened(serve_single, 1)
    keys = stage.page.keyboard
    stage.click("Full screen")
    stage.until(FULL)
    keys.press("Escape")
    stage.until("(root) => document.fullscreenElement === null")
    stage.ask("(root) => { root.requestFullscreen = () => Promise.reject(new TypeError('not allowed')); }")
    stage.click("Full screen")
    stage.until(NOTE, "allows no full screen here")
    stage.until(f"(root) => !({ROOM})(root)[0].length")
    keys.press("Escape")
    stage.until("(root) => root.clientHeight < innerHeight && !root.querySelector('.echo-stage-note').textContent")


def test_keys(opened):
    _, stage, (alice, *_) = opened(serve_single, 1)
    keys = stage.page.keyboard
    stage.root.focus()
    keys.press("s")
    stage.until(NOTE, "No thread is paused, so Step has nothing to do")
    keys.press("f")
    stage.until("(root) => root.dataset.frozen === 'true'")
    keys.press("F")
    stage.until("(root) => root.dataset.frozen === 'false'")
    keys.press("Space")
    stage.until("(root) => root.querySelector('.echo-stage-state').textContent === 'running, step by step'")
    stage.until("(root) => !root.querySelector('.echo-stage-note').textContent")
    keys.press("s")
    stage.until(NOTE, "No thread is paused at this moment")
    alice.send("hello")
    stage.until(HAS, "‖ server thread: paused before sendall to alice ▸")
    keys.press("Control+s")
    stage.root.get_by_role("searchbox").focus()
    keys.type("fs s")  # text
    assert stage.ask(MARKS)[-1] == "‖ server thread: paused before sendall to alice ▸"
    stage.root.focus()
    keys.press("S")
    assert alice.receive() == "hello"
    keys.press("Space")
    stage.until(HAS, "◀ server thread: waits in recv for alice")
    titles = {name: stage.root.get_by_role("button", name=name, exact=True).get_attribute("title") for name in
              ("Step", "Freeze", "Step by step", "Full screen")}  # fmt: skip
    keyed = {"Step": "(S)", "Freeze": "(F)", "Step by step": "(space)", "Full screen": "(Escape leaves)"}
    assert {name: title[title.index("(") :] for name, title in titles.items()} == keyed


def test_a_client_of_a_crowd_is_found_and_its_thread_makes_a_step(opened):
    _, stage, clients = opened(serve_threaded, 300, size=(1920, 1080))
    stage.until(HAS, "◀ 300 threads: each waits in recv for its client")
    stage.until("(root) => root.querySelector('.echo-stage-legend').textContent === 'waits in the backlogserved'")
    stage.click("Step by step")
    stage.until("(root) => root.querySelector('.echo-stage-state').textContent === 'running, step by step'")
    for each in clients[:20]:
        each.send("hello")
    stage.until(HAS, "‖ 20 threads: each is paused before sendall to its client")
    stage.root.get_by_role("searchbox").fill("STUDENT 1")  # 1 is alice's number
    stage.until("(root) => root.querySelector('.echo-stage-found').textContent === '110 found'")
    stage.root.get_by_role("searchbox").fill("student 17")
    found = "(root, words) => root.querySelector('.echo-stage-found').textContent.startsWith(words)"
    stage.until(found, "student 17: thread is paused, step by step · thread ")
    stage.click("Step student 17's thread")
    assert clients[16].receive() == "hello"
    stage.until(HAS, "‖ 19 threads: each is paused before sendall to its client")
    stage.root.get_by_role("searchbox").fill("")
    stage.root.get_by_role("searchbox").fill("udent 29")
    stage.until(found, "11 found")
    stage.until("(root) => root.querySelector('.echo-stage-legend').textContent.includes('sends')")  # lanes again
    canvas = stage.root.locator("canvas").bounding_box()
    stage.page.mouse.click(canvas["x"] + canvas["width"] / 2, canvas["y"] + 5)
    stage.until(found, "student 29: ")
    assert stage.root.get_by_role("searchbox").input_value() == "student 29"


def test_the_moment_when_bob_waited_can_be_shown_again(opened):
    _, stage, (alice, bob) = opened(serve_single, 2)
    bob.send("hi")
    waits = "(root) => root.querySelector('.echo-stage-waiting strong')?.textContent === 'bob'"
    stage.until(waits)
    stage.until(f"(root) => {MORE_THAN_A_SECOND}.test(root.querySelector('.echo-stage-since').textContent)")
    alice.close()
    assert bob.receive() == "hi"
    stage.until(HAS, "◀ server thread: waits in recv for bob")
    stage.until("(root) => !root.querySelector('.echo-stage-waiting')")
    slider, keys = stage.root.get_by_role("slider"), stage.page.keyboard
    slider.focus()
    keys.press("Home")  # as long ago as possible
    stage.until(HAS, "◀ server thread: waits in recv for alice")
    stage.until(waits)
    stage.until(WORDS, "1 served · 1 waiting")
    stage.until("(root) => /^looking back: \\d+ s ago$/.test(root.querySelector('.echo-stage-back span').textContent)")
    bob.send("again")
    assert bob.receive() == "again"  # the server goes on
    assert stage.ask(HAS, "◀ server thread: waits in recv for alice")
    stage.click("Now")
    stage.until(WORDS, "1 served · 0 waiting · 2 messages")
    stage.until("(root) => root.querySelector('.echo-stage-back span').textContent === 'look back'")


def test_a_screen_reader_is_told_what_happened_and_no_more(opened):
    server, stage, _ = opened(serve_threaded, 1)
    told = "(root) => root.querySelector('[role=status]').textContent"
    stage.ask("""(root) => {
        const node = root.querySelector("[role=status]");
        window.told = [];
        new MutationObserver(() => window.told.push([performance.now(), node.textContent])).observe(
            node, { childList: true });
    }""")
    stage.until(f"(root) => ({told})(root) === 'running'")
    with echo_kit.Client(server, "carol") as carol:
        stage.until(f"(root) => /^carol came(, carol was accepted)?$/.test(({told})(root))")
        for _ in range(30):
            carol.send("x")
            carol.receive()
    stage.until(f"(root) => ({told})(root).includes('carol left')")
    told = stage.page.evaluate("window.told")
    assert len(told) <= 5
    assert all(after - before > 1500 for (before, _), (after, _) in pairwise(told))


@pytest.mark.parametrize("size", SIZES[:3])
def test_a_board_has_room_and_is_text(size, opened):
    pin("serve_single", VOTES)
    try:
        _, stage, _ = opened(serve_single, 2, size=size)
        stage.click("Full screen")
        stage.until(f"(root) => document.fullscreenElement === root && !({ROOM})(root)[0].length")
        board = stage.root.get_by_role("region", name="what the class of serve_single sees")
        assert board.locator("li").all_inner_texts() == [
            "he gets his echo at once\nfirst vote: 12 (40 %)",
            "he is connected, and waits ✓ this happened\nfirst vote: 10 (33 %)",
            "<b>he is refused</b>\nfirst vote: 8 (27 %)",
        ]
        assert "second vote: 28 votes, not shown yet" in board.inner_text()
        pin("serve_single", VOTES | {"qr": "https://example.org/x.svg"})  # nothing is fetched
        stage.until("(root) => root.querySelector('.echo-stage-board-line') && !root.querySelector('img')")
    finally:
        pin("serve_single", None)
    stage.until("(root) => root.querySelector('.echo-stage-board').hidden")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_all_can_be_read(theme, opened):
    server, stage, (alice, *_) = opened(serve_threaded, 3, theme=theme)
    server.pause()
    alice.send("hello")
    stage.until("(root) => root.querySelector('.echo-stage-paused')")
    stage.root.get_by_role("searchbox").fill("alice")
    stage.click("Full screen")
    stage.until(FULL)
    found = stage.ask(CONTRASTS)[1]
    assert not {text: ratio for text, ratio in found.items() if ratio < 4.5}
    axe(stage.page, ".echo-stage")
    server.resume()
