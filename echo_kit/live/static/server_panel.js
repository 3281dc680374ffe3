// The stage's page side: draws what the kernel has seen of a server. All that came from there goes in as text, never as
// HTML. The kernel sends {head, picture}: of the picture all ("whole") or what has changed; see echo_kit/live/feed.py.

const WINDOWS = [10, 30, 120]; // seconds that the timeline can show
const SILENT = 4; // seconds without news, after which the page says so
const MOVING = 100; // milliseconds after which the time moves on, if there are no news
const TELLING = 2000; // milliseconds from one thing that a screen reader is told to the next
const KEPT_LINES = 200; // of what was printed, as the kernel keeps them
const BOARD = 0.36; // of the height, that a board may have
const REFUSED = "This browser allows no full screen here: the stage fills the window. Escape leaves it.";

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

// -- as large as the screen --------------------------------------------------------------------------------------------

// Where the browser refuses a full screen, the stage fills the window.
class FullScreen {
  constructor(node, changed) {
    this.node = node;
    this.changed = changed;
    this.note = "";
    document.addEventListener("fullscreenchange", changed);
  }

  get on() {
    return document.fullscreenElement === this.node || this.fills;
  }

  get fills() {
    return this.node.hasAttribute("popover");
  }

  async toggle() {
    if (this.on) return this.leave();
    this.node.focus({ preventScroll: true });
    try {
      await this.node.requestFullscreen();
    } catch {
      this.node.popover = "manual"; // above all else in the page, wherever in it the stage is
      this.node.showPopover();
      this.note = REFUSED;
      this.changed();
    }
  }

  leave() {
    if (document.fullscreenElement === this.node) document.exitFullscreen();
    if (this.fills) this.node.removeAttribute("popover");
    this.note = "";
    this.changed();
  }

  end() {
    document.removeEventListener("fullscreenchange", this.changed);
  }
}

