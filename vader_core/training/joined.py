"""The processes of a run find each other, and agree on what they were asked."""

from __future__ import annotations

from pathlib import Path

from vader_core import __version__
from vader_core.assembly.parts import Assembly
from vader_core.errors import VaderError
from vader_core.run.config import RunConfig, validated
from vader_core.run.layers import changes, to_yaml
from vader_core.training.processes import SingleProcess, join_processes
from vader_core.values import read_document


def join(assembly: Assembly) -> SingleProcess:
    """The processes that train the run together."""
    config = assembly.config
    return join_processes(
        assembly.device,
        loss_scale=config.trainer.precision == "fp16",
        shard=config.parallel.shard,
        context=config.parallel.context,
        timeout=60 * config.parallel.timeout,
    )


def agree(processes: SingleProcess, config: RunConfig, folder: Path) -> None:
    """Refuse processes that were started with different words: they would go on apart, or wait for ever.

    Raises:
        VaderError: Naming what differs.
    """
    for rank, (theirs, version, place) in enumerate(
        processes.gather((to_yaml(config), __version__, str(folder)))
    ):
        if rank == 0:
            first = (theirs, version, place)
            continue
        different = changes(validated(read_document(first[0])), validated(read_document(theirs)))
        if version != first[1]:
            different.append(f"vader-core: {first[1]} -> {version}")
        if place != first[2]:
            different.append(f"--out: {first[2]} -> {place}")
        if different:
            raise VaderError(
                f"the processes were started with different options, process {rank} not as process 0: "
                f"{'; '.join(different)}. Start all of them with one command"
            )
