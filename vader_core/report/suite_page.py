"""The page of a suite: a table of its dimensions, base beside tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from vader_core.printable import printable

_PAGE = Markup(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body{{font:16px/1.5 sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;width:100%}}
td,th{{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:right}}
td:first-child,th:first-child{{text-align:left}}</style></head>
<body><h1>{title}</h1><p>{lora}</p>
<table><thead><tr><th>dimension</th><th>clips</th><th>base</th><th>tuned</th><th>difference</th></tr></thead>
<tbody>{rows}</tbody></table>
<h2>Left out</h2><ul>{left_out}</ul></body></html>
"""
)
_ROW = Markup("<tr><td>{}</td><td>{}</td><td>{:.4f}</td><td>{:.4f}</td><td>{:+.4f}</td></tr>\n")


def suite_page(result: Mapping[str, Any]) -> str:
    """The page as text; whatever the result says is shown as text, never as markup.

    Args:
        result: Of :func:`vader_core.api.suite.evaluate_suite`.
    """
    rows = Markup("").join(
        _ROW.format(name, row["clips"], row["base"], row["tuned"], row["tuned"] - row["base"])
        for name, row in result["dimensions"].items()
    )
    left_out = Markup("").join(
        Markup("<li>{}: {}</li>\n").format(name, reason) for name, reason in result["left_out"].items()
    )
    title = escape(f"Suite {result['suite']}")
    return printable(_PAGE.format(title=title, lora=escape(result["lora"]), rows=rows, left_out=left_out))
