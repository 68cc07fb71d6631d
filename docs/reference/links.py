"""Links of the pages that lead out of ``docs`` become links to copies within the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_OUT = re.compile(r"\]\((?:\.\./)+((?:plugins|examples|benchmarks)/[^)#\s]+|[A-Z]+(?:\.md)?)(#[^)]*)?\)")

_BESIDE = re.compile(r"\]\(([\w-][\w./-]*\.(?:png|svg|webp|md))\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """``](../plugins/x/README.md)`` becomes the page's own copy, which ``generate.py`` puts there."""
    up = "../" * (page.file.src_uri.count("/"))
    return _OUT.sub(lambda found: f"]({up}from/{found[1]}{found[2] or ''})", markdown)


def linked_files() -> list[str]:
    """The files outside ``docs`` that the pages link."""
    found: set[str] = set()
    for page in (ROOT / "docs").rglob("*.md"):
        found |= {match[1] for match in _OUT.finditer(page.read_text(encoding="utf-8"))}
    for name in [name for name in found if name.endswith(".md")]:  # and what those link beside themselves
        text = (ROOT / name).read_text(encoding="utf-8")
        found |= {str(Path(name).parent / match[1]) for match in _BESIDE.finditer(text)}
    return sorted(name for name in found if (ROOT / name).is_file())
