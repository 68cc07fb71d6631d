"""The texts of a run, encoded once before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from vader_core.assembly.parts import Assembly
from vader_core.data.latents import TEXT
from vader_core.evaluation.comparison import evaluation_pairs
from vader_core.evaluation.validation import own_share, validation_pairs
from vader_core.paths import entered
from vader_core.prompts import Prompt
from vader_core.training.batches import own_samples
from vader_core.training.processes import SingleProcess

#: Texts that the encoder is given at once.
_TEXTS_AT_ONCE = 16


def encode_up_front(assembly: Assembly, processes: SingleProcess, before: int = 0) -> None:
    """Encode every prompt that this process will ask for, then let the text encoder leave the device.

    Prompts are a pure function of the index, so all of them are known; each distinct text is encoded once.

    Args:
        assembly: With the backbone loaded.
        processes: Say which samples are this one's.
        before: Optimizer steps of the stages before this run.
    """
    trainer, validation = assembly.config.trainer, assembly.config.validation
    cached = assembly.config.data.source or ""
    if cached.startswith("cache:"):
        assembly.backbone.text_cache.directory = entered(cached.removeprefix("cache:")) / TEXT
    needs = assembly.objective.needs if assembly.objective is not None else frozenset()
    # An encoder in pieces is everyone's work at every text.
    here = (0, 1) if assembly.config.parallel.shard_text_encoders else processes.here
    prompts: list[Prompt] = []
    if needs != {"videos"}:
        rank, world = here
        rounds = range(before * trainer.accumulate, (before + trainer.max_steps) * trainer.accumulate)
        size = trainer.batch_size * (processes.count if world == 1 else 1)
        mine = [index for one in rounds for index in own_samples(one, rank, world, size)]
        prompts += assembly.draw_prompts(mine)
    if "videos" in needs:
        prompts += assembly.with_negative(list(assembly.videos.source.clips()))
        prompts += assembly.with_negative([prompt for prompt, _ in assembly.videos.held_out])
    if validation.prompts:
        prompts += [pair.prompt for pair in own_share(validation_pairs(assembly), *here)[0]]
    if validation.evaluation_pairs:
        pairs = evaluation_pairs(assembly, validation.evaluation_pairs)
        prompts += [pair.prompt for pair in own_share(pairs, *here)[0]]
    encode_each(assembly, prompts)
    assembly.backbone.release_text_encoder()


def encode_each(assembly: Assembly, prompts: Sequence[Prompt]) -> None:
    """Encode each distinct text once; the backbone keeps what it made."""
    distinct = list({(prompt.text, prompt.negative): prompt for prompt in prompts}.values())
    for start in range(0, len(distinct), _TEXTS_AT_ONCE):
        assembly.progress("encoding texts", start, len(distinct))
        assembly.backbone.encode_text(distinct[start : start + _TEXTS_AT_ONCE])
