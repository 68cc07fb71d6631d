"""A plan in the words of a person: the same on the command line and on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vader_core.progress import counted
from vader_core.registry import Component, Registry, load_registry
from vader_core.run.config import RunConfig
from vader_core.wanted import file_facts, files_read, size_words, total_words


def plan_words(
    config: RunConfig, facts: Mapping[str, Any], out: str | Path, *, registry: Registry | None = None
) -> list[tuple[str, str]]:
    """What a person wants to know of a plan, each with its label; of a run in stages, one after the other.

    Args:
        config: What was planned.
        facts: What :func:`~vader_core.api.plan` found.
        out: Where the run would be written.
        registry: Where the components come from; the installed plugins by default.

    Returns:
        Labels of at most eight letters, and texts of one line or more.
    """
    registry = registry or load_registry()
    found: list[tuple[str, str]] = []
    for number, one in enumerate(facts.get("stages", [facts]), 1):
        found += [*known_words(config, {**one, "number": number}, out, registry), memory_words(one)]
    return found


def known_words(
    config: RunConfig, facts: Mapping[str, Any], out: str | Path, registry: Registry
) -> Iterator[tuple[str, str]]:
    """All but the memory, which takes long to estimate: of a run, or of one stage.

    Args:
        config: What was planned.
        facts: Of the run, or of a stage with its ``number``.
        out: Where the run would be written.
        registry: Where the components come from.
    """
    if "stage" in facts:
        yield "stage", f"{facts['number']}: {facts['stage']}"
    yield from _lines({**facts, "out": str(out), "files": wanted_files(config, registry)})


def memory_words(facts: Mapping[str, Any]) -> tuple[str, str]:
    """The line that comes last: what memory the run, or the stage, will ask for."""
    return "memory", _memory(facts)


def wanted_files(config: RunConfig, registry: Registry) -> list[dict[str, Any]]:
    """The files that the run's components would read from the hub, and whether they are here."""
    return [
        {"for": str(component), **file_facts(wanted)}
        for component, options in components_of(config, registry)
        for wanted in files_read(component, options)
        if not wanted.optional
    ]


def components_of(config: RunConfig, registry: Registry) -> Iterator[tuple[Component, Mapping[str, Any]]]:
    """Every component of a run that may want files, with its options."""
    if config.backbone.name is not None:
        yield registry.get("backbone", config.backbone.name), config.backbone.options
    for item in (*config.reward, *config.monitor):
        yield registry.get("reward", item.name), item.options
    source = config.prompts.source
    if source is not None and source in registry.components["prompt source"]:
        yield registry.get("prompt source", source), config.prompts.options


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", f"{facts['backbone']} · {facts['video']} · {facts['sampler']}"
    rewards, gradient = facts["rewards"], facts["gradient"]
    taught = [f"reward {rewards}"] if rewards else []
    taught += [facts["objective"]] if not rewards or "," in facts["objective"] else []
    taught += [f"gradient {gradient}"] if gradient else []
    taught += [f"monitors {facts['monitors']}"] if facts["monitors"] != "none" else []
    yield "learns", " · ".join(taught)
    kind = f"{counted(facts['trainable_parameters'], 'parameter')}"
    kind += f" of a LoRA in {counted(facts['lora_modules'], 'module')}" if facts["lora_modules"] else ""
    yield "trains", f"{kind}, beside {facts['denoiser_parameters']:,} of the model"
    steps = f"{counted(facts['steps'], 'step')} of {counted(facts['effective_batch'], 'video')}"
    yield "steps", f"{steps} · {counted(facts['reward_queries'], 'reward query')}"
    yield "prompts", f"{facts['prompts']}{_held_out(facts)}{_unread(facts)}"
    if "data" in facts:
        from vader_core.data.summary import from_dict

        yield "clips", from_dict(facts["data"]).table()
    yield "device", f"{facts['device']}, {facts['precision']}"
    yield "time", "not known before the first steps: `vader bench` with the same options measures them"
    yield "files", _files(facts["files"])
    yield "writes", facts["out"]


def _held_out(facts: Mapping[str, Any]) -> str:
    """What is held out, where the source says so.

    >>> _held_out({"held_out_prompts": 2}), _held_out({"held_out_prompts": None})
    (' (2 of them held out)', '')
    """
    number = facts["held_out_prompts"]
    if number is None:
        return ""
    return f" ({number:,} of them held out)" if number else " (none held out: validated on those trained on)"


def _unread(facts: Mapping[str, Any]) -> str:
    """That the prompts were not looked at, where their files are still to be fetched."""
    return "" if facts.get("prompts_read", True) else " (not read: their files are not here yet)"


def _memory(facts: Mapping[str, Any]) -> str:
    if "estimate" in facts:
        return f"the estimate is {facts['estimate']}"
    if "estimated_peak_gib" not in facts:
        return "estimated for a CUDA device alone"
    peak = max(facts["estimated_peak_gib"], facts["estimated_loading_gib"])
    phases = ", ".join(f"{name} {gib:.1f}" for name, gib in facts["estimated_phases_gib"].items())
    lines = [f"{peak:.1f} GiB ({facts['estimated_for']}), by phase: {phases}"]
    if "estimated_validation_gib" in facts:
        lines.append(f"validation {facts['estimated_validation_gib']:.1f} GiB")
    lines += [facts["memory"]] if "memory" in facts else []
    return "\n".join(lines)


def _files(files: list[dict[str, Any]]) -> str:
    if not files:
        return "none from the hub"
    missing = [facts for facts in files if not facts["path"]]
    if not missing:
        return f"all {len(files)} are here" if len(files) > 1 else "its one file is here"
    lines = [f"{counted(len(missing), 'file')} to fetch: {total_words(missing)}"]
    for facts in missing:
        name = "/".join(part for part in (facts["repository"], facts["file"]) if part)
        about = (
            size_words(facts["size"], facts["numbers"]),
            facts["licence"] or "licence not known",
            facts["note"],
        )
        lines.append(f"{facts['for']}: {name} ({'; '.join(part for part in about if part)})")
    return "\n".join(lines)
