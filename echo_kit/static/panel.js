// What the pages of all panels have in common. It stands before the panel's own script: see `script` in panel.py.

const VIEW = "application/vnd.jupyter.widget-view+json";

function make(tag, className, parent, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  parent.append(node);
  return node;
}

// Put `still` (or, without it, what stands beside the view) in the place of the model's views in JupyterLab's notebook.
// The kernel's own update of the output does not come through a restart, nor after a reload of the page.
function leave(model, still) {
  const id = model.get("_view"); // here, not before: it is set after the model is made
  const cells = model.widget_manager?.context?.model?.cells ?? [];
  for (const cell of cells) {
    const outputs = cell.outputs;
    for (let i = 0; i < (outputs?.length ?? 0); i++) {
      const output = outputs.get(i).toJSON();
      if (output.data?.[VIEW]?.model_id !== id) continue;
      const [data, metadata] = still ?? [{ ...output.data }, output.metadata];
      delete data[VIEW];
      outputs.set(i, { ...output, data, metadata });
    }
  }
}

// Called once a model: from then on its views leave something behind, however it ends.
function leaveAtTheEnd({ model }) {
  model.on("msg:custom", (message) => message.still && leave(model, message.still));
  model.on("comm_live_update", () => leave(model)); // the kernel restarts
}
