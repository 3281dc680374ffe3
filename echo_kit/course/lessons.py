"""`python -m echo_kit lessons DIR`: the notebooks, and what they need, in a folder of the user's own.

An installed package has them in `echo_kit/lessons`; in a clone, which has no such folder, they are in `notebooks`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..watch.text import counted, listed

PACKAGE = Path(__file__).parents[1]
ROOMS = ("", "img", "programs")  # the folders of the lessons; the solutions only if they are asked for


def main(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    """Run the command: 0 if all files are there. The parser ends it with 2 where one cannot be."""
    parser.description = "Copy the notebooks, and what they need, into a folder. No file that is there is overwritten."
    parser.add_argument("folder", metavar="DIR", help="the folder; it is made if there is none")
    parser.add_argument("--solutions", action="store_true", help="copy the solutions, too")
    given = parser.parse_args(arguments)
    if not given.folder:
        parser.error("'' is not a folder")
    home = PACKAGE / "lessons" if (PACKAGE / "lessons").is_dir() else PACKAGE.parent / "notebooks"
    sources = [path for room in (*ROOMS, *["solutions"] * given.solutions) for path in _files(home / room)]
    if not sources:
        parser.error(f"this copy of echo_kit has no notebooks: there is no folder {str(home)!r}")
    folder, copied, kept = Path(given.folder).absolute(), 0, []
    for source in sources:
        name = source.relative_to(home).as_posix()
        try:
            data = source.read_bytes()
            if _write(folder / name, data):
                copied += 1
            elif not (folder / name).is_file() or (folder / name).read_bytes() != data:
                kept.append(name)
        except (FileExistsError, NotADirectoryError) as error:
            parser.error(f"{error.filename!r} cannot be a folder, a file is in the way: give another DIR")
        except OSError as error:
            done = f"{counted(copied, 'file')} of {len(sources)} copied; the same command goes on from here"
            parser.error(f"{error.filename or str(folder / name)!r} cannot be written ({error.strerror}): {done}")
    print(f"{counted(copied, 'file')} copied into {folder}; {len(sources) - copied} were there already")
    if kept:
        print(f"Kept as they are, though this version of echo_kit has others: {listed(kept)}")
        print("To have this version's, give another DIR")
    if not given.solutions:
        print("Without the solutions: with --solutions the same command adds them")
    print(f'To begin: jupyter lab "{folder / "part1_single_socket.ipynb"}"')
    return 0


def _files(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _write(path: Path, data: bytes) -> bool:
    """False: something is there, which stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(data)
    except BaseException:
        path.unlink()  # half a notebook would be taken for the student's own the next time
        raise
    return True
