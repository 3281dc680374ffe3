"""What is published: one version, one address, a license for each file; and the package, as a stranger gets it."""

import email
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import mistune
import pytest

import echo_kit

from .capture import not_here
from .programs import LIMIT, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]
LONG = 1200  # seconds that an installation may take, from the network


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def run(*command, **options):
    """What it prints. Whatever else it says stands in the error, if there is one."""
    options = {"timeout": LIMIT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"} | options
    done = subprocess.run([str(each) for each in command], check=False, **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# -- the files ---------------------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+", echo_kit.__version__)
    assert re.search(r"^version: (.+)$", text("CITATION.cff"), re.M)[1] == echo_kit.__version__
    released = re.findall(r"^## \[?(\d[\w.]*)\]?.* (\d{4}-\d\d-\d\d)$", text("CHANGELOG.md"), re.M)
    assert released[0][0] == echo_kit.__version__
    assert re.search(r"^date-released: (.+)$", text("CITATION.cff"), re.M)[1] == released[0][1]
    assert "version" in PROJECT["dynamic"]
    assert run(sys.executable, "-m", "echo_kit", "--version", cwd=ROOT).startswith(f"echo_kit {echo_kit.__version__}, ")


def test_each_license_is_there_in_full():
    terms = text("LICENSE").split("\n\n", 1)[1]
    assert terms in re.sub(r"^ {4}", "", text("notebooks/LICENSE.md"), flags=re.M)
    assert re.search(r"^Attribution 4\.0 International$", text("LICENSE-lessons"), re.M)
    assert text("LICENSE-lessons").endswith("Creative Commons may be contacted at creativecommons.org.\n")
    assert PROJECT["license"] == "BSD-3-Clause AND CC-BY-4.0"
    for page in ("README.md", "LICENSE-lessons"):
        assert "notebooks/programs" in text(page)
    for page in ("LICENSE", "LICENSE-lessons", "notebooks/LICENSE.md", "CITATION.cff", "paper.md"):
        assert "the echo-kit authors" in text(page)


def test_each_reference_of_the_paper_is_used_and_has_an_entry():
    body = text("paper.md").split("\n---\n", 1)[1]
    used = set(re.findall(r"@([a-z]+\d{4}[a-z]*)", body))
    entries = re.findall(r"^@\w+\{(\w+),$", text("paper.bib"), re.M)
    assert len(entries) == len(set(entries))
    assert used == set(entries)


def relative_links(page):
    links = html.parser.HTMLParser()
    found = []
    links.handle_starttag = lambda _, attributes: found.extend(v for k, v in attributes if k in ("href", "src"))
    links.feed(mistune.html(page))
    return [each for each in found if not re.match(r"https?://|#", each)]


@pytest.mark.parametrize("page", sorted(path.name for path in ROOT.glob("*.md")))
def test_each_link_between_the_projects_files_leads_somewhere(page):
    missing = [each for each in relative_links(text(page)) if not (ROOT / each.split("#")[0]).exists()]
    assert not missing


# -- the address -------------------------------------------------------------------------------------------------------


def addresses(*arguments, root=ROOT):
    command = [sys.executable, root / ".ci" / "address.py", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=LIMIT, check=False)
    return done.returncode, done.stdout.split(), done.stderr


def test_the_address_is_the_same_everywhere():
    assert addresses("--check") == (0, [], "")


def test_a_new_address_is_written_wherever_one_stands(tmp_path):
    for path in [ROOT / "pyproject.toml", *ROOT.glob("*.md"), *ROOT.glob("*.cff")]:
        shutil.copy(path, tmp_path)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "INSTRUCTORS.md", tmp_path / "notebooks")
    with (tmp_path / "README.md").open("a", encoding="utf-8", newline="") as readme:
        readme.write(
            "https://mybinder.org/v2/gh/OWNER/echo-kit/HEAD?urlpath=lab\n"
            "https://hub.example/hub/user-redirect/git-pull?repo=https%3A%2F%2Fgithub.com%2FOWNER%2Fecho-kit&branch=main\n"
            "https://github.com/somebody/echo-kit-2 https://github.com/jupyter/nbgrader\n"
        )
    pyproject = tmp_path / "pyproject.toml"
    before = pyproject.read_text("utf-8")
    pyproject.write_text(
        before.replace(f'Repository = "{ADDRESS}"', 'Repository = "https://github.com/ada/echo-kit"'), "utf-8"
    )
    code, named, errors = addresses("--check", root=tmp_path)
    assert (code, errors) == (1, "another address stands in these\n")
    assert {"CITATION.cff", "README.md", "notebooks/INSTRUCTORS.md", "pyproject.toml"} <= set(named)
    assert addresses(root=tmp_path) == (0, named, "")
    assert addresses("--check", root=tmp_path) == (0, [], "")
    assert pyproject.read_text("utf-8") == before.replace(ADDRESS, "https://github.com/ada/echo-kit")
    written = (tmp_path / "README.md").read_text("utf-8")
    assert "/gh/ada/echo-kit/HEAD" in written
    assert "github.com%2Fada%2Fecho-kit&" in written
    assert written.endswith("https://github.com/somebody/echo-kit-2 https://github.com/jupyter/nbgrader\n")
    pyproject.write_text(before.replace(f'"{ADDRESS}"', '"https://git.example/ada/echo-kit"'), "utf-8")
    code, _, errors = addresses(root=tmp_path)
    assert code == 1
    assert "Repository must be https://github.com/OWNER/echo-kit" in errors


# -- the package, which takes minutes and the network -----------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and with the wheel that is made from it."""
    if not (find_spec("build") and find_spec("twine")):
        not_here('pip install -e ".[dev]" brings build and twine')
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, timeout=LONG)
    return folder


