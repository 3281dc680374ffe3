"""The demo notebook, INSTRUCTORS.md and the exit quiz: what they say of the lessons, of each other and of Python."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import echo_kit

from .test_claims import headings
from .test_notebooks import BOOKS, DEMO, PARTS, blocks, code_cells, predictions, sections, texts

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
GUIDE = (NOTEBOOKS / "INSTRUCTORS.md").read_text("utf-8")
QUIZ = (NOTEBOOKS / "QUIZ.md").read_text("utf-8")
ANSWERS = (NOTEBOOKS / "solutions" / "QUIZ_ANSWERS.md").read_text("utf-8")
PAGES = {"INSTRUCTORS.md": GUIDE, "QUIZ.md": QUIZ, "solutions/QUIZ_ANSWERS.md": ANSWERS}
STEPS = ["One client", "Why bob waits", "The release", "One call at a time", "A thread for each client", "Side by side"]


def part_of(page, heading):
    """What stands below a heading, up to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    return re.split(rf"\n#{{1,{level}}} ", page.split(f"\n{heading}\n", 1)[1])[0]


def rows(text):
    """The cells of each row of the first table in it, without its head."""
    lines = re.search(r"^\|.*(\n\|.*)*", text, re.M)[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# -- the demo ----------------------------------------------------------------------------------------------------------


def functions(name):
    """The source of each function that a notebook defines, by its name, in order."""
    found = {}
    for cell in code_cells(name):
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append(ast.get_source_segment(cell.source, node))
    return found


@pytest.mark.parametrize(
    ("function", "lessons"), [("handle_client", PARTS[:2]), ("serve", PARTS[:1]), ("serve_many", PARTS[1:2])]
)
def test_the_demo_has_the_code_of_the_lessons(function, lessons):
    (code,) = functions(DEMO)[function]
    for lesson in lessons:
        assert code in functions(lesson)[function], lesson


def test_no_name_of_the_demo_has_two_meanings():
    """A server looks its functions up when it calls them: a second one of a name would change the first server, too."""
    assert {name: len(defined) for name, defined in functions(DEMO).items() if len(defined) > 1} == {}


def steps():
    """For each step of the demo: its name, and for each of its experiments the cell's number."""
    cells = BOOKS[DEMO].cells
    found = {}
    for heading, section in sections(DEMO):
        if numbered := re.match(r"## \d\. (.+)", heading):
            found[numbered[1]] = [
                cells[compares].execution_count for _, asks, _, compares in predictions(DEMO) if asks in section
            ]
    return found


def test_the_demo_has_the_steps_of_the_script_in_its_order():
    assert list(steps())[: len(STEPS)] == STEPS
    assert all(steps()[name] for name in STEPS)
    script = part_of(GUIDE, "## The script")
    told = re.findall(r"^\*\*(\d)\. (.+?)\*\* ((?:\[\d+\](?:, )?)+)", script, re.M)
    assert [(int(number), name) for number, name, _ in told] == list(enumerate(STEPS, 1))
    assert {name: [int(each) for each in re.findall(r"\d+", cells)] for _, name, cells in told} == {
        name: steps()[name] for name in STEPS
    }


def test_each_experiment_of_the_demo_starts_its_server_anew():
    """So that it says the same whatever was clicked before, and can be run alone and again."""
    for variable, _, _, compares in predictions(DEMO):
        assert re.match(r"\w+, \w+ = fresh\(serve", BOOKS[DEMO].cells[compares].source), variable


def cells_named(pattern):
    return {int(each) for each in re.findall(pattern, GUIDE)}


def test_the_cells_of_panels_and_stages_have_the_numbers_that_the_guide_says():
    shown = {cell.execution_count for cell in code_cells(DEMO) if "echo_kit.panels(" in cell.source}
    assert cells_named(r"for step 5: \[(\d+)\]") | cells_named(r"\*The panels\* \[(\d+)\]") == shown


# -- the guide: its questions ------------------------------------------------------------------------------------------


def asked(name):
    """Each question of a notebook as the guide has to tell it: the text, the options, the one that comes true."""
    core = [id(cell) for kind, _, cells in blocks(name) if kind == "Core path" for cell in cells]
    cells = BOOKS[name].cells
    for _, asks, options, compares in predictions(name):
        if name == DEMO or id(cells[asks]) in core:
            question = texts(cells[asks]).splitlines()[0].removeprefix("Predict: ")
            (said,) = re.findall(r"^What happened: (.*)\.$", texts(cells[compares]), re.M)
            yield question, list(options), said


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        (DEMO, "### In the demo"),
        (PARTS[0], "### On the core path of Part 1"),
        (PARTS[1], "### On the core path of Part 2"),
        (PARTS[2], "### On the core path of Part 3"),
    ],
)
def test_the_guide_knows_each_question_and_what_each_answer_reveals(name, heading):
    told = re.split(r"\n(?=\*\*.+\*\* \()", part_of(GUIDE, heading))[1:]
    questions = list(asked(name))
    assert [re.match(r"\*\*(.+?)\*\* \(", each)[1] for each in told] == [question for question, _, _ in questions]
    for text, (_, options, said) in zip(told, questions, strict=True):
        table = rows(text)
        assert [option for option, _, _ in table] == options
        assert sum(int(share.removesuffix(" %")) for _, share, _ in table) == 100
        assert [option for option, _, why in table if why.startswith("**Right.**")] == [said]
        assert all(len(why) > 20 for _, _, why in table)
        assert re.search(r"^\*Then:\* \S.{20,}", text, re.M)


