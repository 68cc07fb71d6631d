"""The run's page when the run directory comes from someone else: its files are data, never markup."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from hostile import PAYLOADS, Page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vader_core.cli import run as vader
from vader_core.errors import VaderError
from vader_core.report import write_report
from vader_core.report.page import page
from vader_core.run.record import read_record


def files(word):
    """A run's files by name, with ``word`` in every text and every free name."""
    row = {"base": 6.2, "tuned": 8.4, "difference": 2.2, "ci95": [1.9, 2.5], "win_rate": 0.97}
    config = {
        "backbone": {"name": word, "weights": word},
        "video": {"height": word, "width": word, "num_frames": word},
        "sampler": {"name": word, "num_steps": word},
        "objective": {"reward_gradient": {"gradient": word}},
        "reward": [{"name": f"reward {word}"}],
        "monitor": [{"name": f"monitor {word}"}],
        "prompts": {"source": word},
    }
    environment = {
        "time": word,
        "command": [word, word],
        "packages": {f"{word} name": word},
        f"{word} key": word,
    }
    figures = {"loss": -1.5, "grad_norm": 0.5, "learning_rate": 2e-4, "seconds": 1.5, "memory_gib": 1.25}
    metrics = []
    for step in range(4):
        rewards, monitors = {f"reward {word}": 6.0 + step}, {f"monitor {word}": 0.9, f"seen {word}": 0.8}
        watch = {"motion": 0.03, f"{word} watched": 0.1}
        metrics += [
            {"kind": "validation", "step": step, "rewards": rewards, "monitors": monitors, "watch": watch},
            {"kind": "train", "step": step + 1, "rewards": rewards, "skipped": step == 2, "reward_queries": 4}
            | figures,
        ]
    metrics.append({"kind": "alarm", "step": 1, "message": word})
    clips = [
        {"prompt": f"{prompt} {word}", "seed": seed, "scores": {f"score {word}": 1.5}}
        for prompt in ("first", "second")
        for seed in (0, 1)
    ]
    summary = {
        "train_seconds": 33.0,
        "steps": 4,
        "reward_queries": 16,
        "skipped_steps": 1,
        "best_step": 2,
        "pairs": 64,
        f"{word}_seconds": 3.5,
        "evaluation": {f"reward {word}": row, f"monitor {word}": row},
    }
    return {
        "config.yaml": config,
        "environment.json": environment,
        "metrics.jsonl": metrics,
        "summary.json": summary,
        **{f"samples/step-00000{step}/prompts.json": clips for step in (0, 2, 3)},
    }


