"""Panels whose messages stand in line with the cells. JupyterLab may send them so by default one day (its issue 19719);
older ones, and other programs, always do. The panels answer when the running cell has ended, and one of them says so.
"""

import json
import socket

import pytest

from echo_kit import free_port

from ..lab import LIMIT

SETTINGS = "@jupyterlab/apputils-extension:kernels-settings"
LATER = "While a cell runs, the panels here do not answer: they do when it has ended."
PANELS = """import socket, threading, echo_kit
server = echo_kit.start(echo_kit.serve_threaded)
alice, bob = echo_kit.ClientPanel(server, name="alice"), echo_kit.ClientPanel(server, name="bob")
stage, asked = echo_kit.ServerPanel(server), echo_kit.predict("What?", {"this": 1, "that": 2})
panels = [alice, bob, stage, asked, echo_kit.Classroom(server, echo_kit.serve_threaded)]
words, heard = display("nobody has asked", display_id=True), []
def hear(widget, content, buffers):
    if content["do"] == "late?":
        heard.append(threading.current_thread() is threading.main_thread())
        if len(heard) == len(panels):
            words.update(f"all have asked: {set(heard)}")
for each in panels:
    each.on_msg(hear)
display(*panels)"""
NOTES = "() => [...document.querySelectorAll('.echo-late')].map((each) => each.textContent).filter(Boolean)"


@pytest.fixture
def setting(request, browser, jupyterlab):
    """As in JupyterLab's Settings Editor: "Kernel Comms over subshells". Afterwards the default again."""

    def put(**settings):
        url = f"{jupyterlab.url}/lab/api/settings/{SETTINGS}"
        assert browser.request.put(url, data={"raw": json.dumps(settings)}).ok

    put(commsOverSubshells=request.param)
    yield request.param
    put()


@pytest.mark.parametrize("setting", ["disabled", "perComm", "perCommTarget"], indirect=True)
def test_panels_answer_at_once_or_after_the_cell_and_then_one_says_so(notebook, setting):
    late = setting == "disabled"
    port = free_port()
    waits = f"with socket.create_server(('127.0.0.1', {port})) as listener: listener.accept()[0].close()"
    book = notebook(PANELS, waits)
    book.run_cell(0)
    book.output(0).get_by_text(f"all have asked: {{{late}}}").wait_for()
    alice, asked = book.panel("alice"), book.prediction("What?")
    alice.type("before")
    alice.says("> before", "Received  :  before")
    running = book.begin_cell(1)
    alice.type("while it runs")
    asked.option("that").click()
    if late:
        alice.says("> while it runs (sending, not taken yet)")
        asked.shows("that", "Not noted yet.")
    else:
        alice.says("> while it runs", "Received  :  while it runs")
        asked.shows("that", "Noted.")
    socket.create_connection(("127.0.0.1", port), LIMIT).close()
    book.end(running)
    alice.says("> while it runs", "Received  :  while it runs")
    asked.shows("that", "Noted.")
    assert book.page.evaluate(NOTES) == ([LATER] if late else [])


@pytest.mark.parametrize("setting", ["disabled"], indirect=True)
def test_a_panel_that_is_closed_leaves_the_sentence_to_the_next(notebook, setting):
    book = notebook(PANELS, "for each in panels: each.close()\ndisplay(echo_kit.ClientPanel(server, name='carol'))")
    book.run_cell(0)
    book.output(0).get_by_text(LATER).wait_for()
    book.run_cell(1)
    book.output(1).get_by_text(LATER).wait_for()
    assert book.page.evaluate(NOTES) == [LATER]
