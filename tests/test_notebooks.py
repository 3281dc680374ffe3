"""The notebooks: complete, honest with nbval, readable without a kernel, and the same servers as the package."""

import ast
import builtins
import math
import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbclient import NotebookClient
from nbconvert import HTMLExporter, SlidesExporter
from nbval.plugin import coalesce_streams as coalesce, get_sanitize_patterns

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BOOKS = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
SANITIZE = get_sanitize_patterns((ROOT / "notebooks" / "sanitize.cfg").read_text("utf-8"))
VIEW = "application/vnd.jupyter.widget-view+json"
PARTS = ["part1_single_socket", "part2_multithreaded", "part3_many_clients"]
DEMO = "classroom_demo"
every_notebook = pytest.mark.parametrize("name", BOOKS)
every_part = pytest.mark.parametrize("name", PARTS)


def code_cells(name):
    return [cell for cell in BOOKS[name].cells if cell.cell_type == "code"]


def prose(name):
    return "\n".join(cell.source for cell in BOOKS[name].cells if cell.cell_type == "markdown")


def test_all_parts_are_here():
    assert {*PARTS, "surprises"} <= BOOKS.keys()


@every_notebook
def test_every_cell_was_run_in_order(name):
    # nbval passes a cell without an execution count unchecked.
    assert [cell.execution_count for cell in code_cells(name)] == list(range(1, len(code_cells(name)) + 1))


@every_notebook
def test_nothing_is_hidden_from_the_comparison(name):
    for cell in code_cells(name):
        tags = {tag.lower() for tag in cell.metadata.get("tags", [])}
        assert not {tag for tag in tags if tag.startswith("nbval")}
        assert "NBVAL" not in cell.source


@every_notebook
def test_no_cell_waits_for_ever_for_a_program(name):
    """On Windows `send_signal(SIGINT)` raises ValueError, and the program goes on: its output has no end."""
    for cell in code_cells(name):
        assert ".stdout.read(" not in cell.source
        assert not re.search(r"\.(wait|communicate)\((?!timeout=)", cell.source)


@every_notebook
def test_the_file_holds_no_state_of_one_machine(name):
    book = BOOKS[name]
    assert set(book.metadata) == {"kernelspec", "language_info"}
    text = nbformat.writes(book)
    assert "widget-state" not in text
    assert "/home/" not in text
    assert "ipykernel_" not in text


@every_notebook
def test_every_figure_and_widget_has_words(name):
    for cell in code_cells(name):
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                assert len(data["text/plain"]) > 40
                assert output.metadata["image/png"]["alt"] == data["text/plain"]
            assert VIEW not in data  # opened without its kernel it is "model not found"
            if data.get("text/plain", "").startswith("ClientPanel"):
                assert "needs a running kernel" in data["text/html"]


@every_part
def test_the_lesson_opens_and_closes_as_agreed(name):
    opening, contract = BOOKS[name].cells[:2]
    title, said, questions, asked = opening.source.split("\n\n")
    assert title.startswith("# Part ")
    assert len(re.findall(r"[.!?](?=\s|$)", said)) == 2  # sentences
    assert questions == "**Questions**"
    assert 3 <= len(asked.splitlines()) <= 4
    assert all(line.endswith("?") for line in asked.splitlines())
    assert re.findall(r"^\*\*(.+?)\*\*", contract.source, re.M) == ["You will be able to", "You need:", "Time:"]
    learned, words, where_next = BOOKS[name].cells[-3:]
    assert learned.source.startswith("## What you have learned\n\n- ")
    assert words.source.startswith("## Words\n")
    assert where_next.source.startswith("**Where next:**")
    exercises = f"({name.split('_')[0]}_exercises.ipynb)"
    assert exercises in where_next.source
    assert "(surprises.ipynb)" in where_next.source


