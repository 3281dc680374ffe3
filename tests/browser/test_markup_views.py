"""Text of unknown origin in all that a cell shows: views, reports, tables, programs; also as a saved page."""

import nbformat
from nbconvert import HTMLExporter

from echo_kit.course.report import quoted
from echo_kit.watch.text import cut, visible

from ..lab import LIMIT
from .test_markup import LOOK, PAYLOADS, nothing_ran

ODD = [*PAYLOADS, "lone \ud800 surrogate"]
# No Python file may have the first; and IPython counts more ends of lines than Python does.
IN_SOURCE = [each for each in PAYLOADS if "\x00" not in each and len(each.splitlines()) == 1]
TAGS = {"SECTION", "DIV", "PRE", "SPAN", "B", "BR", "TABLE", "TBODY", "TR", "TH", "TD"}
TAGS |= {"DETAILS", "SUMMARY", "UL", "LI"}
PICTURED = {"style", "open", "class", "src", "width", "alt"}
START = f"""import os, socket, echo_kit
from IPython.display import HTML
from echo_kit.course.serving import one_at_a_time
os.environ["ECHO_KIT_PROGRESS"] = "1"
payloads = {ODD!a}

def shown(*views):  # in one output: JupyterLab shows fifty of a cell
    html = "".join(f"<section>{{each._repr_html_()}}</section>" for each in views)
    display({{"text/plain": "", "text/html": html}}, raw=True)"""
SERVERS = """views = []
for payload in payloads:
    with echo_kit.start(echo_kit.serve_single, name=payload) as server:
        views += [server.where(), server.backlog()]
shown(*views)"""
REPORTS = """reports = []
for number, payload in enumerate(payloads):
    def requires(trial):
        alice = trial.tries(f"{number}").guest("alice")
        alice.says("hello").hears("olleh", ascii(payload))
    def answer(conn, addr):
        conn.recv(100)
        conn.sendall(payload.encode(errors="surrogatepass"))
        raise ValueError(payload)
    exercise = echo_kit.Exercise(f"A.{number}", ascii(payload), ("conn", "addr"), one_at_a_time, requires)
    reports.append(echo_kit.check(exercise, answer))
shown(*reports)
display(*reports[:3])"""
PROGRESS = "shown(echo_kit.progress())"
SOURCE = "\n\n".join(
    [
        *(
            f"def serve_{number}(host, port):\n    with socket.create_server((host, port)) as listener:\n"
            f"        listener.accept()  # {payload}"
            for number, payload in enumerate(IN_SOURCE)
        ),
        "views = []",
        f"for serve in ({', '.join(f'serve_{number}' for number in range(len(IN_SOURCE)))}):\n"
        "    with echo_kit.start(serve) as server:\n        views.append(server.where())\nshown(*views)",
    ]
)
PROGRAM = """payloads.pop()  # it cannot be sent
def program():
    with socket.create_connection(server.address) as sock:
        for _ in payloads:
            sock.sendall(input("> ").encode())
            print("Received:", sock.recv(1024).decode())
        input()
def shout(host, port):
    with socket.create_server((host, port)) as listener:
        conn, _ = listener.accept()
        while data := conn.recv(1024):
            print(data.decode())
            conn.sendall(data)
server = echo_kit.start(shout)
running = echo_kit.run(program, typed=payloads)
display(running, server.log)
shown(running.where())"""
PICTURES = """server = echo_kit.start(echo_kit.serve_threaded)
clients = [echo_kit.Client(server, name=payload) for payload in payloads]
for client, payload in zip(clients, payloads):
    client.send(payload)
    client.receive()
display(server.timeline(), server.snapshot())
echo_kit.predict("?", {"yes": 1, "no": 2}).compare(3, server.timeline(), server.where(), *payloads)"""
FORMULA = 'display(HTML("<p id=formula>$E$</p>"))'  # the last that is typeset: as long as it is not, we know nothing


def texts(output):
    """Of each section below a cell."""
    return output.locator("section").evaluate_all("(all) => all.map((each) => each.textContent)")


def clean(page, within, tags=TAGS, attributes=frozenset({"style", "open"})):
    for seen in page.locator(within).evaluate_all(f"(all) => all.map({LOOK})"):
        assert set(seen["tags"]) <= tags
        assert set(seen["attributes"]) <= attributes


def test_views_reports_and_tables_are_text(notebook, jupyterlab, browser):
    book = notebook(START, SERVERS, REPORTS, PROGRESS, SOURCE, FORMULA)
    book.run_all()
    book.page.locator("#formula mjx-container").wait_for()
    assert book.page.locator("mjx-container").count() == 1

    found = texts(book.output(1))
    for payload, where, backlog in zip(ODD, found[::2], found[1::2], strict=True):
        assert where.startswith(f"{visible(payload)}: ")
        assert backlog.startswith(f"backlog of {visible(payload)}: ")
    for payload, report in zip(ODD, texts(book.output(2)), strict=True):
        assert f"alice got {quoted(payload.encode(errors='surrogatepass'))}" in report
        assert f"your code ended with ValueError: {cut(visible(payload), 300)}" in report
        assert report.count(ascii(payload)) >= 2  # the title, and the hint
    (table,) = texts(book.output(3))
    for payload in ODD:
        assert cut(visible(payload), 100)[:99] in table
    for payload, code in zip(IN_SOURCE, texts(book.output(4)), strict=True):
        assert f"listener.accept()  # {visible(payload.rstrip())}".expandtabs() in code
    for cell in (1, 2, 3, 4):
        clean(book.page, f".jp-Cell[data-windowed-list-index='{cell}'] section")
    nothing_ran(book)

    book.save()
    html, _ = HTMLExporter().from_notebook_node(nbformat.read(jupyterlab.files / book.path, 4))
    page = browser.new_page()
    page.route("**", lambda route: route.abort())  # it asks for MathJax and the like
    page.set_content(html, timeout=LIMIT * 1000)
    assert page.locator("section").count() == len(found) + 2 * len(ODD) - 1 + 1 + len(IN_SOURCE) - len(ODD) + 1
    clean(page, "section")
    assert page.evaluate("window.__pwned ?? null") is None
    page.close()


def test_programs_logs_and_pictures_are_text(notebook):
    book = notebook(START, PROGRAM, PICTURES, FORMULA)
    book.run_all()
    book.page.locator("#formula mjx-container").wait_for()
    assert book.page.locator("mjx-container").count() == 1

    said = book.output(1).locator("pre").all_inner_texts()
    for payload in PAYLOADS:
        for words in (f"> {visible(payload)}", f"Received: {visible(payload)}"):
            assert words in said[0]
        assert cut(visible(payload), 300) in said[1]
    clean(book.page, ".jp-Cell[data-windowed-list-index='1'] section")
    pictures = book.output(2).locator("img").evaluate_all("(all) => all.map((each) => each.getAttributeNames())")
    assert len(pictures) == 3
    assert {name for each in pictures for name in each} <= {"src", "width", "height", "alt"}
    compared = book.output(2).locator("details")
    clean(book.page, ".jp-Cell[data-windowed-list-index='2'] details", TAGS | {"IMG", "P"}, PICTURED)
    for payload in PAYLOADS:
        assert payload.replace("\x00", "") in compared.text_content()
    nothing_ran(book)
