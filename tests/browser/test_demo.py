"""The demo in front of a class: each step by clicks and by its cell; three phones that join, vote and are served."""

import pytest

from ..test_notebooks import BOOKS, DEMO, predictions, texts

CELLS = BOOKS[DEMO].cells
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
SEEN = "(root, marks) => marks.every((mark) => root.textContent.includes(mark))"


def place(source):
    """The first code cell with this in it (cells count from 0)."""
    return next(at for at, cell in enumerate(CELLS) if cell.cell_type == "code" and source in cell.source)


def run_down_to(book, first, last):
    for at in range(first, last + 1):
        if CELLS[at].cell_type == "code":
            book.run_cell(at)


def sees(book, server, *marks):
    """Bring the stage of a server into view (else it stands still), and wait until it says this."""
    variable = {"serve": "server", "serve_many": "threaded", "the class": "the_class"}[server]
    book.select(place(f"echo_kit.ServerPanel({variable})"))
    book.stage(server).until(SEEN, marks)


def answers(book, variable):
    """Run the question, choose its first option, press Shift+Enter: the experiment says what the file says."""
    asks, compares = next((asks, at) for name, asks, _, at in predictions(DEMO) if name == variable)
    question, *options = texts(CELLS[asks]).splitlines()
    book.run_cell(asks)
    asked = book.prediction(question.removeprefix("Predict: "))
    asked.option(options[0].strip(" ○")).click()
    asked.shows(options[0].strip(" ○"), "Noted.")
    book.page.keyboard.press("Shift+Enter")
    happened = texts(CELLS[compares]).splitlines()[0]
    book.output(compares).get_by_text(happened).wait_for()


@pytest.fixture
def demo(notebook):
    """The demo, opened, with the code of both servers run."""
    book = notebook(f"{DEMO}.ipynb")
    book.page.set_viewport_size({"width": 1440, "height": 900})
    run_down_to(book, 0, place("def fresh"))
    return book


def test_each_step_by_clicks_and_then_by_its_cell(demo):
    stage, alice, bob = demo.stage("serve"), demo.panel("alice"), demo.panel("bob")
    panels = place('echo_kit.panels(server, "alice", "bob")')
    run_down_to(demo, place("echo_kit.ServerPanel(server)"), panels)
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    sees(demo, "serve", "waits in recv for alice")
    answers(demo, "one_client")

    demo.run_cell(panels)  # the server anew: the clicks of step 2 and 3
    alice.is_("being served")
    alice.type("hello")
    bob.type("hi")
    bob.says("> hi (no answer yet)")
    sees(demo, "serve", "waits in recv for alice", "2 bytes unread")
    alice.click("Disconnect")
    bob.says("> hi", "Received  :  hi")
    sees(demo, "serve", "waits in recv for bob")
    answers(demo, "bob_says")
    sees(demo, "serve", "waits in recv for alice", "2 bytes unread")  # it has gone over to the cell's server
    answers(demo, "release")

    demo.run_cell(panels)
    alice.is_("being served")
    stage.click("Step by step")
    sees(demo, "serve", "step by step")
    alice.type("news?")
    sees(demo, "serve", "paused before sendall to alice")
    stage.click("Step")
    alice.says("> news?", "Received  :  news?")
    stage.click("Run")
    answers(demo, "next_call")


def test_the_steps_of_the_second_server(demo):
    panels = place('"alice", "bob", "carol")')
    run_down_to(demo, place("echo_kit.ServerPanel(threaded)"), panels)
    stage, alice, bob = demo.stage("serve_many"), demo.panel("alice"), demo.panel("bob")
    demo.select(panels)
    bob.is_("being served")
    sees(demo, "serve_many", "thread 1: waits in recv for alice", "thread 2: waits in recv for bob")
    stage.click("Step by step")
    sees(demo, "serve_many", "step by step")
    alice.type("me first")
    bob.type("no, me")
    sees(demo, "serve_many", "thread 1: paused before sendall to alice", "thread 2: paused before sendall to bob")
    stage.root.get_by_text("thread 2: paused before sendall to bob").click()
    bob.says("> no, me", "Received  :  no, me")
    alice.says("> me first (no answer yet)")
    stage.click("Run")
    alice.says("> me first", "Received  :  me first")
    answers(demo, "answers")
    answers(demo, "order")
    answers(demo, "how_many")


@pytest.fixture
def phone(browser, demo):
    """`phone("ann")`: a phone that has joined, with a browser of its own; nothing may go wrong in its page."""
    contexts, wrong = [], []

    def join(name):
        contexts.append(browser.browser.new_context(**PHONE))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(f"{error}"))
        page.goto(demo.page.locator(".echo-room-url").inner_text())
        page.get_by_label("Your name, as all will see it").fill(name)
        page.get_by_role("button", name="Join", exact=True).click()
        page.get_by_role("heading", level=1, name=name).wait_for()
        return page

    yield join
    for context in contexts:
        context.close()
    assert not wrong


def says(page, text):
    page.get_by_label("A line to send to the server").fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def test_three_phones_wait_vote_and_are_all_served(demo, phone):
    asks, compares = next((asks, at) for name, asks, _, at in predictions(DEMO) if name == "bob_says")
    for cell in (asks, compares):
        demo.run_cell(cell)
    run_down_to(demo, place("echo_kit.ServerPanel(the_class)"), place("echo_kit.Classroom("))
    ann, ben, cem = map(phone, ("ann", "ben", "cem"))
    ann.get_by_text("You are served by the server thread.").wait_for()
    for page, line in ((ann, "hello"), (ben, "hi"), (cem, "ho")):
        says(page, line)
    ann.get_by_text("echo: hello").wait_for()
    ben.get_by_text("You are connected, and not accepted yet").wait_for()
    sees(demo, "the class", "waits in recv for ann", "ben", "2 bytes unread")

    demo.run_cell(place("room.ask(bob_says)"))
    _, *options = (option.strip(" ○") for option in texts(CELLS[asks]).splitlines())
    for page, option in ((ann, 0), (ben, 2), (cem, 2)):
        page.get_by_role("button", name=options[option]).click()
        page.get_by_text("Your vote is in.").wait_for()
    ben.reload()  # the same phone: its line still waits, and its vote is in
    ben.get_by_role("heading", level=1, name="ben").wait_for()
    ben.get_by_text("Your vote is in.").wait_for()
    ben.get_by_text("no echo yet").wait_for()
    demo.run_cell(place("room.truth(happened)"))
    results = demo.output(place("room.truth(happened)")).locator("table")
    results.get_by_text(options[2]).wait_for()
    counted = results.locator("tr").all_inner_texts()
    assert [row.split("\t")[2] for row in counted[1:]] == ["1", "0", "2", "0"]
    cem.get_by_text("this is what happened").wait_for()
    sees(demo, "the class", options[2])

    demo.run_cell(place("room.change(serve_many)"))
    ben.get_by_text("echo: hi").wait_for()
    cem.get_by_text("echo: ho").wait_for()
    sees(demo, "the class", "waits in recv for ann", "waits in recv for ben", "waits in recv for cem")
