"""``vader score``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vader_core.errors import VaderError

if TYPE_CHECKING:
    from vader_core.registry import Registry


@click.command("score")
@click.argument("videos", metavar="VIDEO...", nargs=-1, type=click.Path(path_type=Path), required=True)
@click.option(
    "--reward", "rewards", multiple=True, required=True, metavar="NAME", help="Score with it (repeat)."
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
    metavar="F",
    help="random, random:N, first, middle, last, fml, alternate, all or an index.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="By default the GPU where there is one.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of rewards that draw.")
@click.option(
    "-o", "options", multiple=True, metavar="KEY=VALUE", help="reward.NAME.K=VALUE; see `vader show`."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool, **flags: Any) -> None:
    """Score video files with rewards: mp4, gif, a picture, or a folder of pictures.

    Without --prompt, a clip of a run's samples folder is given the prompt it was made for.
    """
    from vader_core.registry import load_registry

    found = scores(flags, load_registry())
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found, list(flags["rewards"]))


def scores(flags: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """One entry a video: its path, its prompt and its scores.

    Raises:
        VaderError: An unknown reward, a file that cannot be read, prompts that do not go with the videos.
    """
    from vader_core.cli.overrides import apply_options
    from vader_core.run.config import validated

    names: tuple[str, ...] = flags["rewards"]
    if len(set(names)) != len(names):
        raise VaderError("a --reward is given twice")
    tree = apply_options({"rewards": [{"name": name} for name in names]}, flags["options"])
    components = [(item, registry.get("reward", item.name)) for item in validated(tree).rewards]
    for item, component in components:
        component.options(item.options)
    prompts = _prompts(flags["videos"], flags["prompts"])

    import torch

    from vader_core.method.frames import check_choice
    from vader_core.method.mixture import Mixture, Term
    from vader_core.prompts import Prompt
    from vader_core.randomness import Randomness
    from vader_core.video import read_video

    if flags["device"] == "cuda" and not torch.cuda.is_available():
        raise VaderError("--device cuda: no CUDA device is available here; use cpu, or see `vader doctor`")
    device = torch.device(flags["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
    terms = [
        Term(item.name, component.make(item.options, device=device, dtype=torch.float32))
        for item, component in components
    ]
    mixture = Mixture(tuple(terms))
    found = []
    for path, text in zip(flags["videos"], prompts, strict=True):
        video = read_video(path)
        check_choice(flags["reward_frames"], len(video))
        rng = Randomness(flags["seed"])
        frames = mixture.choose_frames(flags["reward_frames"], len(video), rng)
        seen = video[list(frames.union)].unsqueeze(0).to(device)
        with torch.no_grad():
            output = mixture(seen, frames, [Prompt(text)], rng)
        values = {name: float(score[0]) for name, score in output.scores.items()}
        found.append({"video": str(path), "prompt": text, "scores": values})
    return {"videos": found}


def _prompts(videos: tuple[Path, ...], given: tuple[str, ...]) -> list[str]:
    if len(given) > 1 and len(given) != len(videos):
        raise VaderError(
            f"{len(given)} prompts, but {len(videos)} videos: give --prompt once for all, or once for each"
        )
    if given:
        return list(given) if len(given) > 1 else list(given) * len(videos)
    return [_own_prompt(path) for path in videos]


def _own_prompt(path: Path) -> str:
    """The prompt that a run noted for a clip of its samples folder; empty for any other file."""
    listed = path.parent / "prompts.json"
    if not (path.stem.isdigit() and listed.is_file()):
        return ""
    try:
        entries = json.loads(listed.read_text(encoding="utf-8"))
        return str(entries[int(path.stem)]["prompt"])
    except (ValueError, LookupError, TypeError):
        return ""


def _print(found: dict[str, Any], names: list[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

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
    Console(highlight=False).print(table)
