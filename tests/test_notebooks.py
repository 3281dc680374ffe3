"""The notebooks: complete, honest with nbval, readable without a kernel, and the same servers as the package."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbval.plugin import coalesce_streams as coalesce
from nbval.plugin import get_sanitize_patterns

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BOOKS = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
SANITIZE = get_sanitize_patterns((ROOT / "notebooks" / "sanitize.cfg").read_text("utf-8"))
VIEW = "application/vnd.jupyter.widget-view+json"
every_notebook = pytest.mark.parametrize("name", BOOKS)


def code_cells(name):
    return [cell for cell in BOOKS[name].cells if cell.cell_type == "code"]


def prose(name):
    return "\n".join(cell.source for cell in BOOKS[name].cells if cell.cell_type == "markdown")


def test_both_parts_are_here():
    assert {"part1_single_socket", "part2_multithreaded"} <= BOOKS.keys()


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


@every_notebook
def test_the_lesson_opens_and_closes_as_agreed(name):
    text = prose(name)
    for part in ["**You will be able to**", "**You need:**", "**Time:** about 45 minutes", "## What you have learned"]:
        assert part in text
    assert text.count("> **Predict.**") >= 1
    assert "**Run.**" in text
    assert "**Explain.**" in text


def shown(name, call):
    """What the cells that end with `call` show, as text."""
    cells = [cell for cell in code_cells(name) if cell.source.rstrip().endswith(call)]
    return [output.data["text/plain"] for cell in cells for output in cell.outputs if "data" in output]


def test_both_parts_show_in_three_views_why_bob_waits_or_does_not():
    waits = ["○ nobody is here", "◀ server thread: waits in recv for alice"]
    serves = [f"◀ {thread}" for thread in ("server thread: waits in accept", "thread 1: waits", "thread 2: waits")]
    one, many = "part1_single_socket", "part2_multithreaded"
    assert any(all(words in text for words in waits) for text in shown(one, "server.where()"))
    assert any("  bob  2 bytes unread" in text for text in shown(one, "server.backlog()"))
    assert any("bob    connected · waits in the backlog behind alice" in text for text in shown(one, ".timeline()"))
    assert any(all(words in text for words in serves) for text in shown(many, "server.where()"))
    assert any("nobody waits" in text for text in shown(many, "server.backlog()"))
    assert any("served by thread 2" in text for text in shown(many, ".timeline()"))
    (emblem,) = shown(many, "echo_kit.side_by_side(one_waits, server.snapshot())")
    assert all(words in emblem for words in (*waits, *serves, "  bob  2 bytes unread", "nobody waits"))


@every_notebook
def test_cells_are_short_and_define_one_thing(name):
    for cell in code_cells(name):
        assert len(cell.source.splitlines()) <= 25
        tree = ast.parse(cell.source)
        assert sum(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body) <= 1


@every_notebook
def test_student_code_needs_only_the_standard_library(name):
    for cell in code_cells(name):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    assert alias.name in {
                        *("echo_kit", "socket", "threading"),
                        *("difflib", "inspect", "signal", "subprocess", "sys"),  # in cells that show
                    }


@every_notebook
def test_links_and_pictures_exist(name):
    for target in re.findall(r"\]\(([^)#]+)\)", prose(name)):
        assert (ROOT / "notebooks" / target).exists(), target


@pytest.mark.parametrize(
    ("name", "functions"),
    [
        ("part1_single_socket", ["readable", "handle_client", "listen", "serve_single"]),
        ("part2_multithreaded", ["readable", "handle_client", "listen", "serve_threaded", "hang_up"]),
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


@every_notebook
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_a_kernel_the_page_still_says_what_a_panel_is(name):
    book = nbformat.from_dict(BOOKS[name])
    page, _ = HTMLExporter().from_notebook_node(book)
    assert page.count(TYPE_HERE) == sum(map(clients_to_type_into, code_cells(name))) > 0
    assert page.count("<img") >= 3
    # The "lab" template, which is nbconvert's first choice, leaves out the words of all pictures.
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(book)
    words = [image["alt"] for image in BeautifulSoup(page, "html.parser").select("img[alt]")]
    for cell in code_cells(name):
        if "ServerPanel(" in cell.source:  # the picture of the moment, and the same in words
            (output,) = cell.outputs
            assert output.data["text/plain"] in words


@pytest.fixture(scope="module")  # and so before the check that a test leaves no socket: the notebook client keeps two
def run_twice():
    books = {}
    for name in BOOKS:
        book = books[name] = nbformat.from_dict(BOOKS[name])
        cells = code_cells(name) * 2
        book.cells = [nbformat.from_dict({**cell, "id": f"run-{number}"}) for number, cell in enumerate(cells)]
        NotebookClient(book, timeout=120, store_widget_state=False, resources={"metadata": {"path": ROOT}}).execute()
    return books


@every_notebook
def test_all_cells_run_again_in_the_same_kernel_say_the_same(name, run_twice):
    cells = run_twice[name].cells
    for first, second in zip(cells[: len(cells) // 2], cells[len(cells) // 2 :], strict=True):
        assert said(first) == said(second), first.source


@every_notebook
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_was_just_run_is_a_page_with_words_for_each_panel(name, run_twice):
    outputs = [output.get("data", {}) for cell in run_twice[name].cells for output in cell.get("outputs", [])]
    cells = [cell for cell in code_cells(name) if re.search(r"Panel\(|panels\(", cell.source)]
    assert sum(VIEW in data for data in outputs) == 2 * len(cells) > 0
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
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in coalesce(cell.outputs)]
    for pattern, replacement in SANITIZE:
        texts = [re.sub(pattern, replacement, text) for text in texts]
    return texts
