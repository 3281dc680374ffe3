"""Text of unknown origin, made fit to be shown."""

import pytest

from echo_kit.watch.text import in_html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>'bob'</b>", "&lt;b&gt;&#x27;bob&#x27;&lt;/b&gt;"),
        ("$5$", "<span>$</span>5<span>$</span>"),
        (r"\(x\) \[y\]", r"<span>\</span>(x\) <span>\</span>[y\]"),
        (r"\\n \$ \begin{a} \ref{b}", r"<span>\</span>\n <span>\</span><span>$</span> "
         r"<span>\</span>begin{a} <span>\</span>ref{b}"),
        (r"hello\n \xc3", r"hello\n \xc3"),
    ],
)  # fmt: skip
def test_in_html_nothing_begins_an_element_or_a_formula(text, shown):
    assert in_html(text) == shown
