"""Run the notebooks anew and save what they show: `python notebooks/refresh.py [--pictures] [NOTEBOOK ...]`.

Use it after a change to a notebook or to what it prints; then read the difference before you commit it.

The times in a picture differ from run to run. So a cell that says the same words as in git's last commit keeps the
picture that it has there, byte for byte. If no cell of a notebook says anything new, the ports in its outputs stay.
`--pictures` makes all pictures anew: for a change of the drawing, which no word shows.
"""

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbval.plugin import coalesce_streams, get_sanitize_patterns
from PIL import Image, PngImagePlugin

HERE = Path(__file__).parent
SANITIZE = get_sanitize_patterns((HERE / "sanitize.cfg").read_text("utf-8"))
WIDGET, PNG = "application/vnd.jupyter.widget-view+json", "image/png"
PNG_IN_HTML = re.compile('(?<=<img src="data:image/png;base64,)[A-Za-z0-9+/=]+')
PALETTE = 3  # what byte 25 of a PNG is if it has a palette
OFTEN, NEAR, FAR = 1 / 5000, 8, 24  # of a picture's dots; of 256 shades of red, of green or of blue


def refresh(path: Path, pictures: bool = False) -> None:
    notebook = nbformat.read(path, as_version=4)
    # No widget state: it would hold the models of this run, which no other kernel knows.
    NotebookClient(
        notebook, timeout=120, store_widget_state=False, resources={"metadata": {"path": path.parent}}
    ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            clean(cell)
    if not pictures:
        keep(codes(notebook), codes(committed(path)))
    for cell in codes(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            if PNG in data:
                data[PNG] = small_text(data[PNG])
            if "text/html" in data:
                data["text/html"] = PNG_IN_HTML.sub(lambda found: small_text(found[0]), data["text/html"])
    nbformat.write(notebook, path)


def clean(cell) -> None:
    """Leave out what belongs to this run only."""
    cell.outputs = coalesce_streams(cell.outputs)  # how a text was cut into messages is chance
    for output in cell.outputs:
        data = output.get("data", {})
        # A view of a model of this run: JupyterLab would prefer it to the words beside. The picture of a stage to which
        # nobody has typed yet says no more than these.
        if WIDGET in data:
            del data[WIDGET]
            data.pop(PNG, None)
            output.metadata = {}
        # What answers a prediction is open for whoever runs the cell, and for nobody else.
        if "text/html" in data:
            data["text/html"] = re.sub("^<details open>", "<details>", data["text/html"])


# -- what stays --------------------------------------------------------------------------------------------------------


def committed(path: Path):
    """The notebook as git's last commit has it; without cells, if there is none."""
    try:
        show = ["git", "show", f"HEAD:./{path.name}"]
        done = subprocess.run(show, cwd=path.parent, capture_output=True, check=False)
    except FileNotFoundError:  # no git
        return nbformat.v4.new_notebook()
    return nbformat.v4.new_notebook() if done.returncode else nbformat.reads(done.stdout.decode("utf-8"), as_version=4)


def codes(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def keep(cells: list, before: list) -> None:
    """Put what git has into `cells`: a picture where its cell says the same; all outputs where all cells do."""
    old = {cell.id: cell for cell in before}
    same = [cell for cell in cells if cell.id in old and told(cell) == told(old[cell.id])]
    if len(same) == len(cells) and [cell.id for cell in cells] == list(old):
        for cell in cells:
            cell.outputs = old[cell.id].outputs
        return
    for cell in same:  # a port may stand in another cell, too, which has the new one: only the pictures stay
        for new, was in zip(cell.outputs, old[cell.id].outputs, strict=True):
            data, had = new.get("data", {}), was.get("data", {})
            if PNG in data:
                data[PNG], new.metadata = had[PNG], was.metadata
            pictures = iter(PNG_IN_HTML.findall(had.get("text/html", "")))
            if "text/html" in data:
                data["text/html"] = PNG_IN_HTML.sub(lambda _, rest=pictures: next(rest), data["text/html"])


def told(cell) -> tuple:
    """The cell and its outputs, without what `pytest --nbval` overlooks."""
    outputs = []
    for output in cell.outputs:
        texts = {**output, **output.get("data", {}), PNG: PNG in output.get("data", {})}
        for name in ("data", "metadata", "execution_count"):
            texts.pop(name, None)
        outputs.append({name: sanitised(text) for name, text in texts.items()})
    return cell.source, outputs


def sanitised(text):
    for pattern, replacement in SANITIZE:
        text = re.sub(pattern, replacement, text) if isinstance(text, str) else text
    return text


# -- small pictures ----------------------------------------------------------------------------------------------------


def small_text(png: str) -> str:
    """The same for a picture in base64."""
    return base64.b64encode(small(base64.b64decode(png))).decode("ascii")


def small(png: bytes) -> bytes:
    """The picture with a palette, about a quarter as large; one that has a palette stays as it is."""
    if png[25] == PALETTE:
        return png
    with Image.open(io.BytesIO(png)) as drawn:
        picture, words = drawn.convert("RGB"), PngImagePlugin.PngInfo()
        if "Description" in drawn.info:
            words.add_text("Description", drawn.info["Description"])
    palette = Image.new("P", (1, 1))
    palette.putpalette([shade for colour in colours(picture) for shade in colour])
    saved = io.BytesIO()
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(saved, "PNG", optimize=True, pnginfo=words)
    return saved.getvalue()


def colours(picture: Image.Image) -> list[tuple[int, int, int]]:
    """At most 256 of its colours: the frequent ones, and of the others those that are far apart."""
    found: list[tuple[int, int, int]] = []
    dots = picture.width * picture.height
    for count, colour in sorted(picture.getcolors(dots), reverse=True):
        apart = NEAR if count > dots * OFTEN else FAR
        if all(max(abs(a - b) for a, b in zip(colour, other, strict=True)) > apart for other in found):
            found.append(colour)
    return found[:256]


if __name__ == "__main__":
    os.environ["ECHO_KIT_PROGRESS"] = "0"  # the kernels inherit it: their checks are nobody's attempts
    everything = [path for path in HERE.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    names = [name for name in sys.argv[1:] if name != "--pictures"]
    for each in [Path(name) for name in names] or sorted(everything):
        refresh(each, "--pictures" in sys.argv)
        print(f"{each.name} is fresh")
