"""``vader`` with the testing plugin, for tests that start processes of their own.

    python vader_with_tiny.py train --backbone tiny …

With ``--num-processes`` the launched processes run this module too, and find their words as one JSON list.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from vader_core.cli import launcher, run
from vader_core.cli import train as train_module
from vader_core.cli.launched import end_with_the_launcher
from vader_core.parallel.news import LAUNCHED
from vader_core.registry import load_registry
from vader_core.testing.plugin import add_testing_plugin
from vader_core.training.trainer import Trainer


def with_tiny() -> None:
    """Let ``vader train`` know the testing plugin, here and in the processes that it starts."""
    registry = add_testing_plugin(load_registry())
    train_module.load_registry = lambda: registry  # type: ignore[attr-defined]
    launcher.MODULE = "vader_with_tiny"
    folder = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))


def misbehave() -> None:
    """What the environment asks of single processes: ``MISBEHAVE=RANK:STEP:WHAT``."""
    asked = os.environ.get("MISBEHAVE")
    if asked is None or asked.split(":")[0] != os.environ.get("RANK"):
        return
    step, what = int(asked.split(":")[1]), asked.split(":")[2]
    train_step = Trainer.train_step

    def wrong(self: Any) -> None:
        if self.step == step:
            if what == "hang":
                time.sleep(3600)
            if what == "raise":
                raise RuntimeError("a fault of the test's own")
            os.kill(os.getpid(), getattr(signal, what))
        train_step(self)

    Trainer.train_step = wrong  # type: ignore[method-assign]


if __name__ == "__main__":
    with_tiny()
    words = sys.argv[1:]
    if LAUNCHED in os.environ:
        end_with_the_launcher()
        words = json.loads(words[0])
    misbehave()
    sys.exit(run(words))
