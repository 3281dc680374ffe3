"""axe finds nothing in whatever of ours JupyterLab shows, in both themes. (The stage alone: `test_stage_fits.py`; the
page of a phone: `test_phone.py`.)
"""

from contextlib import nullcontext

import pytest

from ..lab import OnPage, axe
from ..phones import Voter

CELLS = (
    """import echo_kit
server = echo_kit.start(echo_kit.serve_single, name="serve")
display(echo_kit.ServerPanel(server), echo_kit.panels(server, "alice", "bob"))""",
    """connects = echo_kit.predict("Is bob answered?", {"yes, at once": 1, "no, he waits": 2})
room = echo_kit.Classroom(server, echo_kit.serve_threaded)
room.ask(connects)
display(connects, room)""",
    """def answer(conn, addr):
    print("hello")
    conn.recv(1024)
    conn.sendall(b"wrong")
report = echo_kit.check("1.2", answer)
display(server.where(), server.backlog(), server.timeline(), server.snapshot(), server.log, room.results)
display(report, echo_kit.progress())
echo_kit.predict("And carol?", {"yes": 1, "no": 2}).compare(2, server.where(), server.timeline(), "a word")""",
)
PANELS = (".echo-stage", ".echo-client", ".echo-prediction", ".echo-room")
VIEWS = (".jp-RenderedHTMLCommon[data-mime-type='text/html']",)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(theme, notebook):
    book = notebook(*CELLS)
    book.run_cell(0)
    alice, bob = book.panel("alice"), book.panel("bob")
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    bob.type("hi")
    bob.says("> hi (no answer yet)")
    book.run_cell(1)
    room = OnPage(book.page, ".jp-Notebook", "classroom of serve")
    url = book.execute("print(room.url)").strip()
    with Voter(url, "carol") as carol, book.theme("JupyterLab Dark") if theme == "dark" else nullcontext():
        carol.ballot(question="Is bob answered?")
        carol.vote(1)
        room.root.get_by_text("1 of 1 have voted").wait_for()
        room.root.locator("summary").click()
        room.root.get_by_role("button", name="Show out carol").wait_for()
        axe(book.page, *PANELS)
        book.execute("room.truth(2)")
        room.root.get_by_text("first vote: 1 (100 %)").wait_for()
        axe(book.page, ".echo-room")
        book.run_cell(2)
        book.output(2).get_by_text("What happened", exact=True).wait_for()
        for folded in book.output(2).locator("summary").all():
            if folded.evaluate("(each) => !each.parentElement.open"):
                folded.click()
        axe(book.page, *VIEWS)
