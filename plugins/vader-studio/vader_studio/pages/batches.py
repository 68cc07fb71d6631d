"""Batches: the folders of clips that ``vader sample`` and the studio wrote."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vader_core import api
from vader_studio.pages.files import address_in
from vader_studio.studio import Studio, studio_of


def listed(request: Request) -> Response:
    """Every folder of clips, the newest first."""
    studio = studio_of(request)
    titles = _titles(studio)
    batches = [(name, titles.get(name, name)) for name in studio.places.batches()]
    return studio.page("batches.html", here="batches", batches=batches)


def shown(request: Request) -> Response:
    """The clips of a folder."""
    studio = studio_of(request)
    name = request.path_params["name"]
    folder = studio.places.batch(name)
    title = _titles(studio).get(name, name)
    return studio.page("batch.html", here="batches", name=name, title=title, body=clips_of(studio, folder))


def _titles(studio: Studio) -> dict[str, str]:
    """What the studio's own batches were asked for, by their folder's name."""
    return {job.name: job.title for job in studio.queue.jobs(10_000)}


def clips_of(studio: Studio, folder: Path) -> Markup:
    """The clips of a folder, each to be kept in any form."""
    clips = studio.places.clips
    return Markup(api.batch_body(folder, lambda path: address_in("clips", path, clips), convertible=True))


READING = [Route("/batches", listed), Route("/batches/{name}", shown)]
