"""What every page works on, and how a page is made."""

from __future__ import annotations

import contextlib
import hashlib
from functools import cached_property
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from vader_core import api
from vader_core.errors import VaderError
from vader_core.printable import printable
from vader_studio.answers import quoted
from vader_studio.describer import Describer
from vader_studio.places import Places
from vader_studio.queue import Queue


class Studio:
    """What every page works on.

    Args:
        places: The folders.
        queue: The jobs.
        describer: Knows the components.
        planner: Another, for plans: they take long, and a form does not wait for them.
        device: ``cpu`` or ``cuda`` for every job; the accelerator by default.
        read_only: Show, and change nothing.
    """

    def __init__(
        self,
        places: Places,
        queue: Queue,
        describer: Describer,
        planner: Describer,
        *,
        device: str | None = None,
        read_only: bool = False,
    ) -> None:
        self.places, self.queue, self.describer, self.planner = places, queue, describer, planner
        #: What was planned last; it starts without being planned again.
        self.planned: dict[str, Any] | None = None
        self.device, self.read_only = device, read_only

    @cached_property
    def templates(self) -> Environment:
        """Everything is escaped but what the core's report made, and replaced where no page can hold it."""
        environment = Environment(
            loader=PackageLoader("vader_studio"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=lambda value: printable(value) if type(value) is str else value,
        )
        environment.filters["breakable"] = api.breakable
        environment.filters["number"] = api.number
        environment.filters["urlencode"] = quoted
        environment.globals["read_only"] = self.read_only
        environment.globals["version"] = self.version
        return environment

    @cached_property
    def assets(self) -> dict[str, tuple[str, str]]:
        """Style sheets and scripts, with their types."""
        own = resources.files("vader_studio").joinpath("static")
        return {
            "studio.css": (own.joinpath("studio.css").read_text(encoding="utf-8"), "text/css"),
            "studio.js": (own.joinpath("studio.js").read_text(encoding="utf-8"), "text/javascript"),
            "page.css": (api.page_style(), "text/css"),
            "clips.js": (api.page_script(), "text/javascript"),
        }

    @cached_property
    def version(self) -> str:
        """Changes with the assets, so that browsers may keep them."""
        return hashlib.sha256("".join(text for text, _ in self.assets.values()).encode()).hexdigest()[:12]

    def warm(self) -> None:
        """Read early what the first page would wait for: the runs, the newest one's page, the templates."""
        for newest in api.runs(self.places.runs)[:1]:
            with contextlib.suppress(VaderError, OSError):  # its own page says what is wrong
                api.run_body(newest.folder, str)
        for name in self.templates.list_templates():
            self.templates.get_template(name)

    def page(self, template: str, **told: Any) -> HTMLResponse:
        """A page."""
        return HTMLResponse(self.templates.get_template(template).render(**told))

    def fragment(self, template: str, **told: Any) -> Markup:
        """A part of a page."""
        return Markup(self.templates.get_template(template).render(**told))


def studio_of(request: Request) -> Studio:
    """What the application works on."""
    found: Studio = request.app.state.studio
    return found
