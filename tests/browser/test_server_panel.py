"""The stage in JupyterLab, beside the panels of its clients: what it shows, its buttons, its looks."""

from echo_kit.views.states import PAUSED, USUAL

from ..lab import StageOnPage

SINGLE = """import socket, echo_kit

def handle_client(conn):
    with conn:
        while data := conn.recv(1024):
            print("got", data.decode())
            conn.sendall(data)

def serve(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            handle_client(conn)

server = echo_kit.start(serve)"""
THREADED = SINGLE.replace("import socket", "import socket, threading").replace(
    "handle_client(conn)\n\nserver", "threading.Thread(target=handle_client, args=(conn,)).start()\n\nserver"
)
PANELS = """
stage = echo_kit.ServerPanel(server)
display(stage, echo_kit.panels(server, "alice", "bob"))"""
ACCEPT = "conn, _ = listener.accept()"
RECV = "while data := conn.recv(1024):"
SENDALL = "conn.sendall(data)"


def single(client):
    """The marks in the code of the single server, while it waits for a message of that client."""
    return [
        f"{ACCEPT}  ○ nobody is here",
        "handle_client(conn)  ↳ server thread: is inside handle_client",
        f"{RECV}  ◀ server thread: waits in recv for {client}",
    ]


def threaded(*marks):
    return [f"{ACCEPT}  ◀ server thread: waits in accept for a new client", *marks]


def opened(notebook, *cells):
    """The notebook, and its stage, alice's panel and bob's."""
    book = notebook(*cells)
    book.run_all()
    stage, alice, bob = book.stage(), book.panel("alice"), book.panel("bob")
    stage.until("(root) => root.querySelector('.echo-stage-mark')")
    return book, stage, alice, bob


def test_bob_waits_until_alice_has_left(notebook):
    _, stage, alice, bob = opened(notebook, SINGLE + PANELS)
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    bob.type("hi")
    bob.says("> hi (no answer yet)")
    stage.shows(
        words="1 served · 1 waiting · 1 message",
        marks=single("alice"),
        boxes=["bob · 2 bytes unread"],
        log=["alice (server thread) got hello"],
    )
    before = stage.look()
    stage.until(
        """(root, before) => root.querySelector(".echo-stage-since").textContent !== before.waits[0]
            && root.querySelector("canvas").toDataURL() !== before.canvas""",
        before,
    )
    alice.click("Disconnect")
    bob.says("> hi", "Received  :  hi")
    stage.shows(
        words="1 served · 0 waiting · 2 messages",
        marks=single("bob"),
        boxes=[],
        log=["alice (server thread) got hello", "bob (server thread) got hi"],
    )


def test_with_a_thread_for_each_client_nobody_waits(notebook):
    _, stage, alice, bob = opened(notebook, THREADED + PANELS)
    bob.type("hi")
    bob.says("> hi", "Received  :  hi")
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    stage.shows(
        words="2 served · 0 waiting · 2 messages",
        marks=[
            f"{RECV}  ◀ thread 1: waits in recv for alice",
            f"{RECV}  ◀ thread 2: waits in recv for bob",
            *threaded(),
        ],
        boxes=[],
    )


# What the painter has taken in while the picture was frozen: until then, nothing could have moved.
TAKEN_IN = """import threading
taken = threading.Event()
live = stage._live
read = live.read
def and_look():
    read()
    if len(live._lanes.lanes) == 3:
        taken.set()
live.read = and_look
echo_kit.Client(server, name="carol").close()
print(taken.wait(60))"""


