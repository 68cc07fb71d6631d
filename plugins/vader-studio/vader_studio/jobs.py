"""Jobs as folders: what was asked for, how far it is, what came of it. They outlive the server."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vader_core.files import replacing

#: States from which a job goes nowhere.
ENDED = ("done", "failed", "cancelled", "stopped")
_NAME = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9]{6}-[0-9a-f]{4}")


@dataclass
class Job:
    """A job.

    Args:
        folder: Its own.
        kind: ``sample``, ``train``, ``compare`` or ``score``.
        title: A line for a list.
        request: What the worker is given.
        created: Seconds since 1970.
        state: ``queued``, ``running``, or one of :data:`ENDED`.
        message: Why it failed or stopped.
        progress: ``text``, ``share`` in [0, 1] and ``left`` in seconds, as far as they are known.
        result: What came of it.
    """

    folder: Path
    kind: str
    title: str
    request: dict[str, Any]
    created: float
    state: str = "queued"
    message: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its folder; jobs sort by it."""
        return self.folder.name

    @property
    def ended(self) -> bool:
        """Whether it goes nowhere from here."""
        return self.state in ENDED

    def save(self) -> None:
        """Write it; a reader sees the old state or the new one, never a half."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tree = {
            "kind": self.kind,
            "title": self.title,
            "request": self.request,
            "created": self.created,
            "state": self.state,
            "message": self.message,
            "result": self.result,
        }
        with replacing(self.folder / "job.json") as beside:
            beside.write_text(json.dumps(tree), encoding="utf-8")

    def shown(self) -> dict[str, Any]:
        """What a page is told."""
        return {
            "name": self.name,
            "kind": self.kind,
            "title": self.title,
            "state": self.state,
            "message": self.message,
            "progress": self.progress,
            "result": self.result,
            "created": self.created,
        }


def new_job(
    folder: Path,
    kind: str,
    title: str,
    request: Mapping[str, Any],
    out: Callable[[str], Path] | None = None,
) -> Job:
    """A queued job with a folder of its own below ``folder``, written at once.

    Args:
        folder: Of all jobs.
        kind: As in :class:`Job`.
        title: A line for a list.
        request: What the worker is given.
        out: From the job's name, where its result goes; the request's ``out`` by default.
    """
    now = time.time()
    moment = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{int(now % 1 * 1e6):06d}"
    name = f"{moment}-{secrets.token_hex(2)}"
    told = dict(request) if out is None else {**request, "out": str(out(name))}
    job = Job(folder / name, kind, title[:200], told, now)
    job.save()
    return job


def read_jobs(folder: Path) -> Iterator[Job]:
    """The jobs below ``folder``, oldest first; what cannot be read is passed over."""
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not _NAME.fullmatch(place.name):
            continue
        try:
            tree = json.loads((place / "job.json").read_text(encoding="utf-8"))
            yield Job(
                folder=place,
                kind=str(tree["kind"]),
                title=str(tree["title"]),
                request=dict(tree["request"]),
                created=float(tree["created"]),
                state=str(tree["state"]),
                message=str(tree.get("message", "")),
                result=dict(tree.get("result") or {}),
            )
        except (OSError, ValueError, LookupError, TypeError):
            continue
