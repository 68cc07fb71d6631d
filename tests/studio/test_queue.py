"""The queue: in order, one at a time, and still there after a restart or a death."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from serving import STAND_IN, Served, make_studio
from vader_studio.jobs import read_jobs
from vader_studio.queue import Queue

from vader_core.errors import VaderError

CONFIG = "backbone: {name: demo}\nreward: [{name: x}]\ntrainer: {max_steps: 9}\n"


def asked(prompt, **more):
    return {"values": {}, "prompt": prompt, "count": 1, **more}


def test_jobs_run_one_after_the_other_in_their_order(served):
    names = [served.ask("/api/sample", body=asked(f"ball {n}")).json["job"]["name"] for n in range(4)]
    assert names == sorted(names)
    order = []
    while len(order) < 4:
        states = {job["name"]: job["state"] for job in reversed(served.studio.queue.snapshot()[1])}
        assert list(states.values()).count("running") <= 1
        order += [name for name, state in states.items() if state == "done" and name not in order]
    assert order == names


def test_a_second_worker_takes_the_next_job(folders):
    with Served(make_studio(folders, gpus=("0", "1"))) as served:
        first, second = (served.ask("/api/sample", body=asked("wait")).json["job"]["name"] for _ in range(2))
        served.wait(first, "running")
        served.wait(second, "running")
        for name in (first, second):
            served.ask(f"/api/jobs/{name}/cancel", method="POST", body={})
            served.wait(name, "cancelled")


def test_a_job_is_cancelled_where_it_waits_and_where_it_runs(served):
    first = served.ask("/api/sample", body=asked("wait")).json["job"]["name"]
    second = served.ask("/api/sample", body=asked("ball")).json["job"]["name"]
    third = served.ask("/api/sample", body=asked("ball")).json["job"]["name"]
    served.wait(first, "running")
    served.ask(f"/api/jobs/{second}/cancel", body={})
    assert served.studio.queue.get(second).state == "cancelled"
    served.ask(f"/api/jobs/{first}/cancel", body={})
    served.wait(first, "cancelled")
    served.wait(third, "done")


@pytest.mark.parametrize(("asks", "state"), [("cancel", "cancelled"), ("stop", "stopped")])
def test_a_job_is_ended_while_its_worker_is_still_started(folders, asks, state, monkeypatch):
    entered, leave = threading.Event(), threading.Event()

    def slow(*arguments, **options):
        entered.set()
        assert leave.wait(20)
        return subprocess.Popen(*arguments, **options)

    monkeypatch.setattr("vader_studio.queue.subprocess", SimpleNamespace(Popen=slow, PIPE=subprocess.PIPE))
    with Served(make_studio(folders)) as served:
        job = served.studio.queue.add("train", "a run", {"prompt": "wait"})
        assert entered.wait(20)
        getattr(served.studio.queue, asks)(job.name)
        leave.set()
        served.wait(job.name, state)


def test_a_server_that_ends_while_a_worker_is_started_leaves_the_job_to_the_next(folders, monkeypatch):
    entered, leave, made = threading.Event(), threading.Event(), []

    def slow(*arguments, **options):
        entered.set()
        assert leave.wait(20)
        made.append(subprocess.Popen(*arguments, **options))
        return made[0]

    monkeypatch.setattr("vader_studio.queue.subprocess", SimpleNamespace(Popen=slow, PIPE=subprocess.PIPE))
    with Served(make_studio(folders)) as served:
        job = served.studio.queue.add("sample", "a ball", {"prompt": "wait"})
        assert entered.wait(20)
    leave.set()
    deadline = time.monotonic() + 20
    while not (made and made[0].poll() is not None):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert {one.name: one.state for one in read_jobs(folders / "state" / "jobs")} == {job.name: "running"}


def test_a_worker_that_dies_fails_its_job_and_not_the_next(served):
    first = served.ask("/api/sample", body=asked("die")).json["job"]["name"]
    second = served.ask("/api/sample", body=asked("ball")).json["job"]["name"]
    job = served.wait(first, "failed")
    assert "SIGKILL" in job.message
    served.wait(second, "done")


def test_after_a_restart_the_running_job_and_the_waiting_ones_are_done(folders):
    with Served(make_studio(folders)) as served:
        first = served.ask("/api/sample", body=asked("wait")).json["job"]["name"]
        second = served.ask("/api/sample", body=asked("ball")).json["job"]["name"]
        served.wait(first, "running")
    held = {job.name: job.state for job in read_jobs(folders / "state" / "jobs")}
    assert held == {first: "running", second: "queued"}
    path = folders / "state" / "jobs" / first / "job.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "request": {**tree["request"], "prompt": "ball"}}))
    with Served(make_studio(folders)) as served:
        served.wait(first, "done")
        served.wait(second, "done")
        assert (folders / "clips" / first / "prompts.json").is_file()


def test_the_form_starts_the_worker_before_the_first_job(served):
    log = served.studio.queue.folder / "worker.log"
    assert served.ask("/runs").status == 200
    assert not log.exists()
    assert served.ask("/generate/fields").status == 200
    assert log.exists()
    begun = log.stat().st_ino, log.stat().st_mtime_ns
    name = served.ask("/api/sample", body=asked("ball")).json["job"]["name"]
    served.wait(name)
    assert (log.stat().st_ino, log.stat().st_mtime_ns) == begun  # the same process


def test_a_torn_job_is_passed_over(folders):
    jobs = folders / "state" / "jobs"
    for name, text in (
        ("20260101-000000-000000-0000", "{torn"),
        ("20260101-000000-000000-0001", "[]"),
        ("other", "{}"),
    ):
        (jobs / name).mkdir(parents=True)
        (jobs / name / "job.json").write_text(text)
    assert list(read_jobs(jobs)) == []
    queue = Queue(jobs, command=(*STAND_IN, "work"))
    with pytest.raises(VaderError, match="there is no job 'x'"):
        queue.get("x")


def test_a_hundred_jobs_and_two_hundred_runs_are_listed(folders):
    for number in range(200):
        run = folders / "runs" / f"run-{number:03d}"
        run.mkdir()
        (run / "config.yaml").write_text(
            "backbone: {name: demo}\nreward: [{name: x}]\ntrainer: {max_steps: 9}\n"
        )
        (run / "metrics.jsonl").write_text('{"kind": "train", "step": 3}\n{"torn')
    with Served(make_studio(folders)) as served:
        served.ask("/api/sample", body=asked("wait"))
        for number in range(99):
            served.ask("/api/sample", body=asked(f"ball {number}"))
        assert served.ask("/api/jobs").json["waiting"] == 99
        page = served.ask("/runs").text
        assert page.count("3 of 9") == 200
        revision = served.ask("/api/jobs").json["revision"]
        assert served.ask(f"/api/jobs?since={revision}").json == {"revision": revision}
