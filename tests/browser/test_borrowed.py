"""What is borrowed from JupyterLab (static/borrowed.js): each name is there; and without it, a notebook is saved."""

import nbformat
import pytest
from nbformat.v4.rwbase import strip_transient

from ..lab import KERNEL

# A widget whose page is borrowed.js and nothing else: its functions can be called from here.
PROBE = """import anywidget
from echo_kit.live.panel import STATIC
class Probe(anywidget.AnyWidget):
    _esm = (STATIC / "borrowed.js").read_text("utf-8") + '''
        function initialize({ model }) {
            window.borrowed = { model, notebookOf, outputsOf, replaceOutput, whenSaved, needsSaving, cellAround,
                codeCellBelow, pressShiftEnter };
            whenTheKernelGoes(model, () => { window.borrowed.gone = true; });
        }
        export default { initialize, render: () => {} };'''
Probe()"""
NAMES = """async (panel) => {
    const { model, notebookOf, outputsOf, replaceOutput, whenSaved, needsSaving, cellAround } = window.borrowed;
    window.borrowed.gone = false;
    const notebook = notebookOf(model);
    const [first] = outputsOf(notebook);
    notebook.dirty = false;
    needsSaving(notebook);
    const area = panel.content.widgets[0].node.querySelector(".jp-Cell-outputArea");
    replaceOutput(...first.slice(0, 2), { output_type: "stream", name: "stdout", text: "in its place" });
    whenSaved(notebook, (file) => { file.metadata.changed = true; });
    return {
        "widget_manager.context.model": notebook === panel.context.model,
        "cells, outputs, get": "application/vnd.jupyter.widget-view+json" in first[2].data,
        dirty: panel.context.model.dirty,
        tabindex: cellAround(area)?.matches(".jp-Cell, .jp-Notebook"),
    };
}"""


def test_what_is_borrowed_is_there(notebook, jupyterlab):
    book = notebook(PROBE)
    book.run_all()
    book.until("(panel) => window.borrowed && panel.content.model.cells.get(0).outputs.length")
    found = book.promised(NAMES)
    assert [name for name, there in found.items() if not there] == []
    book.output(0).get_by_text("in its place").wait_for()  # set
    book.save()
    assert nbformat.read(jupyterlab.files / book.path, 4).metadata.get("changed"), "toJSON"
    done = book.begin_command("kernelmenu:restart")
    book.page.locator(".jp-Dialog button.jp-mod-accept").click()
    book.end(done)
    book.until("() => window.borrowed.gone")  # comm_live_update


def test_shift_enter_can_be_pressed_in_the_next_code_cell(notebook, jupyterlab):
    path = "pressed.ipynb"
    cells = [nbformat.v4.new_code_cell(PROBE), nbformat.v4.new_markdown_cell("between"), nbformat.v4.new_code_cell("7")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), jupyterlab.files / path)
    book = notebook(path)
    book.run_cell(0)
    book.until("(panel) => window.borrowed && panel.content.model.cells.get(0).outputs.length")
    found = book.promised("""async (panel) => {
        const { codeCellBelow, pressShiftEnter } = window.borrowed;
        const [first, , third] = panel.content.widgets.map((each) => each.node);
        const below = codeCellBelow(first.querySelector(".jp-Cell-outputArea"));
        pressShiftEnter(below);
        return { "jp-CodeCell": below === third, last: codeCellBelow(third) === undefined,
            elsewhere: codeCellBelow(document.body) === undefined };
    }""")
    assert [name for name, there in found.items() if not there] == []
    book.output(2).get_by_text("7").wait_for()  # keyCode
    book.until("(panel) => panel.content.activeCellIndex === 3")


CELL = """import echo_kit
server = echo_kit.start(echo_kit.serve_single)
echo_kit.ClientPanel(server, name="alice")"""
BREAKS = {
    "a model that fails": "(views) => views.set([...views.keys()][0], { get() { throw new Error('broken'); } })",
    "the second of two models": """(views) => {
        const first = [...views.keys()][0];
        views.forEach((model, id) => id === first || views.set(id, { get() { throw new Error("broken"); } }));
    }""",
    "a notebook of another shape": """(views, model) => {
        const toJSON = model.sharedModel.toJSON.bind(model.sharedModel);
        let called = 0;
        model.sharedModel.toJSON = () => called++ ? toJSON() : { ...toJSON(), cells: undefined };
    }""",
}


@pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS)
def test_whatever_of_ours_fails_the_file_is_saved_as_jupyterlab_would_have(notebook, jupyterlab, broken):
    book = notebook(CELL, "display(server.log, echo_kit.ClientPanel(server, name='bob'))")
    book.run_all()
    book.panel("bob").is_("connected, not accepted yet")
    theirs = book.promised("""async (panel) => {
        const model = panel.context.model;
        return Object.getPrototypeOf(model).toJSON.call(model);
    }""")
    views = [out for cell in theirs["cells"] for out in cell["outputs"] if "widget-view" in str(out)]
    assert len(views) == 2
    book.promised(f"async (panel) => {{ ({broken})(panel.context.model.echoKitViews, panel.context.model); }}")
    book.save()
    file = nbformat.read(jupyterlab.files / book.path, 4)
    assert strip_transient(file) == strip_transient(nbformat.from_dict(theirs))


def test_a_panel_works_where_its_place_in_the_notebook_cannot_be_noted(notebook):
    book = notebook(CELL)
    book.promised("""async (panel) => {
        panel.context.model.echoKitViews = { set() { throw new Error("broken"); } };
    }""")
    book.run_cell(0)
    alice = book.panel("alice")
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
