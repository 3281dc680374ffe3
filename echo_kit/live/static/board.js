// What a classroom has pinned to the stage (see echo_kit/live/board.py): a question or an address, large, and bars.

const PICTURE = "data:image/svg+xml"; // the only kind of picture that a board may have

function drawBoard(root, board) {
  root.replaceChildren();
  root.hidden = !board;
  if (!board) return;
  const text = make("div", "echo-stage-board-text", root);
  make("h4", "echo-stage-board-title", text, board.title);
  for (const line of board.lines ?? []) make("div", "echo-stage-board-line", text, line);
  drawVotes(text, board);
  if (!board.qr?.startsWith(PICTURE)) return;
  const picture = make("img", "echo-stage-qr", root);
  picture.alt = `QR code: ${board.title}`;
  picture.src = board.qr;
}

// One row for each option: its words, and a bar for each vote that is shown.
function drawVotes(root, { options = [], rounds = [], truth = null }) {
  const list = options.length ? make("ul", "echo-stage-options", root) : null;
  const shown = rounds.filter((round) => round.counts);
  options.forEach((option, i) => {
    const row = make("li", i === truth ? "echo-stage-true" : "", list);
    make("span", "echo-stage-option", row, `${option}${i === truth ? "  ✓ this happened" : ""}`);
    for (const { label, counts } of shown) {
      const all = counts.reduce((sum, count) => sum + count, 0);
      const share = all ? counts[i] / all : 0;
      const bar = make("span", "echo-stage-bar", row);
      const filled = make("i", "", make("span", "echo-stage-track", bar));
      filled.style.width = `${100 * share}%`;
      make("span", "echo-stage-share", bar, `${label}: ${counts[i]} (${Math.round(100 * share)} %)`);
    }
  });
  for (const { label, votes } of rounds.filter((round) => !round.counts)) {
    make("div", "echo-stage-board-line", root, `${label}: ${votes} ${votes === 1 ? "vote" : "votes"}, not shown yet`);
  }
}