def written(folder, tree):
    """A run directory with these files, and a clip for each entry of a list of prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "config.yaml":
            text = yaml.safe_dump(content)
        elif name == "metrics.jsonl" and isinstance(content, list):
            text = "".join(json.dumps(line) + "\n" for line in content)
        else:
            text = json.dumps(content)
        path.write_text(text)
        if name.endswith("prompts.json"):
            for index in range(4):
                (path.parent / f"{index:02d}.mp4").write_bytes(f"{name} {index}".encode())
    return folder


def shown(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return shown(written(tmp_path_factory.mktemp("plain") / "run", files("word")))


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_markup_in_every_field_is_text(tmp_path, plain, payload):
    found = shown(written(tmp_path / "run", files(payload)))
    assert found.skeleton() == plain.skeleton()
    assert found.others == plain.others == []
    assert found.text.count(payload) >= 40  # the configuration's own text wraps long lines
    labels = [attrs["aria-label"] for _, attrs in found.elements if "aria-label" in attrs]
    assert sum(payload in label for label in labels) >= 12
    assert "Left out" not in found.text


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_markup_in_what_is_left_out_is_text(tmp_path, payload):
    tree = files("word")
    tree["environment.json"] |= {payload[:80]: [[payload]]}
    tree["summary.json"]["evaluation"] |= {payload[:80]: payload}
    tree["metrics.jsonl"][0]["rewards"] |= {payload[:80]: payload}
    found = shown(written(tmp_path / "run", tree))
    left_out = found.text[found.text.index("Left out") :]
    assert left_out.count(payload[:80]) >= 3
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"img", "link", "iframe", "base", "a", "foreignobject", "object", "embed", "form"}
    assert [tag for tag, _ in found.elements].count("script") == 1


def test_markup_in_the_name_of_the_folder_is_text(tmp_path, plain):
    found = shown(
        written(tmp_path / '<script>alert("1")<&' / "<img src=x onerror='alert(1)'>", files("word"))
    )
    assert found.skeleton() == plain.skeleton()
    assert "<img src=x onerror='alert(1)'>" in found.text


def test_the_page_asks_for_nothing_and_its_policy_forbids_the_rest(plain):
    for tag, attrs in plain.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("style", "srcset", "href")]
        if "src" in attrs:
            assert tag == "video"
            assert attrs["src"].startswith("data:video/mp4;base64,")
    (policy,) = [attrs["content"] for _, attrs in plain.elements if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_characters_that_no_page_can_hold_are_replaced(tmp_path):
    word = "a\ud800b\x00c\x1b[31md"
    tree = files("word")
    tree["environment.json"] = {"time": word}
    tree["metrics.jsonl"].append({"kind": "alarm", "step": 1, "message": word})
    found = shown(written(tmp_path / "run", tree))
    assert "a\ufffdb\ufffdc\ufffd[31md" in found.text
    assert not any(char in found.text for char in "\x00\x1b")


# -- links ---------------------------------------------------------------------------------------------------


def test_clips_that_are_links_out_of_the_run_are_named_and_left_out(tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"nobody's business")
    folder = written(tmp_path / "run", files("word"))
    clip = folder / "samples" / "step-000003" / "00.mp4"
    clip.unlink()
    clip.symlink_to(secret)
    other = folder / "samples" / "step-000000" / "01.mp4"
    other.unlink()
    other.symlink_to("../../../secret.mp4")
    circle = folder / "samples" / "step-000002" / "03.mp4"
    circle.unlink()
    circle.symlink_to("03.mp4")
    found = shown(folder)
    assert "samples/step-000003/00.mp4: is a link out of the run directory" in found.text
    assert "samples/step-000000/01.mp4: is a link out of the run directory" in found.text
    assert "samples/step-000002/03.mp4: is a link out of the run directory" in found.text
    assert [tag for tag, _ in found.elements].count("video") == 9 - 2
    assert "bm9ib2R5J3MgYnVzaW5lc3M" not in (folder / "report.html").read_text()


def test_a_folder_of_samples_that_is_a_link_out_is_left_out(tmp_path):
    folder = written(tmp_path / "run", files("word"))
    (folder / "samples").rename(tmp_path / "elsewhere")
    (folder / "samples").symlink_to(tmp_path / "elsewhere")
    found = shown(folder)
    assert "video" not in [tag for tag, _ in found.elements]
    assert "samples/step-000003/prompts.json: is a link out of the run directory" in found.text


@pytest.mark.parametrize("name", ["summary.json", "environment.json", "metrics.jsonl"])
def test_other_files_that_are_links_out_are_named_and_left_out(tmp_path, name):
    folder = written(tmp_path / "run", files("word"))
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name}: is a link out of the run directory" in shown(folder).text


def test_a_link_within_the_run_and_a_link_to_the_run_are_followed(tmp_path):
    folder = written(tmp_path / "run", files("word"))
    clip = folder / "samples" / "step-000003" / "00.mp4"
    clip.rename(clip.with_name("kept.mp4"))
    clip.symlink_to("kept.mp4")
    (tmp_path / "link").symlink_to(folder)
    found = shown(tmp_path / "link")
    assert "Left out" not in found.text
    assert [tag for tag, _ in found.elements].count("video") == 12


def test_a_missing_clip_is_named(tmp_path):
    folder = written(tmp_path / "run", files("word"))
    (folder / "samples" / "step-000003" / "02.mp4").unlink()
    assert "samples/step-000003/02.mp4: is missing" in shown(folder).text


# -- types and depth -----------------------------------------------------------------------------------------

NUMBERS = (-1, 1.5, 10**400, 1e308, float("nan"), float("-inf"))
WRONG = (None, True, "text", *NUMBERS, [], {}, [[1]], {"a": {"b": [1]}})
FILES = (
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "summary.json",
    "samples/step-000003/prompts.json",
)


def leaves(value, path=()):
    """The place of every value within a JSON value, containers included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from leaves(item, (*path, key))


def with_value(tree, path, value):
    if not path:
        return value
    changed = copy.deepcopy(tree)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_value_anywhere_is_named_or_ends_in_one_message(tmp_path, name):
    tree = {"config.yaml": {"reward": [{"name": "reward word"}]}, name: files("word")[name]}
    if name == "metrics.jsonl":  # two lines of one kind say no more than one
        tree[name] = tree[name][:2] + tree[name][-1:]
    elif name.endswith("prompts.json"):
        tree[name] = tree[name][:2]
    folder = written(tmp_path / "run", tree)
    refused, named = [], 0
    for path in list(leaves(tree[name])):
        for wrong in WRONG:
            if name == "config.yaml" and wrong == 10**400:  # PyYAML does not write it
                continue
            written(folder, {name: with_value(tree[name], path, wrong)})
            try:
                named += "<h2>Left out</h2>" in page(read_record(folder))
            except VaderError as error:
                refused.append((path, str(error)))
    assert named >= len(WRONG)
    assert all(path == () and name in message for path, message in refused)  # only a whole file is refused
    assert len(refused) >= 5 or name == "metrics.jsonl"  # of which every line stands for itself


