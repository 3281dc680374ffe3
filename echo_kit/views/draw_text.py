"""Text of unknown origin in pictures: each character is one that the font has, and no two names look alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from matplotlib.font_manager import FontProperties, findfont, get_font

from ..watch.text import cut, visible
from .lane import Names

WIDEST_NAME = 31  # letters of a lane's name: more than it has, unless the font lacks them
TEXT = {"va": "center", "size": 13, "parse_math": False}


def drawable(text: str) -> str:
    """`text` with an escape for each character that the font lacks, so that two texts never look alike, and for each
    mark above another one: a tower of them would leave the picture.
    """
    if text.isascii():
        return visible(text)
    fonts = [get_font(findfont(FontProperties(weight=weight))) for weight in ("normal", "bold")]
    drawn, marks = [], 0
    for char in visible(text):
        marks = marks + 1 if unicodedata.combining(char) else 0
        known = marks < 2 and all(font.get_char_index(ord(char)) for font in fonts)
        drawn.append(char if known else ascii(char)[1:-1])
    return "".join(drawn)


def told_apart(names: Iterable[str]) -> list[str]:
    """The names as they are drawn: where two are the same when they are cut, with a number."""
    given = Names()
    return [given.take(cut(drawable(name), WIDEST_NAME)) for name in names]


def say(axis: Any, x: float, y: float, text: str, ink: str, **style: Any) -> None:
    """Write one line, with its middle at that height."""
    axis.text(x, y, drawable(text), color=ink, **TEXT | style)
