"""A real JupyterLab in a real browser: the fixtures `jupyterlab`, `browser`, `notebook`, and what tests do with them.

Nothing here sleeps or tries again: every wait is for a condition, with the bound `LIMIT`. What a test looks at is found
by what people and screen readers see (roles and labels) wherever that is possible.
"""

import copy
import json
import os
import queue
import re
import secrets
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import pytest

from .capture import not_here

ROOT = Path(__file__).parent.parent
LIMIT = 60  # seconds that anything may take before the test fails
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")  # what systems call it
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}  # JupyterLab asks for what is not there


class JupyterLab:
    """A JupyterLab of the Python that runs the tests, with folders of its own in `folder`. It listens on `url`."""

    def __init__(self, folder):
        self.files = folder / "files"
        shutil.copytree(ROOT / "notebooks", self.files, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        settings = folder / "config" / "labconfig" / "default_setting_overrides.json"
        settings.parent.mkdir(parents=True)
        news = {"fetchNews": "false", "checkForUpdates": False}
        settings.write_text(json.dumps({"@jupyterlab/apputils-extension:notification": news}), encoding="utf-8")
        self.token = secrets.token_hex(16)
        own = {f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("config", "data", "runtime")}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
            + [f"--ServerApp.{name}" for name in ("ip=127.0.0.1", "port=0", f"root_dir={self.files}")],
            env=inherited | own | {"JUPYTER_TOKEN": self.token, "IPYTHONDIR": str(folder / "ipython")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._said = []
        self._urls = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="what JupyterLab says", daemon=True)
        self._reader.start()
        self.url = None
        with suppress(queue.Empty):
            self.url = self._urls.get(timeout=LIMIT)
        if self.url is None:
            self.stop()
            pytest.fail("JupyterLab has not started:\n" + "".join(self._said))

    def _read(self):
        for line in self._process.stderr:
            self._said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+(?=/lab\?token)", line):
                self._urls.put(found[0])
        self._urls.put(None)

    def stop(self):
        """End it, and see that its kernels have ended, too: like all that they start, they hold its standard error."""
        self._process.terminate()
        self._reader.join(LIMIT)
        left = self._reader.is_alive()
        if left:
            self._process.kill()
        self._process.wait(LIMIT)
        if not left:
            self._process.stderr.close()
        assert not left, "a process that JupyterLab has started has not ended:\n" + "".join(self._said[-20:])


def find_browser():
    """The path of a browser of Chromium's family; None stands for the one that `playwright install` has brought."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return os.environ.get("ECHO_KIT_BROWSER") or found


# JupyterLab goes on connecting to the ports of kernels that have ended, several times a second. The system gave them
# these ports, so they are above those of `free_port`, and no server of a test is met by it.
@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory):
    running = JupyterLab(tmp_path_factory.mktemp("jupyterlab"))
    yield running
    running.stop()


@contextmanager
def chromium():
    """A browser, driven by Playwright; where there is none, the test is skipped, which CI does not allow."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError:
        not_here("Playwright is not installed: pip install playwright")
    with sync_playwright() as playwright:
        try:
            running = playwright.chromium.launch(executable_path=find_browser(), timeout=LIMIT * 1000)
        except Error as error:
            not_here(f"no browser: install Chromium, or `playwright install chromium` ({str(error).splitlines()[0]})")
        yield running
        running.close()


@pytest.fixture(scope="module")  # Playwright's event loop is the main thread's: it is not to be there for other tests
def browser(request):
    """A browser, signed in to JupyterLab: a Playwright BrowserContext."""
    with chromium() as running:
        jupyterlab = request.getfixturevalue("jupyterlab")  # not started where nobody could look at it
        context = running.new_context(
            viewport={"width": 1280, "height": 1000}, extra_http_headers={"Authorization": f"token {jupyterlab.token}"}
        )
        context.set_default_timeout(LIMIT * 1000)
        context.request.get(f"{jupyterlab.url}/lab?token={jupyterlab.token}")  # leaves the cookie that signs in
        yield context
        context.close()


@pytest.fixture
def notebook(browser, jupyterlab, request):
    """`notebook("part1_single_socket.ipynb")` or `notebook("a cell", "another cell")`: an open notebook, ready to run.

    `beside=` another one opens it in the same page, in a tab next to that. Afterwards its kernel is ended, and whatever
    went wrong in the page makes the test fail.
    """
    opened = []

    def open_notebook(*what, beside=None):
        path = what[0]
        if not path.endswith(".ipynb"):
            path = f"{re.sub(r'[^a-z0-9]+', '_', request.node.name.lower())}_{len(opened)}.ipynb"
            write_notebook(jupyterlab.files / path, *what)
        opened.append(beside.open(path) if beside else Notebook(jupyterlab, browser.new_page(), path))
        opened[-1].ready()
        return opened[-1]

    yield open_notebook
    wrong = [each for book in opened for each in book.wrong]
    for book in opened:
        book.page.close()
    sessions = f"{jupyterlab.url}/api/sessions"
    for session in browser.request.get(sessions).json():
        browser.request.delete(f"{sessions}/{session['id']}")
    assert not wrong, "the page said:\n" + "\n".join(wrong)


def write_notebook(path, *cells):
    """A notebook of these code cells."""
    cells = [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), path)


