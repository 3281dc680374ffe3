"""`predict` without a page: what the page would send goes in; what is shown, told and saved comes out."""

import base64
import json
import re
import threading
from pathlib import Path

import nbformat
import numpy
import pytest
from bs4 import BeautifulSoup
from jupyter_client.manager import start_new_kernel
from nbconvert import HTMLExporter
from nbval.plugin import get_sanitize_patterns

import echo_kit
from echo_kit.live import prediction
from echo_kit.live.panel import WIDGET_VIEW

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
QUESTION = "Can bob connect?"
YES, NO = "yes, at once", "no, he is refused"


@pytest.fixture
def ask():
    asked = []

    def make(question=QUESTION, options=None):
        asked.append(echo_kit.predict(question, options or {YES: True, NO: False}))
        return asked[-1]

    yield make
    for each in asked:
        each.close()
    prediction._chosen.clear()


def choose(panel, option):
    panel._on_message(panel, {"do": "choose", "option": option}, [])


@pytest.mark.parametrize(
    ("option", "happened", "lines"),
    [
        (None, True, [f"What happened: {YES}."]),
        (0, True, [f"You predicted: {YES}.", f"What happened: {YES}.", "As you said."]),
        (1, False, [f"You predicted: {NO}.", f"What happened: {NO}.", "As you said."]),
        (
            1,
            True,
            [f"You predicted: {NO}.", f"What happened: {YES}.", "Not as you said: that is where one learns. Read on."],
        ),
        (
            1,
            42,
            [
                f"You predicted: {NO}.",
                "What happened: 42, which none of the options says.",
                "If you have changed the experiment: can you say why? If not, the question lacks an option.",
            ],
        ),
        (
            None,
            "<b>\x1b[2J",
            [
                "What happened: '<b>\\x1b[2J', which none of the options says.",
                "If you have changed the experiment: can you say why? If not, the question lacks an option.",
            ],
        ),
    ],
)
def test_what_was_predicted_stands_beside_what_happened(ask, capsys, option, happened, lines):
    panel = ask()
    if option is not None:
        choose(panel, option)
    for _ in range(2):  # the cell may be run again
        assert panel.compare(happened) is None
        assert capsys.readouterr().out.splitlines() == lines


def test_a_comparison_is_the_same_in_html():
    shown = prediction.Comparison({"<b>yes</b>": 1, "no": 2}, "no", 1)._repr_html_()
    words = ["You predicted: no.", "<b>What happened: &lt;b&gt;yes&lt;/b&gt;.</b>"]
    assert "<br>".join([*words, "Not as you said: that is where one learns. Read on.</p>"]) in shown
    assert "<p><b>What happened: yes.</b></p>" in prediction.Comparison({"yes": 1, "no": 2}, None, 1)._repr_html_()
    assert "&lt;i&gt;" in prediction.Comparison({"yes": 1, "no": 2}, None, "<i>")._repr_html_()
    assert "<i>" not in prediction.Comparison({"yes": 1, "no": 2}, None, "<i>")._repr_html_()


