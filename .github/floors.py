"""Prints every dependency of every package but our own, for `uv pip compile --resolution lowest-direct -`."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Footage is another suite, and its engines pull in half an index.
LEFT_OUT = ("vader-data",)


def main() -> None:
    """Print them, one per line."""
    for path in [ROOT / "pyproject.toml", *sorted(ROOT.glob("*/vader-*/pyproject.toml"))]:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        if project["name"] in LEFT_OUT:
            continue
        for line in project.get("dependencies", ()):
            if not line.startswith("vader-"):
                sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
