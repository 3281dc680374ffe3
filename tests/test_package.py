"""The house: who may import whom, what is private, how large it is; what the package exports, loads and needs."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

import echo_kit

from .faults.test_faults import FAULTS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "echo_kit"

# The five rules: a room (or a module at the top) imports from itself and from these.
MAY_IMPORT = {
    "watch": set(),
    "views": {"watch"},
    "server": {"watch", "views"},
    "client": {"watch", "server"},
    "program": {"watch", "views", "server"},
    "load": {"watch", "views", "server"},
    "live": {"watch", "views", "server", "client"},
    "course": {"watch", "views", "server", "client", "program", "servers"},
    # And the three that need no package at all.
    "servers": set(),
    "__main__": {"watch", "client", "servers", "course", "load"},
    "__init__": set(),
}
# Imported when it is called: the other commands load next to nothing.
LATE = {("__main__", "course.lessons"), ("__main__", "course.mark"), ("__main__", "load.command")}
TYPES_ONLY = {("client", "server")}  # `python -m echo_kit client` loads no server
HEAVY = {"matplotlib", "IPython"}  # a function may import these, and the drawing that needs them, when it is called
DOCUMENTED = {
    "_exit",
    "_current_frames",
    "_getframe",
    "_asdict",
    "_fields",
    "_replace",
}  # public, whatever they look like
BORROWED = "watch.borrowed"  # the one module that uses what others call private
LARGEST, ALL = 400, 16_500  # lines: of a module, of the package


def sources():
    """The text of each module, by its name in the package: `server`, `watch.events`, `watch.__init__`, …"""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text("utf-8") for path in paths}


def room(module):
    return module.split(".")[0]


class Imports(ast.NodeVisitor):
    """What a module imports: (of the package?, module, names, "top", "types" or "late") for each import."""

    def __init__(self, module, modules):
        self.module, self.modules, self.where, self.found, self.odd = module, modules, "top", [], []

    def add(self, ours, name, names):
        self.found.append((ours, name, names, self.where))

    def visit_Import(self, node):
        for alias in node.names:
            self.add(False, alias.name, [])
            if alias.name.split(".")[0] == "echo_kit":
                self.odd.append(f"{self.module} imports echo_kit by its name, not from .")

    def visit_ImportFrom(self, node):
        names = [alias.name for alias in node.names]
        if not node.level:
            self.add(False, node.module, names)
            if node.module.split(".")[0] == "echo_kit":
                self.odd.append(f"{self.module} imports echo_kit by its name, not from .")
            return
        parts = self.module.split(".")[: -node.level] + (node.module.split(".") if node.module else [])
        package = ".".join(parts)
        if package in self.modules:
            self.add(True, package, names)
            return
        for name in names:  # from . import events
            module = f"{package}.{name}" if package else name
            if module in self.modules:
                self.add(True, module, [name])
            else:
                self.odd.append(f"{self.module} imports {name} from {package or 'echo_kit'}, which is no module")

    def visit_If(self, node):
        before = self.where
        if ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING":
            self.where = "types"
        for each in node.body:
            self.visit(each)
        self.where = before
        for each in node.orelse:
            self.visit(each)

    def visit_FunctionDef(self, node):
        before, self.where = self.where, "late"
        self.generic_visit(node)
        self.where = before

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_Call(self, node):
        if self.module != "__init__" and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            self.odd.append(f"{self.module} imports by a call: {ast.unparse(node)}")
        self.generic_visit(node)


def imports(modules):
    found = {module: Imports(module, modules) for module in modules}
    for module, each in found.items():
        each.visit(ast.parse(modules[module]))
    return found


def draws(module):
    return module.startswith("views.draw_")


def wrong_ways(modules):
    """Each import that breaks a rule."""
    for module, found in imports(modules).items():
        yield from found.odd
        if room(module) not in MAY_IMPORT:
            yield f"{module} is new at the top: say in MAY_IMPORT what it may import"
            continue
        for ours, name, names, where in found.found:
            says = f"{module} imports {name}"
            head = room(name)
            if not ours:
                if where == "late" and head not in HEAVY:
                    yield f"{says} inside a function"
                if module == "servers" and head not in sys.stdlib_module_names:
                    yield f"{says}: its readers have the standard library only"
                if head == "matplotlib" and where != "types" and not draws(module):
                    yield f"{says}: only drawing needs that"
            else:
                types = module == "__init__" and where == "types"
                if head != room(module) and head not in MAY_IMPORT[room(module)] and not types:
                    yield f"{says}: {room(module)} may import from {sorted(MAY_IMPORT[room(module)]) or 'nobody'}"
                if module.endswith(".__init__"):
                    yield f"{says}: a room itself imports nothing"
                if (room(module), head) in TYPES_ONLY and where != "types":
                    yield f"{says}: for its types only"
                if (where == "late") is not ((module, name) in LATE) and not (module == "views.shown" and draws(name)):
                    yield f"{says} inside a function" if where == "late" else f"{says}: when it is called only"
                if draws(name) and not draws(module) and not (module == "views.shown" and where == "late"):
                    yield f"{says}: data knows no drawing, and what shows it draws when it is asked"
            for each in names:
                foreign = head != room(module) if ours else module != BORROWED
                if foreign and private(each):
                    yield f"{says}: {each} is private there"


def circle(modules):
    """The modules of one circle of imports, [] if there is none. It counts imports in functions and for types, too."""
    graph = {
        module: {name for ours, name, _, _ in found.found if ours}
        for module, found in imports(modules).items()
        if module != "__init__"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


# -- private names ----------------------------------------------------------------------------------------------------


def private(name):
    """`_name`; but not `__name__` or `_repr_html_`, which are agreed names, nor a name of `DOCUMENTED`."""
    return name.startswith("_") and not name.endswith("_") and name not in DOCUMENTED


class Names(ast.NodeVisitor):
    """The private names that a module defines, and those that it reaches for at any object."""

    def __init__(self):
        self.defined, self.set, self.reached = set(), set(), []

    def visit_FunctionDef(self, node):
        self.defined.add(node.name)
        self.generic_visit(node)

    visit_ClassDef = visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store):
            self.defined.add(node.id)

    def visit_Assign(self, node):
        if ast.unparse(node.targets[0]) == "__slots__":
            self.defined.update(each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant))
        self.generic_visit(node)

    def visit_Attribute(self, node):
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if private(node.attr):
            if isinstance(node.ctx, ast.Store):
                (self.defined if own else self.set).add(node.attr)
            if not own or not isinstance(node.ctx, ast.Store):
                self.reached.append((node.attr, own, f"line {node.lineno}: {ast.unparse(node)}"))
        self.generic_visit(node)

    def visit_Call(self, node):
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "hasattr", "delattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and private(name.value):
                self.reached.append((name.value, False, f"line {node.lineno}: {ast.unparse(node)}"))
        self.generic_visit(node)


def reaching(modules):
    """Each place where a module reaches for a private name that its own room does not define."""
    found = {module: Names() for module in modules}
    for module, each in found.items():
        each.visit(ast.parse(modules[module]))
    rooms = {room(module) for module in modules}
    defined = {each: set().union(*(found[m].defined for m in found if room(m) == each)) for each in rooms}
    for each in rooms:  # an attribute of ours on an object of Python's, like thread._task, unless it is another room's
        ours = set().union(*(found[module].set for module in found if room(module) == each))
        defined[each] |= ours - set().union(*(defined[other] for other in rooms - {each}))
    for module, each in found.items():
        for name, own, where in each.reached:
            if name not in defined[room(module)] and module != BORROWED:
                yield f"{module} {where}: {name} is private" + (", of a base class from elsewhere" if own else "")


# -- what is promised --------------------------------------------------------------------------------------------------


def test_imports_go_down_only():
    wrong = list(wrong_ways(sources()))
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_imports():
    assert circle(sources()) == []


def test_private_names_stay_in_their_room():
    wrong = list(reaching(sources()))
    assert not wrong, "\n".join(wrong)


def test_a_reader_finds_the_purpose_in_the_first_line():
    without = [module for module, text in sources().items() if not re.match(r'"""\S.{30,}', text)]
    assert not without, without


