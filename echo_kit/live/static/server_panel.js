// The stage's page side: draws what the kernel has seen of a server. All that came from there goes in as text, never as
// HTML. The kernel sends {head, picture}: of the picture all ("whole") or what has changed; see echo_kit/live/feed.py.

const WINDOWS = [10, 30, 120]; // seconds that the timeline can show
const KEPT_STRETCHES = 200; // of a lane, as the kernel keeps them
const KEPT_MARKS = 100;
const KEPT_LINES = 200;
const EDGE = "#1A1A1A"; // around and on hatched bars
const SILENT = 4; // seconds without news, after which the page says so
const MOVING = 100; // milliseconds after which the time moves on, if there are no news
const LOOKING = 2000; // milliseconds after which the kernel is told again that somebody looks

function button(parent, text, title, press) {
  const node = make("button", "echo-stage-button", parent, text);
  node.type = "button";
  node.title = title;
  node.addEventListener("click", press);
  return node;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text; // so that a screen reader hears changes only
}

// -- the picture's data ------------------------------------------------------------------------------------------------

function emptyPicture() {
  return { words: "", code: null, backlog: null, lanes: new Map(), log: [], stopped: false, thinned: false, now: 0 };
}

function takeIn(picture, change) {
  for (const name of ["words", "code", "backlog", "stopped", "thinned", "now"]) {
    if (name in change) picture[name] = change[name];
  }
  for (const given of change.lanes ?? []) {
    const lane = picture.lanes.get(given.id) ?? { stretches: [], marks: [] };
    const { stretches = [], marks = [], ...facts } = given;
    Object.assign(lane, facts);
    lane.stretches = [...lane.stretches, ...stretches].slice(-KEPT_STRETCHES);
    lane.marks = [...lane.marks, ...marks].slice(-KEPT_MARKS);
    picture.lanes.set(given.id, lane);
  }
  for (const id of change.gone ?? []) picture.lanes.delete(id);
  if (change.log) picture.log = [...picture.log, ...change.log].slice(-KEPT_LINES);
}

function seconds(time) {
  if (time < 0.001) return `${Math.round(time * 1e6)} µs`;
  if (time < 1) return `${Math.round(time * 1e3)} ms`;
  return time < 10 ? `${time.toFixed(1)} s` : `${Math.round(time)} s`;
}

// -- where each thread stands ------------------------------------------------------------------------------------------

function drawCode(root, code, step) {
  const before = new Map(); // where each thread's mark is now, so that it can be seen to move
  for (const chip of root.querySelectorAll("[data-thread]")) {
    before.set(chip.dataset.thread, chip.getBoundingClientRect());
  }
  // A thread's mark keeps the focus of the keyboard although it is made anew.
  const focused = root.contains(document.activeElement) ? document.activeElement.dataset.thread : undefined;
  root.replaceChildren();
  make("h4", "echo-stage-title", root, code.title);
  for (const { name, lines } of code.functions) {
    const block = make("div", "echo-stage-function", root);
    if (name) make("div", "echo-stage-rest", block, `# ${name}`);
    for (const line of lines) {
      const row = make("div", "echo-stage-line", block);
      make("span", "echo-stage-text", row, line === null ? "…" : line[0] || " ");
      if (line === null) continue;
      const marks = make("span", "echo-stage-marks", row);
      for (const mark of line[1]) drawMark(marks, mark, step);
      if (line[1].length) row.classList.add("echo-stage-marked");
      if (line[1].some(([kind]) => kind === "stands" || kind === "paused")) row.classList.add("echo-stage-here");
    }
  }
  if (code.elsewhere.length) {
    const row = make("div", "echo-stage-marks", root);
    for (const mark of code.elsewhere) drawMark(row, mark, step);
  }
  const chips = [...root.querySelectorAll("[data-thread]")];
  if (focused !== undefined) {
    const next = chips.find((chip) => chip.dataset.thread === focused) ?? root;
    if (next.tabIndex < 0) next.tabIndex = -1; // no button now: it has the focus all the same, but Tab passes it by
    next.focus({ preventScroll: true });
  }
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const chip of chips) {
    const old = before.get(chip.dataset.thread);
    const place = chip.getBoundingClientRect();
    if (still || !old || (old.x === place.x && old.y === place.y)) continue;
    const from = `translate(${old.x - place.x}px, ${old.y - place.y}px)`;
    chip.animate([{ transform: from }, { transform: "none" }], { duration: 180, easing: "ease-out" });
  }
}

