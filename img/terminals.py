"""Terminals as pictures, drawn from what was really typed and read; and into the notebooks, as attachments.

JupyterLab's root is notebooks/, so a lesson cannot show a file of img/: each picture is embedded in its cell.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import nbformat
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image, PngImagePlugin

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent / "notebooks"

CELLS = {  # the picture in the cell with this id
    "part1_single_socket": {
        "p1-terminals-one": "terminal_one_client",
        "p1-terminals-two": "terminal_two_clients_single",
    },
    "part2_multithreaded": {"p2-terminals": "terminal_two_clients_threaded"},
}
SHOWS = {
    "terminal_one_client": "Two terminals: a server, and a client that has its echo.",
    "terminal_two_clients_single": "Three terminals: a server with one thread, and two clients. The second client has "
    "typed a line, and there is no answer.",
    "terminal_two_clients_threaded": "Three terminals: a server with a thread for each client, and two clients. "
    "Both have their answers.",
}
PLACEHOLDER = "(picture of the terminals)"

# -- drawing: the unit is one character's width ------------------------------------------------------------------------

POINTS = 20  # of the letters
COLOURS = 32
CHARACTER = 0.602  # its width, as DejaVu Sans Mono has it, in units of its height
ROW, TITLE, MARGIN, GAP = 2.15, 2.6, 1.0, 1.4
DARK, BAR, TEXT, TYPED, FAINT = "#16181d", "#3a3f4b", "#f5f5f5", "#ffd54a", "#c9ced8"


def rows_of(text: str, columns: int) -> list[tuple[str, bool]]:
    """The rows of a screen of so many columns, each with whether it is typed text's second half."""
    rows = []
    for line in text.split("\n"):
        typed = line.startswith(("$ ", "> "))
        pieces = [line[at : at + columns] for at in range(0, len(line), columns)] or [""]
        rows += [(piece, typed and number > 0) for number, piece in enumerate(pieces)]
    return rows


def draw(pages) -> Figure:
    """The first terminal above, the others side by side below it."""
    screens = [(title, columns, rows_of(text, columns)) for title, columns, text in pages]
    below = max(len(rows) for _, _, rows in screens[1:])
    width = screens[0][1] + 2 * MARGIN
    top = TITLE + ROW * len(screens[0][2]) + MARGIN
    height = top + GAP + TITLE + ROW * below + MARGIN
    inch = POINTS / 72 * CHARACTER  # of one unit
    figure = Figure(figsize=(width * inch, height * inch), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    window(axes, 0, 0, width, top, screens[0])
    each = (width - GAP * (len(screens) - 2)) / (len(screens) - 1)
    for number, screen in enumerate(screens[1:]):
        window(axes, number * (each + GAP), top + GAP, each, height - top - GAP, screen)
    return figure


def window(axes, left: float, top: float, width: float, height: float, screen) -> None:
    title, _, rows = screen
    box = FancyBboxPatch((left + 0.6, top + 0.6), width - 1.2, height - 1.2, boxstyle="round,pad=0.6", linewidth=0)
    box.set_facecolor(DARK)
    axes.add_patch(box)
    bar = Rectangle((left, top), width, TITLE, facecolor=BAR, linewidth=0, clip_path=box)
    axes.add_patch(bar)
    bar.set_clip_path(box)
    write(axes, left + MARGIN, top + TITLE / 2, title, "white", weight="bold")
    y = top + TITLE + 0.3 - ROW / 2
    for line, goes_on in rows:
        y += ROW
        prompt = "" if goes_on else line[:2] if line[:2] in ("$ ", "> ") else ""
        if prompt or goes_on:
            write(axes, left + MARGIN, y, prompt, FAINT)
            write(axes, left + MARGIN + len(prompt), y, line[len(prompt) :], TYPED, weight="bold")
        else:
            write(axes, left + MARGIN, y, line, TEXT)
    cursor = left + MARGIN + len(rows[-1][0])
    axes.add_patch(Rectangle((cursor, y - ROW * 0.42), 1, ROW * 0.84, color=TEXT))


def write(axes, x: float, y: float, text: str, colour: str, **options) -> None:
    axes.text(
        x,
        y,
        text.replace("$", r"\$"),
        color=colour,
        fontsize=POINTS,
        family="DejaVu Sans Mono",
        verticalalignment="center_baseline",
        **options,
    )


# -- files -------------------------------------------------------------------------------------------------------------


def make() -> None:
    """The three pictures, from runs of today's programs."""
    from tests.terminals import STORIES, described, free_address

    for name, story in STORIES.items():
        pages = story(free_address())
        save(draw(pages), HERE / f"{name}.png", described(pages))
        print(f"{name}.png\n{described(pages)}\n")


def save(figure: Figure, path: Path, text: str) -> None:
    """In few colours, which halves the file: a notebook holds it as text."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=144)
    words = PngImagePlugin.PngInfo()
    words.add_text("Description", text)
    with Image.open(drawn) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True, pnginfo=words)


def description(path: Path) -> str:
    """The words that are saved in a picture."""
    with Image.open(path) as picture:
        return picture.info["Description"]


def words(name: str) -> str:
    """What a picture shows, in one line: a sentence, and each terminal's lines below its command."""
    terminals = []
    for page in description(HERE / f"{name}.png").split("\n\n"):
        title, command, *lines = page.splitlines()
        shown = [line for line in lines if not line.startswith(("Use ", "Listening ")) and line.strip() != ">"]
        terminals.append(f"{title.strip('[]').split(':')[0]}, {command[2:]}: {' / '.join(shown)}")
    return re.sub(r"([\[\]\\])", r"\\\1", f"{SHOWS[name]} {'; '.join(terminals)}.")


def embed() -> None:
    """Each picture into its cell, instead of the placeholder or of the picture that is there."""
    for book, cells in CELLS.items():
        path = NOTEBOOKS / f"{book}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        for ident, name in cells.items():
            found = [cell for cell in notebook.cells if cell.get("id") == ident]
            if not found:
                print(f"{path.name} has no cell {ident} yet: {name}.png is not embedded")
                continue
            put(found[0], name)
            print(f"{name}.png is embedded in {path.name}, cell {ident}")
        if cells.keys() & {cell.get("id") for cell in notebook.cells}:
            nbformat.write(notebook, path)


def put(cell, name: str) -> None:
    line = f"![{words(name)}](attachment:{name}.png)"
    old = re.compile(rf"^(?:{re.escape(PLACEHOLDER)}|!\[.*\]\(attachment:{name}\.png\))$", re.MULTILINE)
    if not old.search(cell.source):
        raise SystemExit(f"cell {cell.id} has neither the line {PLACEHOLDER!r} nor the picture")
    cell.source = old.sub(lambda _: line, cell.source)
    picture = base64.b64encode((HERE / f"{name}.png").read_bytes()).decode()
    cell["attachments"] = {f"{name}.png": {"image/png": picture}}
