"""How long it takes from Enter in a client panel to the echo on the page, against ipywidgets' own Text and Label.

The peer does less: its line goes to the kernel and comes back in a Label, with no server, socket or thread behind it.
Both are measured in the page, one after the other, from the key's event to the change of the document.
"""

from statistics import median, quantiles

MESSAGES = 100  # each
AT_MOST = 1.5  # times as long as the peer's
CELL = """import echo_kit, ipywidgets
server = echo_kit.start(echo_kit.serve_threaded)
line, answer = ipywidgets.Text(continuous_update=False), ipywidgets.Label()
line.observe(lambda change: setattr(answer, "value", change.new), "value")
display(echo_kit.ClientPanel(server, name="alice"), line, answer)"""

# Milliseconds from Enter to when the last text of what `shows` finds is what was typed.
WATCH = """([line, shows]) => {
    const entered = (event) => {
        if (event.key !== "Enter") return;
        const [began, expected] = [performance.now(), event.target.value];
        const shown = () => [...document.querySelectorAll(shows)].at(-1)?.textContent.endsWith(expected);
        const observer = new MutationObserver(() => {
            if (!shown()) return;
            observer.disconnect();
            (window.__took ??= []).push(performance.now() - began);
        });
        observer.observe(document.body, { subtree: true, childList: true, characterData: true });
    };
    document.querySelector(line).addEventListener("keydown", entered, { capture: true });
}"""
PANEL = ".jp-Notebook .echo-client input", ".jp-Notebook .echo-client-received"
PEER = ".jp-Notebook .widget-text input", ".jp-Notebook .widget-label:not(.widget-text *)"


def test_from_enter_to_the_echo_on_the_page(notebook):
    book = notebook(CELL)
    book.run_all()
    book.panel("alice").is_("being served")
    times = {PANEL: [], PEER: []}
    for each in times:
        book.page.locator(each[0]).wait_for()
        book.page.evaluate(WATCH, list(each))
    for number in range(MESSAGES):
        for each, took in times.items():
            book.page.locator(each[0]).fill(f"message {number:02}")
            book.page.locator(each[0]).press("Enter")
            took.append(book.page.wait_for_function("window.__took?.pop()").json_value())
    for what, each in (("the panel", PANEL), ("ipywidgets' Text and Label", PEER)):
        print(f"{what}: median {median(times[each]):.1f} ms, 95th percentile {quantiles(times[each], n=20)[-1]:.1f} ms")
    ratio = median(times[PANEL]) / median(times[PEER])
    print(f"{ratio:.2f} times as long")
    assert ratio <= AT_MOST
