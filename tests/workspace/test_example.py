"""The example plugin beside the core and the demo alone: checked, and trained on."""

import json

import pytest


@pytest.mark.soak
def test_the_example_reward_is_raised_beside_core_and_demo_alone(make_environment, wheels, tmp_path):
    environment = make_environment(*(wheels[name] for name in ("vader-core", "vader-demo", "vader-example")))
    assert environment.registry()["plugins"] == ["builtin", "demo", "example"]
    faster = ("--lr", "2e-3", "--max-steps", "3", "--num-steps", "3", "-o", "run.trackers=[]")
    few = ("-o", "validation.prompts=2", "-o", "validation.seeds=1")
    with environment.warm(tmp_path, everything=False) as run:
        code, said = run("vader", "check", "reward", "example_redness")
        assert code == 0, said
        code, said = run("vader", "train", "--reward", "example_redness", *faster, *few, "--out", "run")
        assert code == 0, said
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    redness = [line["rewards"]["example_redness"] for line in lines if line["kind"] == "validation"]
    assert redness[-1] > redness[0] + 0.03
