"""Generate: a form made of the components' own options, and what came of each job."""

from __future__ import annotations

import io
import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from vader_core import api
from vader_core.errors import VaderError
from vader_core.pictures import first_bytes, read_picture, sniffed
from vader_studio.answers import Json
from vader_studio.describer import FieldError
from vader_studio.pages.batches import clips_of
from vader_studio.studio import Studio, studio_of

#: Bytes of an uploaded picture or clip.
_MOST = 64 << 20
#: Clips of one job.
_MOST_CLIPS = 64


def home(request: Request) -> Response:
    """The first page."""
    return RedirectResponse("/runs" if studio_of(request).read_only else "/generate", 303)


def page(request: Request) -> Response:
    """The form; its fields come when the components have been asked."""
    return studio_of(request).page("generate.html", here="generate")


def fields(request: Request) -> Response:
    """The fields for a backbone, a sampler and a run whose settings hold."""
    studio = studio_of(request)
    studio.queue.warm()
    lists = studio.describer.ask("lists", keep=True)
    if not lists["backbones"]:
        raise VaderError("no backbone is installed: pip install ./plugins/vader-demo, for example")
    query = request.query_params
    run = query.get("run") or ""
    folder = studio.places.run(run) if run else None
    backbone = query.get("backbone") or _first(lists["backbones"])
    if folder is not None:
        backbone = api.run_facts(folder).backbone or backbone
    form = studio.describer.ask(
        "form",
        backbone=backbone,
        sampler=query.get("sampler") or None,
        from_run=None if folder is None else str(folder),
    )
    groups: dict[str, list[dict[str, Any]]] = {}
    for option in form["options"]:
        groups.setdefault(option["group"], []).append(option)
    weights = [found.place for found in studio.places.weight_files()]
    return HTMLResponse(
        studio.fragment(
            "fields.html",
            form=form,
            groups=groups,
            lists=lists,
            adapters=studio.places.adapters(),
            weights=weights,
            run=run,
        )
    )


def _first(names: dict[str, str]) -> str:
    return "demo" if "demo" in names else next(iter(names))


async def add(request: Request) -> Response:
    """Check a form and queue it."""
    studio = studio_of(request)
    asked = await request.json()
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(_add, studio, asked)


def _add(studio: Studio, asked: dict[str, Any]) -> Response:
    request = sample_request(studio, asked)
    studio.describer.ask("check", request=request)
    title = request["prompt"] or "(no text)"
    job = studio.queue.add("sample", title, request, lambda name: studio.places.clips / name)
    return Json({"job": job.shown()})