def test_frozen_it_stands_still_while_the_server_goes_on(notebook):
    book, stage, alice, bob = opened(notebook, SINGLE + PANELS)
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    bob.type("hi")
    stage.shows(words="1 served · 1 waiting · 1 message", boxes=["bob · 2 bytes unread"], marks=single("alice"))
    stage.click("Freeze")
    stage.shows(state="frozen: the server goes on")
    frozen = stage.look()
    alice.type("news?")
    alice.says("> hello", "Received  :  hello", "> news?", "Received  :  news?")
    alice.click("Disconnect")
    bob.says("> hi", "Received  :  hi")
    assert book.execute(TAKEN_IN) == "True\n"
    assert stage.look() == frozen
    book.save()
    book.reload()
    stage.shows(**{name: fact for name, fact in frozen.items() if name != "canvas"})
    assert book.stage().root.get_by_role("button", name="Go on", exact=True).is_visible()
    stage.click("Go on")
    stage.shows(
        state="running",
        words="1 served · 1 waiting · 3 messages",
        marks=single("bob"),
        boxes=["carol · nothing to read, has closed its side"],
    )


def focused(stage):
    """The text of what has the keyboard's focus, in the stage."""
    return stage.root.evaluate("(root) => root.contains(document.activeElement) && document.activeElement.textContent")


def test_step_by_step_by_mouse_and_by_keyboard(notebook):
    book, stage, alice, bob = opened(notebook, THREADED + PANELS)
    keys = book.page.keyboard
    stage.click("Step by step")
    stage.shows(state="running, step by step")
    alice.type("one")
    bob.type("two")
    stage.shows(
        marks=[
            f"{SENDALL}  ‖ thread 1: paused before sendall to alice ▸",
            f"{SENDALL}  ‖ thread 2: paused before sendall to bob ▸",
            *threaded(),
        ]
    )
    stage.root.get_by_role("button", name="thread 2: paused").click()  # lets only that one go on
    bob.says("> two", "Received  :  two")
    stage.shows(
        marks=[
            f"{RECV}  ‖ thread 2: paused before recv for bob ▸",
            f"{SENDALL}  ‖ thread 1: paused before sendall to alice ▸",
            *threaded(),
        ]
    )
    alice.says("> one (no answer yet)")
    stage.root.get_by_role("button", name="thread 1: paused").focus()
    keys.press("Enter")
    alice.says("> one", "Received  :  one")
    both = [f"{RECV}  ‖ thread {n}: paused before recv for {who} ▸" for n, who in ((1, "alice"), (2, "bob"))]
    stage.shows(marks=[*both, *threaded()])
    assert focused(stage) == "‖ thread 1: paused before recv for alice ▸"
    keys.press("Space")  # it waits for alice now, and its mark is no button
    stage.shows(marks=[f"{RECV}  ◀ thread 1: waits in recv for alice", both[1], *threaded()])
    assert focused(stage) == "◀ thread 1: waits in recv for alice"
    keys.press("Tab")
    assert focused(stage) == "‖ thread 2: paused before recv for bob ▸"

    stage.root.get_by_role("button", name="Step", exact=True).focus()
    keys.press("Enter")
    waits = [f"{RECV}  ◀ thread {n}: waits in recv for {who}" for n, who in ((1, "alice"), (2, "bob"))]
    stage.shows(marks=[*waits, *threaded()])
    alice.type("three")
    bob.type("four")
    stage.shows(marks=[
        f"{SENDALL}  ‖ thread {n}: paused before sendall to {who} ▸" for n, who in ((1, "alice"), (2, "bob"))
    ] + threaded())  # fmt: skip
    stage.root.get_by_role("button", name="Step", exact=True).focus()
    keys.press("Space")
    alice.says("> three", "Received  :  three")
    bob.says("> four", "Received  :  four")
    assert focused(stage) == "Step"
    keys.press("Shift+Tab")
    assert focused(stage) == "Run"
    keys.press("Enter")
    stage.shows(state="running", marks=[*waits, *threaded()])
    assert focused(stage) == "Step by step"


LEGEND = """(root) => [...root.querySelectorAll(".echo-stage-entry:has(i)")].map((entry) => {
    const { backgroundColor } = getComputedStyle(entry.firstChild);
    const hex = backgroundColor.match(/\\d+/g).map((each) => Number(each).toString(16).padStart(2, "0")).join("");
    return [entry.textContent, `#${hex.toUpperCase()}`, entry.firstChild.dataset.hatch];
})"""
DANCES = """stage.send({
    "head": {"state": "running", "running": True},
    "picture": {
        "now": 1.0, "lanes": [{"id": 99, "name": "dave", "words": "", "accepted": 0.0, "since": ["dances", 0.0]}]
    },
})"""