function drawMark(row, [kind, sign, thread, words], step) {
  const text = `${sign} ${thread ? `${thread}: ` : ""}${words}`;
  if (kind === "paused" && thread) {
    const chip = button(row, `${text} ▸`, `let only ${thread} make its next call`, () => step(thread));
    chip.className = "echo-stage-mark echo-stage-paused";
    chip.dataset.thread = thread;
    return;
  }
  const chip = make("span", `echo-stage-mark echo-stage-${kind}`, row, text);
  if (kind === "stands" && thread) chip.dataset.thread = thread;
}

// -- who waits ---------------------------------------------------------------------------------------------------------

function drawBacklog(root, backlog) {
  root.replaceChildren();
  make("h4", "echo-stage-title", root, backlog.title);
  const queue = make("div", "echo-stage-queue", root);
  if (backlog.listens) make("span", "echo-stage-door", queue, "accept ◀");
  for (const [name, said, since] of backlog.rows) {
    const box = make("div", "echo-stage-waiting", queue);
    make("strong", "", box, name);
    make("span", "", box, said);
    const waits = make("span", "echo-stage-since", box);
    if (since !== null) waits.dataset.since = String(since);
  }
  if (backlog.listens && !backlog.rows.length) make("span", "echo-stage-rest", queue, "(empty)");
  for (const note of backlog.notes) make("div", "echo-stage-rest", root, note);
}

function drawWaits(root, now) {
  for (const node of root.querySelectorAll("[data-since]")) {
    node.textContent = `waits ${seconds(Math.max(0, now - Number(node.dataset.since)))}`;
  }
}

// -- what a stretch of a lane looks like -------------------------------------------------------------------------------

// The kernel's table of states (echo_kit/views/states.py): by name, in the legend's order.
class States {
  constructor(table) {
    this.table = new Map(table.map((state) => [state.name, state]));
  }

  // A state that is not in the table is drawn all the same, under its name.
  get(name) {
    return this.table.get(name) ?? { name, words: name, legend: name, colour: "#F0E442", hatch: "" };
  }

  // What a legend shows: the usual states and those of these names.
  legend(names) {
    const usual = [...this.table.values()].filter((state) => state.usual).map((state) => state.name);
    const present = new Set([...usual, ...names]);
    const order = new Set([...this.table.keys(), ...present]);
    return [...order].filter((name) => present.has(name)).map((name) => this.get(name));
  }
}

// -- what happened, when -----------------------------------------------------------------------------------------------

function shownLanes(picture, begin, end) {
  return [...picture.lanes.values()]
    .filter((lane) => (lane.connecting ?? lane.connected ?? lane.accepted ?? 0) <= end && (lane.ended ?? end) >= begin)
    .sort((one, other) => one.id - other.id);
}

// The stretches of a lane, the ones below first: [state, begin, end].
function stretchesOf(lane, now) {
  const over = lane.ended ?? now;
  const list = [];
  if (lane.connecting != null && lane.connected != null) list.push(["connecting", lane.connecting, lane.connected]);
  if (lane.connected != null) list.push(["backlog", lane.connected, lane.accepted ?? over]);
  if (lane.accepted != null) list.push(["in recv", lane.accepted, over]);
  list.push(...lane.stretches);
  if (lane.since && lane.ended == null) list.push([lane.since[0], lane.since[1], now]);
  return list;
}