def sample_request(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """A job's request from a form, each value checked for form and place.

    Raises:
        FieldError: With the field.
    """
    given = _mapping(asked.get("values"))
    values = {str(key): _text(value, str(key)) for key, value in given.items() if str(value) != ""}
    for key in values:
        section = key.partition(".")[0]
        if section not in ("backbone", "video", "sampler", "trainer", "performance"):
            raise FieldError(f"{key} is no option of sampling", key)
    _check(studio, values)
    loras = [_lora(studio, one) for one in asked.get("loras") or () if one and one[0]]
    count = _whole(asked.get("count", 1), "count", 1, _MOST_CLIPS)
    prompt = _text(asked.get("prompt") or "", "prompt").strip()
    request: dict[str, Any] = {
        "values": values,
        "prompt": _with_reference(studio, prompt, asked),
        "negative": _text(asked.get("negative") or "", "negative"),
        "loras": loras,
        "count": count,
        "base": asked.get("base") is True,
        "rewards": _names(studio, asked.get("rewards") or ()),
        "device": studio.device,
        "run": str(asked.get("run") or ""),
        "from_run": str(studio.places.run(str(asked["run"]))) if asked.get("run") else None,
        "out": "",
    }
    if asked.get("image"):
        request["image"] = str(_uploaded(studio, str(asked["image"]), "image"))
    if not request["prompt"]:
        raise FieldError("write a prompt", "prompt")
    return request


def _text(value: Any, key: str) -> str:
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FieldError("there is half a surrogate pair in it, as a cut emoji leaves it", key) from error
    return text


def _with_reference(studio: Studio, prompt: str, asked: dict[str, Any]) -> str:
    """The prompt with the clip that it starts from, in the words that the model reads."""
    import json

    _check(studio, {"prompt": f"text:{prompt}"}, "prompt")  # its words are no path, but it may name one
    if not asked.get("reference"):
        return prompt
    told = {"reference_path": str(_uploaded(studio, str(asked["reference"]), "reference"))}
    if asked.get("mask_strategy"):
        told["mask_strategy"] = str(asked["mask_strategy"])
    return f"{prompt}{json.dumps(told)}"


def _check(studio: Studio, values: dict[str, Any], key: str = "") -> None:
    try:
        studio.places.check(values)
    except VaderError as error:
        raise FieldError(str(error), key or str(error).partition("=")[0]) from error


def _lora(studio: Studio, given: Any) -> tuple[str, float]:
    try:
        place, scale = str(given[0]), float(given[1])
    except (TypeError, ValueError, LookupError) as error:
        raise FieldError(f"LoRA {given!r}: give a place and a scale, a number", "loras") from error
    if not abs(scale) < 1e6:
        raise FieldError("a LoRA's scale is a finite number", "loras")
    if not place.startswith("hub:") and not studio.places.holds(place):
        raise FieldError(f"LoRA {place!r} lies outside the folders that the studio was started for", "loras")
    return place, scale


def _names(studio: Studio, given: Any) -> list[str]:
    """Registered rewards alone: a path to a function would run it."""
    known = studio.describer.ask("lists", keep=True)["rewards"]
    names = [str(name) for name in given]
    for name in names:
        if name not in known:
            raise FieldError(f"no reward {name!r} is installed", "rewards")
    return list(dict.fromkeys(names))


def _whole(value: Any, key: str, low: int, high: int) -> int:
    try:
        found = int(value)
    except (TypeError, ValueError) as error:
        raise FieldError(f"{key} is a whole number", key) from error
    if not low <= found <= high:
        raise FieldError(f"{key} {found} is not allowed: use {low} to {high}", key)
    return found


def _mapping(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise FieldError("values is a mapping")
    return value or {}


# -- uploads -------------------------------------------------------------------------------------------------


async def upload(request: Request) -> Response:
    """Keep a picture or a clip to start from, under a name made of its content."""
    import hashlib

    studio = studio_of(request)
    data = io.BytesIO()
    async for block in request.stream():
        data.write(block)
        if data.tell() > _MOST:
            raise FieldError("the file is larger than 64 MiB", "image")
    held = data.getvalue()
    folder = studio.places.state / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    kind = sniffed(held[:64])
    is_clip = held[4:8] == b"ftyp"
    if kind is None and not is_clip:
        raise FieldError("the file is neither a picture (png, jpeg, webp, bmp, gif) nor an mp4", "image")
    name = f"{hashlib.sha256(held).hexdigest()[:24]}.{'mp4' if is_clip else str(kind).lower()}"
    path = folder / name
    path.write_bytes(held)
    if not is_clip:
        try:
            read_picture(path)
        except VaderError as error:
            path.unlink()
            raise FieldError(str(error), "image") from error
    first_bytes(path)
    return Json({"name": name})


def _uploaded(studio: Studio, name: str, key: str) -> Path:
    from vader_studio.places import child

    path = child(studio.places.state / "uploads", name)
    if path is None or not path.is_file():
        raise FieldError("choose the file again", key)
    return path


# -- jobs ----------------------------------------------------------------------------------------------------


def jobs(request: Request) -> Response:
    """The newest jobs, and those that wait; empty where nothing changed since ``since``."""
    queue = studio_of(request).queue
    since = request.query_params.get("since")
    if since == str(queue.revision):
        return Json({"revision": queue.revision})
    revision, found = queue.snapshot()
    waiting = sum(1 for job in found if job["state"] == "queued")
    return Json({"revision": revision, "waiting": waiting, "jobs": found})


def job_body(request: Request) -> Response:
    """What came of a job."""
    studio = studio_of(request)
    job = studio.queue.get(request.path_params["name"])
    batch = str(job.result.get("batch", "")) or (job.name if job.kind == "sample" else "")
    body = Markup("")
    if batch and (studio.places.clips / batch / "prompts.json").is_file():
        body = clips_of(studio, studio.places.batch(batch))
    rewards = [] if studio.read_only else list(studio.describer.ask("lists", keep=True)["rewards"])
    return HTMLResponse(
        studio.fragment("job.html", job=job, body=body, batch=batch, rewards=rewards, command=shlex.join)
    )


def again(request: Request) -> Response:
    """What a job was asked for, to fill the form with."""
    job = studio_of(request).queue.get(request.path_params["name"])
    if job.kind != "sample":
        raise HTTPException(404)
    asked = {key: job.request.get(key) for key in ("values", "prompt", "negative", "loras", "count", "base")}
    image = job.request.get("image")
    extra = {"image": Path(image).name if image else "", "rewards": job.request.get("rewards") or []}
    return Json({**asked, **extra, "run": job.request.get("run") or ""})


def cancel(request: Request) -> Response:
    """End a job."""
    queue = studio_of(request).queue
    queue.cancel(request.path_params["name"])
    return Json({"job": queue.get(request.path_params["name"]).shown()})


async def score(request: Request) -> Response:
    """Score the clips of a batch by further rewards."""
    from starlette.concurrency import run_in_threadpool

    studio, asked = studio_of(request), await request.json()

    def queued() -> Response:
        folder = studio.places.batch(str(asked.get("batch", "")))
        names = _names(studio, asked.get("rewards") or ())
        if not names:
            raise FieldError("choose a reward", "rewards")
        told = {"out": str(folder), "rewards": names, "device": studio.device}
        job = studio.queue.add("score", f"{', '.join(names)} of {folder.name}", told)
        return Json({"job": job.shown()})

    return await run_in_threadpool(queued)


def queue(request: Request) -> Response:
    """Every job, of whatever kind."""
    return studio_of(request).page("queue.html", here="queue")


READING = [
    Route("/", home),
    Route("/api/jobs", jobs),
    Route("/jobs/{name}/body", job_body),
]
WRITING = [
    Route("/generate", page),
    Route("/generate/fields", fields),
    Route("/queue", queue),
    Route("/api/sample", add, methods=["POST"]),
    Route("/api/uploads", upload, methods=["POST"]),
    Route("/api/score", score, methods=["POST"]),
    Route("/api/jobs/{name}/again", again),
    Route("/api/jobs/{name}/cancel", cancel, methods=["POST"]),
]
