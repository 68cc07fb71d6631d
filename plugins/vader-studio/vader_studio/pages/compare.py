"""Compare: runs and adapters on the same prompts and noise, and the pages of earlier comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vader_studio.answers import Json
from vader_studio.describer import FieldError
from vader_studio.pages.generate import sample_request
from vader_studio.places import child
from vader_studio.studio import Studio, studio_of

#: Clips of one comparison.
_MOST = 512


def page(request: Request) -> Response:
    """What can be compared, and what was."""
    studio = studio_of(request)
    places = studio.places
    adapters = [] if studio.read_only else places.adapters()
    rewards = [] if studio.read_only else list(studio.describer.ask("lists", keep=True)["rewards"])
    return studio.page(
        "compare.html", here="compare", adapters=adapters, rewards=rewards, pages=_pages(studio)
    )


def _pages(studio: Studio) -> list[dict[str, str]]:
    folder = studio.places.clips
    places = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
    found = []
    for place in places:
        path = child(folder, place.name, "compare.html")
        if path is not None and path.is_file():
            found.append({"name": place.name, "title": _title(studio, place.name)})
    return found


def _title(studio: Studio, name: str) -> str:
    job = next((job for job in studio.queue.jobs(10_000) if job.name == name), None)
    return name if job is None else job.title


def shown(request: Request) -> Response:
    """A comparison."""
    studio = studio_of(request)
    name = request.path_params["name"]
    return studio.page("comparison.html", here="compare", name=name, title=_title(studio, name))


async def add(request: Request) -> Response:
    """Queue a comparison."""
    studio, asked = studio_of(request), await request.json()
    return await run_in_threadpool(_add, studio, asked)


def _add(studio: Studio, asked: dict[str, Any]) -> Response:
    given = {**asked, "prompt": asked.get("prompt") or "from the source"}
    told = sample_request(studio, {**given, "loras": asked.get("subjects") or []})
    subjects = told.pop("loras")
    if not subjects:
        raise FieldError("choose what to compare", "subjects")
    folder = next((found for place, _ in subjects if (found := _run_of(Path(place))) is not None), None)
    if not asked.get("prompt"):
        told["prompt"] = ""
        if folder is None:
            raise FieldError("write a prompt: none of these is a run that brings its own", "prompt")
    if folder is None and "backbone.name" not in told["values"]:
        raise FieldError("choose a run too: a file does not say its backbone", "subjects")
    scales = _scales(str(asked.get("scales") or ""))
    prompts = _bounded(asked.get("max_prompts", 4), "max_prompts")
    if (1 + len(subjects) * max(1, len(scales))) * prompts * told["count"] > _MOST:
        raise FieldError(
            f"this would make more than {_MOST} clips: take fewer prompts or scales", "max_prompts"
        )
    told |= {
        "subjects": subjects,
        "scales": scales,
        "max_prompts": prompts,
        "from_run": None if folder is None else str(folder),
    }
    studio.describer.ask("check", request=told)
    title = " and ".join(Path(place).name for place, _ in subjects)
    clips = studio.places.clips
    job = studio.queue.add("compare", title, told, lambda name: clips / name / "compare.html")
    return Json({"job": job.shown()})


def _run_of(place: Path) -> Path | None:
    """The run that an adapter is, or lies in."""
    places = (place, *list(place.parents)[:2])
    return next((one for one in places if (one / "config.yaml").is_file()), None)


def _bounded(value: Any, key: str) -> int:
    try:
        found = int(value)
    except (TypeError, ValueError) as error:
        raise FieldError(f"{key.replace('_', ' ')} is a whole number", key) from error
    if not 1 <= found <= _MOST:
        raise FieldError(f"{key.replace('_', ' ')} {found} is not allowed: use 1 to {_MOST}", key)
    return found


def _scales(text: str) -> list[float]:
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise FieldError(f"scales {text!r}: write numbers, such as 0.5 1 1.5", "scales") from error
    if any(not abs(scale) < 1e6 for scale in found) or len(found) > 12:
        raise FieldError("scales are at most 12 finite numbers", "scales")
    return found


READING = [Route("/compare", page), Route("/compare/{name}", shown)]
WRITING = [Route("/api/compare", add, methods=["POST"])]
