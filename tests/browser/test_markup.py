"""What a client is called and what it sends is text: in its panel, and in the HTML of the code and the backlog."""

from echo_kit.live.clients import NAME_LETTERS
from echo_kit.watch.text import cut, visible

PAYLOADS = [
    "<b>bold</b>",
    "<script>window.__pwned = 1</script>",
    "</script><script>window.__pwned = 2</script>",
    "<img src=x onerror='window.__pwned = 3'>",
    '"><img src=x onerror=window.__pwned=4>',
    "'><svg onload=window.__pwned=5>",
    "<svg><script>window.__pwned = 6</script></svg>",
    "<iframe srcdoc='<script>parent.__pwned = 7</script>'></iframe>",
    "<iframe src='javascript:parent.__pwned = 8'></iframe>",
    "<a href='javascript:window.__pwned = 9'>click</a>",
    "<body onload=window.__pwned=10>",
    "<input autofocus onfocus=window.__pwned=11>",
    "<details open ontoggle=window.__pwned=12>",
    "<video><source onerror=window.__pwned=13></video>",
    "<object data='javascript:window.__pwned = 14'></object>",
    "<style>* { display: none }</style>",
    "<base href='https://example.com/'>",
    "<meta http-equiv=refresh content='0;url=https://example.com/'>",
    "<form><button formaction='javascript:window.__pwned = 15'>go",
    "<math><mtext><img src=x onerror=window.__pwned=16></mtext></math>",
    "<template><script>window.__pwned = 17</script></template>",
    "</div></pre></span></section><img src=x onerror=window.__pwned=18>",
    "<!-- a comment -->",
    "<![CDATA[ <script>window.__pwned = 19</script> ]]>",
    "&lt;b&gt; &amp; &#60;b&#62; &nbsp;",
    "&lt;script&gt;window.__pwned = 20&lt;/script&gt;",
    "${window.__pwned = 21} {{ window.__pwned = 21 }} {% raw %}",
    "`window.__pwned = 22` %3Cscript%3E \\u003cscript\\u003e",
    "$\\require{html}\\href{javascript:window.__pwned=23}{x}$ \\(x\\)",
    "[link](javascript:window.__pwned=24) **bold** ![x](x)",
    "\x1b[31mred\x1b[0m \x1b]8;;https://example.com\x07link\x1b]8;;\x07 \x1b[2J",
    "bell \x07 null \x00 backspace \x08 delete \x7f c1 \x9b31m",
    "tab\tand vertical\x0btab and form\x0cfeed",
    "\u202ereversed\u202c \u2066isolate\u2069 \u200fmark \u061c",
    "zero\u200bwidth\u200d join\ufeffer \u00ad soft",
    "line\u2028and paragraph\u2029separator \x85",
    "Z\u0351\u036b\u0343\u036aa\u0321\u0353\u031el\u0358g\u0334o",
    "👩‍👩‍👧‍👦 🇩🇪 é 漢字 العربية",
    "W" * 500,
    "a/b?c=d&e=f#g https://example.com/<x> C:\\temp\\dir",
    "__proto__ constructor toString",
    "  two  spaces,  at both ends  ",
    "-0 NaN null undefined [object Object] True",
    "</textarea></title><img src=x onerror=window.__pwned=25>",
    "</style><script>window.__pwned = 26</script>",
    "\" autofocus onfocus=window.__pwned=27 x=\"' onmouseover=window.__pwned=28 x='",
    "<a href='data:text/html,<script>opener.__pwned = 29</script>'>",
    "$x$ \\(y\\) \\[z\\] \\\\ $$w$$",
    "\\begin{a}b\\end{a} \\$5",
]
ALLOWED = {"SECTION", "HEADER", "STRONG", "SPAN", "DIV", "FORM", "TEXTAREA", "BUTTON"}
LOOK = """(root) => ({
    tags: [...new Set([...root.querySelectorAll("*")].map((each) => each.tagName))],
    attributes: [...new Set([...root.querySelectorAll("*")].flatMap((each) => each.getAttributeNames()))],
    text: root.textContent,
    wide: root.scrollWidth - root.clientWidth,
})"""


def nothing_ran(book):
    assert book.page.evaluate("[window.__pwned ?? null, document.baseURI === location.href]") == [None, True]
    assert not book.wrong


def test_there_are_enough():
    assert len(PAYLOADS) == len(set(PAYLOADS)) >= 30
    assert len([each for each in PAYLOADS if visible(each) != each]) >= 5


def test_messages_are_text_in_the_panel(notebook):
    book = notebook(
        "import echo_kit\nserver = echo_kit.start(echo_kit.serve_threaded)\necho_kit.ClientPanel(server, name='alice')"
    )
    book.run_all()
    alice = book.panel("alice")
    alice.is_("being served")
    for payload in PAYLOADS:
        alice.line.fill(payload)
        alice.line.press("Enter")
        alice.says(f"> {visible(payload)}", f"Received  :  {visible(payload)}")
    seen = alice.root.evaluate(LOOK)
    assert set(seen["tags"]) <= ALLOWED
    assert not {each for each in seen["attributes"] if each.startswith("on") or each in ("href", "src", "style")}
    assert seen["wide"] <= 0
    nothing_ran(book)


NAMES = f"""import echo_kit
server = echo_kit.start(echo_kit.serve_threaded)
for name in {PAYLOADS}:
    display(echo_kit.ClientPanel(server, name=name))"""