@pytest.mark.parametrize("name", ["environment.json", "summary.json", "samples/step-000003/prompts.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{torn", "is not JSON"),
        (b"", "is not JSON"),
        (b'"text"', "must hold a JSON"),
        (b"7" * 5000, "is not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_a_file_of_the_wrong_form_ends_in_one_message(tmp_path, capsys, name, content, message):
    folder = written(tmp_path / "run", files("word"))
    (folder / name).write_bytes(content)
    assert vader(["report", str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert message in told
    assert name in told
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"a: [",
        b"[1, 2]",
        b"text",
        b"[" * 1500,
        b"a: !!int ''",
        b"a: !!bool x",
        b"a: !!timestamp x",
        b"a: 2025-99-99",
        b"a: !!python/object:os.system {}",
        b"a: " + b"9" * 5000,
        b"? [1]\n: 2",
        b"a: &a [*a, *b]",
        b"\xff\xfe\x00",
        b"a: \x00",
    ],
)
def test_a_configuration_of_the_wrong_form_ends_in_one_message(tmp_path, capsys, content):
    folder = written(tmp_path / "run", {})
    (folder / "config.yaml").write_bytes(content)
    assert vader(["report", str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "config.yaml" in told


def test_a_configuration_that_repeats_itself_is_not_unfolded(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    lines += [
        "objective: {reward_gradient: {gradient: *a11}}",
        "backbone: {name: *a11}",
        "reward: &r [{name: *r}]",
    ]
    folder = written(tmp_path / "run", {})
    (folder / "config.yaml").write_text("\n".join(lines))
    text = shown(folder).text
    for place in ("objective.reward_gradient.gradient", "backbone.name", "reward.0"):
        assert f"config.yaml: {place} must be text, not a nested list" in text


def test_a_torn_last_line_is_no_omission_but_one_before_it_is(tmp_path):
    folder = written(tmp_path / "run", files("word"))
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "tra')
    assert "Left out" not in shown(folder).text
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('\n[1]\n{"kind": "train"}\n' + "[" * 100_000 + "\n")
    text = shown(folder).text
    for line in ("10 is not JSON", "11 must hold a JSON object", "12 has no step", "13 is not JSON"):
        assert f"metrics.jsonl: line {line}" in text
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write("x\n" * 50)
    text = shown(folder).text
    assert "metrics.jsonl: line 10 is not JSON" in text
    assert "metrics.jsonl: 42 more" in text


def test_a_clip_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    folder = written(tmp_path / "run", files("word"))
    read = type(folder).read_bytes

    def refusing(path):
        if path.parts[-2:] == ("step-000003", "01.mp4"):
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(type(folder), "read_bytes", refusing)
    found = shown(folder)
    assert "samples/step-000003/01.mp4: cannot be read (Permission denied)" in found.text
    assert [tag for tag, _ in found.elements].count("video") == 11


@pytest.mark.parametrize("made", ["nothing", "file", "circle", "folder"])
def test_what_is_no_run_ends_in_one_message(tmp_path, capsys, made):
    place = tmp_path / "place"
    if made == "file":
        place.write_text("text")
    elif made == "circle":
        place.symlink_to(place)
    elif made == "folder":
        (place / "config.yaml").mkdir(parents=True)
    assert vader(["report", str(place)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_name_that_no_path_can_have_ends_in_one_message(tmp_path, capsys):
    assert vader(["report", str(tmp_path / ("x" * 5000))]) == 2
    assert capsys.readouterr().err.count("\n") == 1


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "kind",
    "step",
    "rewards",
    "evaluation",
    "ci95",
    "seconds",
    "prompt",
    "seed",
    "scores",
    "steps",
    "pairs",
)
ODD = st.dictionaries(st.sampled_from(NAMES), ANY | st.dictionaries(st.sampled_from(NAMES), ANY), max_size=5)


@given(summary=ODD, environment=ODD, prompts=st.lists(ODD, max_size=3), metrics=st.lists(ODD, max_size=3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_makes_a_page(tmp_path, plain, summary, environment, prompts, metrics):
    known = {tag for tag, _ in plain.elements} | {"ul", "li", "/ul", "/li"}
    tree = {"config.yaml": {"reward": [{"name": "step"}]}, "summary.json": summary}
    tree |= {
        "environment.json": environment,
        "samples/step-0/prompts.json": prompts,
        "metrics.jsonl": metrics,
    }
    found = Page(page(read_record(written(tmp_path / "any", tree))))
    assert {tag for tag, _ in found.elements} <= known
    assert found.others == []
