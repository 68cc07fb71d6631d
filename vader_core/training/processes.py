"""One process or several."""

from __future__ import annotations

from datetime import timedelta

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from vader_core.errors import MissingDependencyError
from vader_core.run.config import RunConfig
from vader_core.run.directory import Run


def make_accelerator(config: RunConfig, run: Run | None) -> Accelerator:
    """The accelerator of a run; with a run directory it also carries the trackers."""
    trainer = config.trainer
    precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[str(trainer.precision)]
    trackers: list[str] = list(trainer.trackers) if run is not None else []
    if "wandb" in trackers:
        _require_wandb()
    return Accelerator(
        mixed_precision=precision,
        cpu=trainer.device == "cpu",
        log_with=trackers or None,
        project_dir=str(run.folder) if run is not None else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=4))],
    )


def _require_wandb() -> None:
    from importlib.util import find_spec

    if find_spec("wandb") is None:
        raise MissingDependencyError("wandb", "trainer.trackers=[wandb]", "pip install wandb")
