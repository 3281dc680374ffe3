"""The package as a whole: what it exports, what it loads, who may import whom, how large it is, what it needs."""

import ast
import importlib
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

import echo_kit

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.stem for path in (ROOT / "echo_kit").glob("*.py") if path.stem != "__init__")
MAY_IMPORT = {
    "events": set(),
    "servers": set(),
    "frames": set(),
    "streams": set(),
    "stepping": set(),
    "sockets": set(),
    "observe": {"events", "frames", "sockets", "stepping", "streams"},
    "lanes": {"events", "observe"},
    "codeview": {"events", "frames", "observe", "sockets"},
    "backlog": {"events", "observe", "lanes", "sockets"},
    "timeline": {"events", "frames", "observe", "lanes", "plots", "trace"},
    "snapshot": {"codeview", "backlog", "timeline", "scene"},
    "runner": {"events", "frames", "observe", "lanes", "codeview", "backlog", "timeline", "snapshot", "sockets"},
    "client": {"events", "runner", "observe", "sockets"},
    "trace": {"events", "timeline"},
    "plots": {"events", "lanes", "timeline"},
    "scene": {"codeview", "timeline", "snapshot", "plots"},
    "live": {"events", "frames", "observe", "lanes", "codeview", "backlog", "timeline"},
    "panel": {"runner"},
    "server_panel": {"events", "live", "panel", "runner"},
    "client_panel": {"events", "runner", "client", "panel"},
    "checks": {"client", "codeview", "events", "frames", "observe", "runner", "servers", "snapshot"},
    "surprises": {"checks", "runner"},
    "exercises": {"checks", "client", "surprises"},
    "prediction": {"events", "panel"},
    "__main__": {"events", "servers", "client"},
}
# Inside of a function (what draws or writes), or for types only.
LATE = {("timeline", "plots"), ("timeline", "trace"), ("snapshot", "scene"), ("client", "runner")}
LARGEST = 600  # lines of code of a module


def imports(module):
    """(what is imported from the package, whether at the top of the file) for each import."""
    tree = ast.parse((ROOT / "echo_kit" / f"{module}.py").read_text("utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                yield name.split(".")[0], id(node) in top
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.startswith("echo_kit") for name in names), f"{module}: import from ."


def test_everything_in_all_can_be_imported():
    assert sorted(set(echo_kit.__all__)) == sorted(echo_kit.__all__)
    for name in echo_kit.__all__:
        assert getattr(echo_kit, name).__name__ == name
    names = {}
    exec(f"from echo_kit import {', '.join(echo_kit.__all__)}", names)
    assert set(echo_kit.__all__) <= set(names) & set(dir(echo_kit))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        echo_kit.nothing  # noqa: B018
    with pytest.raises(ImportError):
        exec("from echo_kit import nothing")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import echo_kit", {"socket", "matplotlib", "ipywidgets", "IPython", "anywidget", "numpy"}),
        (
            "import echo_kit; echo_kit.start; echo_kit.Timeline; echo_kit.side_by_side",
            {"matplotlib", "ipywidgets", "IPython", "anywidget", "numpy"},
        ),
        ("import echo_kit.__main__", {"matplotlib", "ipywidgets", "IPython", "anywidget", "numpy", "echo_kit.server"}),
        ("import echo_kit.views.draw_timeline", {"matplotlib.pyplot", "ipywidgets", "IPython"}),
    ],
)
def test_nothing_is_loaded_before_it_is_used(code, absent):
    program = f"import sys\n{code}\nprint(sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module):
    assert module in MAY_IMPORT, "a new module: say in MAY_IMPORT what it may import"
    for name, at_the_top in imports(module):
        assert name in MAY_IMPORT[module], f"{module} imports {name}"
        assert (module, name) not in LATE or not at_the_top, f"{module} imports {name} before it is needed"


def test_the_servers_are_standard_library_only():
    tree = ast.parse((ROOT / "echo_kit" / "servers.py").read_text("utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert names == ["socket", "threading"]


@pytest.mark.parametrize("module", [*MODULES, "__init__"])
def test_a_reader_finds_the_purpose_in_the_first_line(module):
    first = (ROOT / "echo_kit" / f"{module}.py").read_text("utf-8").splitlines()[0]
    assert re.match(r'"""\S.{30,}', first), first
    assert importlib.util.find_spec(f"echo_kit.{module}")


def lines_of_code(path):
    """How many lines are neither blank, nor comment, nor docstring."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    text = path.read_text("utf-8")
    documentation = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documentation.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - documentation)


@pytest.mark.parametrize("module", [*MODULES, "__init__"])
def test_modules_are_small(module):
    assert lines_of_code(ROOT / "echo_kit" / f"{module}.py") <= LARGEST


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {"python" + project["requires-python"], *project["dependencies"], *project["optional-dependencies"]["test"]}


CONDA_NAMES = {"playwright-python": "playwright"}  # conda-forge's own "playwright" is the one for JavaScript


def test_conda_and_pip_install_the_same():
    path = ROOT / "environment.yml"
    lines = [line.split(" #")[0].rstrip() for line in path.read_text("utf-8").splitlines()]
    listed = [line.strip().removeprefix("- ").strip("\"'") for line in lines if line.strip().startswith("- ")]
    assert listed[0] == "conda-forge"
    assert listed[-2:] == ["pip:", "-e ."]
    packages = [each.replace(" ", "") for each in listed[1:-2] if each != "pip"]
    packages = [re.sub(r"^[a-z-]+", lambda name: CONDA_NAMES.get(name[0], name[0]), each) for each in packages]
    assert sorted(packages) == sorted(each.replace(" ", "") for each in requirements())


def test_lower_bounds_and_no_pins():
    for requirement in requirements():
        assert re.fullmatch(r"[a-z][a-z0-9-]*>=\d+(\.\d+)*", requirement), requirement