def test_modules_and_the_package_are_small():
    lines = {module: len(text.splitlines()) for module, text in sources().items()}
    large = {module: count for module, count in lines.items() if count > LARGEST}
    assert not large, large
    assert sum(lines.values()) < ALL


# -- that these notice: the house in small, and one thing wrong in it -------------------------------------------------

HOUSE = {
    "__init__": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .views.shown import Shown",
    "__main__": "from .client import Client\nfrom .servers import serve",
    "servers": "import socket",
    "server": "import atexit\nfrom .views.shown import Shown\nclass Server:\n    def start(self): self._again = 1",
    "client": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .server import Server",
    "watch.__init__": "",
    "watch.borrowed": "from threading import _active\nactive = _active",
    "watch.calls": "from . import events\nfrom .events import _plain\nthread._task = 1\nprint(thread._task)",
    "watch.events": "import os\n_plain = 1\nclass Event:\n    __slots__ = ('_at',)\nos._exit(Event()._at)",
    "views.shown": "def draw(x):\n    from .draw_lanes import png\n    return x._repr_html_(), png",
    "views.draw_lanes": "import matplotlib.figure\nfrom ..watch.events import Event\nclass Lane:\n    _top = 1",
    "live.stage": "from ..server import Server\nfrom ..client import Client",
    "course.trial": "from ..servers import serve\ndef show():\n    from IPython.display import display",
}


