"""The client panel in JupyterLab: by keyboard and mouse, in several views and themes, whatever the kernel does."""

import pytest

SERVED = """import socket, echo_kit
got = []
def serve(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    got.append(data)
                    conn.sendall(data)
server = echo_kit.start(serve)
echo_kit.ClientPanel(server, name="alice")"""


THREADED = """import socket, threading, echo_kit
got = []
def serve(host, port):
    with socket.create_server((host, port), backlog=64) as listener:
        while True:
            threading.Thread(target=echo, args=listener.accept()).start()
def echo(conn, _):
    with conn:
        while data := conn.recv(1024):
            got.append(data)
            conn.sendall(data)
server = echo_kit.start(serve)
many = [echo_kit.Client(server) for _ in range(50)]
display(echo_kit.ClientPanel(server, name="alice"), echo_kit.ServerPanel(server))"""


@pytest.mark.parametrize("cell", [SERVED, THREADED], ids=["alone", "beside a stage of 50 connections"])
def test_300_messages_at_full_speed_arrive_exact(notebook, cell):
    book = notebook(cell)
    book.run_all()
    alice = book.panel("alice")
    alice.is_("being served")
    if cell is THREADED:
        book.page.locator(".echo-stage-words").get_by_text("51 served").wait_for()
    messages = [f"{number:03}" for number in range(300)]
    alice.line.focus()
    for message in messages:
        book.page.keyboard.type(message)
        book.page.keyboard.press("Enter")
    alice.until("""(root) => {
        const entries = [...root.querySelectorAll(".echo-client-entry")];
        return entries.length > 0 && entries.at(-1).textContent.endsWith("299")
            && entries.at(-1).matches(".echo-client-received") && !root.querySelector(".echo-client-open");
    }""")
    assert book.execute("print(b''.join(got).decode())") == "".join(messages) + "\n"
    assert book.execute("print(sum(each['call'] == 'client send' for each in server.timeline().calls()))") == "300\n"
    said = alice.said()
    assert len(said) == 200  # what a transcript keeps
    sent = [text.removeprefix("> ").split(" (")[0] for text in said if text.startswith("> ")]  # no marks beside them
    assert sent == messages[-len(sent) :]
    received = "".join(text.removeprefix("Received  :  ") for text in said if text.startswith("Received"))
    assert "".join(messages).endswith(received)
    assert alice.line.input_value() == ""


@pytest.mark.parametrize("work", ["sleep(120)", "while monotonic() < end: pass"])
def test_it_works_while_a_cell_runs(notebook, work):
    book = notebook(SERVED, f"from time import monotonic, sleep\nend = monotonic() + 120\n{work}")
    book.command("notebook:run-cell")
    alice = book.panel("alice")
    alice.is_("being served")
    done = book.begin_cell(1)
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    assert book.prompt(1) == "[*]:"
    book.command("notebook:interrupt-kernel")
    book.end(done)
    alice.type("again")
    alice.says("> hello", "Received  :  hello", "> again", "Received  :  again")


def test_after_a_reload_the_transcript_is_there_and_it_works(notebook):
    book = notebook(SERVED)
    book.run_all()
    book.panel("alice").type("hello")
    book.panel("alice").says("> hello", "Received  :  hello")
    book.save()
    book.reload()
    alice = book.panel("alice")
    alice.says("> hello", "Received  :  hello")
    alice.is_("being served")
    alice.type("again")
    alice.says("> hello", "Received  :  hello", "> again", "Received  :  again")
    assert book.execute("print(len(server.timeline().table()))") == "1\n"  # the connection is the same


def test_a_second_view_shows_and_does_the_same(notebook):
    book = notebook(SERVED)
    book.run_all()
    first = book.panel("alice")
    first.type("hello")
    second = book.panel("alice", within=book.new_view(0))
    for each in (first, second):
        each.says("> hello", "Received  :  hello")
        each.is_("being served")
    second.type("again")
    for each in (first, second):
        each.says("> hello", "Received  :  hello", "> again", "Received  :  again")
    first.click("Disconnect")
    second.is_("not connected")
    second.click("Connect")
    first.is_("being served")


def test_two_notebooks_in_one_page(notebook):
    """As when Part 1 is still open, and Part 2 is begun: each has its own kernel."""
    part_1 = notebook(SERVED)
    part_1.run_all()
    part_1.panel("alice").type("hello")
    part_1.panel("alice").says("> hello", "Received  :  hello")
    part_2 = notebook(SERVED.replace("alice", "bob"), beside=part_1)
    part_2.run_all()
    part_2.panel("bob").type("hi")
    part_2.panel("bob").says("> hi", "Received  :  hi")
    assert (part_1.execute("print(got)"), part_2.execute("print(got)")) == ("[b'hello']\n", "[b'hi']\n")


TWO = """import echo_kit
server = echo_kit.start(echo_kit.serve_single)
for name in ("alice", "bob"):
    display(echo_kit.ClientPanel(server, name=name))"""


def test_every_text_can_be_read_in_both_themes(notebook):
    book = notebook(TWO)
    book.run_all()
    alice, bob = book.panel("alice"), book.panel("bob")
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    bob.type("hi")
    bob.says("> hi (no answer yet)")
    bob.type("")
    bob.says("an empty message sends no bytes: there is nothing to answer")
    light, _ = alice.contrasts()
    assert min(light) > 200
    readable(alice, bob)
    with book.theme("JupyterLab Dark"):
        dark, _ = alice.contrasts()
        assert max(dark) < 60
        readable(alice, bob)


def readable(*panels):
    """WCAG 2 asks for a contrast of 4.5."""
    found = {text: ratio for panel in panels for text, ratio in panel.contrasts()[1].items()}
    assert {"echo-client-name: alice", "placeholder"} <= found.keys()
    assert any(text.startswith("echo-client-mark: no answer") for text in found)
    assert not {text: round(ratio, 2) for text, ratio in found.items() if ratio < 4.5}
