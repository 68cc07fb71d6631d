"""From footage to a trained adapter: the two commands of docs/data.md, one after the other, on the demo."""

from __future__ import annotations

import footage
import pytest
import server

from vader_core.cli import run as vader


@pytest.mark.slow
def test_footage_is_learned_from(tmp_path, capsys):
    for number in range(3):
        frames = footage.scenes(40, 40, seed=2 * number, height=96, width=96, speed=1)
        footage.write(tmp_path / "footage" / f"{number}.mp4", frames, fps=8)
    clips = tmp_path / "clips"
    with server.captioner(lambda *_: "The video shows a red ball moving left") as state:
        data = [
            "data",
            "run",
            str(tmp_path / "footage"),
            "--out",
            str(clips),
            "--engine",
            "process",
            "--captions",
            "openai",
            "-o",
            f"captions.options.url={state.url}",
            "-o",
            "captions.options.model=local",
            "-o",
            "cut.min_seconds=1",
            "-o",
            "scorers.text_area=none",
            "-o",
            "duplicates.distance=none",
            "-o",
            "exports=opensora_csv,easyanimate_json",
        ]
        assert vader(data) == 0
    for table in ("opensora.csv", "easyanimate.json"):
        train = ["train", "--backbone", "demo", "--data", f"file:{clips / table}", "--max-steps", "1"]
        train += ["-o", "validation.prompts=0", "-o", "run.trackers=[]"]
        out = tmp_path / f"run-{table}"
        code = vader([*train, "--out", str(out)])
        told = capsys.readouterr()
        assert code == 0, told.err
        assert (out / "config.yaml").is_file()
