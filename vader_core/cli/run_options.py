"""Every option of a run: its key, who owns and checks it, and the file in which it takes effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vader_core.method.options import RewardGradientOptions
from vader_core.run.config import RunConfig, SeamSection

#: Section -> (owner, the file where its options take effect).
_OWNERS: dict[str, tuple[str, str]] = {
    "backbone": ("registry", "assembly/prepare.py"),
    "video": ("backbone", "assembly/resolve.py"),
    "sampler": ("sampler", "assembly/prepare.py"),
    "rollout": ("sampler", "method/model.py"),
    "objective": ("objective", "assembly/prepare.py"),
    "objective.reward_gradient": ("objective", "method/reward_gradient.py"),
    "reward": ("assembly", "assembly/loading.py"),
    "monitor": ("assembly", "assembly/loading.py"),
    "prompts": ("prompt source", "assembly/prepare.py"),
    "data": ("data", "assembly/data.py"),
    "tuning": ("tuning", "assembly/loading.py"),
    "lora": ("lora", "assembly/parts.py"),
    "trainer": ("training", "training/optimizer.py"),
    "performance": ("performance", "assembly/levers.py"),
    "parallel": ("parallel", "parallel/shard.py"),
    "validation": ("evaluation", "training/validator.py"),
    "run": ("run", "training/trainer.py"),
    "stages": ("run", "run/stages.py"),
    "stages.N.seam": ("run", "training/seam.py"),
}

#: Options whose file is not their section's.
_FILES = {
    "prompts.negative_prompt": "assembly/parts.py",
    "lora.dropout": "lora/adapter.py",
    "lora.start": "assembly/loading.py",
    "rollout.lora": "assembly/loading.py",
    "trainer.batch_size": "training/batches.py",
    "trainer.accumulate": "training/batches.py",
    "trainer.global_batch": "parallel/layout.py",
    "trainer.max_steps": "training/trainer.py",
    "trainer.precision": "assembly/resolve.py",
    "trainer.seed": "randomness.py",
    "trainer.lr_schedule": "training/learning_rate.py",
    "trainer.warmup_steps": "training/learning_rate.py",
    "trainer.ema": "training/average.py",
    "trainer.nonfinite_limit": "training/trainer.py",
    "trainer.device": "assembly/resolve.py",
    "performance.gradient_checkpointing": "nn/recompute.py",
    "performance.compile_blocks": "performance/compile_blocks.py",
    "performance.cuda_graphs": "performance/cuda_graphs.py",
    "performance.fused_kernels": "nn/functional.py",
    "performance.fold_adapter": "performance/fold_adapter.py",
    "performance.fp8": "performance/fp8.py",
    "performance.offload": "performance/offload.py",
    "performance.offload_activations": "performance/offload_activations.py",
    "performance.swap_blocks": "performance/swap_blocks.py",
    "performance.guidance_interval": "method/shortcuts.py",
    "performance.guidance_cache": "method/shortcuts.py",
    "performance.feature_cache": "nn/feature_cache.py",
    "parallel.context": "parallel/context.py",
    "parallel.timeout": "training/processes.py",
    "validation.prompts": "evaluation/validation.py",
    "validation.seeds": "evaluation/validation.py",
    "validation.batch": "evaluation/validation.py",
    "validation.guard": "training/trainer.py",
    "validation.monitor_limit": "evaluation/watch.py",
    "run.trackers": "run/tracking.py",
}


#: Sections of several items -> what stands for one of them in a key.
_ITEMS = {"reward": "NAME", "monitor": "NAME", "objective": "NAME", "stages": "N"}


@dataclass(frozen=True)
class RunOption:
    """One option of a run.

    Args:
        key: As ``-o`` and the run's YAML write it.
        field: Its type, default and description.
        owner: Who checks it.
        file: Where it takes effect, below ``vader_core``.
    """

    key: str
    field: FieldInfo
    owner: str
    file: str


def run_options() -> Iterator[RunOption]:
    """Every option that a run has without those of its components, but for the reward gradient's."""
    for section, found in RunConfig.model_fields.items():
        model = _model(found.annotation)
        place = f"{section}.{_ITEMS[section]}" if section in _ITEMS else section
        for name, field in model.model_fields.items():
            yield _option(f"{place}.{name}", section, field)
    for name, field in SeamSection.model_fields.items():
        yield _option(f"stages.N.seam.{name}", "stages.N.seam", field)
    for name, field in RewardGradientOptions.model_fields.items():
        yield _option(f"objective.reward_gradient.{name}", "objective.reward_gradient", field)


def _option(key: str, section: str, field: FieldInfo) -> RunOption:
    owner, file = _OWNERS[section]
    return RunOption(key, field, owner, _FILES.get(key, file))


def _model(annotation: Any) -> type[BaseModel]:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    raise AssertionError(f"a section without options: {annotation}")
