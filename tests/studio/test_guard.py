"""Who is answered, and what no page of another site can do."""

from __future__ import annotations

import pytest
from serving import Served, make_studio

JOB = {"values": {}, "prompt": "a red ball", "count": 1}


def test_only_its_own_names_are_answered(served):
    assert served.ask("/runs").status == 200
    assert served.ask("/runs", headers={"Host": f"localhost:{served.port}"}).status == 200
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1.evil.example", "", None):
        assert served.ask("/runs", headers={"Host": host}).status in (400, 421), host


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Vader-Studio": None},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"X-Vader-Studio": None, "Content-Type": "text/plain"},
    ],
)
def test_another_sites_page_changes_nothing(served, headers):
    assert served.ask("/api/sample", body=JOB, headers=headers).status == 403
    assert served.studio.queue.jobs() == []
    assert served.ask("/api/sample", body=JOB, headers={"Origin": served.address}).status == 200


def test_another_sites_page_sees_no_clip(served):
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "video"}
    assert served.ask("/api/jobs", headers=embedded).status == 403
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert served.ask("/runs", headers=followed).status == 200


def test_every_answer_forbids_what_is_not_its_own(served):
    for path in ("/runs", "/api/jobs", "/static/studio.js", "/nowhere"):
        answer = served.ask(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


def test_beyond_this_machine_a_token_is_needed(folders):
    with Served(make_studio(folders), hosts=(), token="correct-horse") as served:
        for path in ("/runs", "/api/jobs", "/static/studio.js", "/files/clips/x/y.mp4", "/runs?token=wrong"):
            answer = served.ask(path)
            assert answer.status == 401, path
            assert b"correct-horse" not in answer.body
        assert served.ask("/api/sample", body=JOB).status == 401
        opened = served.ask("/runs?token=correct-horse&x=1")
        assert (opened.status, opened.headers["location"]) == (303, "/runs?x=1")
        cookie = opened.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        held = {"Cookie": cookie.partition(";")[0]}
        assert served.ask("/runs", headers=held).status == 200
        assert served.ask("/api/sample", body=JOB, headers=held).status == 200
        assert served.ask("/runs", headers={"Cookie": "vader_studio=wrong"}).status == 401
        assert served.ask("/runs", headers={"Cookie": '"; vader_studio'}).status == 401


def test_read_only_changes_nothing(folders):
    with Served(make_studio(folders, read_only=True)) as served:
        for path in ("/api/sample", "/api/runs", "/api/compare", "/api/uploads", "/api/label", "/api/score"):
            assert served.ask(path, body=JOB).status in (404, 405), path
        for path in ("/generate", "/new-run", "/label"):
            assert served.ask(path).status == 404, path
        assert served.ask("/").headers["location"] == "/runs"
        for path in ("/runs", "/compare", "/batches"):
            assert served.ask(path).status == 200, path