@every_part
def test_each_objective_is_checked_by_an_exercise(name):
    part = name.split("_")[0]
    objectives = re.split(r"\n(?=\d\. )", BOOKS[name].cells[1].source.split("\n\n")[1])
    assert len(objectives) >= 5
    checked = set()
    for objective in objectives:
        numbers = re.findall(rf"\[exercise ([\d.]+)\]\({part}_exercises\.ipynb\)", objective)
        assert re.search(r"\)\)[;.]$", objective), objective  # it ends with its exercises
        assert numbers, objective
        checked.update(numbers)
    headings = re.findall(r"^#+ .*?([\dS]\.\d)\b", prose(f"{part}_exercises"), re.M)
    assert checked == set(headings)


def test_each_objective_of_the_surprises_is_checked_by_an_exercise():
    contract = BOOKS["surprises"].cells[0].source
    objectives = re.split(r"\n(?=\d\. )", contract.split("**You will be able to**\n\n")[1].split("\n\n")[0])
    assert len(objectives) >= 4
    for objective in objectives:
        (number, page) = re.search(r"\(\[exercise ([\dS]\.\d)\]\((\w+)\.ipynb\)\)[;.]$", objective).groups()
        assert re.search(rf"^## {re.escape(number)} ", prose(page), re.M), objective
    assert "**Questions**" in contract
    assert re.search(
        r"\*\*Time:\*\* about \d+ minutes for reading and running, about \d+ for the exercises\.", contract
    )


@every_notebook
def test_of_a_question_the_page_shows_the_question_only(name):
    """Its cell's code is folded: which value an option stands for would be a hint."""
    for cell in code_cells(name):
        asks = "echo_kit.predict(" in cell.source
        assert cell.metadata.get("jupyter", {}).get("source_hidden", False) == asks
        if asks:
            assert "import" not in cell.source


def predictions(name):
    """For each prediction: its name, which cell asks, the options, which cell compares (cells by their index)."""
    cells = BOOKS[name].cells
    trees = [ast.parse(cell.source) if cell.cell_type == "code" else ast.Module([], []) for cell in cells]
    for asks, tree in enumerate(trees):
        for node in tree.body:
            if isinstance(node, ast.Assign) and "echo_kit.predict(" in ast.unparse(node.value)[:17]:
                variable, options = node.targets[0].id, ast.literal_eval(node.value.args[1])
                assert ast.unparse(tree.body[-1]) == variable  # the cell shows the question
                compares = [at for at, each in enumerate(trees) if f"{variable}.compare(" in ast.unparse(each)]
                assert len(compares) == 1, f"{variable} is compared in {len(compares)} cells"
                yield variable, asks, options, compares[0]


def texts_of(output):
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def told(cell):
    """Its outputs, without the place of a swarm's progress bar, which is empty when all is over."""
    return [output for output in cell.outputs if output.get("data") != {"text/plain": ""}]


def texts(cell):
    """The texts below a cell, as one."""
    return "\n".join(map(texts_of, cell.outputs))


@every_notebook
def test_each_prediction_is_compared_with_what_happened(name):
    cells = BOOKS[name].cells
    for variable, asks, options, compares in predictions(name):
        assert asks < compares
        last = ast.parse(cells[compares].source).body[-1]
        happened, *_ = last.value.args
        assert ast.unparse(last.value.func) == f"{variable}.compare"
        assert any(isinstance(node, ast.Name) for node in ast.walk(happened)), "a literal is nothing that happened"
        # True at the right answer would give it away.
        assert not [value for value in options.values() if value is None or isinstance(value, bool)], variable
        question = texts(cells[asks])
        assert question.startswith("Predict: ")
        assert [line.removeprefix("  ○ ") for line in question.splitlines()[1:]] == list(options)
        (said,) = re.findall(r"^What happened: (.*)\.$", texts(cells[compares]), re.M)
        assert said in options
    source = "\n".join(cell.source for cell in code_cells(name))
    assert source.count(".compare(") == source.count("echo_kit.predict(") == len(list(predictions(name)))