def test_all_that_shows_the_answer_is_in_the_same_output(ask, capsys):
    with echo_kit.start(echo_kit.serve_single) as server:
        timeline = server.timeline()
        views = ["$1 & <b>$2\n('127.0.0.1', 80)", server.where(), timeline, 7]
        ask().compare(True, *views)
        assert capsys.readouterr().out == "\n".join([f"What happened: {YES}.", *map(str, views), ""])
    shown = prediction.Comparison({YES: 1}, None, 1, tuple(views))._repr_html_()
    page = BeautifulSoup(shown, "html.parser")
    details, *others = page.contents
    assert (details.name, details.attrs, others) == ("details", {"open": ""}, [])
    assert details.summary.extract().text == "What happened"
    (said,) = details.contents
    assert said["class"] == prediction.NO_MATHS.split()  # dollar signs are no formula
    happened, text, where, picture, number = said.contents
    assert [happened.text, text.text, number.text] == [f"What happened: {YES}.", views[0], "7"]
    assert "('127.0.0.1', 80)" in shown  # an address as sanitize.cfg knows it
    assert where == BeautifulSoup(views[1]._repr_html_(), "html.parser").div
    assert picture["alt"] == str(timeline)
    assert base64.b64decode(picture["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")


def test_nbval_compares_all_of_a_result_but_the_picture_and_whether_it_is_open():
    def seen(text):
        for pattern, replacement in get_sanitize_patterns((NOTEBOOKS / "sanitize.cfg").read_text("utf-8")):
            text = re.sub(pattern, replacement, text)
        return text

    picture = '<img src="data:image/png;base64,aB+/=" width="9" alt="a">'
    shown = f"<details open><summary>What happened</summary>{picture}</details>"
    for same in (shown.replace("<details open>", "<details>"), shown.replace("aB+/=", "0")):
        assert seen(same) == seen(shown)
    for part in ("<details", "open>", "What happened", "<img", "src", "png", 'width="9"', 'alt="a"', "</details>"):
        assert seen(shown.replace(part, "")) != seen(shown), part
    for other in (f"What happened: {YES}.\n{shown}", "<details open=''>", "data:image/png;base64,aB", "<img src='7'>"):
        assert seen(other).replace("PNG", "data:image/png;base64,aB+/=") == other


def test_what_is_shown_without_a_page(ask):
    panel = ask("Is 1 < 2,\n  <b>really</b>?", {"yes & no": 1, "<script>": 2})
    data, _ = panel._still()
    assert data["text/plain"] == "Predict: Is 1 < 2, <b>really</b>?\n  ○ yes & no\n  ○ <script>"
    asked = "<p><b>Predict:</b> Is 1 &lt; 2, &lt;b&gt;really&lt;/b&gt;?</p>"
    options = "<ul><li>yes &amp; no</li><li>&lt;script&gt;</li></ul>"
    assert data["text/html"] == f'<div class="mathjax_ignore tex2jax_ignore">{asked}{options}</div>'
    choose(panel, 1)
    data, _ = panel._still()
    assert data["text/plain"].splitlines()[1:] == ["  ○ yes & no", "  ● <script>", "You predicted: <script>."]
    assert data["text/html"].endswith(f"{options}<p>You predicted: &lt;script&gt;.</p></div>")
    assert panel._now == data  # what the page saves


def test_a_choice_may_be_changed_until_the_comparison(ask):
    panel = ask()
    assert (panel.chosen, panel.choice, panel.compared, panel._now) == (None, -1, False, {})
    for option in (0, 1):
        choose(panel, option)
        assert panel.chosen == (YES, NO)[option]
    panel.compare(True)
    choose(panel, 0)
    assert (panel.chosen, panel.compared) == (NO, True)


def test_a_question_that_is_asked_again_remembers_the_choice_until_it_was_compared(ask):
    first = ask()
    choose(first, 1)
    second = ask(options={NO: False, YES: True, "perhaps": None})
    assert first.comm is None  # the newer one has its place
    assert (second.chosen, second.compared) == (NO, False)
    assert ask("Another question?").chosen is None
    assert ask(options={"other": 1, "options": 2}).chosen is None
    second.compare(True)
    third = ask()
    assert (third.chosen, third.compared) == (None, False)
    choose(first, 0)  # from a page that has not heard yet
    assert ask().chosen is None


def test_a_comparison_waits_for_a_choice_that_has_begun(ask, capsys):
    class Lock:
        def __enter__(self):
            if threading.current_thread() is comparing:
                moved.set()
            lock.acquire()

        def __exit__(self, *_):
            lock.release()

    def compare():
        panel.compare(True)
        moved.set()

    def meanwhile(_):
        comparing.start()
        assert moved.wait(20)

    panel = ask()
    lock, moved, comparing = threading.Lock(), threading.Event(), threading.Thread(target=compare)
    panel._lock = Lock()
    panel.observe(meanwhile, "choice")
    choose(panel, 1)
    comparing.join(20)
    assert capsys.readouterr().out.startswith(f"You predicted: {NO}.")
    assert ask().chosen is None


def test_other_messages_from_a_page_do_nothing(ask):
    panel = ask()
    for option in (None, True, -1, 2, 1.0, "1", [1], {}):
        choose(panel, option)
    for content in (None, 7, {}, {"do": "choose"}, {"do": ["choose"], "option": 1}, {"option": 1}):
        panel._on_message(panel, content, [])
    assert (panel.chosen, panel._now) == (None, {})


class Odd:
    def __eq__(self, other):
        raise RuntimeError("nobody compares me")

    __hash__ = object.__hash__


class Loud:
    def __repr__(self):
        return "\x1b[2J"


class Shy:
    def __repr__(self):
        raise RuntimeError("nobody looks at me")


@pytest.mark.parametrize(
    ("value", "happened", "fits"),
    [
        (True, True, True),
        (True, numpy.True_, True),
        (True, 1, False),
        (1, True, False),
        (1.0, True, False),
        (1, 1.0, True),
        (b"hi", b"hi", True),
        ("hi", b"hi", False),
        (None, None, True),
        ([1, 2], [1, 2], True),
        ("bob", Odd(), False),
        ("bob", numpy.arange(3), False),
    ],
)
def test_which_option_stands_for_a_value(ask, capsys, value, happened, fits):
    ask(options={"this": value, "that": "another value"}).compare(happened)
    assert capsys.readouterr().out.startswith("What happened: this.\n") == fits


def test_a_value_that_is_long_or_cannot_be_shown(ask, capsys):
    panel = ask()
    panel.compare("x" * 5000)
    assert capsys.readouterr().out.startswith(f"What happened: '{'x' * 199}…, which none")
    panel.compare(Loud())
    assert capsys.readouterr().out.startswith("What happened: \\x1b[2J, which none")
    panel.compare(Shy())
    assert capsys.readouterr().out.startswith("What happened: a Shy, which none")


def test_a_sentence_has_one_end(ask, capsys):
    ask(options={"It waits.": 1, "Who knows?": 2}).compare(1)
    assert capsys.readouterr().out.startswith("What happened: It waits.\n")


@pytest.mark.parametrize(
    ("question", "options", "error", "words"),
    [
        (7, {"a": 1, "b": 2}, TypeError, "the question of a prediction must be a string, got 7"),
        (" \n", {"a": 1, "b": 2}, ValueError, "the question of a prediction must not be empty"),
        ("Q?", ["a", "b"], TypeError, r"the options must be a dict, .* got \['a', 'b'\]"),
        ("Q?", {}, ValueError, "'Q\\?' needs at least two options to choose from, got 0"),
        ("Q?", {"a": 1}, ValueError, "'Q\\?' needs at least two options to choose from, got 1"),
        ("Q?", {1: "a", 2: "b"}, TypeError, "an option of a prediction must be a string, got 1"),
        ("Q?", {"a": 1, "": 2}, ValueError, "an option of a prediction must not be empty"),
        ("Q?", {"a b": 1, "a  b ": 2}, ValueError, "two options of 'Q\\?' look the same: 'a b'"),
        ("Q?", {"a": 1, "b": 1.0}, ValueError, "'Q\\?' stand for the same value, 1.0: 'a', 'b'"),
    ],
)
def test_what_is_no_question(question, options, error, words):
    with pytest.raises(error, match=words):
        echo_kit.predict(question, options)


# -- the answer --------------------------------------------------------------------------------------------------------

SECRET, OTHER = "the-secret", "another-secret"
CELLS = {  # no cell's source names a value
    "ask": f"""import echo_kit
values = "-".join(["the", "secret"]), "-".join(["another", "secret"])
first, second = (echo_kit.predict(text, dict(zip(("{YES}", "{NO}"), values))) for text in ("One?", "Two?"))
display(first, second)""",
    "hello": "for each in (first, second): each._on_message(each, {'do': 'hello'}, [])",
    "choose": "for each in (first, second): each._on_message(each, {'do': 'choose', 'option': 1}, [])",
    "traits": """state = repr([(each.trait_values(), each.get_state()) for each in (first, second)])
print(any(value in state for value in values), state.count("One?") > 1)""",
    "first": "first.compare(values[0])",
    "second": "second.compare(values[1])",
    "close": "first.close(); second.close()",
}


@pytest.fixture(scope="module")  # and so before the check that a test leaves no socket
def told():
    """By cell, the messages that a kernel sends, but for the cell's own source."""
    manager, client = start_new_kernel()
    sent = {name: [] for name in CELLS}
    try:
        for name, code in CELLS.items():
            keep = sent[name].append
            reply = client.execute_interactive(code, timeout=60, output_hook=keep)
            assert reply["content"]["status"] == "ok", reply
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    return {name: [each for each in all_ if each["msg_type"] != "execute_input"] for name, all_ in sent.items()}


def kinds(messages):
    return [each["msg_type"] for each in messages]


def test_nothing_that_leaves_the_kernel_before_the_comparison_tells_the_answer(told):
    assert kinds(told["ask"]).count("comm_open") >= 2
    assert kinds(told["ask"]).count("display_data") == 2
    assert "comm_msg" in kinds(told["choose"])
    for name in ("ask", "hello", "choose", "traits"):
        words = json.dumps(told[name], default=str)
        assert SECRET not in words
        assert OTHER not in words
    (printed,) = [each["content"]["text"] for each in told["traits"] if each["msg_type"] == "stream"]
    assert printed == "False True\n"


def test_the_widget_is_told_the_same_whatever_happened(told):
    def widget(name):
        data = [each["content"]["data"] for each in told[name] if each["msg_type"] == "comm_msg"]
        assert {"method": "update", "state": {"compared": True}, "buffer_paths": []} in data
        return data

    assert widget("first") == widget("second")
    (one,), (two,) = ([each for each in told[name] if "data" in each["msg_type"]] for name in ("first", "second"))
    assert f"What happened: {YES}." in one["content"]["data"]["text/plain"]
    assert f"What happened: {NO}." in two["content"]["data"]["text/plain"]
    left = [
        each["content"]["data"]["text/plain"] for each in told["close"] if each["msg_type"] == "update_display_data"
    ]
    assert [each.replace("One", "Two") for each in left] == [left[1]] * 2
    assert f"You predicted: {NO}." in left[1]


def test_a_saved_notebook_asks_and_does_not_tell_and_can_be_converted(told):
    outputs = [each["content"] for each in told["ask"] if each["msg_type"] == "display_data"]
    assert all(WIDGET_VIEW in each["data"] for each in outputs)
    cell = nbformat.v4.new_code_cell("connects", execution_count=1)
    for each in outputs:
        data = {mime: each["data"][mime] for mime in ("text/plain", "text/html")}
        cell.outputs.append(nbformat.v4.new_output("display_data", data))
    book = nbformat.v4.new_notebook(cells=[cell])
    nbformat.validate(book)
    page, _ = HTMLExporter().from_notebook_node(book)
    for text in (nbformat.writes(book), page):
        assert SECRET not in text
        assert OTHER not in text
        assert f"<li>{YES}</li><li>{NO}</li>" in text
