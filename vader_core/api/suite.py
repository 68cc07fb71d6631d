"""A suite of dimensions, judged on the base model and on a tuned one."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vader_core.api.open_model import open_assembly
from vader_core.assembly.levers import process_switches
from vader_core.assembly.parts import Assembly
from vader_core.errors import VaderError
from vader_core.evaluation.suite import Asked, Dimension, find_suite, read_asked
from vader_core.evaluation.validation import Pair, score_pairs
from vader_core.files import replacing
from vader_core.method.mixture import Mixture, Term
from vader_core.prompts import Prompt
from vader_core.registry import Registry, load_registry
from vader_core.report.suite_page import suite_page
from vader_core.run.config import PromptSection, RunConfig
from vader_core.run.layers import changed
from vader_core.video import write_video

#: What is compared, with the factor of the adapter.
MODELS = {"base": 0.0, "tuned": 1.0}
#: A file name holds at most so many bytes of a prompt.
_LONGEST_NAME = 180


def evaluate_suite(  # noqa: PLR0913 - what a person can ask for
    config: RunConfig,
    lora: str,
    suite: str,
    prompts: Path,
    *,
    dimensions: Sequence[str] = (),
    most_prompts: int | None = None,
    most_videos: int | None = None,
    clips: Path | None = None,
    batch_size: int | None = None,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Judge the base model and a tuned one by a suite: the same prompts, the same noise.

    Args:
        config: What was asked for; its own rewards and prompts are not used.
        lora: A run directory, a path or ``hub:REPO[/FILE]``.
        suite: Its name.
        prompts: The file of its prompts.
        dimensions: Some of its dimensions; all by default.
        most_prompts: Prompts per dimension at most, for a quick look.
        most_videos: Clips per prompt at most, likewise.
        clips: Folder for the clips, ``base/PROMPT-N.mp4`` and ``tuned/PROMPT-N.mp4``, and ``index.html``.
        batch_size: Clips sampled at once; the run's own by default.
        registry: Where the components come from; the installed plugins by default.

    Returns:
        ``dimensions``: for each the number of clips, the mean of base and tuned; ``left_out``: the others.

    Raises:
        VaderError: Anything that cannot be done, before anything heavy where possible.
    """
    registry = registry or load_registry()
    found = find_suite(suite, registry)
    chosen = found.chosen(dimensions)
    for flag, most in (("--most-prompts", most_prompts), ("--most-videos", most_videos)):
        if most is not None and most < 1:
            raise VaderError(f"{flag} must be 1 or more")
    asked = _fewer(read_asked(prompts, found, chosen), list(chosen), most_prompts)
    assembly = open_assembly(_without_prompts(config, batch_size), lora, registry)
    terms = _terms(assembly, chosen)
    counts = {name: min(one.videos, most_videos or one.videos) for name, one in chosen.items()}
    scores: dict[str, dict[str, list[float]]] = {}
    with process_switches(assembly.config):
        for model, factor in MODELS.items():
            with assembly.model.tuning.scaled(factor):
                scores[model] = _judged(assembly, asked, terms, counts, clips and clips / model)
    rows = {
        name: {"clips": len(scores["base"][name])}
        | {model: statistics.fmean(scores[model][name]) for model in MODELS}
        for name in chosen
    }
    result = {"suite": suite, "lora": lora, "dimensions": rows, "left_out": dict(found.left_out)}
    if clips is not None:
        with replacing(clips / "index.html") as beside:
            beside.write_text(suite_page(result), encoding="utf-8")
        with replacing(clips / "scores.json") as beside:
            beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _without_prompts(config: RunConfig, batch_size: int | None) -> RunConfig:
    """The same run without rewards of its own and with a placeholder for its prompts."""
    own = PromptSection(source="text:a video", negative_prompt=config.prompts.negative_prompt)
    config = changed(config, lora={"start": None})
    config = config.model_copy(update={"reward": [], "monitor": [], "prompts": own})
    return config if batch_size is None else changed(config, validation={"batch": batch_size})


def _fewer(asked: list[Asked], dimensions: Sequence[str], most: int | None) -> list[Asked]:
    """At most so many prompts of each dimension."""
    if most is None:
        return asked
    left = dict.fromkeys(dimensions, most)
    kept = []
    for one in asked:
        names = tuple(name for name in one.dimensions if left[name])
        for name in names:
            left[name] -= 1
        if names:
            kept.append(Asked(one.text, names))
    return kept


def _terms(assembly: Assembly, chosen: dict[str, Dimension]) -> dict[str, Term]:
    """The reward of each dimension; one that serves two is made once."""
    made: dict[str, Term] = {}
    found = {}
    for name, one in chosen.items():
        key = json.dumps([one.reward, dict(one.options)], sort_keys=True)
        if key not in made:
            component = assembly.registry.get("reward", one.reward)
            reward = component.make(dict(one.options), device=assembly.device, dtype=assembly.dtype)
            made[key] = Term(key, reward)
        found[name] = made[key]
    return found


def _judged(
    assembly: Assembly,
    asked: Sequence[Asked],
    terms: dict[str, Term],
    counts: dict[str, int],
    folder: Path | None,
) -> dict[str, list[float]]:
    """Each dimension's scores. A clip is sampled once, however many dimensions it serves."""
    scores: dict[str, list[float]] = defaultdict(list)
    most, size = max(counts.values()), assembly.config.validation.batch
    groups: dict[tuple[str, ...], list[Pair]] = defaultdict(list)
    for place, one in enumerate(asked):
        (prompt,) = assembly.with_negative([Prompt(one.text)])
        for seed in range(max(counts[name] for name in one.dimensions)):
            served = tuple(name for name in one.dimensions if seed < counts[name])
            groups[served].append(Pair(prompt, seed, place * most + seed))
    for names, pairs in groups.items():
        mixture = Mixture(tuple({terms[name].name: terms[name] for name in names}.values()))
        for start in range(0, len(pairs), size):
            some = pairs[start : start + size]
            found = score_pairs(assembly, some, (mixture,), keep_videos=folder is not None, scope="suite")
            for name in names:
                scores[name] += found.scores[terms[name].name].tolist()
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                for pair, video in zip(some, found.videos, strict=True):
                    write_video(video, folder / clip_name(pair.prompt.text, pair.seed), assembly.geometry.fps)
    return scores


def clip_name(prompt: str, number: int) -> str:
    """VBench's name of a clip; what no file name may hold becomes a blank.

    >>> clip_name("a cat/dog", 2)
    'a cat dog-2.mp4'
    """
    plain = "".join(" " if letter in '/\\:*?"<>|\n\0' else letter for letter in prompt)
    return f"{plain.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{number}.mp4"
