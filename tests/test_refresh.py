"""`notebooks/refresh.py`: git's pictures stay where the words do, and what the notebooks hold is small."""

import base64
import io
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image

import echo_kit

from .terminals import LIMIT, ROOT

NOTEBOOKS = ROOT / "notebooks"
PATHS = sorted(path for path in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
ALL, ONE = 2_000_000, 120_000  # bytes: of all notebooks together, of a picture in one
FIGURE = """import io, os
from PIL import Image

class Figure:
    def __repr__(self):
        return "a figure with a sentence about it"
    def _repr_png_(self):
        file = io.BytesIO()
        Image.frombytes("RGB", (8, 8), os.urandom(192)).save(file, "PNG")
        return file.getvalue()"""
PORT = "import random; print(('127.0.0.1', random.randrange(20_000, 30_000)))"


@pytest.fixture
def refresh(monkeypatch):
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    import refresh

    return refresh


def code(source, outputs=(), ident="one"):
    cell = nbformat.v4.new_code_cell(source, id=ident, execution_count=1)
    cell.outputs = list(outputs)
    return cell


def shown(text, png, **more):
    data = {"text/plain": text, "image/png": png, **more}
    return nbformat.v4.new_output("display_data", data, metadata={"image/png": {"width": len(png), "alt": text}})


def said(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def pictures(path):
    """Every picture that a notebook holds, as bytes."""
    found = re.findall(r"iVBORw0KGgo[A-Za-z0-9+/=]+", path.read_text("utf-8"))
    return [base64.b64decode(each) for each in found]


def git(folder, *words):
    options = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *options, *words], cwd=folder, check=True, capture_output=True, timeout=LIMIT)


def run(path, *words):
    done = [sys.executable, NOTEBOOKS / "refresh.py", *words, path]
    subprocess.run(done, check=True, capture_output=True, timeout=10 * LIMIT)
    return path.read_bytes()


def test_a_second_run_changes_no_byte_and_a_new_word_only_its_own_picture(tmp_path):
    path = tmp_path / "book.ipynb"
    book = nbformat.v4.new_notebook()
    book.cells = [code(FIGURE, ident="a"), code(PORT, ident="b"), code("Figure()", ident="c"), code("1", ident="d")]
    nbformat.write(book, path)
    run(path)  # where no git is
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    first, (picture,) = path.read_bytes(), pictures(path)
    assert run(path) == first

    book = nbformat.read(path, as_version=4)
    book.cells[3].source = "2"
    nbformat.write(book, path)
    run(path)
    again = nbformat.read(path, as_version=4)
    assert pictures(path) == [picture]
    assert again.cells[3].outputs[0].data == {"text/plain": "2"}
    assert again.cells[1].outputs != book.cells[1].outputs  # all text is of one run

    run(path, "--pictures")
    assert pictures(path) != [picture]


HELD = '<img src="data:image/png;base64,{}" width="9" alt="a">'


@pytest.mark.parametrize(
    ("source", "outputs", "stays"),
    [
        ("view", [said("to ('127.0.0.1', 2)\n"), shown("words", "NEW")], True),
        ("view  # dark", [said("to ('127.0.0.1', 2)\n"), shown("words", "NEW")], False),
        ("view", [said("to ('127.0.0.1', 2)\n"), shown("other words", "NEW")], False),
        ("view", [said("to bob\n"), shown("words", "NEW")], False),
        ("view", [shown("words", "NEW")], False),
        ("view", [said("to ('127.0.0.1', 2)\n"), shown("words", "NEW", **{"text/html": "more"})], False),
    ],
)
def test_a_picture_stays_if_the_cell_and_all_its_words_do(refresh, source, outputs, stays):
    old = [code("view", [said("to ('127.0.0.1', 1)\n"), shown("words", "KEPT")]), code("1", ident="two")]
    new = [code(source, outputs), code("2", ident="two")]
    refresh.keep(new, old)
    view = new[0].outputs[-1]
    assert view.data["image/png"] == ("KEPT" if stays else "NEW")
    assert view.metadata["image/png"]["width"] == len(view.data["image/png"])  # its own, not the other's
    if stays:
        assert new[0].outputs[0].text == "to ('127.0.0.1', 2)\n"