def test_the_page_draws_by_the_table_of_states_and_what_is_not_in_it_too(notebook):
    book, stage, alice, _ = opened(notebook, SINGLE + PANELS)
    alice.is_("being served")
    stage.click("Step by step")
    alice.type("hello")
    stage.until("(root) => root.querySelector('.echo-stage-paused')")
    expected = [[state.legend, state.colour, state.hatch] for state in (*USUAL, PAUSED)]
    stage.until(f"(root, expected) => JSON.stringify(({LEGEND})(root)) === JSON.stringify(expected)", expected)
    book.execute(DANCES)
    unknown = ["dances", "#F0E442", ""]
    stage.until(f"(root, last) => JSON.stringify(({LEGEND})(root).at(-1)) === JSON.stringify(last)", unknown)
    stage.until(
        """(root) => {
            const canvas = root.querySelector("canvas");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            for (let i = 0; i < data.length; i += 4) {
                if (data[i] === 0xf0 && data[i + 1] === 0xe4 && data[i + 2] === 0x42) return true;
            }
            return false;
        }"""
    )


def test_stop_start_and_restart(notebook):
    book, stage, alice, bob = opened(notebook, SINGLE + PANELS)
    alice.is_("being served")
    stage.click("Step by step")
    stage.shows(state="running, step by step")
    alice.type("hello")
    stage.until("(root) => root.querySelector('.echo-stage-paused')")
    stage.click("Stop")
    stage.shows(state="stopped")
    for each in (alice, bob):
        each.until("(root) => /^(closed by the server|reset)$/.test(root.querySelector('[role=status]').textContent)")
    end = stage.look()
    book.save()
    book.reload()
    stage.shows(**{name: fact for name, fact in end.items() if name != "canvas"})
    stage.click("Start")
    stage.shows(state="running", words="0 served · 0 waiting · 0 messages", note="")
    alice.click("Connect")
    alice.is_("being served")
    stage.shows(words="1 served · 0 waiting · 0 messages", marks=single("alice"))
    stage.click("Restart")
    alice.is_("closed by the server")
    stage.shows(state="running", words="0 served · 0 waiting · 0 messages")
    bob.type("again")  # connects by itself
    bob.is_("being served")
    stage.shows(words="1 served · 0 waiting · 1 message", marks=single("bob"))


def test_the_cell_again_the_kernel_anew_the_page_anew_and_a_second_view(notebook):
    book, stage, alice, bob = opened(notebook, SINGLE, PANELS)
    alice.is_("being served")
    first = stage.look()["address"]
    book.run_cell(0)
    stage.until("(root, first) => root.querySelector('.echo-stage-head .echo-stage-rest').textContent !== first", first)
    bob.type("hi")
    bob.is_("being served")
    stage.shows(words="1 served · 0 waiting · 1 message", marks=single("bob"), log=["bob (server thread) got hi"])

    book.restart_and_run_all()
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    stage.shows(words="1 served · 1 waiting · 1 message", marks=single("alice"), boxes=["bob · nothing to read"])

    book.save()
    book.reload()
    stage.shows(words="1 served · 1 waiting · 1 message", marks=single("alice"), boxes=["bob · nothing to read"])
    bob.type("hi")
    stage.shows(boxes=["bob · 2 bytes unread"], log=["alice (server thread) got hello"])

    second = book.stage(within=book.new_view(1))
    second.shows(words="1 served · 1 waiting · 1 message", boxes=["bob · 2 bytes unread"], marks=single("alice"))
    second.click("Freeze")
    stage.shows(state="frozen: the server goes on")
    stage.click("Go on")
    second.shows(state="running")
    alice.click("Disconnect")
    for each in (stage, second):
        each.shows(words="1 served · 0 waiting · 2 messages", boxes=[], marks=single("bob"))


