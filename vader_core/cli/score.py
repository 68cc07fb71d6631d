"""``vader score``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from vader_core.cli import completion
from vader_core.cli.console import console
from vader_core.cli.devices import Device
from vader_core.cli.help import GroupedCommand
from vader_core.cli.paths import EnteredPath
from vader_core.errors import VaderError

if TYPE_CHECKING:
    from vader_core.registry import Registry


@click.command(
    "score",
    cls=GroupedCommand,
    examples=(
        'vader score clip.mp4 --reward hps --prompt "a red boat"',
        "vader score runs/demo/samples/step-000012 --reward demo_aesthetic",
    ),
)
@click.argument("videos", metavar="VIDEO...", nargs=-1, type=EnteredPath(), required=True)
@click.option(
    "--reward",
    "rewards",
    multiple=True,
    required=True,
    metavar="NAME",
    shell_complete=completion.names("reward"),
    help="Score with it (repeat); also FILE.py:FUNCTION.",
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help="What the videos show: once for all, or once for each.",
)
@click.option(
    "--reward-frames",
    default="all",
    show_default=True,
    metavar="FRAMES",
    help="random, random:N, first, middle, last, fml, alternate, all or an index.",
)
@click.option("--device", type=Device(), help="Where the rewards are computed.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of rewards that draw.")
@click.option(
    "-o", "options", multiple=True, metavar="KEY=VALUE", help="reward.NAME.K=VALUE; see `vader show`."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool, **flags: Any) -> None:
    """Score video files with rewards: mp4, gif, a picture, a folder of clips, or a folder of pictures.

    Without --prompt, a clip of a run's samples folder is given the prompt it was made for.
    """
    from vader_core.registry import load_registry

    found = scores(flags, load_registry())
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)


def scores(flags: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """One entry per video: its path, its prompt and its scores."""
    from vader_core.api.score import score
    from vader_core.cli.overrides import apply_options, parse_reward
    from vader_core.cli.progress import PhaseLine

    names = [parse_reward(text, registry, "--monitor")["name"] for text in flags["rewards"]]
    if len(set(names)) != len(names):
        raise VaderError("a --reward is given twice")
    tree = apply_options({"reward": [{"name": name} for name in names]}, flags["options"])
    options = {
        item["name"]: {key: one for key, one in item.items() if key != "name"} for item in tree["reward"]
    }
    with PhaseLine() as progress:
        return score(
            flags["videos"],
            names,
            prompts=flags["prompts"],
            reward_frames=flags["reward_frames"],
            options=options,
            device=flags["device"],
            seed=flags["seed"],
            registry=registry,
            progress=progress,
        )


def _print(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    names = list(found["videos"][0]["scores"])
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("video", "prompt", *names):
        table.add_column(column, justify="right" if column in names else "left", overflow="fold")
    for item in found["videos"]:
        table.add_row(
            escape(item["video"]),
            escape(item["prompt"]) or "[dim]none[/]",
            *(f"{item['scores'][name]:.4f}" for name in names),
        )
    if len(found["videos"]) > 1:
        means = [
            sum(item["scores"][name] for item in found["videos"]) / len(found["videos"]) for name in names
        ]
        table.add_row("[bold]mean[/]", "", *(f"[bold]{mean:.4f}[/]" for mean in means))
    console().print(table)
