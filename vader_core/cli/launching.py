"""One command in several processes: how many are asked for, and their start."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from vader_core.errors import VaderError
from vader_core.run.config import RunConfig


def processes_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--num-processes``."""
    words = "Number of processes, one per device."
    return click.option("--num-processes", type=int, metavar="N", help=words)(command)


def asked_processes(asked: int | None) -> int | None:
    """How many processes are asked for: by the flag, or by a launcher; ``None`` by neither.

    Args:
        asked: The flag's.

    Raises:
        VaderError: Less than one, or another number than a launcher started.
    """
    from vader_core.parallel.layout import started_together

    if asked is not None and asked < 1:
        raise VaderError(f"--num-processes {asked} is not allowed: use 1 or more")
    if "WORLD_SIZE" not in os.environ:
        return asked
    world = started_together()
    if asked is not None and world != asked:
        raise VaderError(
            f"--num-processes {asked}, but WORLD_SIZE={world} says that a launcher or a scheduler "
            f"started {world}: leave --num-processes out, or unset WORLD_SIZE, RANK and LOCAL_RANK"
        )
    return world


def is_to_launch(processes: int | None) -> bool:
    """Whether this process is the one that starts the others."""
    return processes is not None and processes > 1 and "WORLD_SIZE" not in os.environ


def is_first() -> bool:
    """Whether this process is the one that speaks: alone, or the first of several."""
    from vader_core.parallel.news import several

    return not several() or os.environ.get("RANK") == "0"


def launch(processes: int, config: RunConfig, arguments: Sequence[str], again: str) -> int:
    """Start the same command once per device; its exit code.

    Args:
        processes: How many.
        config: What was asked for.
        arguments: The command's words.
        again: How a person goes on after a failure.

    Raises:
        VaderError: They cannot share what they should, or there are fewer devices.
    """
    import torch

    from vader_core.cli.launcher import Launcher
    from vader_core.parallel.layout import Layout

    Layout(processes, config.parallel.shard, config.parallel.context).check()

    on_cpu = config.trainer.device == "cpu" or not torch.cuda.is_available()
    if not on_cpu and processes > torch.cuda.device_count():
        raise VaderError(
            f"--num-processes {processes}: there are {torch.cuda.device_count()} devices; use at most that "
            "many, or --device cpu (a run that had more processes goes on with fewer by --allow-changes)"
        )
    environment, cores = dict(os.environ), os.cpu_count() or 1
    if on_cpu:
        most = max(8, 2 * cores)
        if processes > most:
            raise VaderError(f"--num-processes {processes}: there are {cores} cores; use at most {most}")
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    return Launcher(arguments, processes, environment, again).run()