@every_notebook
def test_all_that_answers_a_prediction_is_in_its_result_which_is_closed(name):
    """The experiment is the next code cell, so that Shift+Enter runs it, and has one output."""
    cells = BOOKS[name].cells
    for variable, asks, _, compares in predictions(name):
        between = [cell for cell in cells[asks + 1 : compares] if cell.cell_type == "code"]
        assert not between, variable
        (output,) = told(cells[compares])
        assert "<details><summary>What happened</summary>" in output.data["text/html"]
    for cell in cells:
        assert "outputs_hidden" not in cell.metadata.get("jupyter", {}), cell.source
        assert "<details open" not in nbformat.v4.writes(nbformat.v4.new_notebook(cells=[cell]))


@every_notebook
def test_every_experiment_is_explained_where_it_does_not_give_itself_away(name):
    cells = BOOKS[name].cells
    for variable, _, _, compares in predictions(name):
        assert cells[compares + 1].source.startswith("<details><summary>Explain</summary>\n\n**Explain.** "), variable
        assert cells[compares + 1].source.count("</details>") == 1
    assert not re.search(r"^\*\*Explain\.\*\*", re.sub(r"(?s)<details>.*?</details>", "", prose(name)), re.M)


def test_the_questions_are_about_as_many_as_there_is_time_for():
    asked = {name: len(list(predictions(name))) for name in BOOKS if name != DEMO}  # that one is for a lecture
    assert all(asked[name] >= 7 for name in PARTS)
    assert 20 <= sum(asked.values()) <= 40


MARK = re.compile(r"^\*(Core path|Optional), (\d+) minutes?\.\*$", re.M)
LONGEST = 75  # minutes of work in a session of 90


def blocks(name):
    """The cells that each mark is about; those of the opening and of the close have none, and belong to the core."""
    found = [("Core path", None, [])]
    for cell in BOOKS[name].cells:
        mark = MARK.search(cell.source) if cell.cell_type == "markdown" else None
        if mark:
            found.append((mark[1], int(mark[2]), []))
        elif cell.source.startswith("## What you have learned"):
            found.append(("Core path", None, []))
        found[-1][2].append(cell)
    return found


def minutes(cells):
    """130 words a minute, five seconds a line of code."""
    text = [re.sub(r"!\[.*?\]\(.*?\)|<[^>]+>", "", cell.source) for cell in cells if cell.cell_type == "markdown"]
    lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines() if line.strip()]
    return len(" ".join(text).split()) / 130 + len(lines) * 5 / 60


@pytest.mark.parametrize("name", [*PARTS, "surprises"])
def test_the_minutes_are_true(name):
    times = {"Core path": 0, "Optional": 0}
    for kind, said, cells in blocks(name):
        true = math.ceil(minutes(cells))
        times[kind] += true
        assert said in (None, true), cells[0].source.splitlines()[0]
    contract = next(cell.source for cell in BOOKS[name].cells if "**Time:**" in cell.source)
    given = [int(number) for number in re.findall(r"\d+", " ".join(contract.split("**Time:**")[1].split(". ")[:2]))]
    if name in PARTS:
        assert times["Core path"] <= LONGEST
        assert given[:2] == [times["Core path"], times["Optional"]], times
    else:
        assert given[0] == sum(times.values()), times


@every_part
def test_every_section_says_whether_it_is_core_and_each_of_the_core_has_a_cell_to_change(name):
    for heading, section in sections(name):
        cells = [BOOKS[name].cells[at] for at in section]
        if re.match(r"## \d", heading):
            assert MARK.match(cells[0].source.split("\n\n")[1]), heading
    for kind, said, cells in blocks(name):
        if kind == "Core path" and said and re.match(r"## \d", cells[0].source):
            changes = [at for at, cell in enumerate(cells) if re.search(r"^\*\*Change it\.\*\* ", cell.source, re.M)]
            assert changes, cells[0].source
            assert all(cells[at + 1].cell_type == "code" for at in changes)