def test_the_house_in_small_is_right():
    assert list(wrong_ways(HOUSE)) + circle(HOUSE) + list(reaching(HOUSE)) == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("watch.calls", "from ..views.shown import draw", "watch may import from nobody"),
        ("watch.calls", "def f():\n    from ..server import Server", "watch may import from nobody"),
        ("watch.calls", "if TYPE_CHECKING:\n    from ..views import shown", "watch may import from nobody"),
        ("watch.calls", "import echo_kit.server", "not from ."),
        ("watch.calls", "from echo_kit import start", "not from ."),
        ("watch.calls", "from .. import start", "no module"),
        ("watch.calls", "importlib.import_module('echo_kit.server')", "by a call"),
        ("watch.calls", "def f():\n    import queue", "inside a function"),
        ("watch.calls", "def f():\n    from .events import Event", "inside a function"),
        ("watch.__init__", "from .events import Event", "a room itself imports nothing"),
        ("views.shown", "from .draw_lanes import png", "data knows no drawing"),
        ("views.lanes", "def f():\n    from .draw_lanes import png", "data knows no drawing"),
        ("views.lanes", "from matplotlib.figure import Figure", "only drawing needs that"),
        ("views.shown", "from ..server import Server", "views may import from ['watch']"),
        ("server", "from .client import Client", "server may import from ['views', 'watch']"),
        ("server", "from .live.stage import Stage", "server may import from ['views', 'watch']"),
        ("client", "from .server import Server", "for its types only"),
        ("client", "from .views.shown import draw", "client may import from ['server', 'watch']"),
        ("live.stage", "from ..course.trial import show", "live may import from"),
        ("course.trial", "from ..live.stage import Server", "course may import from"),
        ("servers", "import numpy", "standard library"),
        ("servers", "from .watch.events import Event", "servers may import from nobody"),
        ("__main__", "from .server import Server", "__main__ may import from"),
        ("__init__", "from .server import Server", "__init__ may import from nobody"),
        ("helpers", "import os", "new at the top"),
        ("views.lanes", "from ..watch.events import _plain", "_plain is private there"),
        ("watch.calls", "from threading import _active", "_active is private there"),
    ],
)
def test_a_wrong_import_is_found(module, line, complaint):
    found = "\n".join(wrong_ways({**HOUSE, module: f"{HOUSE.get(module, '')}\n{line}"}))
    assert complaint in found


@pytest.mark.parametrize("line", ["{}", "if TYPE_CHECKING:\n    {}", "def f():\n    {}"])
def test_a_circle_is_found(line):
    assert circle({**HOUSE, "watch.events": line.format("from .calls import run")})


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("live.stage", "server._again", "_again is private"),
        ("live.stage", "server._again = 1", "_again is private"),
        ("live.stage", "getattr(server, '_again')", "_again is private"),
        ("live.stage", "class Stage(Server):\n    def f(self): self._again()", "of a base class from elsewhere"),
        ("views.shown", "event._at", "_at is private"),
        ("watch.calls", "threading._active", "_active is private"),
        ("watch.calls", "lane._top", "_top is private"),
    ],
)
def test_a_private_name_of_another_room_is_found(module, line, complaint):
    assert complaint in "\n".join(reaching({**HOUSE, module: f"{HOUSE[module]}\n{line}"}))


# -- what it exports --------------------------------------------------------------------------------------------------


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


def test_the_types_of_the_exports_are_those_of_what_is_loaded():
    text = sources()
    found = imports(text)["__init__"].found
    typed = {each: name for ours, name, names, where in found for each in names if ours and where == "types"}
    assert typed == echo_kit._HOME
    assert set(echo_kit.__all__) == set(typed)
    assert (PACKAGE / "py.typed").exists()


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


# -- what it needs ----------------------------------------------------------------------------------------------------


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
WORKFLOWS = ROOT / ".github" / "workflows"


def bounds(requirements):
    """The lowest version of each package, by its name."""
    return dict(each.split(">=") for each in requirements)


