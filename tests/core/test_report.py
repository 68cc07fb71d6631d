"""The run's page: complete, self-contained, and safe to open."""

from __future__ import annotations

import base64
import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from vader_core.errors import VaderError
from vader_core.report import write_report
from vader_core.report.curves import Line, chart, smoothed, thinned, ticks
from vader_core.report.headline import GLOSSARY
from vader_core.run.record import curve
from vader_core.video import contact_sheet, write_video

HOSTILE = "</p><script>alert('x')</script> \"quoted\" & 'more' <img src=http://evil.example/x.png onerror=x>"
VOID = {"meta", "br", "img", "input", "link", "wbr"}

CONFIG = """\
backbone: {name: demo, weights: pretrained}
video: {height: 64, width: 64, num_frames: 8, fps: 8.0}
sampler: {name: rectified_flow, num_steps: 10}
objective: {reward_gradient: {gradient: last}}
reward: [{name: demo_aesthetic, weight: 1.0}]
monitor: [{name: demo_alignment}]
prompts: {source: demo}
"""


class Page(HTMLParser):
    """Parses strictly: every element that opens must close in order."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.broken = False

    def handle_starttag(self, tag, attrs):
        self.broken = tag == "wbr"
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.broken:  # a word that may break is one word
            self.text[-1] += data
        else:
            self.text.append(data)
        self.broken = False


def parsed(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def clip(red, frames=8):
    video = torch.full((frames, 3, 64, 64), 0.9)
    for index in range(frames):
        video[index, :, 20:44, 4 + 4 * index : 28 + 4 * index] = torch.tensor([red, 0.3, 0.2]).view(3, 1, 1)
    return video


def make_run(folder, *, steps=20, alarm=True, summary=True, best=0):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "environment.json").write_text(
        json.dumps({"time": "2025-01-02T03:04:05+00:00", "python": "3.11", "packages": {"torch": "2.6.0"}})
    )
    records = []
    for step in range(steps + 1):
        if step % 10 == 0:
            name = f"step-{step:06d}"
            records.append(
                {
                    "kind": "validation",
                    "step": step,
                    "rewards": {"demo_aesthetic": 6.2 + 0.1 * step},
                    "monitors": {"demo_alignment": 0.95 - 0.01 * step},
                    "watch": {"diversity": 0.2, "motion": 0.03, "base_distance": 0.01 * step},
                    "samples": f"samples/{name}",
                }
            )
            place = folder / "samples" / name
            videos = [clip(0.2 + 0.03 * step), clip(0.9)]
            prompts = ["a red square moves right", HOSTILE]
            for index, video in enumerate(videos):
                write_video(video, place / f"{index:02d}.mp4", 8)
            contact_sheet(videos, prompts, place / "contact_sheet.png")
            scores = {"demo_aesthetic": 6.2 + 0.1 * step, "demo_alignment": 0.9}
            (place / "prompts.json").write_text(
                json.dumps([{"prompt": prompt, "seed": 0, "scores": scores} for prompt in prompts])
            )
        if step == steps:
            break
        records.append(
            {
                "kind": "train",
                "step": step + 1,
                "loss": -6.2 - 0.1 * step,
                "grad_norm": float("nan") if step == 3 else 0.5 + 0.1 * math.sin(step),
                "learning_rate": 2e-4,
                "seconds": 1.5,
                "memory_gib": 1.25,
                "rewards": {"demo_aesthetic": 6.2 + 0.1 * step + 0.3 * math.sin(3 * step)},
                "skipped": step == 3,
                "reward_queries": 4 * (step + 1),
            }
        )
    if alarm:
        records.append({"kind": "alarm", "step": 10, "message": "demo_alignment fell <b>far</b>"})
    lines = [json.dumps(record) for record in records]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"kind": "train", "st')
    if summary:
        row = {"base": 6.2, "tuned": 8.4, "difference": 2.2, "ci95": [1.9, 2.5], "win_rate": 0.97}
        fallen = {"base": 0.95, "tuned": 0.75, "difference": -0.2, "ci95": [-0.3, -0.1], "win_rate": 0.2}
        (folder / "summary.json").write_text(
            json.dumps(
                {
                    "train_seconds": 33.0,
                    "steps": steps,
                    "reward_queries": 4 * steps,
                    "best_step": best,
                    "pairs": 64,
                    "evaluation": {"demo_aesthetic": row, "demo_alignment": fallen},
                }
            )
        )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


def test_the_page_holds_everything(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = parsed(path)
    text = " ".join(page.text)
    for expected in (
        "demo, aligned with demo_aesthetic",
        "6.20 →",
        "8.40",
        "+2.20, 95 % interval +1.90 to +2.50; better in 97% of 64 pairs",
        "demo was tuned for 20 steps, so that its clips score higher on demo_aesthetic; demo_alignment only",
        "80",
        "33 s",
        "64 held-out pairs",
        "−0.300 to −0.100",
        "monitored",
        "step 10",
        "demo_alignment fell <b>far</b>",
        "1 skipped as not finite",
        "distance from the base model",
        "1.25 GiB",
        "torch 2.6.0",
        "weights: pretrained",
        "a red square moves right",
        "base model",
        "step 20",
    ):
        assert expected in text, expected
    assert page.tags.count("video") == 4  # the base and the last validation, two prompts each
    assert page.tags.count("svg") == 1 + 5  # three validations are a table


def test_the_page_says_what_was_trained_and_how_it_is_read(tmp_path):
    folder = make_run(tmp_path / "told")
    about = {"demo": "a small text-to-video model.", "demo_aesthetic": "how vivid, outlined and sunlit"}
    (folder / "about.json").write_text(json.dumps(about))
    page = parsed(write_report(folder))
    text = " ".join(page.text)
    assert (
        "demo (a small text-to-video model) was tuned for 20 steps, so that its clips score higher on "
        "demo_aesthetic (how vivid, outlined and sunlit); demo_alignment only watched, as a check."
    ) in text
    assert "2 January 2025, 03:04 UTC" in text
    for word, meaning in GLOSSARY.items():
        assert word in page.text
        assert meaning in page.text
    assert page.tags.count("details") == 4  # how to read, timings, environment, configuration: all folded
    assert ("open", None) not in page.attributes


def test_a_fine_tune_speaks_of_no_reward(tmp_path):
    folder = make_run(tmp_path / "tuned", steps=0, alarm=False, summary=False)
    kept = [line for line in CONFIG.splitlines() if not line.startswith(("reward:", "monitor:"))]
    (folder / "config.yaml").write_text("\n".join([*kept, "data: {source: 'file:clips.csv'}", ""]))
    (folder / "metrics.jsonl").write_text(
        json.dumps({"kind": "train", "step": 1, "loss": 0.5, "seconds": 1.5, "reward_queries": 0}) + "\n"
    )
    told = {"train_seconds": 1.5, "steps": 1, "reward_queries": 0}
    (folder / "summary.json").write_text(json.dumps(told))
    text = parsed(write_report(folder)).text
    assert "training time" in text
    assert "held-out" in text
    for absent in ("reward queries", "reward", "monitor", "95 % interval", "pairs won"):
        assert absent not in text, absent


def test_a_score_is_one_line_from_before_to_after(run):
    source = write_report(run).read_text()
    found = re.search(r"<li>demo_<wbr>aesthetic(.*?)</li>", source, flags=re.S)[1]
    assert found == ' 6.20 → <b class="better">8.20</b>'


def test_the_page_has_a_dark_scheme_breaks_long_names_and_makes_cards_on_a_phone(run):
    """What it says; tests/studio/test_pages.py looks at it in a browser, dark and 390 pixels wide."""
    source = write_report(run).read_text()
    assert "@media (prefers-color-scheme: dark)" in source
    assert "@media print" in source
    assert "demo_<wbr>aesthetic" in source
    assert '<table class="rows">' in source
    assert '<td data-label="95 % interval">' in source


def test_commands_to_copy_name_the_run(run):
    copied = {value for name, value in parsed(write_report(run)).attributes if name == "data-copy"}
    assert copied == {
        "vader sample --lora demo --prompts 'text:…' --base --out clips",
        "vader train --resume demo --max-steps 40",
        "vader lora convert demo demo-peft --to peft",
    }


def test_the_picture_that_a_clip_starts_from_is_shown(tmp_path):
    folder = make_run(tmp_path / "pictured", steps=10)
    for place in (folder / "samples").iterdir():
        Image.new("RGB", (8, 8), "teal").save(place / "given.jpg")
        listed = json.loads((place / "prompts.json").read_text())
        (place / "prompts.json").write_text(json.dumps([{**one, "picture": "given.jpg"} for one in listed]))
    page = parsed(write_report(folder))
    assert page.text.count("given picture") == 2
    shown = [value for name, value in page.attributes if name == "src" and value.startswith("data:image")]
    assert base64.b64decode(shown[0].partition(",")[2]) == (place / "given.jpg").read_bytes()


def test_clips_are_inside_and_play_muted_in_a_loop(run):
    source = write_report(run).read_text()
    found = re.findall(r"<video ([^>]*)>", source)
    for attributes in found:
        for word in ("muted", "loop", "autoplay", "playsinline", "controls"):
            assert word in attributes.split()
    data = re.findall(r"data:video/mp4;base64,([A-Za-z0-9+/=]+)", source)
    folder = run / "samples"
    expected = [
        folder / step / name for name in ("00.mp4", "01.mp4") for step in ("step-000000", "step-000020")
    ]
    assert [base64.b64decode(one) for one in data] == [path.read_bytes() for path in expected]


def test_nothing_is_fetched(run):
    page = parsed(write_report(run))
    for name, value in page.attributes:
        assert not re.match(r"\s*(https?:)?//", value or ""), (name, value)
        if name in ("src", "href", "poster", "srcset", "action", "data"):
            assert value.startswith("data:")
    assert "link" not in page.tags
    styles = " ".join(text for text in page.text if "--paper" in text)
    assert "url(" not in styles
    assert "@import" not in styles


def test_prompts_are_escaped(run):
    page = parsed(write_report(run))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert all(name != "onerror" for name, _ in page.attributes)
    assert HOSTILE in page.text


def test_a_run_that_has_just_begun(tmp_path):
    folder = tmp_path / "young"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    page = parsed(write_report(folder))
    assert "not scored yet" in page.text
    assert "video" not in page.tags


def test_a_run_without_a_closing_evaluation(tmp_path):
    folder = make_run(tmp_path / "open", steps=10, alarm=False, summary=False)
    text = " ".join(parsed(write_report(folder)).text)
    assert "validation, base to step 10: +1.00" in text
    assert "No alarm was raised." in text
    assert "held-out pairs" not in text
    assert "15 s" in text


def test_the_best_step_stands_between_where_an_alarm_was_raised(tmp_path):
    page = parsed(write_report(make_run(tmp_path / "pushed", best=10)))
    assert page.tags.count("video") == 6
    assert "checkpoints/best holds step 10" in " ".join(page.text)
    calm = parsed(write_report(make_run(tmp_path / "calm", best=10, alarm=False)))
    assert calm.tags.count("video") == 4


def test_a_clip_that_is_missing_is_left_out(tmp_path):
    folder = make_run(tmp_path / "torn", steps=10)
    (folder / "samples" / "step-000000" / "00.mp4").unlink()
    assert parsed(write_report(folder)).tags.count("video") == 3


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(VaderError, match=r"not a run directory: it has no config\.yaml"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "summary.json").write_text("{torn")
    with pytest.raises(VaderError, match=r"summary\.json is not JSON"):
        write_report(tmp_path)


def test_curves_keep_their_values():
    assert curve([{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 3}], "loss") == [(2.0, 3.0)]
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert len(thinned([(i, 1.0) for i in range(10_000)])) <= 300
    flat = [(float(i), 2.0) for i in range(100)]
    assert smoothed(flat) == flat
    svg = chart("loss", [Line("loss", [(0.0, 1.0), (10.0, 3.0)])])
    left, right = (float(point.split(",")[1]) for point in re.search(r'points="([^"]*)"', svg)[1].split())
    assert left > right  # larger values stand higher
    assert chart("empty", [Line("loss", [])]) == ""
    assert ">optimizer step</text>" in svg
    assert "<circle" in chart("one", [Line("loss", [(5.0, 1.0)])])
