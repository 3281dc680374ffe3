"""A prediction in JupyterLab: by mouse and by keyboard, in several views and themes, in a saved file."""

import subprocess
import sys

import nbformat

from echo_kit.watch.text import visible

from ..lab import LIMIT, ROOT, write_notebook
from .test_markup import LOOK, PAYLOADS, nothing_ran

QUESTION = "Can bob connect while alice is being served?"
YES, NO, LATER = "yes, at once", "no, he is refused", "yes, but late"
ASK = f"""import echo_kit
connects = echo_kit.predict("{QUESTION}", {{"{YES}": 1, "{NO}": 2, "{LATER}": 3}})
connects"""
BEFORE, NOTED = "Choose first", "Noted."


def chosen(book):
    return book.execute("print(connects.chosen)").strip()


def result(book):
    """What is to be read of the result below the second cell, without the word to click on."""
    seen = book.output(1).locator("details").inner_text().split("\n")
    assert seen[0] == "What happened"
    return [line for line in seen[1:] if line]


def test_by_mouse_and_the_choice_may_be_changed_until_the_comparison(notebook):
    book = notebook(ASK, "connects.compare(1)")
    book.run_cell(0)
    asked = book.prediction(QUESTION)
    asked.shows(None, BEFORE)
    asked.root.get_by_text(YES).click()  # its label
    asked.shows(YES, NOTED)
    asked.option(NO).click()
    asked.shows(NO, NOTED)
    assert chosen(book) == NO
    book.run_cell(1)
    asked.shows(NO, f"You predicted: {NO}", disabled=True)
    assert asked.option(YES).is_disabled()
    assert YES not in asked.root.get_by_role("status").text_content()
    assert result(book) == [
        f"You predicted: {NO}.",
        f"What happened: {YES}.",
        "Not as you said: that is where one learns. Read on.",
    ]


def test_by_keyboard_alone(notebook):
    book = notebook(ASK, "connects.compare(2)")
    book.run_cell(0)
    asked = book.prediction(QUESTION)
    asked.shows(None, BEFORE)
    asked.option(YES).focus()
    book.page.keyboard.press("Space")
    asked.shows(YES, NOTED)
    book.page.keyboard.press("ArrowDown")
    asked.shows(NO, NOTED)
    book.page.keyboard.press("ArrowDown")
    book.page.keyboard.press("ArrowUp")
    asked.shows(NO, NOTED)
    assert chosen(book) == NO
    active = "(panel) => [panel.content.activeCellIndex, panel.content.mode, panel.content.widgets.length]"
    assert book.promised(active) == [0, "command", 2]  # the keys were no commands
    book.page.keyboard.press("b")
    book.page.keyboard.press("Escape")
    book.page.keyboard.press("ArrowDown")  # and now they are
    book.until("(panel) => panel.content.activeCellIndex === 1")
    assert book.promised(active) == [1, "command", 2]
    book.page.keyboard.press("Shift+Enter")
    asked.shows(NO, f"You predicted: {NO}", disabled=True)
    book.output(1).get_by_text("As you said.").wait_for()


def test_who_did_not_choose_can_run_the_cell_again(notebook):
    book = notebook(ASK, "connects.compare(2)")
    book.run_all()
    asked = book.prediction(QUESTION)
    asked.shows(None, "You made no prediction.", disabled=True)
    assert result(book) == [f"What happened: {NO}."]
    book.run_cell(0)
    asked.shows(None, BEFORE)
    asked.option(NO).click()
    asked.shows(NO, NOTED)
    book.run_cell(0)  # not compared yet: the choice is remembered
    asked.shows(NO, NOTED)
    book.run_cell(1)
    asked.shows(NO, f"You predicted: {NO}", disabled=True)
    book.output(1).get_by_text("As you said.").wait_for()
    book.run_cell(0)
    asked.shows(None, BEFORE)


def test_what_none_of_the_options_says(notebook):
    book = notebook(ASK, "connects.compare('<b>42</b>')")
    book.run_cell(0)
    asked = book.prediction(QUESTION)
    asked.option(YES).click()
    asked.shows(YES, NOTED)
    book.run_cell(1)
    assert result(book)[:2] == [f"You predicted: {YES}.", "What happened: '<b>42</b>', which none of the options says."]


