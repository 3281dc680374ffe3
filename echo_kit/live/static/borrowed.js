// What our pages borrow from the insides of JupyterLab (read in 4.6.6) and of its widgets (jupyterlab-manager 5.0.16).
// Nobody promises these names; tests/browser/test_borrowed.py names the one that is gone. Without them every panel works,
// but a saved notebook says "model not found" in its place. It stands before panel.js: see `script` in panel.py.

// `call`, but what fails in it leaves the panel alone.
function guarded(call) {
  return (...args) => {
    try {
      call(...args);
    } catch (error) {
      console.warn("echo_kit cannot change the notebook's outputs:", error);
    }
  };
}

// `widget_manager.context.model`, JupyterLab's NotebookModel. Other programs that show notebooks have none: then nothing
// is done to outputs and files.
function notebookOf(model) {
  const notebook = model.widget_manager?.context?.model;
  return notebook?.cells && notebook.toJSON ? notebook : undefined;
}

// `cells` of the notebook and `outputs` of a cell, which has `length` and `get`. Yields [outputs, index, output], the
// output as it is in a file.
function* outputsOf(notebook) {
  for (const cell of notebook?.cells ?? []) {
    for (let i = 0; i < (cell.outputs?.length ?? 0); i++) yield [cell.outputs, i, cell.outputs.get(i).toJSON()];
  }
}

// `set` of these outputs: shows another output in that place.
function replaceOutput(outputs, i, output) {
  outputs.set(i, output);
}

// `toJSON` of the notebook, which JupyterLab calls to save it: `change` is called with the file, and may change it.
// Whatever fails in it, the file is saved as JupyterLab would have.
function whenSaved(notebook, change) {
  const original = notebook.toJSON;
  notebook.toJSON = (...args) => {
    try {
      const file = original.apply(notebook, args);
      change(file);
      return file;
    } catch (error) {
      console.warn("echo_kit changed nothing in the saved notebook, because this failed:", error);
      return original.apply(notebook, args);
    }
  };
}

// `dirty` of the notebook: JupyterLab saves it at its next occasion, and asks before the page is closed.
function needsSaving(notebook) {
  notebook.dirty = true;
}

// The event `comm_live_update` of a widget's model. After its beginning it comes when the kernel is restarted or gone.
function whenTheKernelGoes(model, call) {
  model.on("comm_live_update", call);
}

// The element in which JupyterLab's own keys work: a cell has a `tabindex`.
function cellAround(node) {
  return node.closest("[tabindex]");
}

// The classes `jp-Cell` and `jp-CodeCell`, and that the cells of a notebook are siblings: the next code cell below.
function codeCellBelow(node) {
  let cell = node.closest(".jp-Cell")?.nextElementSibling;
  while (cell && !cell.matches(".jp-CodeCell")) cell = cell.nextElementSibling;
  return cell ?? undefined;
}

// A cell that gets the focus becomes the active one, and a key that a script presses there (JupyterLab looks at its
// `keyCode`) is JupyterLab's own: Shift+Enter runs the cell and goes on to the next.
function pressShiftEnter(cell) {
  const key = { key: "Enter", code: "Enter", keyCode: 13, shiftKey: true, bubbles: true, cancelable: true };
  cell.focus();
  cell.dispatchEvent(new KeyboardEvent("keydown", key));
}
