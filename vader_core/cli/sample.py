"""``vader sample``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vader_core.cli.help import GroupedCommand
from vader_core.cli.launching import asked_processes, is_first, is_to_launch, launch, processes_option
from vader_core.cli.options import config_shared, lora_base, model_options
from vader_core.cli.overrides import parse_reward
from vader_core.cli.paths import EnteredPath
from vader_core.cli.progress import PhaseLine, clock
from vader_core.clip_forms import FORMS
from vader_core.progress import counted
from vader_core.registry import Registry, load_registry

#: More prompts than this are sampled only where somebody said which, or how many.
UNASKED = 64


@click.command(
    "sample",
    cls=GroupedCommand,
    examples=(
        "vader sample --lora runs/demo --max-prompts 8 --out clips",
        'vader sample --backbone demo --prompts "text:a red star spinning"',
    ),
)
@model_options
@click.option(
    "--lora",
    multiple=True,
    metavar="LORA[:SCALE]",
    help="A run directory, a PATH or hub:REPO[/FILE] (repeat to add several).",
)
@click.option(
    "--lora-scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Factor of the first LoRA; 0 is the base model.",
)
@click.option("--base", is_flag=True, help="Beside each clip, make the base model's from the same noise.")
@click.option("--reward", "rewards", multiple=True, metavar="NAME", help="Score every clip with it (repeat).")
@click.option(
    "--count",
    type=int,
    default=1,
    show_default=True,
    help="Videos per prompt, with the seeds --seed, --seed + 1, …",
)
@click.option("--max-prompts", type=int, help="Use at most this many prompts.")
@click.option("--batch-size", type=int, default=1, show_default=True, help="Videos sampled at once.")
@click.option(
    "--out",
    type=EnteredPath(),
    default=Path("samples"),
    show_default=True,
    help="Folder of the videos and their page.",
)
@click.option("--overwrite", is_flag=True, help="Replace videos in --out.")
@click.option(
    "--also", multiple=True, type=click.Choice(FORMS), help="Write each clip in this form too (repeat)."
)
@processes_option
def command(**flags: Any) -> int:
    """Sample videos from a base model, or from a tuned one with --lora.

    With --lora RUN the run's own settings hold, and flags change them. Every clip is written when it is done;
    the same command again makes what is missing. index.html in --out shows them.
    """
    arguments = (click.get_current_context().find_root().obj or {}).get("arguments", ())
    return sample_command({**flags, "arguments": arguments}, load_registry())


def sample_command(flags: dict[str, Any], registry: Registry) -> int:
    """The command, over a given registry."""
    lora: tuple[str, ...] = flags.pop("lora")
    size = flags.pop("batch_size")
    rewards = [parse_reward(text, registry, "--monitor")["name"] for text in flags.pop("rewards")]
    base = lora_base(lora[0] if lora else None, flags, registry)
    for section in ("reward", "monitor"):
        base.pop(section, None)
    config = config_shared(flags, registry, base=base)
    processes = asked_processes(flags["num_processes"])
    if processes is not None and is_to_launch(processes):
        return launch(processes, config, flags["arguments"], shlex.join(["vader", *flags["arguments"]]))

    from vader_core.api.sample import sample

    asked = flags["prompts"] is not None or flags["max_prompts"] is not None
    with ClipProgress(quiet=not is_first()) as progress:
        sample(
            config,
            out=flags["out"],
            lora=lora,
            lora_scale=flags["lora_scale"],
            count=flags["count"],
            max_prompts=flags["max_prompts"],
            most_prompts=None if asked else UNASKED,
            batch_size=size,
            rewards=rewards,
            base=flags["base"],
            keep_videos=False,
            overwrite=flags["overwrite"],
            also=flags["also"],
            registry=registry,
            listener=progress,
        )
    if is_first():
        click.echo(
            f"{counted(progress.made, 'video')} in {flags['out']}; page: {flags['out'] / 'index.html'}"
        )
    return 0


class ClipProgress(PhaseLine):
    """A live line: clips done, the step within the next, time per clip, time left."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self.made = 0
        self._clips = ""

    def __enter__(self) -> ClipProgress:
        super().__enter__()
        return self

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Not shown."""

    def phase(self, doing: str, done: int, total: int) -> None:
        """What is done before the first clip; from then on the clips say how far it is."""
        if not self._clips:
            self(doing, done, total)

    def record(self, record: Mapping[str, Any]) -> None:
        """Update the line; where it is no terminal, a line per clip."""
        if record["kind"] == "denoising" and self.console.is_terminal:
            self._status.update(f"{self._clips}step {record['step']}/{record['of']}")
        elif record["kind"] == "clip":
            self.made += 1
            left = record["seconds"] * (record["total"] - record["done"])
            done, pace = f"{record['done']}/{record['total']}", f"{record['seconds']:.2f} s per clip"
            self._clips = f"{done}  {pace}  {clock(left)} left  "
            self._status.update(self._clips)
            if not self.console.is_terminal:
                self.say(self._clips + record.get("entry", {}).get("file", ""))
