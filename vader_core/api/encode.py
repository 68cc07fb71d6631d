"""Latents and texts of a run's clips, computed before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from vader_core.api.configure import complete
from vader_core.assembly.data import cache_identity
from vader_core.assembly.loading import load_backbone
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.data.frame_masks import SeededDraws
from vader_core.data.latents import TEXT, LatentWriter
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prompts import Prompt, Shape
from vader_core.randomness import Randomness, derive_seed
from vader_core.registry import Registry, load_registry
from vader_core.run.config import RunConfig

_TEXTS_AT_ONCE = 16


def encode_data(
    config: RunConfig,
    out: str | Path,
    *,
    windows: int = 1,
    registry: Registry | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Encode the clips and captions of ``data.source``; what lies there already is not encoded again.

    Args:
        config: What a training run on these clips would be given.
        out: The cache.
        windows: Windows per clip, each from a start of its own; training draws among them.
        registry: Where the components come from; the installed plugins by default.
        say: Told of each clip that is passed over.

    Returns:
        ``encoded``, ``kept`` and ``unreadable`` windows.

    Raises:
        VaderError: Anything that cannot be done, before the model is loaded where possible.
    """
    registry, folder = registry or load_registry(), Path(out)
    assembly = prepare(complete(config, registry), registry)
    _check(assembly)
    writer = LatentWriter(folder, cache_identity(assembly.config, assembly.geometry))
    load_backbone(assembly)
    _encode_texts(assembly, folder)
    videos, counts = assembly.videos, {"encoded": 0, "kept": 0, "unreadable": 0}
    usable = [
        (prompt, shape, False, *videos.plan.place_of(number))
        for number, (prompt, shape) in enumerate(zip(videos.plan.clips, videos.plan.shapes, strict=True))
        if videos.plan.why_dropped(number) is None
    ]
    usable += [(prompt, shape, True, None, assembly.geometry) for prompt, shape in videos.held_out]
    for number, (prompt, shape, held_out, bucket, size) in enumerate(usable):
        for window in range(1 if held_out else windows):
            key = writer.key(prompt, window)
            if key in writer:
                counts["kept"] += 1
                continue
            try:
                latents, first = _encoded(assembly, prompt, shape, size, (number, window))
            except VaderError as error:
                counts["unreadable"] += 1
                say(f"passed over: {error}")
                continue
            kept = first if assembly.backbone.needs_image else None
            writer.add(key, latents, prompt, held_out=held_out, bucket=bucket, first=kept)
            counts["encoded"] += 1
    writer.flush()
    return counts


def _check(assembly: Assembly) -> None:
    config = assembly.config
    if config.data.source is None:
        raise VaderError("no data: give --data file:PATH, videos:FOLDER or NAME")
    if config.data.source.startswith("cache:"):
        raise VaderError(f"--data {config.data.source} is encoded already")
    assembly.videos.summary.check(config.data.unreadable_limit)
    if config.data.groups is not None:
        assembly.videos.plan.place_of(0)


def _encode_texts(assembly: Assembly, folder: Path) -> None:
    backbone = assembly.backbone
    backbone.text_cache.directory = folder / TEXT
    prompts = assembly.with_negative([*assembly.videos.plan.clips, *(p for p, _ in assembly.videos.held_out)])
    for start in range(0, len(prompts), _TEXTS_AT_ONCE):
        backbone.encode_text(prompts[start : start + _TEXTS_AT_ONCE])
    backbone.release_text_encoder()


@torch.no_grad()
def _encoded(
    assembly: Assembly, prompt: Prompt, shape: Shape, geometry: Geometry, name: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A clip's latents, and its first frame."""
    seed = assembly.config.trainer.seed
    draws = SeededDraws(derive_seed(seed, "encode", *name))
    size = assembly.backbone.video_size(geometry)
    assert prompt.video is not None
    pixels = assembly.videos.reader.read(prompt.video, geometry.num_frames, size, draws, shape)
    rng = Randomness(seed, samples=(name[0],), scope=("encode", name[1]))
    with assembly.autocast():
        latents = assembly.backbone.encode_video(pixels[None].to(assembly.device), rng)
    return latents[0], pixels[0]
