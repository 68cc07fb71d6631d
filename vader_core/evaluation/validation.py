"""Fixed prompts and fixed noise: sample, score, write the clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vader_core.assembly.parts import Assembly
from vader_core.device import out_of_memory_named
from vader_core.method.denoise import Rollout
from vader_core.method.mixture import Mixture
from vader_core.method.segments import sample_video
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness


class Sharing(Protocol):
    """The processes that share the work, as evaluation sees them."""

    @property
    def here(self) -> tuple[int, int]:
        """This process's data-parallel rank, and how many there are."""

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, in the order of their ranks."""

    def gather_first(self, value: Any) -> list[Any]:
        """The same on the first process; an empty list on the others."""


@dataclass(frozen=True)
class Pair:
    """One prompt and one seed.

    Args:
        prompt: What is asked for.
        seed: Number of the seed; the noise is a function of it and of the prompt's position.
        index: Position of the pair, which names its noise.
    """

    prompt: Prompt
    seed: int
    index: int


@dataclass(frozen=True)
class Scored:
    """Samples with their scores.

    Args:
        pairs: What was asked for.
        videos: [N, F, 3, H, W] on the CPU, unclamped; empty where they were not kept, and on all processes
            but the first.
        scores: Each reward's score [N] by name.
        distances: Each one's mean squared distance of the tuned prediction to the base one, half-way [N];
            ``None`` if not asked.
    """

    pairs: tuple[Pair, ...]
    videos: Tensor
    scores: dict[str, Tensor]
    distances: Tensor | None = None

    @property
    def base_distance(self) -> float | None:
        """The mean of the distances."""
        return None if self.distances is None else float(self.distances.mean())

    def first(self, count: int) -> Scored:
        """The first ``count`` of them."""
        return Scored(
            self.pairs[:count],
            self.videos[:count],
            {name: scores[:count] for name, scores in self.scores.items()},
            None if self.distances is None else self.distances[:count],
        )

    def mean(self, mixture: Mixture) -> dict[str, float]:
        """Mean score of each term."""
        return {term.name: float(self.scores[term.name].mean()) for term in mixture.terms}


def make_pairs(prompts: Sequence[Prompt], count: int, seeds: int) -> list[Pair]:
    """At most ``count`` prompts, spread over the whole list, with ``seeds`` seeds each."""
    count = min(count, len(prompts))
    chosen = [prompts[int(i * len(prompts) / count)] for i in range(count)]
    return [Pair(prompt, seed, i * seeds + seed) for i, prompt in enumerate(chosen) for seed in range(seeds)]


def validation_pairs(assembly: Assembly) -> list[Pair]:
    """The pairs of every validation of a run."""
    asked = assembly.config.validation
    return make_pairs(assembly.held_out_prompts(), asked.prompts, asked.seeds)


def own_share(pairs: Sequence[Pair], rank: int, world: int) -> tuple[list[Pair], int]:
    """The pairs that one of ``world`` processes samples, neighbours, and how many of them count.

    A share that is smaller than others is filled up: with weights that are in pieces every call of the model
    is everyone's, so all must make the same number.

    >>> pairs = [Pair(Prompt("a dog"), seed, seed) for seed in range(5)]
    >>> shares = [own_share(pairs, rank, 2) for rank in range(2)]
    >>> [([pair.index for pair in share], count) for share, count in shares]
    [([0, 1, 0], 2), ([2, 3, 4], 3)]
    """
    mine = list(pairs[rank * len(pairs) // world : (rank + 1) * len(pairs) // world])
    largest = -(-len(pairs) // world)
    return mine + [(mine or pairs)[0]] * (largest - len(mine)), len(mine)


def score_pairs(
    assembly: Assembly,
    pairs: Sequence[Pair],
    mixtures: Sequence[Mixture],
    *,
    keep_videos: bool = True,
    measure_distance: bool = False,
    scope: str = "validation",
    doing: str = "validating",
    processes: Sharing | None = None,
) -> Scored:
    """Sample every pair and score it with every term of ``mixtures``, all frames of each.

    Args:
        assembly: Loaded parts; the adapter as it is set.
        pairs: What to sample.
        mixtures: What to score with.
        keep_videos: Return the videos.
        measure_distance: Compare with the base prediction too.
        scope: Names the noise: the same scope and pairs give the same noise.
        doing: What progress calls it.
        processes: Share the pairs out; every process then has all scores.
    """
    wanted: dict[str, Any] = {"keep_videos": keep_videos, "measure_distance": measure_distance}
    wanted |= {"scope": scope, "doing": doing}
    if processes is None or processes.here[1] == 1:
        return _score_here(assembly, pairs, mixtures, **wanted)
    mine, count = own_share(pairs, *processes.here)
    told = _score_here(assembly, mine, mixtures, **wanted).first(count)
    every = processes.gather((told.scores, told.distances))
    videos = [one for one in processes.gather_first(told.videos) if len(one)]
    return Scored(
        pairs=tuple(pairs),
        videos=torch.cat(videos) if videos else torch.empty(0),
        scores={name: torch.cat([scores[name] for scores, _ in every]) for name in told.scores},
        distances=torch.cat([distances for _, distances in every]) if measure_distance else None,
    )


@torch.no_grad()
def _score_here(
    assembly: Assembly,
    pairs: Sequence[Pair],
    mixtures: Sequence[Mixture],
    *,
    keep_videos: bool,
    measure_distance: bool,
    scope: str,
    doing: str,
) -> Scored:
    size = assembly.config.validation.batch
    videos: list[Tensor] = []
    scores: dict[str, list[Tensor]] = {term.name: [] for mixture in mixtures for term in mixture.terms}
    distances: list[Tensor] = []
    for start in range(0, len(pairs), size):
        assembly.progress(doing, start, len(pairs))
        batch = pairs[start : start + size]
        prompts = [pair.prompt for pair in batch]
        seed = assembly.config.trainer.seed
        rng = Randomness(seed, samples=tuple(pair.index for pair in batch), scope=(scope,))
        with out_of_memory_named("sampling"):
            video, rollout = sample_video(assembly.model, prompts, assembly.geometry, rng, assembly.segments)
            for mixture in mixtures:
                frames = mixture.choose_frames("all", video.shape[1], rng)
                seen = video[:, list(frames.union)]
                with assembly.autocast():
                    output = mixture(seen, frames, prompts, rng)
                for name, score in output.scores.items():
                    scores[name].append(score.float().cpu())
        if measure_distance:
            distances.append(_distance(assembly, rollout, rng))
        if keep_videos:
            videos.append(video.float().cpu())
    return Scored(
        pairs=tuple(pairs),
        videos=torch.cat(videos) if videos else torch.empty(0),
        scores={name: torch.cat(parts) for name, parts in scores.items()},
        distances=torch.cat(distances) if distances else None,
    )


def _distance(assembly: Assembly, rollout: Rollout, rng: Randomness) -> Tensor:
    """How far the tuned model's prediction is from the base model's, on its own sample re-noised half-way."""
    model = assembly.model.whole()
    plan, latents = model.plan(assembly.geometry), rollout.latents
    half = plan.num_steps // 2
    noise = rng.normal("distance", latents.shape[1:], device=latents.device, dtype=latents.dtype)
    state = model.sampler.renoise(plan, half, latents, noise)
    given = model.sampler.model_input(plan, half, state)
    told = (given, plan.timesteps[half], rollout.conditioning)
    tuned = model.predict(*told, guided=False).value
    with model.base():
        base = model.predict(*told, guided=False).value
    return (tuned - base).float().pow(2).flatten(1).mean(dim=1).cpu()


def write_samples(scored: Scored, folder: Path, fps: float) -> None:
    """Write ``00.mp4`` …, a contact sheet, and ``prompts.json`` with each clip's scores."""
    from vader_core.files import replacing
    from vader_core.video import contact_sheet, write_video

    folder.mkdir(parents=True, exist_ok=True)
    for index, video in enumerate(scored.videos):
        write_video(video, folder / f"{index:02d}.mp4", fps)
    captions = [pair.prompt.text for pair in scored.pairs]
    contact_sheet(list(scored.videos), captions, folder / "contact_sheet.png")
    listed = [
        {
            "prompt": pair.prompt.text,
            "seed": pair.seed,
            "scores": {name: round(float(values[index]), 6) for name, values in scored.scores.items()},
            **_picture(pair, folder),
        }
        for index, pair in enumerate(scored.pairs)
    ]
    with replacing(folder / "prompts.json") as beside:
        beside.write_text(json.dumps(listed, indent=1, ensure_ascii=False), encoding="utf-8")


def _picture(pair: Pair, folder: Path) -> dict[str, str]:
    """A small copy of the picture that the clip starts from, for the run's page."""
    from vader_core.pictures import small_copy

    return {} if pair.prompt.image is None else {"picture": small_copy(pair.prompt.image, folder)}
