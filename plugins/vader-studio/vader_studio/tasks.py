"""What a worker does, each kind of job through ``vader_core.api``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vader_core import api
from vader_core.values import Typed, parse_value
from vader_studio.events import Events

#: Seconds that another process is given to let go of a run.
_PATIENCE = 120.0
#: Seconds between two lines on progress.
_PACE = 0.2


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they were typed into a form, ``{"video.height": "64"}``, as a configuration's tree.

    >>> typed({"video.height": "64", "sampler.name": "ddim"})
    {'video': {'height': '64'}, 'sampler': {'name': 'ddim'}}
    """
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = parse_value(value) if isinstance(value, str) else value
    return tree


def sample_config(request: Mapping[str, Any]) -> Any:
    """The configuration of a ``sample`` or ``compare`` request.

    Raises:
        VaderError: An option that is not known, or a bad value.
    """
    tree = typed(request.get("values") or {})
    prompts: dict[str, Any] = {}
    if request.get("prompt"):
        prompts["source"] = f"text:{request['prompt']}"
    if request.get("source"):
        prompts["source"] = Typed(request["source"])
    if request.get("negative"):
        prompts["negative_prompt"] = str(request["negative"])
    if request.get("image"):
        prompts["image"] = str(request["image"])
    if prompts:
        tree["prompts"] = {**tree.get("prompts", {}), **prompts}
    if request.get("device"):
        tree.setdefault("trainer", {}).setdefault("device", request["device"])
    return api.configure(from_run=request.get("from_run"), **tree)


def train_config(request: Mapping[str, Any]) -> Any:
    """The configuration of a ``train`` request."""
    tree = typed(request.get("values") or {})
    if request.get("device"):
        tree.setdefault("trainer", {}).setdefault("device", request["device"])
    return api.configure(recipe=request.get("recipe"), from_run=request.get("from_run"), **tree)


class Tasks:
    """The kinds of job; the loaded model is kept from one ``sample`` to the next.

    Args:
        events: Tells the server.
    """

    def __init__(self, events: Events) -> None:
        self.events = events
        self.opened = api.Opened()

    def do(self, order: Mapping[str, Any]) -> None:
        """Do one job and tell how it ended."""
        request = dict(order["request"])
        if order["kind"] != "sample":
            self.opened = api.Opened()  # its memory is wanted
        kinds = {"sample": self.sample, "train": self.train, "compare": self.compare, "score": self.score}
        kinds[order["kind"]](request)

    def sample(self, request: dict[str, Any]) -> None:
        """Clips into a folder of their own; a second try makes what is missing."""
        loras = [f"{place}:{scale:g}" for place, scale in request.get("loras") or ()]
        heard = _Heard(self.events)
        api.sample(
            sample_config(request),
            out=request["out"],
            lora=loras,
            count=int(request.get("count", 1)),
            rewards=list(request.get("rewards") or ()),
            base=bool(request.get("base")) and bool(loras),
            keep_videos=False,
            listener=heard,
            opened=self.opened,
        )
        self.events.send("done", result={"batch": Path(request["out"]).name})

    def score(self, request: dict[str, Any]) -> None:
        """Further scores for the clips of a folder."""
        self.events.send("progress", text="scoring …")
        api.score_clips(request["out"], list(request["rewards"]), device=request.get("device"))
        self.events.send("done", result={"batch": Path(request["out"]).name})

    def compare(self, request: dict[str, Any]) -> None:
        """A page of several models."""
        subjects = [f"{place}:{scale:g}" for place, scale in request["subjects"]]
        out = Path(request["out"])
        found = api.compare(
            subjects,
            sample_config(request),
            out=out,
            rewards=list(request.get("rewards") or ()),
            scales=[float(scale) for scale in request.get("scales") or ()],
            count=int(request.get("count", 1)),
            max_prompts=int(request.get("max_prompts", 8)),
            listener=_Heard(self.events),
        )
        self.events.send("done", result={"page": out.name, "columns": found["columns"]})

    def train(self, request: dict[str, Any]) -> None:
        """A run; one that stands there already is continued."""
        out = Path(request["out"])
        resume = bool(request.get("resume")) or (out / "config.yaml").is_file()
        if resume:
            request = {**request, "recipe": None, "from_run": str(out)}
        heard = _Heard(self.events)
        self._wait_for(out)
        try:
            api.train(train_config(request), out=out, resume=resume, allow_changes=resume, listener=heard)
        except api.StoppedError:
            self.events.send("stopped", message=f"stopped after step {heard.step}", result={"run": out.name})
            return
        self.events.send("done", result={"run": out.name})

    def _wait_for(self, run: Path) -> None:
        """Let the worker of a server that was ended finish its step and write its checkpoint."""
        deadline = time.monotonic() + _PATIENCE
        while (run / ".lock").is_file() and time.monotonic() < deadline:
            if api.run_facts(run).state != "running":
                return
            self.events.send("progress", text="waiting for the run's last process …")
            time.sleep(0.5)


class _Heard:
    """A listener that tells the server how far a job is."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.step, self.steps = 0, 0
        self._begun = time.monotonic()
        self._paces: list[float] = []
        self._clips = (0, 0)
        self._told = 0.0

    def plan(self, facts: Mapping[str, Any]) -> None:
        """A training is about to begin."""
        self.steps = int(facts["steps"])
        self._tell("loading …", force=True)

    def record(self, record: Mapping[str, Any]) -> None:
        """Something happened."""
        kind = record["kind"]
        if kind == "train":
            self.step = int(record["step"])
            self._paces = [*self._paces[-19:], float(record["seconds"])]
            self._tell(f"step {self.step} of {self.steps}", self.step, self.steps, force=True)
        elif kind == "validation":
            self._tell(f"validated at step {record['step']}", self.step, self.steps, force=True)
        elif kind == "denoising":
            done, total = self._clips
            share = record["step"] / record["of"]
            text = f"step {record['step']} of {record['of']}"
            self._tell(f"clip {done + 1} of {total}, {text}" if total else text, done + share, total or 1)
        elif kind == "clip":
            self._clips = (int(record["done"]), int(record["total"]))
            self._paces = [*self._paces[-19:], float(record["seconds"])]
            self._tell(f"clip {record['done']} of {record['total']}", *self._clips, force=True)

    def phase(self, doing: str, done: int, total: int) -> None:
        """What takes long beside steps and clips."""
        self._tell(f"{doing}, {done} of {total}" if total > 1 else f"{doing} …")

    def say(self, message: str) -> None:
        """Something a person should read."""
        self._tell(message, force=True)

    def _tell(self, text: str, done: float = 0, total: float = 0, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._told < _PACE:
            return
        self._told = now
        facts: dict[str, Any] = {"text": text}
        if total:
            facts["share"] = min(1.0, done / total)
            if self._paces:
                facts["left"] = sum(self._paces) / len(self._paces) * max(0.0, total - done)
            elif done:
                facts["left"] = (now - self._begun) / done * max(0.0, total - done)
        self.events.send("progress", **facts)
