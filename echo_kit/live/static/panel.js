// What the pages of all panels have in common. It stands before the panel's own script: see `script` in panel.py.

const VIEW = "application/vnd.jupyter.widget-view+json";
const WAS_HERE = "echo_kit_view"; // in the metadata of an output, in a file

function make(tag, className, parent, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  parent.append(node);
  return node;
}

// Escape goes from the panel to its cell: from there JupyterLab's keys work again.
function escapeLeaves(root) {
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    document.activeElement.blur();
    root.closest("[tabindex]")?.focus();
  });
}

function* outputsOf(notebook) {
  for (const cell of notebook?.cells ?? []) {
    for (let i = 0; i < (cell.outputs?.length ?? 0); i++) yield [cell.outputs, i, cell.outputs.get(i).toJSON()];
  }
}

// Put `still` (or, without it, what would be saved) in the place of the model's views in JupyterLab's notebook.
// The kernel's own update of the output does not come through a restart, nor after a reload of the page.
function leave(model, still) {
  const id = model.get("_view"); // here, not before: it is set after the model is made
  for (const [outputs, i, output] of outputsOf(model.widget_manager?.context?.model)) {
    if (output.data?.[VIEW]?.model_id !== id) continue;
    const [data, metadata] = still ?? [{ ...output.data, ...model.get("_now") }, output.metadata];
    delete data[VIEW];
    outputs.set(i, { ...output, data, metadata });
  }
}

// In a file, a view is "model not found" to whoever opens it without the kernel. So JupyterLab saves the notebook without
// our views, and with a note of where they were: there, a page that finds the panel alive puts its view back.
function saveWithoutViews(model) {
  const id = model.get("_view");
  const notebook = model.widget_manager?.context?.model;
  if (!id || !notebook?.toJSON) return; // not in JupyterLab's notebook
  if (!notebook.echoKitViews) {
    const views = (notebook.echoKitViews = new Map()); // their ids -> the models
    const whole = notebook.toJSON.bind(notebook);
    notebook.toJSON = () => {
      const file = whole();
      for (const output of file.cells.flatMap((cell) => cell.outputs ?? [])) {
        const view = output.data?.[VIEW]?.model_id;
        if (!views.has(view)) continue;
        delete output.data[VIEW];
        Object.assign(output.data, views.get(view).get("_now"));
        output.metadata = { ...output.metadata, [WAS_HERE]: view };
      }
      return file;
    };
  }
  notebook.echoKitViews.set(id, model);
  for (const [outputs, i, output] of outputsOf(notebook)) {
    const { [WAS_HERE]: view, ...metadata } = output.metadata ?? {};
    if (view !== id || output.data[VIEW]) continue;
    const data = { ...output.data, [VIEW]: { version_major: 2, version_minor: 0, model_id: id } };
    outputs.set(i, { ...output, data, metadata });
  }
}

// Called once a model: from then on its views leave something behind, however it ends.
function leaveAtTheEnd({ model }) {
  model.on("msg:custom", (message) => message.still && leave(model, message.still));
  model.on("comm_live_update", () => leave(model)); // the kernel restarts
  model.on("change:_view", () => saveWithoutViews(model));
  model.on("change:_now", () => {
    const notebook = model.widget_manager?.context?.model;
    if (notebook) notebook.dirty = true; // there is something new to save
  });
  saveWithoutViews(model);
}