// The hatch of a state ("/", "x" or ".") as what a canvas fills with.
function hatching(context, hatch) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = tile.getContext("2d");
  pen.strokeStyle = pen.fillStyle = EDGE;
  if (hatch === ".") pen.fillRect(3, 3, 2, 2);
  for (const shift of hatch === "." ? [] : [-8, 0, 8]) {
    pen.moveTo(shift, 8);
    pen.lineTo(shift + 8, 0);
    if (hatch !== "x") continue;
    pen.moveTo(shift, 0);
    pen.lineTo(shift + 8, 8);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

class Timeline {
  constructor(parent, states) {
    this.states = states;
    this.root = make("div", "echo-stage-timeline", parent);
    this.canvas = make("canvas", "echo-stage-canvas", this.root);
    this.canvas.setAttribute("role", "img");
    this.tip = make("div", "echo-stage-tip", this.root);
    this.tip.hidden = true;
    this.context = this.canvas.getContext("2d");
    this.patterns = new Map();
    this.rows = []; // {lane, top, height} as drawn
    this.scale = null;
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
  }

  draw(picture, now, span) {
    const { canvas, context } = this;
    const style = getComputedStyle(this.root);
    const letter = parseFloat(style.fontSize);
    const ink = style.color;
    const end = Math.max(now, span);
    const begin = end - span;
    const lanes = shownLanes(picture, begin, end);
    const width = this.root.clientWidth;
    const pitch = Math.max(3, Math.min(letter * 3.1, (letter * 17) / Math.max(1, lanes.length)));
    const height = Math.round(Math.max(3, lanes.length * pitch) + letter * 2.2);
    const ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = `${letter}px ${style.fontFamily}`;
    context.textBaseline = "middle";
    const left = letter * 7;
    const right = width - (width > letter * 50 ? letter * 18 : letter * 1.2);
    const at = (time) => left + ((time - begin) / span) * (right - left);
    this.scale = { left, right, begin, span, at };
    this.drawAxis(at, begin, end, span, height, letter, ink, style, at(now)); // "now" stands there
    this.rows = [];
    lanes.forEach((lane, number) => {
      const top = number * pitch;
      this.rows.push({ lane, top, height: pitch });
      this.drawLane(lane, top, pitch, letter, ink, now, picture.stopped);
    });
    this.drawNow(at(now), height, letter, ink, picture.stopped);
    this.canvas.setAttribute("aria-label", this.words(picture));
  }

  words(picture) {
    return `timeline: ${picture.words || "no connections"}`;
  }

  drawAxis(at, begin, end, span, height, letter, ink, style, hidden) {
    const { context } = this;
    const step = span / 5;
    context.fillStyle = ink;
    context.textAlign = "center";
    context.strokeStyle = style.getPropertyValue("--jp-border-color2") || "#ddd";
    context.lineWidth = 1;
    for (let time = Math.ceil(begin / step) * step; time <= end + 0.001; time += step) {
      context.beginPath();
      context.moveTo(at(time), 0);
      context.lineTo(at(time), height - letter * 1.8);
      context.stroke();
      if (Math.abs(at(time) - hidden) > letter * 3.5) {
        context.fillText(`${Math.round(time)} s`, at(time), height - letter * 0.8);
      }
    }
  }

  pattern(hatch) {
    if (!this.patterns.has(hatch)) this.patterns.set(hatch, hatching(this.context, hatch));
    return this.patterns.get(hatch);
  }

  drawLane(lane, top, pitch, letter, ink, now, stopped) {
    const { context } = this;
    const { left, right, at } = this.scale;
    const roomy = pitch >= letter * 2;
    const bar = roomy ? letter * 1.15 : Math.max(2, Math.floor(pitch * 0.8));
    const y = Math.round(top + (pitch - bar) / 2); // whole pixels are drawn faster
    let colour = "";
    const middle = top + pitch / 2;
    for (const [name, from, until] of stretchesOf(lane, now)) {
      const state = this.states.get(name);
      const x = Math.max(left, at(from)); // cut here: to clip each lane takes longer than to draw it
      const wide = Math.min(right, at(until)) - x;
      if (wide < 0) continue;
      if (colour !== state.colour) context.fillStyle = colour = state.colour; // to set it takes as long as to draw
      context.fillRect(x, state.thin ? middle - 1 : y, Math.max(1, wide), state.thin ? 2 : bar);
      if (state.hatch && bar > 4) {
        context.fillStyle = this.pattern(state.hatch);
        colour = "";
        context.fillRect(x, y, wide, bar);
        context.strokeStyle = EDGE;
        context.strokeRect(x, y, wide, bar);
      }
    }
    if (roomy) {
      context.save();
      context.beginPath();
      context.rect(left, top, right - left, pitch);
      context.clip();
      this.drawMarks(lane, y, bar, letter, ink);
      context.restore();
    }
    context.fillStyle = ink;
    if (pitch >= letter * 1.05) {
      context.textAlign = "right";
      context.fillText(this.fit(lane.name, left - letter * 0.7, letter), left - letter * 0.5, middle);
      const lasts = lane.since && !stopped && lane.ended == null;
      const words = lasts ? this.states.get(lane.since[0]).words : lane.words;
      context.textAlign = "left";
      if (right < this.root.clientWidth - letter * 5) {
        const room = this.root.clientWidth - right - letter * 0.7;
        context.fillText(this.fit(words, room, letter), right + letter * 0.7, middle);
      }
    }
  }

  // As much of a text as there is room for; of no more than two letters, nothing.
  fit(text, room, letter) {
    const { context } = this;
    if (context.measureText(text).width <= room) return text;
    let kept = text.slice(0, Math.max(0, Math.ceil(room / letter) * 3));
    while (kept && context.measureText(`${kept}…`).width > room) kept = kept.slice(0, -1);
    return kept.length > 2 ? `${kept}…` : "";
  }

  drawMarks(lane, y, bar, letter, ink) {
    const { context } = this;
    const { left, right, at } = this.scale;
    const size = letter * 0.36;
    context.fillStyle = context.strokeStyle = ink;
    context.lineWidth = 1.5;
    context.textAlign = "left";
    let next = right; // where the words of a message must end
    for (const [time, direction, words] of lane.marks.slice().reverse()) {
      const x = at(time);
      if (x < left || x > right) continue;
      context.beginPath();
      if (direction === 0) {
        context.moveTo(x - size, y - 2 * size);
        context.lineTo(x + size, y - 2 * size);
        context.lineTo(x, y - 2);
        context.fill();
        const room = next - x - 3 * size;
        context.fillText(this.fit(words.replace(/^"|"$/g, ""), room, letter), x + size * 1.4, y - size);
        next = x;
      } else {
        context.moveTo(x - size, y + bar + 2 * size);
        context.lineTo(x + size, y + bar + 2 * size);
        context.lineTo(x, y + bar + 2);
        context.closePath();
        context.stroke();
      }
    }
  }

  drawNow(x, height, letter, ink, stopped) {
    const { context } = this;
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, height - letter * 1.8);
    context.stroke();
    const words = stopped ? "stopped" : "now";
    context.textAlign = "center";
    const wide = context.measureText(words).width + letter * 0.6;
    context.fillStyle = ink;
    context.fillRect(x - wide / 2, height - letter * 1.6, wide, letter * 1.4);
    context.fillStyle = getComputedStyle(this.root).getPropertyValue("--jp-layout-color1") || "#fff";
    context.fillText(words, x, height - letter * 0.85);
  }

  hover(event) {
    const row = this.rows.find(({ top, height }) => event.offsetY >= top && event.offsetY < top + height);
    if (!row || !this.scale) {
      this.tip.hidden = true;
      return;
    }
    const { left, right, begin, span, at } = this.scale;
    const time = begin + ((event.offsetX - left) / (right - left)) * span;
    const near = row.lane.marks.filter((mark) => Math.abs(at(mark[0]) - event.offsetX) < 12);
    const messages = near.map(([, direction, words]) => `${direction === 0 ? "sends" : "gets"} ${words}`);
    const inside = stretchesOf(row.lane, Infinity).filter(([, from, until]) => from <= time && time <= until);
    const state = inside.length ? this.states.get(inside.at(-1)[0]).legend : "";
    say(this.tip, [row.lane.name, row.lane.words, state, ...messages].filter(Boolean).join(" · "));
    this.tip.style.left = `${Math.min(event.offsetX + 12, this.root.clientWidth * 0.6)}px`;
    this.tip.style.top = `${event.offsetY + 18}px`;
    this.tip.hidden = false;
  }
}

