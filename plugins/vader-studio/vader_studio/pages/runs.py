"""Runs: the list, a run's page while it trains, a new run from a recipe."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from vader_core import api
from vader_core.errors import VaderError
from vader_studio.answers import Json
from vader_studio.describer import FieldError
from vader_studio.pages.files import address_in
from vader_studio.places import child
from vader_studio.studio import Studio, studio_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_LINE = re.compile(r"([a-z_][a-z0-9_]*(?:\.[a-z0-9_]+)+)=(.*)")


def listed(request: Request) -> Response:
    """Every run of the folder, the newest first."""
    studio = studio_of(request)
    return studio.page("runs.html", here="runs", runs=api.runs(studio.places.runs))


def shown(request: Request) -> Response:
    """A run's page; its parts are looked at again while it trains."""
    studio = studio_of(request)
    name = request.path_params["name"]
    run = studio.places.run(name)
    return studio.page(
        "run.html",
        here="runs",
        name=name,
        facts=api.run_facts(run),
        body=Markup(_body(studio, name)),
        job=_job(studio, name),
        place=str(run),
    )


def body(request: Request) -> Response:
    """The run's page as it is now; nothing where it is what the browser has."""
    studio = studio_of(request)
    name = request.path_params["name"]
    found = _body(studio, name)
    tag = f'"{hashlib.sha256(found.encode(errors="replace")).hexdigest()[:24]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})
    return HTMLResponse(found, headers={"etag": tag, "cache-control": "no-cache"})


def state(request: Request) -> Response:
    """Whether a run trains, and how far it is."""
    studio = studio_of(request)
    name = request.path_params["name"]
    run, job = child(studio.places.runs, name), _job(studio, name)
    if run is None or not (run / "config.yaml").is_file():
        return Json({"state": "absent", "job": job})
    facts = api.run_facts(run)
    told = {"state": facts.state, "step": facts.step, "max_steps": facts.max_steps, "job": job}
    if facts.state == "running" and facts.pace is not None and facts.max_steps:
        told["left"] = facts.pace * max(0, facts.max_steps - facts.step)
    return Json(told)


def _body(studio: Studio, name: str) -> str:
    run = studio.places.run(name)
    return api.run_body(run, lambda path: address_in("runs", path, studio.places.runs))


def _job(studio: Studio, name: str) -> dict[str, Any] | None:
    job = studio.queue.running_on(studio.places.runs / name)
    return None if job is None else job.shown()


# -- new runs ------------------------------------------------------------------------------------------------


def new(request: Request) -> Response:
    """A new run: a recipe, and what is to differ."""
    studio = studio_of(request)
    studio.queue.warm()
    lists = studio.describer.ask("lists", keep=True)
    return studio.page("new_run.html", here="runs", recipes=lists["recipes"])


async def plan(request: Request) -> Response:
    """What a run would do, and how much memory it would want."""
    studio, asked = studio_of(request), await request.json()

    def planned() -> Response:
        told = _request(studio, asked)
        found = studio.planner.ask("plan", request=told)
        studio.planned = told
        return HTMLResponse(studio.fragment("plan.html", words=found["words"]))

    return await run_in_threadpool(planned)


async def start(request: Request) -> Response:
    """Queue a run."""
    studio, asked = studio_of(request), await request.json()

    def queued() -> Response:
        name = str(asked.get("name") or "")
        if not _NAME.fullmatch(name) or name.endswith("."):
            raise FieldError("a run's name is letters, digits, dots, hyphens and underscores", "name")
        out = studio.places.runs / name
        if out.exists() or studio.queue.running_on(out):
            raise FieldError(f"there is a run {name!r} already", "name")
        told = _request(studio, asked)
        if told != studio.planned:
            studio.planner.ask("plan", request=told)
        job = studio.queue.add("train", name, told)
        return Json({"job": job.shown(), "run": name})

    return await run_in_threadpool(queued)


def _request(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    recipe = str(asked.get("recipe") or "")
    if recipe not in studio.describer.ask("lists", keep=True)["recipes"]:
        raise FieldError(f"no recipe {recipe!r} is installed", "recipe")
    values = _values(studio, str(asked.get("options") or ""))
    name = str(asked.get("name") or "")
    out = str(studio.places.runs / (name if _NAME.fullmatch(name) else "a name of yours"))
    return {"recipe": recipe, "values": values, "device": studio.device, "out": out}


def _values(studio: Studio, text: str) -> dict[str, str]:
    """Lines ``KEY=VALUE``, as ``-o`` takes them."""
    values: dict[str, str] = {}
    for line in filter(None, (one.strip() for one in text.splitlines())):
        found = _LINE.fullmatch(line)
        if found is None:
            raise FieldError(f"{line!r}: write KEY=VALUE, such as trainer.max_steps=24", "options")
        if found[1].partition(".")[0] in ("reward", "monitor"):
            raise FieldError(f"{found[1]}: rewards are the recipe's", "options")
        values[found[1]] = found[2]
    try:
        studio.places.check(values)
    except VaderError as error:
        raise FieldError(str(error), "options") from error
    return values


async def stop(request: Request) -> Response:
    """Let a run end after this step."""
    studio = studio_of(request)
    job = studio.queue.running_on(studio.places.runs / request.path_params["name"])
    if job is None:
        raise VaderError("this run is not trained by this studio")
    studio.queue.stop(job.name)
    return Json({"job": job.shown()})


async def resume(request: Request) -> Response:
    """Queue a run to go on, for more steps if that is asked."""
    studio, asked = studio_of(request), await request.json()

    def queued() -> Response:
        name = request.path_params["name"]
        run = studio.places.run(name)
        if api.run_facts(run).state == "running" or studio.queue.running_on(run):
            raise VaderError("this run is being trained")
        values = {}
        if asked.get("max_steps"):
            if not str(asked["max_steps"]).isdigit() or not 1 <= int(asked["max_steps"]) <= 10**7:
                raise FieldError("steps is a whole number, 1 or more", "max_steps")
            values["trainer.max_steps"] = str(asked["max_steps"])
        told = {"out": str(run), "resume": True, "values": values, "device": studio.device}
        job = studio.queue.add("train", name, told)
        return Json({"job": job.shown()})

    return await run_in_threadpool(queued)


READING = [
    Route("/runs", listed),
    Route("/runs/{name}", shown),
    Route("/runs/{name}/body", body),
    Route("/api/runs/{name}", state),
]
WRITING = [
    Route("/new-run", new),
    Route("/api/plan", plan, methods=["POST"]),
    Route("/api/runs", start, methods=["POST"]),
    Route("/api/runs/{name}/stop", stop, methods=["POST"]),
    Route("/api/runs/{name}/resume", resume, methods=["POST"]),
]
