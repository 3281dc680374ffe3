// The client panel's page side: shows what the kernel tells, sends what was typed. Text goes in as text, never as HTML.
// A message is drawn at once, under a key; the kernel's entry of that key takes its place.

const LARGEST = 8e6; // bytes of a message on its way to the kernel: Jupyter's server ends the connection at 10 MiB
const KEPT = 200; // lines that a view keeps, as the kernel does, and lines that the arrow keys bring back
const SIZE = 2000; // characters that a line shows

let views = 0;

// As the kernel will show them.
function visible(text) {
  const code = (char) => `\\u${char.codePointAt(0).toString(16).padStart(4, "0")}`;
  return text.replace(/\n/g, "\\n").replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, code);
}

function seconds(age) {
  return age < 1 ? "yet" : age < 60 ? `for ${Math.floor(age)} s` : `for ${Math.floor(age / 60)} min`;
}

function render({ model, el }) {
  const name = model.get("name");
  const root = make("section", "echo-client", el);
  root.setAttribute("aria-label", `client ${name}`);
  root.dataset.lmSuppressShortcuts = "true"; // what is typed here is no JupyterLab command

  const head = make("header", "echo-client-head", root);
  make("strong", "echo-client-name", head, name);
  const where = make("span", "echo-client-where", head);
  const plug = make("button", "echo-client-plug", head);
  plug.type = "button";
  const state = make("div", "echo-client-state", head);
  state.setAttribute("role", "status");
  const owed = make("div", "echo-client-owed", head);

  const log = make("div", "echo-client-log", root);
  log.setAttribute("role", "log");
  log.setAttribute("aria-relevant", "additions"); // not each second that a message waits
  log.setAttribute("aria-label", `messages of ${name}`);
  log.tabIndex = 0;

  const form = make("form", "echo-client-form", root);
  const line = make("textarea", "echo-client-line", form);
  line.rows = 1;
  line.autocomplete = "off";
  line.spellcheck = false;
  line.placeholder = "type a message, press Enter";
  line.setAttribute("aria-label", `message of ${name}`);
  const send = make("button", "echo-client-send", form, "Send");
  send.type = "submit";

  // -- the transcript ----------------------------------------------------------------------------------------------

  const view = `${Date.now().toString(36)}.${Math.random().toString(36).slice(2)}.${views++}`;
  let sent = 0; // messages of this view; the key of each is view:number
  const drawn = new Map(); // entry's id -> its line
  const pending = new Map(); // number of a message that the kernel has not taken yet -> its line
  const waiting = new Set(); // lines whose mark counts the seconds
  let offset = Infinity; // from the kernel's clock to the page's, in seconds

  const clock = () => performance.now() / 1000;

  function newLine() {
    const node = make("div", "", log);
    make("span", "echo-client-text", node);
    make("span", "echo-client-mark", node);
    return { node, since: 0, words: "" };
  }

  function count(line) {
    line.node.lastChild.textContent = `${line.words} ${seconds(clock() - line.since)}`;
  }

  function fill(line, kind, text, mark) {
    const lead = { sent: "> ", received: "Received  :  ", note: "" }[kind];
    line.node.className = `echo-client-entry echo-client-${kind}`;
    if (line.node.firstChild.textContent !== lead + text) line.node.firstChild.textContent = lead + text;
    line.node.lastChild.textContent = mark;
  }

  function wait(line, words, since) {
    line.node.classList.add("echo-client-open");
    Object.assign(line, { words, since });
    waiting.add(line);
    count(line);
  }

  function drop(map, key) {
    const line = map.get(key);
    line.node.remove();
    waiting.delete(line);
    map.delete(key);
  }

  function atTheEnd(change) {
    const follow = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    change();
    if (follow) log.scrollTop = log.scrollHeight;
  }

  function take(entry) {
    let line = drawn.get(entry.id);
    if (!line) {
      const [whose, number] = entry.key.split(":");
      const mine = whose === view ? Number(number) : -1;
      // The kernel takes messages in their order: what was sent before this one and is still pending has gone by.
      for (const earlier of [...pending.keys()].filter((each) => each < mine)) drop(pending, earlier);
      line = pending.get(mine) ?? newLine();
      pending.delete(mine);
      drawn.set(entry.id, line);
      const first = pending.values().next().value;
      if (first) log.insertBefore(line.node, first.node);
    }
    waiting.delete(line);
    fill(line, entry.kind, entry.text + entry.cut, entry.mark);
    if (entry.open && !entry.mark) wait(line, "no answer", entry.at + offset);
    else if (entry.open) line.node.classList.add("echo-client-open");
  }

  function heard(message) {
    if (!message.entries) return;
    atTheEnd(() => {
      for (const id of [...drawn.keys()].filter((each) => each < message.first)) drop(drawn, id);
      message.entries.forEach(take);
    });
  }

  function say(text) {
    const key = `${view}:${++sent}`;
    atTheEnd(() => {
      const line = newLine();
      const long = text.length > SIZE ? ` … ${text.length.toLocaleString("en")} characters in all` : "";
      fill(line, "sent", visible(text.slice(0, SIZE)) + long, "");
      wait(line, "sending, not taken", clock());
      pending.set(sent, line);
      if (pending.size > KEPT) drop(pending, pending.keys().next().value);
    });
    model.send({ do: "send", text, key });
  }

  function drawState() {
    // The smallest difference ever seen is the nearest to the truth: a message may be late, but never early.
    const now = model.get("now");
    if (now) offset = Math.min(offset, clock() - now);
    const name = model.get("state");
    const on = model.get("connected");
    where.textContent = model.get("where");
    state.textContent = name;
    state.dataset.connected = String(on && name !== "connecting");
    owed.textContent = model.get("unanswered");
    plug.textContent = on ? "Disconnect" : "Connect";
  }

  // -- the keys ----------------------------------------------------------------------------------------------------

  const said = []; // what the arrow keys bring back
  let recalled = 0; // index in it; its length is the line that is being typed
  let draft = "";

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = line.value;
    const size = text.length > LARGEST / 6 ? new TextEncoder().encode(JSON.stringify(text)).length : 0;
    line.setCustomValidity(size > LARGEST ? "Too long for this panel: 8,000,000 bytes at most. Nothing was sent." : "");
    if (!line.reportValidity()) return;
    say(text);
    if (text && text.length <= SIZE && said.at(-1) !== text) said.push(text);
    if (said.length > KEPT) said.shift();
    recalled = said.length;
    draft = line.value = "";
    line.rows = 1;
    line.focus();
  });
  line.addEventListener("input", () => {
    line.setCustomValidity("");
    line.rows = Math.min(5, line.value.slice(0, SIZE).split("\n").length);
  });
  line.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      form.requestSubmit();
    } else if (event.key === "Enter") {
      event.preventDefault(); // JupyterLab does, too
      line.setRangeText("\n", line.selectionStart, line.selectionEnd, "end");
      line.dispatchEvent(new Event("input"));
    } else if (step && !line.value.includes("\n") && said[recalled + step] !== undefined) {
      event.preventDefault();
      if (recalled === said.length) draft = line.value;
      recalled += step;
      line.value = said[recalled];
    } else if (step === 1 && recalled === said.length - 1) {
      event.preventDefault();
      recalled += 1;
      line.value = draft;
    } else return;
    event.stopPropagation(); // JupyterLab would take it for the notebook's
  });
  escapeLeaves(root);
  plug.addEventListener("click", () => model.send({ do: model.get("connected") ? "disconnect" : "connect" }));

  const STATE = "change:state change:connected change:where change:unanswered change:now";
  model.on(STATE, drawState);
  model.on("msg:custom", heard);
  const ticks = setInterval(() => waiting.forEach(count), 1000);
  drawState();
  model.send({ do: "hello" }); // the answer has all entries
  return () => {
    clearInterval(ticks);
    model.off(STATE, drawState);
    model.off("msg:custom", heard);
  };
}

export default { initialize: leaveAtTheEnd, render: withNote(render) };
