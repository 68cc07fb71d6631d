"""A folder of clips that `vader sample` wrote, read as data of unknown origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError
from vader_core.printable import printable
from vader_core.run.reader import Reader

LISTED = "prompts.json"


@dataclass(frozen=True)
class BatchClip:
    """One clip of a batch.

    Args:
        path: Its mp4.
        prompt: What was asked for.
        negative: What it should not show.
        picture: The picture that it starts from, small, beside the clip.
        seed: The seed that makes it again.
        is_base: Whether the model before tuning made it, beside one of the tuned model.
        scores: Score by reward.
        settings: Everything else that it depends on, as text by name.
        command: The command line that makes it again.
        is_small: Whether single pixels should stay visible when it is enlarged.
    """

    path: Path
    prompt: str
    negative: str | None
    picture: Path | None
    seed: int | None
    is_base: bool
    scores: dict[str, float]
    settings: dict[str, str]
    command: list[str]
    is_small: bool = False


@dataclass(frozen=True)
class Batch:
    """A folder of clips.

    Args:
        folder: Where they lie.
        clips: In the order of their prompts and seeds.
        omissions: What was left out, and why; one sentence each.
    """

    folder: Path
    clips: list[BatchClip]
    omissions: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return printable(self.folder.resolve().name)


def read_batch(folder: Path) -> Batch:
    """Read a folder of clips; what is wrong in it is left out and named.

    Raises:
        VaderError: It holds no list of clips, or one that cannot be read.
    """
    reader = Reader(folder)
    path = reader.find(LISTED)
    if path is None:
        raise VaderError(f"{folder} is no folder of clips: it has no {LISTED}")
    entries = reader.json(path)
    if not isinstance(entries, list):
        raise VaderError(f"{path} must hold a JSON list, one object per clip")
    clips = [_clip(reader, index, entry) for index, entry in enumerate(entries)]
    return Batch(folder, [clip for clip in clips if clip is not None], reader.omissions())


def _clip(reader: Reader, index: int, value: Any) -> BatchClip | None:
    where = f"clip {index}"
    entry = reader.mapping(value, LISTED, where)
    name = reader.word(entry.get("file"), LISTED, f"{where}: file") or f"{index:02d}.mp4"
    if Path(name).name != name or not name.endswith(".mp4"):
        reader.leave_out(LISTED, f"{where}: its file must be an mp4 in this folder")
        return None
    path = reader.find(name, expected=True)
    if path is None:
        return None
    picture = reader.word(entry.get("picture"), LISTED, f"{where}: picture")
    inside = None if picture is None else reader.find(picture)
    settings = reader.mapping(entry.get("settings"), LISTED, f"{where}: settings")
    shown = {key: reader.words(item, LISTED, f"{where}: settings.{key}") for key, item in settings.items()}
    command = reader.items(entry.get("command"), LISTED, f"{where}: command")
    words = [reader.word(item, LISTED, f"{where}: command") or "" for item in command]
    video = settings.get("video")
    width = video.get("width") if isinstance(video, dict) else None
    return BatchClip(
        path=path,
        prompt=reader.word(entry.get("prompt"), LISTED, f"{where}: prompt") or "",
        negative=reader.word(entry.get("negative"), LISTED, f"{where}: negative"),
        picture=inside if inside is not None and inside.suffix == ".jpg" else None,
        seed=reader.whole(entry.get("seed"), LISTED, f"{where}: seed"),
        is_base=reader.truth(entry.get("base"), LISTED, f"{where}: base"),
        scores=reader.numbers(entry.get("scores"), LISTED, f"{where}: scores"),
        settings={key: text for key, text in shown.items() if text},
        command=words,
        is_small=isinstance(width, int) and width <= 160,
    )
