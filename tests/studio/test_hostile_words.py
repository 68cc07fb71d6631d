"""Sixty hostile prompts, names and messages on the studio's pages: words they stay."""

from __future__ import annotations

import json

import pytest
from hostile import WORDS, Page, as_name
from serving import Served, make_studio
from vader_studio.jobs import new_job

PLAIN = tuple(f"word {number}" for number in range(len(WORDS)))


def filled(folder, words):
    """Sixty batches, runs, adapters and failed jobs, each named and worded by a word."""
    for index, word in enumerate(words):
        name = f"{index:02d} {as_name(word)}"
        batch = folder / "clips" / name
        batch.mkdir(parents=True)
        for file in ("a.mp4", "b.mp4"):
            (batch / file).write_bytes(b"a clip")
        entries = [
            {"file": file, "prompt": word, "seed": word, "scores": {word: 1}} for file in ("a.mp4", "b.mp4")
        ]
        (batch / "prompts.json").write_text(json.dumps(entries))
        (batch / "compare.html").write_text("")
        job = new_job(folder / "state" / "jobs", "sample", word, {"prompt": word, "out": str(batch)})
        job.state, job.message = "failed", word
        job.save()
        run = folder / "runs" / name
        (run / "checkpoints" / "step-000001").mkdir(parents=True)
        word = word.encode(errors="replace").decode()  # YAML knows no half pairs
        config = {"backbone": {"name": word}, "reward": [{"name": word}]}
        (run / "config.yaml").write_text(json.dumps(config, ensure_ascii=False))
        (run / "summary.json").write_text(json.dumps({"evaluation": {word: {"base": 1, "tuned": 2}}}))
    return folder


@pytest.fixture(scope="module")
def studios(tmp_path_factory):
    with (
        Served(make_studio(filled(tmp_path_factory.mktemp("hostile"), WORDS))) as hostile,
        Served(make_studio(filled(tmp_path_factory.mktemp("plain"), PLAIN))) as plain,
    ):
        yield hostile, plain


def shown(served, address):
    answer = served.ask(address, headers={"Accept": "text/html"})
    assert answer.status == 200, (address, answer.text[-400:])
    return Page(answer.body.decode("utf-8"))


def sound(found, plain):
    """A whole page; its icon alone is no address of the studio's."""
    sound_part(found, plain, ["data:,"])


def sound_part(found, plain, others=()):
    assert found.shape() == plain.shape()
    assert found.handlers() == []
    assert found.others == []
    outside = [one for one in found.addresses() if not one.startswith("/") or one.startswith("//")]
    assert outside == list(others)
    assert not any(mark in found.text for mark in "\0\x1b\ud83d\udce9")


@pytest.mark.parametrize(
    "address", ["/runs", "/batches", "/compare", "/queue", "/generate", "/label", "/new-run"]
)
def test_the_pages_have_no_other_elements(studios, address):
    sound(*(shown(served, address) for served in studios))


def test_each_batch_and_each_run_has_its_page(studios):
    def links(served, address, start):
        return [one for one in shown(served, address).addresses() if one.startswith(start)]

    for address, start in (("/batches", "/batches/"), ("/runs", "/runs/")):
        for found, plain in zip(*(links(served, address, start) for served in studios), strict=True):
            sound(shown(studios[0], found), shown(studios[1], plain))


def test_each_jobs_message_is_text(studios):
    jobs = [served.studio.queue.jobs(100) for served in studios]
    assert [len(those) for those in jobs] == [60, 60]
    for found, plain in zip(*jobs, strict=True):
        sound_part(*(shown(*one) for one in zip(studios, map(body_of, (found, plain)), strict=True)))
    told = {job["name"]: job["title"] for job in studios[0].ask("/api/jobs").json["jobs"]}
    assert set(told.values()) <= set(WORDS)


def body_of(job):
    return f"/jobs/{job.name}/body"


def test_each_pair_is_to_be_judged_and_is_written(studios):
    served, _ = studios
    for number in range(len(WORDS)):
        found = shown(served, "/label")
        (files,) = [json.loads(attrs["data-files"]) for _, attrs in found.elements if "data-files" in attrs]
        answer = served.ask("/api/label", body={"chosen": files[0], "rejected": files[1]})
        assert answer.json == {"judged": number + 1}


def test_a_job_of_half_a_pair_is_a_mistake_beside_its_field(studios):
    answer = studios[0].ask("/api/sample", body={"values": {}, "prompt": "a \ud83d", "count": 1, "loras": []})
    assert (answer.status, answer.json["key"]) == (400, "prompt")
