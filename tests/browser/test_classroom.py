"""The classroom in JupyterLab: the address and its code, a vote, a change of server, a rehearsal; all of it is text."""

import contextlib

import nbformat

from echo_kit.watch.text import visible

from ..lab import OnPage
from ..phones import Voter
from .test_markup import LOOK, PAYLOADS, nothing_ran

QUESTION, YES, NO = "Is bob answered?", "yes, at once", "no, he waits"
CELL = f"""import echo_kit
server = echo_kit.start(echo_kit.serve_single, name="serve")
room = echo_kit.Classroom(server, echo_kit.serve_threaded)
question = echo_kit.predict("{QUESTION}", {{"{YES}": 1, "{NO}": 2}})
room"""
ALLOWED = {"DIV", "IMG", "H4", "STRONG", "SPAN", "BUTTON", "I", "DETAILS", "SUMMARY", "LABEL", "INPUT", "TABLE"}
ALLOWED |= {"THEAD", "TBODY", "TR", "TH", "TD"}


def opened(notebook, *cells):
    book = notebook(CELL, *cells)
    book.run_cell(0)
    return book, OnPage(book.page, ".jp-Notebook", "classroom of serve")


def says(panel, words):
    panel.until("(root, words) => root.textContent.includes(words)", words)


def test_a_lesson_with_two_phones(notebook, jupyterlab):
    book, panel = opened(notebook, "room.ask(question)", "room.truth(2)\nroom.results")
    url = book.execute("print(room.url)").strip()
    says(panel, url)
    code = panel.root.get_by_role("img", name=f"QR code of {url}")
    wide = code.evaluate("(img) => img.decode().then(() => [img.naturalWidth, img.clientWidth])")
    assert wide[0] >= 29  # its modules
    assert wide[1] >= 150
    with Voter(url, "alice") as alice, Voter(url, "bob") as bob:
        says(panel, "2 joined")
        book.run_cell(1)
        for phone, option in ((alice, 0), (bob, 1)):
            phone.ballot(question=QUESTION)
            phone.vote(option)
        says(panel, "2 of 2 have voted")
        assert panel.root.locator(".echo-room-bar").count() == 0
        panel.click("Show the votes")
        says(panel, "first vote: 1 (50 %)")
        panel.click("Vote again")
        alice.ballot(round="second vote")
        alice.vote(1)
        says(panel, "1 of 2 have voted")
        panel.click("Close the vote")
        panel.root.get_by_role("button", name="Open the vote").wait_for()
        bob.ballot(open=False)
        book.run_cell(2)
        says(panel, f"✔ {NO}: what happened")
        says(panel, "second vote: 1 (100 %)")
        book.output(2).get_by_text("true", exact=True).wait_for()

        waits = bob.types("I wait")
        panel.root.locator("summary").click()
        says(panel, "waiting, 0 of 1 answered")
        panel.root.get_by_role("button", name="Change to serve_threaded").press("Enter")
        assert bob.hears(waits) == "I wait"
        says(panel, "now: serve_threaded")
        panel.root.get_by_role("button", name="Change to serve_single").wait_for()
        panel.root.get_by_label("find a name").fill("ali")
        panel.root.get_by_role("button", name="Show out bob").wait_for(state="detached")
        panel.root.get_by_role("button", name="Show out alice").click()
        alice.until(state="out")
        says(panel, "1 joined")

        book.save()
        book.reload()  # another page sees all of it
        says(panel, f"✔ {NO}: what happened")
        book.command("kernelmenu:shutdown")
    book.output(0).get_by_text("phones join it at an address").wait_for()
    book.save()
    (output,) = nbformat.read(jupyterlab.files / book.path, 4).cells[0].outputs
    assert output.data["text/plain"].splitlines()[0] == "Classroom of serve"
    assert url not in str(output)


def test_a_rehearsal_by_its_button(notebook):
    book, panel = opened(notebook)
    panel.root.get_by_label("a class of").fill("3")
    panel.click("Rehearse")
    says(panel, "3 of 3 connected")
    says(panel, "3 joined")
    panel.click("Stop the rehearsal")
    says(panel, "The rehearsal is over: 3 of 3 connected")
    panel.root.get_by_role("button", name="Rehearse", exact=True).wait_for()
    panel.root.get_by_label("a class of").fill("1001")
    panel.click("Rehearse")  # the page itself refuses it
    assert book.execute("print(room._rehearsal.students)").strip() == "3"


def test_names_questions_and_functions_are_text(notebook):
    book, panel = opened(notebook, "echo_kit.ServerPanel(server)", "room.results")
    odd = list(dict.fromkeys(visible(" ".join(each.split())) for each in PAYLOADS))  # as a question is shown
    options = f"dict(zip({odd}, range({len(odd)})))"
    book.execute(f"asked = echo_kit.predict({PAYLOADS[1]!r}, {options})\nroom.ask(asked)")
    book.execute(f"serve = lambda: 1\nserve.__name__ = {PAYLOADS[3]!r}\nroom._other = serve")
    book.run_cell(1)  # the stage has a board
    url = book.execute("print(room._room.rehearsal_url)").strip()
    with contextlib.ExitStack() as stack:
        phones = [stack.enter_context(Voter(url, name)) for name in PAYLOADS]
        for number, phone in enumerate(phones[: len(odd)]):
            phone.ballot(question=PAYLOADS[1])
            phone.vote(number)
        panel.root.locator("summary").click()
        says(panel, f"{len(phones)} joined")
        for phone in phones:
            says(panel, phone.name)
        panel.click("Show the votes")
        says(panel, "first vote: 1 (2 %)")
        says(panel, f"Change to {PAYLOADS[3]}")
        rows = panel.root.locator(".echo-room-option").evaluate_all("(all) => all.map((each) => each.firstChild.data)")
        assert rows == odd
        seen = panel.root.evaluate(LOOK)
        assert set(seen["tags"]) <= ALLOWED
        assert not {each for each in seen["attributes"] if each.startswith("on") or each == "href"}
        assert seen["wide"] <= 0
        stage = book.stage()
        stage.until("(root, words) => root.textContent.includes(words)", PAYLOADS[1])
        board = stage.root.locator(".echo-stage-board").evaluate(LOOK)
        assert set(board["tags"]) <= {"DIV", "SPAN", "STRONG", "OL", "UL", "LI", "I", "H4", "P"}
        assert not {each for each in board["attributes"] if each.startswith("on") or each in ("href", "src")}
        for option in odd:
            assert option in board["text"]
        book.run_cell(2)
        cells = book.output(2).locator("td").evaluate_all("(all) => all.map((each) => each.textContent)")
        assert [each for each in cells if each in odd] == [PAYLOADS[1], *odd]  # the question, and the options
    nothing_ran(book)


def test_every_text_can_be_read_in_both_themes(notebook):
    book, panel = opened(notebook)
    book.execute("room.ask(question); room.truth(1)")
    says(panel, f"✔ {YES}: what happened")
    light = panel.contrasts()
    with book.theme("JupyterLab Dark"):
        dark = panel.contrasts()
    assert min(light[0]) > 200
    assert max(dark[0]) < 60
    for _, found in (light, dark):
        assert {text: round(ratio, 2) for text, ratio in found.items() if ratio < 4.5} == {}
