// The stage's code, with a mark where each thread stands, and its backlog; both as much as there is room for.

const AROUND = [Infinity, 8, 5, 3, 2, 1, 0]; // lines on both sides of a mark that are shown, where not all have room
const CALM = 5000; // milliseconds for which the letters do not grow
const SPARE = 20; // times as long as the last search for a size took, nobody searches again
const WIDE = 0.61; // of a letter of code, its width by its size

// -- where each thread stands ------------------------------------------------------------------------------------------

// Draws the code into `root` in as large letters as there is room for, between `sizes` [least, good, most] in pixels.
// Where they would be smaller than good, only the lines around the marks are shown.
class Code {
  constructor(root) {
    this.root = root;
    this.around = Infinity;
    this.size = 0;
    this.fitted = -CALM;
    this.took = 0; // milliseconds, the last search for a size
    this.late = false; // it does not fit, and is to be drawn again soon
  }

  draw(code, step, sizes, anew = false) {
    const { root } = this;
    const before = new Map(); // where each thread's mark is now, so that it can be seen to move
    for (const chip of root.querySelectorAll("[data-thread]")) {
      before.set(chip.dataset.thread, chip.getBoundingClientRect());
    }
    // A thread's mark keeps the focus of the keyboard although it is made anew.
    const focused = root.contains(document.activeElement) ? document.activeElement.dataset.thread : undefined;
    this.fit(code, step, sizes, anew);
    const here = root.querySelector(".echo-stage-here");
    if (here && !this.fits()) root.scrollTop += middleOf(here) - middleOf(root);
    const chips = [...root.querySelectorAll("[data-thread]")];
    if (focused !== undefined) {
      const next = chips.find((chip) => chip.dataset.thread === focused) ?? root;
      if (next.tabIndex < 0) next.tabIndex = -1; // no button now: it has the focus all the same, but Tab passes it by
      next.focus({ preventScroll: true });
    }
    if (anew || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const chip of chips) {
      const old = before.get(chip.dataset.thread);
      const place = chip.getBoundingClientRect();
      if (!old || (old.x === place.x && old.y === place.y)) continue;
      const from = `translate(${old.x - place.x}px, ${old.y - place.y}px)`;
      chip.animate([{ transform: from }, { transform: "none" }], { duration: 180, easing: "ease-out" });
    }
  }

  fit(code, step, [least, good, most], anew) {
    writeCode(this.root, code, step, this.around);
    const fits = this.fits();
    const early = !anew && performance.now() - this.fitted < (fits ? CALM : SPARE * this.took);
    this.late = early && !fits;
    if (early) return;
    this.fitted = performance.now();
    for (const around of AROUND) {
      if (around !== this.around) writeCode(this.root, code, step, (this.around = around));
      this.resize(around > 1 ? good : least); // a mark without the lines beside it says less
      if (this.fits()) break;
    }
    const lines = code.functions.flatMap((each) => near(each.lines, this.around));
    const columns = Math.max(...lines.map((line) => line?.[0].length ?? 0), 1);
    const unbroken = Math.floor(this.root.clientWidth / WIDE / (columns + 3)); // larger letters would break lines
    let [low, high] = [this.size, this.fits() ? Math.max(good, Math.min(most, unbroken)) : least];
    while (high - low > 0.5) {
      this.resize((low + high) / 2);
      if (this.fits()) low = this.size;
      else high = this.size;
    }
    this.resize(low);
    this.took = performance.now() - this.fitted;
  }

  fits() {
    return this.root.scrollHeight <= this.root.clientHeight + 1;
  }

  resize(size) {
    this.size = size;
    this.root.style.fontSize = `${size}px`;
  }
}

function middleOf(node) {
  const { top, bottom } = node.getBoundingClientRect();
  return (top + bottom) / 2;
}

function writeCode(root, code, step, around) {
  root.replaceChildren();
  make("h4", "echo-stage-title", root, code.title);
  for (const { name, lines } of code.functions) {
    const block = make("div", "echo-stage-function", root);
    if (name) make("div", "echo-stage-rest", block, `# ${name}`);
    for (const line of near(lines, around)) {
      const row = make("div", "echo-stage-line", block);
      const text = make("span", "echo-stage-text", row);
      const written = line === null ? "…" : line[0] || " ";
      const code = written.trimStart();
      make("span", "", text, written.slice(0, written.length - code.length)); // a long line is broken behind it
      make("span", "", text, code);
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
}

// The first line and those at most `around` away from a mark. For what is left out there is null, where there is room.
function near(lines, around) {
  const marked = lines.flatMap((line, i) => (line?.[1].length ? [i] : []));
  const close = lines.map((_, i) => i === 0 || marked.some((mark) => Math.abs(mark - i) <= around));
  if (around === 0) return lines.filter((line, i) => close[i] && line);
  const kept = (i) => close[i] || (close[i - 1] && (close[i + 1] ?? true)); // one line takes no more room than "…"
  return lines.map((line, i) => (kept(i) ? line : null)).filter((line, i, all) => line || i === 0 || all[i - 1]);
}

function drawMark(row, [kind, sign, thread, words], step) {
  const text = `${sign} ${thread ? `${thread}: ` : ""}${words}`;
  if (kind === "paused" && thread && step) {
    const title = `let only ${thread} make its next call`;
    const chip = button("echo-stage-mark echo-stage-paused", row, `${text} ▸`, title, () => step(thread));
    chip.dataset.thread = thread;
    return;
  }
  const chip = make("span", `echo-stage-mark echo-stage-${kind}`, row, text);
  if ((kind === "stands" || kind === "paused") && thread) chip.dataset.thread = thread;
}

// -- who waits ---------------------------------------------------------------------------------------------------------

// Of more than there is room for, the first are shown, at least so many, and the others counted.
function drawBacklog(root, backlog, least) {
  writeBacklog(root, backlog, backlog.told);
  const full = () => root.scrollHeight > root.clientHeight + 1;
  for (let told = backlog.told - 1; told >= least && full(); told--) writeBacklog(root, backlog, told);
}

function writeBacklog(root, { title, listens, rows, notes, told, waiting }, kept) {
  root.replaceChildren();
  make("h4", "echo-stage-title", root, title);
  const queue = make("div", "echo-stage-queue", root);
  if (listens) make("span", "echo-stage-door", queue, "accept ◀");
  const counted = [[`and ${waiting - kept} more`, "", null], ...rows.slice(told + (waiting > told ? 1 : 0))];
  const others = kept < told ? counted : rows.slice(kept);
  for (const [name, said, since] of [...rows.slice(0, kept), ...others]) {
    const box = make("div", "echo-stage-waiting", queue);
    make("strong", "", box, name);
    make("span", "", box, said);
    if (since === null) continue;
    const waits = make("span", "echo-stage-since", box, "waits");
    waits.dataset.since = String(since);
  }
  if (listens && !rows.length) make("span", "echo-stage-rest", queue, "(empty)");
  for (const note of notes) make("div", "echo-stage-rest", root, note);
}

function drawWaits(root, now) {
  for (const node of root.querySelectorAll("[data-since]")) {
    node.textContent = `waits ${seconds(Math.max(0, now - Number(node.dataset.since)))}`;
  }
}

