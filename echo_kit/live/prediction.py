"""`predict`: a question before an experiment, with options to choose from. `compare` says afterwards what happened.

    connects = echo_kit.predict("Can bob connect?", {"yes, at once": "connected", "no, he is refused": "refused"})
    connects                                        # shows the question
    connects.compare(outcome, server.timeline())    # ends the experiment: what was seen, and what shows it

The values that the options stand for never leave the kernel: neither the page nor a file tells the answer. All that
tells it is the one output of `compare`, in a `<details>` element: open, or closed as `notebooks/refresh.py` saves it.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Mapping
from typing import Any

import traitlets
from IPython.display import display

from ..views.shown import Shown
from ..watch.text import cut, visible
from .panel import Bundle, Panel, script, style

VALUE_LETTERS = 201  # of a value that no option stands for, with the ellipsis
NOTHING = -1  # the choice before anything was chosen
NO_MATHS = "mathjax_ignore tex2jax_ignore"  # CSS classes that keep JupyterLab from reading dollar signs as a formula


def predict(question: str, options: Mapping[str, Any]) -> Prediction:
    """Ask what is going to happen; as the last line of a cell, the question is shown.

    question  a string
    options   a dict from each text to choose to the value it stands for: {"yes, at once": "connected", "no": "refused"}

    Asked again before the comparison, the question remembers the choice; after it, it is a new prediction.
    Raises `TypeError` for another type, and `ValueError` for an empty text, for fewer than two options, and for two
    options that look the same or stand for the same value.
    """
    asked = _text("the question", question)
    if not isinstance(options, Mapping):
        raise TypeError(f"the options must be a dict, {{text: the value it stands for, …}}, got {options!r}")
    values: dict[str, Any] = {}
    for text, value in options.items():
        option = _text("an option", text)
        if option in values:
            raise ValueError(f"two options of {asked!r} look the same: {option!r}")
        for other, its in values.items():
            if _same(value, its):
                raise ValueError(f"two options of {asked!r} stand for the same value, {value!r}: {other!r}, {option!r}")
        values[option] = value
    if len(values) < 2:
        raise ValueError(f"{asked!r} needs at least two options to choose from, got {len(values)}")
    return Prediction(asked, values)


_chosen: dict[str, str] = {}  # by question: the option that was chosen, until it is compared


class Prediction(Panel):
    """What `predict` returns. `compare` shows what was predicted and what happened."""

    _esm = script("prediction")
    _css = style("prediction")
    question = traitlets.Unicode().tag(sync=True)
    options = traitlets.List(traitlets.Unicode()).tag(sync=True)  # their texts
    choice = traitlets.Int(NOTHING).tag(sync=True)  # index of the chosen option
    compared = traitlets.Bool(False).tag(sync=True)  # from then on the choice is fixed

    def __init__(self, question: str, values: dict[str, Any]) -> None:
        self._values = values
        self._lock = threading.Lock()  # so that no choice arrives in the middle of a comparison
        options = list(values)
        earlier = _chosen.get(question)
        choice = options.index(earlier) if earlier in values else NOTHING
        super().__init__(question, question=question, options=options, choice=choice)

    @property
    def chosen(self) -> str | None:
        """The text of the chosen option; None before anything was chosen."""
        return None if self.choice == NOTHING else self.options[self.choice]

    def compare(self, happened: Any, *shown: Any) -> None:
        """Show what was predicted beside what happened: the option that stands for a value equal to `happened`.

        shown   strings, and views like `server.timeline()`: they are displayed below, in the same output
        """
        with self._lock:
            self.compared = True
            _chosen.pop(self.question, None)
        display(Comparison(self._values, self.chosen, happened, shown))

    def judged(self, happened: Any) -> tuple[int | None, str]:
        """Which option (its index) stands for a value equal to `happened`, if one does; and what happened, in words."""
        seen = Comparison(self._values, None, happened)
        return None if seen.fits is None else self.options.index(seen.fits), seen.happened

    def _do(self, message: dict[str, Any]) -> None:
        option = message.get("option")
        if message.get("do") != "choose" or type(option) is not int or not 0 <= option < len(self.options):
            return
        with self._lock:
            if self.compared or self.comm is None:
                return
            self.choice = option
            _chosen[self.question] = self.options[option]
            self._now = self._still()[0]

    def __repr__(self) -> str:
        lines = [f"Predict: {self.question}"]
        lines += [f"  {'●' if option == self.chosen else '○'} {option}" for option in self.options]
        if self.chosen is not None:
            lines.append(_sentence("You predicted:", self.chosen))
        return "\n".join(lines)

    def _still(self) -> Bundle:
        said = f"<p>{html.escape(_sentence('You predicted:', self.chosen))}</p>" if self.chosen is not None else ""
        options = "".join(f"<li>{html.escape(option)}</li>" for option in self.options)
        asked = f"<p><b>Predict:</b> {html.escape(self.question)}</p><ul>{options}</ul>"
        return {"text/plain": repr(self), "text/html": f'<div class="{NO_MATHS}">{asked}{said}</div>'}, {}


class Comparison:
    """What `compare` shows: what was chosen, what happened, how both fit, and what shows it."""

    def __init__(self, values: dict[str, Any], chosen: str | None, happened: Any, shown: tuple[Any, ...] = ()) -> None:
        self.fits = next((option for option, value in values.items() if _same(value, happened)), None)
        self.predicted = "" if chosen is None else _sentence("You predicted:", chosen)
        self.happened = f"What happened: {_shown(happened)}, which none of the options says."
        self.so = "If you have changed the experiment: can you say why? If not, the question lacks an option."
        if self.fits is not None:
            self.happened = _sentence("What happened:", self.fits)
            said = "As you said." if self.fits == chosen else "Not as you said: that is where one learns. Read on."
            self.so = "" if chosen is None else said
        self.shown = shown

    def __repr__(self) -> str:
        return "\n".join([*filter(None, (self.predicted, self.happened, self.so)), *map(str, self.shown)])

    def _repr_html_(self) -> str:
        predicted, happened, so = map(html.escape, (self.predicted, self.happened, self.so))
        said = "<br>".join(filter(None, (predicted, f"<b>{happened}</b>", so)))
        below = f'<div class="{NO_MATHS}"><p>{said}</p>{"".join(map(_html, self.shown))}</div>'
        return f"<details open><summary>What happened</summary>{below}</details>"


def _html(view: Any) -> str:
    """Of a view its HTML or its picture, of a string and all else the text."""
    if hasattr(view, "_repr_html_"):
        return str(view._repr_html_())
    if not isinstance(view, Shown):
        return f"<pre>{html.escape(str(view), quote=False)}</pre>"  # an address stays as `sanitize.cfg` knows it
    data, about = view._repr_mimebundle_()
    facts, words = about["image/png"], html.escape(data["text/plain"])
    return f'<img src="data:image/png;base64,{data["image/png"]}" width="{facts["width"]}" alt="{words}">'


def _text(what: str, text: Any) -> str:
    """`text` as it will be shown: on one line, and with invisible characters as escapes."""
    if not isinstance(text, str):
        raise TypeError(f"{what} of a prediction must be a string, got {text!r}")
    shown = visible(" ".join(text.split()))
    if not shown:
        raise ValueError(f"{what} of a prediction must not be empty")
    return shown


def _sentence(lead: str, option: str) -> str:
    return f"{lead} {option}" + ("" if option.endswith((".", "!", "?", "…")) else ".")


def _same(one: Any, other: Any) -> bool:
    """Whether they are equal; True is not 1."""
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    if numbers and isinstance(one, bool) != isinstance(other, bool):
        return False
    try:
        return bool(one == other)
    except Exception:  # some values cannot be compared; the comparison of arrays is neither true nor false
        return False


def _shown(value: Any) -> str:
    try:
        return cut(visible(repr(value)), VALUE_LETTERS)
    except Exception:
        return f"a {type(value).__name__}"
