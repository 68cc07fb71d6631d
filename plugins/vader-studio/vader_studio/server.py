"""The studio as a web application: its routes, and how mistakes are told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from vader_core.errors import VaderError
from vader_studio.answers import Json
from vader_studio.describer import FieldError
from vader_studio.guard import Guard
from vader_studio.pages import batches, compare, files, generate, label, runs
from vader_studio.studio import Studio, studio_of


def make_app(studio: Studio, *, hosts: tuple[str, ...], token: str | None) -> Guard:
    """The application.

    Args:
        studio: What it works on.
        hosts: Names that it answers to; empty for any.
        token: Needed where it is given.
    """
    writing = [*generate.WRITING, *runs.WRITING, *compare.WRITING, *label.WRITING]
    reading = [*generate.READING, *runs.READING, *compare.READING, *batches.READING, *label.READING]
    routes = [
        *files.ROUTES,
        *reading,
        *([] if studio.read_only else writing),
        Route("/static/{name}", _asset),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if not studio.read_only:
            studio.queue.start()
        threading.Thread(target=studio.warm, daemon=True).start()
        yield
        studio.queue.close()
        studio.describer.close()
        studio.planner.close()

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={FieldError: _mistake, VaderError: _mistake, HTTPException: _http},
    )
    app.state.studio = studio
    return Guard(app, hosts=hosts, token=token)


def _asset(request: Request) -> Response:
    found = studio_of(request).assets.get(request.path_params["name"])
    if found is None:
        raise HTTPException(404)
    return Response(found[0], media_type=found[1], headers={"cache-control": "max-age=31536000, immutable"})


def _mistake(request: Request, error: Exception) -> Response:
    """A mistake as the page shows it: beside its field, or as a page of its own."""
    key = error.key if isinstance(error, FieldError) else ""
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(
            studio_of(request).templates.get_template("error.html").render(message=str(error)), 404
        )
    # The page shows the mistake beside its field; to its console it would be a failure of the server's.
    own = request.headers.get("x-vader-studio") == "page"
    return Json({"error": str(error), "key": key}, 200 if own else 400)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404 and "text/html" in request.headers.get("accept", ""):
        message = "There is no such page."
        return HTMLResponse(
            studio_of(request).templates.get_template("error.html").render(message=message), 404
        )
    return PlainTextResponse(error.detail, error.status_code)
