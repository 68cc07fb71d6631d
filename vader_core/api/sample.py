"""Sample videos from a base or a tuned model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vader_core.api.configure import complete
from vader_core.api.open_model import Opened, all_off, full_checkpoint, open_together, scaled_lora
from vader_core.assembly.levers import process_switches
from vader_core.assembly.loading import cutting, load_rewards
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import make_prompts, prepare
from vader_core.assembly.resolve import backbone_component, choose_device, resolve
from vader_core.clip_forms import checked_forms
from vader_core.errors import VaderError
from vader_core.evaluation.clip_folder import ClipFolder, Entry, clip_entry, clip_settings
from vader_core.evaluation.validation import Pair, Scored, score_pairs
from vader_core.function_files import reward_names
from vader_core.lora.adapter import fitted, refuse_foreign, settings_of
from vader_core.method.denoise import Seen
from vader_core.paths import entered
from vader_core.prompts import Prompt
from vader_core.registry import Registry, load_registry
from vader_core.report import write_batch_page
from vader_core.run.adapters import find_adapter
from vader_core.run.config import RunConfig, validated
from vader_core.run.layers import changed
from vader_core.run.tracking import Listener, Silence
from vader_core.training.processes import SingleProcess
from vader_core.training.texts import encode_each

#: Videos of one prompt that a command makes; a longer list would not end.
MOST_SEEDS = 100_000


def sample(  # noqa: PLR0913 - what a person can ask for
    config: RunConfig,
    *,
    out: str | Path | None = None,
    lora: str | Sequence[str] = (),
    lora_scale: float = 1.0,
    count: int = 1,
    max_prompts: int | None = None,
    most_prompts: int | None = None,
    batch_size: int = 1,
    rewards: Sequence[str] = (),
    base: bool = False,
    keep_videos: bool = True,
    overwrite: bool = False,
    also: Sequence[str] = (),
    registry: Registry | None = None,
    listener: Listener | None = None,
    opened: Opened | None = None,
) -> Scored:
    """Sample ``count`` videos of every prompt.

    A clip is a function of its settings, its prompt and its seed alone; seeds count from ``trainer.seed``.
    Each is written when it is done, and not made again where ``out`` holds it, unless it is to be returned.
    A launcher's processes share the clips, ``batch_size`` at once; the first alone writes and returns them.

    Args:
        config: What was asked for; its rewards are not used.
        out: Folder for the clips, ``prompts.json`` and ``index.html``; ``None`` writes nothing.
        lora: Adapters, each ``L[:SCALE]``.
        lora_scale: Factor of the first adapter; 0 is the base model.
        count: Videos per prompt, each with its own seed.
        max_prompts: Use at most this many prompts.
        most_prompts: Refuse to begin where there are more prompts and ``max_prompts`` is not given.
        batch_size: Videos sampled at once.
        rewards: Rewards to score every clip with, by name or as ``FILE.py:FUNCTION``.
        base: Make the same clip with the model before tuning, beside each.
        keep_videos: Return the videos; without, memory does not grow with their number.
        overwrite: Replace videos in ``out``.
        also: Forms in which each clip is written beside its mp4: ``gif``, ``webm``.
        registry: Where the components come from; the installed plugins by default.
        listener: Told of each ``clip`` (``done``, ``total``, ``seconds``, ``entry``) and each step in one.
        opened: Keeps the loaded model from one call to the next that asks for the same.

    Returns:
        The videos [N, F, 3, H, W] on the CPU, with their scores; ``base`` videos are in ``out`` alone.

    Raises:
        VaderError: Anything that cannot be done, before anything heavy where possible.
    """
    registry, loras = registry or load_registry(), [lora] if isinstance(lora, str) else list(lora)
    _check_asked(loras, count, batch_size, base=base)
    forms, place = checked_forms(also), None if out is None else entered(out)
    _refuse_many(config, registry, most_prompts if max_prompts is None else None, count)
    (listener := listener or Silence()).phase("loading the model", 0, 0)
    assembly, processes = shared_assembly(config, loras, registry, rewards, batch_size, opened, out=place)
    with processes.together(), process_switches(assembly.config):
        pairs = pairs_of(assembly.every_prompt()[:max_prompts], config.trainer.seed, count)
        work = _Work(assembly, processes, listener, pairs, base=base, keep_videos=keep_videos)
        work.keep_in(place, clip_settings(assembly, loras, lora_scale), overwrite=overwrite, forms=forms)
        return work.make(batch_size)


def _check_asked(loras: Sequence[str], count: int, batch_size: int, *, base: bool) -> None:
    if count < 1 or batch_size < 1:
        raise VaderError("--count and --batch-size must be 1 or more")
    if count > MOST_SEEDS:
        raise VaderError(f"--count {count} is not allowed: use at most {MOST_SEEDS:,} videos per prompt")
    if base and not loras:
        raise VaderError("--base shows the model before tuning beside the tuned one: give --lora RUN as well")


def check_sample(
    config: RunConfig, lora: Sequence[str] = (), *, registry: Registry | None = None
) -> RunConfig:
    """Check whatever can be checked of :func:`sample` without weights.

    Args:
        config: What will be asked for.
        lora: Adapters, each ``L[:SCALE]``.
        registry: Where the components come from; the installed plugins by default.

    Returns:
        The complete configuration.

    Raises:
        VaderError: Anything that cannot be done.
    """
    registry = registry or load_registry()
    config = without_scores(config)
    if config.video.num_frames is None:
        config = changed(config, video={"num_frames": sample_frames(config, registry)})
    assembly = prepare(complete(changed(config, lora={"start": None}), registry, training=False), registry)
    prompts = assembly.every_prompt()
    if assembly.backbone.needs_image and any(prompt.image is None for prompt in prompts):
        raise VaderError(f"backbone {config.backbone.name!r} starts from an image: give one")
    scaled = [(text, scaled_lora(text)[0]) for text in lora]
    adapters = [(text, find_adapter(place, registry)) for text, place in scaled if not full_checkpoint(place)]
    if adapters:
        with torch.device("meta"):
            denoiser = assembly.backbone.build_denoiser()
        for text, adapter in adapters:
            refuse_foreign(denoiser, settings_of(fitted(denoiser, adapter)), what=f"--lora {text}")
    return assembly.config


def _refuse_many(config: RunConfig, registry: Registry, most: int | None, count: int) -> None:
    """Nobody asked for a thousand clips: say how many there would be, before anything is loaded."""
    if most is None:
        return
    source = make_prompts(resolve(without_scores(config), registry, training=False), registry)
    found = 0 if source is None else len(getattr(source, "every", source.all)())
    if found > most:
        raise VaderError(
            f"this would make {found * count:,} clips: say how many prompts with --max-prompts N, or which "
            "with --prompts"
        )


def sampling_assembly(
    config: RunConfig,
    loras: Sequence[str],
    registry: Registry,
    rewards: Sequence[str] = (),
    batch_size: int = 1,
    opened: Opened | None = None,
) -> Assembly:
    """The loaded parts to sample with; the noise of a clip is then a function of its pair's number alone."""
    return shared_assembly(config, loras, registry, rewards, batch_size, opened)[0]


