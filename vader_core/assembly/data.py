"""The clips that a run learns from, looked at and placed before anything heavy is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vader_core.backbone import Backbone
from vader_core.builtin.prompts.data_grammar import parse_data
from vader_core.data.buckets import Buckets
from vader_core.data.examine import examine
from vader_core.data.frame_rule import FrameRule
from vader_core.data.groups import InGroups
from vader_core.data.latents import CachedVideos
from vader_core.data.plan import InBuckets, OneSize, Plan, StoredBuckets
from vader_core.data.reader import Reader
from vader_core.data.summary import Summary
from vader_core.data.tables import FORMATS, MOVING, read_folder, read_table
from vader_core.data.videos import Videos
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.paths import entered
from vader_core.pictures import PICTURES
from vader_core.prompts import Prompt, PromptSource, Shape
from vader_core.registry import Registry
from vader_core.run.config import DataSection, RunConfig


@dataclass(frozen=True)
class VideoData:
    """What a run learns from.

    Args:
        source: Its prompts have videos.
        plan: Which clip comes when, at which size.
        reader: How a clip is read.
        summary: What each bucket gets, and why each other row is dropped.
        held_out: Clips for validation, with the size of each.
    """

    source: PromptSource
    plan: Plan
    reader: Reader
    summary: Summary
    held_out: Sequence[tuple[Prompt, Shape]]


def video_data(config: RunConfig, registry: Registry, backbone: Backbone, geometry: Geometry) -> VideoData:
    """Look at every clip and place it.

    Args:
        config: Complete, with ``data.source``.
        registry: Where named sources come from.
        backbone: Says which sizes it can make.
        geometry: The run's.

    Raises:
        VaderError: A table that cannot be read, nothing to learn from, too many bad files, or a size that the
            backbone cannot make.
    """
    asked = config.data
    source: PromptSource
    if asked.source is not None and asked.source.startswith("cache:"):
        source, rule = _cached(config, geometry), FrameRule(interval=1)
    else:
        source = video_source(asked, registry)
        rule = FrameRule(asked.frame_rule, asked.frame_interval, geometry.fps)
    plan = _plan(config, source, rule, geometry)
    dropped = source.dropped if isinstance(source, Videos) else ()
    held_out = source.held_out_clips() if isinstance(source, Videos | CachedVideos) else []
    summary = plan.summary(dropped, len(held_out))
    summary.check(asked.unreadable_limit)
    for size in plan.geometries():
        _check_size(backbone, size, config.parallel.context)
    _check_captions(backbone, plan)
    fitting = [(prompt, shape) for prompt, shape in held_out if rule.fits(shape, geometry.num_frames)]
    return VideoData(source, plan, Reader(rule, asked.crop), summary, fitting)


def _check_captions(backbone: Backbone, plan: Plan) -> None:
    for clip, prompt in enumerate(plan.clips):
        if plan.why_dropped(clip) is None:
            try:
                backbone.check_text(prompt.text)
            except VaderError as error:
                raise VaderError(f"row {plan.numbers[clip]} of the data: {error}") from error


def cache_identity(config: RunConfig, geometry: Geometry) -> dict[str, Any]:
    """What the latents of a run's clips depend on, beside the clips: model and transform, as JSON."""
    asked = config.data
    cut: dict[str, Any] = {}
    if asked.buckets is not None:
        cut = {"buckets": json.loads(json.dumps(asked.buckets)), "bucket_rule": asked.bucket_rule}
    return {
        **cut,
        "backbone": config.backbone.name,
        "options": {key: str(value) for key, value in config.backbone.options.items()},
        "video": asdict(geometry),
        "precision": config.trainer.precision,
        "crop": asked.crop,
        "frame_rule": asked.frame_rule,
        "frame_interval": asked.frame_interval,
    }


def _cached(config: RunConfig, geometry: Geometry) -> CachedVideos:
    asked = config.data
    for name in ("groups", "root", "held_out"):
        if getattr(asked, name) is not None:
            raise VaderError(f"data.{name} has no effect on --data {asked.source}: it is encoded already")
    _, rest = parse_data(str(asked.source))
    return CachedVideos(entered(rest), cache_identity(config, geometry))


def video_source(asked: DataSection, registry: Registry) -> PromptSource:
    """The source that ``--data`` names.

    Raises:
        VaderError: It cannot be read, has no videos, or is given options that it does not have.
    """
    if asked.source is None:
        raise VaderError("no data: give --data file:PATH, videos:FOLDER or NAME")
    form, rest = parse_data(asked.source)
    if form == "name":
        if rest not in registry.components["prompt source"]:
            _refuse_place(rest)
        component = registry.get("prompt source", rest)
        made: PromptSource = component.make(asked.options, device=torch.device("cpu"), dtype=torch.float32)
        if not made.clips():
            raise VaderError(f"--data {rest}: this source has prompts but no videos to learn from")
        return made
    if asked.options:
        raise VaderError(f"data.{next(iter(asked.options))}: no option of --data {form}:…")
    rows = read_table(Path(rest), asked.root) if form == "file" else read_folder(Path(rest))
    return Videos(examine(rows, check=asked.check), asked.held_out, name=f"--data {asked.source}")


def _refuse_place(text: str) -> None:
    """A path where a name belongs is led to the form that it needs."""
    place = entered(text)
    wanted = ""
    if place.is_dir():
        wanted = f"a folder of clips is --data videos:{text}"
    elif place.suffix.lower() in (*MOVING, *PICTURES):
        wanted = f"a clip is learned from with its folder: --data videos:{place.parent}"
    elif place.is_file() or place.suffix in FORMATS:
        wanted = f"a table of clips is --data file:{text}"
    if wanted:
        raise VaderError(f"--data {text}: {wanted}")


def _plan(config: RunConfig, source: PromptSource, rule: FrameRule, geometry: Geometry) -> Plan:
    asked, clips, shapes = config.data, source.clips(), source.shapes()
    if len(shapes) != len(clips):
        raise VaderError(f"--data {asked.source}: {len(clips)} clips, but {len(shapes)} shapes")
    numbers = source.numbers if isinstance(source, Videos) else list(range(1, len(clips) + 1))
    if asked.groups is not None:
        if asked.buckets is not None:
            raise VaderError("data.groups and data.buckets are two ways to make batches: leave one out")
        return InGroups(
            clips,
            shapes,
            numbers,
            rule,
            options=asked.groups,
            geometry=geometry,
            batch_size=config.trainer.batch_size,
            seed=config.trainer.seed,
        )
    if asked.buckets is None:
        return OneSize(
            clips,
            shapes,
            numbers,
            rule,
            geometry=geometry,
            batch_size=config.trainer.batch_size,
            seed=config.trainer.seed,
        )
    if rule.name == "easyanimate":
        raise VaderError("data.frame_rule=easyanimate and data.buckets do not fit: leave one out")
    others: dict[str, Any] = {
        "numbers": numbers,
        "rule": rule,
        "buckets": Buckets(asked.buckets, asked.bucket_rule),
        "geometry": geometry,
        "seed": config.trainer.seed,
    }
    if isinstance(source, CachedVideos):
        return StoredBuckets(source.buckets, clips, shapes, **others)
    return InBuckets(clips, shapes, **others)


def _check_size(backbone: Backbone, size: Geometry, parts: int) -> None:
    """Refuse clips of a size that the model cannot make, or not split over so many processes."""
    try:
        backbone.validate(size)
        if parts > 1:
            backbone.check_sequence(parts, size)
    except VaderError as error:
        raise VaderError(f"--data: clips of {size} cannot be learned: {error}") from error
