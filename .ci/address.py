"""Write the project's address, the line Repository of pyproject.toml, wherever else one stands.

`python .ci/address.py --check` writes nothing: it names the files where another one stands, and fails if there are any.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = ("*.md", "*.cff", "*.toml", "notebooks/*.md", "notebooks/*.ipynb", ".github/**/*.yml")
# Also as Binder (/gh/OWNER/echo-kit) and nbgitpuller (github.com%2FOWNER%2Fecho-kit) write it.
ADDRESS = re.compile(r"((?:github\.com|githubusercontent\.com|/gh)(/|%2F))[\w.-]+(\2echo-kit)(?![\w-])")

project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
owner = re.fullmatch(r"https://github\.com/([\w.-]+)/echo-kit", project["urls"]["Repository"])
if not owner:
    sys.exit("pyproject.toml: Repository must be https://github.com/OWNER/echo-kit, with your name for OWNER")
others = []
for path in sorted({path for place in PLACES for path in ROOT.glob(place)}):
    text = path.read_bytes().decode("utf-8")
    new = ADDRESS.sub(rf"\g<1>{owner[1]}\g<3>", text)
    if new != text:
        others.append(path.relative_to(ROOT).as_posix())
        if "--check" not in sys.argv:
            path.write_bytes(new.encode("utf-8"))
print(*others, sep="\n", end="\n" if others else "")
sys.exit("another address stands in these" if others and "--check" in sys.argv else 0)
