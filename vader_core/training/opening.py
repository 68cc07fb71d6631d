"""How a run directory is opened: new, replaced or continued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from vader_core.errors import VaderError
from vader_core.run.config import RunConfig
from vader_core.run.directory import Run, is_run
from vader_core.run.layers import changes
from vader_core.run.tracking import Listener
from vader_core.training.processes import SingleProcess


class Opening:
    """How a run directory is opened.

    Args:
        folder: The directory.
        overwrite: Replace an existing run.
        resume: Continue the run; ``auto``: where there is one.
        allow_changes: Continue although the configuration differs.
    """

    def __init__(
        self, folder: Path, *, overwrite: bool, resume: bool | Literal["auto"], allow_changes: bool
    ) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.allow_changes = allow_changes
        #: How many processes there are.
        self.world = 1
        #: Whether a run is continued; known to all processes once the directory is open.
        self.resume = is_run(folder) if resume == "auto" else bool(resume)

    @contextmanager
    def opened(self, config: RunConfig, processes: SingleProcess, listener: Listener) -> Iterator[Run | None]:
        """Within, the first process holds the run directory; the others have ``None``.

        A new run that is refused before its first record leaves nothing behind.

        Raises:
            VaderError: It cannot be had, or is another's.
        """
        self.world = processes.layout.world
        run = self._run(config, listener) if processes.first else None
        try:
            self.resume = processes.from_first(self.resume)
            yield run
        except VaderError as error:
            if run is not None and not self.resume and error.exit_code == VaderError.exit_code:
                run.discard()
            raise
        finally:
            if run is not None:
                run.release()

    def _run(self, config: RunConfig, listener: Listener) -> Run:
        if not self.resume:
            return Run.create(self.folder, config, overwrite=self.overwrite, processes=self.world)
        run = Run.open(self.folder)
        try:
            self._agree(run, config, listener)
            self._agree_on_processes(run, config, self.world, listener)
        except BaseException:
            run.release()
            raise
        return run

    def _agree_on_processes(self, run: Run, config: RunConfig, world: int, listener: Listener) -> None:
        """Another number of processes is another batch, unless the global batch is fixed."""
        before = run.processes()
        if before == world:
            return
        if config.trainer.global_batch is None and not self.allow_changes:
            raise VaderError(
                f"--resume {self.folder}: the run had {before} processes, and now there are {world}: each "
                f"step would see another batch. Use --num-processes {before}, or give --allow-changes; with "
                "trainer.global_batch the number may change"
            )
        listener.say(f"continuing with {world} processes; before there were {before}")
        run.record(config, world)

    def _agree(self, run: Run, config: RunConfig, listener: Listener) -> None:
        """Refuse a configuration that is not the run's own, unless changes are allowed."""
        edited = changes(run.recorded(), run.config())
        different = changes(run.recorded(), config)
        longer = config.trainer.max_steps > run.recorded().trainer.max_steps
        if len(different) == 1 and longer and different[0].startswith("trainer.max_steps:"):
            listener.say(f"going on for longer: {different[0]}")
            run.record(config)
            return
        if different and not self.allow_changes:
            where = "config.yaml was edited since the run began" if edited else "asked for are other values"
            raise VaderError(
                f"--resume {self.folder}: the configuration is not the run's own ({where}): "
                f"{'; '.join(different)}. Leave the changes out, or give --allow-changes"
            )
        if different:
            listener.say("continuing with changes: " + "; ".join(different))
            run.record(config)