UNSEEN = """import threading
from echo_kit.live import stage as server_panel
unseen = threading.Event()
look = stage._look
def and_tell(*args):
    picture = look(*args)
    if not picture:
        unseen.set()
    return picture
stage._look = and_tell"""


def test_while_nobody_can_see_it_nothing_is_sent(notebook):
    book, stage, alice, _ = opened(notebook, SINGLE + PANELS)
    stage.shows(words="1 served · 1 waiting · 0 messages")
    book.execute(UNSEEN)
    book.command("launcher:create")  # a tab before the notebook's
    assert book.execute("print(unseen.wait(60))") == "True\n"
    book.execute("messages = []; send = stage.send; stage.send = lambda *args: (messages.append(args), send(*args))")
    # Meanwhile the painter goes on reading.
    book.execute("unseen.clear()\nwith echo_kit.Client(server, 'carol') as carol: carol.send('hi')")
    assert book.execute("print(unseen.wait(60), messages)") == "True []\n"
    book.promised("async (panel) => window.jupyterapp.shell.activateById(panel.id)")
    stage.shows(words="1 served · 2 waiting · 0 messages")
    alice.type("hello")
    stage.shows(words="1 served · 2 waiting · 1 message")


INK = """(root) => {  // the strongest colour among the names at the left of the timeline
    const canvas = root.querySelector("canvas");
    const letter = parseFloat(getComputedStyle(canvas.parentElement).fontSize) * devicePixelRatio;
    const { data } = canvas.getContext("2d").getImageData(0, 0, letter * 6, canvas.height);
    let best = [0, 0, 0, 0];
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] > best[3]) best = [...data.slice(i, i + 4)];
    return best;
}"""


