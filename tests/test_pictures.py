"""The pictures of terminals: what they say is what today's programs do, and the lessons hold the same files."""

import base64
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure
from PIL import Image

import echo_kit

from .terminals import LIMIT, NO_PTY, ROOT, STORIES, described

IMG = ROOT / "img"
BOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
each_picture = pytest.mark.parametrize("name", STORIES)


@pytest.fixture
def drawing(monkeypatch):
    monkeypatch.syspath_prepend(str(IMG))
    import terminals

    return terminals


def normalised(text):
    """Without what differs from run to run: the ports; and without what depends on whether port 8000 was free."""
    text = re.sub(r"^(\$ python \w+\.py) 127\.0\.0\.1 \d+$", r"\1", text, flags=re.M)
    text = re.sub(r"^Use \./\w+\.py HOST PORT for non default args\n", "", text, flags=re.M)
    ports = {}
    return re.sub(r"'127\.0\.0\.1', (\d+)", lambda found: f"port {ports.setdefault(found[1], len(ports))}", text)


@pytest.mark.skipif(sys.platform == "win32", reason=NO_PTY)
@each_picture
def test_the_same_lines_typed_today_give_the_same_answers(name, drawing):
    pages = STORIES[name](f"127.0.0.1 {echo_kit.free_port()}")
    assert normalised(described(pages)) == normalised(drawing.description(IMG / f"{name}.png"))


def test_in_the_pictures_the_second_client_waits_at_one_server_and_is_answered_by_the_other(drawing):
    waits = drawing.description(IMG / "terminal_two_clients_single.png")
    assert waits.endswith("\n> hi")
    assert waits.count("Received data from") == waits.count("Received  :") == 2
    served = drawing.description(IMG / "terminal_two_clients_threaded.png")
    assert served.endswith("\n> hi\nReceived  :  hi\n>")


@each_picture
def test_it_is_small_enough_for_a_cell_and_large_enough_for_a_hall(name, drawing):
    path = IMG / f"{name}.png"
    assert path.stat().st_size < 80_000
    with Image.open(path) as picture:
        width, height = picture.size
    assert width / 62 > 22  # pixels of one character: 62 stand in a row of the widest terminal
    assert height < width


def cells_with_attachments():
    for book, notebook in BOOKS.items():
        for cell in notebook.cells:
            for file in cell.get("attachments", {}):
                yield book, cell, file


def test_what_is_attached_is_the_file(drawing):
    for book, cell, file in cells_with_attachments():
        data = base64.b64decode(cell.attachments[file]["image/png"])
        assert data == (IMG / file).read_bytes(), f"{book}: run python img/make.py embed"
        assert f"![{drawing.words(Path(file).stem)}](attachment:{file})" in cell.source.splitlines()


def test_each_picture_that_a_lesson_shows_is_attached():
    attached = {(book, cell.id, file) for book, cell, file in cells_with_attachments()}
    shown = {
        (book, cell.id, file)
        for book, notebook in BOOKS.items()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for file in re.findall(r"\(attachment:([^)]+)\)", cell.source)
    }
    assert shown == attached


def test_a_cell_that_is_there_has_its_picture(drawing):
    for book, cells in drawing.CELLS.items():
        for cell in BOOKS[book].cells:
            if cell.get("id") in cells:
                assert list(cell.get("attachments", {})) == [f"{cells[cell.id]}.png"], "run python img/make.py embed"


def test_a_picture_takes_the_placeholders_line_and_later_its_own(drawing):
    cell = nbformat.v4.new_markdown_cell(f"Before.\n\n{drawing.PLACEHOLDER}\n\nAfter.", id="some-cell")
    drawing.put(cell, "terminal_one_client")
    once = nbformat.from_dict(cell)
    drawing.put(cell, "terminal_one_client")
    assert cell == once
    before, line, after = cell.source.split("\n\n")
    assert (before, after) == ("Before.", "After.")
    words = re.fullmatch(r"!\[(.+)\]\(attachment:terminal_one_client\.png\)", line)[1]
    assert words.startswith("Two terminals: a server, and a client that has its echo. ")
    assert "> hello / Received  :  hello" in words
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))
    cell.source = "no line for it"
    with pytest.raises(SystemExit, match="neither"):
        drawing.put(cell, "terminal_one_client")


def test_running_a_notebook_anew_keeps_what_is_attached(drawing, tmp_path):
    cell = nbformat.v4.new_markdown_cell(drawing.PLACEHOLDER)
    drawing.put(cell, "terminal_one_client")
    path = tmp_path / "book.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell("1 + 1")]), path)
    refresh = ROOT / "notebooks" / "refresh.py"
    subprocess.run([sys.executable, refresh, path], check=True, capture_output=True, timeout=4 * LIMIT)
    again = nbformat.read(path, as_version=4).cells
    assert again[0].attachments == cell.attachments
    assert again[1].execution_count == 1


def test_a_long_line_goes_on_in_the_next_row(drawing):
    assert drawing.rows_of("$ python x.py\nabcdefgh", 5) == [
        ("$ pyt", False),
        ("hon x", True),
        (".py", True),
        ("abcde", False),
        ("fgh", False),
    ]
    assert drawing.rows_of("a\n", 5) == [("a", False), ("", False)]
    assert isinstance(drawing.draw([("one", 10, "$ a\n"), ("two", 10, "> b\n")]), Figure)


def test_it_says_which_parts_it_has():
    done = subprocess.run(
        [sys.executable, IMG / "make.py", "posters"], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stderr) == (1, "'posters' is not a part of this: views, terminals, panels, embed\n")
