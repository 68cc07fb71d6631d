"""``vader check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vader_core.errors import VaderError
from vader_core.registry import Kind, Registry, load_registry

if TYPE_CHECKING:
    from vader_core.testing.conformance import Report, Subject
    from vader_core.testing.probe import Probe

#: What the command line calls the kinds.
KINDS: dict[str, Kind] = {
    "backbone": "backbone",
    "sampler": "sampler",
    "reward": "reward",
    "prompts": "prompt source",
}


@click.command("check")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name")
@click.option(
    "-o", "options", multiple=True, metavar="KEY=VALUE", help="An option of the component, as in a run."
)
@click.option("--height", type=int, help="Pixels of the videos; 64 for a reward.")
@click.option("--width", type=int, help="Pixels of the videos; 64 for a reward.")
@click.option("--num-frames", help="Frames of the videos (backbones).")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where it lives."
)
@click.option(
    "--prompt", default="a red boat on a river", show_default=True, help="For --video and --saliency."
)
@click.option(
    "--video", type=click.Path(path_type=Path), help="Measure the reward on this clip, not on patterns."
)
@click.option(
    "--saliency", type=click.Path(path_type=Path), help="Write an mp4 of where the reward looks (rewards)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**flags: Any) -> None:
    """Hold a component against every clause of its contract.

    For a reward it also tells the gradient's norm at the pixels and the score under small shifts, blur and
    brightness. Exit code 2 when a clause is broken.
    """
    check_command(flags, load_registry())


def check_command(flags: dict[str, Any], registry: Registry) -> None:
    """The command, over a given registry."""
    from vader_core.testing.conformance import examine

    kind, name = KINDS[flags["kind"]], flags["name"]
    _refuse_misplaced(kind, flags)
    options = options_of(flags["kind"], name, flags["options"])
    subject, contract = _subject(kind, name, options, flags, registry)
    report = examine(contract, subject)
    found = _probed(subject, flags) if kind == "reward" and report.passed else None
    if flags["as_json"]:
        click.echo(json.dumps(_as_dict(report, found), indent=1))
    else:
        for line in report.lines():
            click.echo(line)
        for line in found.lines() if found else ():
            click.echo(line)
        if flags["saliency"] and found:
            click.echo(f"wrote {flags['saliency']}")
    report.require()


def _refuse_misplaced(kind: Kind, flags: dict[str, Any]) -> None:
    allowed = {
        "backbone": ("height", "width", "num_frames"),
        "reward": ("height", "width", "video", "saliency"),
    }
    for flag in ("height", "width", "num_frames", "video", "saliency"):
        if flags[flag] is not None and flag not in allowed.get(kind, ()):
            raise VaderError(f"--{flag.replace('_', '-')} means nothing for a {kind}: leave it out")


def options_of(kind: str, name: str, given: tuple[str, ...]) -> dict[str, Any]:
    """The component's options out of ``-o KEY=VALUE``, in the words of a run.

    Raises:
        VaderError: A key of another component.
    """
    from vader_core.cli.overrides import parse_value

    prefix = f"reward.{name}." if kind == "reward" else f"{kind}."
    options = {}
    for option in given:
        key, equals, text = option.partition("=")
        if not equals or not key.startswith(prefix):
            raise VaderError(f"-o {option}: here an option is written -o {prefix}KEY=VALUE")
        options[key.removeprefix(prefix)] = parse_value(text)
    return options


def _subject(
    kind: Kind, name: str, options: dict[str, Any], flags: dict[str, Any], registry: Registry
) -> tuple[Subject, Any]:
    if kind == "backbone":
        from vader_core.geometry import GeometryRequest
        from vader_core.testing import backbones

        request = GeometryRequest(flags["height"], flags["width"], flags["num_frames"])
        return (
            backbones.backbone_subject(
                name, options, geometry=request, registry=registry, device=flags["device"]
            ),
            backbones.BACKBONE,
        )
    if kind == "reward":
        from vader_core.testing import rewards

        subject = rewards.reward_subject(
            name,
            options,
            height=flags["height"] or 64,
            width=flags["width"] or 64,
            registry=registry,
            device=flags["device"],
        )
        return subject, rewards.REWARD
    if kind == "sampler":
        from vader_core.testing import samplers

        return samplers.sampler_subject(name, options, registry=registry), samplers.SAMPLER
    from vader_core.testing import prompt_sources

    return (
        prompt_sources.prompt_source_subject(name, options, registry=registry),
        prompt_sources.PROMPT_SOURCE,
    )


def _probed(subject: Any, flags: dict[str, Any]) -> Probe:
    from vader_core.prompts import Prompt
    from vader_core.testing.probe import frames_for, probe, saliency
    from vader_core.video import read_video, write_video

    reward = subject.held()
    whole = read_video(flags["video"]) if flags["video"] else subject.video(batch=1)[0]
    video = frames_for(reward, whole).to(subject.device)
    found = probe(reward, video, Prompt(flags["prompt"]))
    if flags["saliency"]:
        if found.gradient is None:
            raise VaderError(f"reward {reward.name!r} has no gradient: --saliency has nothing to show")
        write_video(saliency(video, found.gradient).cpu(), flags["saliency"], fps=8.0)
    return found


def _as_dict(report: Report, found: Probe | None) -> dict[str, Any]:
    clauses = [
        {"clause": finding.clause.name, "passed": finding.passed, "found": finding.found}
        for finding in report.findings
    ]
    tree: dict[str, Any] = {"subject": report.subject, "passed": report.passed, "clauses": clauses}
    if found is not None:
        tree["score"] = found.score
        tree["gradient_norm"] = found.gradient_norm
        tree["changed"] = found.changed
    return tree