def test_names_are_text_in_the_panel(notebook):
    book = notebook(NAMES)
    book.run_all()
    panels = book.output(0).locator(".echo-client")
    for number, payload in enumerate(PAYLOADS):
        panel = panels.nth(number)
        name = cut(visible(payload), NAME_LETTERS)
        assert panel.locator(".echo-client-name").text_content() == name
        assert panel.get_attribute("aria-label") == f"client {name}"
        seen = panel.evaluate(LOOK)
        assert set(seen["tags"]) <= ALLOWED
        assert not {each for each in seen["attributes"] if each.startswith("on") or each in ("href", "src", "style")}
        assert seen["wide"] <= 0, payload
    assert panels.count() == len(PAYLOADS)
    nothing_ran(book)


VIEWS = f"""import echo_kit
backlogs = []
for name in {PAYLOADS}:
    with echo_kit.start(echo_kit.serve_single) as server:
        served, waiting = (echo_kit.Client(server, name=name) for _ in range(2))
        waiting.send(name)
        display(server.where())
        backlogs.append(server.backlog())
        served.close()
        waiting.close()"""


def test_names_are_text_in_the_views(notebook):
    book = notebook(VIEWS, "display(*backlogs)")
    book.run_all()
    wheres, backlogs = (
        book.output(index).locator(".jp-RenderedHTMLCommon").evaluate_all(f"(all) => all.map({LOOK})")
        for index in (0, 1)
    )
    for payload, where, backlog in zip(PAYLOADS, wheres, backlogs, strict=True):
        name = visible(payload)[:24]  # what a view shows of a name
        assert f"waits in recv for {name}" in where["text"]
        assert f"accept ◀{name}" in backlog["text"]
        assert f"{len(payload.encode())} bytes unread" in backlog["text"]
        for view in (where, backlog):
            assert set(view["tags"]) <= {"DIV", "PRE", "SPAN", "B", "BR"}
            assert set(view["attributes"]) <= {"style"}
    nothing_ran(book)


STAGES = """import contextlib, socket, threading, echo_kit

def handle(conn):
    with conn, contextlib.suppress(OSError):
        while data := conn.recv(4096):
            print(data.decode())
            conn.sendall(data)

def many(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=handle, args=(listener.accept()[0],)).start()

def one(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            handle(listener.accept()[0])

servers = echo_kit.start(many), echo_kit.start(one)
display(*map(echo_kit.ServerPanel, servers))
clients = []

def come(names):
    while clients:
        clients.pop().close()
    clients.append(echo_kit.Client(servers[1], name="first"))
    for name in names:
        for server in servers:
            clients.append(echo_kit.Client(server, name=name))
            clients[-1].send(name)"""
SHOWS = """(root, names, selector) => {
    const shown = [...root.querySelectorAll(selector)].map((each) => each.textContent);
    return names.every((name) => shown.some((each) => each.includes(name)));
}"""
TIPS = """(root) => {  // whatever the pointer finds on the timeline
    const canvas = root.querySelector("canvas");
    const tip = root.querySelector(".echo-stage-tip");
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const found = new Set();
    for (let y = 1; y < height; y += 2) {
        for (let x = 0; x < width; x += 10) {
            canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: left + x, clientY: top + y }));
            if (!tip.hidden) found.add(tip.textContent);
        }
    }
    return [...found].join("\\n");
}"""
IN_A_STAGE = {"SECTION", "DIV", "HEADER", "STRONG", "SPAN", "I", "BUTTON", "H4", "CANVAS", "FOOTER", "LABEL", "SELECT"}
IN_A_STAGE |= {"INPUT", "OPTION", "DETAILS", "SUMMARY", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD"}
STYLED = """(root) => [...root.querySelectorAll("[style]")].filter(
    (each) => !each.matches(".echo-stage-code, .echo-stage-swatch, .echo-stage-tip, .echo-stage-canvas")).length"""


def test_names_messages_and_prints_are_text_on_the_stage(notebook):
    book = notebook(STAGES)
    book.run_all()
    many, one = book.stage("many"), book.stage("one")
    many.root.locator("select").select_option("120")
    many.root.get_by_text("the connections in words").click()
    for at in range(0, len(PAYLOADS), 6):  # so many marks on a line are told one by one
        payloads = PAYLOADS[at : at + 6]
        names = [visible(each)[:24] for each in payloads]
        book.execute(f"come({payloads})")
        many.root.scroll_into_view_if_needed()  # a stage that nobody can see is told nothing
        many.until(SHOWS, [f"waits in recv for {name}" for name in names], ".echo-stage-mark")
        many.until(SHOWS, [visible(each)[:300] for each in payloads], ".echo-stage-log > div")
        many.until(SHOWS, names, ".echo-stage-table td")
        one.root.scroll_into_view_if_needed()
        one.until(SHOWS, names, ".echo-stage-waiting strong")
        one.until(SHOWS, ["first"], ".echo-stage-mark")
    tips = many.root.evaluate(TIPS)
    for payload in PAYLOADS:
        assert visible(payload)[:24] in tips
        assert f'sends "{visible(payload)[:12]}' in tips
    for stage in (many, one):
        seen = stage.root.evaluate(LOOK)
        assert set(seen["tags"]) <= IN_A_STAGE
        assert not {each for each in seen["attributes"] if each.startswith("on") or each in ("href", "src")}
        assert stage.root.evaluate(STYLED) == 0
        assert seen["wide"] <= 0
        words = stage.look()["words"]
        assert stage.root.get_by_role("img").get_attribute("aria-label") == f"timeline: {words}"
    nothing_ran(book)
