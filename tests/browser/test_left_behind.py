"""What stands in a saved notebook where a stage and panels were live, for who opens it without their kernel."""

import nbformat
import pytest

LIVE = """import echo_kit
server = echo_kit.start(echo_kit.serve_single)
display(echo_kit.ServerPanel(server), echo_kit.panels(server, "alice", "bob"))"""
WORDS = "It needs a running kernel"


@pytest.fixture
def opened_elsewhere(notebook, jupyterlab):
    """`opened_elsewhere(path)`: a copy of the notebook in another session, without the widgets' kernel.

    Returns the words that its outputs have for who sees no picture, and what can be read below its cells. JupyterLab
    trusts no other file than those that it has saved itself; `trusted=True`: it takes the copy for one of these.
    """

    def open_copy(path, trusted=False):
        copy = f"{path.removesuffix('.ipynb')}_{'as_it_is' if trusted else 'not_trusted'}.ipynb"
        book = nbformat.read(jupyterlab.files / path, 4)
        if not trusted:
            book.metadata["another"] = True  # its signature fits no longer
        nbformat.write(book, jupyterlab.files / copy)
        other = notebook(copy)
        words = "\n".join(output.data["text/plain"] for cell in book.cells for output in cell.outputs)
        return words, other.until("""(panel) => {
            const outputs = [...panel.node.querySelectorAll(".jp-OutputArea-output")];
            const images = outputs.flatMap((each) => [...each.querySelectorAll("img")]);
            const text = outputs.map((each) => each.textContent).join("\\n").trim();
            return (images.length === 1 && images[0].naturalWidth > 300 || /widget/i.test(text)) && text;
        }""")

    return open_copy


def live(notebook):
    book = notebook(LIVE)
    book.run_all()
    alice, bob = book.panel("alice"), book.panel("bob")
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    bob.type("hi")
    bob.says("> hi (no answer yet)")
    book.stage("serve_single").shows(boxes=["bob · 2 bytes unread"])
    return book


def is_all_there(words, text):
    assert "serve_single: 1 thread" in words
    assert ".accept()" in words
    assert text.count(WORDS) == 2
    assert "widget" not in text.lower()


def test_saved_while_it_was_live(notebook, opened_elsewhere, jupyterlab):
    book = live(notebook)
    book.save()
    assert "widget-view" not in (jupyterlab.files / book.path).read_text("utf-8")
    is_all_there(*opened_elsewhere(book.path))
    is_all_there(*opened_elsewhere(book.path, trusted=True))
    book.panel("alice").type("again")  # saving has left the page alone
    book.panel("alice").says("> hello", "Received  :  hello", "> again", "Received  :  again")
    book.reload()  # the file has no view, and the kernel is alive
    book.panel("alice").type("after all")
    book.panel("alice").says("> again", "Received  :  again", "> after all", "Received  :  after all")
    book.stage("serve_single").shows(boxes=["bob · 2 bytes unread"])
    book.stage("serve_single").click("Stop")
    book.stage("serve_single").shows(state="stopped")
    book.save()
    is_all_there(*opened_elsewhere(book.path))


def is_the_end(words, text):
    """What was seen when the kernel ended."""
    is_all_there(words, text)
    assert "waits in recv for alice" in words
    assert "  bob  2 bytes unread" in words
    assert "> hello" in text
    assert "> hi    (no answer" in text


def test_saved_after_its_kernel_was_shut_down(notebook, opened_elsewhere):
    book = live(notebook)
    book.command("kernelmenu:shutdown")
    left(book)
    book.save()
    is_the_end(*opened_elsewhere(book.path))
    is_the_end(*opened_elsewhere(book.path, trusted=True))


def test_saved_after_its_kernel_was_restarted(notebook, opened_elsewhere):
    book = live(notebook)
    done = book.begin_command("kernelmenu:restart")
    book.page.locator(".jp-Dialog button.jp-mod-accept").click()
    book.end(done)
    left(book)
    book.save()
    is_all_there(*opened_elsewhere(book.path, trusted=True))


def left(book):
    """Wait until nothing live is below the cell."""
    book.until("""(panel) => panel.node.querySelector(".jp-Cell-outputArea img")?.naturalWidth > 300
        && !panel.node.querySelector(".echo-stage, .echo-client")""")