@pytest.mark.soak
def test_what_is_built_passes_the_check_of_an_upload(built):
    assert run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *built.iterdir()).count("PASSED") == 2


@pytest.mark.soak
def test_the_sdist_is_what_is_committed(built):
    committed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if committed.returncode:
        pytest.skip("this is no clone")
    with tarfile.open(*built.glob("*.tar.gz")) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames()}
    assert names - {"PKG-INFO"} == set(filter(None, committed.stdout.split("\0")))


@pytest.mark.soak
def test_the_wheel_has_the_package_the_lessons_and_the_licenses(built):
    with zipfile.ZipFile(*built.glob("*.whl")) as wheel:
        names = set(wheel.namelist())
        metadata = email.message_from_bytes(wheel.read(f"echo_kit-{echo_kit.__version__}.dist-info/METADATA"))
    folders = {"echo_kit": ROOT / "echo_kit", "echo_kit/lessons": ROOT / "notebooks"}
    wanted = {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.relative_to(folder).parts[0].startswith(".")
    }
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert "echo_kit/py.typed" in names
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "LICENSE-lessons"}
    assert metadata["License-Expression"] == PROJECT["license"]
    page = metadata.get_payload(decode=True).decode("utf-8")
    assert [each for each in relative_links(page) if not each.startswith("#")] == []
    assert f"]({ADDRESS}/blob/v{echo_kit.__version__}/notebooks/part1_single_socket.ipynb)" in page
    raw = f"{ADDRESS.replace('github.com', 'raw.githubusercontent.com')}/v{echo_kit.__version__}"
    pictures = re.findall(rf"\]\({re.escape(raw)}/([^)]+)\)", page)
    assert pictures
    assert all((ROOT / each).is_file() for each in pictures)


@pytest.mark.soak
def test_a_stranger_installs_the_wheel_and_runs_a_notebook(built, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv", timeout=LONG)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    python = scripts / "python"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    options = {"cwd": tmp_path, "env": env}
    run(python, "-m", "pip", "install", "-q", *built.glob("*.whl"), "pytest", "nbval", **options, timeout=LONG)
    where = run(python, "-c", "import echo_kit; print(echo_kit.__file__)", **options)
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")
    assert "lessons" in run(python, "-m", "echo_kit", "--help", **options)
    said = run(python, "-m", "echo_kit", "lessons", "course", "--solutions", **options)
    assert said.splitlines()[0] == (
        f"{len(files := [p for p in (tmp_path / 'course').rglob('*') if p.is_file()])} files copied into "
        f"{tmp_path / 'course'}; 0 were there already"
    )
    assert {path.relative_to(tmp_path / "course").as_posix() for path in files} >= {
        "part1_single_socket.ipynb",
        "programs/server.py",
        "solutions/part1_solutions.ipynb",
    }
    notebook = tmp_path / "course" / "part1_single_socket.ipynb"
    done = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", notebook, **options, timeout=LONG)
    cells = [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert f"{len(cells)} passed" in done
