"""The exercises and their solutions: each one of `check` is asked on a page, is not solved there, and can be solved."""

import ast
import contextlib
import re
from functools import cache
from pathlib import Path

import nbformat
import pytest

from echo_kit.course.exercises import EXERCISES

FOLDER = Path(__file__).parents[2] / "notebooks"
ALLOWED = {"selectors", "socket", "sys", "threading", "time", "concurrent.futures", "echo_kit"}
LESSONS = {"1": "part1", "2": "part2", "3": "part3", "S": "surprises"}  # by the first digit of an exercise's number
PAGES = [f"{lesson}_exercises" for lesson in LESSONS.values()]
SOLUTIONS = [f"solutions/{lesson}_solutions" for lesson in LESSONS.values()]
every_page = pytest.mark.parametrize("name", PAGES)
every_book = pytest.mark.parametrize("name", PAGES + SOLUTIONS)
every_exercise = pytest.mark.parametrize("number", EXERCISES)


@cache
def book(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def cells_of(name, kind):
    return [cell for cell in book(name).cells if cell.cell_type == kind]


def part(number):
    return f"{LESSONS[number[0]]}_exercises"


def solution(number):
    return f"solutions/{LESSONS[number[0]]}_solutions"


def sections(name):
    """The number of each exercise, the heading, and the cells from there to the next heading."""
    found, inside = [], False
    for cell in book(name).cells:
        heading = cell.source.splitlines()[0]
        if cell.cell_type == "markdown" and heading.startswith("#"):
            number = re.match(r"## ([\dS]\.\d) ", heading)
            inside = bool(number)
            if inside:
                found.append((number[1], heading, []))
        if inside:
            found[-1][2].append(cell)
    return found


def section(name, number):
    ((heading, cells),) = [(heading, cells) for each, heading, cells in sections(name) if each == number]
    return heading, cells


def definitions(cells):
    """The functions that code cells define, by name; the last one counts."""
    nodes = [node for cell in cells if cell.cell_type == "code" for node in ast.parse(cell.source).body]
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


def checked(cells):
    """The last code cell, which is the check: the number and the name that it is given, and its saved report."""
    cell = [cell for cell in cells if cell.cell_type == "code"][-1]
    number, function = re.fullmatch(r'echo_kit\.check\("([\dS]\.\d)", (\w+)\)', cell.source).groups()
    return number, function, cell.outputs[0]["data"]["text/plain"]


@pytest.mark.parametrize("names", [PAGES, SOLUTIONS])
def test_each_exercise_is_there_in_order(names):
    assert [number for name in names for number, _, _ in sections(name)] == list(EXERCISES)


@every_exercise
def test_an_exercise_has_a_task_a_skeleton_a_check_and_three_hints(number):
    exercise = EXERCISES[number]
    heading, cells = section(part(number), number)
    assert re.fullmatch(rf"## {number} {re.escape(exercise.title)} \(\d+ minutes\)", heading)
    task, *given, skeleton, check, hints = cells
    assert [cell.cell_type for cell in (task, skeleton, check, hints)] == ["markdown", "code", "code", "markdown"]
    assert all(len(definitions([cell])) == 1 for cell in given)
    assert "\n```text\n" in task.source  # a conversation as an example
    asked, function, report = checked(cells)
    assert asked == number
    assert list(definitions([skeleton])) == [function]
    assert f"`{function}({', '.join(exercise.takes)})`" in task.source
    assert "#" in skeleton.source or number == "1.8"  # what to change; in 1.8 that is to be found out
    assert report.startswith(f"✘ {number} {exercise.title}: not yet\n")
    assert "\n  hint      " in report
    ladder = re.findall(r"<details><summary>(.+?)</summary>\n\n(.+?)\n\n</details>", hints.source, re.S)
    assert [summary for summary, _ in ladder] == ["Hint 1", "Hint 2", "Hint 3"]
    assert len({hint for _, hint in ladder}) == 3
    assert hints.source.count("<details>") == 3
    assert f"\n[Solution of {number}](solutions/{LESSONS[number[0]]}_solutions.ipynb#{number}-" in hints.source


@every_exercise
def test_an_exercise_is_solved_with_the_reason_and_a_wrong_way(number):
    exercise = EXERCISES[number]
    heading, cells = section(solution(number), number)
    assert heading == f"## {number} {exercise.title}"
    why, *code, wrong = [cell for cell in cells if not cell.source.startswith("Back to ")]
    assert len(why.source.split("\n\n")) == 2
    assert all(cell.cell_type == "code" for cell in code)
    assert wrong.source.startswith("**A common wrong way:** ")
    asked, function, report = checked(cells)
    assert asked == number
    assert report.startswith(f"✔ {number} {exercise.title}: solved\n")
    assert list(definitions(code))[-1] == function


@every_exercise
def test_skeleton_and_solution_are_the_same_function_and_differ(number):
    skeleton, solved = (section(name(number), number)[1] for name in (part, solution))
    function = checked(skeleton)[1]
    assert checked(solved)[1] == function
    before, after = definitions(skeleton)[function], definitions(solved)[function]
    for node in (before, after):
        assert [each.arg for each in node.args.args] == list(EXERCISES[number].takes)
    assert ast.dump(before) != ast.dump(after)


@every_exercise
def test_what_is_given_is_the_same_in_the_solutions(number):
    given = definitions(cells_of(part(number), "code"))
    solved = definitions(cells_of(solution(number), "code"))
    for name in ("handle_client", "handle_and_save", "lines_of"):
        assert (name in given) == (name in solved)
        if name in given:
            assert ast.dump(given[name]) == ast.dump(solved[name])


# -- an exercise does not hand out its answer --------------------------------------------------------------------------

ENGLISH = {"accept", "close", "connect", "input", "join", "listen", "print", "release", "send", "start"}  # words, too


def opening(name):
    """The cells before the first exercise."""
    cells = book(name).cells
    return cells[: next(n for n, cell in enumerate(cells) if re.match(r"## [\dS]\.\d ", cell.source))]


def without_check(name, number):
    return [cell for cell in section(name, number)[1] if "echo_kit.check(" not in cell.source]


def names_in_calls(cells):
    """The names of the functions that code cells call, and of the parameters that they name, like `errors=`."""
    trees = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {getattr(each.func, "attr", getattr(each.func, "id", "")) for each in calls}
    return called | {f"{named.arg}=" for each in calls for named in each.keywords}


def new_calls(number):
    """What the solution calls, and the exercise does not, nor what is given."""
    named = [cell for cell in opening(part(number)) if "handle_client" in definitions([cell])]
    given = names_in_calls([*named, *without_check(part(number), number)]) | {"encode", "decode", "handle_client"}
    return names_in_calls(without_check(solution(number), number)) - given


def named_in(text, calls):
    return {
        each
        for each in calls
        if re.search(rf"\b{re.escape(each)}" + ("[(]" if each in ENGLISH else r"(?<==)|\b" + each + r"\b"), text)
    }


@every_exercise
def test_the_saved_report_names_no_call_of_the_solution(number):
    calls = new_calls(number)
    assert calls or number in ("1.3", "1.6")  # where nothing new is called
    check = next(cell for cell in section(part(number), number)[1] if "echo_kit.check(" in cell.source)
    saved = [each["data"].get(kind, "") for each in check.outputs for kind in ("text/plain", "text/html")]
    assert not named_in("\n".join(saved), calls)


def test_a_saved_report_with_a_call_would_be_seen():
    calls = {"settimeout", "errors=", "join", "Thread", "target="}
    assert named_in("conn.settimeout(0.5), then join the threads", calls) == {"settimeout"}
    assert named_in("Thread, see errors= and join()", calls) == {"errors=", "join", "Thread"}
    assert "settimeout" in new_calls("1.7")
    assert "errors=" in new_calls("1.8")


def statements(text):
    """The lines of a text that are Python statements, or the first line of one, without spaces and comments."""
    found = set()
    for line in text.splitlines():
        code = re.sub(r"  # .*", "", line).strip().strip("`")
        with contextlib.suppress(SyntaxError):
            found |= {ast.unparse(node) for node in ast.parse(code + " pass" * code.endswith(":")).body}
    return found


@pytest.mark.parametrize("number", [each for each in EXERCISES if each[0] in "123"])
def test_no_hint_is_a_statement_of_the_solution(number):
    """One with a call, that neither the exercise nor the page before it shows; what it prints is no secret."""
    task, hints = section(part(number), number)[1][:-1], section(part(number), number)[1][-1].source
    shown = statements("\n".join(cell.source for cell in [*opening(part(number)), *task]))
    solved = [cell.source for cell in without_check(solution(number), number) if cell.cell_type == "code"]
    matter = {each for each in statements("\n".join(solved)) - shown if "(" in each}
    matter = {each for each in matter if not each.startswith(("print(", "def "))}
    assert matter or number in ("1.8", "2.1")  # what is new is inside a print, or in the opening already
    assert not matter & statements(hints)
    assert not matter & statements("\n".join(re.findall(r"`([^`\n]+)`", hints)))


@every_page
def test_the_minutes_add_up(name):
    minutes = [int(re.search(r"\((\d+) minutes\)$", heading)[1]) for _, heading, _ in sections(name)]
    (said,) = re.findall(r"\*\*Time:\*\* about (\d+) minutes", book(name).cells[1].source)
    assert sum(minutes) == int(said)


@every_page
def test_the_page_opens_and_closes_as_agreed(name):
    opening, contract, calls, *_, learned, where_next = book(name).cells
    assert re.fullmatch(r"# (Part \d|Surprises): exercises\n\n[^\n].*", opening.source, re.S)
    assert re.findall(r"^\*\*(.+?)\*\*", contract.source, re.M) == ["You will be able to", "You need:", "Time:"]
    objectives = contract.source.split("\n\n")[1]
    numbers = re.findall(r"[\dS]\.\d", objectives)
    assert numbers == [number for number, _, _ in sections(name)]  # what each of them is good for
    assert calls.source.startswith("## What you need, on one page\n")
    assert learned.source.startswith("## Key points\n\n- ")
    assert where_next.source.startswith("**Where next:**")


@every_page
def test_each_word_of_a_report_is_explained_once(name):
    texts = [cell.source for cell in cells_of(name, "markdown")]
    (text,) = [each for each in texts if each.startswith("## How a check works")]
    reports = [checked(cells)[2] for _, _, cells in sections(name)]
    words = {word for report in reports for word in re.findall(r"^  (\w[\w ]{1,7}?)  +\S", report, re.M)}
    assert words == {"passed", "tried", "expected", "got", "hint"}
    for word in words:
        assert len(re.findall(rf"^\| `{word}` \| ", text, re.M)) == 1
    assert "**without brackets**" in text


@every_page
def test_a_slide_begins_at_a_heading_and_the_rest_is_left_out(name):
    for cell in book(name).cells:
        heading = cell.cell_type == "markdown" and cell.source.startswith("#")
        assert cell.metadata.slideshow.slide_type == ("slide" if heading else "skip")


@pytest.mark.parametrize("name", SOLUTIONS)
def test_no_slide_shows_a_solution(name):
    assert {cell.metadata.slideshow.slide_type for cell in book(name).cells} == {"skip"}


@every_book
def test_cells_were_run_in_order_and_none_is_hidden_from_the_comparison(name):
    cells = cells_of(name, "code")
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert set(book(name).metadata) == {"kernelspec", "language_info"}
    for cell in cells:
        assert "nbval" not in f"{cell.metadata.get('tags')} {cell.source}".lower()
        assert len(cell.source.splitlines()) <= 25
        assert len(definitions([cell])) <= 1


@every_book
def test_only_what_a_student_knows_is_imported(name):
    imported = set()
    for cell in cells_of(name, "code"):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    assert imported <= ALLOWED
    assert "echo_kit" in imported


@every_book
def test_links_lead_somewhere(name):
    path = FOLDER / f"{name}.ipynb"
    targets = [each for cell in cells_of(name, "markdown") for each in re.findall(r"\]\((.+?)\)", cell.source)]
    assert targets
    for target in targets:
        file, _, heading = target.partition("#")
        assert (path.parent / file).is_file(), target
        if heading:
            there = nbformat.read(path.parent / file, as_version=4).cells
            headings = [cell.source.splitlines()[0].removeprefix("## ") for cell in there if cell.source[:3] == "## "]
            assert heading in [each.replace(" ", "-").replace("?", "%3F") for each in headings], target
