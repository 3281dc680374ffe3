"""Print the README's test command: the indented line that runs pytest."""

from pathlib import Path

readme = Path(__file__).parent.parent / "README.md"
lines = [line.strip() for line in readme.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
print(next(line for line in lines if "/bin/pytest" in line))
