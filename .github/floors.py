"""Prints all dependencies but our own, and peft, for `uv pip compile --resolution lowest-direct -`."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: The extras whose packages the suite uses; Ray's is used by `make soak` alone, the others' by no test.
EXTRAS = ("data", "flow", "ocr", "raft", "daft")


def main() -> None:
    """Print them, one per line."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    sys.stdout.writelines(f"{line}\n" for line in groups["dev"] if line.startswith("peft"))  # reads our files
    for path in [ROOT / "pyproject.toml", *sorted(ROOT.glob("*/vader-*/pyproject.toml"))]:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        lines = list(project.get("dependencies", ()))
        for line in lines + [line for name in EXTRAS for line in extras.get(name, ())]:
            if not line.startswith("vader-"):
                sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
