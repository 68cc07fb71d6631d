"""``vader train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vader_core.cli.help import GroupedCommand
from vader_core.cli.launching import asked_processes, is_to_launch, launch, processes_option
from vader_core.cli.options import (
    config_of,
    is_bare,
    model_options,
    reward_options,
    training_options,
)
from vader_core.cli.paths import EnteredPath
from vader_core.errors import VaderError
from vader_core.registry import Registry, load_registry
from vader_core.run.config import RunConfig
from vader_core.run.section import Tree

DEMO_RECIPE = "demo"
#: What ``--resume auto`` is read as.
AUTO = Path("auto")


class ResumePath(EnteredPath):
    """A run directory, or the word ``auto``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or :data:`AUTO`."""
        return AUTO if value == "auto" else super().convert(value, param, ctx)


@click.command(
    "train",
    cls=GroupedCommand,
    examples=(
        "vader train",
        "vader train --backbone opensora --reward pick_score --prompts animal --dry-run",
        "vader train --backbone demo --reward my_reward.py:score --monitor demo_alignment",
        "vader train --resume runs/demo --max-steps 24",
    ),
)
@model_options
@reward_options
@training_options
@click.option("--out", type=EnteredPath(), metavar="DIR", help="The run directory.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@click.option(
    "--resume",
    type=ResumePath(),
    metavar="RUN|auto",
    help="Continue a run exactly; `auto`: the one in --out where there is one, else begin it.",
)
@click.option("--allow-changes", is_flag=True, help="Resume with a changed configuration.")
@processes_option
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--quiet", is_flag=True, help="Print the result alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(**flags: Any) -> int:
    """Align a video model with rewards, or fit it to clips. Bare, it runs the demo."""
    arguments = (click.get_current_context().find_root().obj or {}).get("arguments", ())
    return train_command({**flags, "arguments": arguments}, load_registry())


def train_command(flags: dict[str, Any], registry: Registry) -> int:
    """The command, over a given registry."""
    if flags.get("quiet") and flags.get("as_json"):
        raise VaderError("--quiet and --json exclude each other: give one")
    out, config = _configuration(flags, registry)
    processes = _asked_processes(flags, out)
    if flags.get("dry_run"):
        return _print_plan(flags, config, out, registry, processes or 1)
    if processes is not None and is_to_launch(processes):
        return launch(processes, config, flags["arguments"], f"vader train --resume {out}")
    return _train(flags, config, out, registry)


def _asked_processes(flags: dict[str, Any], out: Path) -> int | None:
    """How many processes are asked for: by flag, by a launcher, or by the run that is continued."""
    from vader_core.run.directory import Run

    processes = asked_processes(flags.get("num_processes"))
    if processes is None and flags.get("resume") and (out / "config.yaml").is_file():
        return Run(out).processes()
    return processes


def _configuration(flags: dict[str, Any], registry: Registry) -> tuple[Path, RunConfig]:
    from vader_core.run.layers import default_out

    base: Tree = {}
    if flags.get("resume") is AUTO and flags.get("overwrite"):
        raise VaderError("--resume auto continues what --overwrite would replace: leave one out")
    if flags.get("resume") not in (None, AUTO):
        if flags.get("out") or flags.get("overwrite"):
            raise VaderError("--resume continues a run in its own folder: leave --out and --overwrite out")
        from vader_core.run.layers import read_yaml

        folder: Path = flags["resume"]
        if not (folder / "config.yaml").is_file():
            raise VaderError(
                f"--resume {folder}: not a run directory (it has no config.yaml); a run that was only "
                "begun starts again with its first command"
            )
        base = read_yaml(folder / "config.yaml")
        return folder, config_of(flags, registry, base=base)
    if is_bare(flags):
        _require_demo(registry)
        config = config_of({**flags, "recipe": DEMO_RECIPE}, registry)
        return flags.get("out") or Path("runs/demo"), config
    if not flags.get("backbone"):
        base = _implied_backbone(flags, registry)
    config = config_of(flags, registry, base=base)
    return flags.get("out") or default_out(config), config


def _implied_backbone(flags: dict[str, Any], registry: Registry) -> Tree:
    """The only backbone that is installed, or the demo where every reward is its own."""
    installed = list(registry.components["backbone"])
    names = [text.partition(":")[0] for text in flags.get("rewards") or ()]
    if "demo" in installed and names and all(name.startswith("demo_") for name in names):
        installed = ["demo"]
    return {"backbone": {"name": installed[0]}} if len(installed) == 1 else {}


def _require_demo(registry: Registry) -> None:
    from vader_core.recipe_files import recipe_files

    if DEMO_RECIPE not in recipe_files(registry):
        raise VaderError(
            "nothing to train: bare `vader train` runs the demo, which comes with vader-demo: "
            "pip install ./plugins/vader-demo. Or give --backbone and --reward (`vader plugins` lists what "
            "is installed)"
        )


def _print_plan(
    flags: dict[str, Any], config: RunConfig, out: Path, registry: Registry, processes: int
) -> int:
    from vader_core.cli.plan import plan_command

    plan_command(
        config,
        out,
        registry,
        processes=processes,
        as_json=bool(flags.get("as_json")),
    )
    return 0


def _restarted() -> bool:
    """Whether torch's launcher started this process again after a failure: the run goes on by itself."""
    from vader_core.parallel.news import attempt

    return attempt() > 0


def _train(flags: dict[str, Any], config: RunConfig, out: Path, registry: Registry) -> int:
    from vader_core.api.train import train
    from vader_core.cli.progress import make_listener
    from vader_core.run.stages import total_steps
    from vader_core.training.signals import StoppedError

    with make_listener(
        quiet=bool(flags.get("quiet")), as_json=bool(flags.get("as_json")), max_steps=total_steps(config)
    ) as listener:
        try:
            summary = train(
                config,
                out=out,
                overwrite=bool(flags.get("overwrite")),
                resume="auto" if flags.get("resume") is AUTO or _restarted() else bool(flags.get("resume")),
                allow_changes=bool(flags.get("allow_changes")),
                registry=registry,
                listener=listener,
            )
        except StoppedError as stopped:
            listener.say(f"{stopped}; continue with: vader train --resume {out}")
            return 128 + stopped.signum
        listener.finish(summary, out)
    return 0