class Notebook:
    """A notebook that is open in JupyterLab, in the Playwright page `page`."""

    def __init__(self, jupyterlab, page, path):
        self.page, self.path, self.wrong = page, path, []
        page.on("pageerror", lambda error: self.wrong.append(error.stack or f"{error}"))
        page.on("console", self._on_console)
        page.on("dialog", self._on_dialog)
        page.on("request", lambda request: self._on_request(jupyterlab.url, request.url))
        workspace = f"{Path(path).stem}-{secrets.token_hex(4)}"
        page.goto(f"{jupyterlab.url}/lab/workspaces/{workspace}/tree/{path}")

    def open(self, path):
        """Another notebook, in the same page."""
        other = copy.copy(self)
        other.path = path
        self.command("docmanager:open", path=path)
        return other

    def _on_console(self, message):
        said = f"{message.text} ({message.location.get('url')})"
        # JupyterLab says the first of what a kernel tells on its way out, if the next one is there already, and the
        # second if the kernel is restarted while it asks it about a debugger. The third is what its server answers to
        # "which kernels are there?" in the moment in which one of them starts:
        # https://github.com/jupyter-server/enterprise_gateway/issues/1395
        # The fourth: it shows a picture that is attached to a cell a moment before it has found it there.
        theirs = (
            r"Comm not found|Could not restore the debugger state: Canceled future for debug_request message"
            r"|Failed to load resource: .* a status of 500 .*/api/kernels\?\d+\)$"
            r"|Failed to load resource: net::ERR_UNKNOWN_URL_SCHEME \(attachment:"
        )
        if message.type == "error" and not re.match(theirs, said):
            self.wrong.append(said)

    def _on_dialog(self, dialog):
        self.wrong.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _on_request(self, home, url):
        if url.startswith(("http:", "https:", "ws:", "wss:")) and not url.startswith(f"{home}/"):
            self.wrong.append(f"a request to {url}")

    # -- JupyterLab's own side -----------------------------------------------------------------------------------------

    def until(self, condition, *args):
        """Wait until the JavaScript function says so. It is called with `panel`, the notebook's widget, and `args`."""
        script = f"""([path, args]) => {{
            const main = window.jupyterapp ? [...window.jupyterapp.shell.widgets("main")] : [];
            const panel = main.find((each) => each.context?.path === path && each.content.model);
            return panel ? ({condition})(panel, ...args) : false;
        }}"""
        try:
            return self.page.wait_for_function(script, arg=[self.path, list(args)], polling=50).json_value()
        except Exception as error:
            error.add_note(f"JupyterLab asks: {self.page.locator('.jp-Dialog').all_inner_texts()}")
            error.add_note(f"below the cells: {self.page.locator('.jp-Cell-outputArea').all_inner_texts()}")
            raise

    def begin(self, start, *args):
        """Call the JavaScript function as `until` does, without waiting for its promise; a key for `end`."""
        key = secrets.token_hex(8)
        self.until(
            f"""(panel, key, ...args) => {{
                const keep = (result) => {{ (window.__kept ??= {{}})[key] = result; }};
                Promise.resolve().then(() => ({start})(panel, ...args)).then(
                    (value) => keep({{ value }}), (error) => keep({{ error: String(error) }}));
                return true;
            }}""",
            key,
            *args,
        )
        return key

    def end(self, key):
        """Wait for what the promise brings."""
        result = self.until("(panel, key) => window.__kept?.[key]", key)
        assert "error" not in result, result["error"]
        return result.get("value")

    def promised(self, start, *args):
        return self.end(self.begin(start, *args))

    def begin_command(self, command, **args):
        """Begin a command of JupyterLab; `end` waits until it is done."""
        return self.begin(
            "async (panel, id, args) => { await window.jupyterapp.commands.execute(id, args); }", command, args
        )

    def run_cell(self, index):
        self.select(index)
        self.command("notebook:run-cell")

    def command(self, command, **args):
        self.end(self.begin_command(command, **args))

    def ready(self):
        """Wait until the kernel has answered a request: JupyterLab's "idle" right after loading means nothing."""
        self.until("""(panel) => {
            const kernel = panel.sessionContext.isReady && panel.sessionContext.session?.kernel;
            return kernel && kernel.connectionStatus === "connected" && kernel.status === "idle";
        }""")
        self.execute("")

    def execute(self, code):
        """Run code in the notebook's kernel, beside the cells; what it prints."""
        printed, error = self.promised(
            """async (panel, code) => {
                const request = panel.sessionContext.session.kernel.requestExecute({ code, store_history: false });
                const printed = [];
                request.onIOPub = (message) => { if (message.content.text) printed.push(message.content.text); };
                const reply = await request.done;
                return [printed.join(""), (reply.content.traceback ?? []).join("\\n")];
            }""",
            code,
        )
        assert not error, error
        return printed

    def run_all(self):
        """Run All Cells, as in the menu; every cell has a number afterwards, and none has an error."""
        self.command("runmenu:run-all")
        self.has_run()

    def restart_and_run_all(self):
        """The same with a new kernel."""
        done = self.begin_command("runmenu:restart-and-run-all")
        self.page.locator(".jp-Dialog button.jp-mod-accept").click()
        self.end(done)
        self.has_run()

    def has_run(self):
        wrong, _ = self.until("""(panel) => {
            const cells = [...panel.content.model.cells].filter((each) => each.type === "code");
            const wrong = cells.flatMap((each) => each.outputs.toJSON()).filter((each) => each.output_type === "error");
            const prompts = [...panel.node.querySelectorAll(".jp-CodeCell .jp-InputPrompt")]
                .filter((each) => !each.matches(".jp-Placeholder-prompt"));
            // The page need not hold a cell that is out of sight (JupyterLab 4.4). One that is folded has no prompt.
            const done = prompts.every((each) => /^\\[\\d+\\]:$/.test(each.textContent))
                && cells.every((each) => each.executionCount > 0 && each.executionState !== "running")
                && panel.sessionContext.kernelDisplayStatus === "idle";
            return (done || wrong.length > 0) && [wrong.map((each) => each.traceback.join("\\n")), done];
        }""")
        assert not wrong, "\n".join(wrong)

    def begin_cell(self, index):
        """Begin to run a cell that goes on; `end` waits for its end."""
        self.select(index)
        done = self.begin_command("notebook:run-cell")
        self.until("(panel) => panel.sessionContext.session.kernel.status === 'busy'")
        return done

    def select(self, index):
        """Make a cell the active one, and bring it into view (they count from 0)."""
        self.promised(
            """async (panel, index) => {
                panel.content.activeCellIndex = index;
                await panel.content.scrollToItem(index);
            }""",
            index,
        )

    def go_to(self, source):
        """Scroll to the cell with this in its code, as a person does: the page need not hold what is out of sight."""
        place = self.until(
            """(panel, source) => {
                const texts = [...panel.content.model.cells].map((each) => each.sharedModel.getSource());
                return [texts.findIndex((each) => each.includes(source))];
            }""",
            source,
        )
        self.select(*place)

    def prompt(self, index):
        """ "[7]:", "[*]:" or "[ ]:" """
        return self.promised(
            "(panel, index) => panel.content.widgets[index].node.querySelector('.jp-InputPrompt').textContent", index
        )

    def output(self, index):
        """What is below a cell (they count from 0)."""
        return self.page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{index}'] .jp-Cell-outputArea")

    def new_view(self, index):
        """Create New View for Cell Output; the view, for `panel`."""
        self.select(index)
        self.command("notebook:create-output-view")
        return ".jp-LinkedOutputView"

    def save(self):
        self.command("docmanager:save")

    def reload(self):
        self.page.reload()
        self.ready()

    @contextmanager
    def theme(self, name):
        """In a theme ("JupyterLab Dark"); JupyterLab keeps it for every page, so afterwards back to light."""
        for each in (name, "JupyterLab Light"):
            self.command("apputils:change-theme", theme=each)
            self.page.wait_for_function("(name) => document.body.dataset.jpThemeName === name", arg=each)
            if each == name:
                yield

    def panel(self, name, within=".jp-Notebook"):
        """The client panel of that name."""
        return ClientOnPage(self.page, within, f"client {name}")

    def stage(self, name="serve", within=".jp-Notebook"):
        """The stage of the server of that name."""
        return StageOnPage(self.page, within, f"server {name}")

    def prediction(self, question, within=".jp-Notebook"):
        """The prediction with that question."""
        return PredictionOnPage(self.page, within, f"Predict: {question}")