def test_after_a_reload_and_in_a_second_view(notebook):
    book = notebook(ASK, "connects.compare(1)")
    book.run_cell(0)
    asked = book.prediction(QUESTION)
    asked.option(NO).click()
    asked.shows(NO, NOTED)
    book.save()
    book.reload()
    asked.shows(NO, NOTED)
    second = book.prediction(QUESTION, within=book.new_view(0))
    second.shows(NO, NOTED)
    second.option(LATER).click()
    for each in (asked, second):
        each.shows(LATER, NOTED)
    asked.option(YES).click()
    for each in (asked, second):
        each.shows(YES, NOTED)
    book.run_cell(1)
    for each in (asked, second):
        each.shows(YES, f"You predicted: {YES}", disabled=True)
    book.save()
    book.reload()
    asked.shows(YES, f"You predicted: {YES}", disabled=True)


def test_it_can_be_chosen_while_a_cell_runs(notebook):
    book = notebook(ASK, "from time import sleep\nsleep(120)")
    book.run_cell(0)
    done = book.begin_cell(1)
    asked = book.prediction(QUESTION)
    asked.option(NO).click()
    asked.shows(NO, NOTED)
    assert book.prompt(1) == "[*]:"
    book.command("notebook:interrupt-kernel")
    book.end(done)
    assert chosen(book) == NO


def saved(jupyterlab, book):
    """What the file has below the first cell."""
    (output,) = nbformat.read(jupyterlab.files / book.path, 4).cells[0].outputs
    assert set(output.data) == {"text/plain", "text/html"}
    return output.data


def says(data, choice):
    lines = [f"Predict: {QUESTION}"] + [f"  {'●' if each == choice else '○'} {each}" for each in (YES, NO, LATER)]
    assert data["text/plain"].split("\n") == lines + ([f"You predicted: {choice}."] if choice else [])
    assert (f"<p>You predicted: {choice}.</p>" in data["text/html"]) == (choice is not None)
    assert data["text/html"].count("You predicted") == (choice is not None)


def test_the_saved_notebook_says_what_was_chosen(notebook, jupyterlab):
    book = notebook(ASK)
    book.run_cell(0)
    asked = book.prediction(QUESTION)
    asked.shows(None, BEFORE)
    book.save()
    says(saved(jupyterlab, book), None)
    book.until("(panel) => !panel.context.model.dirty")
    asked.option(NO).click()
    book.until("(panel) => panel.context.model.dirty")  # so JupyterLab saves it, and warns who leaves
    asked.shows(NO, NOTED)
    book.save()
    says(saved(jupyterlab, book), NO)
    asked.option(YES).click()  # saving has left the page alone
    asked.shows(YES, NOTED)
    book.command("kernelmenu:shutdown")
    book.output(0).get_by_text(f"You predicted: {YES}.").wait_for()
    book.save()
    says(saved(jupyterlab, book), YES)


def test_the_choice_stays_when_the_kernel_is_restarted(notebook, jupyterlab):
    book = notebook(ASK)
    book.run_cell(0)
    asked = book.prediction(QUESTION)
    asked.option(NO).click()
    asked.shows(NO, NOTED)
    done = book.begin_command("kernelmenu:restart")
    book.page.locator(".jp-Dialog button.jp-mod-accept").click()
    book.end(done)
    book.output(0).get_by_text(f"You predicted: {NO}.").wait_for()
    book.save()
    says(saved(jupyterlab, book), NO)


