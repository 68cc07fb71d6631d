"""The page's templates, style sheet and script travel in the core's wheel."""

import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_what_the_page_is_made_of(wheels):
    with zipfile.ZipFile(wheels["vader-core"]) as archive:
        names = set(archive.namelist())
    folder = ROOT / "vader_core" / "report"
    parts = [path for path in folder.rglob("*") if path.suffix in (".html", ".css", ".js")]
    assert len(parts) >= 3
    assert {str(path.relative_to(ROOT)) for path in parts} <= names


def test_the_installed_core_writes_the_page(core, tmp_path):
    (tmp_path / "config.yaml").write_text("backbone: {name: demo}\n")
    done = core.run("report", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "demo, aligned with no reward" in (tmp_path / "report.html").read_text()
