"""How long it takes from Enter or Send in a client panel to the echo on the page, against ipywidgets' Text and Label.

Beside a stage with fifty connections that talk, too, and without. The peer does less: its line goes to the kernel and
comes back in a Label, with no server, socket or thread behind it. All are measured in the page, one after the other,
from the key's or the click's event to the change of the document.
"""

from contextlib import nullcontext
from statistics import median, quantiles

import pytest

from .swarm import Swarm

MESSAGES = 40  # each; beside a stage one takes half a second on a machine without a graphics card
AIM = 1.5  # times as long as the peer's
CONNECTIONS, RATE = 50, 50  # beside the panel, and their messages a second
CELL = """import echo_kit, ipywidgets
server = echo_kit.start(echo_kit.serve_threaded)
line, answer = ipywidgets.Text(continuous_update=False), ipywidgets.Label()
line.observe(lambda change: setattr(answer, "value", change.new), "value")
display(echo_kit.ClientPanel(server, name="alice"), line, answer)"""
STAGE = "\ndisplay(echo_kit.ServerPanel(server))"

# Milliseconds from the event, Enter or a click, to when the last text of what `shows` finds is what `line` held.
WATCH = """([what, pressed, line, shows]) => {
    document.querySelector(pressed).addEventListener(what, (event) => {
        if (what === "keydown" && event.key !== "Enter") return;
        const [began, expected] = [performance.now(), document.querySelector(line).value];
        const shown = () => [...document.querySelectorAll(shows)].at(-1)?.textContent.endsWith(expected);
        const observer = new MutationObserver(() => {
            if (!shown()) return;
            observer.disconnect();
            (window.__took ??= []).push(performance.now() - began);
        });
        observer.observe(document.body, { subtree: true, childList: true, characterData: true });
    }, { capture: true });
}"""
LINE, RECEIVED = ".jp-Notebook .echo-client-line", ".jp-Notebook .echo-client-received"
TEXT, LABEL = ".jp-Notebook .widget-text input", ".jp-Notebook .widget-label:not(.widget-text *)"
SEND = ".jp-Notebook .echo-client-send"
WAYS = {
    "Enter in the panel": ("keydown", LINE, LINE, RECEIVED),
    "Send in the panel": ("click", SEND, LINE, RECEIVED),
    "ipywidgets' Text and Label": ("keydown", TEXT, TEXT, LABEL),
}


@pytest.mark.parametrize("beside", ["", STAGE], ids=["alone", "beside a stage"])
def test_from_enter_or_send_to_the_echo_on_the_page(notebook, beside):
    book = notebook(CELL + beside)
    book.run_all()
    book.panel("alice").is_("being served")
    for way in WAYS.values():
        book.page.locator(way[1]).wait_for()
        book.page.evaluate(WATCH, list(way))
    times = {name: [] for name in WAYS}
    with Swarm(book.execute("print(server.address[1])"), CONNECTIONS) if beside else nullcontext() as swarm:
        if swarm:
            book.page.locator(".echo-stage-words").get_by_text(f"{CONNECTIONS + 1} served").wait_for()
            swarm.begin(RATE * 600, RATE)  # longer than the test takes
        for number in range(MESSAGES):
            for name, (what, pressed, line, _) in WAYS.items():
                book.page.locator(line).fill(f"{name} {number:02}")
                if what == "click":
                    book.page.locator(pressed).click()
                else:
                    book.page.locator(pressed).press("Enter")
                times[name].append(book.page.wait_for_function("window.__took?.pop()").json_value())
    for name, took in times.items():
        print(f"{name}: median {median(took):.1f} ms, 95th percentile {quantiles(took, n=20)[-1]:.1f} ms")
    *ours, peer = map(median, times.values())
    print("times as long:", *(f"{each / peer:.2f}" for each in ours))
    assert max(ours) <= peer * 2 * AIM