def test_questions_and_options_are_text(notebook, jupyterlab):
    payloads = list(dict.fromkeys(visible(" ".join(each.split())) for each in PAYLOADS))
    cell = f"""import echo_kit
payloads = {payloads}
asked = [echo_kit.predict(each, dict(zip(payloads, range(100)))) for each in payloads[:5]]
display(*asked)"""
    book = notebook(cell, "for number, each in enumerate(payloads): asked[number % 5].compare(number)")
    book.run_cell(0)
    for number, payload in enumerate(payloads[:5]):
        asked = book.prediction(payload)
        asked.until("(root) => root.querySelector('[role=status]').textContent")
        labels = asked.root.locator("label").evaluate_all("(all) => all.map((each) => each.textContent)")
        assert labels == payloads
        asked.root.get_by_role("radio").nth(number).click()
        asked.shows(payload, NOTED)
        seen = asked.root.evaluate(LOOK)
        assert set(seen["tags"]) <= {"LEGEND", "STRONG", "SPAN", "LABEL", "INPUT", "P"}
        assert set(seen["attributes"]) <= {"class", "type", "name", "role", "data-lm-suppress-shortcuts"}
        assert seen["wide"] <= 0
    book.run_cell(1)
    said = book.output(1).locator(".jp-RenderedHTMLCommon")
    book.until(
        "(panel, n) => panel.node.querySelectorAll('.jp-RenderedHTMLCommon details').length === n", len(payloads)
    )
    for text, payload in zip(said.evaluate_all("(all) => all.map((each) => each.textContent)"), payloads, strict=True):
        assert f"What happened: {payload}" in text
    nothing_ran(book)
    book.save()
    file = nbformat.read(jupyterlab.files / book.path, 4)
    file.metadata["another"] = True  # its signature fits no longer: opened without trust, and without the kernel
    copy = f"copy_of_{book.path}"
    nbformat.write(file, jupyterlab.files / copy)
    other = notebook(copy)
    other.until("(panel) => panel.node.querySelectorAll('li').length >= 5 * 40")
    stills = other.output(0).locator(".jp-RenderedHTMLCommon")
    assert stills.locator("li").evaluate_all("(all) => all.map((each) => each.textContent)") == payloads * 5
    for output in (0, 1):
        seen = other.output(output).locator(".jp-OutputArea-child").evaluate_all(f"(all) => all.map({LOOK})")
        assert {tag for each in seen for tag in each["tags"]} <= {
            "DIV",
            "P",
            "B",
            "UL",
            "LI",
            "BR",
            "DETAILS",
            "SUMMARY",
        }
    nothing_ran(other)


def test_every_text_can_be_read_in_both_themes(notebook):
    """WCAG 2 asks for a contrast of 4.5; the letters are as large as the page's, at least."""
    book = notebook(ASK, "connects.compare(1)", f"echo_kit.predict('And carol?', {{'{YES}': 1, '{NO}': 2}})")
    book.run_cell(0)
    compared = book.prediction(QUESTION)
    compared.option(NO).click()
    compared.shows(NO, NOTED)
    book.run_cell(1)
    compared.shows(NO, f"You predicted: {NO}", disabled=True)
    book.run_cell(2)
    asked = book.prediction("And carol?")
    asked.shows(None, BEFORE)
    light = [legible(each) for each in (compared, asked)]
    assert min(map(min, light)) > 200
    with book.theme("JupyterLab Dark"):
        dark = [legible(each) for each in (compared, asked)]
        assert max(map(max, dark)) < 60
    page, *sizes = asked.root.evaluate("""(root) => {
        const size = (node) => parseFloat(getComputedStyle(node).fontSize);
        const page = getComputedStyle(document.body).getPropertyValue("--jp-content-font-size1");
        return [parseFloat(page), ...[root, ...root.querySelectorAll("*")].map(size)];
    }""")
    assert page >= 14
    assert min(sizes) >= page


def legible(asked):
    background, found = asked.contrasts()
    assert any(text.endswith(YES) for text in found)
    assert {text: round(ratio, 2) for text, ratio in found.items() if ratio < 4.5} == {}
    return background


EXPERIMENT = "import echo_kit\nserver = echo_kit.start(echo_kit.serve_single)\n" + (
    "connects.compare(1, 'the outcome: $1 <b>', server.timeline(), server.where())\nserver.stop()"
)
AFTER = f"You predicted: {NO}."


def test_shift_enter_after_a_click_runs_the_experiment(notebook):
    book = notebook(ASK, EXPERIMENT, "'the last cell'")
    book.select(0)
    book.page.keyboard.press("Shift+Enter")  # as a student runs the question
    asked = book.prediction(QUESTION)
    asked.shows(None, BEFORE)
    asked.root.get_by_text(NO).click()
    book.page.keyboard.press("Shift+Enter")
    asked.shows(NO, AFTER[:-1], disabled=True)
    assert result(book)[:2] == [AFTER, f"What happened: {YES}."]
    assert [book.prompt(cell) for cell in (0, 1, 2)] == ["[1]:", "[2]:", "[ ]:"]
    book.until("(panel) => panel.content.activeCellIndex === 2 && panel.content.mode === 'command'")
    book.page.keyboard.press("Shift+Enter")  # and so on: the focus has moved, too
    book.output(2).get_by_text("the last cell").wait_for()


