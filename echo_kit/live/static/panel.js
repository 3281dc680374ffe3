// What the pages of all panels have in common. It stands before the panel's own script: see `script` in panel.py.

const VIEW = "application/vnd.jupyter.widget-view+json";
const LOOKING = 2000; // milliseconds after which the kernel is told again that somebody looks
const WAS_HERE = "echo_kit_view"; // in the metadata of an output, in a file

function make(tag, className, parent, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  parent.append(node);
  return node;
}

function button(className, parent, text, title, press) {
  const node = make("button", className, parent, text);
  node.type = "button";
  node.title = title;
  node.addEventListener("click", press);
  return node;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text; // so that a screen reader hears changes only
}

// Calls `look` when `root` comes on the screen, and every now and then as long as a person can see it there.
function whileSeen(root, look) {
  let visible = true;
  const seen = () => visible && !document.hidden;
  const tell = () => seen() && look();
  const watcher = new IntersectionObserver((entries) => {
    visible = entries.at(-1).isIntersecting;
    tell();
  });
  watcher.observe(root);
  document.addEventListener("visibilitychange", tell);
  const telling = setInterval(tell, LOOKING);
  const end = () => {
    watcher.disconnect();
    document.removeEventListener("visibilitychange", tell);
    clearInterval(telling);
  };
  return { seen, end };
}

// Escape moves the focus from the panel to its cell, where JupyterLab's keys work again.
function escapeLeaves(root) {
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    document.activeElement.blur();
    cellAround(root)?.focus();
  });
}

// Put `still` (or, without it, what would be saved) in the place of the model's views in JupyterLab's notebook.
// The kernel's own update of the output is lost when the kernel restarts, and after a reload of the page.
function leave(model, still) {
  const id = model.get("_view"); // read here, because it is set after the model is made
  for (const [outputs, i, output] of outputsOf(notebookOf(model))) {
    if (output.data?.[VIEW]?.model_id !== id) continue;
    const [data, metadata] = still ?? [{ ...output.data, ...model.get("_now") }, output.metadata];
    delete data[VIEW];
    replaceOutput(outputs, i, { ...output, data, metadata });
  }
}

// A saved view says "model not found" to anybody who opens the file without its kernel. So JupyterLab saves the notebook
// without our views, and with a note of where they were: a page that finds the panel alive puts its view back there.
function saveWithoutViews(model) {
  const id = model.get("_view");
  const notebook = notebookOf(model);
  if (!id || !notebook) return;
  if (!notebook.echoKitViews) {
    notebook.echoKitViews = new Map(); // their ids -> the models
    whenSaved(notebook, (file) => removeViews(file, notebook.echoKitViews));
  }
  notebook.echoKitViews.set(id, model);
  for (const [outputs, i, output] of outputsOf(notebook)) {
    const { [WAS_HERE]: view, ...metadata } = output.metadata ?? {};
    if (view !== id || output.data[VIEW]) continue;
    const data = { ...output.data, [VIEW]: { version_major: 2, version_minor: 0, model_id: id } };
    replaceOutput(outputs, i, { ...output, data, metadata });
  }
}

function removeViews(file, views) {
  for (const output of file.cells.flatMap((cell) => cell.outputs ?? [])) {
    const id = output.data?.[VIEW]?.model_id;
    if (!views.has(id)) continue;
    const { [VIEW]: view, ...data } = output.data;
    output.data = { ...data, ...views.get(id).get("_now") };
    output.metadata = { ...output.metadata, [WAS_HERE]: id };
  }
}

// Called once for each model: from then on its views leave something behind, however it ends.
function leaveAtTheEnd({ model }) {
  const leaveViews = guarded((still) => leave(model, still));
  const save = guarded(() => saveWithoutViews(model));
  model.on("msg:custom", (message) => message.still && leaveViews(message.still));
  whenTheKernelGoes(model, () => leaveViews());
  model.on("change:_view", save);
  model.on("change:_now", () => {
    const notebook = notebookOf(model);
    if (notebook) needsSaving(notebook);
  });
  save();
}

// `render`, and below what it draws the kernel's one sentence on panels that answer late. Where JupyterLab talks to the
// kernel beside the cells, it may need a moment to begin with that: so the message that shows it comes later than "hello".
function withNote(render) {
  return (context) => {
    const { model, el } = context;
    const end = render(context);
    const note = make("p", "echo-late", el);
    note.style.margin = "4px 0";
    note.setAttribute("role", "status");
    const draw = () => {
      note.hidden = !model.get("_late");
      say(note, model.get("_late"));
    };
    const asking = setTimeout(() => model.send({ do: "late?" }), LOOKING);
    model.on("change:_late", draw);
    draw();
    return () => {
      clearTimeout(asking);
      model.off("change:_late", draw);
      end();
    };
  };
}
