"""A swarm in JupyterLab: its bar while it runs, and what stays of it."""

import re

START = "import echo_kit\nserver = echo_kit.launch(echo_kit.serve_threaded)"
LONG = "report = echo_kit.swarm(server, 20, 30, pace=10)\nreport"


def test_a_bar_shows_how_far_it_has_come_and_is_gone_at_the_end(notebook):
    book = notebook(START, LONG, "server.stop()")
    book.run_cell(0)
    book.select(1)
    running = book.begin_command("notebook:run-cell")
    output = book.output(1)
    bar = output.get_by_text(re.compile("20 clients: .*20 connected"))
    bar.wait_for()
    book.end(running)
    bar.wait_for(state="detached")
    assert output.locator("img").count() == 1
    gap = output.locator(".jp-OutputArea-child").first.bounding_box()["height"]
    assert gap < 40, "an empty output leaves hardly a gap"
    book.run_cell(2)
