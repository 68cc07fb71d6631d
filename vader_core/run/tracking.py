"""Who hears of a run's progress beside metrics.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from socket import gethostname
from time import time, time_ns
from typing import Any, Protocol

import yaml

from vader_core.errors import MissingDependencyError


class Listener(Protocol):
    """Told of every event of a run, on the main process."""

    def plan(self, facts: Mapping[str, Any]) -> None:
        """The run is about to begin."""

    def record(self, record: Mapping[str, Any]) -> None:
        """A line went to metrics.jsonl."""

    def say(self, message: str) -> None:
        """Something a person should read."""

    def phase(self, doing: str, done: int, total: int) -> None:
        """How far what takes long is, as :data:`vader_core.progress.Progress`. A listener may do without."""


class Silence:
    """A listener that hears nothing."""

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Ignored."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Ignored."""

    def say(self, message: str) -> None:
        """Ignored."""

    def phase(self, doing: str, done: int, total: int) -> None:
        """Ignored."""


#: Clips of a validation that trackers are sent.
CLIPS = 4


class Tracker(Protocol):
    """Where numbers and clips of a run are sent."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send numbers."""

    def show(self, clips: Sequence[tuple[Path, str]], step: int) -> None:
        """Send clips, each a file with its prompt."""

    def close(self) -> None:
        """The run is over."""


class _Board:
    """TensorBoard's file, written in this thread: its own writer has a thread that a full disk ends.

    Clips are sent as moving pictures, which its image tab plays.

    Raises:
        OSError: The file cannot be written, here or in a method.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        place = folder / "vader"
        place.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time())}.{gethostname()}.{os.getpid()}.{time_ns()}"
        self._writer: Any = RecordWriter((place / name).open("wb"))
        self._write(0, file_version="brain.Event:2")
        self._writer.flush()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time(), step=step, **content).SerializeToString())

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._summarise([{"tag": name, "simple_value": value} for name, value in numbers.items()], step)

    def show(self, clips: Sequence[tuple[Path, str]], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = []
        for number, (path, prompt) in enumerate(clips):
            moving, width, height = _gif(path)
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=moving)
            tag = f"samples/{number:02d} {prompt}"[:200].encode(errors="replace").decode()
            values.append({"tag": tag, "image": image})
        self._summarise(values, step)

    def _summarise(self, values: Sequence[Mapping[str, Any]], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for value in values:
            self._write(step, summary=Summary(value=[Summary.Value(**value)]))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Service:
    """Weights & Biases, or trackio, which has the same few functions.

    Args:
        module: Which.
        folder: The run directory.
    """

    def __init__(self, module: Any, folder: Path) -> None:
        self._module = module
        settings: dict[str, Any] = {"project": "vader", "name": folder.name, "config": _config(folder)}
        if module.__name__ == "wandb":  # a run that is continued goes on in the same place
            name = sha256(str(folder.absolute()).encode()).hexdigest()[:8]
            settings |= {"dir": str(folder), "id": f"{folder.name}-{name}", "resume": "allow"}
        module.init(**settings)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        if numbers:
            self._module.log(dict(numbers), step=step)

    def show(self, clips: Sequence[tuple[Path, str]], step: int) -> None:
        sent = {
            f"samples/{number:02d}": self._module.Video(str(path), caption=prompt, format="mp4")
            for number, (path, prompt) in enumerate(clips)
        }
        if sent:
            self._module.log(sent, step=step)

    def close(self) -> None:
        self._module.finish()


class LaterListener:
    """Tells another listener of a stage's events, its steps counted on from the stages before.

    Args:
        listener: Who is told.
        before: Steps of the stages before.
    """

    def __init__(self, listener: Listener, before: int) -> None:
        self.listener, self.before = listener, before

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Handed on."""
        self.listener.plan(facts)

    def record(self, record: Mapping[str, Any]) -> None:
        """Handed on, with the step of the whole run."""
        self.listener.record({**record, "step": record["step"] + self.before})

    def say(self, message: str) -> None:
        """Handed on."""
        self.listener.say(message)

    def phase(self, doing: str, done: int, total: int) -> None:
        """Handed on, to who wants to hear it."""
        hears = getattr(self.listener, "phase", None)
        if hears is not None:
            hears(doing, done, total)


class Trackers:
    """Sends a run's numbers and clips, and the device's use, to whatever trackers were named.

    Args:
        folder: The run directory.
        names: Which trackers.

    Raises:
        MissingDependencyError: One that is not installed.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        require_trackers(names)
        self.folder = folder
        self.trackers: list[Tracker] = [
            _Board(folder) if name == "tensorboard" else _Service(import_module(name), folder)
            for name in names
        ]

    def record(self, record: Mapping[str, Any]) -> None:
        """Send a record's numbers, and a validation's clips."""
        if not self.trackers:
            return
        numbers, step = flattened(record), int(record["step"])
        if record.get("kind") == "train":
            numbers |= device_use()
        clips = list(self._clips(record))
        for tracker in self.trackers:
            tracker.log(numbers, step)
            tracker.show(clips, step)

    def _clips(self, record: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
        samples = record.get("samples")
        if samples is None:
            return
        listed = json.loads((self.folder / samples / "prompts.json").read_text(encoding="utf-8"))
        for number, entry in enumerate(listed[:CLIPS]):
            yield self.folder / samples / f"{number:02d}.mp4", entry["prompt"]

    def close(self) -> None:
        """The run is over."""
        for tracker in self.trackers:
            tracker.close()


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        MissingDependencyError: With the line that installs it.
    """
    for name in ("wandb", "trackio"):
        if name in names and find_spec(name) is None:
            raise MissingDependencyError(name, f"run.trackers=[{name}]", f"pip install {name}")


def device_use() -> dict[str, float]:
    """How much of the machine is used: percent, and memory in GiB."""
    import psutil
    import torch

    found = {
        "device/cpu_percent": float(psutil.cpu_percent()),
        "device/process_gib": psutil.Process().memory_info().rss / 2**30,
    }
    if torch.cuda.is_available():
        found["device/gpu_reserved_gib"] = torch.cuda.memory_reserved() / 2**30
        with suppress(ModuleNotFoundError, RuntimeError):  # NVIDIA's library is missing, or does not answer
            found["device/gpu_percent"] = float(torch.cuda.utilization())
    return found


def _config(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) or {})


def _gif(path: Path) -> tuple[bytes, int, int]:
    """A clip as a GIF, with its width and height."""
    from PIL import Image

    from vader_core.video import read_video

    pixels = (read_video(path).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    first, *rest = [Image.fromarray(frame) for frame in pixels]
    stream = BytesIO()
    first.save(stream, format="GIF", save_all=True, append_images=rest, duration=125, loop=0)
    return stream.getvalue(), first.width, first.height


def flattened(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record under names that trackers show as groups.

    >>> flattened({"kind": "train", "step": 1, "loss": 0.5, "rewards": {"hps": 0.3}})
    {'train/loss': 0.5, 'train/rewards/hps': 0.3}
    """
    kind = record.get("kind", "run")
    found: dict[str, float] = {}
    for name, value in record.items():
        if name in ("kind", "step"):
            continue
        if isinstance(value, Mapping):
            found.update({f"{kind}/{name}/{key}": float(inner) for key, inner in value.items()})
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{kind}/{name}"] = float(value)
    return found
