"""Label: two clips of one prompt, one is chosen; a table of preferences grows."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vader_core.errors import VaderError
from vader_core.files import replacing
from vader_studio.answers import Json
from vader_studio.describer import FieldError
from vader_studio.pages.files import address_in
from vader_studio.places import child
from vader_studio.studio import Studio, studio_of

#: Columns of the table: the prompt, the better and the worse clip as files, and when it was said.
TABLE = "preferences.jsonl"
_writing = threading.Lock()


def page(request: Request) -> Response:
    """A pair that has not been judged."""
    studio = studio_of(request)
    pair = _next(studio)
    shown = None
    if pair is not None:
        prompt, first, second = pair
        addresses = [
            address_in("clips", studio.places.clips / one, studio.places.clips) for one in (first, second)
        ]
        shown = {"prompt": prompt, "files": [first, second], "addresses": addresses}
    return studio.page("label.html", here="label", pair=shown, judged=len(_judged(studio)))


def _next(studio: Studio) -> tuple[str, str, str] | None:
    judged = _judged(studio)
    for name in studio.places.batches():
        for prompt, files in _groups(studio, name).items():
            pairs = [
                (a, b) for i, a in enumerate(files) for b in files[i + 1 :] if frozenset((a, b)) not in judged
            ]
            if pairs:
                first, second = pairs[0]
                if (
                    random.Random(os.fsencode(first + second)).random() < 0.5
                ):  # no side is always the tuned one
                    first, second = second, first
                return prompt, first, second
    return None


def _groups(studio: Studio, name: str) -> dict[str, list[str]]:
    """The clips of a batch by prompt, each as its place below the clips' folder."""
    try:
        entries = json.loads((studio.places.batch(name) / "prompts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    groups: dict[str, list[str]] = {}
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        path = child(studio.places.clips, name, str(entry.get("file", "")))
        if path is not None and path.is_file():
            groups.setdefault(str(entry.get("prompt", "")), []).append(f"{name}/{path.name}")
    return groups


def _judged(studio: Studio) -> set[frozenset[str]]:
    path = studio.places.clips / TABLE
    if not path.is_file():
        return set()
    found = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            found.add(frozenset((row["chosen"], row["rejected"])))
        except (ValueError, LookupError, TypeError):
            continue
    return found


async def choose(request: Request) -> Response:
    """Write which of two is better."""
    studio, asked = studio_of(request), await request.json()

    def written() -> Response:
        chosen, rejected = _clip(studio, asked.get("chosen")), _clip(studio, asked.get("rejected"))
        batch = chosen.partition("/")[0]
        prompt = next((text for text, files in _groups(studio, batch).items() if chosen in files), "")
        row = {
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected,
            "tie": asked.get("tie") is True,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with _writing, (studio.places.clips / TABLE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        return Json({"judged": len(_judged(studio))})

    return await run_in_threadpool(written)


async def undo(request: Request) -> Response:
    """Take the last answer back."""
    studio = studio_of(request)

    def undone() -> Response:
        path = studio.places.clips / TABLE
        with _writing:
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            if not lines:
                raise VaderError("there is no answer to take back")
            with replacing(path) as beside:
                beside.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
        return Json({"judged": len(_judged(studio))})

    return await run_in_threadpool(undone)


def _clip(studio: Studio, name: Any) -> str:
    path = child(studio.places.clips, *str(name).split("/"))
    if path is None or path.suffix != ".mp4" or not path.is_file():
        raise FieldError("there is no such clip")
    return str(name)


READING: list[Route] = []
WRITING = [
    Route("/label", page),
    Route("/api/label", choose, methods=["POST"]),
    Route("/api/label/undo", undo, methods=["POST"]),
]
