"""Clips, pictures and finished pages, by name from the folders; nothing else leaves the machine."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from vader_core.clip_forms import FORMS, convert
from vader_studio.answers import quoted
from vader_studio.places import Places, child
from vader_studio.studio import studio_of

_TYPES = {
    ".mp4": "video/mp4",
    ".gif": "image/gif",
    ".webm": "video/webm",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}
#: Converted clips that are kept; the oldest goes first.
_KEPT = 64
_converting = threading.Lock()
#: Pages are somebody's file: they may play what is in them, but are nobody here.
_SANDBOX = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; media-src data:"
)


def address_in(root: str, folder: Path, base: Path) -> str:
    """The address of a file below ``base``, which is served as ``root``."""
    return "/files/" + "/".join(quoted(part) for part in (root, *folder.relative_to(base).parts))


def file(request: Request) -> Response:
    """A clip or a picture of a run or of a batch."""
    places = studio_of(request).places
    root = {"runs": places.runs, "clips": places.clips}.get(request.path_params["root"])
    parts = request.path_params["path"].split("/")
    path = child(root, *parts) if root is not None else None
    kind = _TYPES.get(path.suffix) if path is not None else None
    if path is None or kind is None:
        raise HTTPException(404)
    if not path.is_file():
        path = _converted(places, path)
    return FileResponse(path, media_type=kind, headers={"cache-control": "no-cache"})


def _converted(places: Places, path: Path) -> Path:
    """The clip beside which ``path`` would lie, in its form; kept until the clip changes."""
    clip = path.with_suffix(".mp4")
    if path.suffix.removeprefix(".") not in FORMS or clip.is_symlink() or not clip.is_file():
        raise HTTPException(404)
    stamp = hashlib.sha256(f"{clip}\0{clip.stat().st_mtime_ns}".encode(errors="replace")).hexdigest()[:24]
    held = places.state / "forms" / f"{stamp}{path.suffix}"
    with _converting:  # one at a time: a page asks for many at once
        if not held.is_file():
            held.parent.mkdir(parents=True, exist_ok=True)
            convert(clip, held)
            for old in sorted(held.parent.iterdir(), key=lambda one: one.stat().st_mtime)[:-_KEPT]:
                old.unlink()
    return held


def whole_page(request: Request) -> Response:
    """A finished page of a comparison or a run."""
    places = studio_of(request).places
    name = request.path_params["name"]
    path = child(places.clips, name, "compare.html")
    if request.path_params["kind"] == "report":
        path = child(places.runs, name, "report.html")
    if path is None or not path.is_file():
        raise HTTPException(404)
    headers = {"content-security-policy": _SANDBOX}
    return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)


ROUTES = [
    Route("/files/{root}/{path:path}", file),
    Route("/whole/{kind}/{name}", whole_page),
]
