"""The lessons as a student has them: opened in JupyterLab, all cells run, the panels used, and all of it once more.

And before any cell is run: what is in view of a question does not answer it.
"""

import nbformat
import pytest

from ..test_predictions_in_lessons import LESSONS, explained, folded, lesson, opened, printed, questions

LETTERS = 12  # of a line; a shorter one may stand somewhere else by chance


def shows_words(book, panels):
    """Wait until each panel of a file that was just opened, and not yet run, says what it is."""
    book.until(
        """(panel, panels) => [...panel.node.querySelectorAll(".jp-Cell-outputArea")]
            .flatMap((each) => each.textContent.match(/It needs a running kernel/g) ?? []).length === panels""",
        panels,
    )


def test_part_1_bob_waits_until_alice_leaves(notebook):
    book = notebook("part1_single_socket.ipynb")
    shows_words(book, panels=2)
    book.run_all()
    use_part_1(book)
    book.restart_and_run_all()
    use_part_1(book)


def use_part_1(book):
    alice, bob = (book.panel(name) for name in ("alice", "bob"))
    book.go_to('"alice", "bob")')
    alice.is_("being served")
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    bob.line.fill("hi")
    bob.click("Send")
    bob.says("> hi (no answer yet)")
    bob.is_("connected, not accepted yet")
    alice.type("news?")
    alice.says("> hello", "Received  :  hello", "> news?", "Received  :  news?")
    bob.says("> hi (no answer yet)")
    alice.click("Disconnect")
    bob.says("> hi", "Received  :  hi")
    bob.is_("being served")
    alice.is_("not connected")
    alice.click("Connect")
    alice.is_("connected, not accepted yet")


def test_part_2_both_get_answers(notebook):
    book = notebook("part2_multithreaded.ipynb")
    shows_words(book, panels=3)
    book.run_all()
    use_part_2(book)
    book.restart_and_run_all()
    use_part_2(book)


def use_part_2(book):
    alice, bob = book.panel("alice"), book.panel("bob")
    book.go_to('"alice", "bob", "carol")')
    bob.is_("being served")
    alice.type("hello")
    bob.line.fill("hi")
    bob.click("Send")
    alice.says("> hello", "Received  :  hello")
    bob.says("> hi", "Received  :  hi")
    alice.click("Disconnect")
    alice.is_("not connected")
    bob.type("still here")
    bob.says("> hi", "Received  :  hi", "> still here", "Received  :  still here")
    alice.click("Connect")
    alice.type("back")
    alice.says("disconnected", "> back", "Received  :  back")


# What of the notebook is to be seen when a cell (they count from 0) is scrolled to its top, as far as that is possible.
IN_VIEW = """(panel, index) => {
    const list = panel.node.querySelector(".jp-WindowedPanel-outer");
    panel.content.widgets[index].node.scrollIntoView({ block: "start" });
    const view = list.getBoundingClientRect();
    const inView = (box) => box.width && box.bottom > view.top && box.top < view.bottom;
    const seen = [];
    const texts = document.createTreeWalker(list, NodeFilter.SHOW_TEXT);
    for (let text = texts.nextNode(); text; text = texts.nextNode()) {
        const range = document.createRange();
        range.selectNodeContents(text);
        if (text.parentElement.checkVisibility() && [...range.getClientRects()].some(inView)) seen.push(text.data);
    }
    for (const img of list.querySelectorAll("img")) {
        if (img.checkVisibility() && inView(img.getBoundingClientRect())) seen.push(img.alt);
    }
    return { height: view.height, seen: seen.join("\\n") };
}"""
# JupyterLab draws a cell a while after it came into view, or not if it left again: each stays in view until then.
ALL_DRAWN = """(panel) => {
    const next = panel.content.widgets.find(({ model, node }) => !node.querySelector(
        model.type === "markdown" ? ".jp-MarkdownOutput *"
            : model.outputs?.length ? ".jp-OutputArea-output, .jp-OutputPlaceholder" : ".jp-InputArea"));
    next?.node.scrollIntoView({ block: "center" });
    return !next;
}"""


@pytest.fixture
def whole_pages(browser, jupyterlab):
    """The page of a notebook holds all cells, also those that are out of sight: a setting of JupyterLab.

    A page that has it changed while cells are being drawn may never hold some of them.
    """
    setting = f"{jupyterlab.url}/lab/api/settings/@jupyterlab/notebook-extension:tracker"
    assert browser.request.put(setting, data={"raw": '{"windowingMode": "none"}'}).ok
    yield
    assert browser.request.put(setting, data={"raw": "{}"}).ok


def answers_in_view(book, saved):
    """What of each question's answer is to be seen where only the question was asked: 1440 x 900, and nothing run."""
    book.page.set_viewport_size({"width": 1440, "height": 900})
    book.until(ALL_DRAWN)
    code = "\n".join(each.source for each in saved.cells if each.cell_type == "code")  # tells nothing by itself
    found = []
    for asks, experiment, _ in questions(saved):
        view = book.until(IN_VIEW, saved.cells.index(asks))
        assert view["height"] > 700
        assert asks.outputs[0].data["text/plain"].splitlines()[0].removeprefix("Predict: ") in view["seen"]
        result = "\n".join(each.get("text") or each.data["text/plain"] for each in experiment.outputs)
        tells = ["What happened: ", "Explain.", *(line.strip() for line in result.splitlines())]
        tells = [each for each in tells if each == "Explain." or (each[LETTERS - 1 :] and each not in code)]
        found += [f"{asks.source.splitlines()[0]}: {each}" for each in tells if each in view["seen"]]
    return found


@pytest.mark.usefixtures("whole_pages")
@pytest.mark.parametrize("name", LESSONS)
def test_nothing_in_view_of_a_question_answers_it(notebook, jupyterlab, name):
    path = f"{name}.ipynb"
    saved = nbformat.read(jupyterlab.files / path, 4)
    assert len(list(questions(saved))) >= 7
    assert answers_in_view(notebook(path), saved) == []


@pytest.mark.usefixtures("whole_pages")
def test_an_answer_in_view_of_its_question_is_found(notebook, jupyterlab):
    for change in (None, opened, printed, folded, explained):
        path = f"{change and change.__name__}.ipynb"
        saved = lesson(*filter(None, [change]))
        nbformat.write(saved, jupyterlab.files / path)
        assert bool(answers_in_view(notebook(path), saved)) == (change is not None), path
