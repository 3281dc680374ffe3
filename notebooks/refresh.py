"""Run the notebooks anew and save what they show: `python notebooks/refresh.py [NOTEBOOK ...]`.

Use it after a change to a notebook or to what it prints; then read the difference before you commit it.
"""

import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbval.plugin import coalesce_streams

HERE = Path(__file__).parent


def refresh(path: Path) -> None:
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
        if cell.cell_type == "code":  # how a text was cut into messages is chance
            cell.outputs = coalesce_streams(cell.outputs)
            for output in cell.outputs:  # a view of a model of this run: JupyterLab would prefer it to the words beside
                data = output.get("data", {})
                data.pop("application/vnd.jupyter.widget-view+json", None)
                # What answers a prediction is open for whoever runs the cell, and for nobody else.
                if "text/html" in data:
                    data["text/html"] = re.sub("^<details open>", "<details>", data["text/html"])
    nbformat.write(notebook, path)


if __name__ == "__main__":
    os.environ["ECHO_KIT_PROGRESS"] = "0"  # the kernels inherit it: their checks are nobody's attempts
    everything = [path for path in HERE.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    for each in [Path(name) for name in sys.argv[1:]] or sorted(everything):
        refresh(each)
        print(f"{each.name} is fresh")
