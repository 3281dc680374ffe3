"""The misconceptions: each is stated in a cell tagged as a claim, and proven wrong by cells that nbval compares.

A markdown cell that states one has the tag `claim:NAME`. Code cells whose output proves the truth have `proves:NAME`.
Where a question comes first, the closed explanation right after its experiment states the claim: before the question
it would be a hint.
"""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
BOOKS = {path.name: nbformat.read(path, as_version=4) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
SURPRISES = "surprises.ipynb"
NAMES = {
    *(
        "second-client",
        "listen-n",
        "server-port",
        "one-send-one-recv",
        "decode",
        "empty-send",
        "delivered",
        "clean-close",
    ),
    *("run-start", "close-wakes-accept", "reuseaddr", "deadlock", "ctrl-c-join", "daemon", "more-threads"),
    "no-descriptors",
}
EXPLANATION = "<details><summary>Explain</summary>"
MANY = {"client-needs-thread", "threads-do-not-scale", "asyncio-is-faster", "more-cores"}  # those of Part 3
each_name = pytest.mark.parametrize("name", sorted(NAMES | MANY))


def tagged(kind, books=BOOKS):
    """For each name, where the cells are that have the tag `kind:name`: (notebook, position, cell)."""
    found = {}
    for book, notebook in books.items():
        for position, cell in enumerate(notebook.cells):
            for tag in cell.metadata.get("tags", []):
                word, _, name = tag.partition(":")
                if word == kind:
                    found.setdefault(name, []).append((book, position, cell))
    return found


def links(text):
    """(notebook, "" for the same one; heading, "" for none) for each link to a notebook or to a place in this one."""
    return re.findall(r"\]\(([\w.]*\.ipynb|(?=#))(?:#([^)\s]+))?\)", text)


def headings(book):
    """How links name the headings of a notebook: JupyterLab takes the text, with - for each space."""
    found = set()
    for cell in BOOKS[book].cells:
        if cell.cell_type == "markdown":
            found |= {line.replace(" ", "-") for line in re.findall(r"^#+ (.+?)\s*$", cell.source, re.MULTILINE)}
    return found


def says(cell):
    """The text below a cell that nbval compares."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(texts).strip()


def unproven(name, books):
    """Why `name` is not stated and proven, in one sentence; "" if it is."""
    claims, proofs = tagged("claim", books).get(name), tagged("proves", books).get(name)
    if not claims:
        return "no cell states it"
    for book, position, cell in claims:
        if cell.cell_type != "markdown":
            return f"{book} {cell.id}: a claim is prose"
        first = position - 1 if cell.source.startswith(EXPLANATION) else position + 1
        later = [where for where, after, _ in proofs or [] if where == book and after >= first]
        linked = [where for where, _, _ in proofs or [] if where in {to for to, _ in links(cell.source)}]
        if not later and not linked:
            return f"{book} {cell.id}: no cell after it proves it, and it has no link to one that does"
    for book, _, cell in proofs:
        if cell.cell_type != "code" or cell.execution_count is None:
            return f"{book} {cell.id}: a proof is code that was run"
        if not says(cell):
            return f"{book} {cell.id}: a proof has an output with a text"
        if any(tag.lower().startswith("nbval") for tag in cell.metadata.tags):
            return f"{book} {cell.id}: a proof is compared"
    return ""


@each_name
def test_each_misconception_is_stated_and_then_proven_wrong(name):
    assert not unproven(name, BOOKS), unproven(name, BOOKS)


@pytest.mark.parametrize("kind", ["claim", "proves"])
def test_no_cell_has_a_name_that_nobody_knows(kind):
    assert set(tagged(kind)) <= NAMES | MANY


def test_tags_have_no_slip_of_the_pen():
    tags = {tag for book in BOOKS.values() for cell in book.cells for tag in cell.metadata.get("tags", [])}
    assert {tag.partition(":")[0] for tag in tags if ":" in tag} <= {"claim", "proves"}


def rows_of_the_table(head):
    """The rows of the one table of the surprises with this head."""
    (table,) = [cell.source for cell in BOOKS[SURPRISES].cells if head in cell.source]
    return [line for line in table.splitlines() if re.match(r"\| \d+ \|", line)]


@pytest.mark.parametrize("head", ["| Many believe | Find out |", "| What is true |"])
def test_each_of_the_two_tables_has_all_sixteen(head):
    numbers = [int(row.split("|")[1]) for row in rows_of_the_table(head)]
    assert numbers == list(range(1, len(NAMES) + 1)) == list(range(1, 17))


def test_the_table_of_beliefs_links_to_where_each_is_shown():
    assert all(len(links(row)) == 1 for row in rows_of_the_table("| Many believe |"))


def test_what_is_true_comes_after_all_questions():
    asked = [at for at, cell in enumerate(BOOKS[SURPRISES].cells) if "question" in cell.metadata.get("tags", [])]
    (told,) = [at for at, cell in enumerate(BOOKS[SURPRISES].cells) if "| What is true |" in cell.source]
    assert max(asked) < told


def test_no_claim_stands_between_a_heading_and_the_question_that_it_would_answer():
    """In the surprises, a claim before a question of its section is proven before that question, too."""
    cells = BOOKS[SURPRISES].cells
    for _, claims in tagged("claim").items():
        for book, position, _ in claims:
            if book == SURPRISES and not cells[position].source.startswith(EXPLANATION):
                code = next(cell for cell in cells[position:] if cell.cell_type == "code" and cell.outputs)
                assert "question" not in code.metadata.get("tags", []), cells[position].source


@pytest.mark.parametrize("book", BOOKS)
def test_links_to_headings_find_one(book):
    for cell in BOOKS[book].cells:
        if cell.cell_type == "markdown":
            for target, heading in links(cell.source):
                assert not heading or heading in headings(target or book), f"{cell.id}: {target}#{heading}"


# -- what the rule above finds, on notebooks made for it --------------------------------------------------------------


def book_of(*cells):
    return {"a.ipynb": nbformat.v4.new_notebook(cells=list(cells))}


def claim(text="> **Many believe:** it works.", **metadata):
    return nbformat.v4.new_markdown_cell(text, metadata={"tags": ["claim:daemon"], **metadata})


def proof(text="it does not\n", count=1, tags=("proves:daemon",)):
    outputs = [nbformat.v4.new_output("stream", text=text)] if text else []
    return nbformat.v4.new_code_cell("x", outputs=outputs, execution_count=count, metadata={"tags": list(tags)})


def test_a_claim_with_its_proof_is_proven():
    assert unproven("daemon", book_of(claim(), proof())) == ""
    apart = {**book_of(claim("see [there](b.ipynb#1.-Here)")), "b.ipynb": nbformat.v4.new_notebook(cells=[proof()])}
    assert unproven("daemon", apart) == ""


def test_an_explanation_may_state_what_the_experiment_before_it_has_proven():
    explained = claim(text=f"{EXPLANATION}\n\n**Explain.** Many believe that it works.\n\n</details>")
    assert unproven("daemon", book_of(proof(), explained)) == ""
    assert "no cell after it proves it" in unproven("daemon", book_of(proof(), claim(), explained))
    assert "no cell after it proves it" in unproven("daemon", book_of(proof(), proof(tags=()), explained))


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([], "no cell states it"),
        ([proof()], "no cell states it"),
        ([claim()], "no cell after it proves it"),
        ([proof(), claim()], "no cell after it proves it"),
        ([claim(), proof(text="")], "has an output with a text"),
        ([claim(), proof(text=" \n")], "has an output with a text"),
        ([claim(), proof(count=None)], "code that was run"),
        (
            [claim(), claim(), proof(), nbformat.from_dict({**claim(), "metadata": {"tags": ["proves:daemon"]}})],
            "is code",
        ),
        ([claim(), proof(tags=["proves:daemon", "nbval-ignore-output"])], "is compared"),
        ([nbformat.from_dict({**proof(), "metadata": {"tags": ["claim:daemon"]}}), proof()], "is prose"),
    ],
)
def test_a_claim_without_a_proof_is_found(cells, why):
    assert why in unproven("daemon", book_of(*cells))