def shared_assembly(
    config: RunConfig,
    loras: Sequence[str],
    registry: Registry,
    rewards: Sequence[str] = (),
    batch_size: int = 1,
    opened: Opened | None = None,
    *,
    out: Path | None = None,
) -> tuple[Assembly, SingleProcess]:
    """The same, with the processes that share the clips."""
    config = without_scores(config)
    if config.video.num_frames is None:
        config = changed(config, video={"num_frames": sample_frames(config, registry)})
    config = changed(
        config,
        validation={"batch": batch_size},
        lora={"start": None},
        trainer={"seed": 0},
    )
    monitors = [{"name": name} for name in reward_names(rewards, registry)]
    config = validated({**config.model_dump(), "monitor": monitors})
    assembly, processes = open_together(config, loras, registry, opened, out=out)
    with processes.together():
        load_rewards(assembly, training=False, then=cutting(assembly))
    return assembly, processes


def pairs_of(prompts: Sequence[Prompt], first: int, count: int) -> list[Pair]:
    """Every prompt with the seeds ``first`` … ``first + count - 1``; the seed names the noise."""
    return [Pair(prompt, seed, seed) for prompt in prompts for seed in range(first, first + count)]


@contextmanager
def watched(assembly: Assembly, listener: Listener) -> Iterator[None]:
    """Within, the listener is told of every denoising step."""
    of, before = assembly.model.num_steps, assembly.model.watch

    def tell(seen: Seen) -> None:
        listener.record({"kind": "denoising", "step": seen.index + 1, "of": of})

    assembly.model.watch = tell
    try:
        yield
    finally:
        assembly.model.watch = before


