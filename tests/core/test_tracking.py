"""Trackers are sent numbers, clips and the device's use."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vader_core.errors import MissingDependencyError
from vader_core.evaluation.validation import Pair, Scored, write_samples
from vader_core.prompts import Prompt
from vader_core.run import tracking
from vader_core.run.tracking import Trackers, require_trackers

TRAIN = {"kind": "train", "step": 1, "loss": 0.5, "rewards": {"hps": 0.3}}
VALIDATION = {"kind": "validation", "step": 1, "rewards": {"hps": 0.4}, "samples": "samples/step-000001"}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("trainer: {lr: 0.1}\n")
    pairs = tuple(Pair(Prompt(f"a boat {number}"), 0, number) for number in range(6))
    scored = Scored(pairs, torch.rand(6, 2, 3, 16, 16), {})
    write_samples(scored, tmp_path / "samples" / "step-000001", 8.0)
    return tmp_path


class Service(ModuleType):
    """What wandb and trackio have in common."""

    def __init__(self, name):
        super().__init__(name)
        self.calls, self.settings, self.finished = [], {}, False

    def init(self, **settings):
        self.settings = settings

    def log(self, values, step):
        self.calls.append((step, values))

    def Video(self, path, caption, format):
        return ("video", path, caption)

    def finish(self):
        self.finished = True


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_is_sent_numbers_clips_and_use(run, monkeypatch, name):
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    monkeypatch.setattr(tracking, "find_spec", lambda found: object())
    trackers = Trackers(run, [name])
    trackers.record(TRAIN)
    trackers.record(VALIDATION)
    trackers.close()
    assert service.settings["config"] == {"trainer": {"lr": 0.1}}
    numbers, scores, clips = (values for _, values in service.calls)
    assert numbers["train/rewards/hps"] == 0.3
    assert numbers["device/process_gib"] > 0
    assert scores["validation/rewards/hps"] == 0.4
    assert len(clips) == tracking.CLIPS
    assert clips["samples/01"] == ("video", str(run / "samples/step-000001/01.mp4"), "a boat 1")
    assert service.finished


def test_a_continued_run_goes_on_in_the_same_place(run, monkeypatch):
    service = Service("wandb")
    monkeypatch.setitem(sys.modules, "wandb", service)
    monkeypatch.setattr(tracking, "find_spec", lambda found: object())
    Trackers(run, ["wandb"])
    first = service.settings["id"]
    Trackers(run, ["wandb"])
    assert service.settings["id"] == first
    assert service.settings["resume"] == "allow"


def test_tensorboard_holds_numbers_and_moving_clips(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = Trackers(run, ["tensorboard"])
    trackers.record(TRAIN)
    trackers.record(VALIDATION)
    trackers.close()
    found = EventAccumulator(str(run / "vader"))
    found.Reload()
    assert found.Scalars("train/loss")[0].value == 0.5
    (clip,) = found.Images("samples/00 a boat 0")
    assert clip.encoded_image_string[:6] == b"GIF89a"
    assert (clip.width, clip.height) == (16, 16)


def test_a_disk_that_fails_is_told_where_the_run_is_and_not_in_a_thread(run):
    """TensorBoard's own writer has a thread, which dies with a traceback of its own."""
    trackers = Trackers(run, ["tensorboard"])
    board = trackers.trackers[0]
    board._writer.close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        board._writer = type(board._writer)(full)
        with pytest.raises(OSError, match="No space left"):
            trackers.record(TRAIN)


def test_a_prompt_that_is_no_text_is_sent(run):
    trackers = Trackers(run, ["tensorboard"])
    trackers.trackers[0].show([(run / "samples/step-000001/01.mp4", "half \ud83d a smile")], 1)
    trackers.close()


def test_one_that_is_not_installed_is_named_with_its_line(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda found: None)
    with pytest.raises(MissingDependencyError, match="pip install trackio"):
        require_trackers(["tensorboard", "trackio"])
