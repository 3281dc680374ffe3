// What the page knows of a server: the picture that the kernel sends, what it was in the last two minutes, and what of
// it a screen reader is told.

const KEPT_STRETCHES = 200; // of a lane, as the kernel keeps them
const KEPT_MARKS = 100;
const LOOK_BACK = 120; // seconds that can be looked back at
const KEPT_MOMENTS = 1200; // of code, backlog and words
const NAMED = 3; // clients that are told by name at once

function emptyPicture() {
  const facts = { stopped: false, thinned: false, since: 0, now: 0 };
  return { words: "", code: null, backlog: null, lanes: new Map(), ...facts };
}

function takeIn(picture, change) {
  for (const name of ["words", "code", "backlog", "stopped", "thinned", "since", "now"]) {
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
}

function seconds(time) {
  if (time < 0.001) return `${Math.round(time * 1e6)} µs`;
  if (time < 1) return `${Math.round(time * 1e3)} ms`;
  return time < 10 ? `${time.toFixed(1)} s` : `${Math.round(time)} s`;
}

// Code, backlog and words as this page has seen them: each with the time from which and until which it saw them so.
class History {
  constructor() {
    this.moments = [];
  }

  add({ now, code, backlog, words }) {
    const last = this.moments.at(-1);
    if (last?.code === code && last.backlog === backlog && last.words === words) last.until = now;
    else this.moments.push({ from: now, until: now, code, backlog, words });
    while (this.moments.length > KEPT_MOMENTS || this.moments[0].until < now - LOOK_BACK) this.moments.shift();
  }

  // What was seen at that time; while nobody looked, what was seen last before.
  at(time) {
    return this.moments.findLast((moment) => moment.from <= time) ?? this.moments[0];
  }
}

// What has happened to clients, in words: who came, was accepted, left. Several are told at once, many are counted.
class News {
  constructor() {
    this.happened = { came: [], "was accepted": [], left: [] };
  }

  // `change` is about to be taken into `picture`.
  hear(picture, change) {
    for (const lane of change.lanes ?? []) {
      const before = picture.lanes.get(lane.id) ?? {};
      const name = lane.name ?? before.name;
      const gone = (each) => (each.left ?? each.ended) != null;
      if (before.id === undefined) this.happened.came.push(name);
      if (before.accepted == null && lane.accepted != null) this.happened["was accepted"].push(name);
      if (!gone(before) && gone(lane)) this.happened.left.push(name);
    }
  }

  // All since the last time, "" for nothing.
  tell() {
    const told = [];
    for (const [what, names] of Object.entries(this.happened)) {
      if (names.length > NAMED) told.push(`${names.length} clients: ${what}`);
      else told.push(...names.map((name) => `${name} ${what}`));
      names.length = 0;
    }
    return told.join(", ");
  }
}

