// The client panel's page side: draws the traits of the model, sends what was typed. Text goes in as text, never as HTML.

function render({ model, el }) {
  const name = model.get("name");
  const root = make("section", "echo-client", el);
  root.setAttribute("aria-label", `client ${name}`);
  root.dataset.lmSuppressShortcuts = "true"; // what is typed here is no JupyterLab command

  const head = make("header", "echo-client-head", root);
  make("strong", "echo-client-name", head, name);
  const where = make("span", "echo-client-where", head);
  const state = make("span", "echo-client-state", head);
  state.setAttribute("role", "status");

  const log = make("div", "echo-client-log", root);
  log.setAttribute("role", "log");
  log.setAttribute("aria-label", `messages of ${name}`);
  log.tabIndex = 0;

  const form = make("form", "echo-client-form", root);
  const line = make("input", "echo-client-line", form);
  line.type = "text";
  line.autocomplete = "off";
  line.spellcheck = false;
  line.placeholder = "type a message, press Enter";
  line.setAttribute("aria-label", `message of ${name}`);
  const send = make("button", "echo-client-send", form, "Send");
  send.type = "submit";
  const plug = make("button", "echo-client-plug", form);
  plug.type = "button";

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    model.send({ do: "send", text: line.value });
    line.value = "";
    line.focus();
  });
  // Enter in a form's only line submits it, but not inside JupyterLab, which sees the key as well: ask for it.
  line.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) {
      event.preventDefault();
      event.stopPropagation();
      form.requestSubmit();
    }
  });
  plug.addEventListener("click", () => model.send({ do: model.get("connected") ? "disconnect" : "connect" }));

  const drawn = new Map(); // entry's id -> its node
  function drawEntries() {
    const entries = model.get("entries");
    const kept = new Set(entries.map((entry) => entry.id));
    for (const [id, node] of drawn) {
      if (!kept.has(id)) {
        node.remove();
        drawn.delete(id);
      }
    }
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    for (const entry of entries) {
      let node = drawn.get(entry.id);
      if (!node) {
        node = make("div", "", log);
        make("span", "echo-client-text", node);
        make("span", "echo-client-mark", node);
        drawn.set(entry.id, node);
      }
      node.className = `echo-client-entry echo-client-${entry.kind}${entry.open ? " echo-client-open" : ""}`;
      const [text, mark] = node.children;
      const lead = { sent: "> ", received: "Received  :  ", note: "" }[entry.kind];
      if (text.textContent !== lead + entry.text) text.textContent = lead + entry.text;
      mark.textContent = entry.open ? "no answer yet" : "";
    }
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
  function drawState() {
    where.textContent = model.get("where");
    state.textContent = model.get("state");
    state.dataset.connected = String(model.get("connected"));
    plug.textContent = model.get("connected") ? "Disconnect" : "Connect";
  }
  model.on("change:entries", drawEntries);
  model.on("change:state change:connected change:where", drawState);
  drawEntries();
  drawState();
  model.send({ do: "hello" }); // a page shows it
  return () => {
    model.off("change:entries", drawEntries);
    model.off("change:state change:connected change:where", drawState);
  };
}

export default { initialize: leaveAtTheEnd, render };