def axe(page, *within):
    """What screen readers and weak eyes need is there, in what these selectors find; without one, in the whole page."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ModuleNotFoundError:
        not_here("axe is not installed: pip install axe-playwright-python")
    for each in within:
        assert page.locator(each).count(), f"nothing to look at: {each}"
    report = Axe().run(page, context={"include": [[each] for each in within]} if within else None)
    assert report.violations_count == 0, report.generate_report()


class OnPage:
    """A panel as the page shows it. It is looked up anew whenever it is used."""

    LABELLED = """(within, label) => [...document.querySelectorAll(`${within} [aria-label]`)]
        .find((each) => each.getAttribute("aria-label") === label)"""

    def __init__(self, page, within, label):
        self.page, self._found = page, [within, label]
        self.root = page.locator(within).get_by_label(label, exact=True)

    def click(self, button):
        self.root.get_by_role("button", name=button, exact=True).click()

    def contrasts(self):
        """Its background as [red, green, blue], and the contrast of each text to what is behind it."""
        return self.root.evaluate(CONTRASTS)

    def until(self, condition, *args):
        """Wait until the JavaScript function says so. It is called with the panel's element and `args`."""
        script = f"""([within, label, args]) => {{
            const root = ({self.LABELLED})(within, label);
            return root ? ({condition})(root, ...args) : false;
        }}"""
        try:
            return self.page.wait_for_function(script, arg=[*self._found, list(args)]).json_value()
        except Exception as error:
            error.add_note(f"the panel: {self.root.all_inner_texts()}")
            raise