def luminance(colour):
    parts = [each / 255 / 12.92 if each <= 10 else ((each / 255 + 0.055) / 1.055) ** 2.4 for each in colour[:3]]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def readable(stage):
    """WCAG 2 asks for a contrast of 4.5. The background's colour."""
    back, found = stage.contrasts()
    assert {"echo-stage-name: serve", "echo-stage-mark echo-stage-nobody: ○ nobody is here"} <= found.keys()
    assert not {text: round(ratio, 2) for text, ratio in found.items() if ratio < 4.5}
    ink = stage.root.evaluate(INK)
    assert ink[3] > 200
    light, dark = sorted((luminance(ink), luminance(back)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, back)
    return back


def test_every_text_can_be_read_in_both_themes(notebook):
    book, stage, alice, bob = opened(notebook, SINGLE + PANELS)
    alice.type("hello")
    bob.type("hi")
    stage.shows(boxes=["bob · 2 bytes unread"], log=["alice (server thread) got hello"])
    stage.root.get_by_text("the connections in words").click()
    stage.click("Step by step")
    alice.type("again")
    stage.until("(root) => root.querySelector('.echo-stage-paused')")
    assert min(readable(stage)) > 200
    with book.theme("JupyterLab Dark"):
        stage.until("(root) => getComputedStyle(root).backgroundColor.match(/\\d+/)[0] < 60")
        before = stage.look()["canvas"]
        stage.until("(root, before) => root.querySelector('canvas').toDataURL() !== before", before)
        assert max(readable(stage)) < 60
        stage.click("Stop")
        stage.shows(state="stopped")
        assert not {text for text, ratio in stage.contrasts()[1].items() if ratio < 4.5}


SIZES = """(root) => {
    const sizes = {};
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        if (texts.currentNode.data.trim() && node.checkVisibility()) {
            sizes[`${node.className}: ${texts.currentNode.data}`] = parseFloat(getComputedStyle(node).fontSize);
        }
    }
    sizes.canvas = parseFloat(root.querySelector("canvas").getContext("2d").font);
    return sizes;
}"""
TOO_WIDE = """(root) => {
    const edge = root.getBoundingClientRect().right;
    return [root, ...root.querySelectorAll("*")]
        .filter((each) => each.checkVisibility()
            && (each.scrollWidth > each.clientWidth && each.clientWidth > 0
                && getComputedStyle(each).display !== "inline" || each.getBoundingClientRect().right > edge + 0.5))
        .map((each) => `${each.className}: ${each.textContent.slice(0, 40)}`);
}"""


def test_letters_and_widths(notebook):
    book, stage, alice, bob = opened(notebook, SINGLE + PANELS)
    alice.type("hello")
    bob.type("W" * 300)
    stage.shows(boxes=["bob · 300 bytes unread"])
    size = stage.root.evaluate(SIZES)
    # What JupyterLab's setting sets. (Its command loads the theme anew, and fails if it does so twice at once.)
    book.page.evaluate("document.documentElement.style.setProperty('--jp-content-font-size1', '20px')")
    stage.until(f"(root, before) => ({SIZES})(root)['echo-stage-name: serve'] > before", size["echo-stage-name: serve"])
    book.page.evaluate("document.documentElement.style.removeProperty('--jp-content-font-size1')")

    stage.click("Step by step")
    alice.type("again")
    stage.until("(root) => root.querySelector('.echo-stage-paused')")
    stage.root.get_by_text("the connections in words").click()
    for width in ("360px", "600px", ""):
        stage.root.evaluate("(root, width) => { root.parentElement.style.width = width; }", width)
        stage.until(
            f"(root) => root.querySelector('canvas').clientWidth <= root.clientWidth && !({TOO_WIDE})(root).length"
        )

    book.page.set_viewport_size({"width": 1920, "height": 1080})
    stage.click("Full screen")
    stage.until("(root) => document.fullscreenElement === root")
    # The buttons and the words beside the code may be smaller than what the last row must read.
    stage.until(f"(root) => Object.values(({SIZES})(root)).every((size) => size >= 20) && !({TOO_WIDE})(root).length")


# The stage, what is above it, and whether anything scrolls: in a view of its own it is as high as the view.
FITS = """(root) => {
    const view = root.closest(".jp-LinkedOutputView");
    const inner = root.querySelector(".echo-stage-inner");
    const here = root.querySelector(".echo-stage-here")?.getBoundingClientRect();
    if (!here) return false;  // its first look is not drawn yet
    const code = root.querySelector(".echo-stage-code").getBoundingClientRect();
    return view.scrollHeight <= view.clientHeight + 1 && view.scrollWidth <= view.clientWidth + 1
        && inner.scrollHeight <= inner.clientHeight + 1 && root.clientHeight > view.clientHeight - 40
        && here.top >= code.top - 1 && here.bottom <= code.bottom + 1;
}"""
BESIDE = """import ipywidgets
left, right = (echo_kit.start(serve, name=name) for name in ("left", "right"))
ipywidgets.HBox([echo_kit.ServerPanel(left), echo_kit.ServerPanel(right)])"""
ON_SCREEN = """(root) => {  // the stage and a row of panels
    const rows = [root, document.querySelector(".echo-clients")].map((each) => each.getBoundingClientRect());
    const high = Math.max(...rows.map((each) => each.bottom)) - Math.min(...rows.map((each) => each.top));
    return high <= document.querySelector(".jp-Notebook").clientHeight;
}"""


def test_in_a_view_of_its_own_it_fits_and_in_the_notebook_with_a_row_of_panels(notebook):
    book, stage, alice, bob = opened(notebook, SINGLE + PANELS)
    alice.type("hello")
    bob.type("hi")
    stage.shows(boxes=["bob · 2 bytes unread"], marks=single("alice"))
    book.page.set_viewport_size({"width": 1440, "height": 900})
    stage.until(ON_SCREEN)
    book.save()
    with book.page.context.expect_page() as opening:  # a second window
        book.page.evaluate("window.open(location.href.replace(/workspaces.[^/]*/, 'workspaces/second'))")
    second = StageOnPage(opening.value, ".jp-Notebook", "server serve")
    second.shows(boxes=["bob · 2 bytes unread"], marks=single("alice"))
    alice.click("Disconnect")
    second.shows(boxes=[], marks=single("bob"))
    opening.value.close()


def test_in_a_view_of_their_own_one_or_two_stages_fit(notebook):
    book = notebook(SINGLE + "\nechos = echo_kit.ServerPanel(server)\nechos", BESIDE)
    book.run_all()
    book.page.set_viewport_size({"width": 1920, "height": 1080})
    book.command("application:toggle-left-area")
    view = book.new_view(0)  # it opens below the notebook
    book.stage(within=view).until(FITS)
    book.page.evaluate("window.jupyterapp.shell.currentWidget.close()")
    view = book.new_view(1)
    for name in ("left", "right"):
        stage = book.stage(name, within=view)
        stage.until(f"(root) => root.clientWidth > 800 && ({FITS})(root)")


# A client that does not read; a server that computes until the test says so.
DEAF = """import contextlib, select, threading, socket, echo_kit
def serve(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(65536):
                    conn.sendall(data)
server = echo_kit.start(serve)
deaf = socket.create_connection(server.address)
deaf.setblocking(False)
def fill():
    with contextlib.suppress(OSError, ValueError):
        while select.select([], [deaf], [], 60)[1]:
            deaf.send(bytes(100_000))
threading.Thread(target=fill, daemon=True).start()"""
COMPUTES = """import threading, socket, echo_kit
over = threading.Event()
def serve(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    while data == b"compute" and not over.is_set():
                        pass
                    conn.sendall(data)
server = echo_kit.start(serve)
first = echo_kit.Client(server, name="first")
first.send("compute")"""


def buttons_answer(stage, alice):
    """Alice waits in the backlog: the stage shows what she does, and every button does what it says."""
    stage.click("Freeze")
    stage.shows(state="frozen: the server goes on")
    stage.click("Go on")
    stage.shows(state="running")
    alice.click("Disconnect")
    alice.is_("not connected")
    stage.shows(boxes=["alice · nothing to read, has closed its side", "bob · nothing to read"])
    alice.click("Connect")
    alice.is_("connected, not accepted yet")
    alice.type("hello")
    stage.until("(root) => [...root.querySelectorAll('.echo-stage-waiting')].at(-1).textContent.includes('5 bytes')")
    stage.click("Step by step")
    stage.shows(state="running, step by step")
    stage.click("Run")
    stage.shows(state="running")


def starts_again(stage, alice):
    stage.shows(state="stopped")
    stage.click("Start")
    stage.shows(state="running")
    alice.click("Connect")
    alice.is_("being served")


def test_all_buttons_answer_while_a_client_does_not_read(notebook):
    _, stage, alice, _ = opened(notebook, DEAF + PANELS)
    stage.shows(
        marks=[f"{ACCEPT}  ○ nobody is here", f"{SENDALL}  ◀ server thread: waits in sendall: client 1 does not read"]
    )
    buttons_answer(stage, alice)
    stage.click("Stop")
    starts_again(stage, alice)


def test_all_buttons_answer_while_the_server_computes(notebook):
    book, stage, alice, _ = opened(notebook, COMPUTES + PANELS)
    stage.until("(root) => root.querySelector('.echo-stage-waiting')")
    buttons_answer(stage, alice)
    stage.click("Stop")
    stage.shows(state="stopping")
    book.execute("over.set()")
    starts_again(stage, alice)


def test_all_buttons_answer_while_a_cell_runs(notebook):
    book = notebook(SINGLE + '\nfirst = echo_kit.Client(server, name="first")' + PANELS, "while True: pass")
    book.run_cell(0)
    stage, alice = book.stage(), book.panel("alice")
    stage.shows(boxes=["alice · nothing to read", "bob · nothing to read"])
    done = book.begin_cell(1)
    buttons_answer(stage, alice)
    stage.click("Stop")
    starts_again(stage, alice)
    assert book.prompt(1) == "[*]:"
    book.command("notebook:interrupt-kernel")
    book.end(done)
