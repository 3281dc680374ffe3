"""How long a click in the classroom or on its stage takes to be answered, while a class of 300 talks."""

import re
from statistics import median, quantiles

from ..lab import OnPage

AIM = 150  # milliseconds, for 95 of 100 clicks
CLICKS, STUDENTS, SECONDS = 30, 300, 90  # longer than the clicks take
CELL = """import echo_kit
server = echo_kit.start(echo_kit.serve_threaded)
room = echo_kit.Classroom(server, echo_kit.serve_single)
room"""
PRESS = """(button) => new Promise((resolve) => {
    const [began, before] = [performance.now(), button.textContent];
    const observer = new MutationObserver(() => {
        if (button.textContent === before) return;
        observer.disconnect();
        resolve(performance.now() - began);
    });
    observer.observe(button, { subtree: true, childList: true, characterData: true });
    button.click();
})"""
BUTTONS = {
    "the address on the stage": ("classroom of serve_threaded", r"the address"),
    "freeze the stage": ("server serve_threaded", r"^(Freeze|Go on)$"),
}


def test_a_click_is_answered_while_300_talk(notebook):
    book = notebook(CELL, "echo_kit.ServerPanel(server)")
    book.run_all()
    panels = {what: OnPage(book.page, ".jp-Notebook", label) for what, (label, _) in BUTTONS.items()}
    book.execute(f"report = room.rehearse({STUDENTS}, {SECONDS})")
    room = panels["the address on the stage"]
    room.until("(root, words) => root.textContent.includes(words)", f"{STUDENTS} of {STUDENTS} connected")
    before = book.execute("print(report.count('right'))")
    times = {what: [] for what in BUTTONS}
    for _ in range(CLICKS):
        for what, (_, name) in BUTTONS.items():
            button = panels[what].root.locator("button").filter(has_text=re.compile(name)).first
            times[what].append(button.evaluate(PRESS))
    talked = int(book.execute("print(report.count('right'))")) - int(before)
    book.execute("report.stop()")
    late = {what: quantiles(took, n=20)[-1] for what, took in times.items()}
    for what, took in times.items():
        print(f"{what}: median {median(took):.0f} ms, 95th percentile {late[what]:.0f} ms, most {max(took):.0f} ms")
    print(f"meanwhile {talked} messages were echoed")
    assert talked > 0
    assert max(late.values()) <= 2 * AIM
