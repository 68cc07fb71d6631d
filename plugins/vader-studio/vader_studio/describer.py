"""Answers what needs the components themselves: forms, checks and plans, in a process of its own.

The server never imports torch or a plugin: it starts at once, stays small, and no plugin can end it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError

#: Seconds that an answer may take; the first one imports torch.
PATIENCE = 120.0
#: Seconds that a plan may take: a large model's memory is booked operation by operation.
PLANNING = 900.0


class FieldError(VaderError):
    """A mistake in one field of a form.

    Args:
        message: In words.
        key: The field's, or empty.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class Describer:
    """Asks the process, which is started with the first question and again where it died.

    Args:
        log: Where the process writes what it prints.
        command: Starts it.
        patience: Seconds that an answer may take.
    """

    def __init__(
        self, log: Path, command: tuple[str, ...] | None = None, *, patience: float = PATIENCE
    ) -> None:
        self.log, self.patience = log, patience
        self.command = command or (sys.executable, "-m", "vader_studio.describer")
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._kept: dict[str, Any] = {}

    def ask(self, what: str, *, keep: bool = False, **facts: Any) -> Any:
        """An answer.

        Args:
            what: ``lists``, ``form``, ``check`` or ``plan``.
            keep: The answer never changes while the server runs.
            **facts: The question.

        Raises:
            FieldError: The answer is a mistake in the question.
        """
        question = json.dumps({"ask": what, **facts}, sort_keys=True)
        if question in self._kept:
            return self._kept[question]
        with self._lock:
            answer = self._answered(question)
        if "error" in answer:
            raise FieldError(str(answer["error"]), str(answer.get("key", "")))
        if keep:
            self._kept[question] = answer["answer"]
        return answer["answer"]

    def _answered(self, question: str) -> dict[str, Any]:
        process = self._alive()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(self.patience, process.kill)
        timer.start()
        try:
            process.stdin.write(question + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            found: dict[str, Any] = json.loads(line)
        except (OSError, ValueError):
            self._process = None
            return {"error": f"the components could not be asked; see {self.log.name} in the studio's folder"}
        finally:
            timer.cancel()
        return found

    def _alive(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("w", encoding="utf-8") as log:
                self._process = subprocess.Popen(
                    list(self.command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    start_new_session=True,
                )
        return self._process

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


# -- in the other process ------------------------------------------------------------------------------------


def main() -> None:
    """Answer until there are no more questions."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer: dict[str, Any] = {"answer": _ANSWERS[asked.pop("ask")](asked)}
        except VaderError as error:
            answer = {"error": str(error), "key": key_of(str(error))}
        except (
            Exception
        ) as error:  # the border: a plugin may raise anything, and the next question must be served
            answer = {"error": f"{type(error).__name__}: {error}", "key": ""}
        stream.write(json.dumps(answer) + "\n")
        stream.flush()


#: What a message calls an option -> the field that it stands in.
_FIELDS = {
    "height": "video.height",
    "width": "video.width",
    "num_frames": "video.num_frames",
    "fps": "video.fps",
    "num_steps": "sampler.num_steps",
    "guidance_scale": "sampler.guidance_scale",
    "seed": "trainer.seed",
    "precision": "trainer.precision",
    "weights": "backbone.weights",
    "prompts": "prompt",
    "lora": "loras",
    "negative_prompt": "negative",
}


def key_of(message: str) -> str:
    """The field that a component's message is about; empty where it names none.

    >>> key_of("backbone 'demo': height=65 is not allowed: use 64")
    'video.height'
    >>> key_of("configuration: sampler.num_steps='x' is not allowed: not a number")
    'sampler.num_steps'
    """
    unknown = re.match(r"unknown (backbone|sampler) '", message)
    if unknown:
        return f"{unknown[1]}.name"
    dotted = re.search(r"\b((?:video|sampler|backbone|trainer|prompts)\.[a-z_0-9]+)\b", message)
    if dotted:
        return "prompt" if dotted[1].startswith("prompts.") else dotted[1]
    component = re.match(r"(backbone|sampler) '[a-z0-9_]+'.*?: ([a-z_0-9]+)=", message)
    if component and component[2] not in _FIELDS:
        return f"{component[1]}.{component[2]}"
    for match in re.finditer(r"(?:--)?([a-z][a-z_-]*?)(?==| [0-9'])|--([a-z-]+)", message):
        name = (match[1] or match[2] or "").replace("-", "_")
        if name in _FIELDS:
            return _FIELDS[name]
    if "image" in message or "picture" in message:
        return "image"
    return "prompt" if "prompt" in message or "word" in message else ""


def _lists(asked: Mapping[str, Any]) -> dict[str, Any]:
    from vader_core import api
    from vader_core.registry import load_registry

    registry = load_registry()
    return {
        "backbones": {name: one.summary for name, one in sorted(registry.components["backbone"].items())},
        "samplers": {name: one.summary for name, one in sorted(registry.components["sampler"].items())},
        "rewards": {name: one.summary for name, one in sorted(registry.components["reward"].items())},
        "recipes": api.recipes(registry),
    }


def _form(asked: Mapping[str, Any]) -> dict[str, Any]:
    from vader_core import api

    form = asdict(api.sample_options(asked["backbone"], sampler=asked.get("sampler") or None))
    run = asked.get("from_run")
    if run:
        tree = api.configure(from_run=run).model_dump(mode="json")
        for option in form["options"]:
            section, _, name = option["key"].partition(".")
            held = tree.get(section, {}).get(name)
            kept = section in ("backbone", "video", "sampler") and not (
                name == "name" and asked.get("sampler")
            )
            if held is not None and kept:
                option["default"] = held
        form["negative_prompt"] = tree["prompts"]["negative_prompt"] or form["negative_prompt"]
    return form


def _check(asked: Mapping[str, Any]) -> dict[str, Any]:
    from vader_core import api
    from vader_studio.tasks import sample_config

    loras = [place for place, _ in asked["request"].get("loras") or asked["request"].get("subjects") or ()]
    config = api.check_sample(sample_config(asked["request"]), loras)
    tree: dict[str, Any] = config.model_dump(mode="json")
    return tree


def _plan(asked: Mapping[str, Any]) -> dict[str, Any]:
    from vader_core import api
    from vader_studio.tasks import train_config

    config = train_config(asked["request"])
    facts = api.plan(config)
    words = api.plan_words(config, facts, asked["request"]["out"])
    return {"facts": facts, "words": words, "config": config.model_dump(mode="json")}


_ANSWERS = {"lists": _lists, "form": _form, "check": _check, "plan": _plan}


if __name__ == "__main__":
    main()
