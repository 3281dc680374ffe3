"""How text of unknown origin is made fit to be shown: made visible, cut, counted, listed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TypeVar

Item = TypeVar("Item")
FORMULA = re.compile(r"\$|\\(?=[$(\[\\]|begin|ref|eqref)")


def visible(text: str) -> str:
    """`text` with control characters as escapes: what came from a client does not move the cursor."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def in_html(text: str) -> str:
    """`text` for a page: escaped, and with an element around each character at which JupyterLab would begin a formula
    (MathJax 3 finds none across elements; in `pre` it looks for none).
    """
    return FORMULA.sub(r"<span>\g<0></span>", escape(text))


def cut(text: str, most: int) -> str:
    """`text`, or as much of it as fits into `most` characters with an ellipsis at the end."""
    return text if len(text) <= most else text[: most - 1] + "…"


def counted(number: int, noun: str) -> str:
    """ "1 byte", "2,000 bytes"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def shortened(items: Sequence[Item], words: Callable[[Item], str], most: int) -> list[str]:
    """Each in words; of more than `most`, the first ones, how many more, and the last."""
    if len(items) <= most:
        return [words(each) for each in items]
    return [*(words(each) for each in items[: most - 2]), f"… {len(items) - most + 1:,} more …", words(items[-1])]