// -- the panel ---------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const name = model.get("name");
  const outer = make("section", "echo-stage", el);
  outer.setAttribute("aria-label", `server ${name}`);
  outer.tabIndex = 0; // its keys: see `keys` below
  outer.dataset.lmSuppressShortcuts = "true"; // what is pressed here is no JupyterLab command
  const root = make("div", "echo-stage-inner", outer);
  const ask = (what, more = {}) => model.send({ do: what, ...more });
  const region = (parent, className, label) => {
    const node = make("div", className, parent);
    node.setAttribute("role", "region");
    node.setAttribute("aria-label", label);
    return node;
  };

  const head = make("header", "echo-stage-head", root);
  make("strong", "echo-stage-name", head, name);
  const address = make("span", "echo-stage-rest", head);
  const state = make("span", "echo-stage-state", head);
  const words = make("span", "echo-stage-words", head);
  const tools = make("div", "echo-stage-tools", head);
  tools.setAttribute("role", "toolbar");
  tools.setAttribute("aria-label", `what to do with ${name}`);
  let now = { stepping: false, frozen: false, running: false, state: "" };
  const pause = button("echo-stage-button", tools, "Step by step", "every thread stops before its next socket call (space)", () =>
    ask(now.stepping ? "run" : "pause"),
  );
  const step = button("echo-stage-button", tools, "Step", "every thread that is paused makes one call (S)", () => ask("step"));
  const freeze = button("echo-stage-button", tools, "Freeze", "the picture stands still; the server goes on (F)", () =>
    ask(now.frozen ? "go on" : "freeze"),
  );
  const restart = button("echo-stage-button", tools, "Restart", "stop the server and start the same function again", () => ask("start"));
  const stop = button("echo-stage-button", tools, "Stop", "end the server, as Ctrl+C would", () => ask("stop"));
  const full = button("echo-stage-button", tools, "Full screen", "the stage alone, as large as the screen (Escape leaves)", () =>
    screen.toggle(),
  );
  const note = make("div", "echo-stage-note", root);
  note.setAttribute("role", "alert");
  const board = region(root, "echo-stage-board", `what the class of ${name} sees`);
  board.hidden = true;

  const middle = make("div", "echo-stage-middle", root);
  const code = new Code(region(middle, "echo-stage-code", `where each thread of ${name} stands`));
  const side = make("div", "echo-stage-side", middle);
  const backlog = region(side, "echo-stage-backlog", `who waits at ${name}`);
  const printed = make("h4", "echo-stage-title", side, "what it printed");
  const log = make("div", "echo-stage-log", side);
  log.setAttribute("role", "log");
  log.setAttribute("aria-live", "off");
  log.setAttribute("aria-label", `what ${name} printed`);
  log.tabIndex = 0;

  const legend = make("div", "echo-stage-legend", root);
  const states = new States(model.get("states"));
  const timeline = new Timeline(root, states, choose);
  const foot = make("footer", "echo-stage-foot", root);
  const find = make("input", "echo-stage-find", foot);
  find.type = "search";
  find.placeholder = "find a client";
  find.setAttribute("aria-label", "find a client: its lane is shown alone");
  const found = make("span", "echo-stage-found", foot);
  const stepOne = button("echo-stage-button", foot, "", "let only the thread of this client make its next call", () =>
    ask("step", { thread: chosen().thread }),
  );
  const thinned = make("span", "echo-stage-rest", foot);
  const back = make("span", "echo-stage-back", foot);
  const said = make("span", "echo-stage-rest", back, "look back");
  const slider = make("input", "echo-stage-slider", back);
  Object.assign(slider, { type: "range", min: "0", max: "0", step: "0.5", value: "0" });
  slider.setAttribute("aria-label", "look back: the moment that is shown");
  const toNow = button("echo-stage-button", back, "Now", "show what is now", () => lookAt(null));
  const choice = make("select", "echo-stage-button", make("label", "echo-stage-rest", foot, "the last "));
  choice.setAttribute("aria-label", "seconds that the timeline shows");
  for (const span of WINDOWS) make("option", "", choice, `${span} s`).value = String(span);
  choice.value = "30";
  const details = make("details", "echo-stage-table", foot);
  make("summary", "", details, "the connections in words");
  const table = make("table", "", make("div", "", details));
  const heads = make("tr", "", make("thead", "", table));
  for (const text of ["client", "waited", "what is known of it"]) make("th", "", heads, text).scope = "col";
  const rows = make("tbody", "", table);
  const told = make("div", "echo-stage-told", root); // to screen readers alone
  told.setAttribute("role", "status");

  let picture = emptyPicture();
  let history = new History();
  let complete = false; // the whole picture has come: before that, changes mean nothing
  let offset = Infinity; // the page's clock minus the kernel's: the smallest that was seen, because messages may be late
  let stands = null; // the time at which the picture stands still
  let past = null; // the time that is looked back at
  let moment = null; // what was seen then
  let heard = performance.now();
  let laidOut = ""; // the room for which the letters were chosen
  let crowd = false; // as the legend shows it
  let legendDue = true;
  let drawn = 0; // when the timeline was drawn last
  const news = new News();
  let stateTold = "";
  const screen = new FullScreen(outer, () => {
    say(full, screen.on ? "Leave" : "Full screen");
    drawHead();
    layOut();
  });

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
    say(note, now.note || screen.note);
    say(pause, now.stepping ? "Run" : "Step by step");
    say(freeze, now.frozen ? "Go on" : "Freeze");
    say(restart, now.running ? "Restart" : "Start");
    pause.disabled = stop.disabled = !now.running;
  }

  function drawLog(lines) {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    for (const [who, text] of lines) {
      const line = make("div", "", log);
      make("span", "echo-stage-rest", line, `${who} `);
      make("span", "", line, text);
    }
    while (log.childElementCount > KEPT_LINES) log.firstChild.remove();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  function drawMoving() {
    if (!complete) return;
    drawn = performance.now();
    drawBack();
    const lane = chosen();
    const only = (each) => (lane ? each === lane : isFound(each));
    const high = fitted() ? timeline.root.clientHeight : 0;
    timeline.draw(picture, past ?? time(), Number(choice.value), { only, high, past: past !== null });
    if (legendDue || timeline.crowd !== crowd) drawLegend(legend, picture, states, (crowd = timeline.crowd));
    legendDue = false;
    drawWaits(backlog, past ?? time());
  }

  // Whether the room has a height (full screen, a view of its own); else the stage is as high as it needs.
  function fitted() {
    return getComputedStyle(outer).getPropertyValue("--echo-stage-fitted") === "1";
  }

  function sizes() {
    const letter = parseFloat(getComputedStyle(root).fontSize);
    return fitted() ? [letter * 0.92, letter * 1.1, letter * 2.2] : [letter * 0.9, letter * 0.95, letter * 0.95];
  }

  function drawCode(anew) {
    const shown = moment ?? picture;
    if (shown.code) code.draw(shown.code, moment ? null : (thread) => ask("step", { thread }), sizes(), anew);
  }

  function drawQueue() {
    const shown = (moment ?? picture).backlog;
    if (shown) drawBacklog(backlog, shown, fitted() ? 1 : 6);
    drawWaits(backlog, past ?? time());
  }

  function layOut() {
    if (!complete || !outer.clientWidth) return;
    const { width, height } = outer.getBoundingClientRect();
    const letter = Math.max(12, Math.min(0.0155 * width, 0.0245 * height, 44));
    outer.style.setProperty("--echo-stage-letter", `${letter}px`);
    for (const size of [1, 0.9, 0.8, 0.7, 0.6]) {
      outer.style.setProperty("--echo-stage-board", String(size));
      if (!fitted() || board.offsetHeight < height * BOARD) break;
    }
    drawMoving();
    drawQueue();
    drawCode(true);
    log.scrollTop = log.scrollHeight;
  }

  function drawChange(change) {
    if (!moment) {
      say(words, picture.words);
      if (change.backlog) drawQueue();
      if (change.code) drawCode(false);
    }
    if (change.whole) log.replaceChildren();
    if (change.log) drawLog(change.log);
    if (change.lanes || change.gone || change.whole) {
      legendDue = true;
      if (details.open) drawTable(rows, picture);
      drawFound();
    }
    say(thinned, picture.thinned ? "There were more messages than a picture can show: not each has a mark." : "");
  }

  // -- one client of many ----------------------------------------------------------------------------------------------

  function isFound(lane) {
    return lane.name.toLowerCase().includes(find.value.trim().toLowerCase());
  }

  // The lane of that name, or the only one that is found; undefined while none is looked for.
  function chosen() {
    const text = find.value.trim().toLowerCase();
    if (!text) return undefined;
    const lanes = [...picture.lanes.values()].filter(isFound);
    return lanes.findLast((lane) => lane.name.toLowerCase() === text) ?? (lanes.length === 1 ? lanes[0] : undefined);
  }

  function choose(lane) {
    if (!lane) return;
    find.value = chosen() === lane ? "" : lane.name;
    drawFound();
    drawMoving();
  }

  function drawFound() {
    const lane = chosen();
    const lasts = lane?.since && lane.ended == null ? `${states.get(lane.since[0]).words} · ` : "";
    const many = () => `${[...picture.lanes.values()].filter(isFound).length} found`;
    say(found, lane ? `${lane.name}: ${lasts}${lane.words}` : find.value.trim() ? many() : "");
    stepOne.hidden = !(lane?.since?.[0] === "paused" && lane.thread);
    say(stepOne, lane ? `Step ${lane.name}'s thread` : "");
  }

  // -- looking back ----------------------------------------------------------------------------------------------------

  function lookAt(when) {
    const at = when === null ? null : history.at(when);
    past = at ? Math.min(when, at.until) : null;
    const changed = moment !== at;
    moment = at;
    outer.dataset.past = String(moment !== null);
    say(printed, moment ? "what it printed until now" : "what it printed");
    if (changed) {
      say(words, (moment ?? picture).words);
      drawQueue();
      drawCode(false);
    }
    drawMoving();
  }

  function drawBack() {
    const first = history.moments[0]?.from ?? 0;
    const length = Math.min(LOOK_BACK, Math.max(0, time() - first));
    if (past !== null && past < time() - LOOK_BACK - 1) return lookAt(time() - LOOK_BACK); // older ones are not kept
    const ago = past === null ? 0 : time() - past;
    slider.min = String(-Math.ceil(length));
    slider.value = String(-ago);
    slider.disabled = length < 1;
    slider.setAttribute("aria-valuetext", past === null ? "now" : `${Math.round(ago)} s ago`);
    say(said, past === null ? "look back" : `looking back: ${Math.round(ago)} s ago`);
    toNow.disabled = past === null;
  }

  // -- what comes ------------------------------------------------------------------------------------------------------

  function hear(message) {
    if (!message || !message.picture) return;
    heard = performance.now();
    now = message.head;
    const change = message.picture;
    if (change.whole) {
      if (change.run !== picture.run) {
        history = new History();
        lookAt(null);
      }
      picture = Object.assign(emptyPicture(), { run: change.run });
      offset = Infinity;
      complete = true;
    } else if (complete) news.hear(picture, change);
    if (complete && "now" in change) {
      takeIn(picture, change);
      history.add(picture);
      if (!now.frozen) offset = Math.min(offset + 0.0005, performance.now() / 1000 - change.now);
      drawChange(change);
    }
    if ("board" in change) {
      drawBoard(board, change.board);
      layOut();
    }
    stands = now.frozen || picture.stopped ? picture.now : null;
    drawHead();
    drawMoving();
  }

  function tell() {
    const words = state.textContent.startsWith("no news") ? "no news from the kernel" : state.textContent;
    const happened = [words === stateTold ? "" : words, news.tell()].filter(Boolean);
    stateTold = words;
    if (happened.length) say(told, happened.join(". "));
  }

  function keys(event) {
    if (event.key === "Escape") {
      event.stopPropagation();
      if (screen.on) return screen.leave();
      document.activeElement.blur();
      return cellAround(el)?.focus();
    }
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (event.target.closest("input, select, textarea")) return;
    if (event.key === " " && event.target.closest("button, summary")) return; // which it presses
    const pressed = { s: step, f: freeze, " ": pause }[event.key.toLowerCase()];
    if (!pressed) return;
    event.preventDefault();
    event.stopPropagation();
    pressed.click();
  }

  outer.addEventListener("keydown", keys);
  model.on("msg:custom", hear);
  details.addEventListener("toggle", () => drawTable(rows, picture));
  choice.addEventListener("change", drawMoving);
  find.addEventListener("input", () => (drawFound(), drawMoving()));
  slider.addEventListener("input", () => lookAt(Number(slider.value) === 0 ? null : time() + Number(slider.value)));
  const sight = whileSeen(outer, () => ask("look"));
  const telling = setInterval(tell, TELLING);
  const moving = setInterval(() => {
    if (!sight.seen()) return;
    drawHead();
    if (code.late) drawCode(false);
    if (stands === null && performance.now() - drawn > MOVING * 0.9) drawMoving(); // news draw it, too
  }, MOVING);
  const resized = new ResizeObserver(() => {
    // What the code itself has changed is no new room for it.
    const room = [outer.clientWidth, fitted() && outer.clientHeight, fitted() && code.root.clientHeight].join();
    if (room === laidOut && code.fits()) return;
    laidOut = room;
    layOut();
  });
  for (const each of [outer, code.root, timeline.root]) resized.observe(each);
  ask("hello");
  drawHead();
  drawFound();
  return () => {
    model.off("msg:custom", hear);
    sight.end();
    resized.disconnect();
    screen.end();
    for (const each of [telling, moving]) clearInterval(each);
  };
}

export default { initialize: leaveAtTheEnd, render: withNote(render) };
