// The prediction's page side: a question with radio buttons. Text goes in as text, never as HTML.
// It knows the options' texts, and not which of them will come true.

const NOTED_WITHIN = 10_000; // milliseconds; a kernel that has not answered by then is gone, or takes all in order

let views = 0;

function render({ model, el }) {
  let asked; // the option that was chosen here, until the kernel has it
  let goingOn; // the timer of a Shift+Enter that waits for that
  const root = make("fieldset", "echo-prediction", el);
  const legend = make("legend", "echo-prediction-question", root);
  make("strong", "", legend, "Predict: ");
  make("span", "", legend, model.get("question"));
  const group = `echo-prediction-${++views}-${Math.random().toString(36).slice(2)}`; // each view chooses by itself
  const radios = model.get("options").map((text, option) => {
    const label = make("label", "echo-prediction-option", root);
    const radio = make("input", "echo-prediction-radio", label);
    radio.type = "radio";
    // So that the arrow keys choose, and do not leave for the next cell. Not on what is around it: JupyterLab takes a
    // key for its own at the element that has the focus, unless that can be typed into.
    radio.dataset.lmSuppressShortcuts = "true";
    radio.name = group;
    make("span", "", label, text);
    radio.addEventListener("change", () => {
      asked = option;
      said.textContent = "Not noted yet."; // until the kernel has it: a comparison knows only that
      model.send({ do: "choose", option });
    });
    return radio;
  });
  const said = make("p", "echo-prediction-said", root);
  said.setAttribute("role", "status");

  function draw() {
    const choice = model.get("choice");
    const compared = model.get("compared");
    const option = model.get("options")[choice];
    radios.forEach((radio, i) => {
      radio.checked = i === choice;
    });
    root.disabled = compared;
    if (compared && option === undefined) {
      said.textContent = "You made no prediction. To make one, run this cell again, and choose before you go on.";
    } else if (compared) said.textContent = `You predicted: ${option}`;
    else if (option === undefined) said.textContent = "Choose first, then run the next cell.";
    else said.textContent = "Noted. You can change it until you have seen what happens.";
    if (choice === asked) asked = undefined;
    if (goingOn && asked === undefined) goOn();
  }

  function goOn() {
    clearTimeout(goingOn);
    goingOn = undefined;
    const experiment = codeCellBelow(root);
    if (experiment) pressShiftEnter(experiment);
  }

  // After a choice Shift+Enter runs the experiment, not the question again; the kernel may take the choice later than a
  // cell that is run after it, so it waits for that.
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.shiftKey || !radios.some((radio) => radio.checked)) return;
    if (!codeCellBelow(root)) return; // in a view of its own, or not in JupyterLab
    event.preventDefault();
    event.stopPropagation();
    if (asked === undefined) goOn();
    else goingOn ??= setTimeout(goOn, NOTED_WITHIN);
  });
  escapeLeaves(root);

  model.on("change:choice change:compared", draw);
  draw();
  model.send({ do: "hello" });
  return () => {
    clearTimeout(goingOn);
    model.off("change:choice change:compared", draw);
  };
}

export default { initialize: leaveAtTheEnd, render: withNote(render) };
