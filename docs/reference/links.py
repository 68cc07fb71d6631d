"""What the site does with links out of ``docs``, and with pages that no menu names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_OUT = re.compile(r"\]\((?:\.\./)+((?:plugins|examples|benchmarks)/[^)#\s]+|[A-Z]+(?:\.md)?)(#[^)]*)?\)")

_BESIDE = re.compile(r"\]\(([\w-][\w./-]*\.(?:png|svg|webp|md))\)")


def on_config(config: Any) -> Any:
    """Pages that no menu names stand under "More": a new page is never lost, and never breaks the build."""
    listed = set(_pages_of(config["nav"]))
    docs = ROOT / "docs"
    others = sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))
    missing = [page for page in others if page not in listed]
    if missing:
        config["nav"] = [*config["nav"], {"More": missing}]
    return config


def _pages_of(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav
    return [page for item in items for page in _pages_of(item)]


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