def test_what_came_true_is_what_the_guide_tells_the_phones():
    asks = {name: (at, options) for name, at, options, _ in predictions(DEMO)}
    right = {question: said for question, _, said in asked(DEMO)}
    table = rows(part_of(GUIDE, "## The class joins"))
    told = [re.findall(r"`room\.\w+\((.+?)\)`", "".join(row)) for row in table]
    assert [name for name, _ in told] == list(asks)
    for name, value in told:
        at, options = asks[name]
        question = texts(BOOKS[DEMO].cells[at]).splitlines()[0].removeprefix("Predict: ")
        assert [option for option, its in options.items() if its == ast.literal_eval(value)] == [right[question]]


# -- the guide: its sessions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("session", "name"), list(enumerate(PARTS, 1)))
def test_a_session_is_90_minutes_and_has_the_core_path_with_its_minutes(session, name):
    at, taught = 0, {}
    for clock, given, what, _ in rows(part_of(GUIDE, f"### Session {session}")):
        hours, rest = clock.split(":")
        assert int(hours) * 60 + int(rest) == at, what
        at += int(given)
        if section := re.match(rf"\[Part {session}, section \d\]\(\w+\.ipynb#(.+)\)$", what):
            taught[section[1].replace("-", " ")] = int(given)
        for number in re.findall(r"\[Exercise ([\dS]\.\d)\]", what):
            assert int(given) >= exercises()[number]
    assert at == 90
    core = {
        cells[0].source.splitlines()[0].removeprefix("## ").replace("-", " "): said
        for kind, said, cells in blocks(name)
        if kind == "Core path" and said and re.match(r"## \d", cells[0].source)
    }
    assert taught == core


def exercises():
    """The minutes of each exercise, by its number."""
    found = {}
    for book in BOOKS:
        for cell in BOOKS[book].cells if book.endswith("_exercises") else []:
            found |= {
                number: int(said) for number, said in re.findall(r"^## ([\dS]\.\d) .*\((\d+) min", cell.source, re.M)
            }
    return found


def test_each_exercise_is_in_class_or_homework():
    numbers = exercises()
    sessions = part_of(GUIDE, "## Three sessions")
    in_class = re.findall(r"\[Exercise ([\dS]\.\d)\]", sessions)
    homework = re.findall(r"^\*\*Homework after session \d:\*\*.*(?:\n.+)*", sessions, re.M)
    at_home = [each for text in homework for each in re.findall(r"\b[\dS]\.\d\b", text)]
    assert sorted(in_class + at_home) == sorted(numbers)
    for text in homework:
        must, said = re.search(r"exercises (.+?), (\d+) minutes together", text, re.S).groups()
        assert sum(numbers[each] for each in re.findall(r"[\dS]\.\d", must)) == int(said)


# -- the guide: what one types -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_each_python_block_is_python(page):
    for block in re.findall(r"```python\n(.+?)```", PAGES[page], re.S):
        compile(block, page, "exec")


def test_the_plain_calls_do_what_a_dead_widget_would_have_done(capsys, tmp_path):
    names, code = {}, tmp_path / "demo.py"
    code.write_text("\n\n".join(cell.source for cell in code_cells(DEMO)[:5]), "utf-8")
    exec(compile(code.read_text("utf-8"), code, "exec"), names)  # of a file, so that the views find the source
    calls = [
        re.match(r"`(.+?)`(?: \(it raises `(\w+)`\))?$", call)
        for *_, call in rows(part_of(GUIDE, "## A widget is dead"))
    ]
    try:
        for call in filter(None, calls):
            if call[2]:
                with pytest.raises(getattr(echo_kit, call[2])):
                    exec(call[1], names)
            else:
                exec(call[1], names)
        picture = tmp_path / "why_bob_waits.png"
        (save,) = re.findall(r"```python\n(.+?)```", part_of(GUIDE, "## After the lecture"), re.S)
        exec(save.replace("why_bob_waits.png", str(picture)), names)
        assert picture.read_bytes().startswith(b"\x89PNG")
    finally:
        for each in (names["alice"], names["bob"], *names["three"]):
            each.close()
        names["server"].stop()
        names["threaded"].stop()
    said = capsys.readouterr().out
    for words in ("waits in recv for alice", "bob  2 bytes unread", "paused before sendall", "['thread 2'] no, me"):
        assert words in said