def test_shift_enter_after_the_arrow_keys_runs_the_experiment(notebook):
    book = notebook(ASK, EXPERIMENT, "'the last cell'")
    book.run_cell(0)
    asked = book.prediction(QUESTION)
    asked.shows(None, BEFORE)
    asked.option(YES).focus()
    book.page.keyboard.press("Shift+Enter")  # nothing is chosen
    book.page.keyboard.press("Space")
    book.page.keyboard.press("ArrowDown")
    book.page.keyboard.press("Shift+Enter")
    asked.shows(NO, AFTER[:-1], disabled=True)
    assert result(book)[:2] == [AFTER, f"What happened: {YES}."]
    assert [book.prompt(cell) for cell in (0, 1, 2)] == ["[1]:", "[2]:", "[ ]:"]
    book.until("(panel) => panel.content.activeCellIndex === 2 && panel.content.mode === 'command'")


SLOW = """import threading
may, choose = threading.Event(), connects._do
connects._do = lambda message: (may.wait(60), choose(message))"""


def test_shift_enter_waits_until_the_kernel_has_the_choice(notebook):
    """Choices are taken in a subshell, cells in the main one: a cell that is run later may come first."""
    book = notebook(ASK, EXPERIMENT)
    book.run_cell(0)
    asked = book.prediction(QUESTION)
    asked.shows(None, BEFORE)
    book.execute(SLOW)
    asked.option(LATER).click()
    asked.option(NO).click()
    for _ in range(2):
        book.page.keyboard.press("Shift+Enter")
    book.execute("may.set()")
    asked.shows(NO, AFTER[:-1], disabled=True)
    assert result(book)[:2] == [AFTER, f"What happened: {YES}."]
    assert [book.prompt(cell) for cell in (0, 1)] == ["[1]:", "[2]:"]


def test_shift_enter_does_not_wait_for_ever(notebook):
    book = notebook(ASK, EXPERIMENT)
    book.run_cell(0)
    asked = book.prediction(QUESTION)
    asked.shows(None, BEFORE)
    book.execute(SLOW)
    asked.option(NO).click()
    book.page.keyboard.press("Shift+Enter")
    asked.shows(None, "You made no prediction.", disabled=True)
    assert result(book)[0] == f"What happened: {YES}."
    book.execute("may.set()")


def test_the_saved_result_is_closed_until_its_cell_is_run(notebook, jupyterlab):
    path = jupyterlab.files / "refreshed.ipynb"
    write_notebook(path, ASK, EXPERIMENT)
    subprocess.run([sys.executable, ROOT / "notebooks" / "refresh.py", path], check=True, timeout=LIMIT)
    book = notebook(path.name)
    closed = book.output(1)
    closed.get_by_text("What happened", exact=True).wait_for()
    assert closed.inner_text().strip() == "What happened"
    assert not closed.get_by_role("img").is_visible()
    closed.get_by_text("What happened", exact=True).click()  # who only reads can open it
    assert_all_is_there(closed)
    book.run_cell(0)
    asked = book.prediction(QUESTION)
    asked.option(NO).click()
    book.page.keyboard.press("Shift+Enter")
    asked.shows(NO, AFTER[:-1], disabled=True)
    closed.get_by_text(AFTER).wait_for()
    assert_all_is_there(closed)


def assert_all_is_there(output):
    seen = output.inner_text()
    for words in (f"What happened: {YES}.", "the outcome: $1 <b>", "serve_single", "◀ server thread: waits in accept"):
        assert words in seen
    picture = output.get_by_role("img").evaluate(
        "(img) => img.decode().then(() => [img.naturalWidth / img.width, img.width, img.parentNode.clientWidth])"
    )
    scale, width, room = picture
    assert scale >= 1.5
    assert 400 < width <= room