def test_conda_and_pip_install_the_same():
    """environment.yml has what pip install -e ".[lab]" brings, and one Python."""
    path = ROOT / "environment.yml"
    lines = [line.split(" #")[0].rstrip() for line in path.read_text("utf-8").splitlines()]
    listed = [line.strip().removeprefix("- ").strip("\"'") for line in lines if line.strip().startswith("- ")]
    assert (listed[0], listed[2], listed[-2:]) == ("conda-forge", "pip", ["pip:", "-e ."])
    assert re.fullmatch(r"python=3\.\d+", listed[1])
    assert bounds(listed[3:-2]) == bounds(PROJECT["dependencies"]) | bounds(EXTRAS["lab"])


@pytest.mark.filterwarnings("ignore:pythonjsonlogger:DeprecationWarning")  # raised when it is imported
def test_binder_takes_the_python_that_is_meant(monkeypatch):
    """What repo2docker, which Binder runs, reads there. (From "python>=3.11" it reads nothing, and takes 3.10.)"""
    conda = pytest.importorskip("repo2docker.buildpacks.conda", reason="needs the package jupyter-repo2docker")
    monkeypatch.chdir(ROOT)
    pack = conda.CondaBuildPack("")
    pack.platform = "linux/amd64"
    assert pack.detect()
    assert pack.environment_yaml["name"] == "echo-kit"
    assert f"python={pack.python_version}" in pack.environment_yaml["dependencies"]
    assert f"Programming Language :: Python :: {pack.python_version}" in PROJECT["classifiers"]
    bases = [file for file in pack.get_build_script_files() if "py-" in file]
    assert any(f"py-{pack.python_version}-linux-64" in file for file in bases)  # the environment that it starts from


def test_lower_bounds_and_no_pins():
    for requirement in [*PROJECT["dependencies"], *EXTRAS["lab"], *EXTRAS["test"], *EXTRAS["cluster"]]:
        assert re.fullmatch(r"[a-z][a-z0-9-]*>=\d+(\.\d+)*", requirement), requirement


def test_the_workflow_tests_every_python_that_is_promised():
    """By the README's own commands."""
    versions = [each.split(" :: ")[-1] for each in PROJECT["classifiers"] if " :: Python :: 3." in each]
    workflow = (WORKFLOWS / "tests.yml").read_text("utf-8")
    tested = re.search(r"python: \[(.*)\]", workflow)[1].replace('"', "").split(", ")
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert tested == versions
    assert re.search(r"os: \[(.*)\]", workflow)[1].split(", ") == ["ubuntu-latest", "macos-latest", "windows-latest"]
    readme = (ROOT / "README.md").read_text("utf-8")
    for lead in (".venv/bin/", ".venv\\Scripts\\"):
        for command in ('pip install -e ".[test]"', "pytest -n 2 --dist loadscope --nbval notebooks tests"):
            assert lead + command in readme
            assert lead + command in workflow


@pytest.mark.parametrize(
    ("link", "folder"),
    [
        (r"https://mybinder\.org/v2/gh/(?P<project>[\w.-]+/(?P<name>[\w.-]+))/(?P<branch>\w+)\?(?P<query>[^)]+)", ""),
        (r"https://YOUR-HUB/hub/user-redirect/git-pull\?(?P<query>\S+)", "echo-kit/"),  # which nbgitpuller makes
    ],
)
def test_a_link_opens_part_1_in_jupyterlab(link, folder):
    """Binder's root is the repository, nbgitpuller's is above it."""
    found = re.search(link, (ROOT / "README.md").read_text("utf-8")).groupdict()
    query = dict(parse_qsl(found["query"], strict_parsing=True))
    application, path = query.pop("urlpath").split(f"lab/tree/{folder}", 1)
    assert application == ""
    assert (ROOT / path).is_file()
    assert (found.get("branch") or query.pop("branch")) == "main"
    if query:
        assert re.fullmatch(r"https://github\.com/[\w.-]+/echo-kit", query.pop("repo"))
    else:
        assert found["name"] == "echo-kit"
    assert not query


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_a_newcomer_finds_each_file_that_is_named(page):
    """With its folder, or, as README's table has it, below the package."""
    named = re.findall(r"`([\w./-]+\.(?:py|js|cfg|toml|yml|ipynb))`", (ROOT / page).read_text("utf-8"))
    missing = [each for each in named if not any((folder / each).exists() for folder in (ROOT, ROOT / "echo_kit"))]
    assert named
    assert not missing


@pytest.mark.parametrize("what", FAULTS)
def test_each_fault_of_the_battery_is_one_place_of_the_code_as_it_is(what):
    """Else the battery, which the default leaves out, would say so only in CI."""
    _, module, right, _ = FAULTS[what]
    assert (PACKAGE / module).read_text("utf-8").count(right) == 1
