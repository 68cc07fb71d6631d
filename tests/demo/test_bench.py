"""``make bench``: the demo's weights come with it, so they are not drawn."""

from __future__ import annotations

import json

from click.testing import CliRunner

from vader_core.cli.bench import command


def test_bench_of_the_recipe_says_what_its_training_part_takes(tmp_path):
    out = tmp_path / "bench.json"
    given = ["--recipe", "demo", "--batch-size", "1", "--num-steps", "2", "--steps", "1", "--no-operations"]
    done = CliRunner().invoke(command, [*given, "--device", "cpu", "--out", str(out)], catch_exceptions=False)
    assert "training part, 12 steps, s" in done.output
    found = json.loads(out.read_text())
    assert found["training_seconds"] == 12 * found["seconds_per_step"]
    assert found["config"]["backbone"] == {"name": "demo"}
