"""``vader check``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from vader_core.cli import completion
from vader_core.cli.devices import Device
from vader_core.cli.help import GroupedCommand
from vader_core.cli.overrides import parse_reward
from vader_core.cli.paths import EnteredPath
from vader_core.errors import VaderError
from vader_core.registry import KINDS, Kind, Registry, kind_called, load_registry, resolved

if TYPE_CHECKING:
    from vader_core.testing.conformance import Contract, Report
    from vader_core.testing.probe import Probe

#: Flags that not every kind has a use for.
_OWN_FLAGS = ("height", "width", "num_frames", "video", "saliency")


@click.command(
    "check",
    cls=GroupedCommand,
    examples=(
        "vader check reward my_reward.py:score",
        "vader check reward demo_aesthetic --saliency look.mp4",
    ),
)
@click.argument("kind", type=click.Choice([facts.word for facts in KINDS.values()]))
@click.argument("name", shell_complete=completion.names_of_kind)
@click.option(
    "-o", "options", multiple=True, metavar="KEY=VALUE", help="An option of the component, as in a run."
)
@click.option("--height", type=int, help="Pixels of the videos; 64 for a reward.")
@click.option("--width", type=int, help="Pixels of the videos; 64 for a reward.")
@click.option("--num-frames", help="Frames of the videos (backbones).")
@click.option("--device", type=Device(), default="cpu", show_default=True, help="Where it lives.")
@click.option(
    "--prompt", default="a red boat on a river", show_default=True, help="For --video and --saliency."
)
@click.option("--video", type=EnteredPath(), help="Measure the reward on this clip, not on patterns.")
@click.option("--saliency", type=EnteredPath(), help="Write an mp4 of where the reward looks (rewards).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**flags: Any) -> None:
    """Hold a component against every clause of its contract.

    For a reward it also tells the gradient's norm at the pixels and the score under small shifts, blur and
    brightness. Exit code 2 when a clause is broken.
    """
    check_command(flags, load_registry())


def check_command(flags: dict[str, Any], registry: Registry) -> None:
    """The command, over a given registry."""
    from vader_core.cli.progress import PhaseLine
    from vader_core.testing.conformance import examine

    kind, name = kind_called(flags["kind"]), flags["name"]
    if kind == "reward":
        name = parse_reward(name, registry, "--monitor")["name"]
    contract: Contract = resolved(KINDS[kind].clauses)
    _refuse_misplaced(contract, flags)
    subject = contract.subject(
        name,
        options_of(kind, name, flags["options"]),
        registry=registry,
        device=flags["device"],
        **contract.subject_class.settings(flags),
    )
    with PhaseLine() as progress:
        report = examine(contract, subject, progress)
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
        click.echo(report.verdict())
    report.require()


def _refuse_misplaced(contract: Contract, flags: dict[str, Any]) -> None:
    for flag in _OWN_FLAGS:
        if flags[flag] is not None and flag not in contract.subject_class.flags:
            raise VaderError(f"--{flag.replace('_', '-')} means nothing for a {contract.kind}: leave it out")


def options_of(kind: Kind, name: str, given: tuple[str, ...]) -> dict[str, Any]:
    """The component's options out of ``-o KEY=VALUE``, in the words of a run.

    Raises:
        VaderError: A key of another component.
    """
    from vader_core.values import parse_value

    prefix = KINDS[kind].key.format(name=name, option="")
    options = {}
    for option in given:
        key, equals, text = option.partition("=")
        if not equals or not key.startswith(prefix):
            raise VaderError(f"-o {option}: here an option is written -o {prefix}KEY=VALUE")
        options[key.removeprefix(prefix)] = parse_value(text)
    return options


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