def test_of_other_systems_the_guide_names_each_cell_that_shows_a_backlog():
    notebooks = {"Part 1": PARTS[0], "Part 2": PARTS[1], "Surprises": "surprises", "Demo": DEMO}
    told = {}
    for book, cells, _, what in rows(part_of(GUIDE, "## macOS and Windows")):
        name = notebooks[re.match(r"\[(.+?)\]", book)[1]]
        numbers = {int(each) for each in cells.split(",")}
        assert numbers <= {cell.execution_count for cell in code_cells(name)}, cells
        if "backlog" in what:
            told[name] = numbers
    for name, numbers in told.items():
        assert numbers == {cell.execution_count for cell in code_cells(name) if "backlog of" in texts(cell)}, name
    assert set(told) == set(notebooks.values())


# -- the quiz ----------------------------------------------------------------------------------------------------------


def numbered(page):
    return dict(re.findall(r"^## (\d+)\n\n(.+?)(?=\n## |\Z)", page, re.M | re.S))


QUESTIONS, SOLUTIONS = numbered(QUIZ), numbered(ANSWERS)
each_question = pytest.mark.parametrize("number", QUESTIONS)


def test_the_quiz_has_twenty_questions_and_their_answers():
    assert list(QUESTIONS) == list(SOLUTIONS) == [str(number) for number in range(1, 21)]
    kinds = [text.split("*")[1] for text in QUESTIONS.values()]
    assert {"Choose one.", "What is printed?", "Two sentences."} == set(kinds)
    assert len({re.search(r"^\*\*(\w)\)", text)[1] for text in SOLUTIONS.values() if text[3] == ")"}) == 4


def test_the_quiz_asks_about_each_section_of_the_core_path_that_has_questions():
    named = [
        re.search(r"\[Part (\d), section \d\]\((\w+)\.ipynb#(\S+)\)", text).groups() for text in QUESTIONS.values()
    ]
    core = {
        (name, cells[0].source.splitlines()[0].removeprefix("## ").replace(" ", "-"))
        for name in PARTS[:2]  # the quiz is about two sessions
        for kind, said, cells in blocks(name)
        if kind == "Core path" and said and re.match(r"## \d", cells[0].source)
    }
    assert {(name, heading) for _, name, heading in named} == core - {(PARTS[1], "1.-Where-we-stand")}
    assert all(name == PARTS[int(part) - 1] for part, name, _ in named)
    assert named == sorted(named)


@each_question
def test_each_question_has_an_answer_of_its_kind(number):
    question, answer = QUESTIONS[number], SOLUTIONS[number]
    assert re.search(r"^- \S.{10,}", answer, re.M), "what a wrong one reveals"
    if question.startswith("*Choose one.*"):
        options = dict(re.findall(r"^- (\w)\) (.+)", question, re.M))
        assert list(options) == list("abcd")
        assert len({re.sub(r"\W+", " ", text.casefold()) for text in options.values()}) == 4
        right = re.match(r"\*\*(\w)\)\*\* \S.{20,}", answer)[1]
        assert re.findall(r"^- (\w): ", answer, re.M) == [each for each in options if each != right]
    elif question.startswith("*What is printed?*"):
        (program,) = re.findall(r"```python\n(.+?)```", question, re.S)
        (output,) = re.findall(r"^\*\*Output:\*\*\n\n```text\n(.+?)```", answer, re.M | re.S)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-X", "utf8", "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout, done.stderr) == (output, "")
    else:
        assert re.match(r"\*\*Expected:\*\* \S.{20,}", answer)


# -- links -------------------------------------------------------------------------------------------------------------


def anchors(page):
    """How links name the headings of a page, as GitHub and JupyterLab do: in small letters, with - for a space."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"(?s)```.*?```", "", page), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}


@pytest.mark.parametrize("page", PAGES)
def test_each_link_leads_somewhere(page):
    here = (NOTEBOOKS / page).parent
    for target, anchor in re.findall(r"\]\(((?!https?:)[^)#\s]*)(?:#((?:[^()\s]|\([^()]*\))+))?\)", PAGES[page]):
        assert (here / target).exists(), target
        if anchor and target.endswith(".ipynb"):
            assert anchor in headings(Path(target).name), f"{target}#{anchor}"
        elif anchor:
            text = (here / target).read_text("utf-8") if target else PAGES[page]
            assert anchor in anchors(text), f"{target}#{anchor}"


def test_readme_leads_to_the_demo_and_the_quiz():
    readme = (NOTEBOOKS.parent / "README.md").read_text("utf-8")
    for target in ("classroom_demo.ipynb", "QUIZ.md", "INSTRUCTORS.md"):
        assert f"](notebooks/{target})" in readme