@every_part
def test_the_core_path_is_complete_in_itself(name):
    """No name that it uses is made in an optional section."""
    core = [cell for kind, _, cells in blocks(name) if kind == "Core path" for cell in cells]
    made, used = {*dir(builtins)}, set()
    for cell in core:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            nodes = [node for top in tree.body for node in ast.walk(top)]
            made |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ExceptHandler)
            made |= {node.name for node in nodes if isinstance(node, defined) and node.name}
            made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
            made |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            made |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
            used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    assert used <= made, used - made


def sections(name):
    """Each heading, and the indices of the cells up to the next."""
    cells = BOOKS[name].cells
    starts = [at for at, cell in enumerate(cells) if re.match(r"###? ", cell.source) and cell.cell_type == "markdown"]
    for start, end in zip(starts, [*starts[1:], len(cells)], strict=True):
        yield cells[start].source.splitlines()[0], range(start, end)


LABELS = {"Questions", "You will be able to"}


@every_part
def test_every_term_is_explained_where_it_comes_first_and_in_the_glossary(name):
    cells = [cell.source for cell in BOOKS[name].cells if cell.cell_type == "markdown"]
    end = next(at for at, source in enumerate(cells) if source.startswith("## What you have learned"))
    text = "\n".join(cells[:end])
    bold = [term for term in re.findall(r"\*\*(.+?)\*\*", text) if term not in LABELS and term[-1] not in ".:"]
    glossary = re.findall(r"^- \*\*(.+?)\*\*: \S.{10,}", cells[end + 1], re.M)
    assert cells[end + 1].count("\n- ") == len(glossary)
    assert glossary == sorted(glossary, key=str.casefold)
    assert sorted(bold, key=str.casefold) == glossary
    assert "**" not in cells[end]  # a key point has no new terms
    body = "\n".join(cells[2:end])  # the opening says what the lesson is about, in words of every day
    for term in bold:
        before = re.sub(r"`.*?`", "", body.split(f"**{term}**")[0]) if f"**{term}**" in body else ""
        assert not re.search(rf"\b{re.escape(term)}\b", before, re.I), term


SLIDE_TYPES = {"slide", "subslide", "fragment", "-", "skip", "notes"}
LINES_OF_A_SLIDE = 30
LINES_OF_A_PICTURE = 12


def slides(name):
    """The cells that are to be seen on each slide."""
    found = []
    for cell in BOOKS[name].cells:
        kind = cell.metadata.slideshow.slide_type
        if kind in ("slide", "subslide"):
            found.append([])
        if kind not in ("skip", "notes"):
            found[-1].append(cell)
    return found