class ClientOnPage(OnPage):
    """A client panel."""

    @property
    def line(self):
        return self.root.get_by_role("textbox")

    def type(self, text):
        """By keyboard alone: into the line, and Enter."""
        self.line.focus()
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")

    def said(self):
        """What the transcript says, to the letter: "> hello", "> hi (no answer yet)", "Received  :  hello", …"""
        return self.root.locator(".echo-client-entry").evaluate_all(f"(all) => all.map({ENTRY})")

    def is_(self, state):
        """Wait until the panel says that this is the state of its connection."""
        self.until("(root, state) => root.querySelector('[role=status]').textContent === state", state)

    def says(self, *entries):
        """Wait until the newest entries of the transcript are these."""
        self.until(f"(root, ...entries) => JSON.stringify({NEWEST}) === JSON.stringify(entries)", *entries)


class StageOnPage(OnPage):
    """A server panel."""

    def look(self):
        """What can be seen of it: see `STAGE`."""
        return self.root.evaluate(STAGE)

    def shows(self, **facts):
        """Wait until it shows exactly this: `words="1 served · …"`, `boxes=["bob · 2 bytes unread"]`, …

        `marks` are "line of code  mark", in any order.
        """
        if "marks" in facts:
            facts["marks"] = sorted(facts["marks"])
        try:
            self.until(
                f"(root, facts) => Object.entries(facts).every(([name, fact]) => "
                f"JSON.stringify(({STAGE})(root)[name]) === JSON.stringify(fact))",
                facts,
            )
        except Exception as error:
            error.add_note(f"it shows: {self.look()}")
            raise


