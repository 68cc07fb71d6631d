"""Nothing outside the folders is read, and nothing that was typed is run: 500 hostile names and prompts."""

from __future__ import annotations

import random
from urllib.parse import quote

import pytest
from serving import places_in
from vader_studio.places import child

from vader_core.errors import VaderError

ROOTS = ["/files/runs/", "/files/clips/", "/runs/", "/batches/", "/whole/report/", "/static/"]
SECRET = b"the secret of this machine"
PARTS = ["..", ".", "/", "\\", "%2e%2e", "%2f", "..%2f", "%5c", "%00", "\0", "~", "a", "run", "etc", "passwd"]
PARTS += ["....//", "..;", "C:", "file:", "x.mp4", "secret.mp4", "secret.txt", "link", "link.mp4", ".hidden"]
WORDS = ["<script>alert(1)</script>", "</title><img src=x onerror=alert(1)>", "{{ 7*7 }}", "$(touch pwned)"]
WORDS += [
    "`touch pwned`",
    "; touch pwned",
    "' --config /etc/passwd",
    '"onfocus=alert(1) x="',
    "\u202e",
    "\r\nX: y",
]
WORDS += ["javascript:alert(1)", "-o run.trackers=[wandb]", "\x1b[2J", "!!python/object/apply:os.system [id]"]


@pytest.fixture
def trapped(folders):
    """A secret beside the folders, and links to it within them."""
    for name in ("secret.txt", "secret.mp4", "secret.jpg"):
        (folders / name).write_bytes(SECRET)
    run = folders / "runs" / "run"
    run.mkdir()
    (run / "config.yaml").write_text("backbone: {name: demo}\n")
    (run / "secret.txt").write_bytes(SECRET)
    (run / ".hidden.mp4").write_bytes(SECRET)
    batch = folders / "clips" / "batch"
    batch.mkdir()
    (batch / "prompts.json").write_text('[{"file": "../../secret.mp4"}, {"file": "link.mp4"}]')
    for folder in (run, batch, folders / "runs", folders / "clips"):
        (folder / "link.mp4").symlink_to(folders / "secret.mp4")
        (folder / "link").symlink_to(folders)
    return folders


def test_five_hundred_addresses_read_nothing(trapped, served):
    drawn = random.Random(0)
    fixed = [
        "/files/runs/../../secret.mp4",
        "/files/runs/%2e%2e/secret.mp4",
        "/files/runs/run/link.mp4",
        "/files/runs/link/secret.mp4",
        "/files/runs/run/secret.txt",
        "/files/runs/run/config.yaml",
        "/files/runs/run/.hidden.mp4",
        "/files/clips/batch/link.mp4",
        "/files/state/jobs/x/job.json",
        "/whole/comparison/link",
        "/whole/report/link",
        "/runs/link",
        "/runs/..",
        "/runs/%2e%2e%2fclips",
        "/batches/link",
        "/static/..%2fplaces.py",
    ]
    made = []
    while len(made) + len(fixed) < 500:
        root = drawn.choice(
            ["/files/runs/", "/files/clips/", "/runs/", "/batches/", "/whole/report/", "/static/"]
        )
        words = [drawn.choice(PARTS) for _ in range(drawn.randint(1, 6))]
        text = drawn.choice(["/", ""]).join(words)
        made.append(root + (quote(text) if drawn.random() < 0.5 else quote(text, safe="/%.;:~\\")))
    for path in (*fixed, *made):
        answer = served.ask(path)
        assert SECRET not in answer.body, path
        assert answer.status < 500, (path, answer.text)
    assert SECRET not in served.ask("/batches/batch").body


@pytest.mark.slow
def test_five_hundred_hostile_requests_read_and_run_nothing(trapped, served):
    drawn = random.Random(1)
    outside = [
        str(trapped / "secret.txt"),
        "/etc/passwd",
        "~/.ssh/id_rsa",
        "../secret.txt",
        "./link/secret.txt",
    ]
    outside += [f"file:{trapped / 'secret.txt'}", f"images:{trapped}", "videos:/", "cache:~"]
    for number in range(500):
        words = drawn.choice(WORDS)
        asked = {
            "values": {
                drawn.choice(["backbone.weights", "sampler.path", "performance.x"]): drawn.choice(outside)
            },
            "prompt": words,
            "loras": [[drawn.choice(outside[:5]), drawn.choice([1, "x", None, 1e300])]],
            "count": drawn.choice([1, 0, -1, 10**9, "x", None, [], {}]),
            "rewards": [drawn.choice(["demo_aesthetic", "./evil.py:score", "os:system", words])],
            "run": drawn.choice(["", "..", "link", words]),
            "image": drawn.choice(["", "../secret.jpg", words]),
        }
        kept = drawn.choice(list(asked))
        asked = {"values": {}, "prompt": "a ball", "count": 1} | {kept: asked[kept]}
        if kept == "prompt" and number % 2:
            asked["prompt"] = f'x{{"reference_path": "{drawn.choice(outside[:5])}"}}'
        address = drawn.choice(["/api/sample", "/api/compare"])
        answer = served.ask(address, body=asked)
        assert answer.status in (200, 400), (asked, answer.text)
        if answer.status == 200:
            assert kept in ("prompt", "count", "rewards", "run", "image"), asked
            assert "reference_path" not in asked["prompt"], asked
            assert asked.get("rewards", ["demo_aesthetic"]) == ["demo_aesthetic"], asked
        assert SECRET.decode() not in answer.text
    for name in WORDS:
        answer = served.ask("/api/runs", body={"recipe": "demo", "name": name, "options": ""})
        assert answer.status == 400, name
    assert not list(trapped.rglob("pwned"))


@pytest.mark.parametrize(
    "line",
    [
        "prompts.source=file:/etc/passwd",
        "data.source=videos:/",
        "backbone.weights=/etc/passwd",
        "lora.start=../../secret",
        "run.out=~",
        "reward.x.weights=/etc/passwd",
        "not a line",
    ],
)
def test_a_run_reads_nothing_from_elsewhere(served, line):
    answer = served.ask("/api/plan", body={"recipe": "demo", "name": "x", "options": line})
    assert answer.status == 400
    assert answer.json["key"] == "options"


def test_what_lies_in_the_folders_may_be_named(folders):
    places = places_in(folders)
    inside = folders / "loras" / "a.safetensors"
    inside.write_bytes(b"x")
    places.check({"backbone": {"weights": str(inside)}, "video": {"height": "64"}, "n": "7:1"})
    places.check({"prompts": {"source": "text: a/b or /etc/passwd are words here"}})
    (folders / "loras" / "out").symlink_to(folders)
    with pytest.raises(VaderError, match="outside the folders"):
        places.check({"weights": str(folders / "loras" / "out" / "secret.txt")})
    assert child(folders, "loras", "out") is None
    assert child(folders, "loras", "..") is None
    assert child(folders, "loras", "a.safetensors") == inside


def test_uploads_are_pictures_or_clips(served):
    for data in (
        b"",
        b"#!/bin/sh\necho",
        b"<svg onload=alert(1)>",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
        b"GIF89a",
    ):
        answer = served.ask("/api/uploads", method="POST", body=data)
        assert answer.status == 400, data
    assert not list((served.studio.places.state / "uploads").glob("*.*"))