function drawLegend(root, picture, states) {
  const lanes = [...picture.lanes.values()];
  const names = lanes.flatMap((lane) => [...lane.stretches, ...(lane.since ? [lane.since] : [])].map(([name]) => name));
  const shown = states.legend(names);
  const key = shown.map((state) => state.name).join();
  if (root.dataset.key === key) return;
  root.dataset.key = key;
  root.replaceChildren();
  for (const state of shown) {
    const entry = make("span", "echo-stage-entry", root);
    const swatch = make("i", "echo-stage-swatch", entry);
    swatch.style.backgroundColor = state.colour;
    swatch.dataset.hatch = state.hatch;
    entry.append(state.legend);
  }
  make("span", "echo-stage-entry", root, "▼ client sends");
  make("span", "echo-stage-entry", root, "△ server answers");
}

function drawTable(body, picture) {
  body.replaceChildren();
  for (const lane of [...picture.lanes.values()].sort((one, other) => one.id - other.id)) {
    const row = make("tr", "", body);
    const came = lane.connected ?? lane.accepted;
    const waited = came == null ? null : (lane.accepted ?? lane.ended ?? picture.now) - came;
    for (const text of [lane.name, waited == null ? "" : seconds(Math.max(0, waited)), lane.words]) {
      make("td", "", row, text);
    }
  }
}