class PredictionOnPage(OnPage):
    """A question with radio buttons."""

    LABELLED = """(within, label) => [...document.querySelectorAll(`${within} fieldset`)]
        .find((each) => each.querySelector("legend").textContent === label)"""

    def __init__(self, page, within, label):
        super().__init__(page, within, label)
        self.root = page.locator(within).get_by_role("group", name=label, exact=True)

    def option(self, text):
        return self.root.get_by_role("radio", name=text, exact=True)

    def shows(self, chosen, said, disabled=False):
        """Wait until this option is chosen (None: none is), and the words below start with `said`."""
        self.until(
            """(root, chosen, said, disabled) => {
                const checked = [...root.querySelectorAll("label:has(:checked)")].map((each) => each.textContent);
                return JSON.stringify(checked) === JSON.stringify(chosen === null ? [] : [chosen])
                    && root.querySelector("[role=status]").textContent.startsWith(said) && root.disabled === disabled;
            }""",
            chosen,
            said,
            disabled,
        )


STAGE = """(root) => {
    const all = (selector, words) => [...root.querySelectorAll(selector)].map(words);
    const text = (selector) => root.querySelector(selector).textContent;
    const line = (mark) => mark.closest(".echo-stage-line")?.firstChild.textContent.trim() ?? "";
    return {
        state: text(".echo-stage-state"),
        address: text(".echo-stage-head .echo-stage-rest"),
        words: text(".echo-stage-words"),
        note: text(".echo-stage-note"),
        marks: all(".echo-stage-mark", (mark) => `${line(mark)}  ${mark.textContent}`).sort(),
        boxes: all(".echo-stage-waiting", (box) => `${box.children[0].textContent} · ${box.children[1].textContent}`),
        waits: all(".echo-stage-since", (node) => node.textContent),
        log: all(".echo-stage-log > div", (node) => node.textContent),
        canvas: root.querySelector("canvas").toDataURL(),
    };
}"""
ENTRY = """(entry) => {
    const [text, mark] = [...entry.children].map((each) => each.textContent);
    if (!mark || /^[0-9.]+ m?s$/.test(mark)) return text;  // how long the answer took is no fact
    return `${text} (${mark.replace(/ (yet|for .*)$/, " yet")})`;
}"""
NEWEST = f"""[...root.querySelectorAll(".echo-client-entry")].slice(-entries.length).map({ENTRY})"""
CONTRASTS = """(root) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgb = (...layers) => {  // the colours, painted one onto the other
        canvas.clearRect(0, 0, 1, 1);
        for (const each of layers) { canvas.fillStyle = each; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = (colour) => {
        const [r, g, b] = colour.map((each) => each / 255)
            .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = {};
    const look = (name, node, style) => {
        const layers = [];
        for (let each = node; each; each = each.parentElement) layers.unshift(getComputedStyle(each).backgroundColor);
        const [one, other] = [rgb(...layers), rgb(...layers, style.color)].map(luminance);
        found[name] = Math.min(found[name] ?? 99, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05));
    };
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        look(`${node.className}: ${texts.currentNode.data}`, node, getComputedStyle(node));
    }
    for (const node of root.querySelectorAll("textarea")) {
        look("what is typed", node, getComputedStyle(node));
        look("placeholder", node, getComputedStyle(node, "::placeholder"));
    }
    return [rgb(getComputedStyle(root).backgroundColor).slice(0, 3), found];
}"""
