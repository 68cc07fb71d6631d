"""The timing command and its table; the times themselves are never asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from vader_rewards import measure

from vader_core.errors import VaderError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_reward_has_a_row():
    assert {name for name, _ in measure.ROWS.values()} == set(measure.REWARDS) - {"http"}


@pytest.mark.parametrize("row", ["viclip", "jpeg_size"])
def test_a_measurement(row, monkeypatch):
    name, given = measure.ROWS[row]
    small = {**given, "architecture": "tiny"} if given else given
    monkeypatch.setitem(measure.ROWS, row, (name, small))
    found = measure.measure(row, torch.device("cpu"), "fp32", repeats=1)
    assert found["forward_ms"] > 0
    assert (found["backward_ms"] is None) == (row == "jpeg_size")
    assert found["peak_gib"] >= found["before_gib"] > 0


def test_the_table_has_a_row_a_reward_and_two_columns_a_file(tmp_path):
    one = {"forward_ms": 1234.5, "backward_ms": 10.0, "peak_gib": 1.25, "before_gib": 1.0}
    first = {
        "precision": "fp32",
        "machine": "M",
        "rewards": {"a": one, "b tiny": {**one, "backward_ms": None}},
    }
    second = {"precision": "bf16", "machine": "N", "rewards": {"a": one}}
    lines = measure.table([first, second]).splitlines()
    assert lines[2] == "| `a` | 1,234 + 10 | 1.2 | 1,234 + 10 | 1.2 |"
    assert lines[3] == "| `b` (tiny) | 1,234 + no gradient | 1.2 | not measured |  |"
    assert {line.count("|") for line in lines} == {6}
    page = tmp_path / "page.md"
    page.write_text(f"x\n{measure.BEGIN}\nold\n{measure.END}\ny\n", encoding="utf-8")
    files = []
    for index, result in enumerate((first, second)):
        files.append(tmp_path / f"{index}.json")
        files[-1].write_text(json.dumps(result), encoding="utf-8")
    measure.render(files, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"x\n{measure.BEGIN}\n| reward |")
    assert text.endswith(f"{measure.END}\ny\n")
    assert "old" not in text
    measure.render(files, page)
    assert page.read_text(encoding="utf-8") == text
    with pytest.raises(VaderError, match="no place for the table"):
        measure.replaced("x", "t")


def test_the_page_shows_the_stored_results():
    stored = sorted((REPOSITORY / "benchmarks" / "results").glob("rewards-*.json"))
    results = [json.loads(path.read_text(encoding="utf-8")) for path in stored]
    assert results
    page = (REPOSITORY / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert measure.replaced(page, measure.table(results)) == page