def height(cell):
    """Lines of text, about; of a question, as INSTRUCTORS.md has the slides made, without its code."""
    if cell.cell_type == "markdown":
        pictures = LINES_OF_A_PICTURE * cell.source.count("](attachment:")
        return pictures + sum(1 + len(line) // 90 for line in re.sub(r"!\[.*?\]\(.*?\)", "", cell.source).splitlines())
    lines = 0 if "question" in cell.metadata.get("tags", []) else len(cell.source.splitlines())
    for output in cell.outputs:
        data = output.get("data", {})
        closed = "<details>" in data.get("text/html", "")
        lines += 1 if closed else LINES_OF_A_PICTURE if "image/png" in data else len(texts_of(output).splitlines())
    return lines


@every_part
def test_the_slides_are_a_talk(name):
    cells = BOOKS[name].cells
    assert {cell.metadata.slideshow.slide_type for cell in cells} <= SLIDE_TYPES
    assert cells[0].metadata.slideshow.slide_type == "slide"
    assert 20 <= len(slides(name)) <= 30
    for slide in slides(name):
        assert sum(map(height, slide)) <= LINES_OF_A_SLIDE, slide[0].source
    for cell in cells:  # whatever is asked in the talk is answered there, and the other way round
        assert ("question" in cell.metadata.get("tags", [])) == ("echo_kit.predict(" in cell.source)
    shown = [id(cell) for slide in slides(name) for cell in slide]
    for variable, asks, _, compares in predictions(name):
        assert (id(cells[asks]) in shown) == (id(cells[compares]) in shown), variable
    assert sum(id(cells[asks]) in shown for _, asks, _, _ in predictions(name)) >= 7


@every_part
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_deck_has_these_slides_and_no_others(name):
    page, _ = SlidesExporter().from_notebook_node(nbformat.from_dict(BOOKS[name]))
    deck = BeautifulSoup(page, "html.parser").select_one(".slides")
    for notes in deck.select("aside"):
        notes.decompose()
    assert len(deck.select("section > section")) == len(slides(name))
    assert not re.search(r"ClientPanel|ServerPanel|Try it yourself", deck.get_text())


def shown(name, call):
    """What the cells that end with `call` show, as text."""
    cells = [cell for cell in code_cells(name) if cell.source.rstrip().endswith(call)]
    return [output.data["text/plain"] for cell in cells for output in cell.outputs if "data" in output]


def test_both_parts_show_in_three_views_why_bob_waits_or_does_not():
    waits = ["○ nobody is here", "◀ server thread: waits in recv for alice"]
    serves = [f"◀ {thread}" for thread in ("server thread: waits in accept", "thread 1: waits", "thread 2: waits")]
    one, many = "part1_single_socket", "part2_multithreaded"
    results = shown(one, "server.where(), server.backlog())")
    assert any(all(words in text for words in waits) for text in results)
    assert any("  bob  2 bytes unread" in text for text in results)
    assert any("bob    connected · waits in the backlog behind alice" in text for text in shown(one, ".timeline()"))
    assert any(all(words in text for words in serves) for text in shown(many, "server.where()"))
    assert any("nobody waits" in text for text in shown(many, "server.backlog()"))
    assert any("served by thread 2" in text for text in shown(many, ".timeline()"))
    (emblem,) = shown(many, "echo_kit.side_by_side(one_waits, server.snapshot())")
    assert all(words in emblem for words in (*waits, *serves, "  bob  2 bytes unread", "nobody waits"))


@every_notebook
def test_cells_are_short_and_define_one_thing(name):
    for cell in code_cells(name):
        whole = "server" in cell.metadata.get("tags", [])  # `launch` runs one cell: all that its server needs
        assert len(cell.source.splitlines()) <= (50 if whole else 25)
        tree = ast.parse(cell.source)
        assert sum(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body) <= 1


@every_notebook
def test_student_code_needs_only_the_standard_library(name):
    for cell in code_cells(name):
        for node in ast.walk(ast.parse(cell.source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for each in [node.module] if isinstance(node, ast.ImportFrom) else names:
                assert each in {
                    *("echo_kit", "socket", "threading", "concurrent.futures"),
                    *("asyncio", "functools", "multiprocessing", "resource", "select", "selectors", "shutil"),
                    *("difflib", "errno", "hashlib", "inspect", "signal", "statistics", "struct", "subprocess"),
                    *("sys", "time"),
                }


@every_notebook
def test_links_and_pictures_exist(name):
    for target in re.findall(r"\]\((?!attachment:)([^)#]+)\)", prose(name)):
        assert (ROOT / "notebooks" / target).exists(), target


@pytest.mark.parametrize(
    ("name", "functions"),
    [
        ("part1_single_socket", ["readable", "limit_silence", "handle_client", "listen", "serve_single"]),
        (
            "part2_multithreaded",
            [
                *("readable", "limit_silence", "handle_client", "listen"),
                *("serve_threaded", "hang_up", "next_client", "client_thread"),
            ],
        ),
    ],
)
def test_the_finished_servers_are_those_of_the_package(name, functions):
    def of(tree):
        return {node.name: ast.dump(node) for node in tree.body if isinstance(node, ast.FunctionDef)}

    package = of(ast.parse((ROOT / "echo_kit" / "servers.py").read_text(encoding="utf-8")))
    last = {}
    for cell in code_cells(name):
        last.update(of(ast.parse(cell.source)))
    assert {each: last[each] for each in functions} == {each: package[each] for each in functions}


@pytest.mark.parametrize(
    "name", [each if each == "surprises" else pytest.param(each, marks=pytest.mark.soak) for each in BOOKS]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_a_kernel_the_page_still_says_what_a_panel_is(name):
    book = nbformat.from_dict(BOOKS[name])
    page, _ = HTMLExporter().from_notebook_node(book)
    assert page.count(TYPE_HERE) == sum(map(clients_to_type_into, code_cells(name)))
    if name in PARTS[:2]:  # the clients of the third are too many for panels
        assert page.count(TYPE_HERE) > 0
        assert page.count("<img") >= 3
    words = [each.get_text() for each in BeautifulSoup(page, "html.parser").select("pre")]
    for cell in code_cells(name):
        if "ServerPanel(" in cell.source:  # the moment at which it ran, in words
            (output,) = cell.outputs
            assert any(output.data["text/plain"] in each for each in words)
    # The "lab" template, which is nbconvert's first choice, leaves out the words of all pictures.
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(book)
    words = [image["alt"] for image in BeautifulSoup(page, "html.parser").select("img[alt]")]
    pictures = [
        output.data for cell in code_cells(name) for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert all(data["text/plain"] in words for data in pictures)


@pytest.fixture(scope="module")  # and so before the check that a test leaves no socket: the notebook client keeps two
def run_twice():
    books = {}
    for name in BOOKS:
        book = books[name] = nbformat.from_dict(BOOKS[name])
        cells = code_cells(name) * 2
        book.cells = [nbformat.from_dict({**cell, "id": f"run-{number}"}) for number, cell in enumerate(cells)]
        NotebookClient(
            book, timeout=120, store_widget_state=False, resources={"metadata": {"path": ROOT / "notebooks"}}
        ).execute()
    return books


@pytest.mark.soak  # nbval is the one that runs each notebook
@every_notebook
def test_all_cells_run_again_in_the_same_kernel_say_the_same(name, run_twice):
    cells = run_twice[name].cells
    for first, second in zip(cells[: len(cells) // 2], cells[len(cells) // 2 :], strict=True):
        assert said(first) == said(second), first.source


@pytest.mark.soak
@every_notebook
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_was_just_run_is_a_page_with_words_for_each_panel(name, run_twice):
    outputs = [output.get("data", {}) for cell in run_twice[name].cells for output in cell.get("outputs", [])]
    widget = r"Panel\(|panels\(|Classroom\(|echo_kit\.predict\("
    cells = [cell for cell in code_cells(name) if re.search(widget, cell.source)]
    assert sum(VIEW in data for data in outputs) == 2 * len(cells)
    assert cells or name not in PARTS
    page, _ = HTMLExporter().from_notebook_node(run_twice[name])  # as nbconvert --execute
    assert page.count(TYPE_HERE) == 2 * sum(map(clients_to_type_into, code_cells(name)))
    assert "widget-view" not in page


TYPE_HERE = "here is a panel to type messages into"


def clients_to_type_into(cell):
    """How many clients' panels a cell shows."""
    row = re.search(r"panels\(\w+, (.*)\)", cell.source)
    return cell.source.count("ClientPanel(") + (len(row[1].split(",")) if row else 0)


def said(cell):
    """The texts below a cell, without what `sanitize.cfg` leaves out."""
    found = [texts_of(output) for output in coalesce(cell.outputs)]
    for pattern, replacement in SANITIZE:
        found = [re.sub(pattern, replacement, text) for text in found]
    return found
