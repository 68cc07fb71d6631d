"""Starts a command once per device, watches the processes, and ends them all when one fails.

The processes are torchrun's kin: they find the same variables, and a store of the launcher's that outlives
them. Several machines are torchrun's own work.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from subprocess import Popen
from types import FrameType

import click

from vader_core.parallel.news import LAUNCHED
from vader_core.training.signals import ECHO

#: What each process runs, given the command's words as one JSON list.
MODULE = "vader_core.cli.launched"
#: Seconds that the others have to end by themselves after one failed.
GRACE = 10.0
#: Seconds between two looks at the processes.
_LOOK = 0.05


class Launcher:
    """The processes of one command.

    Args:
        arguments: The command's words, without ``vader``.
        count: How many processes.
        environment: What each finds beside its rank.
        resume: How a person continues the run.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        count: int,
        environment: Mapping[str, str],
        resume: str,
    ) -> None:
        from torch._C._distributed_c10d import TCPStore

        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.count, self.resume = count, resume
        # As one word: no launcher or interpreter may take --monitor and others for options of its own.
        command = [sys.executable, "-m", MODULE, json.dumps(list(arguments))]
        #: Those that we ended ourselves, whose end says nothing.
        self._ended: set[int] = set()
        self._asked: int | None = None
        self._asked_at = 0.0
        self.processes = [
            # Away from the terminal's Ctrl-C, which would reach each of them beside what we hand on.
            Popen(command, env=self._environment(environment, rank), start_new_session=True)
            for rank in range(count)
        ]

    def _environment(self, common: Mapping[str, str], rank: int) -> dict[str, str]:
        own = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": self.count,
            "LOCAL_WORLD_SIZE": self.count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": self._store.port,
            "TORCHELASTIC_USE_AGENT_STORE": True,
            LAUNCHED: os.getpid(),
        }
        return {**common, **{name: str(value) for name, value in own.items()}}

    # -- until they are over -----------------------------------------------------------------------------

    def run(self) -> int:
        """Wait for all of them; the exit code of the command.

        A first Ctrl-C or SIGTERM is handed on, so that the step ends and a checkpoint is written; a second
        one ends everything.
        """
        failed: int | None = None
        since = 0.0
        with self._signals():
            while None in [process.poll() for process in self.processes]:  # each is asked
                if failed is None:
                    failed, since = self._first_failure(), time.monotonic()
                if failed is not None and time.monotonic() > since + GRACE:
                    self._kill()
                time.sleep(_LOOK)
        if failed is None:
            failed = self._first_failure()
        return self._code(failed)

    def _first_failure(self) -> int | None:
        """The process that failed of itself, rather than because of another; else any that failed."""
        stopped = None if self._asked is None else 128 + self._asked
        failed = [
            rank
            for rank, process in enumerate(self.processes)
            if process.returncode not in (None, 0, stopped)
        ]
        own = [rank for rank in failed if not self._is_lost(rank)]
        return next(iter(own or failed), None)

    def _is_lost(self, rank: int) -> bool:
        return rank in self._ended or bool(self._store.check([f"vader/0/lost/{rank}"]))

    def _code(self, failed: int | None) -> int:
        codes = [process.returncode for process in self.processes]
        if self._asked is not None and (failed is None or self._stopped(codes)):
            return 128 + self._asked
        if failed is None:
            return max(codes)
        code = codes[failed]
        if code < 0 and failed not in self._ended:
            name = signal.Signals(-code).name
            pid = self.processes[failed].pid
            why = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
            self._say(
                f"process {failed} of {self.count} (pid {pid}) was ended by {name}{why}; the run ended with "
                "it"
            )
            return 1
        if self._is_lost(failed):
            self._say(self._told(failed) or "the processes lost each other")
            return 1
        return code

    def _stopped(self, codes: Sequence[int]) -> bool:
        """Whether all ended as they were asked to, or were lost because others had."""
        assert self._asked is not None
        ends = {0, 128 + self._asked, -self._asked}
        return all(code in ends or self._is_lost(rank) for rank, code in enumerate(codes))

    def _told(self, rank: int) -> str:
        key = f"vader/0/lost/{rank}"
        if not self._store.check([key]):
            return ""
        return self._store.get(key).decode().partition(", so the run ends")[0] + ", so the run ended"

    def _say(self, message: str) -> None:
        click.echo(f"error: {message}; continue with: {self.resume}", err=True)

    # -- signals -----------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(signum: int, frame: FrameType | None) -> None:
            if self._asked is not None:
                if time.monotonic() > self._asked_at + ECHO:
                    self._kill()
                return
            self._asked, self._asked_at = signum, time.monotonic()
            for process in self.processes:
                if process.poll() is None:
                    process.send_signal(signum)

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._kill()

    def _kill(self) -> None:
        for rank, process in enumerate(self.processes):
            if process.poll() is None:
                self._ended.add(rank)
                process.kill()