// -- the panel ---------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const name = model.get("name");
  const outer = make("section", "echo-stage", el);
  outer.setAttribute("aria-label", `server ${name}`);
  outer.dataset.lmSuppressShortcuts = "true"; // what is pressed here is no JupyterLab command
  const root = make("div", "echo-stage-inner", outer);
  const ask = (what, more = {}) => model.send({ do: what, ...more });

  const head = make("header", "echo-stage-head", root);
  make("strong", "echo-stage-name", head, name);
  const address = make("span", "echo-stage-rest", head);
  const state = make("span", "echo-stage-state", head);
  state.setAttribute("role", "status");
  const words = make("span", "echo-stage-words", head);
  words.setAttribute("role", "status");
  const tools = make("div", "echo-stage-tools", head);
  tools.setAttribute("role", "toolbar");
  tools.setAttribute("aria-label", `what to do with ${name}`);
  let now = { stepping: false, frozen: false, running: false, state: "" };
  const pause = button(tools, "Step by step", "every thread stops before its next socket call", () =>
    ask(now.stepping ? "run" : "pause"),
  );
  const step = button(tools, "Step", "every thread that is paused makes one call", () => ask("step"));
  const freeze = button(tools, "Freeze", "the picture stands still; the server goes on", () =>
    ask(now.frozen ? "go on" : "freeze"),
  );
  const restart = button(tools, "Restart", "stop the server and start the same function again", () => ask("start"));
  const stop = button(tools, "Stop", "end the server, as Ctrl+C would", () => ask("stop"));
  const note = make("div", "echo-stage-note", root);
  note.setAttribute("role", "alert");

  const board = make("div", "echo-stage-board", root);
  board.setAttribute("role", "region");
  board.setAttribute("aria-label", `what the class sees of ${name}`);
  board.hidden = true;
  const middle = make("div", "echo-stage-middle", root);
  const code = make("div", "echo-stage-code", middle);
  code.setAttribute("role", "region");
  code.setAttribute("aria-label", `where each thread of ${name} stands`);
  const side = make("div", "echo-stage-side", middle);
  const backlog = make("div", "echo-stage-backlog", side);
  backlog.setAttribute("role", "region");
  backlog.setAttribute("aria-label", `who waits at ${name}`);
  make("h4", "echo-stage-title", side, "what it printed");
  const log = make("div", "echo-stage-log", side);
  log.setAttribute("role", "log");
  log.setAttribute("aria-live", "off");
  log.setAttribute("aria-label", `what ${name} printed`);
  log.tabIndex = 0;

  const legend = make("div", "echo-stage-legend", root);
  const states = new States(model.get("states"));
  const timeline = new Timeline(root, states);
  const foot = make("footer", "echo-stage-foot", root);
  const thinned = make("span", "echo-stage-rest", foot);
  const label = make("label", "echo-stage-rest", foot, "the last ");
  const choice = make("select", "echo-stage-button", label);
  choice.setAttribute("aria-label", "seconds that the timeline shows");
  for (const span of WINDOWS) make("option", "", choice, `${span} s`).value = String(span);
  choice.value = "30";
  const details = make("details", "echo-stage-table", root);
  make("summary", "", details, "the connections in words");
  const table = make("table", "", details);
  const heads = make("tr", "", make("thead", "", table));
  for (const text of ["client", "waited", "what is known of it"]) make("th", "", heads, text).scope = "col";
  const rows = make("tbody", "", table);

  let picture = emptyPicture();
  let complete = false; // the whole picture has come: before that, changes mean nothing
  let offset = Infinity; // the page's clock minus the kernel's: the smallest that was seen, because messages may be late
  let stands = null; // the time at which the picture stands still
  let heard = performance.now();
  let visible = true; // whether the panel is on the screen
  let drawn = 0; // when the timeline was drawn last

  function time() {
    if (stands !== null) return stands;
    return Math.max(picture.now, performance.now() / 1000 - offset);
  }

  function drawHead() {
    say(address, now.address ?? "");
    const silent = (performance.now() - heard) / 1000;
    const said = now.frozen ? "frozen: the server goes on" : now.stepping ? `${now.state}, step by step` : now.state;
    say(state, complete && silent > SILENT ? `no news from the kernel for ${Math.floor(silent)} s` : said);
    state.dataset.running = String(now.running);
    outer.dataset.frozen = String(now.frozen);
    say(note, now.note ?? "");
    say(pause, now.stepping ? "Run" : "Step by step");
    say(freeze, now.frozen ? "Go on" : "Freeze");
    say(restart, now.running ? "Restart" : "Start");
    step.disabled = !now.stepping;
    pause.disabled = stop.disabled = !now.running;
  }

  function drawLog() {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.replaceChildren();
    for (const [who, text] of picture.log) {
      const line = make("div", "", log);
      make("span", "echo-stage-rest", line, `${who} `);
      make("span", "", line, text);
    }
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  function drawMoving() {
    if (!complete) return;
    drawn = performance.now();
    timeline.draw(picture, time(), Number(choice.value));
    drawWaits(backlog, time());
  }

  function drawChange(change) {
    say(words, picture.words);
    if (change.code) drawCode(code, change.code, (thread) => ask("step", { thread }));
    if (change.backlog) drawBacklog(backlog, change.backlog);
    if (change.log || change.whole) drawLog();
    if (change.lanes || change.gone || change.whole) {
      drawLegend(legend, picture, states);
      if (details.open) drawTable(rows, picture);
    }
    say(thinned, picture.thinned ? "There were more messages than a picture can show: not each has a mark." : "");
  }

  function hear(message) {
    if (!message || !message.picture) return;
    heard = performance.now();
    now = message.head;
    const change = message.picture;
    if (change.whole) {
      picture = emptyPicture();
      offset = Infinity;
      complete = true;
    }
    if ("board" in change) drawBoard(board, change.board);
    if (complete && "now" in change) {
      takeIn(picture, change);
      if (!now.frozen) offset = Math.min(offset + 0.0005, performance.now() / 1000 - change.now);
      drawChange(change);
    }
    stands = now.frozen || picture.stopped ? picture.now : null;
    drawHead();
    drawMoving();
  }

  escapeLeaves(root);
  model.on("msg:custom", hear);
  details.addEventListener("toggle", () => drawTable(rows, picture));
  choice.addEventListener("change", drawMoving);
  const watcher = new IntersectionObserver((entries) => {
    visible = entries.at(-1).isIntersecting;
    look();
  });
  watcher.observe(outer);
  function look() {
    if (visible && !document.hidden) ask("look");
  }
  document.addEventListener("visibilitychange", look);
  const asking = setInterval(look, LOOKING);
  const moving = setInterval(() => {
    if (!visible || document.hidden) return;
    drawHead();
    if (stands === null && performance.now() - drawn > MOVING * 0.9) drawMoving(); // news draw it, too
  }, MOVING);
  const resized = new ResizeObserver(drawMoving);
  resized.observe(root);
  ask("hello");
  drawHead();
  return () => {
    model.off("msg:custom", hear);
    watcher.disconnect();
    resized.disconnect();
    document.removeEventListener("visibilitychange", look);
    clearInterval(asking);
    clearInterval(moving);
  };
}

export default { initialize: leaveAtTheEnd, render };
