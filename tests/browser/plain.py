"""A stage in a page of its own, without JupyterLab: the page's own code, and a `ServerPanel` that it talks to."""

import queue
from contextlib import contextmanager, suppress

from echo_kit.live.panel import STATIC
from echo_kit.live.stage import TABLE, ServerPanel

LIMIT = 20  # seconds that anything may take before the test fails

HOST = """async ([source, names, tables, styles]) => {
    document.head.appendChild(document.createElement("style")).textContent = styles;
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const { default: widget } = await import(url);
    const heard = names.map((name, i) => {
        const listeners = [];
        const model = {
            get: (key) => ({ name, states: tables })[key],
            on: (event, call) => event === "msg:custom" && listeners.push(call),
            off: () => {},
            send: (message) => window.toKernel(i, message),
        };
        widget.initialize({ model });
        widget.render({ model, el: document.getElementById(`view${i}`) });
        return (message) => listeners.forEach((call) => call(message));
    });
    (async () => {
        for (;;) {
            for (const [i, message] of await window.fromKernel()) heard[i](message);
            await new Promise((done) => setTimeout(done, 20));
        }
    })();
}"""
# What JupyterLab's themes set, as far as the stage uses it.
THEMES = {
    "light": "",
    "dark": """:root { --jp-ui-font-color1: rgba(255, 255, 255, 1); --jp-ui-font-color2: rgba(255, 255, 255, 0.7);
        --jp-layout-color1: #111; --jp-layout-color2: #424242; --jp-border-color1: #616161; }
        body { background: #111; }""",
}


class Kept(ServerPanel):
    """Keeps what goes to the page until the page asks for it."""

    def __init__(self, server):
        self.kept = queue.SimpleQueue()
        super().__init__(server)

    def send(self, content, buffers=None):
        self.kept.put(content)

    def take(self):
        with suppress(queue.Empty):
            while True:
                yield self.kept.get_nowait()


class Stage:
    """The stage of one server in a page."""

    def __init__(self, page, number):
        self.page, self.root = page, page.locator(f"#view{number} > .echo-stage")

    def until(self, condition, *args):
        """Wait until the JavaScript function of the stage's element and `args` says so; what it says."""
        script = f"([root, args]) => {{ const so = ({condition})(root, ...args); return so instanceof Node || so; }}"
        try:
            arguments = [self.root.element_handle(), list(args)]
            return self.page.wait_for_function(script, arg=arguments, timeout=LIMIT * 1000).json_value()
        except Exception as error:
            error.add_note(f"it waited for {condition} {args}; the stage: {self.root.inner_text()[:1500]}")
            raise

    def ask(self, question, *args):
        return self.root.evaluate(f"(root, args) => ({question})(root, ...args)", list(args))

    def click(self, button):
        self.root.get_by_role("button", name=button, exact=True).click()


@contextmanager
def shown(browser, *servers, size=(1366, 768), theme="light", scale=1):
    """The stages of these servers, side by side in one page of that size."""
    panels = [Kept(server) for server in servers]
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, device_scale_factor=scale)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(error.stack or f"{error}"))
    page.expose_function("toKernel", lambda number, message: panels[number]._on_message(None, message, []))
    page.expose_function(
        "fromKernel", lambda: [[i, message] for i, panel in enumerate(panels) for message in panel.take()]
    )
    views = "".join(f'<div id="view{i}" style="flex: 1; min-width: 0"></div>' for i in range(len(panels)))
    page.set_content(f'<!doctype html><title>stage</title><body style="margin: 0; display: flex">{views}</body>')
    source, styles = Kept._esm, (STATIC / "server_panel.css").read_text("utf-8")
    page.evaluate(HOST, [str(source), [panel.name for panel in panels], TABLE, styles + THEMES[theme]])
    stages = [Stage(page, number) for number in range(len(panels))]
    try:
        yield stages
        assert not wrong, "the page said:\n" + "\n".join(wrong)
    finally:
        page.close()
        for panel in panels:
            panel.close()