def test_so_do_the_pictures_in_the_result_of_a_prediction(refresh):
    def result(*pngs, words="said"):
        html = f"<details><p>{words}</p>{''.join(map(HELD.format, pngs))}</details>"
        return [nbformat.v4.new_output("execute_result", {"text/plain": "happened", "text/html": html})]

    old = [code("compare", result("ONE", "TWO")), code("1", ident="two")]
    new = [code("compare", result("three", "four")), code("2", ident="two")]
    refresh.keep(new, old)
    assert new[0].outputs == result("ONE", "TWO")
    new = [code("compare", result("three", "four", words="new")), code("1", ident="two")]
    refresh.keep(new, old)
    assert new[0].outputs == result("three", "four", words="new")


@pytest.mark.parametrize("change", ["moved", "left out", "added"])
def test_ports_stay_only_if_the_notebook_has_the_same_cells(refresh, change):
    old = [code("a", [said("('127.0.0.1', 1)")], "a"), code("b", ident="b")]
    new = [code("a", [said("('127.0.0.1', 2)")], "a"), code("b", ident="b")]
    new = {"moved": new[::-1], "left out": new[:1], "added": [*new, code("c", ident="c")]}[change]
    refresh.keep(new, old)
    assert "('127.0.0.1', 2)" in str(new)


def test_the_picture_of_a_live_panel_is_left_out(refresh):
    view = shown("words", "PNG", **{refresh.WIDGET: {"model_id": "1"}, "text/html": "here is a panel"})
    cell = code("panel", [view])
    refresh.clean(cell)
    assert cell.outputs == [
        nbformat.v4.new_output("display_data", {"text/plain": "words", "text/html": "here is a panel"})
    ]


def test_a_small_picture_has_the_frequent_colours_exactly_and_all_others_nearly(refresh):
    with echo_kit.start(echo_kit.serve_single) as server, echo_kit.Client(server, name="alice") as alice:
        alice.send("hello")
        alice.receive()
        png = server.snapshot()._repr_mimebundle_()[0]["image/png"]
    few = refresh.small_text(png)
    assert len(few) < len(png) / 3
    assert refresh.small_text(few) == few
    before, after = (Image.open(io.BytesIO(base64.b64decode(each))) for each in (png, few))
    with before, after:
        assert (after.mode, after.size) == ("P", before.size)
        before, after = (np.array(each.convert("RGB")).astype(int) for each in (before, after))
    assert abs(before - after).max() <= 32
    for colour in ("#FFFFFF", "#1A1A1A", "#0077BB", "#99CCEE"):  # paper, ink, a mark, a bar
        exact = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        there = (before == exact).all(axis=2)
        assert there.any()
        assert (after[there] == exact).all(), colour


def test_two_light_greys_that_both_fill_something_stay_apart(refresh):
    greys = [(255, 255, 255), (228, 228, 228), (217, 217, 217)]  # paper, a bar, a line of the grid
    picture = Image.new("RGB", (90, 10))
    for number, grey in enumerate(greys):
        picture.paste(grey, (30 * number, 0, 30 * number + 30, 10))
    file = io.BytesIO()
    picture.save(file, "PNG")
    with Image.open(io.BytesIO(refresh.small(file.getvalue()))) as after:
        assert [after.convert("RGB").getpixel((30 * number, 5)) for number in range(3)] == greys


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_each_picture_in_a_notebook_is_small_and_has_a_palette(path):
    for png in pictures(path):
        assert len(png) < ONE, "run notebooks/refresh.py"
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.mode == "P", "run notebooks/refresh.py"


@pytest.mark.parametrize("path", sorted(ROOT.glob("**/img/*.png")), ids=lambda path: path.stem)
def test_so_is_each_picture_of_the_pages(path):
    assert path.stat().st_size < ONE, "run img/make.py"
    with Image.open(path) as picture:
        assert picture.mode == "P", "run img/make.py"


def test_all_notebooks_together_are_small():
    assert sum(path.stat().st_size for path in PATHS) < ALL
    assert sum(len(pictures(path)) for path in PATHS) > 10  # which a reader without a kernel has


def test_no_picture_has_words_that_differ_from_run_to_run(refresh):
    """Else a picture that stays would have a port that the cells around it do not have."""
    for path in PATHS:
        for cell in refresh.codes(nbformat.read(path, as_version=4)):
            for output in cell.outputs:
                data = output.get("data", {})
                if "image/png" in data:
                    assert refresh.sanitised(data["text/plain"]) == data["text/plain"]
