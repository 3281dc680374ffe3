// The classroom's page side: where phones join, the vote, the phones, and the buttons. All that came from the kernel goes
// in as text, never as HTML; the QR code is a picture. The kernel sends {news}: what has changed of what is shown.

const ANSWERED_WITHIN = 5000; // milliseconds; a kernel that has not answered a button by then is busy, or gone

function render({ model, el }) {
  const name = model.get("name");
  const root = make("section", "echo-room", el);
  root.setAttribute("aria-label", `classroom of ${name}`);
  root.dataset.lmSuppressShortcuts = "true"; // what is pressed here is no JupyterLab command
  let waiting; // the timer of a button that has no answer yet

  function ask(what, more = {}) {
    model.send({ do: what, ...more });
    if (what === "find") return;
    clearTimeout(waiting);
    waiting = setTimeout(() => say(note, "The kernel has not answered yet."), ANSWERED_WITHIN);
  }

  // -- where phones join ---------------------------------------------------------------------------------------------

  const join = make("div", "echo-room-join", root);
  const code = make("img", "echo-room-code", join);
  code.hidden = true;
  const beside = make("div", "echo-room-beside", join);
  make("h4", "echo-room-title", beside, `Join ${name} with your phone:`);
  const url = make("strong", "echo-room-url", beside);
  const count = make("div", "echo-room-count", beside);
  const notes = make("div", "echo-room-notes", beside);

  const tools = make("div", "echo-room-tools", root);
  tools.setAttribute("role", "toolbar");
  tools.setAttribute("aria-label", `what to do with the classroom of ${name}`);
  const joins = button("echo-room-button", tools, "Show the address on the stage", "large, in the place of the vote", () => ask("join"));
  const serves = make("span", "echo-room-serves", tools);
  const change = button("echo-room-button", tools, "Change", "another function serves, at the same port", () => ask("change"));
  const said = make("div", "echo-room-said", root);
  said.setAttribute("role", "status");
  const note = make("div", "echo-room-note", root);
  note.setAttribute("role", "alert");

  // -- the vote ------------------------------------------------------------------------------------------------------

  const vote = make("div", "echo-room-vote", root);
  vote.hidden = true;
  make("h4", "echo-room-title", vote);
  const voted = make("div", "echo-room-voted", vote);
  const bars = make("div", "echo-room-bars", vote);
  const voting = make("div", "echo-room-tools", vote);
  const open = button("echo-room-button", voting, "Close the vote", "no vote can be given or changed then", () => ask("vote"));
  const show = button("echo-room-button", voting, "Show the votes", "close the vote, and show the bars to all", () => ask("show"));
  const again = button("echo-room-button", voting, "Vote again", "after the discussion, beside the first vote", () => ask("again"));

  // -- the phones ----------------------------------------------------------------------------------------------------

  const phones = make("details", "echo-room-phones", root);
  const summary = make("summary", "", phones, "the phones");
  const find = make("input", "echo-room-input", make("label", "", phones, "find a name "));
  find.maxLength = 40;
  find.addEventListener("input", () => ask("find", { name: find.value }));
  const other = "a phone, or a client that is not in this list, like nc";
  button("echo-room-button", phones, "Show out by name", other, () => find.value && ask("out by name", { name: find.value }));
  const table = make("table", "", phones);
  const heads = make("tr", "", make("thead", "", table));
  for (const text of ["phone", "where it is", "trouble"]) make("th", "", heads, text).scope = "col";
  make("td", "", heads); // above the buttons, which say themselves what they do
  const body = make("tbody", "", table);
  const rest = make("div", "echo-room-rest", phones);
  const rows = new Map(); // by the phone's id: a row that stays where it is can be clicked

  // -- the rehearsal -------------------------------------------------------------------------------------------------

  const rehearsal = make("div", "echo-room-tools", root);
  const number = make("input", "echo-room-input", make("label", "", rehearsal, "a class of "));
  Object.assign(number, { type: "number", min: 1, max: 1000, value: 30 });
  const rehearse = button("echo-room-button", rehearsal, "Rehearse", "simulated students from other processes, for 20 seconds", () => {
    if (runs) ask("stop");
    else if (number.reportValidity()) ask("rehearse", { students: number.valueAsNumber });
  });
  const went = make("span", "echo-room-rest", rehearsal);
  let runs = false;

  // -- what has changed ----------------------------------------------------------------------------------------------

  const draw = {
    address({ url: text, qr, notes: lines }) {
      say(url, text);
      code.hidden = !qr.startsWith("data:image/svg+xml");
      if (!code.hidden) code.src = qr;
      code.alt = `QR code of ${text}`;
      notes.replaceChildren();
      for (const line of lines) make("div", "", notes, line);
    },
    phones(now) {
      say(count, `${now} joined`);
      say(summary, `the phones: ${now}`);
    },
    serves: (text) => say(serves, text && `now: ${text}`),
    other(text) {
      change.hidden = !text;
      say(change, `Change to ${text}`);
    },
    doing(text) {
      say(said, text && `${text} …`);
      change.disabled = rehearse.disabled = Boolean(text);
    },
    note: (text) => say(note, text),
    joins: (on) => say(joins, on ? "Take the address from the stage" : "Show the address on the stage"),
    ballot: drawBallot,
    rows: drawRows,
    found(now) {
      const left = now - body.children.length;
      say(rest, left > 0 ? `… and ${left} more: type a part of the name` : "");
    },
    rehearsal({ words, running }) {
      runs = running;
      say(went, words);
      say(rehearse, running ? "Stop the rehearsal" : "Rehearse");
    },
  };

  function drawBallot(ballot) {
    vote.hidden = !ballot;
    if (!ballot) return;
    say(vote.firstChild, ballot.title);
    say(voted, ballot.lines.join(" "));
    say(open, ballot.open ? "Close the vote" : "Open the vote");
    open.hidden = ballot.rounds.at(-1).counts !== null;
    show.hidden = ballot.rounds.every((each) => each.counts);
    say(again, ballot.over ? "Ask it anew" : "Vote again");
    again.hidden = ballot.rounds.length > 1 && !ballot.over;
    bars.replaceChildren();
    ballot.options.forEach((option, place) => {
      const true_ = ballot.truth === place;
      const row = make("div", "echo-room-option", bars, `${true_ ? "✔ " : ""}${option}${true_ ? ": what happened" : ""}`);
      row.dataset.true = String(true_);
      for (const { label, votes, counts } of ballot.rounds) {
        if (!counts) continue;
        const line = make("div", "echo-room-bar", row);
        const part = votes ? counts[place] / votes : 0;
        make("i", "", line).style.width = `${Math.round(part * 60)}%`;
        make("span", "", line, `${label}: ${counts[place]} (${Math.round(part * 100)} %)`);
      }
    });
  }

  function drawRows(list) {
    const ids = new Set(list.map(([id]) => id));
    for (const [id, row] of rows) {
      if (ids.has(id)) continue;
      row.remove();
      rows.delete(id);
    }
    list.forEach(([id, who, words, trouble], place) => {
      if (!rows.has(id)) {
        const row = document.createElement("tr");
        for (let cell = 0; cell < 4; cell++) make("td", "", row);
        button("echo-room-button", row.lastChild, "Show out", `end the connection of ${who}, who may not come back`, () =>
          ask("out", { phone: id }),
        ).setAttribute("aria-label", `Show out ${who}`);
        rows.set(id, row);
      }
      const row = rows.get(id);
      [who, words, trouble].forEach((text, cell) => say(row.children[cell], text));
      row.dataset.trouble = String(Boolean(trouble));
      if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null);
    });
  }

  function hear({ news }) {
    if (!news) return;
    if ("done" in news) clearTimeout(waiting);
    for (const [what, value] of Object.entries(news)) draw[what]?.(value);
  }

  const sight = whileSeen(root, () => model.send({ do: "look" }));
  escapeLeaves(root);
  model.on("msg:custom", hear);
  ask("hello");
  return () => {
    sight.end();
    clearTimeout(waiting);
    model.off("msg:custom", hear);
  };
}

export default { initialize: leaveAtTheEnd, render: withNote(render) };