class _Work:
    """The clips of one call, batch after batch."""

    def __init__(
        self,
        assembly: Assembly,
        processes: SingleProcess,
        listener: Listener,
        pairs: Sequence[Pair],
        *,
        base: bool,
        keep_videos: bool,
    ) -> None:
        self.assembly, self.processes, self.pairs = assembly, processes, list(pairs)
        self.listener = listener if processes.first else Silence()
        self.base, self.keep_videos = base, keep_videos
        self.folder: ClipFolder | None = None
        self.settings: dict[str, Any] = {}
        distinct = dict.fromkeys(id(pair.prompt) for pair in pairs)
        self.positions = {found: number for number, found in enumerate(distinct)}

    def keep_in(
        self, place: Path | None, settings: dict[str, Any], *, overwrite: bool, forms: Sequence[str]
    ) -> None:
        """Write the clips to ``place``, if there is one; those that it holds are not made again."""
        self.settings = settings
        if place is not None and self.processes.first:
            self.folder = ClipFolder(place, settings, overwrite=overwrite, forms=forms)
        mine = [not self.keep_videos and self._is_there(pair) for pair in self.pairs]
        there = self.processes.from_first(mine)
        self.pairs = [pair for pair, done in zip(self.pairs, there, strict=True) if not done]

    def make(self, size: int) -> Scored:
        """Sample, score and write what is not there; the videos of the tuned model where they are kept."""
        parts = []
        if self.assembly.config.parallel.shard_text_encoders:  # everyone's work at every text
            encode_each(self.assembly, [pair.prompt for pair in self.pairs])
        try:
            with watched(self.assembly, self.listener):
                for start in range(0, len(self.pairs), size * self.processes.count):
                    scored = self._make_round(start, size)
                    parts.append(
                        scored if self.keep_videos else Scored(scored.pairs, torch.empty(0), scored.scores)
                    )
        except BaseException:
            with suppress(Exception):  # what went wrong first is what is told
                self._show()
            raise
        self._show()
        return _joined(parts)

    def _show(self) -> None:
        if self.folder is not None and self.folder.entries:
            self.folder.complete()
            write_batch_page(self.folder.folder)

    def _is_there(self, pair: Pair) -> bool:
        names = [term.name for term in self.assembly.monitors.terms]
        twins = (False, True) if self.base else (False,)
        return self.folder is not None and all(
            self.folder.has(self._entry(pair, twin), names) for twin in twins
        )

    def _make_round(self, start: int, size: int) -> Scored:
        """``size`` clips of each process: made, and written by the first."""
        begun = time.perf_counter()
        pairs = self.pairs[start : start + size * self.processes.count]
        with self.assembly.model.tuning.scaled(self.settings["lora_scale"]):
            tuned = self._scored(pairs, size)
        entries = list(self._write(pairs, tuned, base=False))
        if self.base:
            with all_off(self.assembly):
                entries += self._write(pairs, self._scored(pairs, size), base=True)
        seconds = (time.perf_counter() - begun) / len(pairs)
        facts = {"done": start + len(pairs), "total": len(self.pairs), "seconds": seconds}
        for entry in entries:
            self.listener.record({"kind": "clip", **facts, "entry": entry})
        return tuned

    def _scored(self, pairs: Sequence[Pair], size: int) -> Scored:
        """The clips of all processes on the first one, none on the others."""
        rank = self.processes.here[0]
        shares = [pairs[at : at + size] for at in range(0, self.processes.count * size, size)]
        own = shares[rank]
        # Of a model in pieces every call is everyone's work: a process without a clip makes one for nobody.
        made = score_pairs(self.assembly, own or pairs[:1], (self.assembly.monitors,), scope="sample")
        made = made.first(len(own))
        # All know what was asked for; a prompt with facts of its source's may not be able to travel.
        told = self.processes.gather_first((made.videos, made.scores))
        return _joined([Scored(tuple(share), *one) for share, one in zip(shares, told, strict=False)])

    def _write(self, batch: Sequence[Pair], scored: Scored, *, base: bool) -> Iterator[Entry]:
        for index, pair in enumerate(batch if self.processes.first else ()):
            entry = self._entry(pair, base)
            entry["scores"] = {name: round(float(one[index]), 6) for name, one in scored.scores.items()}
            if self.folder is not None:
                self.folder.add(entry, scored.videos[index], self.assembly.geometry.fps)
            yield entry

    def _entry(self, pair: Pair, base: bool) -> Entry:
        return clip_entry(pair, self.positions[id(pair.prompt)], self.settings, base=base)


def _joined(parts: Sequence[Scored]) -> Scored:
    names = parts[0].scores if parts else {}
    videos: list[Tensor] = [part.videos for part in parts if len(part.videos)]
    return Scored(
        pairs=tuple(pair for part in parts for pair in part.pairs),
        videos=torch.cat(videos) if videos else torch.empty(0),
        scores={name: torch.cat([part.scores[name] for part in parts]) for name in names},
    )


def without_scores(config: RunConfig) -> RunConfig:
    """The same run without rewards and monitors."""
    return config.model_copy(update={"reward": [], "monitor": []})


def sample_frames(config: RunConfig, registry: Registry) -> int | None:
    """How many frames the backbone samples where nobody says; ``None`` is as many as it trains on."""
    device = choose_device(config)
    backbone = backbone_component(config, registry).make(
        config.backbone.options, device=device, dtype=torch.float32
    )
    found: int | None = backbone.defaults.sample_frames
    return found
