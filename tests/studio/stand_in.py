"""In place of models: answers the studio's questions and does its jobs in milliseconds, without torch."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

OPTIONS = [
    {"key": "backbone.weights", "group": "model", "kind": "text", "default": "pretrained"},
    {"key": "video.height", "group": "video", "kind": "integer", "default": 64, "minimum": 8},
    {"key": "video.width", "group": "video", "kind": "integer", "default": 64, "minimum": 8},
    {
        "key": "sampler.name",
        "group": "sampling",
        "kind": "choice",
        "default": "one",
        "choices": ["one", "two"],
    },
    {"key": "sampler.num_steps", "group": "sampling", "kind": "integer", "default": 6, "minimum": 1},
    {"key": "trainer.seed", "group": "run", "kind": "integer", "default": 0, "minimum": 0},
    {"key": "performance.offload", "group": "run", "kind": "truth", "default": False},
]
EMPTY = {"minimum": None, "maximum": None, "choices": [], "help": "what it does"}


def tell(**facts):
    OUT.write(json.dumps(facts) + "\n")
    OUT.flush()


def describe():
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["ask"] == "lists":
            tell(
                answer={
                    "backbones": {"demo": "a model", "picture": "from a picture"},
                    "samplers": {"one": "", "two": ""},
                    "rewards": {"demo_aesthetic": "how vivid", "demo_alignment": "how true"},
                    "recipes": {"demo": "twelve steps", "demo_too_far": "too many"},
                }
            )
        elif asked["ask"] == "form":
            picture = asked["backbone"] == "picture"
            tell(
                answer={
                    "backbone": asked["backbone"],
                    "options": [{"default": "one", **EMPTY, **option} for option in OPTIONS],
                    "needs_image": picture,
                    "takes_image": picture,
                    "reads_text": True,
                    "takes_references": picture,
                    "negative_prompt": "blurry",
                }
            )
        elif asked["ask"] == "plan":
            tell(answer={"facts": {}, "words": [["steps", "12 steps"], ["memory", "1.2 GiB\nby phase"]]})
        elif asked["request"]["values"].get("video.height", "64") != "64":
            value = asked["request"]["values"]["video.height"]
            tell(error=f"backbone 'demo': height={value} is not allowed: use 64", key="video.height")
        else:
            tell(answer={})


def clip(path, shade=120):
    import av
    import numpy

    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(8):
            pixels = numpy.full((64, 64, 3), shade, dtype=numpy.uint8)
            pixels[20:40, 4 * index : 4 * index + 20] = (200, 60, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def sample(request):
    out = Path(request["out"])
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    seed = int(request["values"].get("trainer.seed", 0))
    for index in range(request["count"]):
        tell(
            event="progress",
            text=f"clip {index} of {request['count']}",
            share=index / request["count"],
            left=1.0,
        )
        for base in [False, True] if request["base"] and request["loras"] else [False]:
            name = f"00-clip-seed{seed + index}{'-base' if base else ''}.mp4"
            clip(out / name, 40 if base else 160)
            entries.append(
                {
                    "file": name,
                    "prompt": request["prompt"],
                    "seed": seed + index,
                    "base": base,
                    "scores": dict.fromkeys(request["rewards"], 5.0 + index),
                    "settings": {"backbone": {"name": "demo"}, "video": {"width": 64}},
                    "command": ["vader", "sample", "--prompts", f"text:{request['prompt']}"],
                }
            )
        time.sleep(0.02)
    (out / "prompts.json").write_text(json.dumps(entries))
    tell(event="done", result={"batch": out.name})


def work():
    for line in sys.stdin:
        order = json.loads(line)
        request = order["request"]
        words = request.get("prompt", "")
        if "die" in words.split():
            os.kill(os.getpid(), signal.SIGKILL)
        if "wait" in words.split():
            tell(event="progress", text="waiting")
            time.sleep(3600)
        if order["kind"] == "sample":
            sample(request)
        elif order["kind"] == "compare":
            Path(request["out"]).parent.mkdir(parents=True)
            Path(request["out"]).write_text("<!doctype html><title>compared</title><p>compared")
            tell(event="done", result={"page": "compare.html", "columns": ["base model"]})
        elif order["kind"] == "score":
            path = Path(request["out"]) / "prompts.json"
            entries = json.loads(path.read_text())
            for entry in entries:
                entry["scores"] |= dict.fromkeys(request["rewards"], 7.0)
            path.write_text(json.dumps(entries))
            tell(event="done", result={"batch": path.parent.name})
        else:
            tell(event="failed", message="no training here")


if __name__ == "__main__":
    OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
    {"describe": describe, "work": work}[sys.argv[1]]()
