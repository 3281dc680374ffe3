// The stage's timeline, on a canvas: one lane for each connection or, of a crowd, how many were served and waited.

const EDGE = "#1A1A1A"; // around and on hatched bars

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
    .filter((lane) => (cameAt(lane) ?? 0) <= end && (lane.ended ?? end) >= begin)
    .sort((one, other) => one.id - other.id);
}

function cameAt(lane) {
  return lane.connecting ?? lane.connected ?? lane.accepted;
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

// In which state a lane is at a time; undefined before and after it.
function stateAt(lane, time) {
  return stretchesOf(lane, time).findLast(([, from, until]) => from <= time && time <= until)?.[0];
}

// How many clients wait and how many are served, each time that it changes: [time, waiting, served].
function countsOf(lanes, end) {
  const changes = [];
  const count = (from, until, waiting, served) => {
    if (from == null || from > end) return;
    changes.push([from, waiting, served]);
    if (until != null && until <= end) changes.push([until, -waiting, -served]);
  };
  for (const lane of lanes) {
    const gone = lane.left == null ? lane.ended : Math.min(lane.left, lane.ended ?? Infinity);
    count(lane.connected, lane.accepted ?? gone, 1, 0);
    count(lane.accepted, gone, 0, 1);
  }
  changes.sort((one, other) => one[0] - other[0]);
  let [waiting, served] = [0, 0];
  return changes.map(([time, more, others]) => [time, (waiting += more), (served += others)]);
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

const THINNEST = 3; // pixels of a lane: where there is room for less, the crowd is counted
const WIDEST = 2.8; // letters of a lane
const ROOM = 17; // letters of all lanes, where the stage may be as high as it likes
const CROWDED = 11; // the same, of a crowd
const AXIS = 2.2;

class Timeline {
  constructor(parent, states, choose = () => {}) {
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
    this.room = ROOM;
    this.crowd = false; // whether there were too many for lanes, when it was drawn
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    this.canvas.addEventListener("click", (event) => choose(this.rowAt(event)?.lane));
  }

  // Draws the last `span` seconds before `now`. `only`: of which lanes; `high`: in how many pixels, else as it needs;
  // `past`: `now` is a moment that is over, of which the newest words say nothing.
  draw(picture, now, span, { only = () => true, high = 0, past = false } = {}) {
    const { canvas, context } = this;
    const style = getComputedStyle(this.root);
    const letter = parseFloat(style.fontSize);
    const ink = style.color;
    const end = Math.max(now, span);
    const begin = end - span;
    const lanes = shownLanes(picture, begin, now).filter(only);
    const width = this.root.clientWidth;
    const room = high ? high - letter * AXIS : letter * this.room;
    const pitch = Math.min(letter * WIDEST, room / Math.max(1, lanes.length));
    const crowd = (this.crowd = pitch < THINNEST);
    const needed = crowd ? letter * CROWDED : Math.max(3, lanes.length * pitch);
    const height = Math.round(high || needed + letter * AXIS);
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
    if (crowd) this.drawCrowd(lanes, height - letter * AXIS, letter, ink, now, Math.max(begin, picture.since));
    else {
      lanes.forEach((lane, number) => {
        const top = number * pitch;
        this.rows.push({ lane, top, height: pitch });
        this.drawLane(lane, top, pitch, letter, ink, now, picture.stopped, past);
      });
    }
    this.drawNow(at(now), height, letter, ink, past ? "then" : picture.stopped ? "stopped" : "now");
    const words = past ? `${seconds(picture.now - now)} ago` : picture.words || "no connections";
    const label = `timeline: ${words}`;
    if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
  }

  // Of a crowd: how many are served and, above them, how many wait. What was before `since` is not known of all.
  drawCrowd(lanes, height, letter, ink, now, since) {
    const { context } = this;
    const { left, right, at } = this.scale;
    const counts = countsOf(lanes, now);
    const before = counts.findLast(([time]) => time <= since) ?? [since, 0, 0];
    const steps = [[since, before[1], before[2]], ...counts.filter(([time]) => time > since)];
    const most = steps.reduce((so, [, waiting, served]) => Math.max(so, waiting + served), 1);
    const top = letter * 1.3;
    const y = (count) => height - (count / most) * (height - top);
    const area = (name, low, high) => {
      const until = (i) => at(steps[i + 1]?.[0] ?? now);
      context.beginPath();
      steps.forEach((step, i) => [at(step[0]), until(i)].forEach((x) => context.lineTo(x, y(high(step)))));
      for (let i = steps.length - 1; i >= 0; i--) {
        for (const x of [until(i), at(steps[i][0])]) context.lineTo(x, y(low(steps[i])));
      }
      const { colour, hatch } = this.states.get(name);
      for (const style of hatch ? [colour, this.pattern(hatch)] : [colour]) {
        context.fillStyle = style;
        context.fill();
      }
    };
    area("in recv", () => 0, ([, , served]) => served);
    area("backlog", ([, , served]) => served, ([, waiting, served]) => served + waiting);
    const [, waiting, served] = steps.at(-1);
    context.fillStyle = ink;
    context.textAlign = "right";
    const labels = [["0", height - letter * 0.5], ["clients", (height + top) / 2], [`${most}`, top]];
    for (const [text, middle] of labels) context.fillText(text, left - letter * 0.5, middle);
    if (right > this.root.clientWidth - letter * 5) return;
    context.textAlign = "left";
    const low = Math.min(y(served / 2), height - letter * 0.7);
    context.fillText(`${served} served`, right + letter * 0.7, low);
    context.fillText(`${waiting} waiting`, right + letter * 0.7, Math.min(y(served + waiting / 2), low - letter * 1.4));
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

  drawLane(lane, top, pitch, letter, ink, now, stopped, past) {
    const { context } = this;
    const { left, right, at } = this.scale;
    const roomy = pitch >= letter * 2.4; // for the marks and their words above and below the bar
    const bar = roomy ? Math.min(letter * 1.15, pitch - letter * 1.75) : Math.max(2, Math.floor(pitch * 0.8));
    const y = Math.round(top + (pitch - bar) / 2); // whole pixels are drawn faster
    let colour = "";
    const middle = top + pitch / 2;
    for (const [name, from, until] of stretchesOf(lane, now)) {
      const state = this.states.get(name);
      const x = Math.max(left, at(from)); // cut here: to clip each lane takes longer than to draw it
      const wide = Math.min(right, at(Math.min(until, now))) - x;
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
      this.drawMarks(lane, y, bar, letter, ink, now);
      context.restore();
    }
    context.fillStyle = ink;
    if (pitch >= letter * 1.05) {
      context.textAlign = "right";
      context.fillText(this.fit(lane.name, left - letter * 0.7, letter), left - letter * 0.5, middle);
      const lasts = past ? stateAt(lane, now) : lane.since && !stopped && lane.ended == null && lane.since[0];
      const words = lasts ? this.states.get(lasts).words : past ? "" : lane.words;
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

  drawMarks(lane, y, bar, letter, ink, now) {
    const { context } = this;
    const { left, right, at } = this.scale;
    const size = letter * 0.36;
    context.fillStyle = context.strokeStyle = ink;
    context.lineWidth = 1.5;
    context.textAlign = "left";
    let next = right; // where the words of a message must end
    for (const [time, direction, words] of lane.marks.slice().reverse()) {
      const x = at(time);
      if (x < left || time > now) continue;
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

  drawNow(x, height, letter, ink, words) {
    const { context } = this;
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, height - letter * 1.8);
    context.stroke();
    context.textAlign = "center";
    const wide = context.measureText(words).width + letter * 0.6;
    context.fillStyle = ink;
    context.fillRect(x - wide / 2, height - letter * 1.6, wide, letter * 1.4);
    context.fillStyle = getComputedStyle(this.root).getPropertyValue("--jp-layout-color1") || "#fff";
    context.fillText(words, x, height - letter * 0.85);
  }

  rowAt(event) {
    return this.rows.find(({ top, height }) => event.offsetY >= top && event.offsetY < top + height);
  }

  hover(event) {
    const row = this.rowAt(event);
    this.canvas.style.cursor = row ? "pointer" : "";
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

function drawLegend(root, picture, states, crowd) {
  const lanes = [...picture.lanes.values()];
  const names = lanes.flatMap((lane) => [...lane.stretches, ...(lane.since ? [lane.since] : [])].map(([name]) => name));
  const counted = [states.get("backlog"), { ...states.get("in recv"), legend: "served" }];
  const shown = crowd ? counted : states.legend(names);
  const key = shown.map((state) => state.legend).join();
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
  if (crowd) return;
  make("span", "echo-stage-entry", root, "▼ client sends");
  make("span", "echo-stage-entry", root, "△ server answers");
}

