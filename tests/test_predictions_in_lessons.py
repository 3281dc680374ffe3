"""No lesson gives away the answer to a question: not in its file, and not in the page that nbconvert makes of it."""

import ast
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

from echo_kit.live.prediction import Comparison

from .lab import KERNEL
from .test_notebooks import told

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
LESSONS = ["part1_single_socket", "part2_multithreaded", "part3_many_clients", "surprises", "classroom_demo"]
ASKS = "echo_kit.predict("


def questions(book):
    """For each question: its cell, the experiment (the next code cell), and the cell after that."""
    cells = book.cells
    for at, cell in enumerate(cells):
        if cell.cell_type == "code" and ASKS in cell.source:
            after = next(i for i in range(at + 1, len(cells)) if cells[i].cell_type == "code")
            yield cell, cells[after], cells[after + 1]


def wrong_in_the_file(book):
    for asks, experiment, explains in questions(book):
        assign = ast.parse(asks.source).body[0]
        options = ast.literal_eval(assign.value.args[1])
        if any(value is None or isinstance(value, bool) for value in options.values()):
            yield f"an option's value tells: {asks.source}"
        if not ast.unparse(ast.parse(experiment.source).body[-1]).startswith(f"{assign.targets[0].id}.compare("):
            yield f"the next code cell does not end in the comparison: {experiment.source}"
        shown = [each.get("data", {}).get("text/html", "") for each in told(experiment)]
        if [each[: len(CLOSED)] for each in shown] != [CLOSED]:
            yield f"a closed result is not the only output: {experiment.source}"
        if not explains.source.startswith(EXPLAIN):
            yield f"the explanation is not the next cell: {experiment.source}"
        if any("jupyter" in each.metadata and "outputs_hidden" in each.metadata.jupyter for each in book.cells):
            yield "an output is folded"


CLOSED = "<details><summary>What happened</summary>"
EXPLAIN = "<details><summary>Explain</summary>\n\n**Explain.** "


def wrong_in_the_page(book):
    page, _ = HTMLExporter().from_notebook_node(book)
    closed = opened = ""
    for text in BeautifulSoup(page, "html.parser").find_all(string=True):
        if any("open" not in details.attrs for details in text.find_parents("details")):
            closed += text
        else:
            opened += text
    asked = len(list(questions(book)))
    for words in ("What happened: ", "Explain. "):
        if words in opened:
            yield f"{words!r} is in view"
        if closed.count(words) < asked:
            yield f"{words!r} is in the page {closed.count(words)} times, for {asked} questions"


@pytest.mark.parametrize("name", LESSONS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_answer_is_to_be_seen_before_its_question_was_answered(name):
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    assert len(list(questions(book))) >= 7
    assert [*wrong_in_the_file(book), *wrong_in_the_page(book)] == []


@pytest.mark.parametrize("name", LESSONS)
def test_the_right_option_is_not_always_in_the_same_place(name):
    places = set()
    for asks, experiment, _ in questions(nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)):
        options = [line[4:] for line in asks.outputs[0].data["text/plain"].splitlines()[1:]]
        said = told(experiment)[0].data["text/plain"].splitlines()[0].removeprefix("What happened: ")
        places |= {place for place, option in enumerate(options) if said.rstrip(".") == option.rstrip(".")}
    assert len(places) > 1


# -- that these tests see it ------------------------------------------------------------------------------------------

ASK = """bob_is = echo_kit.predict("Does bob get an answer?", {"yes": "answered", "no": "waited"})
bob_is"""


def lesson(change=lambda book: None):
    """A lesson of one question, as it is to be, and as `change` leaves it."""
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    asked = {"text/plain": "Predict: Does bob get an answer?\n  ○ yes\n  ○ no"}
    shown = Comparison({"yes": 1, "no": 2}, None, 2, ("bob hangs in the backlog, and nobody is at accept",))
    result = {"text/plain": repr(shown), "text/html": shown._repr_html_().replace("<details open>", "<details>")}
    cells = [
        text("# A lesson"),
        text("## A second client comes"),
        code(ASK, metadata={"jupyter": {"source_hidden": True}}),
        code('bob.send("hello")\nbob_is.compare("waited", server.where())'),
        text(f"{EXPLAIN}The server is in its loop for alice.\n\n</details>"),
        *(text(f"## Section {number}\n\n{'words ' * 300}") for number in range(9)),
    ]
    for cell, data in zip(cells[2:4], (asked, result), strict=True):
        cell.execution_count = 1
        cell.outputs.append(nbformat.v4.new_output("display_data", data))
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    change(book)
    return book


def opened(book):
    data = book.cells[3].outputs[0].data
    data["text/html"] = data["text/html"].replace("<details>", "<details open>")


def printed(book):
    book.cells[3].outputs.insert(0, nbformat.v4.new_output("stream", text="bob hangs in the backlog, and"))


def folded(book):
    book.cells[3].metadata["jupyter"] = {"outputs_hidden": True}


def explained(book):
    book.cells[4].source = "**Explain.** The server is in its loop for alice."


def in_words(book):
    del book.cells[3].outputs[0].data["text/html"]


def later(book):
    book.cells.insert(3, nbformat.v4.new_code_cell('bob.send("hello")'))


def told_by_a_value(book):
    book.cells[2].source = ASK.replace('"waited"', "True")


@pytest.mark.parametrize("change", [opened, printed, folded, explained, in_words, later, told_by_a_value])
def test_what_is_wrong_in_a_file_is_found(change):
    assert list(wrong_in_the_file(lesson())) == []
    assert list(wrong_in_the_file(lesson(change)))


@pytest.mark.parametrize("change", [opened, explained, in_words])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_in_view_in_the_page_is_found(change):
    assert list(wrong_in_the_page(lesson())) == []
    assert list(wrong_in_the_page(lesson(change)))
