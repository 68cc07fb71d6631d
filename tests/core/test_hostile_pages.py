"""Sixty hostile prompts, names, seeds and summaries on every page that the core writes."""

from __future__ import annotations

import json

import pytest
import yaml
from hostile import WORDS, Page, as_name

from vader_core.api import export_site
from vader_core.report import write_report
from vader_core.report.batch import write_batch_page
from vader_core.report.clips import Gallery, Pair, Side, changes
from vader_core.report.comparison import Cell, Compared, write_comparison
from vader_core.report.suite_page import suite_page

PLAIN = tuple(f"word {number}" for number in range(len(WORDS)))
MEANS = {"base": 6.2, "tuned": 8.4, "difference": 2.2, "ci95": [1.9, 2.5], "win_rate": 0.97}


def made_run(folder, words):
    """A run directory with each word in every place that takes one."""
    samples = folder / "samples" / "step-000002"
    samples.mkdir(parents=True)
    config = {
        "backbone": {"name": words[0], "weights": words[1]},
        "sampler": {"name": words[2]},
        "reward": [{"name": word} for word in words],
        "prompts": {"source": words[3]},
    }
    scores = dict.fromkeys(words, 1.5)
    metrics = [{"kind": "train", "step": 1, "rewards": scores, "loss": 1.0, "seconds": 1.0}]
    metrics += [{"kind": "validation", "step": 2, "rewards": scores, "monitors": scores, "watch": scores}]
    metrics += [{"kind": "alarm", "step": 2, "message": word} for word in words]
    clips = [{"prompt": word, "seed": word, "scores": {word: 1.5}} for word in words]
    summary = {"steps": 2, "evaluation": dict.fromkeys(words, MEANS)} | {word: word for word in words}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps({word: word for word in words}))
    (folder / "about.json").write_text(json.dumps({word: word for word in words}))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (samples / "prompts.json").write_text(json.dumps(clips))
    for index in range(len(words)):
        (samples / f"{index:02d}.mp4").write_bytes(b"a clip")
    return folder


def report(folder, words):
    return write_report(made_run(folder / "run", words)).read_text(encoding="utf-8")


def clips(folder, words):
    """The page of a folder of clips, of a hostile name itself."""
    place = folder / as_name(words[0])
    place.mkdir()
    entries = []
    for index, word in enumerate(words):
        (place / f"{index}.mp4").write_bytes(b"a clip")
        entry = {
            "file": f"{index}.mp4",
            "prompt": word,
            "negative": word,
            "seed": index,
            "scores": {word: 1.0},
        }
        entry |= {"settings": {word: word}, "command": ["vader", word]}
        entries.append(entry)
    for index, word in enumerate(words):  # and what is left out, by name
        wrong = {"file": word, "prompt": index, "seed": word, "scores": {word: word}, "settings": word}
        entries.append(wrong)
    (place / "prompts.json").write_text(json.dumps(entries))
    return write_batch_page(place).read_text(encoding="utf-8")


def compared(folder, words):
    side = [Side(word, word, "data:video/mp4;base64,AA==", word == words[-1]) for word in words]
    pairs = [Pair(word, 7, side[:2], changes([{word: 1.0}, {word: 2.0}])) for word in words]
    cells = {word: [Cell(1.0), Cell(2.0, 1.0, 0.5, 1.5, 0.9)] for word in words}
    found = Compared(
        title=" and ".join(words),
        columns=list(words[:2]),
        rewards=cells,
        statistics={word: [1.0, 2.0] for word in words},
        clips=Gallery(pairs, len(pairs), 2, with_seeds=True, unreadable=[]),
        pairs=len(pairs),
        settings={word: word for word in words},
    )
    return write_comparison(found, folder / "compare.html").read_text(encoding="utf-8")


def site(folder, words):
    """The index of a site of sixty runs, each named by a word."""
    places = []
    for index, word in enumerate(words):
        place = folder / f"{index:02d} {as_name(word)}"
        place.mkdir()
        (place / "config.yaml").write_text(yaml.safe_dump({"backbone": {"name": word}}))
        summary = {"steps": 2, "evaluation": {word: MEANS}}
        (place / "summary.json").write_text(json.dumps(summary))
        places.append(place)
    return export_site(places, folder / "site").read_text(encoding="utf-8")


def suite(folder, words):
    rows = {word: {"clips": 2, "base": 1.0, "tuned": 2.0} for word in words}
    told = {
        "suite": words[0],
        "lora": words[1],
        "dimensions": rows,
        "left_out": {word: word for word in words},
    }
    return suite_page(told)


@pytest.mark.parametrize("page", [report, clips, compared, site, suite], ids=lambda page: page.__name__)
def test_sixty_hostile_words_are_words(tmp_path, page):
    found, plain = (
        Page(page(tmp_path / name, words))
        for name, words in (("a", WORDS), ("b", PLAIN))
        if (tmp_path / name).mkdir() is None
    )
    assert len(set(WORDS)) == 60
    assert found.shape() == plain.shape()
    assert found.handlers() == []
    assert found.others == []
    asked = [one for one in found.addresses() if not one.startswith("data:video/mp4;base64,")]
    assert [one for one in asked if "//" in one or ":" in one] == []
    shown = [word for word in WORDS if word.isprintable() and "\ufeff" not in word]
    assert [word for word in shown if word not in found.text] == []
    assert not any(mark in found.text for mark in "\0\x1b\ud83d\udce9")
    if page is not suite:
        (policy,) = [attrs["content"] for _, attrs in found.elements if "http-equiv" in attrs]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
