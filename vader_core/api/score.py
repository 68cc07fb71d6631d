"""Score videos with rewards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vader_core.errors import VaderError
from vader_core.files import replacing
from vader_core.function_files import reward_names
from vader_core.method.frames import check_choice
from vader_core.method.mixture import Mixture, Term
from vader_core.paths import entered
from vader_core.progress import Progress, counted, unseen
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.registry import Registry, load_registry
from vader_core.report import write_batch_page
from vader_core.run.batch import LISTED, read_batch
from vader_core.video import count_frames, read_frames

#: What a clip's file ends in.
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v")


def score(  # noqa: PLR0913 - what a person can ask for
    videos: Sequence[str | Path],
    rewards: Sequence[str],
    *,
    prompts: Sequence[str] = (),
    reward_frames: str = "all",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    device: str | None = None,
    seed: int = 0,
    registry: Registry | None = None,
    progress: Progress = unseen,
) -> dict[str, Any]:
    """Score video files: mp4, gif, a picture, a folder of clips, or a folder of pictures.

    Args:
        videos: The files; a folder with clips in it stands for them all.
        rewards: Registered names, or functions of your own as ``FILE.py:FUNCTION``.
        prompts: What the videos show: one for all, or one for each. Left out, a clip of a run's samples
            folder is given the prompt it was made for.
        reward_frames: The frame choice, in the words of ``--reward-frames``.
        options: Each reward's own options, by its name.
        device: ``cpu`` or ``cuda``; the GPU by default, where there is one.
        seed: For rewards that draw.
        registry: Where the rewards come from; the installed plugins by default.
        progress: Told how far it is.

    Returns:
        ``videos``: one entry per video with its path, its prompt and its scores.

    Raises:
        VaderError: An unknown reward, a file that cannot be read, prompts that do not go with the videos.
    """
    registry = registry or load_registry()
    if len(set(rewards)) != len(rewards):
        raise VaderError("a --reward is given twice")
    given, rewards = options or {}, reward_names(rewards, registry)
    components = [(registry.get("reward", name), dict(given.get(name, {}))) for name in rewards]
    for component, own in components:
        component.options(own)
    paths = [path for video in videos for path in clips_of(Path(video))]
    texts = _prompts(paths, prompts)
    if device == "cuda" and not torch.cuda.is_available():
        raise VaderError("--device cuda: no CUDA device is available here; use cpu, or see `vader doctor`")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    progress("loading the rewards", 0, 0)
    terms = [
        Term(component.name, component.make(own, device=place, dtype=torch.float32))
        for component, own in components
    ]
    mixture = Mixture(tuple(terms))
    _require_texts(mixture, paths, texts)
    found = []
    for number, (path, text) in enumerate(zip(paths, texts, strict=True)):
        progress("scoring", number, len(paths))
        values = _scores(mixture, path, text, reward_frames, Randomness(seed), place)
        found.append({"video": str(path), "prompt": text, "scores": values})
    return {"videos": found}


def _scores(
    mixture: Mixture, path: Path, text: str, reward_frames: str, rng: Randomness, device: torch.device
) -> dict[str, float]:
    """One clip's scores by the reward's name."""
    count = count_frames(path)
    try:
        check_choice(reward_frames, count)
        frames = mixture.choose_frames(reward_frames, count, rng)
    except VaderError as error:
        raise VaderError(f"{path}: {error}") from error
    seen = read_frames(path, frames.union).unsqueeze(0).to(device)
    with torch.no_grad():
        output = mixture(seen, frames, [Prompt(text)], rng)
    return {name: float(value[0]) for name, value in output.scores.items()}


def score_clips(
    folder: str | Path,
    rewards: Sequence[str],
    *,
    device: str | None = None,
    registry: Registry | None = None,
) -> dict[str, dict[str, float]]:
    """Score the clips of a folder that ``sample`` wrote; its list and its page hold the scores afterwards.

    Args:
        folder: With ``prompts.json``.
        rewards: Registered names, or functions of your own as ``FILE.py:FUNCTION``.
        device: ``cpu`` or ``cuda``; the GPU by default, where there is one.
        registry: Where the rewards come from; the installed plugins by default.

    Returns:
        The scores by the clip's file name and the reward's.

    Raises:
        VaderError: No such folder, and as for :func:`score`.
    """
    place = entered(folder)
    clips = read_batch(place).clips
    result = score(
        [clip.path for clip in clips],
        rewards,
        prompts=[clip.prompt for clip in clips],
        device=device,
        registry=registry,
    )
    found = {Path(one["video"]).name: one["scores"] for one in result["videos"]}
    entries = json.loads((place / LISTED).read_text(encoding="utf-8"))
    for entry in entries:
        scores = found.get(str(entry.get("file")), {})
        entry["scores"] = {**entry.get("scores", {}), **{name: round(x, 6) for name, x in scores.items()}}
    with replacing(place / LISTED) as beside:
        beside.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")
    write_batch_page(place)
    return found


def _require_texts(mixture: Mixture, videos: Sequence[Path], texts: Sequence[str]) -> None:
    wanting = [term.name for term in mixture.terms if term.reward.reads_text]
    without = [path for path, text in zip(videos, texts, strict=True) if not text]
    if wanting and without:
        raise VaderError(
            f"reward {wanting[0]!r} judges a clip by its text, and {without[0]} has none: give --prompt TEXT"
        )


def clips_of(path: Path) -> list[Path]:
    """The videos that a path means: a folder's clips where it has some, else the path itself.

    A folder of pictures alone is one video.
    """
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in CLIPS)
    return found or [path]


def _prompts(videos: Sequence[Path], given: Sequence[str]) -> list[str]:
    if len(given) > 1 and len(given) != len(videos):
        raise VaderError(
            f"{len(given)} prompts, but {counted(len(videos), 'video')}: give --prompt once for all, or once "
            "for each"
        )
    if given:
        return list(given) if len(given) > 1 else list(given) * len(videos)
    return [_own_prompt(path) for path in videos]


def _own_prompt(path: Path) -> str:
    """The prompt that a run noted for a clip of its samples folder; empty for any other file."""
    listed = path.parent / "prompts.json"
    if not listed.is_file():
        return ""
    try:
        entries = json.loads(listed.read_text(encoding="utf-8"))
        named = [entry for entry in entries if entry.get("file") == path.name]
        found = named[0] if named else entries[int(path.stem)]
        return str(found["prompt"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
